"""Streaming histograms and the thresholds derived from them, against brute force in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.calib.ranges import METHODS, Histogram, Ranges
from edgeseg.errors import CalibrationError, UsageError


def filled(*arrays: np.ndarray, samples: int | None = None) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array, samples)
    return histogram


def activations(seed: int, n: int = 20000, outliers: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.laplace(size=n)
    values[:outliers] *= 30.0
    return values.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**31), st.integers(1, 500), st.floats(-30, 30)),
        min_size=1,
        max_size=6,
    )
)
def test_histogram_counts_what_numpy_counts(parts: list[tuple[int, int, float]]) -> None:
    arrays = [
        (np.random.default_rng(seed).standard_normal(n) * 2.0**power).astype(np.float32)
        for seed, n, power in parts
    ]
    arrays.append(np.zeros(3, np.float32))
    histogram = filled(*arrays)
    everything = np.abs(np.concatenate(arrays)).astype(np.float64)
    nonzero = everything[everything > 0]
    assert histogram.max_abs == everything.max()
    assert histogram.zeros == everything.size - nonzero.size
    expected = np.bincount((nonzero / histogram.width).astype(int), minlength=4096)
    np.testing.assert_array_equal(histogram.counts, expected)
    assert 2048 <= len(histogram.used) <= 4096
    reverse = filled(*reversed(arrays))
    np.testing.assert_array_equal(histogram.counts, reverse.counts)
    assert histogram.exponent == reverse.exponent


def test_percentile_is_the_quantile_of_the_magnitudes() -> None:
    values = activations(0)
    histogram = filled(values[:5000], values[5000:])
    magnitudes = np.abs(values).astype(np.float64)
    for percentile in (50.0, 99.0, 99.9, 99.99):
        found = histogram.threshold("percentile", percentile)
        rank = percentile / 100 * values.size
        # Exact up to the width of a bin.
        assert (magnitudes < found - histogram.width).sum() <= rank
        assert (magnitudes <= found + histogram.width).sum() >= rank
    assert histogram.threshold("percentile", 100.0) == pytest.approx(np.abs(values).max())


def true_squared_error(values: np.ndarray, threshold: float) -> float:
    step = threshold / 127
    x = values.astype(np.float64)
    return float(((np.clip(np.rint(x / step), -127, 127) * step - x) ** 2).mean())


@pytest.mark.parametrize("outliers", [0, 3, 200])
def test_mse_finds_the_least_squared_error(outliers: int) -> None:
    values = activations(1, outliers=outliers)
    largest = float(np.abs(values).max())
    found = filled(values).threshold("mse")
    best = min(true_squared_error(values, t) for t in np.linspace(largest / 500, largest, 500))
    assert true_squared_error(values, found) <= 1.03 * best


def test_mse_keeps_outliers_that_are_worth_their_price() -> None:
    values = activations(2)
    values[:20] = 300.0
    assert filled(values).threshold("mse") >= 0.9 * 300.0
    assert filled(values).threshold("percentile", 99.0) < 30.0


def migacz(counts: np.ndarray, width: float) -> float:
    """The algorithm of the slides, bin by bin."""
    best, chosen = math.inf, len(counts)
    for i in range(128, len(counts) + 1):
        reference = [float(c) for c in counts[:i]]
        reference[-1] += float(counts[i:].sum())
        quantised = [0.0] * i
        for level in range(128):
            start, stop = level * i // 128, (level + 1) * i // 128
            inside = [j for j in range(start, stop) if counts[j] > 0]
            for j in inside:
                quantised[j] = float(counts[start:stop].sum()) / len(inside)
        p_sum, q_sum = sum(reference), sum(quantised)
        divergence = 0.0
        for p, q in zip(reference, quantised, strict=True):
            if p > 0:
                divergence += (
                    math.inf if q == 0 else p / p_sum * math.log((p / p_sum) / (q / q_sum))
                )
        if divergence < best:
            best, chosen = divergence, i
    return chosen * width


def test_entropy_is_the_published_algorithm() -> None:
    values = activations(3, n=3000, outliers=4)
    histogram = filled(values)
    counts, width = histogram.used, histogram.width
    while len(counts) > 256:  # a loop over 2048 candidates in plain Python takes minutes
        counts = np.array([counts[i : i + 2].sum() for i in range(0, len(counts), 2)])
        width *= 2
    from edgeseg.calib.ranges import _least_divergence

    found = _least_divergence(counts, width)
    assert found == pytest.approx(migacz(counts, width))
    assert 0 < histogram.threshold("entropy") <= histogram.max_abs


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_positive_threshold_for_odd_data(method: str) -> None:
    assert filled(np.zeros((2, 3), np.float32)).threshold(method) > 0
    tiny = filled(np.full(5, 1e-40, np.float32)).threshold(method)
    assert 0 < tiny <= 2e-40 or tiny <= 2.0**-99  # narrower bins would not be normal numbers
    one = filled(np.array([0.0, 3.0], np.float32)).threshold(method)
    assert 2.9 <= one <= 3.0
    huge = filled(np.array([1.0, 3e38], np.float32)).threshold(method)
    assert 0 < huge <= 3.1e38


def test_sampling_keeps_the_maximum_and_the_distribution() -> None:
    values = activations(4, n=600_000)
    values[123_457] = 99.0
    sampled = filled(values, samples=1 << 16)
    whole = filled(values)
    assert sampled.max_abs == 99.0
    assert 50_000 <= sampled.counts.sum() <= 1 << 16
    assert sampled.threshold("percentile", 99.9) == pytest.approx(
        whole.threshold("percentile", 99.9), rel=0.05
    )


def test_a_tensor_whose_sample_is_all_zero_keeps_its_maximum() -> None:
    values = np.zeros(1000, np.float32)
    values[1] = 5.0
    histogram = filled(values, samples=10)
    assert all(histogram.threshold(method) == 5.0 for method in METHODS)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_name_their_tensor(bad: float) -> None:
    ranges = Ranges(("fine", "broken"))
    ok = np.ones(4, np.float32)
    with pytest.raises(CalibrationError, match=r"frame 1.*'broken'.*not finite"):
        ranges.add({"fine": ok, "broken": np.array([1.0, bad], np.float32)})


def test_thresholds_refuse_what_has_no_meaning() -> None:
    ranges = Ranges(("x",))
    with pytest.raises(CalibrationError, match="no frame"):
        ranges.thresholds("max")
    ranges.add({"x": np.ones(4, np.float32)})
    with pytest.raises(UsageError, match="median"):
        ranges.thresholds("median")
    for percentile in (0.0, 100.1, math.nan):
        with pytest.raises(UsageError, match="percentile"):
            ranges.thresholds("percentile", percentile)
    assert ranges.thresholds("max") == {"x": 1.0}
