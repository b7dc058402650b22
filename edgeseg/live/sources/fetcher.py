"""A thread that fetches frames, since libraries block, and the one slot that it fills."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edgeseg.errors import SourceLostError
from edgeseg.live.base import Captured

__all__ = ["Fetcher", "StoppedError"]

_log = logging.getLogger(__name__)


class StoppedError(Exception):
    """Nobody wants frames any more; ends the fetching thread."""


class Fetcher:
    """Runs ``fetch(self)`` in a thread of its own and hands over what it puts here.

    What belongs to a library that blocks (a decoder, a connection) is opened, used and closed by
    ``fetch`` alone. When it does not return in time the thread is left behind: it ends, and closes
    what it holds, as soon as the library lets go of it.
    """

    def __init__(self, fetch: Callable[[Fetcher], None], *, name: str, waits: bool) -> None:
        """Start nothing yet.

        Args:
            fetch: calls ``ready`` once, then ``put`` for each frame, and ends by raising the error
                that ``take`` shall raise after the last frame.
            name: of the source, for messages.
            waits: ``put`` waits until the frame before was taken; otherwise a frame that nobody
                took gives way to the newer one and counts as skipped.
        """
        self.skipped = 0
        """Frames that gave way to a newer one."""
        self._fetch = fetch
        self._name = name
        self._waits = waits
        self._changed = threading.Condition()
        self._slot: Captured | None = None
        self._ready = False
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"fetch {name}", daemon=True)

    def start(self, timeout_s: float) -> None:
        """Start the thread and wait until it is ready.

        Raises:
            SourceLostError: it is not ready in time.
            EdgesegError: what ``fetch`` raised.
        """
        self._thread.start()
        with self._changed:
            answered = self._changed.wait_for(
                lambda: self._ready or self._error is not None, timeout_s
            )
            if self._error is not None and self._slot is None:
                raise self._error
            if not answered:
                raise SourceLostError(f"{self._name} did not open within {timeout_s:g} s")

    def take(self, timeout_s: float) -> Captured | None:
        """The frame in the slot; None if none came in time.

        Raises:
            EdgesegError: what ended the fetching, after the last frame was taken.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._slot is not None or self._error is not None, max(0.0, timeout_s)
            )
            taken, self._slot = self._slot, None
            if taken is not None:
                self._changed.notify_all()
                return taken
            if self._error is not None:
                raise self._error
            return None

    def wait_until(self, moment_s: float) -> None:
        """Sleep until this time of ``time.monotonic``, or until it is stopped."""
        with self._changed:
            while not self._stopped and (left_s := moment_s - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end and wait for it; whether it has ended."""
        with self._changed:
            self._stopped = True
            self._slot = None
            self._changed.notify_all()
        if self._thread.ident is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.info("%s: still blocked; its thread ends when the library lets go", self._name)
            return False
        return True

    def join(self, timeout_s: float) -> bool:
        """Wait for a thread that was stopped before; whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def stopped(self) -> bool:
        """Whether nobody wants frames any more."""
        return self._stopped

    def ready(self) -> None:
        """Say that the source is open; called by ``fetch``.

        Raises:
            StoppedError: too late.
        """
        with self._changed:
            if self._stopped:
                raise StoppedError
            self._ready = True
            self._changed.notify_all()

    def put(self, captured: Captured) -> None:
        """Hand over a frame; called by ``fetch``.

        Raises:
            StoppedError: nobody wants it.
        """
        with self._changed:
            if self._waits:
                self._changed.wait_for(lambda: self._slot is None or self._stopped)
            if self._stopped:
                raise StoppedError
            if self._slot is not None:
                self.skipped += 1
            self._slot = captured
            self._changed.notify_all()

    def _run(self) -> None:
        error: BaseException
        try:
            self._fetch(self)
            error = StoppedError("the source ended without saying why")
        except BaseException as raised:
            error = raised
        with self._changed:
            self._error = error
            self._changed.notify_all()
