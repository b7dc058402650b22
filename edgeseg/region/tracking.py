"""The picture inside black borders, over a video."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeseg.region.finding import Look, check_frames, look
from edgeseg.region.given import describe_region, region_in_frame
from edgeseg.spec import RoiSpec

__all__ = ["RegionTracker"]

_log = logging.getLogger(__name__)

Frame = npt.NDArray[np.uint8]

_LOOK_S = 0.1
_LOOK_AGAIN_S = 0.25
"""Between two looks before and after a decision."""
_CONSISTENT_S = 1.0
"""For so long looks must agree."""
_MIN_LOOKS = 4
_MIN_AGREEMENT = 0.7
"""Share of the looks that must agree."""
_MAX_GAP_S = 2.0
"""Looks from before a longer gap say nothing about what is behind it."""
_ALIKE = 0.01
"""Looks agree whose ends lie within this share of the frame's side, or 8 pixels."""
_SMALLER = 0.03
"""By more than this share of the frame's side, or 8 pixels, an end must lie further in to count. A
round picture wanders by 2 % where the scope turns in its coupler, and black costs little."""
_LEAST_PX = 8
_LARGER_PX = 2
"""By more than this it must lie further out: what is lit is not to be cut."""


class RegionTracker:
    """Finds the region of interest of a video, and follows it where the display changes.

    It looks at a frame every 0.1 s, as ``find_region`` does, and decides when at least four looks
    over at least a second agree; until then the region is the whole frame. From then on it looks
    four times a second. The region changes only after another second of looks that agree with
    each other and not with it, such as after the processor was switched to another display: so
    flushes of light, dark moments and overlays that come and go change nothing. An end moves
    outwards for more than 2 pixels, inwards for more than 3 % of the frame's side. What is lit
    outside of it for a second while no border is clear makes it the whole frame again.

    Frames must come in order; one thread calls ``step``.
    """

    def __init__(self, start: RoiSpec | None = None) -> None:
        """Start without evidence.

        Args:
            start: the region from the first frame on, if it is known already.
        """
        self.region = start
        """The region of the last frame; None for the whole frame."""
        self.why = "the region is not found yet" if start is None else "it was given to start with"
        """Why the region is what it is, for a person."""
        self.decided = start is not None
        """Whether there was evidence enough, for a region or against one, since the start."""
        self.changes: list[tuple[float, RoiSpec | None, str]] = []
        """Seconds, region and reason of every change."""
        self._size: tuple[int, int] | None = None
        self._segment = 0
        self._last_s: float | None = None
        self._next_s: float | None = None
        self._looks: deque[tuple[float, Look]] = deque()

    def step(self, frame: Frame, time_s: float, *, segment: int = 0) -> RoiSpec | None:
        """Go on to the next frame; most frames are not looked at.

        Args:
            frame: uint8 (H, W, 3), BGR.
            time_s: when it was captured, or its presentation time, in seconds.
            segment: another number than for the last frame starts anew, as do another size of
                frames and time that runs backwards.

        Returns:
            The region of this frame; None for the whole frame (and not for a bundle's own region:
            give ``region_in_frame(None, frame.shape)`` to a model that has one).

        Raises:
            InputError: that is no frame.
        """
        check_frames([frame])
        self._follow(frame.shape[:2], time_s, segment)
        if self._next_s is not None and time_s < self._next_s:
            return self.region
        self._looks.append((time_s, look([frame])))
        while len(self._looks) > _MIN_LOOKS and self._looks[1][0] <= time_s - _CONSISTENT_S:
            self._looks.popleft()
        if len(self._looks) >= _MIN_LOOKS and self._looks[0][0] <= time_s - _CONSISTENT_S:
            self._decide(time_s, frame.shape[:2])
        self._next_s = time_s + (_LOOK_AGAIN_S if self.decided else _LOOK_S)
        return self.region

    def _follow(self, size: tuple[int, ...], time_s: float, segment: int) -> None:
        """Start anew, or forget looks, where this frame does not continue the last one."""
        height, width = size
        last_s, self._last_s = self._last_s, time_s
        new = (
            "another size of frames"
            if self._size is not None and self._size != (height, width)
            else "another segment"
            if self._size is not None and self._segment != segment
            else "time ran backwards"
            if last_s is not None and time_s < last_s
            else ""
        )
        fits = self.region is None or (
            self.region.x_px + self.region.width_px <= width
            and self.region.y_px + self.region.height_px <= height
        )
        if not fits and not new:
            new = "the region does not fit into the frames"
        self._size, self._segment = (height, width), segment
        if new:
            self._looks.clear()
            self._next_s = None
            self.decided = False
            self._set(None, time_s, f"the region is not found yet: {new}")
        elif last_s is not None and time_s - last_s > _MAX_GAP_S:
            self._looks.clear()
            self._next_s = None

    def _decide(self, time_s: float, size: tuple[int, ...]) -> None:
        looks = [look for _, look in self._looks]
        over_s = time_s - self._looks[0][0]
        whole = region_in_frame(None, size)
        now = self.region or whole
        agreeing = _agreeing([look.region for look in looks if look.region is not None], whole)
        if len(agreeing) >= _MIN_AGREEMENT * len(looks):
            found = _around_all(agreeing)
            count = f"{len(agreeing)} of {len(looks)} looks over {over_s:.1f} s"
            if self.decided:
                found = _moved(now, found, whole)
            if not self.decided or found != now:
                self.decided = True
                borders = "no border is black" if found == whole else "inside black borders"
                self._set(None if found == whole else found, time_s, f"{borders}, in {count}")
            return
        if not self.decided:
            self.why = f"the region is not found yet: {looks[-1].why}"
        lit = [look.lit for look in looks if look.lit is not None]
        outside = sum(_exceeds(one, now, whole) for one in lit)
        if outside >= _MIN_AGREEMENT * len(looks):
            count = f"{outside} of {len(looks)} looks over {over_s:.1f} s"
            self._set(None, time_s, f"tissue is lit outside of the last region, in {count}")

    def _set(self, region: RoiSpec | None, time_s: float, why: str) -> None:
        self.why = why
        if region == self.region:
            _log.debug("region of interest at %.2f s: %s: %s", time_s, describe_region(region), why)
            return
        self.region = region
        self.changes.append((time_s, region, why))
        _log.info("region of interest at %.2f s: %s: %s", time_s, describe_region(region), why)


