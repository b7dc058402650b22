"""The read-out against float64 formulas and torch's own interpolation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import InputError
from edgeseg.readout import activate, mask_from_logits, resize_logits
from edgeseg.spec import ReadoutSpec

SIGMOID = ReadoutSpec("sigmoid")
SOFTMAX = ReadoutSpec("softmax")


def _linear_matrix(source: int, target: int, align_corners: bool) -> np.ndarray:
    """Rows of bilinear weights in float64, straight from the definition of the two grids."""
    matrix = np.zeros((target, source))
    for i in range(target):
        if align_corners:
            position = i * (source - 1) / (target - 1) if target > 1 else 0.0
        else:
            position = (i + 0.5) * source / target - 0.5
        position = min(max(position, 0.0), source - 1.0)
        low = min(int(np.floor(position)), source - 1)
        high = min(low + 1, source - 1)
        matrix[i, low] += 1 - (position - low)
        matrix[i, high] += position - low
    return matrix


@settings(max_examples=60, deadline=None)
@given(
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    channels=st.integers(1, 3),
    align_corners=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_resize_equals_the_definition(source, target, channels, align_corners, seed) -> None:
    logits = np.random.default_rng(seed).normal(0, 5, (channels, *source)).astype(np.float32)
    rows = _linear_matrix(source[0], target[0], align_corners)
    columns = _linear_matrix(source[1], target[1], align_corners)
    expected = np.einsum("ih,chw,jw->cij", rows, logits.astype(np.float64), columns)
    actual = resize_logits(logits, *target, align_corners=align_corners)
    assert actual.shape == expected.shape and actual.dtype == np.float32
    assert np.abs(actual - expected).max() <= 2e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("align_corners", [False, True])
def test_resize_equals_torch(align_corners: bool) -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(0, 5, (2, 17, 23)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None],
        size=(101, 77),
        mode="bilinear",
        align_corners=align_corners,
    )[0].numpy()
    actual = resize_logits(logits, 101, 77, align_corners=align_corners)
    # torch places its samples in float32; the scale of the logits is 20.
    assert np.abs(actual - expected).max() <= 1e-4


def test_sigmoid_is_exact_and_cannot_overflow() -> None:
    logits = np.array([[[-1e4, -20.0, -1.0, 0.0, 1.0, 20.0, 1e4]]], np.float32)
    with np.errstate(over="raise"):
        actual = activate(logits, SIGMOID)
    wide = logits[0].astype(np.float64)
    expected = np.where(wide > -700, 1 / (1 + np.exp(-np.maximum(wide, -700))), 0.0)
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() <= 1e-7


def test_softmax_sums_to_one_for_large_logits() -> None:
    logits = np.random.default_rng(1).normal(0, 300, (4, 9, 7)).astype(np.float32)
    actual = activate(logits, SOFTMAX)
    wide = logits.astype(np.float64)
    wide = np.exp(wide - wide.max(0))
    assert np.abs(actual - wide / wide.sum(0)).max() <= 1e-6
    assert np.abs(actual.sum(0) - 1).max() <= 1e-6


@settings(max_examples=50, deadline=None)
@given(threshold=st.floats(0.001, 0.999), seed=st.integers(0, 2**16))
def test_mask_is_the_thresholded_probability(threshold: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 4, (1, 13, 11)).astype(np.float32)
    probability = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
    clear = np.abs(probability - threshold) > 1e-6
    mask = mask_from_logits(logits, SIGMOID, threshold)
    assert mask.dtype == np.uint8
    assert (mask.astype(bool) == (probability > threshold))[clear].all()


def test_argmax_takes_the_lower_class_at_a_tie() -> None:
    logits = np.array([[[1, 0, 2]], [[1, 3, 2]], [[0, 3, 5]]], np.float32)
    assert mask_from_logits(logits, SOFTMAX).tolist() == [[0, 1, 2]]


@settings(max_examples=30, deadline=None)
@given(channels=st.integers(2, 6), seed=st.integers(0, 2**16))
def test_argmax_equals_numpy(channels: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(channels, 8, 9)).astype(np.float32)
    assert (mask_from_logits(logits, SOFTMAX) == logits.argmax(0)).all()


def test_nan_is_background() -> None:
    assert not mask_from_logits(np.full((1, 2, 2), np.nan, np.float32), SIGMOID).any()
    several = np.zeros((3, 1, 2), np.float32)
    several[2, 0, 0] = np.nan
    assert mask_from_logits(several, SOFTMAX).tolist() == [[0, 0]]
    several[0, 0, 1] = np.nan
    assert mask_from_logits(several, SOFTMAX).tolist() == [[0, 0]]


def test_mismatches_are_refused() -> None:
    with pytest.raises(InputError, match="does not fit 1 channel"):
        mask_from_logits(np.zeros((1, 2, 2), np.float32), SOFTMAX)
    with pytest.raises(InputError, match="does not fit 3 channel"):
        activate(np.zeros((3, 2, 2), np.float32), SIGMOID)
    with pytest.raises(InputError, match="threshold"):
        mask_from_logits(np.zeros((3, 2, 2), np.float32), SOFTMAX, 0.4)
    with pytest.raises(InputError, match="between 0 and 1"):
        mask_from_logits(np.zeros((1, 2, 2), np.float32), SIGMOID, 1.0)
