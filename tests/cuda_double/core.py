"""What all functions of the double share: errors, captures, and the way onto a stream."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from .memory import IllegalAddressError, Pool
from .work import Capture, Event, Executable, Node, Operation, Scheduler, Stream

real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

Error = real.cudaError_t
LEGACY = 0
"""Handle of the default stream."""

# How many values follow the status. They are None where a call fails.
RESULTS = {
    **dict.fromkeys(
        (
            *("cudaGetDeviceCount", "cudaGetDevice", "cudaGetDeviceProperties", "cudaMalloc"),
            *("cudaDeviceGetAttribute", "cudaHostAlloc", "cudaHostGetDevicePointer"),
            *("cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaStreamEndCapture"),
            *("cudaEventElapsedTime", "cudaGraphInstantiate"),
            "cudaPointerGetAttributes",
        ),
        1,
    ),
    "cudaMemGetInfo": 2,
}
WITHOUT_DRIVER = frozenset(
    {
        *("cudaDriverGetVersion", "cudaRuntimeGetVersion", "cudaGetLastError"),
        *("cudaGetErrorString", "cudaGetErrorName"),
    }
)


class Handle:
    """As the bindings give them: not an int, but with one inside."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


def call(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the run time: counted, made to fail on demand, one at a time."""
    name = function.__name__

    @functools.wraps(function)
    def wrapped(self: Core, *arguments: Any) -> Any:
        with self._lock:
            error = self._before(name)
            if error is not None:
                return (error, *[None] * RESULTS.get(name, 0))
            return function(self, *arguments)

    return wrapped


class Core:
    """The state of the double."""

    def __init__(
        self,
        seed: int,
        devices: int,
        integrated: bool,
        total_bytes: int,
        fail: Mapping[str, int],
        driver: int,
        version: int,
    ) -> None:
        self._devices = devices
        self._integrated = integrated
        self._fail = dict(fail)
        self._driver = driver
        self._version = version
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._handles = itertools.count(0x7F0000001000, 0x100)
        self._pool = Pool(total_bytes)
        self._scheduler = Scheduler(seed)
        self._streams = {LEGACY: Stream(LEGACY, blocking=True)}
        self._events: dict[int, Event] = {}
        self._graphs: dict[int, tuple[Node, ...]] = {}
        self._executables: dict[int, Executable] = {}
        self._captures: list[Capture] = []
        self._sticky: Any = None
        self._last = Error.cudaSuccess
        self.calls: dict[str, int] = {}
        """How often each function was called."""
        self.faults: list[str] = []
        """What a program must not do, whether CUDA notices or not."""

    def __getattr__(self, name: str) -> Any:
        """Enums and constants are those of the real module; its functions are not."""
        value = getattr(real, name, None)
        if isinstance(value, (type, int)) and name.startswith("cuda"):
            return value
        raise AttributeError(f"the double of the CUDA run time has no {name}")

    def _before(self, name: str) -> Any:
        """The error with which a call fails, whatever its arguments are."""
        self.calls[name] = self.calls.get(name, 0) + 1
        if name in WITHOUT_DRIVER:
            return None
        if self._driver // 1000 < self._version // 1000:
            return self._refuse(Error.cudaErrorInsufficientDriver)
        if self._sticky is not None:
            return self._sticky
        if self._fail.get(name) != self.calls[name]:
            return None
        if name == "cudaStreamEndCapture":
            # Whatever it answers, the capture is over.
            for capture in self._captures:
                capture.invalid |= capture.thread == threading.get_ident()
            return None
        if name in ("cudaMalloc", "cudaHostAlloc", "cudaGraphInstantiate"):
            return self._refuse(Error.cudaErrorMemoryAllocation)
        return self._refuse(Error.cudaErrorUnknown)

    def _refuse(self, error: Any) -> Any:
        self._last = error
        return error

    def _spoil(self, error: Any, *captures: Capture | None) -> Any:
        """Refuse a call in a way that makes captures worthless."""
        for capture in captures:
            if capture is not None:
                capture.invalid = True
        return self._refuse(error)

    def _fault(self, what: str) -> None:
        if what not in self.faults:
            self.faults.append(what)

    def _new_handle(self) -> Handle:
        return Handle(next(self._handles))

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
        """Put work on a stream, or into the graph that the stream captures."""
        stream = self._stream(handle)
        if stream is None:
            return self._refuse(Error.cudaErrorInvalidResourceHandle), None
        if stream.capture is not None:
            if stream.capture.invalid:
                return self._refuse(Error.cudaErrorStreamCaptureInvalidated), None
            node = Node(self._guarded(run), stream.nodes)
            stream.capture.nodes.append(node)
            stream.nodes = (node,)
            return Error.cudaSuccess, None
        if stream.handle == LEGACY and (own := self._own_capture()):
            return self._spoil(Error.cudaErrorStreamCaptureImplicit, own), None
        operation = Operation(self._guarded(run), stream, (*self._tails(stream), *after))
        stream.tail = self._scheduler.add(operation)
        return Error.cudaSuccess, operation

    def _guarded(self, run: Callable[[], None]) -> Callable[[], None]:
        """Work after which, where it uses memory that is not there, every call fails."""

        def guarded() -> None:
            if self._sticky is not None:
                return
            try:
                run()
            except IllegalAddressError as error:
                self._fault(str(error))
                self._sticky = self._refuse(Error.cudaErrorIllegalAddress)

        return guarded

    def _complete(self, wanted: list[Operation]) -> Any:
        self._scheduler.complete(wanted)
        return self._sticky or Error.cudaSuccess
