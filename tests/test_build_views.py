"""A DINO-MVR checkpoint all the way: build, open in part, evaluate, build again, draw a video."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_files import write_video

import edgeseg
from edgeseg.backends import available_backends
from edgeseg.bundle import read_bundle
from edgeseg.cli import main
from edgeseg.errors import UsageError
from edgeseg.kernels import View
from edgeseg.kernels.reference_fuse import fuse_views
from edgeseg.settings import Settings
from edgeseg.spec import FusionSpec, RegularizeSpec, ViewSpec, ZSmoothingSpec

torch = pytest.importorskip("torch")
from checkpoints import make_checkpoint  # noqa: E402

VIEWS = ((48, 48), (64, 80))
CONFIG = {"resolutions": [32, 48], "classes": ["polyp"], "weighting": "mean", "fill_holes": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "mvr.pth"
    make_checkpoint(path, "dino_mvr", config=CONFIG)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    for part, count in (("calibration", 33), ("validation", 3)):
        for kind in ("image", "mask"):
            (root / part / kind).mkdir(parents=True)
        for i in range(count):
            smooth = cv2.resize(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8), (90, 70))
            mask = np.where(smooth[:, :, 1] > 128, 255, 0).astype(np.uint8)
            cv2.imwrite(str(root / part / "image" / f"{i}.png"), smooth)
            cv2.imwrite(str(root / part / "mask" / f"{i}.png"), mask)
    return root


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "mvr.edgeseg"
    edgeseg.build(
        checkpoint,
        output=path,
        int8=True,
        fp16=True,
        data=data / "calibration",
        val=data / "validation",
        settings=Settings(
            views=VIEWS,
            flips=("h",),
            weighting="entropy",
            z_smoothing=ZSmoothingSpec(2.0, "mm"),
            time_constant_ms=80.0,
        ),
    )
    return path


def frame() -> np.ndarray:
    rng = np.random.default_rng(7)
    return cv2.resize(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), (121, 83))


def test_the_manifest_holds_views_and_read_out(bundle):
    manifest = read_bundle(bundle).manifest
    assert manifest.family == "dino_mvr"
    assert manifest.classes == ("polyp",)
    assert manifest.preprocess.views == (
        ViewSpec(48, 48, ("none", "h")),
        ViewSpec(64, 80, ("none", "h")),
    )
    assert (manifest.preprocess.height_px, manifest.preprocess.width_px) == (64, 80)
    readout = manifest.readout
    # What the command sets goes before what the checkpoint says, which goes before the defaults.
    assert readout.fusion == FusionSpec("entropy")
    assert readout.regularize == RegularizeSpec(fill_holes=True)
    assert readout.z_smoothing == ZSmoothingSpec(2.0, "mm")
    assert readout.time_constant_ms == 80.0
    assert {v.precision for v in manifest.variants} == {"fp32", "int8", "fp16", "fp16-safe"}
    for variant in manifest.variants:
        if variant.precision == "int8" and "tensorrt" not in variant.backends:
            assert [(i.dtype, i.shape) for i in variant.inputs] == [
                ("uint8", (2, 48, 48, 3)),
                ("uint8", (2, 64, 80, 3)),
            ]
        else:
            assert {i.dtype for i in variant.inputs} == {"float32"}
    assert manifest.parity.relative <= 1e-4
    page = (bundle / "report.html").read_text()
    assert "48x48, 64x80" in page and "mirrored left and right" in page


def test_every_engine_fuses_what_torch_says(checkpoint, bundle):
    """The authors' formulation in torch, fused in float64, against the bundle's masks."""
    from edgeseg import export
    from edgeseg.preprocess import Preprocessor

    loaded = export.load(checkpoint)
    manifest = read_bundle(bundle).manifest
    tensors = Preprocessor(manifest.preprocess).tensors(frame())
    with torch.inference_mode():
        answers = loaded.model(*(torch.from_numpy(tensor) for tensor in tensors))
    views = [
        View(logits, flip)
        for answer in answers
        for logits, flip in zip(answer.numpy(), ("none", "h"), strict=True)
    ]
    expected = fuse_views(views, 64, 80)[0]
    unfilled = Settings(fill_holes=False)
    for backend in available_backends():
        for precision, limit in (("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.2)):
            with edgeseg.open(
                bundle, backend=backend, precision=precision, settings=unfilled
            ) as model:
                outputs = model.infer(model.preprocess(frame()))
                found = model.read_grid(outputs).probability()
            assert np.abs(found - expected).max() <= limit, (backend, precision)


def test_fewer_copies_are_what_they_are_among_all(bundle):
    """OpenVINO computes a smaller batch of the INT8 graph, with the same answers."""
    for backend in available_backends():
        for precision in ("fp32", "int8"):
            with edgeseg.open(bundle, backend=backend, precision=precision) as whole:
                everything = whole.infer(whole.preprocess(frame()))["logits_64x80"]
            one = Settings(views=((64, 80),), flips=())
            with edgeseg.open(bundle, backend=backend, precision=precision, settings=one) as part:
                outputs = part.infer(part.preprocess(frame()))
            scale = np.abs(everything).max()
            assert set(outputs) == {"logits_64x80"}
            assert np.abs(outputs["logits_64x80"][0] - everything[0]).max() <= 1e-4 * scale


def test_it_is_evaluated_with_settings_and_says_so(bundle, data, tmp_path, capsys):
    out = tmp_path / "eval"
    arguments = ["eval", str(bundle), "--data", str(data / "validation"), "-o", str(out)]
    assert main([*arguments, "--views", "48", "--flips", "none", "--blur", "1.5"]) == 0
    record = json.loads((out / "evaluation.json").read_text())
    assert record["preprocess"]["views"] == [{"height_px": 48, "width_px": 48, "flips": ["none"]}]
    assert record["readout"]["regularize"]["blur_sigma_px"] == 1.5
    assert main([*arguments, "--views", "96", "--force"]) == 2
    assert "no view of 96x96" in capsys.readouterr().err


def test_it_is_built_again_without_torch(bundle, data, tmp_path):
    again = tmp_path / "again.edgeseg"
    blocked = (
        "import sys\n"
        "for name in ('torch', 'timm'): sys.modules[name] = None\n"
        "import edgeseg\n"
        "from edgeseg.settings import Settings\n"
        f"edgeseg.build({str(bundle)!r}, output={str(again)!r}, int8=True, method='max',\n"
        f"    data={str(data / 'calibration')!r}, settings=Settings(min_component_px=9))\n"
    )
    subprocess.run([sys.executable, "-c", blocked], check=True)
    manifest = read_bundle(again).manifest
    assert manifest.readout.regularize == RegularizeSpec(0.0, True, 9)
    with pytest.raises(UsageError, match="build from the checkpoint"):
        edgeseg.build(bundle, output=tmp_path / "no.edgeseg", settings=Settings(flips=()))


def test_a_video_is_smoothed_as_the_bundle_says(bundle, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames=6)
    report = edgeseg.run(bundle, clip, tmp_path / "out.mp4")
    assert report.frames == 6 and report.resets == ()
    plain, smooth = tmp_path / "plain.mkv", tmp_path / "smooth.mkv"
    edgeseg.run(bundle, clip, plain, mask_only=True, settings=Settings(time_constant_ms=0.0))
    edgeseg.run(bundle, clip, smooth, mask_only=True)
    assert plain.stat().st_size > 0 and smooth.stat().st_size > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--views", "50"], "multiples of 16.*48 or 64"),
        (["--views", "48,48"], "named twice"),
        (["--imgsz", "128"], "--views"),
        (["--flips", "diagonal"], "some of h, v and hv"),
        (["--blur", "-1"], "at least 0"),
        (["--z-sigma=-2mm"], "at least 0"),
        (["--weighting", "exp:0"], "at least 0.05"),
    ],
)
def test_settings_that_cannot_be_are_bad_usage(checkpoint, tmp_path, capsys, options, words):
    import re

    out = tmp_path / "no.edgeseg"
    assert main(["build", str(checkpoint), "-o", str(out), *options]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not out.exists()


def test_views_of_a_family_with_one_are_bad_usage(tmp_path, capsys):
    path = tmp_path / "one.pth"
    make_checkpoint(path, "segdino_v1")
    assert main(["build", str(path), "-o", str(tmp_path / "x.edgeseg"), "--flips", "h"]) == 2
    assert "reads a frame once" in capsys.readouterr().err
