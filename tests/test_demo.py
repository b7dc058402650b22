"""The embedded checkpoint, the script that makes it, and the demonstration on it."""

from __future__ import annotations

import importlib.resources
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.errors import OutputError, UsageError
from edgeseg.synthetic import Scene, scene_seeds
from edgeseg.workflows.demo import CHECKPOINT, demo

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from edgeseg.export import inspect, load  # noqa: E402
from edgeseg.export import train_demo as training  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return Path(str(importlib.resources.files("edgeseg") / "assets" / CHECKPOINT))


def test_the_embedded_checkpoint_is_a_small_segdino_v2_in_the_authors_format(
    checkpoint: Path,
) -> None:
    info = inspect(checkpoint)
    assert info.family == "segdino_v2"
    assert info.spelling == "meta"
    assert info.nested_under is None
    assert info.classes == 1
    assert info.size_bytes < 4_000_000
    state = torch.load(checkpoint, weights_only=True)
    assert all(key.split(".")[0] in ("backbone", "decoder") for key in state)
    for key in (
        "backbone.storage_tokens",
        "backbone.mask_token",
        "backbone.rope_embed.periods",
        "backbone.blocks.0.attn.qkv.bias_mask",
        "backbone.blocks.5.ls2.gamma",
        "decoder.tpa_branch_1.conv.weight",
    ):
        assert key in state
    assert all(bool(torch.isfinite(v).all()) for v in state.values())


def test_the_embedded_checkpoint_finds_polyps_in_scenes_it_has_not_seen(checkpoint: Path) -> None:
    """PIL preprocessing and the family's formulation, as the authors' test script does it."""
    model = load(checkpoint).model
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scores = []
    for seed in scene_seeds(977, 40):
        frame, mask = Scene(seed, 240, 320).render(1.5)
        picture = Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
        small = np.asarray(picture.resize((256, 256), Image.Resampling.BILINEAR))
        image = ((small / 255.0 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
        truth = np.asarray(Image.fromarray(mask).resize((256, 256), Image.Resampling.NEAREST)) > 0
        with torch.inference_mode():
            found = model(torch.from_numpy(image))[0, 0].numpy() > 0
        total = np.count_nonzero(found) + np.count_nonzero(truth)
        scores.append(2 * np.count_nonzero(found & truth) / total if total else 1.0)
    # A few polyps are missed whole, which the mean shows; the others are outlined well.
    assert np.mean(scores) >= 0.8
    assert np.median(scores) >= 0.9


def test_training_frames_are_preprocessed_as_pil_does() -> None:
    frames = training.make_frames(5, 3)
    for index, (seed, size) in enumerate(
        zip(scene_seeds(5, 3), ((288, 384), (256, 320), (256, 256)), strict=True)
    ):
        frame, mask = Scene(seed, *size).render(0.0)
        picture = Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
        expected = np.asarray(picture.resize((256, 256), Image.Resampling.BILINEAR))
        assert np.array_equal(frames.images[index], expected)
        labels = np.asarray(Image.fromarray(mask).resize((256, 256), Image.Resampling.NEAREST))
        assert np.array_equal(frames.masks[index], labels > 0)


def test_training_learns_repeats_itself_and_survives_a_file(tmp_path: Path) -> None:
    frames = training.make_frames(1, 4)
    losses: list[float] = []
    model = training.train(
        frames, steps=12, seed=3, progress=lambda step, steps, loss: losses.append(loss)
    )
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    again = training.train(frames, steps=12, seed=3)
    state, repeated = (training.FAMILY.state_dict(m) for m in (model, again))
    assert state.keys() == repeated.keys()
    assert all(torch.equal(state[key], repeated[key]) for key in state)
    path = tmp_path / "trained.pth"
    torch.save(state, path)
    loaded = load(path)
    assert loaded.config == training.CONFIG
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = (loaded.model(image) - model(image)).abs().max().item()
    assert difference <= 1e-6


def test_the_training_script_writes_a_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "demo.pth"
    held_out = training.HELD_OUT_FRAMES
    threads = torch.get_num_threads()
    training.HELD_OUT_FRAMES = 2
    try:
        arguments = ["--steps", "2", "--scenes", "2", "--output", str(output)]
        assert training.main(arguments) == 0
        assert training.main(arguments) == 1, "an existing output needs --force"
    finally:
        training.HELD_OUT_FRAMES = held_out
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        cv2.setNumThreads(-1)
    assert inspect(output).family == "segdino_v2"


def test_demo_leaves_the_video_the_still_and_the_report(tmp_path: Path) -> None:
    import av

    stages: dict[str, list[tuple[int, int]]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        stages.setdefault(stage, []).append((done, total))

    output = tmp_path / "demo"
    report = demo(output, calibration_frames=10, validation_frames=6, clip_s=0.4, progress=progress)
    for path in (report.bundle, report.report, report.metrics, report.overlay, report.still):
        assert path.exists()
        assert path.is_relative_to(output)
        assert str(path) in str(report)
    assert all(path.exists() for path in report.evaluation.pictures)
    assert stages["calibration frames"][-1] == (10, 10)
    assert stages["validation frames"][-1] == (6, 6)
    assert stages["clip"][-1] == (10, 10)
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]

    rows = report.metrics.read_text().splitlines()
    assert rows[0] == "id,dice,iou,hd95"
    assert len(rows) == 1 + 6 + 1
    assert rows[-1].startswith("MEAN,")
    assert math.isclose(float(rows[-1].split(",")[1]), report.evaluation.mean.dice, abs_tol=1e-6)
    assert report.evaluation.mean.dice >= 0.7
    assert report.evaluation.variant.startswith("int8")
    agreement = [s for s in report.build.manifest.scores if s.against == "fp32"]
    assert all(score.dice >= 0.9 for score in agreement)

    with av.open(str(report.overlay)) as video, av.open(str(report.clip)) as clip:
        drawn = [f.to_ndarray(format="bgr24") for f in video.decode(video=0)]
        plain = [f.to_ndarray(format="bgr24") for f in clip.decode(video=0)]
    assert len(drawn) == len(plain) == report.run.frames == 10
    assert report.run.frames_with_foreground == 10
    assert drawn[0].shape == (480, 640, 3)
    # Both videos are compressed: what was not drawn on is alike, what was is not.
    change = np.abs(drawn[5].astype(int) - plain[5]).max(axis=2)
    assert np.median(change) < 12
    assert 0.01 < np.mean(change > 40) < 0.5

    frame, still = cv2.imread(str(report.frame)), cv2.imread(str(report.still))
    assert still.shape == (480, 1280, 3)
    assert np.array_equal(still[:, :640], frame)
    assert 0.01 < np.any(still[:, 640:] != frame, axis=2).mean() < 0.5

    with pytest.raises(OutputError, match="--force"):
        demo(output)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        demo(output, force=True)
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments", [{"calibration_frames": 0}, {"validation_frames": 0}, {"clip_s": math.nan}]
)
def test_demo_refuses_to_show_nothing(tmp_path: Path, arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="at least one"):
        demo(tmp_path / "demo", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_demo_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "clip":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo(
            tmp_path / "demo",
            calibration_frames=1,
            validation_frames=1,
            clip_s=0.1,
            progress=interrupt,
        )
    assert list(tmp_path.iterdir()) == []
