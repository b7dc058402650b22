"""``edgeseg.open`` and what the model says about a frame."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from builders import tiny_bundle, tiny_manifest, tiny_onnx, tiny_weights

import edgeseg
from edgeseg.backends import available_backends
from edgeseg.bundle import Golden, new_bundle, seal, write_golden
from edgeseg.errors import GoldenMismatchError, InputError, UsageError
from edgeseg.golden import relative_error
from edgeseg.spec import RoiSpec


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("model") / "one.edgeseg")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("model") / "several.edgeseg", channels=3)


def _frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _pixelwise(frame: np.ndarray, channels: int) -> np.ndarray:
    """Logits of the tiny model where no resampling happens, float64 (C, H, W)."""
    weight, bias = (a.astype(np.float64) for a in tiny_weights(channels))
    spec = tiny_manifest().preprocess
    rgb = (frame[:, :, ::-1] / 255.0 - np.array(spec.mean)) / np.array(spec.std)
    return np.einsum("oc,hwc->ohw", weight, rgb) + bias[:, None, None]


@pytest.mark.parametrize("backend", available_backends())
def test_one_class_at_the_models_own_size(bundle: Path, backend: str) -> None:
    frame = _frame(32, 48)
    expected = 1 / (1 + np.exp(-_pixelwise(frame, 1)[0]))
    with edgeseg.open(bundle, backend=backend) as model:
        result = model(frame)
        strict = model(frame, threshold=0.9)
    assert np.abs(result.probability - expected).max() <= 1e-5
    clear = np.abs(expected - 0.5) > 1e-4
    assert result.mask.dtype == np.uint8 and result.mask.shape == (32, 48)
    assert (result.mask == (expected > 0.5))[clear].all()
    assert (strict.mask <= result.mask).all() and strict.area_px < result.area_px
    assert result.area_px == result.mask.sum()
    assert result.area_fraction == pytest.approx(result.mask.mean())
    assert set(result.timings_ms) == {"preprocess", "inference", "readout"}


def test_several_classes(several: Path) -> None:
    frame = _frame(32, 48)
    logits = _pixelwise(frame, 3)
    expected = np.exp(logits) / np.exp(logits).sum(0)
    with edgeseg.open(several) as model:
        result = model(frame)
        assert model.classes == ("class 0", "class 1", "class 2")
    assert result.probability.shape == (3, 32, 48)
    assert np.abs(result.probability - expected).max() <= 1e-5
    top = np.sort(logits, 0)
    clear = top[-1] - top[-2] > 1e-4
    assert (result.mask == logits.argmax(0))[clear].all()
    assert set(result.contours) <= {1, 2}


@pytest.mark.parametrize("size", [(1, 1), (31, 47), (240, 320), (7, 500)])
def test_any_frame_size_comes_back_at_that_size(bundle: Path, size: tuple) -> None:
    with edgeseg.open(bundle) as model:
        result = model(_frame(*size))
    assert result.mask.shape == size and result.probability.shape == size
    assert np.isfinite(result.probability).all()


def test_contours_enclose_the_mask(bundle: Path) -> None:
    import cv2

    frame = np.zeros((64, 96, 3), np.uint8)
    frame[20:40, 30:70] = 255
    with edgeseg.open(bundle) as model:
        result = model(frame)
    drawn = np.zeros_like(result.mask)
    cv2.drawContours(drawn, list(result.contours[1]), -1, 1, cv2.FILLED)
    assert result.mask.any() and not result.mask.all()
    assert (drawn == result.mask).mean() > 0.99


def test_region_of_interest(tmp_path: Path) -> None:
    roi = RoiSpec(10, 5, 48, 32)
    path = tiny_bundle(tmp_path / "roi.edgeseg", roi=roi)
    frame = _frame(50, 70)
    inside = _pixelwise(frame[5:37, 10:58], 1)[0]
    with edgeseg.open(path) as model:
        result = model(frame)
        with pytest.raises(InputError):
            model(_frame(20, 20))
    expected = np.zeros((50, 70))
    expected[5:37, 10:58] = 1 / (1 + np.exp(-inside))
    assert np.abs(result.probability - expected).max() <= 1e-5
    assert not result.mask[:5].any() and not result.mask[:, :10].any()


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        [[1]],
    ],
)
def test_what_is_not_a_frame_is_refused(bundle: Path, frame: object) -> None:
    with edgeseg.open(bundle) as model, pytest.raises(InputError, match="frame"):
        model(frame)


def test_an_unknown_precision_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="no int8 variant"):
        edgeseg.open(bundle, precision="int8")


def _with_golden(path: Path, logits: np.ndarray, frames: np.ndarray) -> Path:
    with new_bundle(path, force=False) as folder:
        tiny_onnx(folder / "fp32.onnx")
        write_golden(folder, Golden(frames, {"logits": logits}))
        seal(folder, tiny_manifest())
    return path


def test_an_engine_that_disagrees_with_its_golden_frames_is_refused(
    bundle: Path, tmp_path: Path
) -> None:
    from edgeseg.bundle import read_bundle

    golden = read_bundle(bundle).golden()
    off = golden.outputs["logits"] * np.float32(1.01)
    with pytest.raises(GoldenMismatchError, match=r"fp32 on openvino .*at most 0\.001"):
        edgeseg.open(_with_golden(tmp_path / "off.edgeseg", off, golden.frames))
    poisoned = golden.outputs["logits"].copy()
    poisoned[1, 0, 0, 3, 4] = np.nan
    with pytest.raises(GoldenMismatchError, match="nan"):
        edgeseg.open(_with_golden(tmp_path / "nan.edgeseg", poisoned, golden.frames))


def test_relative_error_is_the_ratio_of_norms() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(3, 2, (2, 9, 9)).astype(np.float32)
    other = reference + rng.normal(0, 0.1, reference.shape).astype(np.float32)
    wide, ref = other.astype(np.float64), reference.astype(np.float64)
    expected = np.sqrt(((wide - ref) ** 2).sum() / ((ref - ref.mean()) ** 2).sum())
    assert relative_error(other, reference) == pytest.approx(expected, rel=1e-9)
    assert relative_error(reference, reference) == 0
    assert relative_error(np.ones((1, 2)), np.ones((2, 1))) == float("inf")
    constant = np.full((2, 2), 5.0, np.float32)
    assert relative_error(constant + 1, constant) > 1


def test_the_public_names_are_complete() -> None:
    assert sorted(edgeseg.__all__) == dir(edgeseg)
    for name in edgeseg.__all__:
        assert getattr(edgeseg, name) is not None
    with pytest.raises(AttributeError):
        edgeseg.nothing  # noqa: B018
    assert dataclasses.is_dataclass(tiny_manifest())