def _agreeing(regions: Sequence[RoiSpec], whole: RoiSpec) -> list[RoiSpec]:
    """Those that differ little from what most say."""
    if not regions:
        return []
    ends = np.array([_ends(region) for region in regions])
    usual = np.median(ends, axis=0)
    near = np.abs(ends - usual) <= _tolerances(whole, _ALIKE)
    return [region for region, close in zip(regions, near.all(1), strict=True) if close]


def _ends(region: RoiSpec) -> tuple[int, int, int, int]:
    """Left, top, and right and bottom (exclusive)."""
    right, bottom = region.x_px + region.width_px, region.y_px + region.height_px
    return region.x_px, region.y_px, right, bottom


def _region(ends: npt.NDArray[np.intp]) -> RoiSpec:
    left, top, right, bottom = ends.tolist()
    return RoiSpec(left, top, right - left, bottom - top)


def _around_all(regions: Sequence[RoiSpec]) -> RoiSpec:
    ends = np.array([_ends(region) for region in regions])
    return _region(np.concatenate([ends[:, :2].min(0), ends[:, 2:].max(0)]))


def _tolerances(whole: RoiSpec, share: float) -> npt.NDArray[np.float64]:
    """How far ends may lie apart: left, top, right, bottom."""
    tolerances: npt.NDArray[np.float64] = np.maximum(
        _LEAST_PX, share * np.array([whole.width_px, whole.height_px] * 2)
    )
    return tolerances


def _moved(now: RoiSpec, found: RoiSpec, whole: RoiSpec) -> RoiSpec:
    """The region with the ends that are worth a change."""
    old, new = np.array(_ends(now)), np.array(_ends(found))
    outwards = np.array([1, 1, -1, -1]) * (old - new)
    moves = (outwards > _LARGER_PX) | (-outwards > _tolerances(whole, _SMALLER))
    return _region(np.where(moves, new, old))


def _exceeds(lit: RoiSpec, now: RoiSpec, whole: RoiSpec) -> bool:
    """Whether what is lit goes beyond the region by more than the coarseness of a look."""
    outwards = np.array([1, 1, -1, -1]) * (np.array(_ends(now)) - np.array(_ends(lit)))
    return bool((outwards > 2 * _tolerances(whole, _ALIKE)).any())
