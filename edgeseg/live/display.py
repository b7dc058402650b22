"""The display's thread: what is shown when, and the rule of age.

A mask is drawn on the frame that it was computed on, or (``mover``) on a newer one to which it was
moved. Either way the age of the frame it was computed on is known, and once that age exceeds the
limit the picture with the mask is replaced by one without, that says why.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeseg.live.base import LiveFrame, Picture, Reason, Shown, State
from edgeseg.live.exchange import Computed, Exchange, News, Seen
from edgeseg.live.faults import describe_error
from edgeseg.live.figures import Figures
from edgeseg.live.flow import MaskMover
from edgeseg.live.ledger import Ledger
from edgeseg.live.painter import Painter
from edgeseg.live.status import Events

__all__ = ["Display", "DisplayLimits", "Signal"]

_log = logging.getLogger(__name__)

Mask = npt.NDArray[np.uint8]

_SIGN_EVERY_S = 0.5
"""A sign without new frames is drawn anew this often: it says how long it has been so."""
_BLANK_AFTER_S = 1.0
"""Without any frame. Before that one may come, and windows need not begin in another size."""
_MOST_FAILURES = 25
"""Pictures in a row that could not be made. Something is wrong with this program."""
_DIMMED: frozenset[Reason] = frozenset({"no signal", "frozen picture"})


class Signal(Protocol):
    """What the capture says of the source."""

    connected: bool
    lost_because: str

    @property
    def silent_s(self) -> float:
        """Seconds since a frame last came."""


@dataclass(frozen=True)
class DisplayLimits:
    """When a picture is replaced."""

    max_age_s: float | None
    """Of the frame that a mask was computed on; None for recordings, which have no now."""
    interrupts: bool
    """Whether a picture may be replaced before the next result is there. False for sources that
    wait, of which each frame is shown once, in its turn."""
    no_signal_s: float
    """Silence from which on there is no signal."""


@dataclass
class _OnScreen:
    """What is displayed at present."""

    state: State = "none"
    reason: Reason | None = "starting"
    index: int = -1
    """Of the frame in the picture."""
    mask_captured_s: float = 0.0
    drawn_s: float = float("-inf")
    since_s: float = 0.0
    """When this state and reason began."""


class Display:
    """Shows pictures until the exchange is finished."""

    def __init__(
        self,
        exchange: Exchange,
        signal: Signal,
        painter: Painter,
        offer: Callable[[Shown], None],
        *,
        limits: DisplayLimits,
        ledger: Ledger,
        figures: Figures,
        events: Events,
        views: Callable[[], str],
        mover: MaskMover | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            exchange: where results and frames come from.
            signal: the state of the source.
            painter: makes the pictures.
            offer: takes them.
            limits: of age and silence.
            ledger: is told what was displayed.
            figures: is told of ages and faults.
            events: is told when the state changes.
            views: views in use, in words.
            mover: shows every frame, with the last mask moved to it; None: masks on their own
                frames alone.
            clock: seconds.
        """
        self._exchange = exchange
        self._signal = signal
        self._painter = painter
        self._offer = offer
        self._limits = limits
        self._ledger = ledger
        self._figures = figures
        self._events = events
        self._views = views
        self._mover = mover
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name="edgeseg display", daemon=True)
        self._number = 0
        self._failures = 0
        self._began_s = clock()
        self._screen = _OnScreen(since_s=self._began_s)
        self._mask_frame: LiveFrame | None = None
        """That the newest mask was computed on."""
        self._answered_index = -1
        self.failure: BaseException | None = None
        """What ended the thread, if it was an error."""

    @property
    def state(self) -> tuple[State, Reason | None]:
        """What is displayed."""
        screen = self._screen
        return screen.state, screen.reason

    @property
    def alive(self) -> bool:
        """Whether the thread is at work."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._began_s = self._clock()
        self._thread.start()

    def join(self, timeout_s: float | None) -> bool:
        """Wait for the thread; whether it has ended."""
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while True:
                news = self._exchange.look(
                    newer_than=self._newest_known(), timeout_s=self._timeout_s()
                )
                if news.finished:
                    return
                self._guarded(news)
        except BaseException as error:
            self.failure = error
            self._exchange.stop()

    def _guarded(self, news: News) -> None:
        try:
            self._step(news)
        except Exception as error:
            text = describe_error(error)
            self._figures.fault("display")
            self._events("fault", where="display", error=text)
            _log.warning("a picture could not be made: %s", text)
            self._failures += 1
            if self._failures >= _MOST_FAILURES:
                raise
        else:
            self._failures = 0

    def _newest_known(self) -> int | None:
        """Index of the newest frame that needs no attention; None where results alone do."""
        if not self._limits.interrupts:
            return None
        if self._mover is None and self._screen.state == "current":
            return None
        return self._screen.index

    def _timeout_s(self) -> float | None:
        if not self._limits.interrupts:
            return None
        now = self._clock()
        if self._screen.state == "none":
            return max(0.0, self._screen.drawn_s + _SIGN_EVERY_S - now)
        if self._limits.max_age_s is None:
            return None
        return max(0.0, self._screen.mask_captured_s + self._limits.max_age_s - now)

    def _step(self, news: News) -> None:
        if news.computed is not None:
            self._take(news.computed, news.newest or news.computed.seen)
        if not self._limits.interrupts:
            return
        newest = news.newest
        if self._mover is not None:
            self._follow(self._mover, newest)
        elif self._screen.state == "current" and not self._expired():
            return
        else:
            self._show_sign(newest)

    def _expired(self) -> bool:
        limit = self._limits.max_age_s
        return limit is not None and self._clock() - self._screen.mask_captured_s > limit

    # Results

    def _take(self, computed: Computed, newest: Seen) -> None:
        """Show a result, or make it the one that is moved, if it may be shown."""
        frame = computed.seen.frame
        self._answered_index = frame.index
        mask = self._read(computed)
        if mask is None:
            self._refuse(computed.seen, "engine failed", self._exchange.engine.failure)
            return
        if self._limits.interrupts and frame.segment != newest.frame.segment:
            # The source was lost in between: this is a picture of before. Of a source that waits
            # every frame has its turn.
            self._ledger.drop(frame.index, "before the source was lost")
            return
        if computed.seen.verdict is not None:
            self._refuse(computed.seen, computed.seen.verdict.reason, "")
            return
        limit = self._limits.max_age_s
        age_s = self._clock() - frame.captured_s
        if limit is not None and age_s > limit:
            self._refuse(computed.seen, "result too old", _too_old(age_s, limit))
            return
        self._mask_frame = frame
        if self._mover is not None:
            self._mover.reset(frame, mask)
            # The frame itself was displayed when it came; one that was passed over never will be.
            self._ledger.drop(frame.index, "passed over by a newer one")
            return
        self._show_mask(frame, mask, "current", frame)

    def _read(self, computed: Computed) -> Mask | None:
        if computed.failure:
            return None
        try:
            mask: Mask = computed.read()
        except Exception as error:
            text = describe_error(error)
            self._figures.fault("read-out")
            self._events("fault", where="read-out", error=text)
            _log.warning("frame %d: %s", computed.seen.frame.index, text)
            return None
        return mask

    def _refuse(self, seen: Seen, reason: Reason, detail: str) -> None:
        """A result that must not be shown. The frame of a source that waits has its turn now."""
        if self._limits.interrupts:
            self._ledger.drop(seen.frame.index, reason)
        else:
            self._draw_sign(seen.frame, reason, detail)

    # Frames

    def _follow(self, mover: MaskMover, newest: Seen | None) -> None:
        """Show the newest frame with the mask moved to it."""
        if newest is None or newest.frame.index < 0:
            self._show_sign(newest)
            return
        frame, source = newest.frame, self._mask_frame
        is_new = frame.index != self._screen.index
        if not is_new and self._screen.state != "none" and not self._expired():
            return
        usable = (
            source is not None
            and source.segment == frame.segment
            and newest.verdict is None
            and not self._too_old(source)
        )
        if not usable and is_new:
            # A mask may yet come that was computed on this frame or one before it.
            mover.see(frame)
        moved = mover.move(frame) if source is not None and usable else None
        if source is None or moved is None:
            self._show_sign(newest, lost_track=mover.failure if usable else "")
            return
        state: State = "current" if source.index == frame.index else "predicted"
        self._show_mask(frame, moved.mask, state, source)

    def _too_old(self, frame: LiveFrame) -> bool:
        limit = self._limits.max_age_s
        return limit is not None and self._clock() - frame.captured_s > limit

    def _show_mask(self, frame: LiveFrame, mask: Mask, state: State, source: LiveFrame) -> None:
        age_ms = 1e3 * (self._clock() - source.captured_s)
        picture = self._painter.overlay(
            frame.image,
            mask,
            state=state,
            age_ms=age_ms,
            mask_fps=self._figures.mask_fps(),
            extra=self._views(),
        )
        now = self._clock()
        limit = self._limits.max_age_s
        if limit is not None and now - source.captured_s > limit:
            # It grew too old while it was drawn.
            self._refuse(Seen(frame), "result too old", _too_old(now - source.captured_s, limit))
            return
        new_mask = self._screen.mask_captured_s != source.captured_s
        self._change(state, None, "", now)
        self._screen.mask_captured_s = source.captured_s
        self._publish(frame, picture, now, mask=mask, state=state, source=source, new_mask=new_mask)

    def _show_sign(self, newest: Seen | None, *, lost_track: str = "") -> None:
        """Say on the newest frame why there is no mask, unless it says so already."""
        reason, detail = self._why(newest, lost_track=lost_track)
        frame = None if newest is None else newest.frame
        index = -1 if frame is None else frame.index
        screen = self._screen
        is_known = screen.state == "none" and screen.reason == reason and screen.index == index
        now = self._clock()
        if is_known and now - screen.drawn_s < _SIGN_EVERY_S:
            return
        if frame is None and now - self._began_s < _BLANK_AFTER_S:
            screen.drawn_s = now
            return
        self._draw_sign(frame, reason, detail)

    def _draw_sign(self, frame: LiveFrame | None, reason: Reason, detail: str) -> None:
        now = self._clock()
        self._change("none", reason, detail, now)
        since_s = now - self._screen.since_s
        if reason == "no signal":
            since_s = max(since_s, self._signal.silent_s)
        picture = self._painter.sign(
            None if frame is None else frame.image,
            reason,
            detail,
            since_s=since_s,
            dimmed=reason in _DIMMED,
        )
        shown = frame or LiveFrame(-1, picture, now)
        self._publish(shown, picture, self._clock(), reason=reason, detail=detail)

    def _why(self, newest: Seen | None, *, lost_track: str) -> tuple[Reason, str]:
        """The reason that comes first in the chain from the camera to the screen."""
        signal, engine, now = self._signal, self._exchange.engine, self._clock()
        if not signal.connected and signal.lost_because:
            return "no signal", signal.lost_because
        if newest is None:
            return ("no signal", "") if engine.answered else ("starting", "")
        if signal.silent_s > self._limits.no_signal_s:
            return "no signal", ""
        if newest.verdict is not None:
            return newest.verdict.reason, ""
        if engine.busy_since_s is not None and not self._limit_allows(now - engine.busy_since_s):
            return "engine stalled", f"at work for {now - engine.busy_since_s:.1f} s"
        if engine.failure:
            return "engine failed", engine.failure
        if not engine.answered:
            return "starting", ""
        if self._answered_index >= newest.frame.index:
            # The engine has done all there was: it is frames that are missing.
            return "no signal", ""
        if lost_track:
            return "result too old", f"the mask cannot be followed: {lost_track}"
        source = self._mask_frame
        limit = self._limits.max_age_s
        if source is None or limit is None:
            return "result too old", ""
        return "result too old", _too_old(now - source.captured_s, limit)

    def _limit_allows(self, age_s: float) -> bool:
        return self._limits.max_age_s is None or age_s <= self._limits.max_age_s

    def _change(self, state: State, reason: Reason | None, detail: str, now: float) -> None:
        screen = self._screen
        if (state, reason) != (screen.state, screen.reason):
            screen.since_s = now
            self._events("state", state=state, reason=reason, detail=detail)
        screen.state, screen.reason = state, reason

    def _publish(
        self,
        frame: LiveFrame,
        picture: Picture,
        shown_s: float,
        *,
        mask: Mask | None = None,
        state: State = "none",
        source: LiveFrame | None = None,
        reason: Reason | None = None,
        detail: str = "",
        new_mask: bool = False,
    ) -> None:
        age_ms = None if source is None else 1e3 * (shown_s - source.captured_s)
        shown = Shown(
            number=self._number,
            frame=frame,
            picture=picture,
            mask=mask,
            state=state,
            reason=reason,
            detail=detail,
            mask_index=None if source is None else source.index,
            age_ms=age_ms,
            frame_age_ms=1e3 * (shown_s - frame.captured_s),
            shown_s=shown_s,
        )
        self._number += 1
        self._screen.index = frame.index
        self._screen.drawn_s = shown_s
        how: Any = {"current": "shown", "predicted": "predicted", "none": "unmasked"}[state]
        self._ledger.display(frame.index, how)
        self._figures.show(age_ms, new_mask=new_mask)
        self._offer(shown)


def _too_old(age_s: float, limit_s: float) -> str:
    return f"{1e3 * age_s:.0f} ms old, allowed are {1e3 * limit_s:.0f}"
