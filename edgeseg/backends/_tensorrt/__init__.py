"""TensorRT 10.3 and later: compile an ONNX file into a plan on the device, and run plans.

Networks are strongly typed: the precision is what the ONNX file says. Importing this package needs
neither TensorRT nor CUDA.
"""

from __future__ import annotations

from edgeseg.backends._tensorrt.compile import CompiledPlan, CompileOptions, compile_plan
from edgeseg.backends._tensorrt.engine import TensorRtEngine
from edgeseg.backends._tensorrt.library import available_devices, check_version, load, version

__all__ = [
    "CompileOptions",
    "CompiledPlan",
    "TensorRtEngine",
    "available_devices",
    "check_version",
    "compile_plan",
    "load",
    "version",
]
