"""What a live picture says in words: the sign that there is no current result, the status line.

Both are dark plates with light text, so that they can be read on any background, at the upper and
the lower edge, so that the middle of the picture stays free. Texts are drawn once and kept: what
remains for each picture is to lay two small plates onto it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.live.base import Picture, Reason, State

__all__ = ["blank", "dim", "draw_sign", "draw_status"]

_HAS_BOLD_FACE = not cv2.__version__.startswith("4.")
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_HEADLINE = "NO CURRENT RESULT"
_SHORT_HEADLINE = "NO RESULT"
_PLATE_BGR = (30, 26, 24)
_LIGHT_BGR = (255, 255, 255)
_SOFT_BGR = (208, 204, 200)
_EDGE_BGR = (150, 146, 142)
_PLATE_ALPHA = 0.86
"""White text on a plate that lies on white still has a contrast of more than 11 to 1."""
_BLANK_LEVEL = 40
_DIM_SHARE = 0.45

_SIGN_SHARE = 0.034
"""Height of the sign's capitals as a share of the picture's: 24 pixels of 720."""
_STATUS_SHARE = 0.018
_SIGN_HEIGHT_SHARE = 0.25
"""The sign stays in the upper quarter: the middle half is the surgeon's."""
_STATUS_HEIGHT_SHARE = 0.2
_READABLE_PX = 9
"""Capitals as low as this are still easy to read; below, detail goes first."""
_SMALLEST_PX = 5
_REASON_SHARE = 0.74
_DETAIL_SHARE = 0.62
_DETAIL_WIDTH_SHARE = 0.62
_SHORTEST_DETAIL = 12
"""Characters; less of a text tells nobody anything."""

_PHRASES: dict[Reason, str] = {
    "starting": "starting: {}",
    "no signal": "no signal for {}",
    "frozen picture": "frozen picture for {}",
    "black picture": "black picture for {}",
    "engine stalled": "engine stalled for {}",
    "engine failed": "engine failed, {} ago",
    "result too old": "result too old for {}",
}

Ink = npt.NDArray[np.uint8]
"""uint8 (rows, columns), 255 where a text covers a pixel."""


@dataclass(frozen=True)
class _Line:
    """One line of the sign."""

    template: str
    share: float
    """Height of its capitals, of the headline's."""
    bold: bool = False
    may_be_cut: bool = False
    changes: bool = False
    """Its text is another one every tenth of a second: it is laid on by itself."""


@dataclass(frozen=True)
class _Layer:
    """Something ready to be laid onto a picture: ``picture * keep / 255 + add``."""

    keep: npt.NDArray[np.uint8]
    add: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Place:
    """Room for a text on a sheet."""

    number: int
    """Which of the texts."""
    top_px: int
    left_px: int
    room_px: int
    """Width to centre the text in; 0 for a text that begins at the left."""
    capital_px: int
    colour_bgr: tuple[int, int, int]


@dataclass(frozen=True)
class _Sheet:
    """A plate with everything on it that stays, and places for what changes.

    It is made for templates, texts with zeros for digits, so that nothing jumps while time passes.
    """

    layer: _Layer
    places: tuple[_Place, ...] = ()


