"""What is held on a device, and who frees it.

Nothing is freed because Python lost its last reference: collection may come in the middle of a
capture, which a call of ``cudaFree`` spoils, or while a kernel still writes. Everything is freed by
its ``close``, or with the ``Gpu`` it came from.
"""

from __future__ import annotations

import abc
import threading

from edgeseg._closing import Closing
from edgeseg.errors import BackendError
from edgeseg.gpu._runtime import Runtime

__all__ = ["Held", "Ledger"]


class Ledger:
    """What of one ``Gpu`` is not yet freed."""

    def __init__(self, cuda: Runtime) -> None:
        self.cuda = cuda
        self._held: dict[int, Held] = {}
        self.whole_device = threading.RLock()
        """Held by a capture, and by who waits for all of the device, which would spoil captures."""
        self._lock = threading.Lock()
        self._closed = False

    def require_open(self) -> None:
        """Raise BackendError if everything has been freed."""
        if self._closed:
            raise BackendError("this GPU is closed: open another with Gpu.open()")

    def add(self, held: Held) -> None:
        """Take note of ``held``."""
        with self._lock:
            self._held[id(held)] = held

    def remove(self, held: Held) -> bool:
        """Forget ``held``; False if it was freed before."""
        with self._lock:
            return self._held.pop(id(held), None) is not None

    def holds(self, held: Held) -> bool:
        """Whether ``held`` has not been freed."""
        return id(held) in self._held

    def wait(self) -> None:
        """Let the device finish, before something is freed."""
        with self.whole_device:
            self.cuda.release("cudaDeviceSynchronize")

    def close(self) -> None:
        """Wait for the device and free everything, the youngest first."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            left = list(self._held.values())
        if left:
            self.wait()
        for held in reversed(left):
            held.close()


class Held(Closing):
    """Something on the device."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        ledger.add(self)

    def close(self) -> None:
        """Free it. What is enqueued is done first; closing twice does nothing."""
        if self._ledger.remove(self):
            self._release()

    def _require_open(self) -> None:
        if not self._ledger.holds(self):
            raise BackendError(f"this {type(self).__name__} is closed")

    @abc.abstractmethod
    def _release(self) -> None:
        """Give it back to CUDA."""
