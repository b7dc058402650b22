"""Builds of tiny checkpoints: what a bundle holds, what a build refuses, what a kill leaves."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgeseg
from edgeseg.bundle import read_bundle
from edgeseg.errors import (
    CalibrationError,
    CheckpointError,
    DataError,
    OutputError,
    UsageError,
)
from edgeseg.spec import SCHEMA_VERSION, RoiSpec

pytest.importorskip("torch")
from checkpoints import make_checkpoint

SIZE = (64, 80)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    make_checkpoint(path, "segdino_v2")
    return path


def _pictures(folder: Path, count: int, seed: int, *, masks: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    for kind in ("image", "mask") if masks else ("image",):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        smooth = cv2.resize(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8), (90, 70))
        cv2.imwrite(str(folder / "image" / f"{i}.png"), smooth)
        if masks:
            mask = np.where(smooth[:, :, 1] > 128, 255, 0).astype(np.uint8)
            cv2.imwrite(str(folder / "mask" / f"{i}.png"), mask)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    _pictures(root / "calibration", 33, 1)
    _pictures(root / "validation", 4, 2, masks=True)
    return root


@pytest.fixture(scope="module")
def int8(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "tiny.edgeseg"
    edgeseg.build(
        checkpoint,
        output=path,
        int8=True,
        fp16=True,
        imgsz=SIZE,
        data=data / "calibration",
        val=data / "validation",
        classes=("polyp",),
        with_pictures=True,
    )
    return path


def test_the_bundle_says_what_it_is(int8: Path, checkpoint: Path, data: Path) -> None:
    import hashlib

    manifest = read_bundle(int8).manifest
    assert manifest.family == "segdino_v2" and manifest.classes == ("polyp",)
    assert manifest.precision == "int8"
    assert (manifest.preprocess.height_px, manifest.preprocess.width_px) == SIZE
    assert manifest.provenance.checkpoint == "tiny.pth"
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert manifest.provenance.checkpoint_sha256 == digest
    assert "DINOv3" in manifest.licence_notice
    assert manifest.parity.relative <= 1e-4
    served = {(v.precision, b) for v in manifest.variants for b in v.backends}
    wanted = {"fp32", "fp16", "fp16-safe", "int8"}
    assert served == {(p, b) for p in wanted for b in ("openvino", "onnxruntime", "tensorrt")}
    assert len({v.file for v in manifest.variants if v.precision == "int8"}) == 3
    tensorrt = read_bundle(int8).variant("int8", "tensorrt")
    assert (tensorrt.products, tensorrt.rest) == ("int8", "fp16")
    planes, pixels = ("float32", (1, 3, *SIZE), "NCHW"), ("uint8", (1, *SIZE, 3), "NHWC")
    for variant in manifest.variants:
        pictures = variant.precision == "int8" and variant != tensorrt
        (port,) = variant.inputs
        assert (port.dtype, port.shape, port.layout) == (pixels if pictures else planes)
    limits = [limits for v in manifest.variants for limits in v.golden_limits.values()]
    assert all(0 < one.relative_error < 1 for one in limits)
    assert all(0.9 < one.cosine < 1 and 0.5 < one.mask_agreement < 1 for one in limits)


def test_calibration_is_recorded_by_content(int8: Path, data: Path) -> None:
    import hashlib

    record = read_bundle(int8).manifest.calibration
    assert record is not None and record.frames == 33 and record.quantizer == "edgeseg"
    for name, digest in zip(record.sources, record.sha256, strict=True):
        content = (data / "calibration" / "image" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


def test_scores_and_latencies_are_there_for_what_runs_here(int8: Path) -> None:
    from edgeseg.backends import available_backends

    manifest = read_bundle(int8).manifest
    for backend in available_backends():
        labels = [s for s in manifest.scores if s.backend == backend and s.against == "labels"]
        assert {s.variant for s in labels} >= {"fp32", "fp16", f"int8-{backend}"}
        assert all(s.cases == 4 and 0 <= s.dice <= 1 for s in labels)
    assert all(r.median_ms > 0 for r in manifest.latencies)
    assert not any(s.backend == "tensorrt" for s in manifest.scores)


def test_every_variant_opens_and_agrees(int8: Path) -> None:
    from edgeseg.backends import available_backends

    frame = cv2.resize(
        np.random.default_rng(5).integers(0, 256, (5, 5, 3), dtype=np.uint8), (123, 77)
    )
    with edgeseg.open(int8, precision="fp32") as model:
        expected = _logits(model, frame)
    scale = expected.std()
    for backend in available_backends():
        for precision, limit in (
            ("fp32", 1e-4),
            ("fp16", 0.02),
            ("fp16-safe", 0.02),
            ("int8", 0.2),
        ):
            with edgeseg.open(int8, backend=backend, precision=precision) as model:
                assert model.variant.precision == precision
                error = np.sqrt(np.square(_logits(model, frame) - expected).mean()) / scale
            assert error <= limit, (backend, precision)


def _logits(model: edgeseg.Model, frame: np.ndarray) -> np.ndarray:
    (logits,) = model.infer(model.preprocess(frame)).values()
    return logits.astype(np.float64)


def test_the_report_shows_worst_cases_only_when_asked(int8: Path) -> None:
    page = (int8 / "report.html").read_text()
    assert "data:image/png;base64" in page and "Not a medical device" in page


def test_a_bundle_is_requantised_without_torch(int8: Path, data: Path, tmp_path: Path) -> None:
    blocked = (
        "import sys\n"
        "for name in ('torch', 'timm'): sys.modules[name] = None\n"
        "import edgeseg\n"
        f"edgeseg.build({str(int8)!r}, output={str(tmp_path / 'again.edgeseg')!r}, int8=True,\n"
        f"    data={str(data / 'calibration')!r}, method='max')\n"
    )
    subprocess.run([sys.executable, "-c", blocked], check=True)
    first, again = read_bundle(int8).manifest, read_bundle(tmp_path / "again.edgeseg").manifest
    assert again.calibration is not None and again.calibration.method == "max"
    assert again.parity == first.parity and again.classes == first.classes
    assert again.files["fp32.onnx"] == first.files["fp32.onnx"]
    assert again.scores == ()
    with pytest.raises(UsageError, match="fixed size 64x80"):
        edgeseg.build(int8, output=tmp_path / "x.edgeseg", imgsz=(32, 32))


def test_several_classes_and_a_region_of_interest(tmp_path: Path, data: Path) -> None:
    make_checkpoint(tmp_path / "three.pth", "segdino_v1", classes=3)
    roi = RoiSpec(5, 6, 60, 50)
    report = edgeseg.build(
        tmp_path / "three.pth",
        output=tmp_path / "three.edgeseg",
        imgsz=(64, 64),
        classes=("polyp", "tool"),
        roi=roi,
        val=data / "calibration",
    )
    assert report.manifest.classes == ("background", "polyp", "tool")
    assert report.manifest.readout.activation == "softmax"
    assert {s.against for s in report.manifest.scores} == {"fp32"}
    frame = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    with edgeseg.open(tmp_path / "three.edgeseg") as model:
        result = model(frame)
    assert result.probability.shape == (3, 70, 90)
    assert not result.mask[:6].any() and not result.mask[:, 65:].any()


def test_modelopt_builds_too(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("modelopt")
    report = edgeseg.build(
        checkpoint,
        output=tmp_path / "m.edgeseg",
        int8=True,
        imgsz=SIZE,
        data=data / "calibration",
        quantizer="modelopt",
        calibration_frames=8,
    )
    assert report.manifest.calibration is not None
    assert report.manifest.calibration.quantizer == "modelopt"
    with edgeseg.open(tmp_path / "m.edgeseg") as model:
        assert model.variant.products == "int8"


def test_int8_without_data_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="never calibrates on random data"):
        edgeseg.build(checkpoint, output=tmp_path / "x.edgeseg", int8=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "max"}, "--method"),
        ({"exclude": ("x",)}, "--exclude"),
        ({"with_pictures": True}, "--val"),
        ({"imgsz": (250, 256)}, "multiple of 16"),
        ({"classes": ("a", "b")}, "one name"),
        ({"backend": "tvm"}, "unknown backend"),
    ],
)
def test_what_cannot_be_meant(
    checkpoint: Path, tmp_path: Path, arguments: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        edgeseg.build(checkpoint, output=tmp_path / "x.edgeseg", **arguments)
    assert os.listdir(tmp_path) == []


def test_bad_calibration_data_is_named(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match="empty"):
        edgeseg.build(checkpoint, output=tmp_path / "x", int8=True, data=tmp_path / "empty")
    broken = Path(shutil.copytree(data / "calibration", tmp_path / "broken"))
    (broken / "image" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(CalibrationError, match=r"7\.png"):
        edgeseg.build(checkpoint, output=tmp_path / "x", int8=True, imgsz=SIZE, data=broken)
    assert sorted(os.listdir(tmp_path)) == ["broken", "empty"]


def test_frames_of_the_validation_set_are_refused(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    both = Path(shutil.copytree(data / "calibration", tmp_path / "both"))
    shutil.copy(data / "validation" / "image" / "2.png", both / "image" / "renamed.png")
    with pytest.raises(CalibrationError, match=r"renamed\.png"):
        edgeseg.build(
            checkpoint,
            output=tmp_path / "x.edgeseg",
            int8=True,
            imgsz=SIZE,
            data=both,
            val=data / "validation",
        )


def test_unpaired_validation_masks_are_named(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data / "validation", tmp_path / "val"))
    (folder / "image" / "1.png").unlink()
    with pytest.raises(DataError, match="1"):
        edgeseg.build(checkpoint, output=tmp_path / "x.edgeseg", val=folder)


def test_an_existing_output_is_kept_without_force(
    checkpoint: Path, int8: Path, tmp_path: Path
) -> None:
    target = Path(shutil.copytree(int8, tmp_path / "kept.edgeseg"))
    with pytest.raises(OutputError, match="--force"):
        edgeseg.build(checkpoint, output=target, imgsz=SIZE)
    assert read_bundle(target).manifest.precision == "int8"
    edgeseg.build(checkpoint, output=target, imgsz=SIZE, force=True)
    assert read_bundle(target).manifest.precision == "fp32"
    assert os.listdir(tmp_path) == ["kept.edgeseg"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").touch()
    with pytest.raises(OutputError, match="no bundle"):
        edgeseg.build(checkpoint, output=precious, imgsz=SIZE, force=True)
    assert os.listdir(precious) == ["thesis.txt"]


def test_an_unusable_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "noise.pth").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError):
        edgeseg.build(tmp_path / "noise.pth", output=tmp_path / "x.edgeseg")
    assert os.listdir(tmp_path) == ["noise.pth"]


@pytest.mark.parametrize("after", ["fp32.onnx", "int8-openvino.onnx", "golden.npz"])
def test_a_killed_build_leaves_no_half_bundle(
    int8: Path, data: Path, tmp_path: Path, after: str
) -> None:
    target = tmp_path / "out" / "k.edgeseg"
    target.parent.mkdir()
    command = [sys.executable, "-m", "edgeseg", "build", str(int8), "--int8", "-q"]
    command += ["--data", str(data / "calibration"), "-o", str(target)]
    command += ["--calibration-frames", "2"]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(target.parent.glob(f".*.tmp/{after}")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not target.exists()
        assert [p.name for p in target.parent.iterdir() if not p.name.startswith(".")] == []
    assert subprocess.run(command, check=False).returncode in (0, 1)
    read_bundle(target)
    assert os.listdir(target.parent) == ["k.edgeseg"]


def test_manifest_is_plain_json_for_other_tools(int8: Path) -> None:
    data = json.loads((int8 / "manifest.json").read_text())
    assert data["schema_version"] == SCHEMA_VERSION
    assert data["files"].keys() == {
        p.name for p in int8.iterdir() if p.name not in ("manifest.json", "SHA256SUMS")
    }
    assert dataclasses.is_dataclass(read_bundle(int8).manifest)


def test_pictures_of_unlabelled_cases_are_refused_at_the_start(data: Path, tmp_path: Path) -> None:
    # The checkpoint does not exist: the refusal comes before it is looked at.
    with pytest.raises(UsageError, match="needs masks in --val"):
        edgeseg.build(
            tmp_path / "none.pth",
            output=tmp_path / "x.edgeseg",
            val=data / "calibration",
            with_pictures=True,
        )
    assert os.listdir(tmp_path) == []
