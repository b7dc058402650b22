"""The authors' formulation in torch, eager and compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeseg._optional import require
from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.peers.spec import CandidateSpec
from edgeseg.errors import BackendError

__all__ = ["TorchPeer"]


class TorchPeer(Candidate):
    """A module in float32 on the CPU under ``torch.inference_mode``.

    Arrays become tensors and tensors arrays without a copy. While it is open, torch has the number
    of threads of whichever peer was called last, in the whole process.
    """

    def __init__(self, spec: CandidateSpec, module: Any) -> None:
        """Take the authors' module; ``torch-compile`` compiles it here, for the spec's inputs.

        Raises:
            MissingDependencyError: torch is not installed.
            BackendError: torch cannot compile the module (it needs a C++ compiler).
        """
        torch = require("torch", "export")
        self._torch = torch
        self._spec = spec
        self._module: Any = module.eval()
        self.name = spec.kind
        self.version = str(torch.__version__)
        self.precision = "float32"
        self.threads = spec.threads
        self.parallel = spec.parallel
        self._threads_before: int | None = torch.get_num_threads()
        self._wanted_threads = spec.threads_per_request
        self.how = "the authors' module in eager mode under torch.inference_mode"
        if spec.kind == "torch-compile":
            self.how = "torch.compile (default mode) of the authors' module, torch.inference_mode"
            self._compile()

    def _compile(self) -> None:
        # Graphs of earlier sizes in this process would make it compile for any size, or not at all.
        self._torch.compiler.reset()
        self._module = self._torch.compile(self._module)
        try:
            self.infer({spec.name: np.zeros(spec.shape, np.float32) for spec in self._spec.inputs})
        except BackendError as error:
            self.close()
            raise BackendError(
                f"torch.compile fails on this model: {error.__cause__} (it needs a C++ compiler, "
                "such as g++)"
            ) from error

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Call the module; see ``Candidate.infer``."""
        torch = self._torch
        arrays = self._spec.arguments(tensors)
        if self._module is None:
            raise BackendError(f"this {self.name} candidate is closed")
        if torch.get_num_threads() != self._wanted_threads:
            # Another peer with other threads may be open.
            torch.set_num_threads(self._wanted_threads)
        try:
            with torch.inference_mode():
                answer = self._module(*map(torch.from_numpy, arrays))
        except Exception as error:  # the compiler's exceptions share no public base class
            raise BackendError(f"torch failed while running: {_first_line(error)}") from error
        values = answer if isinstance(answer, tuple) else (answer,)
        return {
            spec.name: value.numpy() for spec, value in zip(self._spec.outputs, values, strict=True)
        }

    def close(self) -> None:
        """Free the module, and give torch its threads back."""
        self._module = None
        if self._threads_before is not None:
            self._torch.set_num_threads(self._threads_before)
            self._threads_before = None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
