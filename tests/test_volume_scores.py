"""Distances and scores in three dimensions against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from edgeseg.errors import InputError
from edgeseg.volume import distance
from edgeseg.volume.distance import nearest_distances
from edgeseg.volume.scores import hd95_mm, score_volume, surface

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9)
SPACINGS = st.tuples(*[st.floats(0.05, 20.0)] * 3)


def volumes(count: int) -> st.SearchStrategy[tuple[np.ndarray, ...]]:
    """Masks of one shape, from nearly empty to nearly full."""

    def of_shape(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[np.ndarray, ...]]:
        def draw(seed: int) -> tuple[np.ndarray, ...]:
            rng = np.random.default_rng(seed)
            shares = rng.choice([0.0, 0.02, 0.2, 0.6, 0.97, 1.0], count)
            return tuple(rng.random(shape) < share for share in shares)

        return st.integers(0, 2**32 - 1).map(draw)

    return SHAPES.flatmap(of_shape)


def scipy_surface(volume: np.ndarray) -> np.ndarray:
    return volume & ~ndimage.binary_erosion(volume)


def scipy_hd95(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> float:
    if not a.any() or not b.any():
        return 0.0 if a.any() == b.any() else math.inf
    edge_a, edge_b = scipy_surface(a), scipy_surface(b)
    to_a = ndimage.distance_transform_edt(~edge_a, sampling=spacing)
    to_b = ndimage.distance_transform_edt(~edge_b, sampling=spacing)
    return float(np.percentile(np.concatenate([to_b[edge_a], to_a[edge_b]]), 95))


@settings(max_examples=150, deadline=None)
@given(pair=volumes(2), spacing=SPACINGS)
def test_distances_are_those_of_scipys_transform(pair, spacing):
    points, targets = pair
    if not targets.any():
        targets = targets.copy()
        targets.flat[targets.size // 2] = True
    expected = ndimage.distance_transform_edt(~targets, sampling=spacing)[points]
    found = nearest_distances(points, targets, spacing)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0.0) <= 1e-9 * max(spacing) * 10


@pytest.mark.parametrize("elements", [1, 50, 1000])
def test_distances_do_not_depend_on_the_chunks(monkeypatch, elements):
    rng = np.random.default_rng(0)
    points, targets = rng.random((11, 13, 17)) < 0.5, rng.random((11, 13, 17)) < 0.01
    whole = nearest_distances(points, targets, (3.0, 1.0, 0.5))
    monkeypatch.setattr(distance, "_CHUNK_ELEMENTS", elements)
    np.testing.assert_array_equal(nearest_distances(points, targets, (3.0, 1.0, 0.5)), whole)


@settings(max_examples=100, deadline=None)
@given(pair=volumes(2), spacing=SPACINGS)
def test_hd95_is_that_of_scipy(pair, spacing):
    a, b = pair
    np.testing.assert_array_equal(surface(a), scipy_surface(a))
    expected, found = scipy_hd95(a, b, spacing), hd95_mm(a, b, spacing)
    assert found == expected or abs(found - expected) <= 1e-9 * max(spacing) * 10
    assert hd95_mm(b, a, spacing) == pytest.approx(found, abs=1e-12)


def test_hd95_is_in_millimetres_along_each_axis():
    a = np.zeros((20, 20, 20), bool)
    a[4:8, 4:8, 4:8] = True
    for axis, expected in ((0, 15.0), (1, 3.0), (2, 2.1)):
        b = np.roll(a, 3, axis)
        assert hd95_mm(a, b, (5.0, 1.0, 0.7)) == pytest.approx(expected)


def test_one_class_takes_every_label_as_foreground():
    truth = np.zeros((6, 7, 8), np.uint8)
    truth[1:3], truth[3:5] = 2, 4
    prediction = (truth > 0).astype(np.uint8)
    score = score_volume(prediction, truth, 1, (1.0, 2.0, 3.0))
    assert (score.dice, score.iou, score.hd95) == pytest.approx((1.0, 1.0, 0.0))
    assert len(score.per_class) == 1


def test_several_classes_are_scored_one_by_one():
    truth = np.zeros((4, 5, 6), np.uint8)
    truth[0], truth[1] = 1, 2
    prediction = truth.copy()
    prediction[1, :2] = 1
    score = score_volume(prediction, truth, 4, (2.0, 1.0, 1.0))
    first, second, third = score.per_class
    assert first.dice == pytest.approx(2 * 30 / (30 + 42), abs=1e-6)
    assert second.iou == pytest.approx(18 / 30, abs=1e-6)
    assert third.dice == pytest.approx(1.0)
    assert third.hd95 == 0.0
    assert second.hd95 == scipy_hd95(prediction == 2, truth == 2, (2.0, 1.0, 1.0))
    assert score.dice == pytest.approx((first.dice + second.dice + third.dice) / 3)


def test_an_empty_side_is_infinitely_far():
    empty, full = np.zeros((3, 3, 3), np.uint8), np.ones((3, 3, 3), np.uint8)
    assert math.isinf(score_volume(empty, full, 1, (1.0, 1.0, 1.0)).hd95)
    both = score_volume(empty, empty, 1, (1.0, 1.0, 1.0))
    assert (both.dice, both.iou, both.hd95) == (1.0, 1.0, 0.0)


def test_what_cannot_be_compared_is_refused():
    a = np.ones((3, 3, 3), np.uint8)
    with pytest.raises(InputError, match="shape"):
        score_volume(a, a[:2], 1, (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="shape"):
        score_volume(a[0], a[0], 1, (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="spacing"):
        hd95_mm(a > 0, a > 0, (1.0, 0.0, 1.0))
