"""The seam between edgeseg and an inference library.

An engine is a compiled graph with named inputs and outputs of any rank and fixed shape: images,
batches of views, volumes. It holds no state between calls (smoothing over time belongs to the
read-out), so calls may come in any order and, up to ``parallel`` at once, from several threads.

``Engine`` takes and gives arrays in host memory: ``infer`` any arrays, copying where it must, a
``Binding`` those that it was made with, which CPU libraries then read and write where they lie.
What works on device memory, on a caller's stream, is a ``StreamEngine``; an engine can be both.
"""

from __future__ import annotations

import abc
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np

from edgeseg._closing import Closing
from edgeseg.backends.binding import Array, Binding, aligned_array
from edgeseg.errors import BackendError, BackendUnavailableError, InputError, UsageError
from edgeseg.kernels.cuda import DeviceArray
from edgeseg.spec import TensorSpec

__all__ = [
    "Array",
    "Binding",
    "BoundRun",
    "CoreType",
    "Engine",
    "EngineInfo",
    "EngineOptions",
    "Hint",
    "LayerTime",
    "StreamEngine",
    "placement_for",
    "usual_layout",
]

Hint = Literal["latency", "throughput"]
CoreType = Literal["any", "performance", "efficiency"]
"""Which of a hybrid processor's cores to use."""
BoundRun = Callable[[], Mapping[str, Array]]
"""Runs a graph on arrays that it was made with; its results are valid until the next call."""


def usual_layout(dtype: str, shape: Sequence[int]) -> str:
    """Usual dimension letters of a tensor whose file names none: images, volumes, tokens.

    Bytes with three of them in the last dimension are pictures.
    """
    rank = len(shape)
    if dtype == "uint8" and rank == 4 and shape[3] == 3:
        return "NHWC"
    return {5: "NCDHW", 4: "NCHW", 3: "NTC", 2: "NC", 1: "N"}.get(rank, "D" * rank)


def placement_for(backend: str, device: str) -> str:
    """The backend whose variant of a bundle serves: TensorRT's also inside ONNX Runtime.

    TensorRT reads signed Q/DQ alone, ONNX Runtime's own kernels want unsigned activations.
    """
    inside = backend == "onnxruntime" and device.upper().startswith("TENSORRT")
    return "tensorrt" if inside else backend


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
    profile: bool = False
    """Prepare ``Engine.profile``; an engine so opened may be slower."""
    products: Literal["fp32", "fp16", "int8"] | None = None
    """Arithmetic of the graph's matrix products (``Variant.products``), for libraries that have to
    be told; None where the caller does not know."""
    rest: Literal["fp32", "fp16"] | None = None
    """Arithmetic of everything else in the graph (``Variant.rest``)."""
    bfloat16: bool = False
    """Compute an FP32 rest in bfloat16 where the processor has instructions for it
    (``Variant.bfloat16``); ``EngineInfo.precision`` says what it is then."""
    dla_core: int | None = None
    """The deep learning accelerator that a plan was compiled for; None for one without."""
    pinning: bool | None = None
    """On the CPU, whether each thread keeps to a core; None lets the library choose."""
    hyper_threading: bool | None = None
    """On the CPU, whether both threads of a core are used; OpenVINO's alone."""
    core_type: CoreType | None = None
    """On the CPU, cores of a hybrid processor to use; OpenVINO's alone."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")
        if self.hint not in get_args(Hint):
            raise UsageError(f"unknown hint {self.hint!r}: choose {', '.join(get_args(Hint))}")
        if self.core_type is not None and self.core_type not in get_args(CoreType):
            raise UsageError(
                f"unknown core type {self.core_type!r}: choose {', '.join(get_args(CoreType))}"
            )
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


@dataclass(frozen=True)
class LayerTime:
    """What one layer of a compiled graph takes."""

    name: str
    """As the library calls it; a fused layer's name names the ONNX nodes in it, where the library
    tells them."""
    kind: str
    """The library's word for what it does."""
    median_ms: float


