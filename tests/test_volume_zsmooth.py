"""Smoothing across slices: against scipy, in slabs of any size, and in millimetres."""

from __future__ import annotations

import math
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from edgeseg.errors import BackendError, InputError, UsageError
from edgeseg.spec import ZSmoothingSpec
from edgeseg.volume.segmenting import segment_slices
from edgeseg.volume.zsmooth import SlabSmoother, sigma_in_slices


def masks_of(volume: np.ndarray, sigma: float, **options: object) -> np.ndarray:
    """Masks of probabilities (depth, [C,] H, W), pushed slice by slice."""
    smoother = SlabSmoother(len(volume), sigma, **options)
    masks = np.full((len(volume), *volume.shape[-2:]), 255, np.uint8)
    written = 0
    for plane in volume:
        ready = smoother.push(plane)
        if ready is not None:
            first, some = ready
            assert first == written
            masks[first : first + len(some)] = some
            written += len(some)
    assert written == len(volume)
    return masks


def smoothed_by_scipy(volume: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter1d(
        volume.astype(np.float64), sigma, axis=0, mode="nearest", truncate=4.0
    )


@settings(max_examples=60, deadline=None)
@given(
    depth=st.integers(1, 60),
    sigma=st.floats(0.05, 12.0),
    slab=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_one_class_is_as_scipy_says_whatever_the_slab(depth, sigma, slab, seed):
    rng = np.random.default_rng(seed)
    volume = rng.random((depth, 5, 7), np.float32)
    threshold = float(rng.uniform(0.3, 0.7))
    masks = masks_of(volume, sigma, threshold=threshold, slab=slab)
    np.testing.assert_array_equal(masks, masks_of(volume, sigma, threshold=threshold, slab=depth))
    expected = smoothed_by_scipy(volume, sigma)
    clear = np.abs(expected - threshold) > 1e-5
    np.testing.assert_array_equal(masks[clear], (expected > threshold)[clear])


@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(1, 40),
    channels=st.integers(2, 5),
    sigma=st.floats(0.05, 6.0),
    slab=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_several_classes_compete_after_smoothing(depth, channels, sigma, slab, seed):
    rng = np.random.default_rng(seed)
    volume = rng.dirichlet(np.ones(channels), (depth, 4, 5)).astype(np.float32)
    volume = np.ascontiguousarray(np.moveaxis(volume, -1, 1))
    masks = masks_of(volume, sigma, slab=slab)
    np.testing.assert_array_equal(masks, masks_of(volume, sigma, slab=depth))
    expected = smoothed_by_scipy(volume, sigma)
    second, first = np.sort(expected, axis=1)[:, -2:].transpose(1, 0, 2, 3)
    clear = first - second > 1e-5
    np.testing.assert_array_equal(masks[clear], expected.argmax(axis=1)[clear])


def test_slices_that_do_not_fit_are_refused():
    smoother = SlabSmoother(2, 1.0, threshold=0.5)
    plane = np.zeros((4, 5), np.float32)
    smoother.push(plane)
    with pytest.raises(InputError, match="differ in shape"):
        smoother.push(plane[:3])
    smoother.push(plane)
    with pytest.raises(InputError, match="2 slices"):
        smoother.push(plane)


def test_millimetres_become_slices_by_the_spacing():
    assert sigma_in_slices(None, 20, 3.0) == 0.0
    assert sigma_in_slices(ZSmoothingSpec(0.0, "mm"), 20, 3.0) == 0.0
    assert sigma_in_slices(ZSmoothingSpec(1.5, "slices"), 20, 3.0) == 1.5
    assert sigma_in_slices(ZSmoothingSpec(6.0, "mm"), 20, 3.0) == pytest.approx(2.0)
    assert sigma_in_slices(ZSmoothingSpec(60.0, "mm"), 20, 3.0) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ZSmoothingSpec(61.0, "mm"), r"20\.33 slices \(61 mm\).*20 slices \(60 mm\)"),
        (ZSmoothingSpec(20.5, "slices"), r"20\.5 slices \(61\.5 mm\)"),
    ],
)
def test_a_sigma_larger_than_the_volume_is_refused(spec, message):
    with pytest.raises(UsageError, match=message):
        sigma_in_slices(spec, 20, 3.0)


def test_a_sigma_beyond_the_kernels_reach_is_refused():
    assert sigma_in_slices(ZSmoothingSpec(255.0, "slices"), 2000, 1.0) == 255.0
    SlabSmoother(2000, 255.0, threshold=0.5)
    with pytest.raises(UsageError, match="more than the largest"):
        sigma_in_slices(ZSmoothingSpec(256.0, "slices"), 2000, 1.0)


