"""``edgeseg.run`` from files to files, against the model called frame by frame."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import tiny_bundle
from PIL import Image
from video_files import cut, decode_all, number_of, numbered_frame, write_video

import edgeseg
from edgeseg.dataset import read_mask
from edgeseg.errors import DataError, OutputError, TruncatedVideoError, UsageError
from edgeseg.overlay import Overlay, default_colours
from edgeseg.settings import Settings
from edgeseg.video import open_source


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("one") / "tiny.edgeseg")


@pytest.fixture(scope="module")
def bundle_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("three") / "tiny.edgeseg", channels=3)


@pytest.fixture(scope="module")
def threshold(bundle: Path) -> float:
    """One that calls about half of ``numbered_frame`` foreground."""
    with edgeseg.open(bundle) as model:
        return float(np.median(model(numbered_frame(3, 160, 96)).probability))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in (1, 2, 10):
        cv2.imwrite(str(folder / f"p{number}.png"), numbered_frame(number, 160, 96 + number))
    return folder


def test_masks_of_a_video_are_the_models_masks(
    bundle: Path, threshold: float, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=24)
    out = tmp_path / "masks.mkv"
    calls: list[tuple[str, int, int]] = []
    report = edgeseg.run(
        bundle,
        clip,
        out,
        mask_only=True,
        threshold=threshold,
        progress=lambda *call: calls.append(call),
    )
    stored, times = decode_all(out, "gray")
    with edgeseg.open(bundle) as model, open_source(clip) as source:
        expected = [model(frame.image, threshold=threshold).mask * 255 for frame in source]
    assert all(40 < mask.mean() < 215 for mask in expected)
    assert len(stored) == len(expected) == 24
    for mask, wanted in zip(stored, expected, strict=True):
        np.testing.assert_array_equal(mask, wanted)
    np.testing.assert_allclose([float(t) for t in times], np.arange(24) / 25, atol=6e-4)
    assert report.frames == 24
    assert report.frames_with_foreground == sum(bool(m.any()) for m in expected)
    assert calls == [("run", i + 1, 24) for i in range(24)]
    assert "masks.mkv: 24 frames" in str(report)
    assert [s.name for s in report.pipeline.stages] == [
        "decode", "preprocess", "inference", "read-out", "draw", "encode",
    ]  # fmt: skip


def test_the_overlay_video_is_the_drawn_video(
    bundle: Path, threshold: float, tmp_path: Path
) -> None:
    times = [Fraction(i * i, 500) for i in range(20)]
    clip = write_video(tmp_path / "clip.mp4", frames=20, times_s=times)
    out = tmp_path / "out.mp4"
    edgeseg.run(bundle, clip, out, alpha=0.5, color="lime", contours=True, threshold=threshold)
    images, stored = decode_all(out)
    assert [float(t) for t in stored] == pytest.approx([float(t) for t in times], abs=1e-5)
    overlay = Overlay([(0, 255, 0)], alpha=0.5, contours=True)
    with edgeseg.open(bundle) as model, open_source(clip) as source:
        for image, frame in zip(images, source, strict=True):
            wanted = overlay(frame.image, model(frame.image, threshold=threshold).mask)
            # Blurred, since the encoder keeps little of the frame's noise.
            stored_picture, untouched, drawn = (
                cv2.GaussianBlur(picture, (0, 0), 3).astype(float)
                for picture in (image, frame.image, wanted)
            )
            assert np.abs(stored_picture - drawn).mean() < 4
            assert np.abs(stored_picture - untouched).mean() > 15


def test_one_picture_exactly(
    bundle: Path, threshold: float, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    report = edgeseg.run(bundle, pictures / "p2.png", out, threshold=threshold)
    with edgeseg.open(bundle) as model:
        image = numbered_frame(2, 160, 98)
        mask = model(image, threshold=threshold).mask
        wanted = Overlay(default_colours(1), alpha=0.4)(image, mask)
    np.testing.assert_array_equal(cv2.imread(str(out)), wanted)
    assert report.kind == "image"
    assert report.frames == 1


def test_a_folder_of_pictures_keeps_stems_and_sizes(
    bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = edgeseg.run(bundle, pictures, out, mask_only=True)
    assert report.frames == 3
    assert sorted(p.name for p in out.iterdir()) == ["p1.png", "p10.png", "p2.png"]
    with edgeseg.open(bundle) as model:
        for number in (1, 2, 10):
            mask = read_mask(out / f"p{number}.png")
            np.testing.assert_array_equal(
                mask, model(numbered_frame(number, 160, 96 + number)).mask
            )


def test_masks_of_several_classes_are_indices(
    bundle_of_three: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mask.png"
    edgeseg.run(bundle_of_three, pictures / "p1.png", out, mask_only=True)
    with edgeseg.open(bundle_of_three) as model:
        wanted = model(numbered_frame(1, 160, 97)).mask
    assert len(np.unique(wanted)) > 1
    np.testing.assert_array_equal(read_mask(out, classes=3), wanted)
    assert Image.open(out).mode == "P"


def test_default_names(
    bundle: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=2)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for masks in (False, True):
        edgeseg.run(bundle, clip, mask_only=masks)
        edgeseg.run(bundle, pictures / "p1.png", mask_only=masks)
        edgeseg.run(bundle, pictures, mask_only=masks)
    assert sorted(p.name for p in here.iterdir()) == [
        "clip-mask.mkv", "clip-overlay.mp4", "p1-mask.png", "p1-overlay.png",
        "pictures-mask", "pictures-overlay",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.avi"])
def test_what_was_read_of_a_cut_video_is_written(name: str, bundle: Path, tmp_path: Path) -> None:
    options = {"movflags": "+faststart"} if name.endswith("mp4") else {}
    clip = cut(write_video(tmp_path / name, container_options=options), 0.6)
    out = tmp_path / "out.mp4"
    with pytest.raises(TruncatedVideoError, match=r"written to .*out\.mp4") as caught:
        edgeseg.run(bundle, clip, out)
    assert caught.value.exit_code == 1
    images, _ = decode_all(out)
    with pytest.raises(TruncatedVideoError), open_source(clip) as source:
        count = 0
        for _ in source:
            count += 1
    assert len(images) == count > 5
    assert [number_of(image) for image in images][:-3] == list(range(count - 3))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, f"cut_{name}", "out.mp4"])


def test_the_rest_of_a_folder_is_written(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "p3.png").write_bytes((pictures / "p2.png").read_bytes()[:200])
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"p3\.png"):
        edgeseg.run(bundle, pictures, out)
    assert sorted(p.name for p in out.iterdir()) == ["p1.png", "p10.png", "p2.png"]


def test_a_broken_picture_leaves_no_output(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        edgeseg.run(bundle, tmp_path / "broken.png", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_an_error_in_progress_stops_the_run_and_leaves_nothing(
    bundle: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=30)

    def progress(stage: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edgeseg.run(bundle, clip, tmp_path / "out.mp4", progress=progress)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_existing_outputs_are_kept_without_force(bundle: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=2)
    out = tmp_path / "out.mp4"
    out.write_bytes(b"old")
    with pytest.raises(OutputError, match="--force"):
        edgeseg.run(bundle, clip, out)
    assert out.read_bytes() == b"old"
    edgeseg.run(bundle, clip, out, force=True)
    assert len(decode_all(out)[0]) == 2


def test_the_pictures_of_a_data_folder_are_never_written_over(
    bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    pictures.rename(data / "image")
    before = {p.name: p.read_bytes() for p in (data / "image").iterdir()}
    with pytest.raises(UsageError, match="input itself"):
        edgeseg.run(bundle, data, data / "image", force=True)
    assert {p.name: p.read_bytes() for p in (data / "image").iterdir()} == before
    edgeseg.run(bundle, data, data / "overlay")
    assert len(list((data / "overlay").iterdir())) == 3


def wrong_suffix(bundle: Path, clip: Path, out: Path) -> None:
    edgeseg.run(bundle, clip, out / "x.png")


def lossy_masks(bundle: Path, clip: Path, out: Path) -> None:
    edgeseg.run(bundle, clip, out / "x.mp4", mask_only=True)


def the_input_itself(bundle: Path, clip: Path, out: Path) -> None:
    edgeseg.run(bundle, clip, clip, force=True)


def too_many_colours(bundle: Path, clip: Path, out: Path) -> None:
    edgeseg.run(bundle, clip, out / "x.mp4", color="red,blue")


def wrong_opacity(bundle: Path, clip: Path, out: Path) -> None:
    edgeseg.run(bundle, clip, out / "x.mp4", alpha=2.0)


def wrong_threshold(bundle: Path, clip: Path, out: Path) -> None:
    edgeseg.run(bundle, clip, out / "x.mp4", threshold=1.5)


@pytest.mark.parametrize(
    "call",
    [
        wrong_suffix,
        lossy_masks,
        the_input_itself,
        too_many_colours,
        wrong_opacity,
        wrong_threshold,
    ],
)
def test_contradictions_are_refused_before_anything_is_written(
    call: Callable[[Path, Path, Path], None], bundle: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=2)
    before = clip.read_bytes()
    with pytest.raises(UsageError):
        call(bundle, clip, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    assert clip.read_bytes() == before


def test_a_threshold_needs_one_class(bundle_of_three: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=2)
    with pytest.raises(UsageError, match="threshold"):
        edgeseg.run(bundle_of_three, clip, tmp_path / "x.mp4", threshold=0.4)


@pytest.mark.skipif("EDGESEG_DATA" not in os.environ, reason="EDGESEG_DATA is not set")
def test_a_real_clip(bundle: Path, tmp_path: Path) -> None:
    clip = next((Path(os.environ["EDGESEG_DATA"]) / "clips").glob("davinci*.mp4"))
    out = tmp_path / "out.mp4"
    report = edgeseg.run(bundle, clip, out, contours=True)
    with open_source(out) as source, open_source(clip) as original:
        assert source.size == original.size
        assert [f.time_s for f in source] == pytest.approx([f.time_s for f in original], abs=1e-4)
    assert report.frames == 20


def test_masks_are_smoothed_over_a_video_and_start_anew_after_a_gap(
    bundle: Path, threshold: float, tmp_path: Path
) -> None:
    """Against the recursion in float64, frame by frame, at the video's own times."""
    times = [Fraction(i, 25) for i in range(10)] + [Fraction(i + 30, 25) for i in range(6)]
    clip = write_video(tmp_path / "clip.mp4", frames=16, times_s=times)
    out = tmp_path / "masks.mkv"
    report = edgeseg.run(
        bundle,
        clip,
        out,
        mask_only=True,
        threshold=threshold,
        settings=Settings(time_constant_ms=80.0),
    )
    assert report.resets == ((pytest.approx(1200.0), "gap"),)
    assert "started anew at 1.20 s (gap)" in str(report)
    images, found_times = decode_all(clip)
    masks, _ = decode_all(out, "gray")
    state = None
    with edgeseg.open(bundle) as model, edgeseg.open(bundle) as smooth:
        height, width = smooth.manifest.preprocess.height_px, smooth.manifest.preprocess.width_px
        for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
            single = model.read_grid(model.infer(model.preprocess(image))).probability()
            gap_s = float(found_times[i] - found_times[i - 1]) if i else 1.0
            keep = 0.0 if gap_s > 0.5 else np.exp(-gap_s / 0.08)
            state = single if state is None else keep * state + (1 - keep) * single
            assert state.shape == (height, width)
            at_frame = cv2.resize(state.astype(np.float32), image.shape[1::-1])
            clear = np.abs(at_frame - threshold) > 1e-4
            np.testing.assert_array_equal((mask > 127)[clear], (at_frame > threshold)[clear])


def test_smoothing_over_time_is_for_videos(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no video"):
        edgeseg.run(bundle, pictures, tmp_path / "out", settings=Settings(time_constant_ms=80.0))