@runtime_checkable
class StreamEngine(Protocol):
    """What enqueues a graph's work on a stream of a CUDA device.

    Whoever calls it keeps all arrays alive and unchanged until the work is done, and orders calls
    on one stream: the engine's scratch memory serves one call at a time.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    capturable: bool
    """Whether ``enqueue`` may be captured in a CUDA graph, after one call that was not."""

    def enqueue(self, tensors: Mapping[str, DeviceArray], stream: int) -> None:
        """Enqueue one run and return.

        Args:
            tensors: for every input and every output a C-contiguous array on the device, of its
                dtype and shape.
            stream: a ``cudaStream_t`` as an integer; not the default stream.

        Raises:
            BackendError: the library refused.
        """
        ...


class Engine(Closing):
    """A loaded graph. Use it as a context manager, or call ``close``."""

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        info: EngineInfo,
        parallel: int = 1,
        *,
        profiled: bool = False,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.info = info
        self.parallel = parallel
        self.profiled = profiled
        self._closed = False
        self._binding_lock = threading.Lock()
        self._bindings: weakref.WeakSet[Binding] = weakref.WeakSet()

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

    def bind(self) -> Binding:
        """Arrays for the graph's inputs and outputs, and a request that works on them.

        A library that cannot work on a caller's memory copies in each run (``Binding.in_place``).
        Several bindings may run at once; the library works on up to ``parallel`` of them.

        Raises:
            BackendError: the engine is closed, or the library refuses the memory.
        """
        inputs = {spec.name: aligned_array(spec) for spec in self.inputs}
        with self._binding_lock:
            if self._closed:
                raise BackendError(f"this {self.info.backend} engine is closed")
            bound = self._bind(inputs)
            binding = Binding(
                inputs,
                bound or (lambda: self._infer(inputs)),
                in_place=bound is not None,
                name=self.info.backend,
            )
            self._bindings.add(binding)
        return binding

    def profile(self, inputs: Mapping[str, Array], *, rounds: int = 20) -> tuple[LayerTime, ...]:
        """Time the layers of the compiled graph, in the order in which they run.

        The engine must have been opened with ``EngineOptions.profile``. What profiling itself costs
        is in the times; their sum is larger than the time of an unprofiled run.

        Args:
            inputs: as for ``infer``.
            rounds: the medians are over so many runs, after one that does not count.

        Raises:
            BackendUnavailableError: this library tells no times of layers.
            UsageError: the engine was opened without ``EngineOptions.profile``, or there are no
                rounds.
        """
        if self._closed:
            raise BackendError(f"this {self.info.backend} engine is closed")
        if not self.profiled:
            raise UsageError("open the engine with EngineOptions(profile=True) to profile it")
        if rounds < 1:
            raise UsageError(f"rounds must be at least 1, got {rounds}")
        self._check(inputs)
        return self._profile(
            {s.name: np.ascontiguousarray(inputs[s.name]) for s in self.inputs}, rounds
        )

    def close(self) -> None:
        """Free the library's memory; further runs of it and of its bindings raise."""
        with self._binding_lock:
            if self._closed:
                return
            self._closed = True
            bindings = list(self._bindings)
        # What a binding holds would keep the library's memory alive.
        for binding in bindings:
            binding.close()
        self._close()

    @abc.abstractmethod
    def _infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run checked, contiguous inputs; results must not alias memory of the library."""

    def _bind(self, inputs: dict[str, Array]) -> BoundRun | None:
        """What runs the graph on these very arrays; None where ``_infer`` has to copy them."""
        return None

    def _profile(self, inputs: dict[str, Array], rounds: int) -> tuple[LayerTime, ...]:
        """``profile`` for checked inputs."""
        raise BackendUnavailableError(f"{self.info.backend} tells no times of layers")

    @abc.abstractmethod
    def _close(self) -> None:
        """Free what the library holds."""

    def _check(self, inputs: Mapping[str, Array]) -> None:
        expected = {spec.name: spec for spec in self.inputs}
        if set(inputs) != set(expected):
            raise InputError(f"the engine takes inputs {sorted(expected)}, got {sorted(inputs)}")
        for name, spec in expected.items():
            array = inputs[name]
            if not isinstance(array, np.ndarray):
                raise InputError(
                    f"input {name!r}: expected a numpy array, got {type(array).__name__}"
                )
            if array.dtype != np.dtype(spec.dtype) or array.shape != spec.shape:
                raise InputError(
                    f"input {name!r}: expected {spec.dtype} {spec.shape} ({spec.layout}), "
                    f"got {array.dtype} {array.shape}"
                )
