"""The double of ``cuda.bindings.runtime``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .core import LEGACY
from .device_calls import DeviceCalls
from .memory import DEVICE, Array, OutsideArray
from .stream_calls import StreamCalls


class FakeRuntime(DeviceCalls, StreamCalls):
    """See the package.

    Args:
        seed: of the order in which things run.
        devices: how many there are; with 0 the driver shows none.
        integrated: whether the devices share the host's memory.
        total_bytes: of memory on the device.
        fail: name of a function -> the number of the call, from 1 on, that fails: allocations for
            want of memory, ``cudaStreamEndCapture`` as after a spoilt capture, everything else,
            ``enqueue`` among it, with cudaErrorUnknown.
        driver: what cudaDriverGetVersion says; 0: there is no driver.
        version: what cudaRuntimeGetVersion says.
    """

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
        super().__init__(seed, devices, integrated, total_bytes, fail or {}, driver, version)

    def enqueue(
        self, stream: int, operation: Callable[[], None], touches: Iterable[tuple[int, int]] = ()
    ) -> Any:
        """Put work on a stream, as a kernel launch does.

        Args:
            stream: a handle, 0 for the default stream.
            operation: what to do when the work runs: perhaps never, perhaps often (in a graph). It
                calls no function of the run time.
            touches: (address, bytes) of device memory that must be allocated then.

        Returns:
            A ``cudaError_t``; if it is not 0, nothing was enqueued.
        """
        ranges = tuple(touches)

        def run() -> None:
            for address, nbytes in ranges:
                self._pool.require(address, nbytes)
            operation()

        with self._lock:
            error = self._before("enqueue")
            return self._enqueue(int(stream), run)[0] if error is None else error

    def capturing(self) -> bool:
        """Whether this thread is capturing."""
        return self._own_capture() is not None

    def array(self, values: Array, *, device: int = 0) -> OutsideArray:
        """An array of another library on a device, which holds ``values`` already."""
        return OutsideArray(self._pool, values, device)

    def read(self, array: Any) -> Array:
        """A copy of what lies in a device array at this moment; waits for nothing."""
        return self._pool.read(array)

    def live(self) -> dict[str, int]:
        """Numbers of things that are not yet freed, by kind."""
        kinds = [block.kind for block in self._pool.blocks]
        streams = [s for s in self._streams.values() if s.handle != LEGACY and not s.destroyed]
        found = {
            "memory": kinds.count(DEVICE),
            "host memory": len(kinds) - kinds.count(DEVICE),
            "streams": len(streams),
            "events": len(self._events),
            "graphs": len(self._graphs),
            "executables": len(self._executables),
            "captures": len(self._captures),
        }
        return {kind: count for kind, count in found.items() if count}

    def check(self) -> None:
        """Fail if something was done that must not be."""
        for problem in self._pool.problems():
            self._fault(problem)
        assert not self.faults, self.faults

    def assert_clean(self) -> None:
        """Fail unless everything was freed and nothing was done that must not be."""
        self.check()
        assert not self.live(), f"not freed: {self.live()}"
