"""TensorRT engines: host arrays in and out, or work on a caller's stream."""

from __future__ import annotations

import contextlib
import gc
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.backends._tensorrt.layers import (
    LayerDetail,
    describe_layers,
    layer_information,
    uses_dla,
)
from edgeseg.backends._tensorrt.library import device_index, loaded
from edgeseg.backends._tensorrt.loading import load_plan, make_runtime
from edgeseg.backends._tensorrt.log import Heard, shared_log
from edgeseg.backends._tensorrt.ports import Ports, read_ports
from edgeseg.backends._tensorrt.profiling import LayerTimes, make_profiler
from edgeseg.backends.base import Array, Engine, EngineInfo, EngineOptions, LayerTime
from edgeseg.errors import BackendError, DeviceMemoryError, InputError
from edgeseg.kernels._device_array import DeviceArray, read_array
from edgeseg.spec import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

    from edgeseg.gpu import DeviceBuffer, Gpu, HostBuffer, Stream

__all__ = ["TensorRtEngine"]

# NvInferRuntime.h, IExecutionContext::setTensorAddress.
_ALIGNMENT_BYTES = 256
_DEFAULT_STREAMS = (0, 1)
"""CUDA's handles: the default, and the legacy one by name."""


@dataclass(frozen=True)
class _HostPath:
    """What ``infer`` needs beside the engine: a stream, and memory on both sides of the bus."""

    stream: Stream
    host: dict[str, HostBuffer]
    device: dict[str, DeviceBuffer]


