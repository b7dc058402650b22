"""A stand-in for ``cuda.bindings.runtime`` on host memory, and for the kernels on top of it.

``FakeRuntime`` has the functions that ``edgeseg.gpu`` calls, with the same parameters and tuples.
What is enqueued runs as late as it can: when something waits for it, in a random order (``seed``)
that keeps only the order within a stream and what events say. So a missing join, a buffer that is
used again too early, or a host that reads before it waits gives wrong data for some seed.

    runtime = FakeRuntime(seed=3)
    with Gpu.open(runtime=runtime) as gpu:
        kernels = fake_kernels(runtime, host)           # the fixture of conftest.py
        cuda.fuse_views(..., stream=stream.handle, native=kernels)
        runtime.enqueue(stream.handle, lambda: ...)     # work of any other double
    runtime.assert_clean()

Rules that it keeps to, from the CUDA Runtime API reference ("Stream Management", "Event
Management", "Graph Management", "API synchronization behavior") and the CUDA programming guide
("Stream capture"). Where CUDA leaves something open, it is as unkind as CUDA may be.
"""

# Functions are spelled as CUDA spells them.
# ruff: noqa: N802

from __future__ import annotations

import ctypes
import functools
import itertools
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from edgeseg.kernels import _fuse, _views
from edgeseg.kernels._cuda_library import CudaLibrary, CudaLibraryInfo
from edgeseg.kernels._library import Frame

real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

Array = npt.NDArray[Any]
Error = real.cudaError_t
LEGACY = 0
GUARD_BYTES = 512
"""Around every allocation; must not change."""
GUARD = 0xA5
STALE = 0xFF
"""Fresh and freed memory: NaN in every floating type."""
ALIGNMENT = 512


class Handle:
    """As the bindings give them: not an int, but with one inside."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


class Block:
    """An allocation, between guards."""

    def __init__(self, nbytes: int, kind: str) -> None:
        self.nbytes = nbytes
        self.kind = kind
        self._whole = np.full(nbytes + 2 * GUARD_BYTES + ALIGNMENT, GUARD, np.uint8)
        start = self._whole.ctypes.data + GUARD_BYTES
        self.address = -(-start // ALIGNMENT) * ALIGNMENT
        first = self.address - self._whole.ctypes.data
        self.bytes = self._whole[first : first + nbytes]
        self.bytes[:] = STALE
        self._around = (self._whole[:first], self._whole[first + nbytes :])

    @property
    def intact(self) -> bool:
        """Whether nothing was written beside it."""
        return all(bool((guard == GUARD).all()) for guard in self._around)

    def holds(self, address: int, nbytes: int) -> bool:
        return self.address <= address and address + nbytes <= self.address + self.nbytes


@dataclass(eq=False)
class Operation:
    """Something enqueued."""

    run: Callable[[], None]
    lane: object
    """What it is ordered with: a stream, or a node of one launch of a graph."""
    after: tuple[Operation, ...]
    done: bool = False

    @property
    def ready(self) -> bool:
        return all(before.done for before in self.after)


@dataclass(eq=False)
class Stream:
    handle: int
    blocking: bool
    """Ordered with the default stream."""
    tail: Operation | None = None
    capture: Capture | None = None
    nodes: tuple[Node, ...] = ()
    """While capturing: what the next node comes after."""
    destroyed: bool = False


@dataclass(eq=False)
class Event:
    handle: int
    timing: bool
    record: Operation | None = None
    time_ms: float | None = None
    captured: tuple[Capture, tuple[Node, ...]] | None = None
    """Set where it was last recorded in a capture."""


@dataclass(eq=False)
class Node:
    """An operation of a graph."""

    run: Callable[[], None]
    after: tuple[Node, ...]


@dataclass(eq=False)
class Capture:
    origin: Stream
    thread: int
    global_mode: bool
    nodes: list[Node] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    invalid: bool = False


@dataclass(eq=False)
class Executable:
    nodes: tuple[Node, ...]
    last: Operation | None = None


def call(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the run time: counted, made to fail on demand, one at a time."""

    @functools.wraps(function)
    def wrapped(self: FakeRuntime, *arguments: Any) -> Any:
        with self._lock:
            error = self._before(function.__name__)
            if error is not None:
                return (error, *[None] * self.RESULTS.get(function.__name__, 0))
            return function(self, *arguments)

    return wrapped


