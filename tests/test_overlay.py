"""The fill against float64 arithmetic, outlines, and colours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import InputError, UsageError
from edgeseg.overlay import COLOUR_NAMES, Overlay, default_colours, parse_colours


def exact_blend(
    frame: np.ndarray, mask: np.ndarray, colours: list[tuple[int, int, int]], alpha: float
) -> np.ndarray:
    result = frame.astype(np.float64)
    for index, (red, green, blue) in enumerate(colours, start=1):
        where = mask == index
        result[where] = (1 - alpha) * result[where] + alpha * np.array([blue, green, red], float)
    return result


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    classes=st.integers(1, 4),
    alpha=st.floats(0.01, 1.0),
    density=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_fill_is_the_rounded_blend(
    height: int, width: int, classes: int, alpha: float, density: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.integers(1, classes + 1, (height, width), dtype=np.uint8)
    mask[rng.random((height, width)) > density] = 0
    colours = [tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(classes)]
    before = frame.copy()
    drawn = Overlay(colours, alpha=alpha)(frame, mask)
    expected = exact_blend(frame, mask, colours, alpha)
    assert np.abs(drawn - expected).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(drawn[mask == 0], before[mask == 0])
    np.testing.assert_array_equal(frame, before)


def test_drawing_in_place_gives_the_same_picture() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    mask = np.zeros((50, 70), np.uint8)
    mask[10:30, 20:60] = 1
    mask[25:45, 5:25] = 2
    overlay = Overlay(default_colours(2), alpha=0.3, contours=True)
    copied = overlay(frame, mask)
    drawn = overlay(frame, mask, in_place=True)
    assert drawn is frame
    np.testing.assert_array_equal(drawn, copied)


def test_outlines_lie_on_the_border_and_leave_the_rest() -> None:
    frame = np.full((80, 100, 3), 100, np.uint8)
    mask = np.zeros((80, 100), np.uint8)
    mask[20:60, 30:70] = 1
    mask[35:45, 45:55] = 0
    red, green, blue = COLOUR_NAMES["sky"]
    drawn = Overlay(parse_colours("sky", 1), alpha=0.0, contours=True)(frame, mask)
    changed = (drawn != 100).any(axis=2)
    # On the outer border, and around the hole.
    np.testing.assert_allclose(drawn[20, 50], (blue, green, red), atol=20)
    np.testing.assert_allclose(drawn[40, 30], (blue, green, red), atol=20)
    assert changed[34:36, 50].any()
    # Nowhere further than two pixels from a border.
    assert not changed[:18].any()
    assert not changed[62:].any()
    assert not changed[24:32, 34:66].any()
    assert not changed[38:42, 48:52].any()


def test_outlines_touch_the_frame_edge_without_leaving_it() -> None:
    frame = np.zeros((33, 21, 3), np.uint8)
    mask = np.ones((33, 21), np.uint8)
    drawn = Overlay([(255, 255, 255)], alpha=0.0, contours=True)(frame, mask)
    assert (drawn[0] >= 190).all()
    assert (drawn[:, -1] >= 190).all()
    assert (drawn[5:-5, 5:-5] == 0).all()


def test_an_empty_mask_changes_nothing() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    drawn = Overlay(default_colours(1), contours=True)(frame, np.zeros((20, 30), np.uint8))
    np.testing.assert_array_equal(drawn, frame)


def test_colours_by_name_and_by_number() -> None:
    assert parse_colours("#0a1B2c", 1) == ((10, 27, 44),)
    assert parse_colours("Lime, #FFFFFF,sky", 3) == ((0, 255, 0), (255, 255, 255), (86, 180, 233))
    assert parse_colours(None, 3) == default_colours(3)
    assert len(set(default_colours(20))) == 20
    for colour in default_colours(300):
        assert all(0 <= value <= 255 for value in colour)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("mauve-ish", 1),
        ("#12345", 1),
        ("#12345g", 1),
        ("", 1),
        ("red,", 2),
        ("red", 2),
        ("red,blue", 1),
    ],
)
def test_wrong_colours_are_refused(text: str, count: int) -> None:
    with pytest.raises(UsageError):
        parse_colours(text, count)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_wrong_opacities_are_refused(alpha: float) -> None:
    with pytest.raises(UsageError):
        Overlay(default_colours(1), alpha=alpha)


def test_an_overlay_that_draws_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing"):
        Overlay(default_colours(1), alpha=0.0, contours=False)


def test_arrays_that_do_not_fit_are_refused() -> None:
    overlay = Overlay(default_colours(1))
    frame = np.zeros((10, 12, 3), np.uint8)
    mask = np.zeros((10, 12), np.uint8)
    with pytest.raises(InputError):
        overlay(frame, mask[:, :5])
    with pytest.raises(InputError):
        overlay(frame, mask.astype(np.int32))
    with pytest.raises(InputError):
        overlay(frame[..., 0], mask)
    with pytest.raises(InputError, match="class 2"):
        overlay(frame, mask + 2)
    with pytest.raises(InputError, match="contiguous"):
        overlay(frame[:, ::2], mask[:, ::2], in_place=True)
