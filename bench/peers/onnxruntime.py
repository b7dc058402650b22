"""ONNX Runtime on the plain FP32 export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeseg._optional import require
from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.peers.spec import CandidateSpec
from edgeseg.errors import BackendError

__all__ = ["OnnxRuntimePeer"]

_ERRORS_ALONE = 3


class OnnxRuntimePeer(Candidate):
    """A session with the CPU provider and the library's own graph optimisation."""

    def __init__(self, spec: CandidateSpec) -> None:
        """Open the ONNX file of ``spec``.

        Raises:
            MissingDependencyError: ONNX Runtime is not installed.
            BackendError: it cannot load the file.
        """
        ort = require("onnxruntime", "onnxruntime")
        self._spec = spec
        self._names = [output.name for output in spec.outputs]
        settings = ort.SessionOptions()
        settings.log_severity_level = _ERRORS_ALONE
        settings.intra_op_num_threads = spec.threads_per_request
        # Waiting threads would take the processor from whoever is measured next.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = ort.InferenceSession(
                str(spec.file), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no public base class
            raise BackendError(f"ONNX Runtime cannot load {spec.file}: {error}") from error
        self.name = spec.kind
        self.version = str(ort.__version__)
        self.how = (
            "onnxruntime.InferenceSession on the plain FP32 ONNX export: CPUExecutionProvider, "
            "default graph optimisation, thread spinning off"
        )
        self.precision = "float32"
        self.threads = spec.threads
        self.parallel = spec.parallel

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Run the session; see ``Candidate.infer``."""
        arrays = self._spec.arguments(tensors)
        inputs = {spec.name: array for spec, array in zip(self._spec.inputs, arrays, strict=True)}
        if self._session is None:
            raise BackendError(f"this {self.name} candidate is closed")
        try:
            answers = self._session.run(self._names, inputs)
        except Exception as error:  # as above
            raise BackendError(f"ONNX Runtime failed while running: {error}") from error
        return dict(zip(self._names, answers, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None