class TensorRtEngine(Engine):
    """One execution context of a plan. It is a ``StreamEngine`` too.

    ``infer`` serves one call at a time. Page-locked memory and a stream for it are made at its
    first call, so that whoever only calls ``enqueue`` pays for neither.
    """

    _runtime: trt.Runtime
    _engine: trt.ICudaEngine
    _context: trt.IExecutionContext
    _profiler: trt.IProfiler

    def __init__(
        self,
        plan: Path,
        options: EngineOptions,
        *,
        gpu: Gpu | None = None,
        trt: Any | None = None,
    ) -> None:
        """Load a plan that ``compile_plan`` wrote for this device.

        Args:
            plan: the file. It holds machine code: load only what was verified.
            options: ``inputs`` and ``outputs`` put those in that order and hide the others, which
                are fed with zeros and not returned, but computed all the same; ``threads``,
                ``hint`` and ``batch`` change nothing in a plan.
            gpu: an open device, which stays open; None opens the one of ``options.device``.
            trt: the module ``tensorrt``; None imports it.

        Raises:
            MissingDependencyError: TensorRT or cuda-bindings is not installed.
            BackendUnavailableError: this TensorRT is not served, or there is no such device.
            PlanError: the plan is damaged, or of another device or version.
            DeviceMemoryError: it does not fit into the device's memory.
            BackendError: an input or output has no fixed shape, or a type that is not served.
        """
        from edgeseg.gpu import Gpu as OpenGpu

        index = device_index(options.device)
        lib = loaded(trt)
        self._log = shared_log(lib)
        self._lock = threading.Lock()
        self._resources = contextlib.ExitStack()
        self._host_path: _HostPath | None = None
        self._times = LayerTimes()
        self._details: dict[str, LayerDetail] = {}
        self._scratch: dict[str, DeviceBuffer] = {}
        self._profiler = None
        self._context = None
        self._engine = None
        self._runtime = None
        try:
            self._gpu: Gpu = (
                self._resources.enter_context(OpenGpu.open(index)) if gpu is None else gpu
            )
            self._gpu.make_current()
            self._runtime = make_runtime(lib, options.dla_core)
            self._engine = load_plan(lib, self._runtime, plan)
            ports = read_ports(lib, self._engine)
            self._make_context(lib, plan, options.profile)
            self._make_scratch(ports, options)
            self.capturable = options.dla_core is None and not self._on_dla(lib)
        except BaseException as error:
            # Its frames still hold the engine, which must go before the run time it came from.
            traceback.clear_frames(error.__traceback__)
            self._close()
            raise
        super().__init__(
            _wanted(ports.inputs, options.inputs),
            _wanted(ports.outputs, options.outputs),
            EngineInfo(
                backend="tensorrt",
                version=str(lib.__version__),
                device=f"GPU.{self._gpu.info.index}",
                device_name=self._gpu.info.name,
                threads=0,
                precision="as written in the graph",
            ),
            parallel=1,
            profiled=options.profile,
        )

    def enqueue(self, tensors: Mapping[str, DeviceArray], stream: int) -> None:
        """Enqueue one run on ``stream`` and return; see ``StreamEngine``.

        Args:
            tensors: an array for every one of ``inputs`` and ``outputs``, C-contiguous, of its
                dtype and shape, at an address that is a multiple of 256 bytes, as TensorRT wants
                it (allocations are; views into them need not be).
            stream: a ``cudaStream_t`` that is not the default stream.

        Raises:
            InputError: a tensor does not fit, or the stream is a default stream; nothing was
                enqueued.
            DeviceMemoryError: TensorRT ran out of memory.
            BackendError: the engine is closed, or TensorRT refused.
        """
        if self._closed:
            raise BackendError("this tensorrt engine is closed")
        if stream in _DEFAULT_STREAMS:
            raise InputError("TensorRT needs a stream of its own, not a default stream of CUDA")
        names = {spec.name for spec in (*self.inputs, *self.outputs)}
        if tensors.keys() != names:
            raise InputError(f"the engine takes tensors {sorted(names)}, got {sorted(tensors)}")
        addresses = {name: buffer.address for name, buffer in self._scratch.items()}
        for spec in self.inputs:
            addresses[spec.name] = _address(spec, tensors[spec.name], writeable=False)
        for spec in self.outputs:
            addresses[spec.name] = _address(spec, tensors[spec.name], writeable=True)
        with self._log.listen() as heard:
            for name, address in addresses.items():
                if not self._context.set_tensor_address(name, address):
                    raise BackendError(
                        f"TensorRT refuses the memory of tensor {name!r} ({heard.quote()})"
                    )
            good = self._context.execute_async_v3(stream)
        if not good:
            raise _failed(heard)

    def _infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        with self._lock:
            if self._closed:  # while this call waited
                raise BackendError("this tensorrt engine is closed")
            return self._run(inputs)

    def _run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        self._gpu.make_current()  # CUDA's current device is each thread's own
        path = self._host_path = self._host_path or self._make_host_path()
        try:
            for name, array in inputs.items():
                path.host[name].array[...] = array
                self._gpu.upload(path.device[name], path.host[name].array, path.stream)
            self.enqueue(path.device, path.stream.handle)
            for spec in self.outputs:
                self._gpu.download(path.host[spec.name].array, path.device[spec.name], path.stream)
        finally:
            # Even after a failure nothing may be under way when the buffers are used again.
            path.stream.synchronize()
        return {spec.name: np.array(path.host[spec.name].array) for spec in self.outputs}

    def _profile(self, inputs: dict[str, Array], rounds: int) -> tuple[LayerTime, ...]:
        with self._lock, self._log.listen() as heard:
            for i in range(rounds + 1):
                self._run(inputs)
                if not self._context.report_to_profiler():
                    raise BackendError(f"TensorRT tells no times of layers ({heard.quote()})")
                self._times.end_round(keep=i > 0)
        return self._times.take(self._details)

    def _close(self) -> None:
        """Free what uses the engine, then the engine, then what it came from."""
        with self._lock:  # not beneath a call of another thread
            self._host_path = None
            self._scratch = {}
            self._context = None
            self._profiler = None
            gc.collect()  # what errors of earlier calls still refer to
            self._engine = None
            self._runtime = None
            self._resources.close()

    def _make_context(self, lib: Any, plan: Path, profile: bool) -> None:
        with self._log.listen() as heard:
            try:
                self._context = self._engine.create_execution_context()
            except (MemoryError, RuntimeError):
                self._context = None
        if self._context is None:
            if heard.errors and not heard.out_of_memory:
                raise BackendError(f"TensorRT cannot run the plan {plan} ({heard.quote()})")
            need_mib = int(self._engine.device_memory_size_v2) >> 20
            raise DeviceMemoryError(
                f"{self._gpu.info.name} has not the {need_mib} MiB left that the plan {plan} works "
                f"in ({heard.quote()}): close other programs, or use a smaller model"
            )
        if profile:
            self._details = {
                layer.name: layer for layer in describe_layers(layer_information(lib, self._engine))
            }
            self._profiler = make_profiler(lib, self._times)
            self._context.profiler = self._profiler
            # Otherwise every call would wait for the device.
            self._context.enqueue_emits_profile = False
        else:
            # Plans are compiled with all details, whose markers for Nsight cost time in each call.
            self._context.nvtx_verbosity = lib.ProfilingVerbosity.NONE

    def _make_scratch(self, ports: Ports, options: EngineOptions) -> None:
        """Memory for the ports that the caller does not want to see."""
        for specs, wanted, make in (
            (ports.inputs, options.inputs, self._gpu.zeros),
            (ports.outputs, options.outputs, self._gpu.empty),
        ):
            for spec in specs:
                if wanted is not None and spec.name not in wanted:
                    self._scratch[spec.name] = self._resources.enter_context(
                        make(spec.shape, spec.dtype)
                    )

    def _make_host_path(self) -> _HostPath:
        with contextlib.ExitStack() as undo:
            specs = (*self.inputs, *self.outputs)
            keep = undo.enter_context
            stream = keep(self._gpu.stream())
            host = {s.name: keep(self._gpu.host(s.shape, s.dtype)) for s in specs}
            device = {s.name: keep(self._gpu.empty(s.shape, s.dtype)) for s in specs}
            self._resources.push(undo.pop_all())
        return _HostPath(stream, host, device)

    def _on_dla(self, lib: Any) -> bool:
        """Whether a layer was compiled for a DLA core."""
        if int(self._runtime.num_DLA_cores) == 0:
            return False
        return uses_dla(describe_layers(layer_information(lib, self._engine)))


def _wanted(ports: Sequence[TensorSpec], names: Sequence[str] | None) -> tuple[TensorSpec, ...]:
    """The ports of those names in their order; all of them, in the engine's, for None."""
    if names is None:
        return tuple(ports)
    found = {spec.name: spec for spec in ports}
    return tuple(found[name] for name in names if name in found)


def _address(spec: TensorSpec, array: DeviceArray, *, writeable: bool) -> int:
    """The address of a tensor that fits ``spec``."""
    block = read_array(f"tensor {spec.name!r}", array, [spec.dtype], writeable=writeable)
    if block.shape != spec.shape:
        raise InputError(f"tensor {spec.name!r}: expected {spec.shape}, got {block.shape}")
    if block.address % _ALIGNMENT_BYTES:
        raise InputError(
            f"tensor {spec.name!r} lies at {block.address:#x}: TensorRT needs addresses that are "
            f"multiples of {_ALIGNMENT_BYTES}"
        )
    return block.address


def _failed(heard: Heard) -> BackendError:
    if heard.out_of_memory:
        return DeviceMemoryError(
            f"the device has not enough memory to run the plan ({heard.quote()}): close other "
            "programs, or use a smaller model"
        )
    return BackendError(f"TensorRT failed while running ({heard.quote()})")
