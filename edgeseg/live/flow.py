"""Moves a mask from the frame that it was computed on to a newer one, by sparse optical flow.

Corners in and around the mask are followed from frame to frame (pyramidal Lucas and Kanade) in
small grey copies, there and back again; RANSAC takes the similarity (shift, turn, scale) that most
of them agree on, and the mask is warped by it, always from the mask as it was computed, so that
nothing adds up. The picture around the mask must then look like the one that it came from. Where
any of this fails there is no mask: a wrong one is worse than none.

A similarity is what a few dozen points in a small patch of tissue carry for the fraction of a
second that a mask may be old. What moves by itself within the mask, and what comes into view in the
meantime, is not known until the next mask is there.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.live.base import LiveFrame, Picture

__all__ = ["MaskMover", "Moved"]

_log = logging.getLogger(__name__)

Mask = npt.NDArray[np.uint8]
Grey = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

_SHORT_SIDE_PX = 180
"""Shorter side of the copies; what is found there to a tenth of a pixel is enough for a mask."""
_KEPT_FRAMES = 16
"""Copies of recent frames, the way from the mask's frame to the newest."""
_MOST_HOPS = 5

_MOST_POINTS = 120
_LEAST_POINTS = 8
_POINT_DISTANCE_PX = 5
_CORNER_QUALITY = 0.01
_ENOUGH_POINTS = 24
_RING_SHARES = (0.12, 0.3)
"""Corners are taken up to this share of the shorter side outside the mask; the second one where
there are not enough."""
_DARK_LEVEL, _GLARE_LEVEL = 14, 246
"""Painted borders do not move with the scene, and highlights move with the lamp."""
_EDGE_PX = 4

_WINDOW_PX = 15
_LEVELS = 3
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 12, 0.03)
_BACK_PX = 1.0
"""Largest distance between a point and where it arrives on the way there and back."""
_RANSAC_PX = 1.5
_LEAST_AGREEING, _LEAST_INLIERS = 0.5, 0.3
"""Share of the points that agree on the motion, of those that were followed, and of all."""
_LARGEST_ERROR_PX = 1.5
"""Standard error of the motion at the far end of the patch, in pixels of the small copy."""
_LEAST_SIMILARITY, _LEAST_INSIDE = 0.6, 0.4
"""Of the patch, and of the mask alone: tissue glistens and bends, so a small part differs more."""
_NOISE_LEVELS = 3.0
"""Standard deviation of what differs between two pictures of one thing, in grey levels."""
_LARGEST_SCALE = 1.5
_LARGEST_TURN_DEG = 35.0
_LARGEST_SHIFT_SHARE = 0.35
"""Of the picture's shorter side."""
_LEAST_LEFT = 0.4
"""Share of the mask that must still lie within the picture."""


@dataclass(frozen=True)
class Moved:
    """A mask moved to a newer frame, and how far that can be trusted."""

    mask: Mask
    """(H, W) class indices, of the frame's size."""
    inlier_share: float
    """Share of the points, of those that were set out, that agree on the motion; 0 to 1."""
    residual_px: float
    """Median distance of these points from where the motion takes them, in pixels of the frame."""
    similarity: float
    """Correlation of the picture with the one that the mask came from, -1 to 1: the lower one of
    the mask with what surrounds it, and of the mask alone."""
    transform: Affine
    """(2, 3) from pixels of the mask's frame to pixels of the newer one."""


@dataclass(frozen=True)
class _Copy:
    """A small grey copy of a frame."""

    index: int
    grey: Grey
    factor: int
    """Pixels of the frame along each side of a small one."""


@dataclass
class _Start:
    """A mask, and the points that are followed from its frame on."""

    copy: _Copy
    mask: Mask
    box: tuple[int, int, int, int] | None
    """x, y, width and height of what is not background; None for an empty mask."""
    patch: tuple[int, int, int, int]
    """The part of the small copy that has to look the same after the motion."""
    inside: npt.NDArray[np.bool_] | None
    """Of the patch, the pixels of the mask; None for a mask without any at this size."""
    points: Points
    """float32 (N, 1, 2)."""
    area_px: int
    """Pixels of the frame that are not background."""