class FakeRuntime:
    """See the module.

    Args:
        seed: of the order in which things run.
        devices: how many there are; with 0 the driver shows none.
        integrated: whether the devices share the host's memory.
        total_bytes: of memory on the device.
        fail: name of a function -> the number of the call, from 1 on, that fails: allocations for
            want of memory, everything else with cudaErrorUnknown. ``cudaStreamEndCapture`` fails
            as after a spoilt capture.
        driver: what cudaDriverGetVersion says; 0: there is no driver.
        version: what cudaRuntimeGetVersion says.
    """

    # How many values follow the status, which are None where a call fails.
    RESULTS: Mapping[str, int] = {
        **dict.fromkeys(
            (
                *("cudaGetDeviceCount", "cudaGetDevice", "cudaDeviceGetAttribute", "cudaMalloc"),
                *("cudaGetDeviceProperties", "cudaHostAlloc", "cudaHostGetDevicePointer"),
                *("cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaStreamEndCapture"),
                *("cudaEventElapsedTime", "cudaGraphInstantiate", "cudaDriverGetVersion"),
                *("cudaRuntimeGetVersion", "cudaGetErrorString", "cudaGetErrorName"),
            ),
            1,
        ),
        "cudaMemGetInfo": 2,
    }
    # These work without a driver.
    _ALWAYS = ("cudaDriverGetVersion", "cudaRuntimeGetVersion", "cudaGetErrorString",
               "cudaGetErrorName", "cudaGetLastError")  # fmt: skip

    def __init__(
        self,
        seed: int = 0,
        *,
        devices: int = 1,
        integrated: bool = False,
        total_bytes: int = 8 << 30,
        fail: Mapping[str, int] | None = None,
        driver: int = 13000,
        version: int = 13000,
    ) -> None:
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._devices = devices
        self._integrated = integrated
        self._total_bytes = total_bytes
        self._fail = dict(fail or {})
        self._driver = driver
        self._version = version
        self._thread = threading.local()
        self._handles = itertools.count(0x7F0000001000, 0x100)
        self._blocks: list[Block] = []
        self._freed: list[Block] = []
        self._outside: list[Block] = []
        self._streams = {LEGACY: Stream(LEGACY, blocking=True)}
        self._events: dict[int, Event] = {}
        self._graphs: dict[int, tuple[Node, ...]] = {}
        self._executables: dict[int, Executable] = {}
        self._captures: list[Capture] = []
        self._pending: list[Operation] = []
        self._clock_ms = 0.0
        self._sticky: Any = None
        self._last = Error.cudaSuccess
        self.calls: dict[str, int] = {}
        """How often each function was called."""
        self.faults: list[str] = []
        """What a program must not do and CUDA may not even notice."""

    def __getattr__(self, name: str) -> Any:
        """Enums and constants are those of the real module; its functions are not."""
        value = getattr(real, name, None)
        if isinstance(value, (type, int)) and not name.startswith("_"):
            return value
        raise AttributeError(f"tests/cuda_double.py has no {name}")

    # What tests ask.

    def live(self) -> dict[str, int]:
        """Numbers of things that are not yet freed, by kind."""
        found = {
            "memory": sum(block.kind == "device" for block in self._blocks),
            "host memory": sum(block.kind != "device" for block in self._blocks),
            "streams": sum(not s.destroyed for h, s in self._streams.items() if h != LEGACY),
            "events": len(self._events),
            "graphs": len(self._graphs),
            "executables": len(self._executables),
            "captures": len(self._captures),
        }
        return {kind: count for kind, count in found.items() if count}

    def assert_clean(self) -> None:
        """Fail unless everything was freed and nothing was done that must not be."""
        self.check()
        assert not self.live(), f"not freed: {self.live()}"

    def check(self) -> None:
        """Fail if something was done that must not be."""
        for block in (*self._blocks, *self._outside):
            if not block.intact:
                self._fault(f"written beside {block.nbytes} bytes of {block.kind} memory")
        for block in self._freed:
            if not block.intact or not bool((block.bytes == STALE).all()):
                self._fault(f"{block.nbytes} bytes of {block.kind} memory written after the free")
        assert not self.faults, self.faults

    def array(self, values: Array) -> OutsideArray:
        """An array of another library on this device, which holds ``values`` already."""
        return OutsideArray(self, values)

    def read(self, array: Any) -> Array:
        """What lies in a device array at this moment; waits for nothing."""
        interface = array.__cuda_array_interface__
        holder = SimpleNamespace(__array_interface__={**interface, "version": 3})
        self._find(interface["data"][0], 1)
        return np.array(holder)

    def enqueue(
        self, stream: int, operation: Callable[[], None], touches: Iterable[tuple[int, int]] = ()
    ) -> Any:
        """Put work on a stream, as a kernel launch does.

        Args:
            stream: a handle, 0 for the default stream.
            operation: what to do when the work runs, perhaps never, perhaps often (in a graph).
            touches: (address, bytes) that must be allocated then.

        Returns:
            A ``cudaError_t``; if it is not success, nothing was enqueued.
        """
        with self._lock:
            error = self._before("enqueue")
            if error is not None:
                return error
            checked = tuple(touches)

            def run() -> None:
                for address, nbytes in checked:
                    self._find(address, nbytes)
                operation()

            return self._enqueue(int(stream), run)[0]

    def capturing(self) -> bool:
        """Whether this thread captures, or another one does in global mode."""
        return self._own_capture() is not None

    # Versions, errors, devices.

    @call
    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, self._driver

    @call
    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, self._version

    @call
    def cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return real.cudaGetErrorString(Error(error))

    @call
    def cudaGetErrorName(self, error: Any) -> tuple[Any, ...]:
        return real.cudaGetErrorName(Error(error))

    @call
    def cudaGetLastError(self) -> tuple[Any, ...]:
        last, self._last = self._last, Error.cudaSuccess
        return (last,)

    @call
    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        if not self._devices:
            return self._refuse(Error.cudaErrorNoDevice), None
        return Error.cudaSuccess, self._devices

    @call
    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        if not 0 <= device < self._devices:
            return (self._refuse(Error.cudaErrorInvalidDevice),)
        self._thread.device = device
        return (Error.cudaSuccess,)

    @call
    def cudaGetDevice(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, getattr(self._thread, "device", 0)

    @call
    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        name = b"Double of a GPU" + (f" {device}".encode() if self._devices > 1 else b"")
        return Error.cudaSuccess, SimpleNamespace(name=name, totalGlobalMem=self._total_bytes)

    @call
    def cudaDeviceGetAttribute(self, attribute: Any, device: int) -> tuple[Any, ...]:
        kinds = real.cudaDeviceAttr
        values = {
            kinds.cudaDevAttrComputeCapabilityMajor: 8,
            kinds.cudaDevAttrComputeCapabilityMinor: 7,
            kinds.cudaDevAttrIntegrated: int(self._integrated),
            kinds.cudaDevAttrCanMapHostMemory: 1,
        }
        return Error.cudaSuccess, values[attribute]

    @call
    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, self._total_bytes - self._used(), self._total_bytes

    @call
    def cudaDeviceSynchronize(self) -> tuple[Any, ...]:
        if self._captures:
            return (self._spoil(Error.cudaErrorStreamCaptureUnsupported, self._own_capture()),)
        return (self._complete(list(self._pending)),)

    # Memory.

    @call
    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocate(size, "device")

    @call
    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        return (self._free(int(devPtr), ("device",)),)

    @call
    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        mapped = bool(flags & real.cudaHostAllocMapped)
        return self._allocate(size, "mapped" if mapped else "host")

    @call
    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        return (self._free(int(ptr), ("host", "mapped")),)

    @call
    def cudaHostGetDevicePointer(self, pHost: int, flags: int) -> tuple[Any, ...]:
        block = self._block(int(pHost), 1)
        if block is None or block.kind != "mapped":
            return self._refuse(Error.cudaErrorInvalidValue), None
        return Error.cudaSuccess, int(pHost)

    @call
    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: Any, stream: Any
    ) -> tuple[Any, ...]:
        return (self._copy(int(dst), count, int(src), count, count, 1, kind, int(stream)),)

    @call
    def cudaMemcpy2DAsync(
        self,
        dst: int,
        dpitch: int,
        src: int,
        spitch: int,
        width: int,
        height: int,
        kind: Any,
        stream: Any,
    ) -> tuple[Any, ...]:
        if width > dpitch or width > spitch:
            return (self._refuse(Error.cudaErrorInvalidPitchValue),)
        return (self._copy(int(dst), dpitch, int(src), spitch, width, height, kind, int(stream)),)

    @call
    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: Any) -> tuple[Any, ...]:
        address = int(devPtr)
        if self._block(address, count) is None:
            return (self._refuse(Error.cudaErrorInvalidValue),)

        def run() -> None:
            self._find(address, count)
            ctypes.memset(address, value, count)

        return self._enqueue(int(stream), run)[:1]

    # Streams and events.

    @call
    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        handle = next(self._handles)
        self._streams[handle] = Stream(handle, blocking=not flags & real.cudaStreamNonBlocking)
        return Error.cudaSuccess, Handle(handle)

    @call
    def cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:
        found = self._stream(stream)
        if found is None or found.handle == LEGACY:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if found.capture is not None:
            return (self._spoil(Error.cudaErrorStreamCaptureUnsupported, found.capture),)
        # What is enqueued there still runs.
        found.destroyed = True
        return (Error.cudaSuccess,)

    @call
    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        found = self._stream(stream)
        if found is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if found.capture is not None:
            return (self._spoil(Error.cudaErrorStreamCaptureUnsupported, found.capture),)
        if found.handle == LEGACY and (own := self._own_capture()):
            return (self._spoil(Error.cudaErrorStreamCaptureImplicit, own),)
        return (self._complete(self._tails(found)),)

    @call
    def cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> tuple[Any, ...]:
        waiting, mark = self._stream(stream), self._events.get(int(event))
        if waiting is None or mark is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if mark.captured is not None:
            return (self._join(waiting, *mark.captured),)
        if waiting.capture is not None:
            # It would depend on work outside the graph.
            return (self._spoil(Error.cudaErrorStreamCaptureIsolation, waiting.capture),)
        if waiting.handle == LEGACY and (own := self._own_capture()):
            return (self._spoil(Error.cudaErrorStreamCaptureImplicit, own),)
        if mark.record is None:
            return (Error.cudaSuccess,)
        return self._enqueue(waiting.handle, _nothing, (mark.record,))[:1]

    @call
    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        handle = next(self._handles)
        self._events[handle] = Event(handle, timing=not flags & real.cudaEventDisableTiming)
        return Error.cudaSuccess, Handle(handle)

    @call
    def cudaEventDestroy(self, event: Any) -> tuple[Any, ...]:
        if self._events.pop(int(event), None) is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        return (Error.cudaSuccess,)

    @call
    def cudaEventRecord(self, event: Any, stream: Any) -> tuple[Any, ...]:
        mark, found = self._events.get(int(event)), self._stream(stream)
        if mark is None or found is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if found.capture is not None:
            if found.capture.invalid:
                return (self._refuse(Error.cudaErrorStreamCaptureInvalidated),)
            mark.captured = (found.capture, found.nodes)
            return (Error.cudaSuccess,)
        if mark.timing:
            mark.time_ms = None

        def run() -> None:
            if mark.record is operation:
                mark.time_ms = self._clock_ms

        status, operation = self._enqueue(found.handle, run)
        if operation is not None:
            mark.record, mark.captured = operation, None
        return (status,)

    @call
    def cudaEventQuery(self, event: Any) -> tuple[Any, ...]:
        mark = self._events.get(int(event))
        if mark is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if mark.captured is not None:
            return (self._spoil(Error.cudaErrorCapturedEvent, mark.captured[0]),)
        if own := self._own_capture():
            return (self._spoil(Error.cudaErrorStreamCaptureUnsupported, own),)
        if mark.record is None or mark.record.done:
            return (self._sticky or Error.cudaSuccess,)
        # Time passes while a program polls.
        self._progress(self._random.randint(0, 3))
        if mark.record.done:
            return (self._sticky or Error.cudaSuccess,)
        return (Error.cudaErrorNotReady,)

    @call
    def cudaEventSynchronize(self, event: Any) -> tuple[Any, ...]:
        mark = self._events.get(int(event))
        if mark is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if mark.captured is not None:
            return (self._spoil(Error.cudaErrorCapturedEvent, mark.captured[0]),)
        if own := self._own_capture():
            return (self._spoil(Error.cudaErrorStreamCaptureUnsupported, own),)
        return (self._complete([] if mark.record is None else [mark.record]),)

    @call
    def cudaEventElapsedTime(self, start: Any, end: Any) -> tuple[Any, ...]:
        marks = [self._events.get(int(event)) for event in (start, end)]
        times = []
        for mark in marks:
            if mark is None or not mark.timing or (mark.record is None and not mark.captured):
                return self._refuse(Error.cudaErrorInvalidResourceHandle), None
            if mark.captured:
                return self._refuse(Error.cudaErrorCapturedEvent), None
            if mark.time_ms is None:
                return Error.cudaErrorNotReady, None
            times.append(mark.time_ms)
        return Error.cudaSuccess, times[1] - times[0]

    # Graphs.

    @call
    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any, ...]:
        found = self._stream(stream)
        if found is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if found.handle == LEGACY:
            return (self._refuse(Error.cudaErrorStreamCaptureUnsupported),)
        if found.capture is not None:
            return (self._refuse(Error.cudaErrorIllegalState),)
        modes = real.cudaStreamCaptureMode
        capture = Capture(found, threading.get_ident(), mode == modes.cudaStreamCaptureModeGlobal)
        capture.streams.append(found)
        found.capture, found.nodes = capture, ()
        self._captures.append(capture)
        return (Error.cudaSuccess,)

    @call
    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        found = self._stream(stream)
        if found is None or found.capture is None:
            return self._refuse(Error.cudaErrorIllegalState), None
        capture = found.capture
        if capture.origin is not found:
            return self._spoil(Error.cudaErrorStreamCaptureUnmatched, capture), None
        if capture.thread != threading.get_ident():
            return self._spoil(Error.cudaErrorStreamCaptureWrongThread, capture), None
        joined = _ancestors(found.nodes)
        unjoined = any(node not in joined for s in capture.streams for node in s.nodes)
        for member in capture.streams:
            member.capture, member.nodes = None, ()
        self._captures.remove(capture)
        if capture.invalid:
            return self._refuse(Error.cudaErrorStreamCaptureInvalidated), None
        if unjoined:
            return self._refuse(Error.cudaErrorStreamCaptureUnjoined), None
        handle = next(self._handles)
        self._graphs[handle] = tuple(capture.nodes)
        return Error.cudaSuccess, Handle(handle)

    @call
    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        nodes = self._graphs.get(int(graph))
        if nodes is None:
            return self._refuse(Error.cudaErrorInvalidValue), None
        handle = next(self._handles)
        self._executables[handle] = Executable(nodes)
        return Error.cudaSuccess, Handle(handle)

    @call
    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        if self._graphs.pop(int(graph), None) is None:
            return (self._refuse(Error.cudaErrorInvalidValue),)
        return (Error.cudaSuccess,)

    @call
    def cudaGraphExecDestroy(self, graphExec: Any) -> tuple[Any, ...]:
        if self._executables.pop(int(graphExec), None) is None:
            return (self._refuse(Error.cudaErrorInvalidValue),)
        return (Error.cudaSuccess,)

    @call
    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> tuple[Any, ...]:
        executable, found = self._executables.get(int(graphExec)), self._stream(stream)
        if executable is None or found is None:
            return (self._refuse(Error.cudaErrorInvalidValue),)
        if found.capture is not None or (found.handle == LEGACY and self._own_capture()):
            own = found.capture or self._own_capture()
            return (self._spoil(Error.cudaErrorStreamCaptureUnsupported, own),)
        # Launches of one graph follow each other, on whatever streams they are.
        before = self._tails(found)
        if executable.last is not None:
            before.append(executable.last)
        made: dict[Node, Operation] = {}
        for node in executable.nodes:
            after = tuple(made[n] for n in node.after) or tuple(before)
            made[node] = Operation(node.run, node, after)
            self._pending.append(made[node])
        last = Operation(_nothing, found, (*before, *made.values()))
        self._pending.append(last)
        found.tail = executable.last = last
        return (Error.cudaSuccess,)

    # How it works.

    def _before(self, name: str) -> Any:
        """The error with which a call fails, whatever its arguments are."""
        self.calls[name] = self.calls.get(name, 0) + 1
        if name not in self._ALWAYS:
            if self._driver // 1000 < self._version // 1000:
                return self._refuse(Error.cudaErrorInsufficientDriver)
            if self._sticky is not None:
                return self._sticky
        if self._fail.get(name) != self.calls[name]:
            return None
        if name == "cudaStreamEndCapture":
            for capture in self._captures:
                capture.invalid |= capture.thread == threading.get_ident()
            return None
        if name in ("cudaMalloc", "cudaHostAlloc", "cudaGraphInstantiate"):
            return self._refuse(Error.cudaErrorMemoryAllocation)
        return self._refuse(Error.cudaErrorUnknown)

    def _refuse(self, error: Any) -> Any:
        self._last = error
        return error

    def _spoil(self, error: Any, capture: Capture | None) -> Any:
        """Refuse a call in a way that makes a capture worthless."""
        if capture is not None:
            capture.invalid = True
        return self._refuse(error)

    def _fault(self, what: str) -> None:
        if what not in self.faults:
            self.faults.append(what)

    def _own_capture(self) -> Capture | None:
        """The capture that forbids this thread to call what is unsafe."""
        thread = threading.get_ident()
        return next((c for c in self._captures if c.thread == thread or c.global_mode), None)

    def _stream(self, stream: Any) -> Stream | None:
        handle = int(stream)
        if handle in (real.cudaStreamLegacy, real.cudaStreamPerThread):
            handle = LEGACY
        found = self._streams.get(handle)
        return None if found is None or found.destroyed else found

    def _used(self) -> int:
        return sum(block.nbytes for block in self._blocks if block.kind == "device")

    def _allocate(self, size: int, kind: str) -> tuple[Any, Any]:
        if own := self._own_capture():
            return self._spoil(Error.cudaErrorStreamCaptureUnsupported, own), None
        if size < 1 or (kind == "device" and size > self._total_bytes - self._used()):
            return self._refuse(Error.cudaErrorMemoryAllocation), None
        block = Block(size, kind)
        self._blocks.append(block)
        return Error.cudaSuccess, block.address

    def _free(self, address: int, kinds: Sequence[str]) -> Any:
        if address == 0:
            return Error.cudaSuccess
        if own := self._own_capture():
            return self._spoil(Error.cudaErrorStreamCaptureUnsupported, own)
        block = next((b for b in self._blocks if b.address == address and b.kind in kinds), None)
        if block is None:
            self._fault(f"freed what is not allocated: {address:#x}")
            return self._refuse(Error.cudaErrorInvalidValue)
        if not block.intact:
            self._fault(f"written beside {block.nbytes} bytes of {block.kind} memory")
        self._blocks.remove(block)
        # It stays where it is, so that whoever uses it still is found out and not killed.
        block.bytes[:] = STALE
        self._freed.append(block)
        return Error.cudaSuccess

    def _block(self, address: int, nbytes: int) -> Block | None:
        places = (*self._blocks, *self._outside)
        return next((block for block in places if block.holds(address, nbytes)), None)

    def _find(self, address: int, nbytes: int) -> None:
        """Raise unless memory is allocated, in the middle of something that runs."""
        if self._block(address, nbytes) is None:
            freed = any(block.holds(address, nbytes) for block in self._freed)
            state = "was freed" if freed else "is not allocated"
            raise IllegalAddressError(f"{nbytes} bytes at {address:#x} used, which {state}")

    def _copy(
        self,
        target: int,
        target_pitch: int,
        source: int,
        source_pitch: int,
        width: int,
        rows: int,
        kind: Any,
        stream: int,
    ) -> Any:
        spans = (
            (target, (rows - 1) * target_pitch + width),
            (source, (rows - 1) * source_pitch + width),
        )
        to_host = kind == real.cudaMemcpyKind.cudaMemcpyDeviceToHost
        from_host = kind == real.cudaMemcpyKind.cudaMemcpyHostToDevice
        on_device = spans[int(to_host) :] if to_host else spans[: 2 - int(from_host)]
        if any(self._block(*span) is None for span in on_device):
            return self._refuse(Error.cudaErrorInvalidValue)
        pageable = (to_host or from_host) and self._block(*spans[int(from_host)]) is None
        found = self._stream(stream)
        if pageable and found is not None and found.capture is not None:
            # CUDA would take the address, which nobody keeps.
            return self._spoil(Error.cudaErrorStreamCaptureUnsupported, found.capture)
        staged = None
        if pageable and from_host:
            staged = ctypes.string_at(*spans[1])

        def run() -> None:
            for span in on_device if pageable else spans:
                self._find(*span)
            held = ctypes.create_string_buffer(staged) if staged is not None else None
            begin = source if held is None else ctypes.addressof(held)
            for row in range(rows):
                ctypes.memmove(target + row * target_pitch, begin + row * source_pitch, width)

        status, operation = self._enqueue(stream, run)
        if operation is not None and pageable and to_host:
            return self._complete([operation])
        return status

    def _tails(self, stream: Stream) -> list[Operation]:
        """What the next operation of a stream comes after."""
        found = [stream.tail]
        if stream.handle == LEGACY:
            found += [s.tail for s in self._streams.values() if s.blocking and s is not stream]
        elif stream.blocking:
            found.append(self._streams[LEGACY].tail)
        return [operation for operation in found if operation is not None]

    def _enqueue(
        self, handle: int, run: Callable[[], None], after: tuple[Operation, ...] = ()
    ) -> tuple[Any, Operation | None]:
        stream = self._stream(handle)
        if stream is None:
            return self._refuse(Error.cudaErrorInvalidResourceHandle), None
        if stream.capture is not None:
            if stream.capture.invalid:
                return self._refuse(Error.cudaErrorStreamCaptureInvalidated), None
            node = Node(run, stream.nodes)
            stream.capture.nodes.append(node)
            stream.nodes = (node,)
            return Error.cudaSuccess, None
        if stream.handle == LEGACY and (own := self._own_capture()):
            return self._spoil(Error.cudaErrorStreamCaptureImplicit, own), None
        operation = Operation(run, stream, (*self._tails(stream), *after))
        self._pending.append(operation)
        stream.tail = operation
        return Error.cudaSuccess, operation

    def _join(self, waiting: Stream, capture: Capture, nodes: tuple[Node, ...]) -> Any:
        """Let a stream wait for an event of a capture, which makes it part of the capture."""
        if capture not in self._captures:
            return self._refuse(Error.cudaErrorCapturedEvent)
        if waiting.handle == LEGACY:
            return self._spoil(Error.cudaErrorStreamCaptureImplicit, capture)
        if waiting.capture is not None and waiting.capture is not capture:
            self._spoil(Error.cudaErrorStreamCaptureMerge, waiting.capture)
            return self._spoil(Error.cudaErrorStreamCaptureMerge, capture)
        if capture.invalid:
            return self._refuse(Error.cudaErrorStreamCaptureInvalidated)
        if waiting.capture is None:
            waiting.capture = capture
            capture.streams.append(waiting)
        waiting.nodes = tuple(dict.fromkeys((*waiting.nodes, *nodes)))
        return Error.cudaSuccess

    def _complete(self, wanted: Sequence[Operation]) -> Any:
        """Run until ``wanted`` are done; perhaps nothing else, perhaps a lot."""
        mood = self._random.choice(("only what is needed", "most", "some"))
        needed = _ancestors(wanted)
        left = [operation for operation in wanted if not operation.done]
        ranks = self._ranks()
        while left:
            ready = [o for o in self._pending if o.ready]
            if mood == "only what is needed":
                ready = [o for o in ready if o in needed]
            elif self._random.random() < 0.2:
                ranks = self._ranks()
            self._run(max(ready, key=lambda o: ranks.setdefault(o.lane, self._random.random())))
            left = [operation for operation in left if not operation.done]
        if mood == "some":
            self._progress(self._random.randint(0, len(self._pending)))
        return self._sticky or Error.cudaSuccess

    def _ranks(self) -> dict[object, float]:
        """Which lane is served first."""
        return {operation.lane: self._random.random() for operation in self._pending}

    def _progress(self, steps: int) -> None:
        for _ in range(steps):
            ready = [operation for operation in self._pending if operation.ready]
            if ready:
                self._run(self._random.choice(ready))

    def _run(self, operation: Operation) -> None:
        self._pending.remove(operation)
        operation.done = True
        operation.after = ()
        self._clock_ms += self._random.uniform(0.001, 0.1)
        if self._sticky is not None:
            return
        try:
            operation.run()
        except IllegalAddressError as error:
            self._fault(str(error))
            self._sticky = self._refuse(Error.cudaErrorIllegalAddress)


