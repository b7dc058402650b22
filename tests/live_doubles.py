"""Sources, engines and sinks whose delays and faults a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from edgeseg.errors import EndOfStreamError
from edgeseg.live.base import Captured, LiveSink, LiveSource, Shown
from edgeseg.live.computation import Computation, Job
from edgeseg.live.controls import Controls
from edgeseg.live.painter import Painter
from edgeseg.live.session import LiveOptions, LiveSession

HEIGHT_PX, WIDTH_PX = 48, 64


def numbered(number: int, height_px: int = HEIGHT_PX, width_px: int = WIDTH_PX) -> np.ndarray:
    """A noisy picture that holds its number, to be read by ``number_of``."""
    rng = np.random.default_rng(number)
    picture = rng.integers(60, 200, (height_px, width_px, 3), np.uint8)
    picture[0, :4, 0] = [number >> shift & 255 for shift in (0, 8, 16, 24)]
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number in a picture of ``numbered``."""
    return sum(int(value) << 8 * place for place, value in enumerate(picture[0, :4, 0]))


class Numbered(LiveSource):
    """Numbered frames at a rate, with whatever happens in between.

    ``script`` yields pictures, errors (which ``read`` raises), numbers (seconds of silence), or
    functions that are called at that point. ``rate`` None: as fast as they are taken.
    """

    name = "numbered frames"

    def __init__(
        self, script: Iterable[Any], rate: float | None = None, *, is_live: bool | None = None
    ) -> None:
        self._script: Iterator[Any] = iter(script)
        self._period_s = None if rate is None else 1.0 / rate
        self.rate = None if rate is None else Fraction(rate).limit_denominator(1000)
        self.is_live = rate is not None if is_live is None else is_live
        self._next_s = 0.0
        self._silent_until_s = 0.0
        self.opened = 0
        self.closed = 0
        self.refusals: list[BaseException] = []
        """What the next calls of ``open`` raise."""

    def open(self) -> None:
        self.opened += 1
        if self.refusals:
            raise self.refusals.pop(0)
        self._next_s = time.monotonic()

    def read(self, timeout_s: float) -> Captured | None:
        deadline_s = time.monotonic() + timeout_s
        while True:
            wait_s = max(self._silent_until_s, self._next_s) - time.monotonic()
            if wait_s > 0.0 and (self._period_s is not None or self._silent_until_s):
                if time.monotonic() + wait_s > deadline_s:
                    time.sleep(max(0.0, deadline_s - time.monotonic()))
                    return None
                time.sleep(wait_s)
            try:
                item = next(self._script)
            except StopIteration:
                raise EndOfStreamError("all numbered frames were read") from None
            if isinstance(item, BaseException):
                raise item
            if callable(item):
                item()
                continue
            if isinstance(item, float):
                self._silent_until_s = time.monotonic() + item
                self._next_s = self._silent_until_s
                continue
            now = time.monotonic()
            if isinstance(item, Captured):
                return item
            if self._period_s is not None:
                # As a camera: late reading does not shift the frames after it.
                captured_s = min(now, max(self._next_s, now - self._period_s))
                self._next_s = max(self._next_s + self._period_s, now - self._period_s)
            else:
                captured_s = now
            return Captured(item, captured_s)

    def close(self) -> None:
        self.closed += 1


class Thinking(Computation):
    """Sleeps, then finds the number of the frame; the mask holds it, to be read by ``number_of``.

    ``before`` is called with the number of the call (from 0) and the frame's; it may raise, or
    return how long to sleep.
    """

    def __init__(
        self, sleep_s: float = 0.0, before: Callable[[int, int], float | None] | None = None
    ) -> None:
        self.sleep_s = sleep_s
        self._before = before
        self.calls = 0
        self.closed = False

    def compute(self, job: Job) -> Any:
        call, self.calls = self.calls, self.calls + 1
        number = number_of(job.frame.image)
        asked_s = None if self._before is None else self._before(call, number)
        time.sleep(self.sleep_s if asked_s is None else asked_s)
        return number

    def read(self, job: Job, computed: Any) -> np.ndarray:
        height_px, width_px = job.frame.image.shape[:2]
        mask = np.zeros((height_px, width_px), np.uint8)
        mask[0, :32] = [computed >> bit & 1 for bit in range(32)]
        mask[height_px // 4 : height_px // 2, width_px // 4 : width_px // 2] = 1
        return mask

    def close(self) -> None:
        self.closed = True


def mask_number(mask: np.ndarray) -> int:
    """Number of the frame that ``Thinking`` computed the mask on."""
    return sum(int(value) << bit for bit, value in enumerate(mask[0, :32]))


class Collector(LiveSink):
    """Keeps what it gets, and can wait, fail or hang."""

    def __init__(self, name: str = "collector", *, keep: bool = True) -> None:
        self.name = name
        self.policy = "wait"
        self.shown: list[Shown] = []
        self.count = 0
        self.closed = False
        self.on_write: Callable[[Shown], None] | None = None
        self._keep = keep
        self._changed = threading.Condition()

    def write(self, shown: Shown) -> None:
        if self.on_write is not None:
            self.on_write(shown)
        with self._changed:
            self.count += 1
            if self._keep:
                self.shown.append(shown)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[list[Shown]], bool], timeout_s: float = 20.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.shown), timeout_s), "timed out"

    def close(self) -> None:
        self.closed = True


class Notes:
    """Events in a list."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, /, **data: Any) -> None:
        self.events.append((kind, data))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for name, data in list(self.events) if name == kind]


def session_of(
    source: LiveSource,
    computation: Computation | Callable[[], Computation],
    sinks: Iterable[LiveSink],
    options: LiveOptions | None = None,
    **more: Any,
) -> LiveSession:
    """A session with plain pictures."""
    controls = Controls(opacity=0.5, threshold=0.5)
    return LiveSession(
        source,
        computation if callable(computation) else lambda: computation,
        Painter(((0, 255, 0),), controls, status=False),
        controls,
        options,
        sinks=list(sinks),
        **more,
    )
