"""Exponential smoothing of probabilities over the frames of one video."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import UsageError
from edgeseg.spec import RoiSpec

__all__ = ["CutDetector", "Memory", "TemporalSmoother"]

_log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
Frame = npt.NDArray[np.uint8]

MAX_GAP_MS = 500.0
"""A frame that comes later than this after its predecessor starts anew."""
CUT_DIFFERENCE = 24.0
"""Mean change of a thumbnail's 8-bit values above which the scene is another one.

In surgical video that moves fast the change from one frame to the next stays below 15."""
_THUMBNAIL_PX = 16
_STEPS_PER_THUMBNAIL_PX = 4


@dataclass
class Memory:
    """What the fusion of the next frame may use of the frames before it.

    Attributes:
        keep: weight of the previous probabilities, 0 to 1 (excluded).
        reset: whether to forget them.
        state: float32 probabilities on the grid of the read-out, made and updated by it.
        region: part of the frame that the grid lies on; None until the read-out says it.
    """

    keep: float = 0.0
    reset: bool = True
    state: FloatArray | None = None
    region: RoiSpec | None = None

    def lie_on(self, region: RoiSpec) -> bool:
        """Say which part of the frame the next probabilities are of.

        Returns:
            Whether it is another one than before; the state is then to be reset, since a point of
            the grid is another place in the frame.
        """
        moved = self.region is not None and self.region != region
        self.region = region
        self.reset = self.reset or moved
        return moved

    def buffer(self, shape: tuple[int, ...]) -> FloatArray:
        """The state, of that shape; a new one is to be reset."""
        if self.state is None or self.state.shape != shape:
            self.state = np.zeros(shape, np.float32)
            self.reset = True
        return self.state


@dataclass
class CutDetector:
    """Tells whether a frame shows another scene than its predecessor.

    Frames are compared as thumbnails of 16x16 colour pixels, so that noise, motion within the scene
    and small tools do not count, while cuts, flushes of water and a wiped lens do: there the
    previous mask is worth nothing.
    """

    difference: float = CUT_DIFFERENCE
    """Mean absolute change, of 255, from which on it is a cut."""
    _last: npt.NDArray[np.int16] | None = field(default=None, repr=False)

    def __call__(self, frame: Frame) -> bool:
        """Compare a uint8 (H, W, 3) frame with the last one; the first is no cut."""
        now = _thumbnail(frame)
        last, self._last = self._last, now
        return last is not None and float(np.abs(now - last).mean()) > self.difference


class TemporalSmoother:
    """The memory of one video: ``p <- keep * p + (1 - keep) * fused`` with ``keep = exp(-dt/tau)``.

    It follows the time stamps, so frame rates may vary. It forgets on the first frame, on a scene
    cut, on a gap, when time runs backwards and where the region of interest changes. Call ``step``
    for every frame in order, then hand ``memory`` to the read-out of that frame.
    """

    def __init__(
        self,
        time_constant_ms: float,
        *,
        max_gap_ms: float = MAX_GAP_MS,
        cut_detector: CutDetector | None = None,
    ) -> None:
        """Start without a past.

        Args:
            time_constant_ms: after this time a frame still counts 1/e; positive.
            max_gap_ms: longest time between two frames over which to smooth.
            cut_detector: None for the default one.

        Raises:
            UsageError: a time is not positive.
        """
        if not (math.isfinite(time_constant_ms) and time_constant_ms > 0.0):
            raise UsageError(f"the time constant must be positive, got {time_constant_ms} ms")
        if not max_gap_ms > 0.0:
            raise UsageError(f"the longest gap must be positive, got {max_gap_ms} ms")
        self.time_constant_ms = time_constant_ms
        self.max_gap_ms = max_gap_ms
        self.memory = Memory()
        self.resets: list[tuple[float, str]] = []
        """Time in milliseconds and reason of every reset but the first."""
        self._cut = cut_detector or CutDetector()
        self._last_ms: float | None = None

    def step(self, frame: Frame, time_ms: float, *, region: RoiSpec | None = None) -> Memory:
        """Go on to the next frame.

        Args:
            frame: uint8 (H, W, 3), BGR.
            time_ms: its presentation time.
            region: the region of interest of its read-out, where that may change from frame to
                frame; it is then said in ``resets`` that it did. The read-out looks itself, too.

        Returns:
            ``memory``, ready for this frame's read-out.
        """
        is_cut = self._cut(frame)
        last, self._last_ms = self._last_ms, time_ms
        memory = self.memory
        if last is None:
            memory.keep, memory.reset = 0.0, True
            if region is not None:
                memory.lie_on(region)
            return memory
        gap_ms = time_ms - last
        reason = (
            "scene cut"
            if is_cut
            else "gap"
            if gap_ms > self.max_gap_ms
            else "time ran backwards"
            if gap_ms < 0.0
            else ""
        )
        memory.reset = bool(reason)
        if region is not None and memory.lie_on(region):
            reason = reason or "another region"
        if reason:
            self.resets.append((time_ms, reason))
            _log.debug("smoothing starts anew at %.0f ms: %s", time_ms, reason)
        # Two frames with one time stamp would keep everything; below 1 the newer still counts.
        memory.keep = min(math.exp(-max(gap_ms, 0.0) / self.time_constant_ms), 0.999)
        return memory


def _thumbnail(frame: Frame) -> npt.NDArray[np.int16]:
    """16x16 mean colours, from every n-th row and column: the whole frame would cost too much."""
    step_y = max(1, frame.shape[0] // (_STEPS_PER_THUMBNAIL_PX * _THUMBNAIL_PX))
    step_x = max(1, frame.shape[1] // (_STEPS_PER_THUMBNAIL_PX * _THUMBNAIL_PX))
    small = cv2.resize(
        np.ascontiguousarray(frame[::step_y, ::step_x]),
        (_THUMBNAIL_PX, _THUMBNAIL_PX),
        interpolation=cv2.INTER_AREA,
    )
    thumbnail: npt.NDArray[np.int16] = small.astype(np.int16)
    return thumbnail
