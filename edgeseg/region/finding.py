"""The picture inside black borders, in one moment."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.spec import RoiSpec

__all__ = ["Look", "check_frames", "find_region", "look"]

Frame = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.uint8]

_GRID_PX = 128
"""About so many samples lie along the shorter side of a frame."""
_MIN_SIDE_PX = 48
"""In smaller frames nothing is found: a picture and a letter would be the same."""
_RING = 2
"""Samples from each edge of the frame among which its black is looked for."""
_MAX_BLACK = 40
"""Brightest border that is called black, of 255. Capture in the wrong range makes 16 of it, and
the borders of CVC-ClinicDB are at 11 to 23."""
_MAX_NOISE = 24
"""So much noise may spread over the border's darkest twentieth."""
_MIN_STEP = 8
"""Least distance of lit from black; compression noise on black stays below it."""
_NOISE_STEP = 5.0
"""The same in standard deviations of the border's noise."""
_MAX_STEP = 32
"""Largest distance, where the border has several levels and its spread is no noise."""
_MIN_AREA = 0.1
"""Smallest picture, as a share of the frame; it also holds the middle of the frame. A bright still
beside a dark picture does neither."""
_SECOND_AREA = 0.5
"""From this share of the largest lit piece on another one is a part of the picture, or a second
picture; stills and panels beside the picture are smaller."""
_MIN_LIGHT = 4.0
"""Least brightness of a picture, its median above black, as a multiple of what counts as lit.
Below, parts of it are as dark as the border."""
_MIN_FILL = 0.5
"""Least share of its bounding box that is lit; a circle has 0.79, of which dark corners and black
panels take their part."""
_MIN_SUPPORT = 0.12
"""Least share of a side of the box along which the picture reaches it: a circle has 0.15 or more,
lit folds in a dark scene end in tips."""
_MIN_UNBROKEN = 0.6
"""Least share of the lines, from the first to the last that reaches a side, that do so. Shadow
between them makes a dent, and pictures have none."""
_OUTER_SHARE = 0.25
"""Share of the lines, of those that reach a side, that may end further out than the side."""
_MIN_CRISP = 0.5
"""Least share of those lines that begin with a step."""
_HALO = 0.2
"""Share of the picture's light below which compression or blur brightens the black beside it."""
_MAX_HALO_PX = 4
_MAX_CUT_PX = 2
"""So much of a halo is left out of a region at most."""
_BLUR_PX = 6
"""So far compression may carry light into the border, in some lines and not in others."""
_DEEP = 8
"""Samples from a side to where the picture is compared with what begins there, 6 % of the shorter
side of the frame."""
_LINES = 64
"""So many lines are enough to measure a side."""
_CRISP_RATIO = 0.4
"""What is lit right behind a step, as a share of what is lit further in; a border is cut sharply,
light falls off slowly."""


def find_region(frames: Sequence[Frame]) -> RoiSpec | None:
    """Find the picture inside black borders, in one frame or better in several of one view.

    What counts is the brightest of the three colours, since tissue is red, and of all frames, since
    a border stays black while light moves. A sample every few pixels is compared with the black
    of the frame's own rim, by its level and noise. An opening takes away strokes of text; the
    largest lit piece is the picture, with any other that is almost as large. Each side of its
    bounding box is then measured to the pixel, along the lines in which the picture reaches it.

    A side is believed if the picture reaches it along a stretch (tips of lit folds do not) and
    begins there with a step (light falls off slowly, borders are cut). Unless all four are believed
    or lie at the frame's edge, nothing is found. Of published methods, thresholds on means of rows
    and columns (as in ffmpeg's cropdetect) trip over burned-in text, and fitting circles to edge
    points (Budd et al., "Rapid and robust endoscopic content area estimation", 2022) serves round
    pictures alone; a bounding box serves all shapes, and errs towards what is lit.

    A picture that ends in a straight or round line is found within 2 pixels, and never more than 2
    pixels of it are cut where it is lit. Borders that are not black (above 40 of 255), and panels
    that touch the picture, count as picture.

    Args:
        frames: uint8 (H, W, 3), BGR, all of one size; at least one. A few frames from different
            moments are better than one. Takes less than a millisecond for each at 1080p.

    Returns:
        Position and size, all even (where a frame has an odd side, as even as it can be: a region
        that reaches its end may have an odd size). The whole frame where it is lit from edge to
        edge. None where nothing is sure: the scene is dark, or a side cannot be told from shadow.

    Raises:
        InputError: no frames, or frames that are none or differ in size.
    """
    return look(check_frames(frames)).region


@dataclass(frozen=True)
class Look:
    """What can be seen in one moment."""

    region: RoiSpec | None
    """None: not sure."""
    lit: RoiSpec | None
    """Around all that is certainly picture, sure or not; None in the dark."""
    why: str


