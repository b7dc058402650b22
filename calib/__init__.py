"""From an FP32 ONNX graph to INT8 and FP16 ones (onnx and numpy; no torch).

::

    frames = CalibrationFrames.open("data/", spec, validation="val/")
    ranges = collect_ranges(fp32_path, frames)
    thresholds = ranges.thresholds(DEFAULT_METHOD)
    for backend in ("openvino", "onnxruntime", "tensorrt"):
        quantize(fp32_path, thresholds, backend, folder / f"int8-{backend}.onnx")
    to_fp16(fp32_path, folder / "fp16.onnx", "fp16")
    half_report(folder / "fp16.onnx", frames_of_the_graph).overflowed
    quantize_with_modelopt(fp32_path, frames, {"tensorrt": folder / "modelopt.onnx"})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.calib.check import PlacementReport, check_placement
    from edgeseg.calib.collect import collect_ranges
    from edgeseg.calib.fp16 import FP16_MODES, HalfGraph, to_fp16
    from edgeseg.calib.frames import DEFAULT_FRAMES, CalibrationFrames
    from edgeseg.calib.modelopt import (
        DEFAULT_MODELOPT_METHOD,
        MODELOPT_METHODS,
        quantize_with_modelopt,
    )
    from edgeseg.calib.qdq import QuantizedGraph, quantize
    from edgeseg.calib.ranges import DEFAULT_METHOD, DEFAULT_PERCENTILE, METHODS, Ranges
    from edgeseg.calib.rounding import HalfEvaluator, HalfReport, half_report

__all__ = [
    "DEFAULT_FRAMES",
    "DEFAULT_METHOD",
    "DEFAULT_MODELOPT_METHOD",
    "DEFAULT_PERCENTILE",
    "FP16_MODES",
    "METHODS",
    "MODELOPT_METHODS",
    "CalibrationFrames",
    "HalfEvaluator",
    "HalfGraph",
    "HalfReport",
    "PlacementReport",
    "QuantizedGraph",
    "Ranges",
    "check_placement",
    "collect_ranges",
    "half_report",
    "quantize",
    "quantize_with_modelopt",
    "to_fp16",
]

_HOME = {
    "DEFAULT_FRAMES": "frames",
    "DEFAULT_METHOD": "ranges",
    "DEFAULT_PERCENTILE": "ranges",
    "FP16_MODES": "fp16",
    "METHODS": "ranges",
    "DEFAULT_MODELOPT_METHOD": "modelopt",
    "MODELOPT_METHODS": "modelopt",
    "CalibrationFrames": "frames",
    "HalfEvaluator": "rounding",
    "HalfGraph": "fp16",
    "HalfReport": "rounding",
    "PlacementReport": "check",
    "QuantizedGraph": "qdq",
    "Ranges": "ranges",
    "check_placement": "check",
    "collect_ranges": "collect",
    "half_report": "rounding",
    "quantize": "qdq",
    "quantize_with_modelopt": "modelopt",
    "to_fp16": "fp16",
}
_WITHOUT_ONNX = ("frames", "ranges")


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if module not in _WITHOUT_ONNX:
        from edgeseg._optional import require

        require("onnx", "export")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return __all__