def draw_sign(picture: Picture, reason: Reason, detail: str, *, since_s: float) -> None:
    """Draw in place that there is no current result, why, and for how long.

    The sign stands at the upper edge, in the middle, and keeps to the upper quarter of all but tiny
    pictures. On small pictures the text shrinks, then loses the detail, then the reason.

    Args:
        picture: uint8 (H, W, 3) BGR, writable.
        reason: why there is no result.
        detail: more about it, for a person; "" for nothing. Line breaks and other characters than
            ASCII are replaced.
        since_s: for how many seconds already; below 0 counts as 0.

    Raises:
        InputError: not a writable picture.
    """
    _check(picture)
    height_px, width_px = picture.shape[:2]
    phrase = _PHRASES[reason].format(_duration(since_s))
    sheet = _sign_sheet(height_px, width_px, _template(phrase), _plain(detail))
    rows, columns = sheet.layer.add.shape[:2]
    top_px = min(round(0.025 * height_px), (height_px - rows) // 2)
    _lay_sheet(picture, sheet, (phrase,), (top_px, (width_px - columns) // 2))


def draw_status(
    picture: Picture, *, state: State, age_ms: float | None, mask_fps: float, extra: str = ""
) -> None:
    """Draw in place a small line in the lower left corner: age of the mask, rate, ``extra``.

    A mask that was moved from an earlier frame is announced by PREDICTED on a light plate. On small
    pictures ``extra`` goes first, then the rate; the age goes last. A picture too small for
    any readable text gets none.

    Args:
        picture: uint8 (H, W, 3) BGR, writable.
        state: of the mask.
        age_ms: age of the frame that the mask was computed on; None without a mask.
        mask_fps: new masks a second.
        extra: such as "views 2 of 6".

    Raises:
        InputError: not a writable picture.
    """
    _check(picture)
    height_px, width_px = picture.shape[:2]
    badge = "PREDICTED" if state == "predicted" else ""
    age = "no mask" if age_ms is None or state == "none" else _age(age_ms)
    texts = (
        age if age == "no mask" else f"age {age}",
        f"{mask_fps:.1f} masks/s",
        _plain(extra),
        age,
    )
    sheet = _status_sheet(height_px, width_px, badge, tuple(_widest(text) for text in texts))
    if sheet is not None:
        rows, columns = sheet.layer.add.shape[:2]
        margin_px = min(round(0.02 * height_px), width_px - columns)
        _lay_sheet(picture, sheet, texts, (height_px - rows - margin_px, margin_px))


def dim(picture: Picture) -> Picture:
    """A grey, darkened copy, which cannot be taken for a live picture.

    Args:
        picture: uint8 (H, W, 3) BGR.

    Raises:
        InputError: not a picture.
    """
    _check(picture, writable=False)
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    dark: Picture = cv2.cvtColor(cv2.LUT(grey, _DIM_TABLE), cv2.COLOR_GRAY2BGR)
    return dark


_DIM_TABLE = np.rint(np.arange(256) * _DIM_SHARE).astype(np.uint8)


def blank(size_px: tuple[int, int]) -> Picture:
    """A neutral background for when nothing was captured yet.

    Args:
        size_px: (width, height), positive.

    Returns:
        uint8 (height, width, 3).

    Raises:
        InputError: a size is not positive.
    """
    width_px, height_px = size_px
    if width_px < 1 or height_px < 1:
        raise InputError(f"a picture has at least one pixel a side, got {width_px}x{height_px}")
    return np.full((height_px, width_px, 3), _BLANK_LEVEL, np.uint8)


def _check(picture: Picture, *, writable: bool = True) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise InputError(f"a picture is uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
    if writable and not picture.flags.writeable:
        raise InputError("drawing in place needs a writable picture")


def _lay(picture: Picture, layer: _Layer, top_px: int, left_px: int) -> None:
    rows, columns = layer.add.shape[:2]
    part = picture[top_px : top_px + rows, left_px : left_px + columns]
    part[:] = cv2.add(cv2.multiply(part, layer.keep, scale=1.0 / 255.0), layer.add)


def _lay_sheet(
    picture: Picture, sheet: _Sheet, texts: tuple[str, ...], corner_px: tuple[int, int]
) -> None:
    top_px, left_px = corner_px
    _lay(picture, sheet.layer, top_px, left_px)
    for place in sheet.places:
        layer = _text_layer(texts[place.number], place.capital_px, place.colour_bgr)
        aside_px = max(place.room_px - layer.add.shape[1], 0) // 2
        _lay(picture, layer, top_px + place.top_px, left_px + place.left_px + aside_px)


def _plain(text: str) -> str:
    """One line of printable ASCII, accents taken off: OpenCV's text knows no more everywhere."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^\x20-\x7e\s]", "?", bare).split())


def _duration(seconds: float) -> str:
    seconds = max(seconds, 0.0) if math.isfinite(seconds) else 0.0
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _age(age_ms: float) -> str:
    return f"{age_ms:.0f} ms" if age_ms < 9999.5 else _duration(age_ms / 1000.0)


def _template(text: str) -> str:
    return re.sub(r"\d", "0", text)


# The sign


@lru_cache(maxsize=32)
def _sign_sheet(height_px: int, width_px: int, phrase: str, detail: str) -> _Sheet:
    full, short = (_Line(text, 1.0, bold=True) for text in (_HEADLINE, _SHORT_HEADLINE))
    why = _Line(phrase, _REASON_SHARE, changes=True)
    more = _Line(detail, _DETAIL_SHARE, may_be_cut=True)
    limit_px = (_sign_rows(height_px), width_px - 2)
    start_px = max(_SMALLEST_PX, round(_SIGN_SHARE * min(height_px, 0.75 * width_px)))
    choices = [
        *([((full, why, more), _READABLE_PX)] if detail else []),
        ((full, why), _SMALLEST_PX + 1),
        ((short, why), _SMALLEST_PX),
        ((full,), _SMALLEST_PX),
        ((short,), _SMALLEST_PX),
    ]
    for lines, smallest_px in choices:
        for capital_px in _sizes(start_px, smallest_px, lines[-1].share):
            sheet = _stacked(lines, capital_px, limit_px)
            if sheet is not None:
                return sheet
    # No text fits: a plate without one still says that this is not the usual picture.
    return _Sheet(_compose(_plate(limit_px[0], width_px, 0), []))


def _sign_rows(height_px: int) -> int:
    """How high the sign may be: more of a small picture, so that there is room for a word."""
    share_px = _SIGN_HEIGHT_SHARE * height_px
    return max(1, round(max(share_px, min(0.36 * height_px, 34.0))) - 1)


def _status_rows(height_px: int) -> int:
    return max(1, round(max(_STATUS_HEIGHT_SHARE * height_px, min(0.32 * height_px, 16.0))))


def _sizes(start_px: int, smallest_px: int, smallest_share: float) -> Iterator[int]:
    """Heights of the headline's capitals, such that the smallest line's are at least that high."""
    capital_px = max(start_px, math.ceil(smallest_px / smallest_share))
    while round(capital_px * smallest_share) >= smallest_px:
        yield capital_px
        capital_px -= max(1, capital_px // 16)


def _stacked(lines: tuple[_Line, ...], capital_px: int, limit_px: tuple[int, int]) -> _Sheet | None:
    """Lines one below the other, centred; None if they do not fit into (rows, columns)."""
    side_px, above_px = max(2, round(0.9 * capital_px)), max(1, round(0.4 * capital_px))
    room_px = limit_px[1] - 2 * side_px
    found: list[tuple[_Line, Ink, int]] = []
    for line in lines:
        size_px = max(_SMALLEST_PX, round(capital_px * line.share))
        text = line.template
        if line.may_be_cut:
            # A long text must not cover the whole width.
            text = _shortened(text, size_px, round(min(room_px, _DETAIL_WIDTH_SHARE * limit_px[1])))
            if not text:
                return None
        found.append((line, _ink(text, size_px, line.bold), size_px))
    inner_px = max(ink.shape[1] for _, ink, _ in found)
    rows = sum(ink.shape[0] for _, ink, _ in found) + 2 * above_px
    if inner_px > room_px or rows > limit_px[0]:
        return None
    parts: list[_Part] = []
    places: list[_Place] = []
    top_px = above_px
    for line, ink, size_px in found:
        colour = _LIGHT_BGR if line.bold else _SOFT_BGR
        left_px = side_px + (inner_px - ink.shape[1]) // 2
        if line.changes:
            places.append(_Place(0, top_px, left_px, ink.shape[1], size_px, colour))
        else:
            parts.append(_Part(ink, top_px, left_px, colour))
        top_px += ink.shape[0]
    plate = _plate(rows, inner_px + 2 * side_px, round(0.5 * capital_px))
    return _Sheet(_compose(plate, parts), tuple(places))


@lru_cache(maxsize=64)
def _shortened(text: str, capital_px: int, room_px: int) -> str:
    """The text, or as many of its words as fit; "" if that is hardly any."""
    if _ink(text, capital_px, False).shape[1] <= room_px:
        return text
    words = text.split(" ")
    for count in range(len(words) - 1, 0, -1):
        shorter = " ".join(words[:count]).rstrip(",;:.") + " ..."
        if len(shorter) < _SHORTEST_DETAIL:
            return ""
        if _ink(shorter, capital_px, False).shape[1] <= room_px:
            return shorter
    return ""


# The status line


@lru_cache(maxsize=32)
def _status_sheet(
    height_px: int, width_px: int, badge: str, templates: tuple[str, ...]
) -> _Sheet | None:
    """The line for age, rate, extra and (for small pictures) the bare age."""
    start_px = max(_SMALLEST_PX + 2, round(_STATUS_SHARE * min(height_px, 0.75 * width_px)))
    limit_px = (_status_rows(height_px), width_px - 2)
    short_badge = badge and "PRED."
    for shown_badge, numbers, smallest_px in (
        (badge, (0, 1, 2), _READABLE_PX - 2),
        (badge, (0, 1), _READABLE_PX - 2),
        (badge, (0,), _SMALLEST_PX + 1),
        (short_badge, (3,), _SMALLEST_PX),
        (short_badge, (), _SMALLEST_PX),
    ):
        texts = {number: templates[number] for number in numbers if templates[number]}
        for capital_px in _sizes(start_px, min(smallest_px, start_px), 1.0):
            sheet = _in_a_row(shown_badge, texts, capital_px, limit_px)
            if sheet is not None:
                return sheet
    return None


def _in_a_row(
    badge: str, texts: dict[int, str], capital_px: int, limit_px: tuple[int, int]
) -> _Sheet | None:
    """Texts beside each other, behind the badge on a light plate; None if they do not fit."""
    if not badge and not texts:
        return None
    side_px, above_px = max(2, round(0.7 * capital_px)), max(1, round(0.35 * capital_px))
    gap_px = max(3, round(1.4 * capital_px))
    rows = sum(_rows(capital_px, False)) + 2 * above_px
    parts: list[_Part] = []
    right_px = 0
    if badge:
        ink = _ink(badge, capital_px, True)
        right_px = ink.shape[1] + 2 * side_px
        parts.append(_Part(_plate(rows, right_px, above_px), 0, 0, _LIGHT_BGR))
        parts.append(_Part(ink, (rows - ink.shape[0]) // 2, side_px, _PLATE_BGR))
    places: list[_Place] = []
    for number, text in texts.items():
        left_px = right_px + (gap_px if places else side_px)
        places.append(_Place(number, above_px, left_px, 0, capital_px, _LIGHT_BGR))
        right_px = left_px + _ink(text, capital_px, False).shape[1]
    columns = right_px + (side_px if places else 0)
    if rows > limit_px[0] or columns > limit_px[1]:
        return None
    return _Sheet(_compose(_plate(rows, columns, above_px), parts), tuple(places))


def _widest(text: str) -> str:
    """The text with zeros for digits, and room for three of them in an age in milliseconds."""
    if text.endswith(" ms"):
        text = re.sub(r"\d+", lambda found: found[0].zfill(3), text)
    return _template(text)


# Text and plates


@dataclass(frozen=True)
class _Part:
    """Something opaque on a plate."""

    ink: Ink
    top_px: int
    left_px: int
    colour_bgr: tuple[int, int, int]


def _compose(plate: Ink, parts: list[_Part]) -> _Layer:
    """A dark plate with a fine light edge, and what is on it."""
    keep = cv2.cvtColor(cv2.LUT(plate, _PLATE_KEEP), cv2.COLOR_GRAY2BGR)
    add = cv2.merge([cv2.LUT(plate, table) for table in _PLATE_ADD])
    inside = cv2.erode(plate, _SQUARE, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    for part in (_Part(plate - inside, 0, 0, _EDGE_BGR), *parts):
        rows, columns = part.ink.shape
        place = np.s_[part.top_px : part.top_px + rows, part.left_px : part.left_px + columns]
        layer = _opaque(part.ink, part.colour_bgr)
        keep[place] = cv2.multiply(keep[place], layer.keep, scale=1.0 / 255.0)
        add[place] = cv2.add(cv2.multiply(add[place], layer.keep, scale=1.0 / 255.0), layer.add)
    return _Layer(keep, add)


_LEVELS = np.arange(256)
_PLATE_KEEP = np.rint(255.0 - _PLATE_ALPHA * _LEVELS).astype(np.uint8)
_PLATE_ADD = tuple(
    np.rint(_PLATE_ALPHA * level * _LEVELS / 255.0).astype(np.uint8) for level in _PLATE_BGR
)


def _opaque(ink: Ink, colour_bgr: tuple[int, int, int]) -> _Layer:
    add = [cv2.multiply(ink, level, scale=1.0 / 255.0) for level in colour_bgr]
    return _Layer(cv2.cvtColor(cv2.bitwise_not(ink), cv2.COLOR_GRAY2BGR), cv2.merge(add))


@lru_cache(maxsize=256)
def _text_layer(text: str, capital_px: int, colour_bgr: tuple[int, int, int]) -> _Layer:
    return _opaque(_ink(text, capital_px, False), colour_bgr)


_SQUARE = np.ones((3, 3), np.uint8)
_FINER = 8


@lru_cache(maxsize=32)
def _plate(rows: int, columns: int, radius_px: int) -> Ink:
    """Coverage of a rectangle with round corners."""
    plate = np.full((rows, columns), 255, np.uint8)
    radius_px = min(radius_px, rows // 2, columns // 2)
    if radius_px > 0:
        at = np.arange(radius_px * _FINER, dtype=np.float32) + np.float32(0.5)
        from_centre = np.float32(radius_px * _FINER) - at
        inside = np.hypot(from_centre[:, None], from_centre) <= radius_px * _FINER
        finer = inside.reshape(radius_px, _FINER, radius_px, _FINER)
        corner = np.rint(255.0 * finer.mean(axis=(1, 3))).astype(np.uint8)
        plate[:radius_px, :radius_px] = corner
        plate[:radius_px, columns - radius_px :] = corner[:, ::-1]
        plate[rows - radius_px :, :radius_px] = corner[::-1]
        plate[rows - radius_px :, columns - radius_px :] = corner[::-1, ::-1]
    return plate


@lru_cache(maxsize=512)
def _ink(text: str, capital_px: int, bold: bool) -> Ink:
    """A text, cut to its own width; all texts of a size have the same rows."""
    scale, thickness = _scale(capital_px, bold), _thickness(capital_px, bold)
    above, below = _rows(capital_px, bold)
    drawn = _drawn(text, scale, thickness)
    baseline = drawn.shape[0] // 2
    drawn = drawn[baseline - above : baseline + below]
    columns = np.flatnonzero(drawn.any(axis=0))
    if columns.size == 0:
        return np.zeros((drawn.shape[0], 1), np.uint8)
    return np.ascontiguousarray(drawn[:, columns[0] : columns[-1] + 1])


@lru_cache(maxsize=128)
def _rows(capital_px: int, bold: bool) -> tuple[int, int]:
    """Rows above and below the baseline of a line of text."""
    drawn = _drawn("Hdgjpqy(,", _scale(capital_px, bold), _thickness(capital_px, bold))
    rows = np.flatnonzero(drawn.any(axis=1))
    above = drawn.shape[0] // 2 - int(rows[0])
    below = int(rows[-1]) + 1 - drawn.shape[0] // 2
    return above, below


def _drawn(text: str, scale: float, thickness: int) -> Ink:
    """A text on a canvas that is large enough whatever the font, its baseline half way down."""
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    margin = 2 * height + 4 * thickness + 8
    canvas = np.zeros((2 * (height + margin), width + 2 * margin), np.uint8)
    origin = (margin, canvas.shape[0] // 2)
    cv2.putText(canvas, text, origin, _FONT, scale, 255, thickness, cv2.LINE_AA)
    return canvas


@lru_cache(maxsize=128)
def _scale(capital_px: int, bold: bool) -> float:
    """OpenCV's scale for capitals of that height: its versions have fonts of different size."""
    rows = np.flatnonzero(_drawn("H", 4.0, _thickness(84, bold)).any(axis=1))
    return 4.0 * capital_px / rows.size


def _thickness(capital_px: int, bold: bool) -> int:
    """Of strokes, in pixels. From 2 on OpenCV 5 takes its bold face; OpenCV 4 thickens lines."""
    least = 2 if bold and _HAS_BOLD_FACE else 1
    return max(least, round(capital_px / (8.0 if bold else 14.0)))