def check_frames(frames: Sequence[Frame]) -> Sequence[Frame]:
    """The frames, if they are frames of one size.

    Raises:
        InputError: saying what does not fit.
    """
    if not len(frames):
        raise InputError("a region is found in at least one frame")
    for frame in frames:
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3:
            raise InputError("a region is found in frames, uint8 arrays (H, W, 3) in BGR order")
        if frame.shape[2] != 3 or 0 in frame.shape:
            raise InputError(f"a frame has the shape (H, W, 3), got {frame.shape}")
        if frame.shape != frames[0].shape:
            raise InputError(
                f"frames of one region have one size, got {frame.shape} and {frames[0].shape}"
            )
    return frames


def look(frames: Sequence[Frame]) -> Look:
    """What ``find_region`` sees in checked frames, and why it is sure or not."""
    height, width = frames[0].shape[:2]
    if min(height, width) < _MIN_SIDE_PX:
        return Look(None, None, f"a frame of {width}x{height} is too small to look for borders")
    step = max(1, round(min(height, width) / _GRID_PX))
    rows, columns = np.arange(step // 2, height, step), np.arange(step // 2, width, step)
    samples = _brightness([frame[step // 2 :: step, step // 2 :: step] for frame in frames])
    black, limit = _black(samples)
    if black > _MAX_BLACK:
        whole = RoiSpec(0, 0, width, height)
        return Look(whole, whole, "the frame has no black border")
    picture = _picture(samples > limit)
    if picture is None:
        return Look(None, None, "too little is lit")
    box = _bounds(picture)
    lit = _around(columns[box[1]], rows[box[0]], step, width, height)
    if np.median(samples[::2, ::2][picture[::2, ::2]]) - black < _MIN_LIGHT * (limit - black):
        return Look(None, lit, "the scene is dark")
    middle = (box[0].start <= len(rows) // 2 < box[0].stop) and (
        box[1].start <= len(columns) // 2 < box[1].stop
    )
    if not middle:
        return Look(None, lit, "what is lit lies beside the middle of the frame")
    if np.count_nonzero(picture) < _MIN_FILL * picture[box].size:
        return Look(None, lit, "what is lit has not the shape of a picture")
    view = _View(list(frames), samples, picture, rows, columns, _Level(black, limit, step))
    left, right = _side(view), _side(view.mirrored())
    top, bottom = _side(view.turned()), _side(view.turned().mirrored())
    if left is None or right is None or top is None or bottom is None:
        ends = {"left": left, "right": right, "top": top, "bottom": bottom}
        doubts = ", ".join(name for name, end in ends.items() if end is None)
        return Look(None, lit, f"the picture's end is not clear ({doubts})")
    x, region_width = _even(left, width - right, width)
    y, region_height = _even(top, height - bottom, height)
    region = RoiSpec(x, y, region_width, region_height)
    return Look(region, region, "the picture ends in clear borders")


def _brightness(pieces: Sequence[Frame]) -> Plane:
    """The brightest colour of each pixel of (H, W, 3) pieces, over all of them."""
    planes = (
        np.maximum(np.maximum(piece[..., 0], piece[..., 1]), piece[..., 2]) for piece in pieces
    )
    brightest: Plane = functools.reduce(np.maximum, planes)
    return brightest


def _black(samples: Plane) -> tuple[float, float]:
    """The level of the border, and above which level something is lit."""
    strips = [
        np.sort(strip, axis=None).astype(np.int32)
        for strip in (
            samples[:_RING],
            samples[-_RING:],
            samples[:, :_RING],
            samples[:, -_RING:],
        )
    ]
    ring = np.sort(np.concatenate(strips))
    # Text and picture in the rim are far brighter; noise is not.
    most = ring[len(ring) // 20] + _MAX_NOISE
    # Dark tissue is not, but it does not fill an edge of the frame that a border fills.
    borders = [strip for strip in strips if strip[len(strip) // 2] <= most] or [ring]
    border = np.sort(np.concatenate(borders))
    border = border[: np.searchsorted(border, most, side="right")]
    black = float(border[len(border) // 2])
    spread = 1.4826 * float(np.median(np.abs(border - black)))
    return black, black + min(max(_MIN_STEP, _NOISE_STEP * spread), _MAX_STEP)


def _picture(lit: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_] | None:
    """Which lit samples are the picture; None if there is none."""
    opened = cv2.morphologyEx(
        lit.view(np.uint8), cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
    )
    _, labels = cv2.connectedComponents(opened, ltype=cv2.CV_16U)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    largest = int(areas.max())
    if largest < _MIN_AREA * lit.size:
        return None
    picture: npt.NDArray[np.bool_] = (areas >= _SECOND_AREA * largest)[labels]
    return picture


def _bounds(picture: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of its bounding box."""
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _around(
    columns: npt.NDArray[np.intp],
    rows: npt.NDArray[np.intp],
    step: int,
    width: int,
    height: int,
) -> RoiSpec:
    """The region of lit samples, which may end a step further out."""
    x, y = max(0, int(columns[0]) - step + 1), max(0, int(rows[0]) - step + 1)
    return RoiSpec(
        x, y, min(width, int(columns[-1]) + step) - x, min(height, int(rows[-1]) + step) - y
    )


@dataclass(frozen=True)
class _Level:
    black: float
    limit: float
    """Above it something is lit."""
    step_px: int
    """Between samples."""


@dataclass(frozen=True)
class _View:
    """The frames and what is known of them, turned so that the side in question is the left one."""

    frames: list[Frame]
    samples: Plane
    picture: npt.NDArray[np.bool_]
    """Which samples it has."""
    rows: npt.NDArray[np.intp]
    """Of the frame in which the samples lie."""
    columns: npt.NDArray[np.intp]
    level: _Level

    def mirrored(self) -> _View:
        """Left and right exchanged."""
        return _View(
            [frame[:, ::-1] for frame in self.frames],
            self.samples[:, ::-1],
            self.picture[:, ::-1],
            self.rows,
            self.frames[0].shape[1] - 1 - self.columns[::-1],
            self.level,
        )

    def turned(self) -> _View:
        """Rows and columns exchanged."""
        return _View(
            [frame.transpose(1, 0, 2) for frame in self.frames],
            self.samples.T,
            self.picture.T,
            self.columns,
            self.rows,
            self.level,
        )


def _side(view: _View) -> int | None:
    """Where the picture begins from the left, as a number of columns; None if that is not clear."""
    picture, columns, level = view.picture, view.columns, view.level
    step = level.step_px
    first = int(np.flatnonzero(picture.any(axis=0))[0])
    depth = max(1, round(_BLUR_PX / step))
    second, deep = (min(first + more, len(columns) - 1) for more in (depth, _DEEP))
    reaching = np.logical_or.reduce(picture[:, first : second + 1], axis=1)
    chosen = np.flatnonzero(reaching)
    chosen = chosen[:: -(-len(chosen) // _LINES)]
    lines = view.rows[chosen]
    # From a sample that is lit in all of these lines outwards, past where the border can be.
    start = int(columns[second])
    outer = max(0, int(columns[first]) - max(2 * step, _BLUR_PX))
    band = _brightness([frame[lines, outer : start + 12] for frame in view.frames])
    dark = band[:, : start - outer + 1][:, ::-1] <= level.limit
    begins = np.where(dark.any(1), start - outer + 1 - dark.argmax(1), 0)
    side = _outermost(begins)
    if outer + side <= 1:
        return 0
    deeper = view.samples[chosen, deep] - level.black
    inner = _past_halo(band, begins, level.black + _HALO * deeper)
    near = _behind(band, inner, min(4, step)) - level.black
    steep = near >= np.maximum(1.5 * (level.limit - level.black), _CRISP_RATIO * deeper)
    if side > 0 and np.mean(steep) >= _MIN_CRISP and _is_supported(picture, reaching):
        return outer + _outermost(np.minimum(inner, begins + _MAX_CUT_PX))
    # Nothing is lost where the frame ends right there.
    return 0 if outer + side <= 2 * step else None


def _outermost(begins: npt.NDArray[np.intp]) -> int:
    """Where the side is, if the lines begin there."""
    rank = int(_OUTER_SHARE * (len(begins) - 1))
    return int(np.partition(begins, rank)[rank])


def _is_supported(picture: npt.NDArray[np.bool_], reaching: npt.NDArray[np.bool_]) -> bool:
    """Whether the picture reaches the side along a stretch, without dents."""
    lit, lines = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(reaching)
    return bool(
        len(lines) >= _MIN_SUPPORT * (lit[-1] - lit[0] + 1)
        and len(lines) >= _MIN_UNBROKEN * (lines[-1] - lines[0] + 1)
    )


def _behind(band: Plane, begins: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.float64]:
    """Means of some pixels of each line, right behind the step with which it begins."""
    at = np.minimum(begins[:, None] + np.arange(2, 2 + count), band.shape[1] - 1)
    means: npt.NDArray[np.float64] = band[np.arange(len(band))[:, None], at].mean(1)
    return means


def _past_halo(
    band: Plane, begins: npt.NDArray[np.intp], limits: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """The beginnings, a few pixels further in where what begins is weak beside the picture."""
    for _ in range(_MAX_HALO_PX):
        at = np.minimum(begins, band.shape[1] - 1)
        begins = begins + (band[np.arange(len(band)), at] < limits)
    return begins


def _even(first: int, end: int, side_px: int) -> tuple[int, int]:
    """Even position and size of what reaches from ``first`` to ``end`` (exclusive) of a side."""
    position = first - first % 2
    return position, min(end + end % 2, side_px) - position
