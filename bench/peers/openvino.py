"""OpenVINO on the plain FP32 export, and on what NNCF makes of it."""

from __future__ import annotations

import importlib.metadata
import queue
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeseg._optional import require
from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.peers.spec import CandidateSpec
from edgeseg.errors import BackendError

__all__ = ["OpenVinoPeer"]

_WORDS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class OpenVinoPeer(Candidate):
    """A compiled model on the CPU with the latency (or throughput) hint.

    Left alone, OpenVINO computes in bfloat16 where the processor has it; that is its natural use,
    so ``openvino`` and ``nncf`` leave it alone, and ``precision`` says what came of it.
    ``openvino-f32`` asks for float32.
    """

    def __init__(self, spec: CandidateSpec) -> None:
        """Compile the file of ``spec``.

        Raises:
            MissingDependencyError: OpenVINO is not installed.
            BackendError: it cannot read or compile the file.
        """
        ov = require("openvino")
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": spec.hint.upper(),
            "INFERENCE_NUM_THREADS": spec.threads,
        }
        if spec.kind == "openvino-f32":
            config["INFERENCE_PRECISION_HINT"] = "f32"
        self._spec = spec
        try:
            core = ov.Core()
            self._compiled: Any = core.compile_model(core.read_model(str(spec.file)), "CPU", config)
            chosen = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            self.threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
            self.parallel = (
                int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
                if spec.hint == "throughput"
                else 1
            )
            self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for _ in range(self.parallel):
                self._requests.put(self._compiled.create_infer_request())
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO cannot compile {spec.file}: {_last_line(error)}"
            ) from error
        words = _WORDS.get(chosen, chosen)
        self.name = spec.kind
        self.version = _version(ov, spec)
        self.how = _how(spec)
        self.precision = f"INT8 products, rest {words}" if spec.kind == "nncf" else words

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Run a request, which reads the arrays in place; see ``Candidate.infer``."""
        arrays = self._spec.arguments(tensors)
        inputs = {spec.name: array for spec, array in zip(self._spec.inputs, arrays, strict=True)}
        if self._compiled is None:
            raise BackendError(f"this {self.name} candidate is closed")
        request = self._requests.get()
        try:
            answers = request.infer(inputs, share_inputs=True)
            return {spec.name: np.asarray(answers[spec.name]) for spec in self._spec.outputs}
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed while running: {_last_line(error)}") from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        """Free the compiled model."""
        self._requests = queue.SimpleQueue()
        self._compiled = None


def _version(ov: Any, spec: CandidateSpec) -> str:
    found = str(ov.__version__).split("-", 1)[0]
    if spec.kind != "nncf":
        return found
    # Not imported for it: a process that only runs its files does not need it.
    return f"{importlib.metadata.version('nncf')}, OpenVINO {found}"


def _how(spec: CandidateSpec) -> str:
    made = "the plain FP32 ONNX export"
    if spec.kind == "nncf":
        made = (
            f"what nncf.quantize (model_type=TRANSFORMER, {spec.frames} calibration frames, the "
            f"rest at its defaults) makes of {made}"
        )
    precision = (
        "float32 asked for"
        if spec.kind == "openvino-f32"
        else "the inference precision left to the library"
    )
    return f"openvino.Core().compile_model on {made}, {spec.hint} hint, {precision}"


def _last_line(error: Exception) -> str:
    """OpenVINO's messages open with source positions; the last line that says something is read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