@dataclass
class _Track:
    """Where the points are in the last frame to which they were followed."""

    copy: _Copy
    points: Points
    alive: npt.NDArray[np.bool_]


class MaskMover:
    """Moves the newest mask along with the picture. One thread calls it.

    ``reset`` gives it a mask with the frame that it was computed on, which is older than the newest
    one; ``move`` is called for each frame that is shown. Copies of the frames given to either (and
    to ``see``) are kept, so that a large motion can be followed step by step. Frames of another
    segment or size have nothing to do with those before.
    """

    def __init__(self) -> None:
        """Start without a mask."""
        self._segment: int | None = None
        self._shape: tuple[int, ...] = ()
        self._copies: OrderedDict[int, _Copy] = OrderedDict()
        self._start: _Start | None = None
        self._track: _Track | None = None
        self._is_new = False
        """Whether the mask has not been moved yet: only then the long way is worth its time."""
        self.failure = ""
        """Why the last ``move`` gave nothing, in words; "" if it gave a mask."""

    def see(self, frame: LiveFrame) -> None:
        """Keep a small copy of a frame that is not shown itself."""
        self._copy_of(frame)

    def reset(self, frame: LiveFrame, mask: Mask) -> None:
        """Take a new mask.

        Args:
            frame: the one that the mask was computed on.
            mask: uint8 (H, W) class indices of the frame's size, 0 for background. It is kept:
                nobody may write on it afterwards.

        Raises:
            InputError: the mask does not have the frame's size, or is not uint8.
        """
        if mask.dtype != np.uint8 or mask.shape != frame.image.shape[:2]:
            raise InputError(
                f"the mask of a frame {frame.image.shape[:2]} is uint8 of that shape, got "
                f"{mask.dtype} {mask.shape}"
            )
        copy = self._copy_of(frame)
        self._start = _set_out(copy, mask)
        self._track = None
        self._is_new = True

    def move(self, frame: LiveFrame) -> Moved | None:
        """The mask as it lies in this frame.

        Args:
            frame: the newest one; the mask's own frame gives the mask as it is.

        Returns:
            None if there is no mask, or if it is not known well enough where it is: too few points,
            points that do not agree, a picture that does not look alike, a scene cut, a motion
            that is too large. ``failure`` says which. An empty mask is moved, too, as long
            as the scene is still the same.
        """
        copy = self._copy_of(frame)
        start = self._start
        if start is None:
            self._note("there is no mask")
            return None
        if copy.index == start.copy.index:
            self._note("")
            return Moved(start.mask, 1.0, 0.0, 1.0, np.eye(2, 3))
        why = ""
        for track in self._ways(start, copy):
            found = _judge(start, track)
            if isinstance(found, Moved):
                self._track = track
                self._is_new = False
                self._note("")
                return found
            why = found
        self._track = None
        self._is_new = False
        self._note(why)
        return None

    def _note(self, why: str) -> None:
        if why and not self.failure:
            _log.debug("the mask cannot be moved: %s", why)
        self.failure = why

    def _copy_of(self, frame: LiveFrame) -> _Copy:
        shape = frame.image.shape
        if frame.segment != self._segment or shape != self._shape:
            self._copies.clear()
            self._start = self._track = None
            self._segment, self._shape = frame.segment, shape
        copy = self._copies.get(frame.index)
        if copy is None:
            copy = self._copies[frame.index] = _Copy(frame.index, *_small(frame.image))
            while len(self._copies) > _KEPT_FRAMES:
                self._copies.popitem(last=False)
        return copy

    def _ways(self, start: _Start, copy: _Copy) -> Iterator[_Track]:
        """The points in the newest copy, found in one way after the other, cheapest first."""
        track = self._track
        if track is not None and track.copy.index != copy.index:
            yield _followed(track, copy)
        whole = _Track(start.copy, start.points, np.ones(len(start.points), np.bool_))
        yield _followed(whole, copy)
        between = sorted(i for i in self._copies if start.copy.index < i < copy.index)
        if between and self._is_new:
            hops = min(len(between), _MOST_HOPS - 1)
            chosen = np.linspace(0, len(between), hops + 2)[1:-1].astype(int)
            for i in chosen:
                whole = _followed(whole, self._copies[between[i]])
            yield _followed(whole, copy)


