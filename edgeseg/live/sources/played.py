"""What is played from a medium at hand: frames come at its own pace, or as fast as they are taken.

A frame is due at the start plus its time stamp, so rounding and late frames do not add up.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import time
from collections.abc import Generator
from fractions import Fraction

from edgeseg.errors import EndOfStreamError, UsageError
from edgeseg.live.base import Captured, LiveSource, Picture
from edgeseg.live.sources.fetcher import Fetcher

__all__ = ["PlayedSource"]

_log = logging.getLogger(__name__)

_OPEN_S = 60.0
_CLOSE_S = 2.0
_LONGEST_GAP_S = 5.0
"""Time stamps that jump by more are a fault of the recording, or a pause in it: nobody waits."""
_FARTHEST_BEHIND_S = 1.0
"""Whoever fell behind by more (a machine that slept, a decoder that is too slow) goes on from where
it is, instead of hurrying after."""
_DEFAULT_STEP = Fraction(1, 25)

Played = Generator[tuple[Picture, float | None], None, None]
"""Pictures and their time stamps, seconds since the first one."""


class PlayedSource(LiveSource):
    """A file, a folder, generated frames; the subclasses say what is played.

    At the pace of the source it behaves as a camera does (``is_live``); a frame's ``captured_s`` is
    the moment when it was due, or when it was decoded if that was later. Otherwise it waits for
    whoever reads it, and ``captured_s`` is the moment of delivery.
    """

    silence_is_loss = False
    """It is slow at times, but never gone: opening it again would start from the beginning."""
    begins_when_read = True

    def __init__(self, *, name: str, paced: bool, loop: bool) -> None:
        """Open nothing yet.

        Args:
            name: what a person may read.
            paced: keep to the time stamps.
            loop: start again at the end. Time stamps start again as well.
        """
        self.name = name
        self.is_live = paced
        self.faults = 0
        """Damaged frames that were left out."""
        self._loop = loop
        self._fetcher: Fetcher | None = None
        self._held: Captured | None = None
        self._due_s = 0.0
        self._start_s: float | None = None
        self._last_media_s = 0.0

    @property
    def skipped(self) -> int:
        """0: every frame is delivered."""
        return 0

    @abc.abstractmethod
    def _play(self) -> Played:
        """Open the medium, set ``size`` and ``rate``, yield its frames, close it.

        It runs in the fetching thread, once for each round of a loop.

        Raises:
            DataError: as ``LiveSource.open`` until the first frame, then as ``LiveSource.read``.
        """

    def open(self) -> None:
        """Decode the first frame; see ``LiveSource``."""
        if self._fetcher is not None:
            raise UsageError(f"{self.name} is open already")
        self._held, self._start_s = None, None
        self._fetcher = Fetcher(self._fetch, name=self.name, waits=True)
        try:
            self._fetcher.start(_OPEN_S)
        except BaseException:
            self.close()
            raise

    def read(self, timeout_s: float) -> Captured | None:
        """The next frame when it is due; see ``LiveSource``."""
        if self._fetcher is None:
            raise UsageError(f"{self.name} is not open")
        deadline_s = time.monotonic() + timeout_s
        if self._held is None:
            self._held = self._fetcher.take(timeout_s)
            if self._held is None:
                return None
            self._due_s = self._schedule(self._held)
        held = self._held
        if not self.is_live:
            self._held = None
            return Captured(held.image, time.monotonic(), held.media_s)
        self._fetcher.wait_until(min(self._due_s, deadline_s))
        if time.monotonic() < self._due_s:
            return None
        self._held = None
        return Captured(held.image, max(self._due_s, held.captured_s), held.media_s)

    def close(self) -> None:
        """Close the medium."""
        fetcher, self._fetcher = self._fetcher, None
        if fetcher is not None:
            fetcher.stop(_CLOSE_S)
        self._held = None

    def _schedule(self, frame: Captured) -> float:
        """When the frame is due, in seconds of ``time.monotonic``."""
        media_s = frame.media_s or 0.0
        if self._start_s is None:
            self._start_s = time.monotonic() - media_s
        else:
            gap_s = media_s - self._last_media_s
            if not 0.0 < gap_s <= _LONGEST_GAP_S:
                step_s = float(1 / self.rate if self.rate else _DEFAULT_STEP)
                self._start_s += self._last_media_s + step_s - media_s
                if gap_s > 0.0:
                    _log.info("%s: a gap of %.1f s is not waited for", self.name, gap_s)
        self._last_media_s = media_s
        behind_s = time.monotonic() - (self._start_s + media_s)
        if behind_s > _FARTHEST_BEHIND_S:
            self._start_s += behind_s
            _log.info("%s: playing is %.1f s behind, and goes on from there", self.name, behind_s)
        return self._start_s + media_s

    def _fetch(self, fetcher: Fetcher) -> None:
        count = 0
        while True:
            with contextlib.closing(self._play()) as frames:
                for image, media_s in frames:
                    if count == 0:
                        fetcher.ready()
                    count += 1
                    fetcher.put(Captured(image, time.monotonic(), media_s))
            if not self._loop:
                raise EndOfStreamError(f"{self.name}: all {count} frames were played")
