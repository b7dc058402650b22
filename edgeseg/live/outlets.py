"""A thread and a small buffer for each sink, so that none of them holds up anything else."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgeseg.errors import OutputError, SinkLostError, UsageError
from edgeseg.live.base import LiveSink, Shown
from edgeseg.live.status import Events, SinkStatus, silent_events

__all__ = ["Outlet", "OutletCounts", "Outlets"]

_log = logging.getLogger(__name__)

_SLOTS = 2
_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 10.0
_CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class OutletCounts:
    """What became of the pictures of one sink; ``offered == written + dropped + waiting``."""

    offered: int
    written: int
    dropped: int
    waiting: int
    """In the buffer, or in the hands of the sink."""


class Outlet:
    """Hands pictures to one sink, in order, in a thread of its own.

    A sink that is lost is opened again after 0.5 s, 1 s, 2 s ... up to 10 s; pictures that come
    meanwhile are dropped, so that the first one after it is a new one. An ``OutputError`` ends the
    outlet, and so does any other exception; the others go on, and ``status`` keeps the reason.
    """

    def __init__(
        self,
        sink: LiveSink,
        *,
        wait: bool,
        slots: int = _SLOTS,
        events: Events = silent_events,
        first_retry_s: float = _FIRST_RETRY_S,
        longest_retry_s: float = _LONGEST_RETRY_S,
    ) -> None:
        """Start the thread, which owns ``sink`` from now on and closes it at the end.

        Args:
            sink: takes the pictures.
            wait: when the buffer is full, ``offer`` waits; otherwise the oldest picture in it is
                dropped.
            slots: pictures that the buffer holds.
            events: is told when the sink is lost, comes back, or ends.
            first_retry_s: pause before a lost sink is opened again; doubles with each attempt.
            longest_retry_s: where that ends.

        Raises:
            UsageError: no slots.
        """
        if slots < 1:
            raise UsageError(f"a sink needs room for at least one picture, got {slots}")
        self.sink = sink
        self.name = sink.name
        self.wait = wait
        self._slots = slots
        self._events = events
        self._first_retry_s = first_retry_s
        self._longest_retry_s = longest_retry_s
        self._changed = threading.Condition()
        # All of what follows is guarded by the condition.
        self._buffer: deque[Shown] = deque()
        self._in_hand = 0
        self._offered = 0
        self._written = 0
        self._dropped = 0
        self._error = ""
        self._lost = False
        self._ending = False
        """No more pictures are taken."""
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def offer(self, shown: Shown) -> None:
        """Give a picture to the sink, to be written later.

        Never waits for the sink, unless ``wait`` was asked for and the buffer is full; ``stop``,
        ``close`` and the end of the sink release it.
        """
        with self._changed:
            while self.wait and self._takes() and len(self._buffer) >= self._slots:
                self._changed.wait()
            self._offered += 1
            if not self._takes():
                self._dropped += 1
                return
            if len(self._buffer) >= self._slots:
                self._buffer.popleft()
                self._dropped += 1
            self._buffer.append(shown)
            self._changed.notify_all()

    def counts(self) -> OutletCounts:
        """What became of the pictures up to this moment."""
        with self._changed:
            waiting = len(self._buffer) + self._in_hand
            return OutletCounts(self._offered, self._written, self._dropped, waiting)

    def status(self) -> SinkStatus:
        """This moment, for people."""
        with self._changed:
            return SinkStatus(self.name, self._written, self._dropped, self._error)

    @property
    def ended(self) -> bool:
        """Whether it takes no more pictures, for whatever reason."""
        with self._changed:
            return self._ending

    def stop(self) -> None:
        """Take no more pictures, and let the thread come to its end; does not wait for it.

        What lies in the buffer is still written by sinks that want every picture (files); others
        drop it, since it is no longer what is to be seen.
        """
        with self._changed:
            self._ending = True
            if self.sink.policy != "wait" or self._lost:
                self._drop_buffer()
            self._changed.notify_all()

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> bool:
        """Stop, and wait until the sink is closed; may be called twice.

        Args:
            timeout_s: how long. After it the thread is left behind: it ends as soon as the sink
                lets it, and does not keep the program from ending.

        Returns:
            Whether the sink is closed; if not, ``status`` says so.
        """
        self.stop()
        self._thread.join(max(0.0, timeout_s))
        if not self._thread.is_alive():
            return True
        with self._changed:
            said, self._abandoned = self._abandoned, True
            self._error = "did not finish in time and was left behind"
            self._drop_buffer()
            self._dropped += self._in_hand
            self._in_hand = 0
            error = self._error
        if not said:
            self._events("sink", name=self.name, error=error)
        return False

    # In the thread

    def _run(self) -> None:
        try:
            self._write_all()
        except OutputError as error:
            self._end(str(error))
        except BaseException as error:  # whatever it is: the session must not wait for this thread
            _log.warning("%s failed unexpectedly", self.name, exc_info=True)
            text = f"{type(error).__name__}: {error}"
            self._events("fault", where=f"sink {self.name}", error=text)
            self._end(text)
        try:
            self.sink.close()
        except OutputError as error:
            self._end(str(error))
        except BaseException as error:
            _log.warning("%s could not be closed", self.name, exc_info=True)
            text = f"{type(error).__name__}: {error}"
            self._events("fault", where=f"sink {self.name}", error=text)
            self._end(text)

    def _write_all(self) -> None:
        retry_s = self._first_retry_s
        back_s = 0.0
        while (shown := self._take()) is not None:
            try:
                self.sink.write(shown)
            except SinkLostError as error:
                retry_s = self._reopen(str(error), retry_s)
                back_s = time.monotonic()
                continue
            except BaseException:
                self._settle(written=False)
                raise
            self._settle(written=True)
            if retry_s != self._first_retry_s and time.monotonic() - back_s > retry_s:
                # It holds; one that is lost again at once is left longer and longer in peace.
                retry_s = self._first_retry_s

    def _take(self) -> Shown | None:
        with self._changed:
            while not self._buffer and not self._ending:
                self._changed.wait()
            if self._abandoned or not self._buffer:
                return None
            self._in_hand = 1
            shown = self._buffer.popleft()
            self._changed.notify_all()
            return shown

    def _settle(self, *, written: bool) -> None:
        """Count the picture that was in hand."""
        with self._changed:
            if self._abandoned:
                return  # it was counted when it was given up
            self._in_hand = 0
            if written:
                self._written += 1
            else:
                self._dropped += 1
            self._changed.notify_all()

    def _reopen(self, why: str, retry_s: float) -> float:
        """Open a lost sink again; returns the pause before the next attempt, if it is lost again.

        Raises:
            OutputError: it will not come back.
        """
        with self._changed:
            if not self._abandoned:
                self._dropped += self._in_hand
                self._in_hand = 0
            self._lost = True
            self._error = why
            self._drop_buffer()
            self._changed.notify_all()
        self._events("sink", name=self.name, error=why)
        _log.warning("%s is lost (%s); trying again", self.name, why)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending, retry_s)
                if self._ending:
                    return retry_s
            retry_s = min(2 * retry_s, self._longest_retry_s)
            try:
                self.sink.reopen()
            except SinkLostError as error:
                with self._changed:
                    self._error = str(error)
                _log.info("%s: %s; next attempt in %g s", self.name, error, retry_s)
                continue
            break
        with self._changed:
            self._lost = False
            self._error = ""
        self._events("sink", name=self.name, error=None)
        _log.info("%s is back", self.name)
        return retry_s

    def _end(self, why: str) -> None:
        with self._changed:
            first = not self._error or self._lost
            if not self._abandoned:
                self._dropped += self._in_hand
                self._in_hand = 0
            self._ending = True
            self._lost = False
            self._drop_buffer()
            if first:
                self._error = why
            self._changed.notify_all()
        if first:
            self._events("sink", name=self.name, error=why)
            _log.warning("%s: %s", self.name, why)

    # With the condition held

    def _takes(self) -> bool:
        return not self._ending and not self._lost

    def _drop_buffer(self) -> None:
        self._dropped += len(self._buffer)
        self._buffer.clear()


class Outlets:
    """The outlets of a session. Several threads may use it."""

    def __init__(
        self,
        *,
        wait: bool,
        slots: int = _SLOTS,
        events: Events = silent_events,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without any.

        Args:
            wait: the source can wait: sinks that want every picture get it. Otherwise all drop the
                oldest.
            slots: pictures that each may hold back.
            events: is told of every sink that is lost, comes back, or ends.
            clock: seconds; measures how long closing takes.
        """
        self._wait = wait
        self._slots = slots
        self._events = events
        self._clock = clock
        self._lock = threading.Lock()
        self._outlets: tuple[Outlet, ...] = ()
        self._closed = False

    def add(self, sink: LiveSink) -> Outlet:
        """Give the pictures to ``sink`` as well, from the next one on; it is closed at the end.

        Raises:
            UsageError: there is one of that name, or the session has ended; the sink is closed.
        """
        with self._lock:
            if self._closed:
                problem = f"{sink.name}: the session has ended, and shows no more pictures"
            elif any(outlet.name == sink.name for outlet in self._outlets):
                problem = f"{sink.name} is an output already: name each output once"
            else:
                outlet = Outlet(
                    sink,
                    wait=self._wait and sink.policy == "wait",
                    slots=self._slots,
                    events=self._events,
                )
                # What never waits comes first: a slow file does not delay a window.
                self._outlets = tuple(sorted((*self._outlets, outlet), key=lambda one: one.wait))
                return outlet
        sink.close()
        raise UsageError(problem)

    def remove(
        self, sink: LiveSink | str, timeout_s: float = _CLOSE_TIMEOUT_S
    ) -> SinkStatus | None:
        """Give no more pictures to a sink, and close it.

        Args:
            sink: itself or its name.
            timeout_s: how long to wait for it.

        Returns:
            Its last status; None if there is no such sink.
        """
        with self._lock:
            found = [one for one in self._outlets if sink in (one.sink, one.name)]
            self._outlets = tuple(one for one in self._outlets if one not in found)
        if not found:
            return None
        if not found[0].close(timeout_s):
            _log.warning("%s %s", found[0].name, found[0].status().error)
        return found[0].status()

    def offer(self, shown: Shown) -> None:
        """Give a picture to all of them; see ``Outlet.offer``."""
        for outlet in self._outlets:
            outlet.offer(shown)

    def status(self) -> tuple[SinkStatus, ...]:
        """This moment of each."""
        return tuple(outlet.status() for outlet in self._outlets)

    def stop(self) -> None:
        """Take no more pictures; releases whoever waits in ``offer``. Does not wait."""
        for outlet in self._outlets:
            outlet.stop()

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> tuple[str, ...]:
        """Stop all, and wait until they are closed; may be called twice.

        Args:
            timeout_s: how long, for all of them together.

        Returns:
            What was left behind, in words; their status stays readable.
        """
        with self._lock:
            self._closed = True
            outlets = self._outlets
        self.stop()
        end_s = self._clock() + timeout_s
        left = [one for one in outlets if not one.close(end_s - self._clock())]
        return tuple(f"{one.name} did not finish in {timeout_s:g} s" for one in left)
