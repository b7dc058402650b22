"""Streams, events that join them, and graphs of captured work."""

from __future__ import annotations

from edgeseg.errors import BackendError
from edgeseg.gpu._held import Held, Ledger

__all__ = ["Event", "Graph", "Stream", "handle_of"]


class Stream(Held):
    """A queue of work on the device that waits for no other queue, made by ``Gpu.stream``.

    It is not ordered with the default stream either: work of other libraries is joined with events.
    """

    def __init__(self, ledger: Ledger) -> None:
        ledger.require_open()
        cuda = ledger.cuda
        self._handle = int(cuda("cudaStreamCreateWithFlags", cuda.module.cudaStreamNonBlocking))
        Held.__init__(self, ledger)

    @property
    def handle(self) -> int:
        """The ``cudaStream_t``.

        Raises:
            BackendError: the stream is closed.
        """
        self._require_open()
        return self._handle

    def synchronize(self) -> None:
        """Wait until all work enqueued so far is done.

        Raises:
            BackendError: some of it failed.
        """
        self._ledger.cuda("cudaStreamSynchronize", self.handle)

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on start after the work ``event`` was last recorded after.

        An event that was never recorded is not waited for.
        """
        self._ledger.cuda("cudaStreamWaitEvent", self.handle, event.handle, 0)

    def _release(self) -> None:
        self._ledger.cuda.release("cudaStreamDestroy", self._handle)


class Event(Held):
    """A mark in a stream, made by ``Gpu.event``."""

    def __init__(self, ledger: Ledger, *, timing: bool) -> None:
        ledger.require_open()
        cuda = ledger.cuda
        flags = cuda.module.cudaEventDefault if timing else cuda.module.cudaEventDisableTiming
        self._handle = int(cuda("cudaEventCreateWithFlags", flags))
        self._timing = timing
        Held.__init__(self, ledger)

    @property
    def handle(self) -> int:
        """The ``cudaEvent_t``.

        Raises:
            BackendError: the event is closed.
        """
        self._require_open()
        return self._handle

    def record(self, stream: Stream | int) -> None:
        """Mark the end of what is enqueued on ``stream`` so far, and forget the mark before.

        In a capture the mark joins streams of the graph, and is no time.
        """
        self._ledger.cuda("cudaEventRecord", self.handle, handle_of(stream))

    def synchronize(self) -> None:
        """Wait until the marked work is done; at once if there is no mark.

        Raises:
            BackendError: some of it failed.
        """
        self._ledger.cuda("cudaEventSynchronize", self.handle)

    def done(self) -> bool:
        """Whether the marked work is done; True if there is no mark.

        Raises:
            BackendError: some of it failed.
        """
        return self._ledger.cuda.poll("cudaEventQuery", self.handle)

    def elapsed_ms(self, since: Event) -> float:
        """Milliseconds on the device from ``since`` to this event, both made with ``timing``.

        Raises:
            BackendError: one of them has no mark, or is not done yet, or tells no time.
        """
        if not (self._timing and since._timing):
            raise BackendError("an event tells no time: make both with gpu.event(timing=True)")
        return float(self._ledger.cuda("cudaEventElapsedTime", since.handle, self.handle))

    def _release(self) -> None:
        self._ledger.cuda.release("cudaEventDestroy", self._handle)


class Graph(Held):
    """Captured work that is launched as a whole, made by ``Gpu.capture``.

    It holds addresses: whatever the work reads and writes must stay where it is.
    """

    def __init__(self, ledger: Ledger, graph: int) -> None:
        cuda = ledger.cuda
        self._handle = int(cuda("cudaGraphInstantiate", graph, 0))
        Held.__init__(self, ledger)

    def launch(self, stream: Stream | int) -> None:
        """Enqueue the work. Launches of one graph run one after the other.

        Raises:
            BackendError: the graph is closed, or CUDA refused.
        """
        self._require_open()
        self._ledger.cuda("cudaGraphLaunch", self._handle, handle_of(stream))

    def _release(self) -> None:
        self._ledger.cuda.release("cudaGraphExecDestroy", self._handle)


def handle_of(stream: Stream | int) -> int:
    """The ``cudaStream_t`` of a stream of this package or of another library."""
    return stream.handle if isinstance(stream, Stream) else int(stream)
