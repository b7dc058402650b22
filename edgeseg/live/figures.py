"""Counts, rates and times of a session, in memory that does not grow."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from edgeseg.live.status import AgeFigures
from edgeseg.video.timing import Spread

__all__ = ["Figures", "Moment"]

_WINDOW_S = 3.0
_MOST_STAMPS = 2048
_ENGINE_TIMES = 64


class _Rate:
    """Events a second over the last seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stamps: deque[float] = deque(maxlen=_MOST_STAMPS)
        self._since = clock()

    def count(self) -> None:
        self._stamps.append(self._clock())

    def per_s(self) -> float:
        now = self._clock()
        while self._stamps and self._stamps[0] < now - _WINDOW_S:
            self._stamps.popleft()
        span = min(_WINDOW_S, max(now - self._since, 1e-3))
        return len(self._stamps) / span


@dataclass(frozen=True)
class Moment:
    """What ``Figures`` says now; fields as in ``LiveStatus``."""

    captured_fps: float
    mask_fps: float
    shown_fps: float
    age_ms: float | None
    ages: AgeFigures
    engine_ms: float
    engine_busy: float
    faults: dict[str, int]
    reconnections: int


class Figures:
    """Several threads may write and read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start at zero; ``clock`` gives seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._captured = _Rate(clock)
        self._masks = _Rate(clock)
        self._shown = _Rate(clock)
        self._ages = Spread()
        self._oldest_ms = 0.0
        self._age_ms: float | None = None
        self._engine: deque[tuple[float, float]] = deque(maxlen=_ENGINE_TIMES)
        self._faults: Counter[str] = Counter()
        self._reconnections = 0

    def capture(self) -> None:
        """A frame was captured."""
        with self._lock:
            self._captured.count()

    def show(self, age_ms: float | None, *, new_mask: bool) -> None:
        """A picture was shown, with a mask of that age or without one."""
        with self._lock:
            self._shown.count()
            self._age_ms = age_ms
            if age_ms is not None:
                self._ages.add(age_ms)
                self._oldest_ms = max(self._oldest_ms, age_ms)
            if new_mask:
                self._masks.count()

    def engine(self, took_ms: float) -> None:
        """The engine answered after that time."""
        with self._lock:
            self._engine.append((self._clock(), took_ms))

    def fault(self, where: str) -> None:
        """An error was survived."""
        with self._lock:
            self._faults[where] += 1

    def reconnect(self) -> None:
        """The source came back."""
        with self._lock:
            self._reconnections += 1

    def mask_fps(self) -> float:
        """New masks shown a second, at present; cheap enough for each picture."""
        with self._lock:
            return self._masks.per_s()

    def moment(self) -> Moment:
        """All of it, now."""
        with self._lock:
            now = self._clock()
            times_ms = [took_ms for _, took_ms in self._engine]
            busy = 0.0
            if self._engine:
                first_s, first_ms = self._engine[0]
                # From the beginning of the first call to now.
                span_ms = 1e3 * (now - first_s) + first_ms
                busy = min(1.0, sum(times_ms) / span_ms) if span_ms > 0.0 else 0.0
            ages = self._ages
            # Percentiles are those of bins, whose middle may lie beyond the largest value.
            p50_ms, p90_ms, p99_ms = (
                min(ages.percentile_ms(percent), self._oldest_ms) for percent in (50, 90, 99)
            )
            return Moment(
                captured_fps=self._captured.per_s(),
                mask_fps=self._masks.per_s(),
                shown_fps=self._shown.per_s(),
                age_ms=self._age_ms,
                ages=AgeFigures(ages.count, p50_ms, p90_ms, p99_ms, self._oldest_ms),
                engine_ms=statistics.median(times_ms) if times_ms else 0.0,
                engine_busy=busy,
                faults=dict(self._faults),
                reconnections=self._reconnections,
            )