class IllegalAddressError(Exception):
    """What runs on the device used memory that is not there."""


class OutsideArray:
    """Memory of another library on the device, which its reference keeps."""

    def __init__(self, runtime: FakeRuntime, values: Array) -> None:
        values = np.ascontiguousarray(values)
        self._block = Block(values.nbytes, "outside")
        self._block.bytes[:] = values.reshape(-1).view(np.uint8)
        self.values: Array = self._block.bytes.view(values.dtype).reshape(values.shape)
        runtime._outside.append(self._block)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return dict(self.values.__array_interface__)


def _nothing() -> None:
    pass


def _ancestors(last: Iterable[Any]) -> set[Any]:
    """``last`` and all that comes before."""
    found: set[Any] = set()
    stack = list(last)
    while stack:
        item = stack.pop()
        if item not in found:
            found.add(item)
            stack.extend(item.after)
    return found


# The kernels.


@dataclass(frozen=True)
class Entry:
    """What of a function's arguments must be looked at when it is called, not when it runs."""

    host: Mapping[int, Callable[[tuple[Any, ...]], int]] = field(default_factory=dict)
    """Arguments that point to host memory, with the number of bytes to copy."""
    device: tuple[int, ...] = ()
    """Arguments that point to device memory, or are 0."""
    inside: Mapping[int, tuple[type[ctypes.Structure], str]] = field(default_factory=dict)
    """Host memory that consists of structures with a pointer to device memory."""


