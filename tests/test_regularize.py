"""Spatial regularisation against scipy's morphology."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import BundleError
from edgeseg.regularize import regularize
from edgeseg.spec import RegularizeSpec

ndimage = pytest.importorskip("scipy.ndimage")


def blobs(seed: int, height: int, width: int, classes: int = 1) -> np.ndarray:
    """Smooth random probabilities with many components and holes."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(max(classes, 1), height, width)), (0, 1, 1))
    if classes == 1:
        return (1 / (1 + np.exp(-8 * noise[0]))).astype(np.float32)
    shifted = np.exp(8 * noise)
    return (shifted / shifted.sum(axis=0)).astype(np.float32)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.floats(0.3, 3.0))
@settings(max_examples=30, deadline=None)
def test_blur_is_a_gaussian_with_replicated_edges(seed, height, width, sigma):
    p = blobs(seed, height, width)
    blurred = regularize(p, RegularizeSpec(blur_sigma_px=sigma))
    expected = ndimage.gaussian_filter(p.astype(np.float64), sigma, mode="nearest", truncate=4.0)
    assert blurred.dtype == np.float32
    assert np.abs(blurred - expected).max() <= 2e-3


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.floats(0.2, 0.8))
@settings(max_examples=50, deadline=None)
def test_holes_are_those_that_scipy_fills(seed, height, width, threshold):
    p = blobs(seed, height, width)
    filled = regularize(p, RegularizeSpec(fill_holes=True), threshold)
    before = p > threshold
    np.testing.assert_array_equal(filled > threshold, ndimage.binary_fill_holes(before))
    new = (filled > threshold) & ~before
    assert (filled[new] == 1).all()
    np.testing.assert_array_equal(filled[~new], p[~new])


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.integers(0, 30))
@settings(max_examples=50, deadline=None)
def test_small_components_vanish_and_large_ones_stay(seed, height, width, size):
    p = blobs(seed, height, width)
    kept = regularize(p, RegularizeSpec(min_component_px=size))
    labels, count = ndimage.label(p > 0.5, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    np.testing.assert_array_equal(kept > 0.5, (areas >= max(size, 1))[labels] & (labels > 0))
    gone = (p > 0.5) & ~(kept > 0.5)
    assert (kept[gone] == 0).all()
    np.testing.assert_array_equal(kept[~gone], p[~gone])


def test_a_filled_hole_counts_for_the_size_of_its_component():
    p = np.zeros((9, 9), np.float32)
    p[2:7, 2:7] = 0.9
    p[3:6, 3:6] = 0.1
    spec = RegularizeSpec(fill_holes=True, min_component_px=25)
    assert (regularize(p, spec) > 0.5).sum() == 25
    assert (regularize(p, RegularizeSpec(min_component_px=25)) > 0.5).sum() == 0


def test_each_of_several_classes_is_cleaned_by_itself():
    p = np.zeros((3, 12, 12), np.float32)
    p[0] = 1
    p[:, 1:8, 1:8] = np.array([0.1, 0.8, 0.1])[:, None, None]
    p[:, 3:5, 3:5] = np.array([0.9, 0.05, 0.05])[:, None, None]
    p[:, 10, 10] = np.array([0.1, 0.1, 0.8])
    p[:, 6, 6] = np.array([0.1, 0.1, 0.8])
    cleaned = regularize(p, RegularizeSpec(fill_holes=True, min_component_px=2))
    labels = cleaned.argmax(axis=0)
    assert (labels[3:5, 3:5] == 1).all()
    assert labels[10, 10] == 0 and labels[6, 6] == 0
    np.testing.assert_allclose(cleaned.sum(axis=0), 1, atol=1e-6)


@given(st.integers(0, 10**6), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_several_classes_stay_a_distribution(seed, classes):
    p = blobs(seed, 31, 27, classes)
    cleaned = regularize(p, RegularizeSpec(0.8, True, 6))
    assert np.abs(cleaned.sum(axis=0) - 1).max() <= 1e-4
    for index in range(1, classes):
        labels, count = ndimage.label(cleaned.argmax(axis=0) == index, np.ones((3, 3)))
        assert all((labels == i).sum() >= 6 for i in range(1, count + 1))


def test_nothing_to_do_gives_the_argument_back():
    p = blobs(0, 16, 16)
    assert regularize(p, RegularizeSpec()) is p
    empty = np.zeros((5, 5), np.float32)
    np.testing.assert_array_equal(regularize(empty, RegularizeSpec(1.0, True, 3)), empty)


@pytest.mark.parametrize(
    "values", [{"blur_sigma_px": -1.0}, {"blur_sigma_px": float("nan")}, {"min_component_px": -1}]
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(BundleError):
        RegularizeSpec(**values)
