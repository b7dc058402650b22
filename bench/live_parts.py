"""Stand-ins of a live session whose times are known: a feed, an engine that sleeps, a counter."""

from __future__ import annotations

import math
import os
import random
import time
from array import array
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import BackendError, EndOfStreamError, SourceLostError
from edgeseg.live.base import Captured, LiveSink, LiveSource, Picture, Shown
from edgeseg.live.computation import Computation, Job
from edgeseg.live.controls import Controls
from edgeseg.live.painter import Painter
from edgeseg.live.session import LiveOptions, LiveSession

__all__ = ["Counter", "Feed", "SleepingEngine", "noise", "plain_session", "rss_mib"]


def noise(count: int, height_px: int, width_px: int) -> list[Picture]:
    """Pictures that all differ: uint8 (height, width, 3)."""
    rng = np.random.default_rng(0)
    return [rng.integers(40, 216, (height_px, width_px, 3), np.uint8) for _ in range(max(count, 2))]


class Feed(LiveSource):
    """Pictures in turn, at a rate or as fast as they are taken; with random faults if asked for.

    As with a camera a frame that is read late does not shift those after it, and one that was due
    long ago is skipped (``skipped``).
    """

    name = "generated feed"

    def __init__(
        self,
        pictures: list[Picture],
        frames: int,
        rate: float | None,
        *,
        faults: random.Random | None = None,
    ) -> None:
        """Prepare.

        Args:
            pictures: shown in turn.
            frames: how many to deliver.
            rate: a second; None: a source that waits.
            faults: decides where frames are lost, repeated, late, or the connection breaks.
        """
        self._pictures = pictures
        self._frames = frames
        self._period_s = None if rate is None else 1.0 / rate
        self._faults = faults
        self._next = 0
        self._next_s = 0.0
        self._last_s = 0.0
        self.rate = None if rate is None else Fraction(rate).limit_denominator(1000)
        self.is_live = rate is not None
        self.size = (pictures[0].shape[1], pictures[0].shape[0])
        self.skipped = 0

    def open(self) -> None:
        """Begin, or go on."""
        self._next_s = time.monotonic()

    def read(self, timeout_s: float) -> Captured | None:
        """See ``LiveSource``."""
        if self._next >= self._frames:
            raise EndOfStreamError("that was all")
        captured_s = time.monotonic()
        if self._period_s is not None:
            wait_s = self._next_s - captured_s
            if wait_s > timeout_s:
                time.sleep(timeout_s)
                return None
            if wait_s > 0.0:
                time.sleep(wait_s)
            captured_s = self._next_s
            self._next_s += self._period_s
            late = time.monotonic() - self._next_s
            if late > 4.0 * self._period_s:
                behind = int(late / self._period_s)
                self.skipped += behind
                self._next_s += behind * self._period_s
        picture = self._pictures[self._next % len(self._pictures)]
        if self._faults is not None:
            captured_s = self._with_fault(captured_s)
        self._next += 1
        self._last_s = captured_s
        return Captured(picture, captured_s)

    def _with_fault(self, captured_s: float) -> float:
        assert self._faults is not None
        draw = self._faults.random()
        if draw < 0.0005:
            self._next += 1
            raise SourceLostError("a cable that is loose")
        if draw < 0.002:
            return self._last_s  # a repeat
        if draw < 0.003:
            return captured_s - 0.5  # late, and out of order
        if draw < 0.0035:
            time.sleep(0.02)
        return captured_s

    def close(self) -> None:
        """Nothing is held."""


class SleepingEngine(Computation):
    """Takes its time without using a processor, as an engine on another device does."""

    def __init__(self, sleep_s: float, *, faults: random.Random | None = None) -> None:
        """Prepare.

        Args:
            sleep_s: of each call.
            faults: decides which calls raise or take much longer.
        """
        self._sleep_s = sleep_s
        self._faults = faults
        self._masks: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}
        self.calls = 0
        self.inside_s = 0.0
        self._first_s = math.inf
        self._last_s = -math.inf

    def compute(self, job: Job) -> Any:
        """Sleep."""
        start = time.perf_counter()
        self.calls += 1
        sleep_s = self._sleep_s
        if self._faults is not None:
            draw = self._faults.random()
            if draw < 0.001:
                raise BackendError("a random failure")
            if draw < 0.0015:
                sleep_s += 0.15
        if sleep_s > 0.0:
            time.sleep(sleep_s)
        end = time.perf_counter()
        self.inside_s += end - start
        self._first_s = min(self._first_s, start)
        self._last_s = end
        return None

    @property
    def busy(self) -> float:
        """Share of the time from the first call's start to the last call's end, 0 to 1."""
        return self.inside_s / (self._last_s - self._first_s) if self.calls else 0.0

    def read(self, job: Job, computed: Any) -> npt.NDArray[np.uint8]:
        """A rectangle."""
        height, width = job.frame.image.shape[:2]
        mask = self._masks.get((height, width))
        if mask is None:
            mask = np.zeros((height, width), np.uint8)
            mask[height // 3 : height // 2, width // 3 : width // 2] = 1
            self._masks[height, width] = mask
        return mask

    def close(self) -> None:
        """Nothing is held."""


class Counter(LiveSink):
    """Counts pictures and keeps figures of each, not the pictures."""

    name = "counter"
    policy = "wait"

    def __init__(self, each: Callable[[Shown], None] | None = None) -> None:
        """``each`` is called with every picture."""
        self._each = each
        self.count = 0
        # Arrays, since the growth of memory is measured beside them.
        self.ages_ms = array("d")
        self.shown_s = array("d")

    def write(self, shown: Shown) -> None:
        """Count."""
        self.count += 1
        if shown.age_ms is not None:
            self.ages_ms.append(shown.age_ms)
            self.shown_s.append(shown.shown_s)
        if self._each is not None:
            self._each(shown)

    def close(self) -> None:
        """Nothing is held."""


def plain_session(
    source: LiveSource, engine: Callable[[], Computation], sink: LiveSink, options: LiveOptions
) -> LiveSession:
    """A session that draws one class and the status line."""
    controls = Controls(opacity=0.4, threshold=0.5)
    painter = Painter(((86, 180, 233),), controls)
    return LiveSession(source, engine, painter, controls, options, sinks=[sink])


def rss_mib() -> float:
    """Memory that this process has in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