def _size(kind: type[ctypes.Structure], count: int | None = None) -> Callable[..., int]:
    """Of one structure, or of as many as argument ``count`` says."""
    return lambda arguments: ctypes.sizeof(kind) * (1 if count is None else arguments[count])


ENTRIES = {
    "edgeseg_cuda_fuse_views": Entry(
        host={0: _size(_fuse._View, 1)},
        inside={0: (_fuse._View, "logits")},
        device=(5, 6, 7, 8),
    ),
    "edgeseg_cuda_smooth_z": Entry(
        host={4: lambda arguments: 4 * (arguments[5] + 1)}, device=(0, 8, 9, 10)
    ),
    "edgeseg_cuda_blend_overlay": Entry(
        host={0: _size(Frame), 3: lambda arguments: 3 * arguments[4]},
        inside={0: (Frame, "pixels")},
        device=(1,),
    ),
    "edgeseg_cuda_decide_mask": Entry(device=(0, 5, 14, 15)),
    "edgeseg_cuda_resize_run": Entry(host={1: _size(Frame)}, inside={1: (Frame, "pixels")}),
}
"""Functions whose last argument is the stream they work on."""


class FakeKernels(CudaLibrary):
    """The kernels as the host runs them, on the streams of a ``FakeRuntime``.

    A kernel that refuses its arguments does so when it runs, with an AssertionError.
    """

    def __init__(self, runtime: FakeRuntime, host_library: CudaLibrary) -> None:
        self._runtime = runtime
        self._host = host_library
        self.path = host_library.path
        self.version = host_library.version
        self.plans: dict[int, tuple[int, ...]] = {}
        """Handles of resize plans that are not destroyed, with where they write."""
        self._prepared = False

    def info(self) -> CudaLibraryInfo:
        return self._host.info()

    def require_device(self) -> None:
        pass

    def error_text(self, status: int) -> str:
        if status > 1000:
            return cast(bytes, real.cudaGetErrorString(Error(status - 1000))[1]).decode()
        return self._host.error_text(status)

    def call(self, name: str, types: Sequence[Any], *arguments: Any) -> None:
        own = self._runtime._own_capture()
        if name == "edgeseg_cuda_prepare":
            self._refuse_while_capturing(name)
            self._prepared = True
            self._host.call(name, types, *arguments)
        elif name == "edgeseg_cuda_resize_create":
            self._refuse_while_capturing(name)
            self._host.call(name, types, *arguments)
            targets = (_views._ViewTarget * arguments[3]).from_address(arguments[2])
            handle = ctypes.c_void_p.from_address(arguments[8]).value
            assert handle
            self.plans[handle] = tuple(target.out for target in targets)
        elif name == "edgeseg_cuda_resize_destroy":
            self._refuse_while_capturing(name)
            if self.plans.pop(arguments[0], None) is None:
                self._runtime._fault("a resize plan was destroyed twice")
                return
            self._host.call(name, types, *arguments)
        else:
            if own is not None and not self._prepared:
                self._runtime._spoil(Error.cudaErrorStreamCaptureUnsupported, own)
                self._fail(name, Error.cudaErrorStreamCaptureUnsupported)
            self._enqueue(name, types, arguments)

    def _enqueue(self, name: str, types: Sequence[Any], arguments: tuple[Any, ...]) -> None:
        assert name in ENTRIES, f"say in tests/cuda_double.py what the arguments of {name} are"
        entry = ENTRIES[name]
        copies = {
            index: ctypes.create_string_buffer(
                ctypes.string_at(arguments[index], size(arguments)), size(arguments)
            )
            for index, size in entry.host.items()
        }
        touched = [arguments[index] for index in entry.device if arguments[index]]
        for index, (kind, name_of_field) in entry.inside.items():
            count = len(copies[index]) // ctypes.sizeof(kind)
            touched += [
                getattr(s, name_of_field) for s in (kind * count).from_buffer(copies[index])
            ]
        plan = arguments[0] if name == "edgeseg_cuda_resize_run" else None
        if plan is not None:
            touched += self.plans.get(plan, ())
        kept = [
            ctypes.addressof(copies[index]) if index in copies else argument
            for index, argument in enumerate(arguments)
        ]
        kept[-1] = 0

        def run() -> None:
            if plan is not None and plan not in self.plans:
                raise IllegalAddressError("a resize plan was used after it was destroyed")
            assert copies is not None
            self._host.call(name, types, *kept)

        status = self._runtime.enqueue(arguments[-1], run, [(address, 1) for address in touched])
        if status != 0:
            self._fail(name, status)

    def _refuse_while_capturing(self, name: str) -> None:
        own = self._runtime._own_capture()
        if own is not None:
            self._runtime._spoil(Error.cudaErrorStreamCaptureUnsupported, own)
            self._fail(name, Error.cudaErrorStreamCaptureUnsupported)

    def _fail(self, name: str, error: Any) -> None:
        from edgeseg.errors import BackendError

        raise BackendError(f"{name} failed: {self.error_text(1000 + error)}")


def fake_kernels(runtime: FakeRuntime, host_library: CudaLibrary) -> FakeKernels:
    """The kernels as ``host_library`` has them, on the streams of ``runtime``."""
    return FakeKernels(runtime, host_library)
