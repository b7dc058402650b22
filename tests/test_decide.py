"""``decide_mask``: its body runs on the host, against a reference and the NumPy read-out."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from guarded_memory import Memory, Strided, unwritten
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeseg import readout
from edgeseg.errors import InputError
from edgeseg.kernels import cuda, reference_decide
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.spec import ReadoutSpec

Array = npt.NDArray[Any]
Window = tuple[int, int, int, int]

ROUNDING = 2e-6
"""Of a value, relative to the largest sample."""


def level_of(value: float) -> Memory:
    return Memory(np.array([value], np.float32))


def decide(
    host: CudaLibrary,
    planes: Array,
    mask_px: tuple[int, int],
    level: float | None,
    *,
    aligned: bool = True,
    **more: Any,
) -> tuple[Array, Array]:
    """Mask and counts; nothing around them may have been written, nor the planes."""
    source = Memory(planes, aligned=aligned)
    mask = unwritten(mask_px, np.uint8, aligned=aligned)
    counts = unwritten((max(len(planes), 2),), np.uint32)
    cuda.decide_mask(
        source,
        mask,
        level=None if level is None else level_of(level),
        counts=counts,
        native=host,
        **more,
    )
    np.testing.assert_array_equal(source.checked(), planes)
    return mask.checked(), counts.checked()


def clear(values: Array, level: float | None, scale: float) -> Array:
    """Where rounding cannot change the label; NaN and infinities are never near anything."""
    with np.errstate(invalid="ignore"):
        if level is not None:
            margin = np.abs(values[0] - level)
        else:
            ranked = np.sort(np.where(np.isnan(values), -np.inf, values), axis=0)
            margin = ranked[-1] - ranked[-2]
    far: Array = ~(margin <= 2 * ROUNDING * scale)
    return far


def agree(mask: Array, wanted: Array, values: Array, level: float | None, window: Window) -> None:
    """Within the window but for ties, and everywhere else without exception."""
    x, y, width, height = window
    finite = np.abs(values[np.isfinite(values)])
    decided = np.ones(mask.shape, np.bool_)
    scale = max(1.0, float(finite.max(initial=0.0)))
    decided[y : y + height, x : x + width] = clear(values, level, scale)
    np.testing.assert_array_equal(mask[decided], wanted[decided])


def counted(mask: Array, channels: int, window: Window) -> Array:
    x, y, width, height = window
    inside = mask[y : y + height, x : x + width]
    return np.bincount(inside.reshape(-1), minlength=max(channels, 2))


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> Window:
    wide, high = draw(st.integers(1, width)), draw(st.integers(1, height))
    return draw(st.integers(0, width - wide)), draw(st.integers(0, height - high)), wide, high


sides = st.one_of(st.integers(1, 6), st.integers(1, 30))


@given(
    data=st.data(),
    channels=st.one_of(st.just(1), st.integers(1, 20)),
    grid=st.tuples(sides, sides),
    mask_px=st.tuples(sides, sides),
    half=st.booleans(),
    align_corners=st.booleans(),
    special=st.booleans(),
    aligned=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_masks_equal_the_reference(
    host: CudaLibrary,
    data: st.DataObject,
    channels: int,
    grid: tuple[int, int],
    mask_px: tuple[int, int],
    half: bool,
    align_corners: bool,
    special: bool,
    aligned: bool,
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    planes = 4.0 * rng.standard_normal((channels, *grid))
    planes = planes.astype(np.float16 if half else np.float32)
    if special:
        places = rng.integers(0, planes.size, 4)
        planes.reshape(-1)[places] = rng.choice(np.array([np.nan, np.inf, -np.inf, 0.0]), 4)
    whole = (0, 0, mask_px[1], mask_px[0])
    window = data.draw(st.one_of(st.just(whole), windows(*mask_px)))
    level = 0.25 if channels == 1 else None
    how: dict[str, Any] = {"window_px": window, "align_corners": align_corners}
    mask, counts = decide(host, planes, mask_px, level, aligned=aligned, **how)
    wanted, _, values = reference_decide.decide_mask(planes, *mask_px, level=level, **how)
    agree(mask, wanted, values, level, window)
    np.testing.assert_array_equal(counts, counted(mask, channels, window))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    ("grid", "mask_px"),
    [((32, 40), (135, 1030)), ((96, 120), (33, 41)), ((16, 24), (16, 24)), ((1, 1), (9, 7))],
)
def test_masks_equal_the_read_out(
    host: CudaLibrary,
    channels: int,
    align_corners: bool,
    grid: tuple[int, int],
    mask_px: tuple[int, int],
) -> None:
    """Enlarged beyond the width of a block of threads, reduced, as it is, and from one sample."""
    rng = np.random.default_rng(channels)
    logits = 3.0 * rng.standard_normal((channels, *grid), dtype=np.float32)
    activation: Literal["sigmoid", "softmax"] = "sigmoid" if channels == 1 else "softmax"
    spec = ReadoutSpec(activation, threshold=0.6, align_corners=align_corners)
    resized = readout.resize_logits(logits, *mask_px, align_corners=align_corners)
    window = (0, 0, mask_px[1], mask_px[0])
    level = math.log(0.6 / 0.4) if channels == 1 else None
    mask, counts = decide(host, logits, mask_px, level, align_corners=align_corners)
    agree_loosely(mask, readout.mask_from_logits(resized, spec), resized, level)
    np.testing.assert_array_equal(counts, counted(mask, channels, window))
    assert len(np.unique(mask)) == (1 if grid == (1, 1) else max(channels, 2))

    probability = readout.activate(logits, spec).reshape(logits.shape)
    resized = readout.resize_logits(probability, *mask_px, align_corners=align_corners)
    level = 0.6 if channels == 1 else None
    mask, _ = decide(host, probability, mask_px, level, align_corners=align_corners)
    given = resized[0] if channels == 1 else resized
    agree_loosely(mask, readout.mask_from_probability(given, 0.6), resized, level)


def agree_loosely(mask: Array, wanted: Array, values: Array, level: float | None) -> None:
    """OpenCV rounds positions to float: shares of the way between samples are off by 1e-5."""
    certain = clear(values.astype(np.float64), level, 40.0)
    assert certain.mean() > 0.98
    np.testing.assert_array_equal(mask[certain], wanted[certain])


@given(
    channels=st.integers(2, 6),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    factor=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 999),
)
@example(channels=3, grid=(1, 1), factor=4, seed=0)
@settings(max_examples=40, deadline=None)
def test_the_lower_class_wins_ties(
    host: CudaLibrary, channels: int, grid: tuple[int, int], factor: int, seed: int
) -> None:
    """Small whole numbers and factors of two: nothing is rounded, and ties are everywhere."""
    rng = np.random.default_rng(seed)
    planes = rng.integers(0, 2, (channels, *grid)).astype(np.float32)
    mask_px = (factor * grid[0], factor * grid[1])
    mask, counts = decide(host, planes, mask_px, None)
    wanted, numbers, values = reference_decide.decide_mask(planes, *mask_px)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(mask, wanted)
    np.testing.assert_array_equal(counts, numbers)


def test_a_value_at_the_level_is_background(host: CudaLibrary) -> None:
    planes = np.array([[[0.5, 0.5, 1.0, 0.0]]], np.float32)
    mask, counts = decide(host, planes, (1, 4), 0.5)
    np.testing.assert_array_equal(mask, [[0, 0, 1, 0]])
    np.testing.assert_array_equal(counts, [3, 1])


def test_nan_is_background(host: CudaLibrary) -> None:
    nan, inf = np.nan, np.inf
    one = np.array([[[nan, inf, -inf, 1.0]]], np.float32)
    np.testing.assert_array_equal(decide(host, one, (1, 4), 0.0)[0], [[0, 1, 0, 1]])
    np.testing.assert_array_equal(decide(host, one, (1, 4), nan)[0], [[0, 0, 0, 0]])
    several = np.array(
        [
            [[nan, 0.0, 0.0, -inf, inf, -inf, nan]],
            [[5.0, nan, nan, -inf, inf, nan, nan]],
            [[9.0, 1.0, -1.0, -inf, 0.0, -1.0, nan]],
        ],
        np.float32,
    )
    expected = [[0, 2, 0, 0, 0, 2, 0]]
    np.testing.assert_array_equal(decide(host, several, (1, 7), None)[0], expected)
    logits = several.copy()
    spec = ReadoutSpec("softmax")
    np.testing.assert_array_equal(readout.mask_from_logits(logits, spec), expected)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_window_leaves_the_rest_background(host: CudaLibrary, shift: int, aligned: bool) -> None:
    """Whatever lay in the mask, and wherever in a word of it the window begins and ends."""
    planes = np.ones((1, 3, 3), np.float32)
    for width in (1, 4, 6):
        window = (5 + shift, 2 + shift, width, 5)
        mask, counts = decide(host, planes, (20, 24), 0.0, aligned=aligned, window_px=window)
        wanted = np.zeros((20, 24), np.uint8)
        wanted[2 + shift : 7 + shift, 5 + shift : 5 + shift + width] = 1
        np.testing.assert_array_equal(mask, wanted)
        np.testing.assert_array_equal(counts, [0, 5 * width])


@pytest.mark.parametrize("channels", [2, 129, 255])
def test_every_class_is_counted(host: CudaLibrary, channels: int) -> None:
    """Blocks hold more classes than they have threads, and several blocks add to one counter."""
    rng = np.random.default_rng(channels)
    wanted = rng.integers(0, channels, (24, 600)).astype(np.uint8)
    planes = (wanted == np.arange(channels)[:, None, None]).astype(np.float16)
    mask, counts = decide(host, planes, wanted.shape, None)
    np.testing.assert_array_equal(mask, wanted)
    np.testing.assert_array_equal(counts, np.bincount(wanted.reshape(-1), minlength=channels))


@pytest.mark.parametrize("channels", [1, 3])
def test_counts_are_set_and_may_be_left_out(host: CudaLibrary, channels: int) -> None:
    rng = np.random.default_rng(0)
    planes = Memory(rng.standard_normal((channels, 8, 8), dtype=np.float32))
    level = level_of(0.0) if channels == 1 else None
    first, second = unwritten((20, 30), np.uint8), unwritten((20, 30), np.uint8)
    counts = unwritten((max(channels, 2),), np.uint32)
    for _ in range(2):
        cuda.decide_mask(planes, first, level=level, counts=counts, native=host)
        assert counts.checked().sum() == 600
    cuda.decide_mask(planes, second, level=level, native=host)
    np.testing.assert_array_equal(first.checked(), second.checked())


def test_the_level_is_read_from_memory(host: CudaLibrary) -> None:
    planes = Memory(np.arange(16, dtype=np.float32).reshape(1, 4, 4))
    level, mask = level_of(0.0), unwritten((4, 4), np.uint8)
    for value, above in ((3.0, 12), (11.5, 4), (-1.0, 16)):
        level.array[0] = value
        cuda.decide_mask(planes, mask, level=level, native=host)
        assert mask.checked().sum() == above


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("gap", [3, 4])
def test_rows_of_the_mask_may_lie_apart(host: CudaLibrary, gap: int, step: int) -> None:
    rng = np.random.default_rng(gap)
    planes = rng.standard_normal((1, 5, 6), dtype=np.float32)
    padded = unwritten((11, 16 + gap), np.uint8)
    cuda.decide_mask(
        Memory(planes), Strided(padded.array[::step, :16]), level=level_of(0.0), native=host
    )
    plain, _ = decide(host, planes, (11, 16), 0.0)
    np.testing.assert_array_equal(padded.checked()[::step, :16], plain)
    assert (padded.array[:, 16:] == 0xEE).all()


def test_wrong_arguments_are_refused(host: CudaLibrary) -> None:
    planes, level = Memory(np.zeros((1, 4, 4), np.float32)), level_of(0.0)
    several, mask = Memory(np.zeros((3, 4, 4), np.float32)), unwritten((8, 9), np.uint8)

    def call(source: Any = planes, target: Any = mask, **more: Any) -> None:
        cuda.decide_mask(source, target, **{"level": level, "native": host, **more})

    with pytest.raises(InputError, match="needs a level"):
        call(level=None)
    with pytest.raises(InputError, match="no meaning for several classes"):
        call(several)
    with pytest.raises(InputError, match="one float32"):
        call(level=unwritten((2,), np.float32))
    with pytest.raises(InputError, match=r"shape \(C, h, w\)"):
        call(unwritten((4, 4), np.float32))
    with pytest.raises(InputError, match="at most 255 channels"):
        call(Memory(np.zeros((256, 1, 1), np.float32)), level=None)
    with pytest.raises(InputError, match="float32 or float16, got float64"):
        call(unwritten((1, 4, 4), np.float64))
    with pytest.raises(InputError, match="C-contiguous"):
        call(Strided(np.zeros((1, 4, 8), np.float32)[:, :, ::2]))
    with pytest.raises(InputError, match=r"shape \(H, W\)"):
        call(target=unwritten((1, 8, 9), np.uint8))
    with pytest.raises(InputError, match="rows without gaps"):
        call(target=Strided(np.zeros((8, 18), np.uint8)[:, ::2]))
    with pytest.raises(InputError, match="do not overlap"):
        flat = np.zeros(32, np.uint8)
        call(target=Strided(np.lib.stride_tricks.as_strided(flat, (8, 9), (3, 1))))
    for window in ((0, 0, 10, 8), (1, 0, 9, 8), (-1, 0, 4, 4), (0, 8, 1, 1), (0, 0, 0, 4)):
        with pytest.raises(InputError, match="within a mask of 9x8 pixels"):
            call(window_px=window)
    with pytest.raises(InputError, match=r"counts must have the shape \(2,\)"):
        call(counts=unwritten((1,), np.uint32))
    with pytest.raises(InputError, match="counts must be uint32"):
        call(counts=unwritten((2,), np.int32))
    assert (mask.checked() == 0xEE).all()
