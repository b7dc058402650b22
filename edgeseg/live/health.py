"""Whether the picture that arrives can be a live one: neither frozen nor black.

A feed that hangs keeps sending its last picture, and nothing else in the chain notices. Bit for bit
it is the same only where nothing encodes it anew; an encoder in between refines it, skips most of
it, and shows it a little differently from each key frame on. Two things tell it from a live scene
that happens to be still. A live one moves somewhere, and then the mean of some small block of the
picture changes by more than an encoder's errors, which have no mean. And a sensor is noisy: in
nearly every new frame nearly every pixel is another one, while an encoder of a still picture leaves
most pixels as they are in most frames.

What cannot be told from a frozen feed is a scene without any motion whose noise an encoder has
taken away, since the very same bytes arrive; that happens while a camera lies on a table. What
cannot be told from a live one is a frozen picture with a running clock burned into it, or one that
passed through an analogue cable, which adds noise of its own.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import UsageError
from edgeseg.live.base import LiveFrame, Picture, Reason

__all__ = ["PictureHealth", "PictureVerdict"]

_log = logging.getLogger(__name__)

_ROWS = 72
"""Rows of a frame that are looked at, whole ones: they lie together in memory."""
_BLOCKS = (32, 24)
"""Columns and rows of blocks, each over three of the sampled rows."""
_LIT_LEVEL = 16
"""Grey level from which on pixels can have noise: a border that a processor paints has none."""
_ERRORS_QUANTILE = 0.95
"""Of the changes of the blocks' means: what an encoder's errors make of most of a still picture."""
_ERRORS_FACTOR = 2.5
"""A block that changed more than so many times that, plus one level, shows motion: the better the
encoder, the smaller the tool that gives a live picture away."""
_LARGEST_ERROR = 10.0
"""Of a block's mean, of 255; more is motion wherever it is."""
_LEAVE_FACTOR = 2.0
"""It takes twice as much to end a frozen picture, so that the verdict does not flicker."""
_STILL_SHARE = 0.8
"""Half of the frames of a frozen picture have at least this share of pixels of the one before."""
_NEW_SHARE = 0.35
"""Below this share of unchanged pixels a frame is a new one: noise, or a key frame."""
_NEW_PER_S = 4.0
"""New frames a second that no encoder's key frames explain, whatever is repeated in between."""
_NEW_TO_LEAVE = 4
"""So many new frames one after the other end a frozen picture."""
_LEAST_FRAMES = 4

_BLACK_LEVEL, _BLACK_LEVEL_LEAVE = 24, 30
_BRIGHT_SHARE, _BRIGHT_SHARE_LEAVE = 0.06, 0.09
"""Share of pixels above the level that burned-in text may take of a black picture."""
_BLACK_MEAN, _BLACK_MEAN_LEAVE = 12.0, 15.0
_BLACK_SPREAD, _BLACK_SPREAD_LEAVE = 5.0, 7.0
"""Mean and standard deviation of the pixels that are not text."""

Plane = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PictureVerdict:
    """Why a picture is not to be taken for a live one."""

    reason: Reason
    """"frozen picture" or "black picture"."""
    since_s: float
    """Capture time of the first frame of which this holds, in seconds of ``time.monotonic``."""


@dataclass
class _Still:
    """A run of frames that all look like its first one."""

    since_s: float
    means: npt.NDArray[np.int16]
    frames: int = 1
    shares: deque[tuple[float, float]] = field(default_factory=deque)
    """Capture time and share of unchanged pixels of the frames of the last second or so."""
    new_in_a_row: int = 0