def _small(image: Picture) -> tuple[Grey, int]:
    """A grey copy by a whole factor, and the factor: each small pixel is a square of pixels."""
    height_px, width_px = image.shape[:2]
    factor = max(1, round(min(height_px, width_px) / _SHORT_SIDE_PX))
    rows, columns = height_px // factor, width_px // factor
    grey = cv2.cvtColor(image[: rows * factor, : columns * factor], cv2.COLOR_BGR2GRAY)
    if factor % 2 == 0:
        # OpenCV halves ten times as fast as it divides by anything else.
        half = (columns * factor // 2, rows * factor // 2)
        grey = cv2.resize(grey, half, interpolation=cv2.INTER_AREA)
    if factor > 2:
        grey = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8), factor


def _set_out(copy: _Copy, mask: Mask) -> _Start:
    """Points in and around a mask."""
    grey = copy.grey
    rows, columns = grey.shape
    k = copy.factor
    covered = (mask[k // 2 :: k, k // 2 :: k][:rows, :columns] > 0).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    box = (x, y, width, height) if width else None
    usable = cv2.erode(cv2.inRange(grey, _DARK_LEVEL, _GLARE_LEVEL), _square(_EDGE_PX))
    points = np.zeros((0, 1, 2), np.float32)
    patch = (0, 0, columns, rows)
    for share in _RING_SHARES if box else (1.0,):
        ring_px = max(2, round(share * min(grey.shape)))
        patch = (0, 0, columns, rows)
        if box is not None:
            left, top = max(0, x // k - ring_px), max(0, y // k - ring_px)
            right = min(columns, (x + width) // k + ring_px + 1)
            bottom = min(rows, (y + height) // k + ring_px + 1)
            patch = (left, top, right - left, bottom - top)
        left, top, wide, high = patch
        part = np.s_[top : top + high, left : left + wide]
        region = usable[part]
        if box is not None:
            region = cv2.bitwise_and(
                region, region, mask=cv2.dilate(covered[part], _square(ring_px))
            )
        corners = cv2.goodFeaturesToTrack(
            grey[part], _MOST_POINTS, _CORNER_QUALITY, _POINT_DISTANCE_PX, mask=region
        )
        if corners is not None:
            points = (corners + np.array([left, top], np.float32)).astype(np.float32)
        if len(points) >= _ENOUGH_POINTS:
            break
    left, top, wide, high = patch
    inside = covered[top : top + high, left : left + wide] > 0
    return _Start(
        copy, mask, box, patch, inside if inside.any() else None, points, cv2.countNonZero(mask)
    )


def _square(radius_px: int) -> npt.NDArray[np.uint8]:
    return np.ones((2 * radius_px + 1, 2 * radius_px + 1), np.uint8)


def _followed(track: _Track, copy: _Copy) -> _Track:
    """The points that can be followed to a newer copy and back to where they were."""
    alive = track.alive.copy()
    points = track.points.copy()
    here = track.points[alive]
    if len(here):
        there, found = _flow(track.copy.grey, copy.grey, here)
        back, found_back = _flow(copy.grey, track.copy.grey, there)
        astray = np.linalg.norm((back - here)[:, 0], axis=1)
        rows, columns = copy.grey.shape
        inside = ((there[:, 0] >= 0.0) & (there[:, 0] <= (columns - 1.0, rows - 1.0))).all(axis=1)
        points[alive] = there
        alive[alive] = found & found_back & (astray <= _BACK_PX) & inside
    return _Track(copy, points, alive)


def _flow(before: Grey, now: Grey, points: Points) -> tuple[Points, npt.NDArray[np.bool_]]:
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        before,
        now,
        points,
        None,
        winSize=(_WINDOW_PX, _WINDOW_PX),
        maxLevel=_LEVELS,
        criteria=_CRITERIA,
    )
    return there, found[:, 0] > 0


def _judge(start: _Start, track: _Track) -> Moved | str:
    """The mask moved as the points say, or why they cannot be trusted."""
    total = len(start.points)
    before, now = start.points[track.alive], track.points[track.alive]
    if len(now) < _LEAST_POINTS:
        return f"{len(now)} of {total} points could be followed"
    small, agreeing = cv2.estimateAffinePartial2D(
        before, now, method=cv2.RANSAC, ransacReprojThreshold=_RANSAC_PX
    )
    if small is None:
        return "the points do not agree on any motion"
    inliers = agreeing[:, 0] > 0
    count = int(np.count_nonzero(inliers))
    if (
        count < _LEAST_POINTS
        or count < _LEAST_AGREEING * len(now)
        or count < _LEAST_INLIERS * total
    ):
        return f"{count} of {total} points agree"
    before, now = before[inliers, 0].astype(np.float64), now[inliers, 0].astype(np.float64)
    off = now - before @ small[:, :2].T - small[:, 2]
    squares = (off * off).sum(axis=1)
    residual_px = float(np.sqrt(np.median(squares)))
    error_px = _error_px(start, before, float(squares.mean()))
    if not error_px <= _LARGEST_ERROR_PX:
        return f"the motion is not known well enough: {error_px:.1f} small pixels"
    too_large = _too_large(small, start)
    if too_large:
        return too_large
    whole, inside = _similarities(start, track.copy.grey, small)
    if not (whole >= _LEAST_SIMILARITY and inside >= _LEAST_INSIDE):
        return f"the picture does not look alike: {whole:.2f}, where the mask lies {inside:.2f}"
    transform = _to_full(small, start.copy.factor)
    mask = _warped(start, transform)
    _clear_border(mask, start.copy, track.copy)
    if start.box is not None:
        grown = abs(float(np.linalg.det(transform[:, :2])))
        left = cv2.countNonZero(mask) / (grown * start.area_px)
        if left < _LEAST_LEFT:
            return f"{100.0 * left:.0f} % of the mask are left in the picture"
    factor = start.copy.factor
    return Moved(mask, count / total, factor * residual_px, min(whole, inside), transform)


def _error_px(start: _Start, before: npt.NDArray[np.float64], square: float) -> float:
    """How far off the motion may be at the far end of the patch, in small pixels.

    The standard error of a similarity that was fitted to points around their centre: it grows with
    the distance from them, so points that lie together in one corner carry no large mask.
    """
    centre = before.mean(axis=0)
    spread = float(((before - centre) ** 2).sum())
    left, top, width, height = start.patch
    corners = np.array([(left + i * width, top + j * height) for i in (0, 1) for j in (0, 1)])
    far = float(((corners - centre) ** 2).sum(axis=1).max())
    return math.sqrt(square * (1.0 / len(before) + far / max(spread, 1e-9)))


def _too_large(small: Affine, start: _Start) -> str:
    """Why a motion is larger than what may be believed; "" if it is not."""
    scale = math.hypot(small[0, 0], small[1, 0])
    turn_deg = abs(math.degrees(math.atan2(small[1, 0], small[0, 0])))
    left, top, width, height = start.patch
    centre = np.array([left + 0.5 * width, top + 0.5 * height])
    shift = float(np.linalg.norm(small[:, :2] @ centre + small[:, 2] - centre))
    shift /= min(start.copy.grey.shape)
    if not (1.0 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE and turn_deg <= _LARGEST_TURN_DEG):
        return f"the motion is too large: scale {scale:.2f}, turn {turn_deg:.0f} degrees"
    if not shift <= _LARGEST_SHIFT_SHARE:
        return f"the motion is too large: a shift of {100.0 * shift:.0f} % of the picture"
    return ""


def _similarities(start: _Start, grey: Grey, small: Affine) -> tuple[float, float]:
    """Correlation of the patch, and of the mask's own part of it, with the newer picture.

    Both, since what lies around a mask may be as it was while something else has come over it.
    Noise counts as alike, so that flat tissue has a correlation, too.
    """
    left, top, width, height = start.patch
    from_patch = small.copy()
    from_patch[:, 2] += small[:, :2] @ (left, top)
    seen = cv2.warpAffine(
        grey,
        from_patch,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    known = start.copy.grey[top : top + height, left : left + width]
    # A painted border is no part of the scene: the mask may have moved beneath it.
    lit = (seen >= _DARK_LEVEL) & (known >= _DARK_LEVEL)
    whole = _alike(seen[lit], known[lit])
    if start.inside is None:
        return whole, whole
    lit &= start.inside
    return whole, _alike(seen[lit], known[lit])


def _alike(one: Grey, other: Grey) -> float:
    if one.size == 0:
        return 0.0
    x, y = one.astype(np.float32), other.astype(np.float32)
    x -= x.mean()
    y -= y.mean()
    noise = _NOISE_LEVELS**2 * x.size
    return (float(x @ y) + noise) / math.sqrt((float(x @ x) + noise) * (float(y @ y) + noise))


def _to_full(small: Affine, factor: int) -> Affine:
    """The same motion in pixels of the frame, whose small pixels are squares of ``factor``."""
    aside = 0.5 * (factor - 1.0)
    full: Affine = small.copy()
    full[:, 2] = factor * small[:, 2] + aside - small[:, :2] @ (aside, aside)
    return full


def _warped(start: _Start, transform: Affine) -> Mask:
    """The mask after the motion; what comes into view is background."""
    rows, columns = start.mask.shape
    moved = np.zeros_like(start.mask)
    if start.box is None:
        return moved
    # Only where the mask can be: a warp of the whole frame costs more than all the rest.
    x, y, width, height = start.box
    corners = np.array([(x + i * width, y + j * height) for i in (0, 1) for j in (0, 1)], float)
    after = corners @ transform[:, :2].T + transform[:, 2]
    left, top = (max(0, math.floor(value) - 1) for value in after.min(axis=0))
    right = min(columns, math.ceil(after[:, 0].max()) + 2)
    bottom = min(rows, math.ceil(after[:, 1].max()) + 2)
    if right <= left or bottom <= top:
        return moved
    there = transform.copy()
    there[:, 2] -= (left, top)
    moved[top:bottom, left:right] = cv2.warpAffine(
        start.mask, there, (right - left, bottom - top), flags=cv2.INTER_NEAREST
    )
    return moved


def _clear_border(mask: Mask, before: _Copy, now: _Copy) -> None:
    """Take off, in place, what has moved beneath a painted border: what is dark in both."""
    dark = cv2.inRange(cv2.max(before.grey, now.grey), 0, _DARK_LEVEL - 1)
    x, y, width, height = cv2.boundingRect(mask)
    k = now.factor
    if not width or not dark[y // k : -(-(y + height) // k), x // k : -(-(x + width) // k)].any():
        return
    rows, columns = dark.shape
    size = (columns * k, rows * k)
    large = cv2.resize(dark, size, interpolation=cv2.INTER_NEAREST)
    part = mask[: rows * k, : columns * k]
    cv2.bitwise_and(part, cv2.bitwise_not(large), dst=part)
