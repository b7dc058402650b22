"""Inputs and outputs of an engine that stay where they are from one run to the next."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg._closing import Closing
from edgeseg.errors import BackendError
from edgeseg.spec import TensorSpec

__all__ = ["Binding", "aligned_array"]

Array = npt.NDArray[Any]

_ALIGNMENT_BYTES = 64
"""A line of the cache, and the widest vector: what inference libraries align their own memory to;
ONNX Runtime and OpenVINO copy inputs, or take slower loops, where memory is aligned to less."""


def aligned_array(spec: TensorSpec) -> Array:
    """A C-contiguous array of zeros of a tensor's dtype and shape, at a multiple of 64 bytes."""
    dtype = np.dtype(spec.dtype)
    size_bytes = math.prod(spec.shape) * dtype.itemsize
    memory = np.zeros(size_bytes + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + size_bytes].view(dtype).reshape(spec.shape)


class Binding(Closing):
    """One request of an engine with the arrays that it reads and writes. ``Engine.bind`` makes it.

    Fill ``inputs``, call ``run``, use what it returns before the next ``run``. A binding serves one
    run at a time; several bindings of one engine may run at once.

    Attributes:
        inputs: by name, C-contiguous and writeable, of the engine's dtypes and shapes. They keep
            their values until somebody writes into them.
        in_place: whether the library reads the inputs and writes the outputs where they lie; if
            not, it copies in each run, as ``Engine.infer`` does.
    """

    def __init__(
        self,
        inputs: Mapping[str, Array],
        run: Callable[[], Mapping[str, Array]],
        *,
        in_place: bool,
        name: str,
    ) -> None:
        """Bind arrays.

        Args:
            inputs: what ``run`` reads.
            run: runs the graph and returns the outputs by name.
            in_place: as the attribute.
            name: of the backend, for messages.
        """
        self.inputs = dict(inputs)
        self.in_place = in_place
        self._run: Callable[[], Mapping[str, Array]] | None = run
        self._name = name
        self._busy = threading.Lock()

    def run(self) -> Mapping[str, Array]:
        """Run the graph on ``inputs``.

        Returns:
            The outputs by name, valid until the next run: copy what is to be kept.

        Raises:
            BackendError: the binding or its engine is closed, another thread is running it, or the
                library failed.
        """
        if not self._busy.acquire(blocking=False):
            raise BackendError(
                f"this {self._name} binding is running already: make one for each thread"
            )
        try:
            run = self._run
            if run is None:
                raise BackendError(f"this {self._name} engine is closed")
            return run()
        finally:
            self._busy.release()

    def close(self) -> None:
        """Let go of the library's memory, after the run that is under way; then ``run`` raises."""
        with self._busy:
            self._run = None