class PictureHealth:
    """Judges the frames of one live source, one after the other; one thread calls it.

    It is meant for live sources: what plays a still picture on purpose would be called frozen.
    """

    def __init__(self, frozen_after_s: float = 1.0, black_after_s: float = 0.3) -> None:
        """Start without a past.

        Args:
            frozen_after_s: for how long a picture must not have changed; positive.
            black_after_s: for how long it must have been black; not negative.

        Raises:
            UsageError: out of range.
        """
        if not (math.isfinite(frozen_after_s) and frozen_after_s > 0.0):
            raise UsageError(f"frozen_after_s must be positive, got {frozen_after_s}")
        if not (math.isfinite(black_after_s) and black_after_s >= 0.0):
            raise UsageError(f"black_after_s must not be negative, got {black_after_s}")
        self.frozen_after_s = frozen_after_s
        self.black_after_s = black_after_s
        self._segment: int | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything: what comes has nothing to do with what was."""
        self._planes: tuple[Plane, ...] = ()
        self._last_s = -math.inf
        self._still: _Still | None = None
        self._black_since_s: float | None = None
        self._verdict: PictureVerdict | None = None

    def step(self, frame: LiveFrame) -> PictureVerdict | None:
        """Judge the next frame.

        Black is told before frozen, since a black picture is mostly both. A frame of another
        segment, of another size, or of an earlier time than its predecessor starts anew.

        Args:
            frame: the next one that was captured.

        Returns:
            None for a picture that may be live.
        """
        rows = _sampled(frame.image)
        planes: tuple[Plane, ...] = tuple(cv2.split(rows))
        grey = cv2.cvtColor(rows, cv2.COLOR_BGR2GRAY)
        other_size = bool(self._planes) and self._planes[0].shape != planes[0].shape
        if frame.segment != self._segment or other_size or frame.captured_s < self._last_s:
            self.reset()
        self._segment = frame.segment
        black = self._judge_black(grey, frame.captured_s)
        frozen = self._judge_frozen(rows, planes, grey, frame.captured_s)
        self._planes, self._last_s = planes, frame.captured_s
        self._note(black or frozen, frame)
        return self._verdict

    def _note(self, verdict: PictureVerdict | None, frame: LiveFrame) -> None:
        before, self._verdict = self._verdict, verdict
        if verdict is not None and (before is None or before.reason != verdict.reason):
            _log.warning("frame %d: %s", frame.index, verdict.reason)
        elif verdict is None and before is not None:
            _log.info("frame %d: no %s any more", frame.index, before.reason)

    def _judge_black(self, grey: Plane, now_s: float) -> PictureVerdict | None:
        is_black = self._verdict is not None and self._verdict.reason == "black picture"
        if not _is_black(grey, leave=is_black):
            self._black_since_s = None
            return None
        if self._black_since_s is None:
            self._black_since_s = now_s
        if not is_black and now_s - self._black_since_s < self.black_after_s:
            return None
        return PictureVerdict("black picture", self._black_since_s)

    def _judge_frozen(
        self, rows: Picture, planes: tuple[Plane, ...], grey: Plane, now_s: float
    ) -> PictureVerdict | None:
        means = cv2.resize(rows, _BLOCKS, interpolation=cv2.INTER_AREA).astype(np.int16)
        still = self._still
        if still is None:
            self._still = _Still(now_s, means)
            return None
        is_frozen = self._verdict is not None and self._verdict.reason == "frozen picture"
        share = _unchanged(self._planes, planes, grey)
        still.new_in_a_row = still.new_in_a_row + 1 if share < _NEW_SHARE else 0
        moved = _moved(still.means, means, _LEAVE_FACTOR if is_frozen else 1.0)
        if moved or (is_frozen and still.new_in_a_row >= _NEW_TO_LEAVE):
            self._still = _Still(now_s, means)
            return None
        still.frames += 1
        still.shares.append((now_s, share))
        while still.shares[0][0] <= now_s - self.frozen_after_s:
            still.shares.popleft()
        if is_frozen or self._is_frozen(still, now_s):
            return PictureVerdict("frozen picture", still.since_s)
        return None

    def _is_frozen(self, still: _Still, now_s: float) -> bool:
        if now_s - still.since_s < self.frozen_after_s or still.frames < _LEAST_FRAMES:
            return False
        shares = np.array([share for _, share in still.shares])
        new = int(np.count_nonzero(shares < _NEW_SHARE))
        return bool(np.median(shares) >= _STILL_SHARE) and new < _NEW_PER_S * self.frozen_after_s


def _sampled(image: Picture) -> Picture:
    """uint8 (about 72, W, 3): whole rows, evenly spaced, one after the other in memory."""
    step = max(1, image.shape[0] // _ROWS)
    return np.ascontiguousarray(image[step // 2 :: step])


def _moved(before: npt.NDArray[np.int16], now: npt.NDArray[np.int16], patience: float) -> bool:
    """Whether some block changed more than an encoder's errors explain.

    Args:
        before: means of the blocks, int16 (rows, columns, 3), 0 to 255.
        now: the same of another frame.
        patience: factor on what is allowed.
    """
    changes = np.abs(now - before).max(axis=2)
    errors = float(np.quantile(changes, _ERRORS_QUANTILE, method="nearest"))
    allowed = min(_ERRORS_FACTOR * (errors + 1.0), _LARGEST_ERROR)
    return float(changes.max()) > patience * allowed


def _unchanged(before: tuple[Plane, ...], now: tuple[Plane, ...], grey: Plane) -> float:
    """Share of the lit pixels that are exactly those of the frame before; 1 if none is lit."""
    _, lit = cv2.threshold(grey, _LIT_LEVEL, 255, cv2.THRESH_BINARY)
    count = cv2.countNonZero(lit)
    if count == 0:
        return 1.0
    changed = cv2.absdiff(before[0], now[0])
    for earlier, later in zip(before[1:], now[1:], strict=True):
        cv2.bitwise_or(changed, cv2.absdiff(earlier, later), dst=changed)
    return 1.0 - cv2.countNonZero(cv2.bitwise_and(changed, lit)) / count


def _is_black(grey: Plane, *, leave: bool) -> bool:
    """Whether hardly any pixel is lit and the others show no scene.

    Args:
        grey: the sampled rows.
        leave: by the limits that end a black picture, which are wider.
    """
    level = _BLACK_LEVEL_LEAVE if leave else _BLACK_LEVEL
    _, dark = cv2.threshold(grey, level, 255, cv2.THRESH_BINARY_INV)
    bright_share = 1.0 - cv2.countNonZero(dark) / grey.size
    if bright_share > (_BRIGHT_SHARE_LEAVE if leave else _BRIGHT_SHARE):
        return False
    mean, spread = (float(value.item()) for value in cv2.meanStdDev(grey, mask=dark))
    return mean <= (_BLACK_MEAN_LEAVE if leave else _BLACK_MEAN) and spread <= (
        _BLACK_SPREAD_LEAVE if leave else _BLACK_SPREAD
    )
