"""INT8 and FP16 of models trained on real polyps, judged on pictures they were not calibrated on.

EDGESEG_DATA=... pytest -m slow tests/test_calib_real.py -s     # prints the figures
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import metrics
from edgeseg.backends import EngineOptions, open_engine
from edgeseg.calib import DEFAULT_METHOD, CalibrationFrames, collect_ranges, quantize, to_fp16
from edgeseg.dataset import DataFolder
from edgeseg.golden import relative_error
from edgeseg.preprocess import Preprocessor, takes_pictures
from edgeseg.spec import PreprocessSpec

_log = logging.getLogger(__name__)

SIZE_PX = 256
RUNTIMES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "tensorrt": "onnxruntime"}
"""TensorRT's file is run by the library that takes its signed activations literally."""
MODELS: dict[str, Any] = {"segdino_v2_tiny": "bilinear", "segdino_v1_tiny": "bicubic"}


class _Judge:
    """Answers of one graph after another on the same validation pictures."""

    def __init__(self, data: Path, spec: PreprocessSpec, step: int) -> None:
        cases = DataFolder.open(data / "polyp" / "test", masks="required").cases[::step]
        pairs = [case.read() for case in cases]
        self.inputs = {}
        for pictures in (False, True):
            preprocess = Preprocessor(spec, threads=2, pictures=pictures)
            self.inputs[pictures] = [preprocess(image) for image, _ in pairs]
        self.truth = [
            metrics.resize_mask(mask, SIZE_PX, SIZE_PX) for _, mask in pairs if mask is not None
        ]

    def logits(self, path: Path, runtime: Any) -> list[Any]:
        with open_engine(path, runtime, EngineOptions(threads=2)) as engine:
            inputs = self.inputs[takes_pictures(engine.inputs)]
            return [engine.infer({"image": x})["logits"][0, 0] for x in inputs]

    def masks(self, path: Path, runtime: Any) -> list[Any]:
        return [(z > 0).astype(np.uint8) for z in self.logits(path, runtime)]

    def error(self, path: Path, reference: Path) -> float:
        """Mean relative error of the logits on OpenVINO."""
        found, wanted = (self.logits(p, "openvino") for p in (path, reference))
        return float(np.mean([relative_error(a, b) for a, b in zip(found, wanted, strict=True)]))

    def dice(self, masks: list[Any], others: list[Any]) -> float:
        return float(np.mean([metrics.dice(a, b) for a, b in zip(masks, others, strict=True)]))


@pytest.mark.parametrize(
    ("name", "frames", "step"),
    [
        ("segdino_v1_tiny", 32, 10),
        pytest.param("segdino_v1_tiny", 512, 1, marks=pytest.mark.slow),
        pytest.param("segdino_v2_tiny", 512, 1, marks=pytest.mark.slow),
    ],
)
def test_int8_and_fp16_draw_the_masks_of_fp32(
    real_data: Path, tmp_path: Path, name: str, frames: int, step: int
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from edgeseg import export

    spec = PreprocessSpec(
        SIZE_PX, SIZE_PX, MODELS[name], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    fp32 = tmp_path / "fp32.onnx"
    checkpoint = export.load(real_data / "checkpoints" / f"{name}.pth")
    export.export_onnx(checkpoint, fp32, height_px=SIZE_PX, width_px=SIZE_PX)
    chosen = CalibrationFrames.open(
        real_data / "polyp" / "train", spec, limit=frames, validation=real_data / "polyp" / "test"
    )
    thresholds = collect_ranges(fp32, chosen, threads=2).thresholds(DEFAULT_METHOD)
    judge = _Judge(real_data, spec, step)
    reference = judge.masks(fp32, "openvino")
    dice_fp32 = judge.dice(reference, judge.truth)
    _log.info(
        "%s: FP32 Dice %.4f, %d pictures, %d frames", name, dice_fp32, len(reference), len(chosen)
    )
    files = {
        b: quantize(fp32, thresholds, b, tmp_path / f"{b}.onnx", preprocess=spec).path
        for b in RUNTIMES
    }
    planes = quantize(fp32, thresholds, "openvino", tmp_path / "planes.onnx").path
    errors = {path: judge.error(path, fp32) for path in (files["openvino"], planes)}
    _log.info("openvino, logits: error %.4f, of normalised planes %.4f", *errors.values())
    assert errors[files["openvino"]] <= 1.05 * errors[planes]
    for backend, path in files.items():
        masks = judge.masks(path, RUNTIMES[backend])
        dice, agreement = judge.dice(masks, judge.truth), judge.dice(masks, reference)
        size = path.stat().st_size / fp32.stat().st_size
        _log.info("int8 %s: Dice %.4f, agreement %.4f, size %.2f", backend, dice, agreement, size)
        assert agreement >= 0.98
        assert abs(dice - dice_fp32) <= (0.005 if step == 1 else 0.015)
    half = judge.masks(to_fp16(fp32, tmp_path / "half.onnx", "fp16-safe").path, "onnxruntime")
    assert judge.dice(half, reference) >= 0.998