class GreyIsProbability:
    """Stands in for a model: a pixel's level of grey is its probability."""

    def __init__(self, bad: float | None = None) -> None:
        self._bad = bad

    def preprocess(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        assert frame.shape[2] == 3
        assert (frame == frame[..., :1]).all()
        return {"image": frame}

    def infer(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        logits = tensors["image"][..., 0].astype(np.float32) / np.float32(255.0)
        if self._bad is not None:
            logits[0, 0] = self._bad
        return {"logits": logits}

    def read_out(self, outputs, frame_hw_px, *, threshold=None):
        probability = outputs["logits"]
        assert probability.shape == tuple(frame_hw_px)
        mask = (probability > (0.5 if threshold is None else threshold)).astype(np.uint8)
        return SimpleNamespace(probability=probability, mask=mask)


def test_slices_keep_their_order_through_parallel_workers():
    rng = np.random.default_rng(0)
    slices = rng.integers(0, 256, (50, 9, 8), dtype=np.uint8)
    calls = []
    masks, report = segment_slices(
        GreyIsProbability(),
        slices,
        threshold=0.4,
        parallel=4,
        progress=lambda *step: calls.append(step),
    )
    np.testing.assert_array_equal(masks, slices > 0.4 * 255)
    assert report.frames == 50
    assert calls == [("segment", done, 50) for done in range(1, 51)]


def test_smoothed_slices_are_those_of_the_whole_volume():
    rng = np.random.default_rng(1)
    slices = rng.integers(0, 256, (40, 6, 7), dtype=np.uint8)
    masks, _ = segment_slices(
        GreyIsProbability(), slices, sigma_slices=1.5, smoothed_threshold=0.5, parallel=3
    )
    expected = smoothed_by_scipy(slices / 255.0, 1.5)
    clear = np.abs(expected - 0.5) > 1e-5
    np.testing.assert_array_equal(masks[clear], (expected > 0.5)[clear])


@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_answers_that_are_not_finite_are_no_background(sigma, bad):
    slices = np.zeros((12, 4, 4), np.uint8)
    with pytest.raises(BackendError, match=r"not finite.*fp16-safe"):
        segment_slices(GreyIsProbability(bad), slices, sigma_slices=sigma, smoothed_threshold=0.5)


def test_memory_does_not_grow_with_the_number_of_slices():
    def peak_bytes(count: int) -> int:
        slices = np.zeros((count, 64, 64), np.uint8)
        tracemalloc.start()
        segment_slices(GreyIsProbability(), slices, sigma_slices=2.0, smoothed_threshold=0.5)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - slices.nbytes  # the masks

    peak_bytes(40)
    short, long = peak_bytes(40), peak_bytes(400)
    # As float32 the additional slices would take 360 * 64 * 64 * 4 bytes.
    assert long - short < 0.05 * 360 * 64 * 64 * 4


THRESHOLD = 0.2
COLUMNS = 400


def profile(spacing_mm: float, sigma: ZSmoothingSpec) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed probability of a slab of tissue 24 mm thick in 120 mm, along z.

    The threshold hides them; so they are dimmed along the columns, and the last column that passes
    tells.

    Returns:
        Centres of the slices in mm, and the probabilities there.
    """
    count = round(120.0 / spacing_mm)
    centres = (np.arange(count) + 0.5) * spacing_mm
    # The share of each slice that lies within the tissue, as thick slices average.
    low, high = centres - 0.5 * spacing_mm, centres + 0.5 * spacing_mm
    inside = np.clip(np.minimum(high, 72.0) - np.maximum(low, 48.0), 0.0, None) / spacing_mm
    dim = np.linspace(1.0, 0.0, COLUMNS)
    slices = np.rint(255.0 * inside[:, None, None] * dim).astype(np.uint8).repeat(2, axis=1)
    masks, _ = segment_slices(
        GreyIsProbability(),
        slices,
        sigma_slices=sigma_in_slices(sigma, count, spacing_mm),
        smoothed_threshold=THRESHOLD,
    )
    passing = masks[:, 0].sum(axis=1)
    # Column c is dimmed to 1 - c / (COLUMNS - 1).
    return centres, np.where(passing > 0, THRESHOLD / (1.0 - (passing - 0.5) / COLUMNS), 0.0)


def test_thick_and_thin_slices_are_smoothed_over_the_same_distance():
    spec = ZSmoothingSpec(6.0, "mm")
    thin_mm, thin = profile(1.0, spec)
    thick_mm, thick = profile(4.0, spec)

    def analytic(z_mm: np.ndarray) -> np.ndarray:
        edge = np.vectorize(lambda z: 0.5 * (1.0 + math.erf(z / (6.0 * math.sqrt(2.0)))))
        return edge(z_mm - 48.0) - edge(z_mm - 72.0)

    # Where the profile is below the threshold nothing is seen; 1/255 and a column are resolved.
    for z_mm, found in ((thin_mm, thin), (thick_mm, thick)):
        expected = analytic(z_mm)
        seen = expected > THRESHOLD + 0.05
        assert seen.sum() >= 8
        assert np.abs(found[seen] - expected[seen]).max() <= 0.03
    averaged = thin.reshape(-1, 4).mean(axis=1)
    seen = thick > THRESHOLD + 0.05
    assert np.abs(averaged[seen] - thick[seen]).max() <= 0.03
    # The same number of slices instead is another distance: the test can tell.
    _, in_slices = profile(4.0, ZSmoothingSpec(6.0, "slices"))
    assert np.abs(in_slices[seen] - thick[seen]).max() > 0.3
