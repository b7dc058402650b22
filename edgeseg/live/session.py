"""A live session: four parts that do not wait for each other, and somebody who looks after them.

    capture ──> frames for the engine ──> engine ──> result ──> display ──> sinks, each on its own
        └───────────────── newest frame, state of the source ────┘

Capture, engine and display have a thread each (``capture.py``, ``engine.py``, ``display.py``), and
so has each sink (``outlets.py``). The caller's thread supervises: it replaces an engine that does
not return, writes statistics into the log, and ends everything.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgeseg._closing import Closing
from edgeseg.errors import EdgesegError, UsageError
from edgeseg.live.base import POLICIES, LiveFrame, LiveSink, LiveSource, Policy, Shown
from edgeseg.live.capture import Capture
from edgeseg.live.computation import Computation
from edgeseg.live.controls import Controls
from edgeseg.live.display import Display, DisplayLimits
from edgeseg.live.engine import EngineRunner
from edgeseg.live.exchange import Exchange
from edgeseg.live.figures import Figures
from edgeseg.live.flow import MaskMover
from edgeseg.live.health import PictureHealth
from edgeseg.live.ledger import Ledger
from edgeseg.live.outlets import Outlets
from edgeseg.live.painter import Painter
from edgeseg.live.recorder import Recorder
from edgeseg.live.regions import BundleRegion, Regions
from edgeseg.live.status import Events, LiveStatus, silent_events
from edgeseg.spec import RoiSpec

__all__ = ["LIVE_MAX_AGE_MS", "LiveOptions", "LiveReport", "LiveSession"]

_log = logging.getLogger(__name__)

LIVE_MAX_AGE_MS = 300.0
"""Of a mask on a live picture, where the caller names no other."""
_SUPERVISE_S = 0.1
_NO_SIGNAL_S = 0.5
_STOP_TIMEOUT_S = 3.0
_LONGEST_OPTION = 1e9
_ATTEMPTS = 3
"""To open an engine anew, for a recording: it waits, and nobody else would tell of the failure."""


@dataclass(frozen=True)
class LiveOptions:
    """How a session behaves."""

    policy: Policy | None = None
    """What happens to frames for which the engine has no time; None: live sources drop the oldest,
    others wait."""
    slots: int = 1
    """Frames that may wait for the engine: 1 or 2. A frame that waits grows old."""
    max_age_ms: float | None = None
    """A mask of an older frame is not shown; None: 300 for live sources, no limit for others,
    whose frames are recordings."""
    latest_frame: bool = False
    """Show every frame at once, with the last mask moved to it by optical flow."""
    lost_after_ms: float = 3000.0
    """Silence after which a live source is opened anew."""
    give_up_ms: float = 10000.0
    """Longest call of the engine before it is left behind and opened anew."""
    judge_pictures: bool | None = None
    """Recognise frozen and black pictures; None: of live sources."""
    wait_for_source: bool = False
    """A source that does not answer at the start is waited for."""
    statistics_every_s: float = 10.0
    """Interval of the ``statistics`` events."""

    def __post_init__(self) -> None:
        if self.policy is not None and self.policy not in POLICIES:
            raise UsageError(f"the policy is one of {', '.join(POLICIES)}, got {self.policy!r}")
        if self.slots not in (1, 2):
            raise UsageError(f"the buffer holds 1 or 2 frames, got {self.slots}")
        for name in ("max_age_ms", "lost_after_ms", "give_up_ms", "statistics_every_s"):
            value = getattr(self, name)
            # Longer waits than the system's clock can count are not meant either.
            if value is not None and not 0.0 < value <= _LONGEST_OPTION:
                raise UsageError(
                    f"{name} must be positive and at most {_LONGEST_OPTION:.0e}, got {value}"
                )


@dataclass(frozen=True)
class LiveReport:
    """What a session did. ``status`` is its last moment, with nothing in flight."""

    status: LiveStatus
    ended_by: EdgesegError | None = None
    """Why the source ended early; None if it was whole, or the session was stopped."""
    unfinished: tuple[str, ...] = ()
    """What did not end in time and was left behind, in words."""
    first_shown_s: float | None = None
    """From the start to the first mask; None if there was none."""


class LiveSession(Closing):
    """Runs once; ``stop`` ends it from any thread. It is the ``Board`` of pages.

    ``run`` does everything in its caller's thread; ``start``, ``supervise`` and ``finish`` are its
    parts, for those who must do something in between.
    """

    def __init__(
        self,
        source: LiveSource,
        open_engine: Callable[[], Computation],
        painter: Painter,
        controls: Controls,
        options: LiveOptions | None = None,
        *,
        sinks: Sequence[LiveSink] = (),
        regions: Regions | None = None,
        events: Events = silent_events,
        card: Callable[[], Mapping[str, Any]] = dict,
        recordings: Path | None = None,
        rate: Fraction | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open nothing yet.

        Args:
            source: not open yet; closed at the end.
            open_engine: opens the engine; called again after it was given up.
            painter: makes the pictures.
            controls: may be changed while it runs.
            options: how to behave.
            sinks: take the pictures; closed at the end.
            regions: region of interest of each frame; None: the bundle's, or the whole frame.
            events: is told what happens.
            card: what is to be said of the model; called once the engine is open.
            recordings: folder for recordings that are started while it runs.
            rate: of these recordings, if it is known.
            clock: seconds.
        """
        self.controls = controls
        self.options = options or LiveOptions()
        self._source = source
        self._open_engine = open_engine
        self._clock = clock
        self._events = events
        self._card = card
        self._regions = regions or BundleRegion()
        self._region: RoiSpec | None = None
        self._is_live = source.is_live
        self._policy: Policy = self.options.policy or ("drop-oldest" if self._is_live else "wait")
        max_age_ms = self.options.max_age_ms
        if max_age_ms is None and self._is_live:
            max_age_ms = LIVE_MAX_AGE_MS
        self._max_age_s = None if max_age_ms is None else max_age_ms / 1e3
        interrupts = self._policy != "wait" or self._max_age_s is not None
        if self.options.latest_frame and not interrupts:
            raise UsageError(
                "--latest-frame shows frames before their masks are there, and a source that waits "
                "needs none of it: leave it out, or play the file at its own pace (--pace source)"
            )
        self._ledger = Ledger()
        self._figures = Figures(clock)
        self._exchange = Exchange(self._policy, self.options.slots, self._ledger)
        judged = (
            self._is_live if self.options.judge_pictures is None else self.options.judge_pictures
        )
        self._capture = Capture(
            source,
            self._exchange,
            ledger=self._ledger,
            figures=self._figures,
            events=events,
            health=PictureHealth() if judged else None,
            max_age_s=self._max_age_s if self._policy != "wait" else None,
            lost_after_s=self.options.lost_after_ms / 1e3,
            wait_for_source=self.options.wait_for_source,
            clock=clock,
        )
        # Where capture waits, so does everybody behind it; otherwise no sink may hold up another.
        self._outlets = Outlets(wait=self._policy == "wait", events=events)
        for sink in sinks:
            self._outlets.add(sink)
        self._recorder = Recorder(
            self._outlets, recordings, rate=rate, media_times=not self._is_live, events=events
        )
        self._display = Display(
            self._exchange,
            self._capture,
            painter,
            self._show,
            limits=DisplayLimits(
                self._max_age_s,
                interrupts,
                # A source that waits is silent because nobody takes its frames.
                math.inf if self._policy == "wait" else _NO_SIGNAL_S,
            ),
            ledger=self._ledger,
            figures=self._figures,
            events=events,
            views=lambda: self._engine.views if self._engine is not None else "",
            mover=MaskMover() if self.options.latest_frame else None,
            clock=clock,
        )
        self._engine: EngineRunner | None = None
        self._stop = threading.Event()
        self._started_s = clock()
        self._first_mask_s: float | None = None
        self._last: Shown | None = None
        self._finished = False
        self._unfinished: list[str] = []
        self._next_statistics_s = 0.0

    # Running

    def run(self, on_tick: Callable[[LiveStatus], None] | None = None) -> LiveReport:
        """From the first frame to the last.

        Args:
            on_tick: called about ten times a second by this thread.

        Returns:
            What happened. A source that ends early with an error is in it, not raised: what was
            captured has been shown.

        Raises:
            EdgesegError: source or engine cannot be opened, or the session cannot go on
                (``StalledError``).
        """
        try:
            self.start()
            while self.supervise():
                if on_tick is not None:
                    on_tick(self.status())
        finally:
            report = self.finish()
        return report

    def add_sink(self, sink: LiveSink) -> None:
        """Another sink, closed at the end like the first ones; before the start or later."""
        self._outlets.add(sink)

    def start(self) -> None:
        """Open source and engine, and start all threads.

        The source opens while the engine does; frames that come before the engine is ready are
        shown with the sign.

        Raises:
            EdgesegError: one of them cannot be opened.
        """
        self._started_s = self._clock()
        self._next_statistics_s = self._started_s + self.options.statistics_every_s
        self._capture.start()
        if not self._is_live:
            # Nothing is shown before its turn, and a file that cannot be read is told first.
            self._wait_for_source()
        self._display.start()
        computation = self._open_engine()
        self._engine = EngineRunner(
            self._exchange,
            computation,
            self._open_engine,
            threshold=lambda: self.controls.threshold,
            regions=self._region_of,
            figures=self._figures,
            events=self._events,
            give_up_s=self.options.give_up_ms / 1e3,
            attempts=None if self._is_live else _ATTEMPTS,
            clock=self._clock,
        )
        if not self._wait_for_source():
            return
        if self._source.size is not None:
            self._regions.check(self._source.size)
        self._engine.start()
        self._capture.engine_is_ready()

    def _wait_for_source(self) -> bool:
        """Until it is open, or somebody stops the session; whether it is."""
        while not self._stop.is_set():
            if self._capture.wait_open(_SUPERVISE_S):
                return True
        return False

    def supervise(self) -> bool:
        """Wait a moment and look after the parts; False once the session is over.

        Raises:
            StalledError: the engine hangs again and again.
        """
        self._stop.wait(_SUPERVISE_S)
        if self._stop.is_set() or not self._display.alive:
            return False
        if self._engine is not None:
            self._engine.check()
        if self._clock() >= self._next_statistics_s:
            self._next_statistics_s += self.options.statistics_every_s
            self._events("statistics", **as_event(self.status()))
        return True

    def stop(self) -> None:
        """End it soon; may be called by any thread and in signal handlers."""
        self._stop.set()

    def finish(self) -> LiveReport:
        """Stop what still runs, complete the sinks, and say what happened.

        Raises:
            Exception: the display failed for good, a recording's engine could not be opened anew,
                or a source has a defect.
        """
        stopped = self._stop.is_set() or self._display.alive
        self._exchange.stop()
        # The display may wait for room in a sink; what the sinks hold already is still written.
        self._outlets.stop()
        for what, ended in (
            ("the source", self._capture.stop(_STOP_TIMEOUT_S)),
            ("the engine", self._engine is None or self._engine.join(_STOP_TIMEOUT_S)),
            ("the display", self._display.join(_STOP_TIMEOUT_S)),
        ):
            if not ended:
                self._unfinished.append(f"{what} did not end in {_STOP_TIMEOUT_S:g} s")
        self._ledger.drop_rest("stopped")
        self._recorder.close()
        self._unfinished.extend(self._outlets.close())
        for text in self._unfinished:
            _log.warning("%s: it is left behind", text)
        ended_by = self._capture.ended_by
        if self._display.failure is not None:
            raise self._display.failure
        if self._engine is not None and self._engine.fatal is not None:
            raise self._engine.fatal
        if ended_by is not None and not isinstance(ended_by, EdgesegError):
            raise ended_by
        status = self.status()
        if not self._finished:
            self._finished = True
            why = "stopped" if stopped and ended_by is None else str(ended_by or "source ended")
            self._events("end", why=why, **as_event(status))
        return LiveReport(
            status=status,
            ended_by=ended_by if isinstance(ended_by, EdgesegError) else None,
            unfinished=tuple(self._unfinished),
            first_shown_s=(
                None if self._first_mask_s is None else self._first_mask_s - self._started_s
            ),
        )

    def close(self) -> None:
        """Stop and free everything."""
        self.stop()
        if not self._finished:
            self.finish()

    # The board

    def status(self) -> LiveStatus:
        """This moment; see ``Board``."""
        state, reason = self._display.state
        # The books first: what is displayed meanwhile would be in flight in them.
        totals = self._ledger.totals()
        moment = self._figures.moment()
        last = self._last
        size = None
        if last is not None and last.frame.index >= 0:
            size = (last.frame.image.shape[1], last.frame.image.shape[0])
        return LiveStatus(
            state=state,
            reason=reason,
            detail="" if last is None else last.detail,
            source=self._source.name,
            connected=self._capture.connected,
            uptime_s=self._clock() - self._started_s,
            frame_size_px=size,
            captured_fps=moment.captured_fps,
            mask_fps=moment.mask_fps,
            shown_fps=moment.shown_fps,
            captured=totals.captured,
            shown=totals.shown,
            predicted=totals.predicted,
            unmasked=totals.unmasked,
            dropped=totals.dropped,
            in_flight=totals.in_flight,
            faults=moment.faults,
            reconnections=moment.reconnections,
            age_ms=moment.age_ms,
            ages=moment.ages,
            engine_ms=moment.engine_ms,
            engine_busy=moment.engine_busy,
            sinks=self._outlets.status(),
            views="" if self._engine is None else self._engine.views,
            region=self._region,
            opacity=self.controls.opacity,
            threshold=self.controls.threshold,
            recording=self._recorder.file,
            max_age_ms=0.0 if self._max_age_s is None else 1e3 * self._max_age_s,
        )

    def card(self) -> Mapping[str, Any]:
        """What the bundle says of its model; see ``Board``."""
        return self._card()

    def start_recording(self) -> str:
        """See ``Board``."""
        return self._recorder.start()

    def stop_recording(self) -> str | None:
        """See ``Board``."""
        return self._recorder.stop()

    @property
    def policy(self) -> Policy:
        """What happens to frames for which the engine has no time."""
        return self._policy

    @property
    def max_age_ms(self) -> float | None:
        """Of the frame that a shown mask was computed on; None without a limit."""
        return None if self._max_age_s is None else 1e3 * self._max_age_s

    # Callbacks

    def _show(self, shown: Shown) -> None:
        self._last = shown
        if shown.mask is not None and self._first_mask_s is None:
            self._first_mask_s = shown.shown_s
        self._outlets.offer(shown)

    def _region_of(self, frame: LiveFrame) -> RoiSpec | None:
        region = self._regions(frame)
        self._region = region
        return region


def as_event(status: LiveStatus) -> dict[str, Any]:
    """A status as values that JSON can hold."""
    data: dict[str, Any] = dataclasses.asdict(status)
    return data
