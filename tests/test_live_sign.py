"""The sign and the status line: readable, in their place, and never more than that."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import cv2
import numpy as np
import pytest

from edgeseg.errors import InputError
from edgeseg.live.base import Reason
from edgeseg.live.sign import blank, dim, draw_sign, draw_status

SIZES = [
    (64, 48), (96, 64), (128, 96), (176, 144), (320, 240), (384, 288), (640, 100), (60, 400),
    (640, 480), (1280, 720), (1920, 1080), (3840, 2160),
]  # fmt: skip
"""(width, height)"""

BACKGROUNDS: dict[str, Callable[[tuple[int, int]], np.ndarray]] = {
    "black": lambda size: np.zeros((*size[::-1], 3), np.uint8),
    "white": lambda size: np.full((*size[::-1], 3), 255, np.uint8),
    "mucosa": lambda size: np.full((*size[::-1], 3), (110, 120, 215), np.uint8),
    "noise": lambda size: np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8),
}

DETAIL = "rtsp://10.0.0.4/stream: connection refused, trying again"


def sign(picture: np.ndarray, *, since_s: float = 1.4, detail: str = DETAIL) -> np.ndarray:
    picture = picture.copy()
    draw_sign(picture, "no signal", detail, since_s=since_s)
    return picture


def status(picture: np.ndarray, state: str = "predicted", **changes: object) -> np.ndarray:
    picture = picture.copy()
    values = {"age_ms": 42.0, "mask_fps": 24.8, "extra": "views 2 of 6"} | changes
    draw_status(picture, state=state, **values)
    return picture


def drawn_box(before: np.ndarray, after: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what changed."""
    changed = (before != after).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def luminance(picture: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB, 0 to 1 (WCAG 2)."""
    value = picture[..., ::-1] / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("draw", [sign, status])
def test_what_is_drawn_keeps_to_the_edge(size, draw):
    for background in ("black", "white"):
        before = BACKGROUNDS[background](size)
        top, bottom, left, right = drawn_box(before, draw(before))
        width, height = size
        if draw is sign:
            assert bottom <= max(0.29 * height, 0.42 * height if height < 130 else 0.0)
            assert abs(left - (width - right)) <= 1
        else:
            assert top >= 0.6 * height
            assert left <= 0.05 * max(size)
        assert 0 <= left < right <= width
        assert right - left >= 8
        assert bottom - top >= 6


@pytest.mark.parametrize("size", SIZES)
def test_sign_and_status_do_not_meet(size):
    before = BACKGROUNDS["white"](size)
    assert drawn_box(before, sign(before))[1] < drawn_box(before, status(before))[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("draw", [sign, lambda picture: status(picture, "current")])
def test_no_letter_touches_the_end_of_its_plate(size, draw):
    """Ink that was cut off would end there."""
    before = BACKGROUNDS["black"](size)
    after = draw(before)
    top, bottom, left, right = drawn_box(before, after)
    ink = after[top:bottom, left:right].min(axis=2) >= 165  # brighter than the plate's edge
    assert ink.any()
    assert not ink[0].any()
    assert not ink[-1].any()
    assert not ink[:, 0].any()
    assert not ink[:, -1].any()
    assert not ink[1:-1, 1].any()
    assert not ink[1:-1, -2].any()


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("size", [(64, 48), (384, 288), (1280, 720)])
@pytest.mark.parametrize("draw", [sign, lambda picture: status(picture, "current")])
def test_the_text_has_contrast_on_any_background(background, size, draw):
    black, before = BACKGROUNDS["black"](size), BACKGROUNDS[background](size)
    on_black, after = draw(black), draw(before)
    top, bottom, left, right = drawn_box(black, on_black)
    reference = on_black[top:bottom, left:right].max(axis=2)
    found = luminance(after[top:bottom, left:right])
    ink, plate = found[reference >= 200], found[reference <= 40]
    assert ink.size >= 20
    assert plate.size >= 50
    contrast = (np.median(ink) + 0.05) / (np.quantile(plate, 0.95) + 0.05)
    assert contrast >= 7.0


@pytest.mark.parametrize("draw", [sign, status])
def test_nothing_outside_a_view_is_touched_and_any_layout_will_do(draw):
    canvas = np.full((320, 520, 3), 77, np.uint8)
    part = canvas[20:300, 30:490]
    expected = draw(np.full((280, 460, 3), 77, np.uint8))
    if draw is sign:
        draw_sign(part, "no signal", DETAIL, since_s=1.4)
    else:
        draw_status(part, state="predicted", age_ms=42.0, mask_fps=24.8, extra="views 2 of 6")
    assert np.array_equal(part, expected)
    canvas[20:300, 30:490] = 77
    assert (canvas == 77).all()


def test_every_reason_and_every_time_has_its_own_words():
    seen: list[bytes] = []
    for reason in get_args(Reason):
        for since_s in (0.0, 1.4, 14.0, 125.0, 3700.0):
            picture = BACKGROUNDS["black"]((640, 480))
            draw_sign(picture, reason, "", since_s=since_s)
            seen.append(picture.tobytes())
    assert len(set(seen)) == len(seen) == 35


def test_the_plate_does_not_jump_while_time_passes():
    before = BACKGROUNDS["white"]((640, 480))
    assert len({drawn_box(before, sign(before, since_s=0.1 * i)) for i in range(0, 99, 3)}) == 1
    ages = {drawn_box(before, status(before, age_ms=float(age))) for age in (7, 42, 111, 999)}
    assert len(ages) == 1


@pytest.mark.parametrize("since_s", [-3.0, float("nan"), float("inf")])
def test_a_time_that_cannot_be_counts_as_none(since_s):
    before = BACKGROUNDS["black"]((640, 480))
    assert np.array_equal(sign(before, since_s=since_s), sign(before, since_s=0.0))


@pytest.mark.parametrize(
    "detail",
    ["", "x", "a\nb\tc", "Gerät nicht verfügbar: 内視鏡 \x00", "w" * 500, "long word " * 90],
)
@pytest.mark.parametrize("size", [(64, 48), (384, 288), (1280, 720)])
def test_any_detail_leaves_the_sign_readable(detail, size):
    before = BACKGROUNDS["white"](size)
    plain, after = sign(before, detail=""), sign(before, detail=detail)
    top, bottom, left, right = drawn_box(before, after)
    assert (top, left) >= (0, 0)
    assert bottom <= 0.42 * size[1]
    assert right - left <= max(0.8 * size[0], drawn_box(before, plain)[3])


def test_a_detail_is_shown_where_there_is_room_and_goes_first():
    large, small = BACKGROUNDS["black"]((1280, 720)), BACKGROUNDS["black"]((128, 96))
    assert not np.array_equal(sign(large, detail="a"), sign(large, detail="b"))
    assert np.array_equal(sign(small, detail="a"), sign(small, detail="b"))
    # The reason and the time are still there.
    assert not np.array_equal(sign(small, since_s=1.0), sign(small, since_s=2.0))


def test_a_detail_that_is_too_long_ends_after_a_word():
    picture = BACKGROUNDS["black"]((1280, 720))
    words = "one two three four five six seven eight nine ten " * 8
    assert np.array_equal(sign(picture, detail=words), sign(picture, detail=words + "eleven"))
    _, _, left, right = drawn_box(picture, sign(picture, detail=words))
    assert 0.4 * 1280 < right - left < 0.7 * 1280


def test_a_detail_becomes_one_line_of_plain_letters():
    picture = BACKGROUNDS["black"]((1280, 720))
    assert np.array_equal(sign(picture, detail="é\n\tu\x07 ß"), sign(picture, detail="e u? ?"))


def test_a_moved_mask_is_announced_on_a_light_plate():
    before = BACKGROUNDS["black"]((1280, 720))
    moved, computed = status(before, "predicted"), status(before, "current")
    light = [np.count_nonzero((picture > 240).all(axis=2)) for picture in (moved, computed)]
    assert light[0] > 3 * light[1]


def test_the_status_line_says_what_it_is_given():
    picture = BACKGROUNDS["black"]((1280, 720))
    lines = [
        status(picture, "current"),
        status(picture, "current", age_ms=43.0),
        status(picture, "current", age_ms=12_345.0),
        status(picture, "current", mask_fps=9.9),
        status(picture, "current", extra=""),
        status(picture, "current", extra="views 6 of 6"),
        status(picture, "none", age_ms=None),
    ]
    assert len({line.tobytes() for line in lines}) == len(lines)


@pytest.mark.parametrize("size", [(96, 64), (64, 48)])
def test_on_small_pictures_the_extra_goes_and_that_a_mask_was_moved_stays(size):
    picture = BACKGROUNDS["black"](size)
    assert np.array_equal(status(picture), status(picture, extra="other"))
    assert not np.array_equal(status(picture), status(picture, "current"))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (16, 9), (20, 200), (200, 12)])
def test_a_picture_too_small_for_text_still_does_not_look_usual(size):
    before = BACKGROUNDS["white"](size)
    assert (sign(before) != before).any()
    assert status(before).shape == before.shape


def test_a_dimmed_picture_is_grey_and_dark_and_a_copy():
    picture = BACKGROUNDS["noise"]((64, 48))
    picture[0, 0] = 255
    before = picture.copy()
    picture.setflags(write=False)
    dimmed = dim(picture)
    assert np.array_equal(picture, before)
    assert dimmed.shape == picture.shape
    assert dimmed.dtype == np.uint8
    assert dimmed.flags.writeable
    assert (dimmed == dimmed[..., :1]).all()
    assert 90 <= dimmed[0, 0, 0] <= 140
    assert dimmed.max() == dimmed[0, 0, 0]
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    assert np.corrcoef(grey.ravel(), dimmed[..., 0].ravel())[0, 1] > 0.999


def test_a_blank_picture_is_neutral():
    picture = blank((123, 45))
    assert picture.shape == (45, 123, 3)
    assert picture.dtype == np.uint8
    assert len(np.unique(picture)) == 1
    assert 0 < picture[0, 0, 0] < 90
    with pytest.raises(InputError, match="0x10"):
        blank((0, 10))


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((48, 64, 3), np.float32),
        np.zeros((0, 64, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(picture):
    for draw in (sign, status, dim):
        with pytest.raises(InputError, match=r"uint8 \(H, W, 3\)"):
            draw(picture)


def test_a_picture_that_may_not_be_written_on_is_refused():
    picture = np.zeros((48, 64, 3), np.uint8)
    picture.setflags(write=False)
    with pytest.raises(InputError, match="writable"):
        draw_sign(picture, "no signal", "", since_s=0.0)
    with pytest.raises(InputError, match="writable"):
        draw_status(picture, state="current", age_ms=1.0, mask_fps=1.0)
