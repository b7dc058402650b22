"""The seam between edgeseg and an inference library.

An engine is a compiled graph with named inputs and outputs of any rank and fixed shape: images,
batches of views, volumes. It holds no state between calls (smoothing over time belongs to the
read-out), so calls may come in any order and, up to ``parallel`` at once, from several threads. An
engine whose tensors live on a device names that memory in ``memory`` and extends ``_check_array``
to arrays that carry ``__cuda_array_interface__``; names, shapes and dtypes are checked alike.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgeseg._closing import Closing
from edgeseg.errors import BackendError, InputError, UsageError
from edgeseg.spec import TensorSpec

__all__ = ["Array", "Engine", "EngineInfo", "EngineOptions", "Hint", "layout_of_rank"]

Hint = Literal["latency", "throughput"]
Array = npt.NDArray[Any]


def layout_of_rank(rank: int) -> str:
    """Usual dimension letters of a tensor whose file names none: images, volumes, tokens."""
    return {5: "NCDHW", 4: "NCHW", 3: "NTC", 2: "NC", 1: "N"}.get(rank, "D" * rank)


@dataclass(frozen=True)
class EngineOptions:
    """What a caller may ask of a backend."""

    device: str = "CPU"
    threads: int | None = None
    """CPU threads for one engine; None lets the library choose."""
    hint: Hint = "latency"
    """``latency``: one request at a time, all threads on it; ``throughput``: several at once."""
    inputs: tuple[str, ...] | None = None
    """The only inputs to take, where ``outputs`` need no others; None for all."""
    outputs: tuple[str, ...] | None = None
    """The only outputs to compute; None for all."""
    batch: int | None = None
    """Wanted first dimension of the inputs, smaller than that of the file. A library that cannot
    change it keeps it; the engine's ``inputs`` say what it is."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")
        if self.hint not in get_args(Hint):
            raise UsageError(f"unknown hint {self.hint!r}: choose {', '.join(get_args(Hint))}")
        # Libraries spell devices in capitals; users need not.
        object.__setattr__(self, "device", self.device.upper())


@dataclass(frozen=True)
class EngineInfo:
    """What was really loaded, for reports."""

    backend: str
    version: str
    device: str
    device_name: str
    threads: int
    precision: str
    """Arithmetic the library was allowed to use outside INT8 products, e.g. ``f32``."""


class Engine(Closing):
    """A loaded graph. Use it as a context manager, or call ``close``."""

    memory: Literal["host", "cuda"] = "host"

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        info: EngineInfo,
        parallel: int = 1,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.info = info
        self.parallel = parallel
        self._closed = False

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once.

        Args:
            inputs: one array for each of ``self.inputs``, of exactly its dtype and shape.

        Returns:
            One new array for each of ``self.outputs``; the caller owns them.

        Raises:
            InputError: a name, dtype or shape does not fit; nothing was run.
            BackendError: the engine is closed, or the library failed.
        """
        if self._closed:
            raise BackendError(f"this {self.info.backend} engine is closed")
        self._check(inputs)
        return self._infer({s.name: np.ascontiguousarray(inputs[s.name]) for s in self.inputs})

    def close(self) -> None:
        """Free the library's memory; further ``infer`` calls raise."""
        if not self._closed:
            self._closed = True
            self._close()

    @abc.abstractmethod
    def _infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run checked, contiguous inputs; results must not alias memory of the library."""

    @abc.abstractmethod
    def _close(self) -> None:
        """Free what the library holds."""

    def _check_array(self, name: str, array: object) -> None:
        """Refuse memory that this engine cannot read."""
        if not isinstance(array, np.ndarray):
            raise InputError(f"input {name!r}: expected a numpy array, got {type(array).__name__}")

    def _check(self, inputs: Mapping[str, Array]) -> None:
        expected = {spec.name: spec for spec in self.inputs}
        if set(inputs) != set(expected):
            raise InputError(f"the engine takes inputs {sorted(expected)}, got {sorted(inputs)}")
        for name, spec in expected.items():
            array = inputs[name]
            self._check_array(name, array)
            if array.dtype != np.dtype(spec.dtype) or array.shape != spec.shape:
                raise InputError(
                    f"input {name!r}: expected {spec.dtype} {spec.shape} ({spec.layout}), "
                    f"got {array.dtype} {array.shape}"
                )
