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
    expected = exact_blend(frame, mask, colours, round(256 * alpha) / 256)
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
    outline = np.zeros((80, 100), bool)
    outline[20:60, 30:70] = True
    outline[21:59, 31:69] = False
    outline[34:46, 44:56] = True
    outline[35:45, 45:55] = False
    assert (drawn[outline] == (blue, green, red)).all()
    assert (drawn[~outline] == 100).all()


def test_outlines_are_wider_in_larger_frames() -> None:
    mask = np.zeros((720, 1280), np.uint8)
    mask[200:500, 300:900] = 1
    for contours, widths in ((True, (2, 2)), (False, (0, 0))):
        frame = np.full((720, 1280, 3), 100, np.uint8)
        drawn = Overlay([(200, 200, 200)], alpha=0.5, contours=contours)(frame, mask)
        column, row = drawn[:, 600, 0], drawn[350, :, 0]
        assert (np.count_nonzero(column[:350] == 200), (row[:600] == 200).sum()) == widths
        assert set(np.unique(drawn)) == ({100, 150, 200} if contours else {100, 150})


def test_outlines_part_neighbouring_classes() -> None:
    mask = np.ones((40, 60), np.uint8)
    mask[:, 30:] = 2
    drawn = Overlay([(255, 0, 0), (0, 0, 255)], alpha=0.0, contours=True)(
        np.zeros((40, 60, 3), np.uint8), mask
    )
    assert (drawn[:, 29] == (0, 0, 255)).all()
    assert (drawn[:, 30] == (255, 0, 0)).all()
    assert not drawn[:, :29].any()
    assert not drawn[:, 31:].any()


def test_the_edge_of_the_frame_is_no_outline() -> None:
    frame = np.zeros((33, 21, 3), np.uint8)
    mask = np.ones((33, 21), np.uint8)
    overlay = Overlay([(255, 255, 255)], alpha=0.0, contours=True)
    assert not overlay(frame, mask).any()
    mask[:10] = 0
    drawn = overlay(frame, mask)
    assert (drawn[10] == 255).all()
    assert not drawn[:10].any()
    assert not drawn[11:].any()


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
    for alpha in (0.0, 0.001):
        with pytest.raises(UsageError, match="nothing"):
            Overlay(default_colours(1), alpha=alpha, contours=False)


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
