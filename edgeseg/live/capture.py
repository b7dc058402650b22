"""The capture's thread: numbers frames, judges their pictures, brings a lost source back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edgeseg.errors import EdgesegError, EndOfStreamError, SourceLostError
from edgeseg.live.base import Captured, LiveFrame, LiveSource
from edgeseg.live.exchange import Exchange, Seen
from edgeseg.live.faults import describe_error
from edgeseg.live.figures import Figures
from edgeseg.live.health import PictureHealth, PictureVerdict
from edgeseg.live.ledger import Ledger
from edgeseg.live.status import Events

__all__ = ["Capture"]

_log = logging.getLogger(__name__)

_READ_TIMEOUT_S = 0.25
"""How long a stop may have to wait for the thread."""
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0


class Capture:
    """Reads a source until it ends, for good.

    A source that is lost (``SourceLostError``, or silence for ``lost_after_s``) is closed and
    opened again until it answers, with pauses that grow to five seconds; frames after that belong
    to another segment. Frames whose capture time does not advance are repeats or out of order, and
    are dropped.
    """

    def __init__(
        self,
        source: LiveSource,
        exchange: Exchange,
        *,
        ledger: Ledger,
        figures: Figures,
        events: Events,
        health: PictureHealth | None,
        max_age_s: float | None,
        lost_after_s: float,
        wait_for_source: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            source: not open yet; the thread opens it, since sources belong to one thread.
            exchange: takes the frames.
            ledger: counts them.
            figures: is told of them.
            events: is told what happens to the source.
            health: judges the pictures; None where a still picture is nothing unusual.
            max_age_s: a frame that arrives older than this is not computed on; None: all are.
            lost_after_s: silence after which a live source is opened anew.
            wait_for_source: a source that is not there yet (``SourceLostError``) is no error at the
                start either.
            clock: seconds.
        """
        self._source = source
        self._exchange = exchange
        self._ledger = ledger
        self._figures = figures
        self._events = events
        self._health = health
        self._max_age_s = max_age_s
        self._lost_after_s = lost_after_s
        self._wait_for_source = wait_for_source
        self._clock = clock
        self._stopping = threading.Event()
        self._engine_is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgeseg capture", daemon=True)
        self._may_be_lost = source.is_live and source.silence_is_loss
        self._index = 0
        self._segment = 0
        self._size: tuple[int, int] | None = None
        self._verdict: PictureVerdict | None = None
        self._last_captured_s: float | None = None
        self._last_heard_s = clock()
        self._opened = threading.Event()
        self.connected = False
        """Whether the source is open at present."""
        self.lost_because = ""
        """Why it is not."""
        self.ended_by: BaseException | None = None
        """What ended the capture, if it was an error; valid once the exchange is drained."""

    def start(self) -> None:
        """Start the thread, which opens the source."""
        self._thread.start()

    def wait_open(self, timeout_s: float) -> bool:
        """Wait until the source is open, or is being waited for; whether it is.

        Raises:
            SourceLostError: it does not answer.
            DataError, MissingDependencyError: what it is cannot be read here.
        """
        if not self._opened.wait(timeout_s):
            return False
        if not self.connected and self.ended_by is not None and self._index == 0:
            raise self.ended_by
        return True

    def engine_is_ready(self) -> None:
        """What is played begins now; cameras have been read all the while."""
        self._engine_is_ready.set()

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end; whether it has."""
        self._stopping.set()
        self._engine_is_ready.set()
        if self._thread.ident is None:
            self._source.close()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since a frame last came."""
        return self._clock() - self._last_heard_s

    def _run(self) -> None:
        try:
            self._open_first()
            if self._source.begins_when_read:
                self._engine_is_ready.wait()
                self._last_heard_s = self._clock()
            self._read_all()
        except BaseException as error:
            self.ended_by = error
        finally:
            try:
                self._source.close()
            except EdgesegError as error:
                _log.warning("while closing %s: %s", self._source.name, error)
            self.connected = False
            self._opened.set()
            self._exchange.end()

    def _open_first(self) -> None:
        try:
            self._source.open()
        except SourceLostError as error:
            if not self._wait_for_source:
                raise
            self._opened.set()
            self._reconnect(str(error))
            return
        self.connected = True
        self._last_heard_s = self._clock()
        self._opened.set()

    def _read_all(self) -> None:
        while not self._stopping.is_set():
            try:
                captured = self._source.read(_READ_TIMEOUT_S)
            except EndOfStreamError:
                self._events("source_ended", frames=self._index)
                return
            except SourceLostError as error:
                self._reconnect(str(error))
                continue
            except Exception as error:
                if self._may_be_lost and not isinstance(error, EdgesegError):
                    # A defect of the source. Beside a camera the way out is to begin again.
                    self._reconnect(describe_error(error))
                    continue
                self._events("source_ended", frames=self._index, error=describe_error(error))
                raise
            if captured is not None:
                if not self._deliver(captured):
                    return
            elif self._may_be_lost and self.silent_s > self._lost_after_s:
                self._reconnect(f"no frame for {self.silent_s:.1f} s")

    def _deliver(self, captured: Captured) -> bool:
        now = self._clock()
        self._last_heard_s = now
        # A driver's clock may run ahead; nothing is younger than now.
        captured_s = min(captured.captured_s, now)
        height, width = captured.image.shape[:2]
        if self._size is not None and self._size != (width, height):
            self._segment += 1
        if self._size != (width, height):
            self._size = (width, height)
            self._events("format", width_px=width, height_px=height)
        index = self._index
        self._index += 1
        self._ledger.capture(index)
        self._figures.capture()
        if self._last_captured_s is not None and captured_s <= self._last_captured_s:
            self._ledger.drop(index, "out of order")
            return True
        self._last_captured_s = captured_s
        frame = LiveFrame(index, captured.image, captured_s, captured.media_s, self._segment)
        seen = Seen(frame, self._verdict)
        late = self._max_age_s is not None and now - captured_s > self._max_age_s
        taken = self._exchange.deliver(seen, for_engine=not late)
        if late:
            # Counted as such if it is not displayed, with the sign, before a newer one comes.
            self._ledger.drop(index, "late at capture")
        if self._health is not None:
            # After the delivery: nobody waits for it, and no verdict rests on a single frame.
            seen.verdict = self._verdict = self._health.step(frame)
        return taken

    def _reconnect(self, why: str) -> None:
        """Close, then open until it works or the session stops."""
        self.connected = False
        # Whoever reads it sees the name of the source beside it.
        self.lost_because = why = why.removeprefix(f"{self._source.name}: ")
        self._segment += 1
        self._figures.fault("source")
        self._events("source_lost", error=why)
        _log.warning("%s is lost: %s; it is tried again", self._source.name, why)
        self._close_source()
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.wait(pause_s):
            pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)
            try:
                self._source.open()
            except Exception as error:
                # Also what would end a first attempt: a server that is starting knows no path yet,
                # a camera that is plugged in has no permissions yet.
                why = describe_error(error).removeprefix(f"{self._source.name}: ")
                if why != self.lost_because:
                    self.lost_because = why
                    self._events("source_lost", error=why)
                    _log.warning("%s: %s", self._source.name, why)
                self._close_source()
                continue
            self.connected = True
            self.lost_because = ""
            self._last_heard_s = self._clock()
            self._last_captured_s = None
            self._verdict = None
            if self._health is not None:
                self._health.reset()
            self._figures.reconnect()
            self._events("source_back")
            _log.info("%s is back", self._source.name)
            return

    def _close_source(self) -> None:
        try:
            self._source.close()
        except EdgesegError as error:
            _log.info("while closing %s: %s", self._source.name, error)
