"""Smoothing along z: against float64, against scipy, and slabs against the whole."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeseg import kernels
from edgeseg.errors import InputError
from edgeseg.kernels import _library, _smooth, reference_smooth

PATH = _library.find_library()
INSTRUCTION_SETS = _library.load_library(PATH).info().available
LIBRARIES = {name: _library.load_library(PATH, name) for name in INSTRUCTION_SETS}
any_isa = pytest.mark.parametrize("isa", INSTRUCTION_SETS)

TOLERANCE = 1e-5

sides = st.one_of(st.integers(1, 5), st.integers(1, 40))
depths = st.one_of(st.integers(1, 4), st.integers(1, 60))
sigmas = st.one_of(st.just(0.0), st.floats(0.05, 12.0))


def probabilities(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(shape).random(shape, dtype=np.float32)


def whole(result: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    assert result is not None
    return result


@given(
    channels=st.sampled_from([0, 1, 2, 5]),
    depth=depths,
    height=sides,
    width=sides,
    sigma=sigmas,
    threads=st.integers(1, 4),
)
@example(channels=0, depth=1, height=1, width=1, sigma=3.0, threads=1)
@example(channels=2, depth=3, height=7, width=5, sigma=9.0, threads=2)
@example(channels=0, depth=30, height=41, width=67, sigma=1.5, threads=3)
@example(channels=3, depth=9, height=64, width=65, sigma=0.8, threads=2)
@settings(max_examples=60, deadline=None)
def test_equals_the_float64_reference(
    channels: int, depth: int, height: int, width: int, sigma: float, threads: int
) -> None:
    lead = (channels,) if channels else ()
    volume = probabilities(*lead, depth, height, width)
    weights = kernels.gaussian_weights(sigma)
    expected = reference_smooth.smooth_z(volume, weights)
    classes = reference_smooth.mask_of(expected, 0.5)
    if channels > 1:
        ordered = np.sort(expected, axis=0)
        certain = ordered[-1] - ordered[-2] > 2 * TOLERANCE
    else:
        certain = np.abs(expected.reshape(classes.shape) - 0.5) > TOLERANCE
    for isa, native in LIBRARIES.items():
        got = kernels.smooth_z(volume, weights, mask=True, threads=threads, native=native)
        probability, mask = whole(got.probability), whole(got.mask)
        assert probability.dtype == np.float32
        assert probability.shape == volume.shape
        assert np.abs(probability - expected).max() <= TOLERANCE, isa
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask[certain], classes[certain], err_msg=isa)
        # The mask is that of the very values that are returned.
        decided = reference_smooth.mask_of(probability.astype(np.float64), 0.5)
        np.testing.assert_array_equal(mask, decided, err_msg=isa)


@given(depth=depths, height=sides, width=sides, sigma=sigmas, truncate=st.floats(0.5, 5.0))
@settings(max_examples=60, deadline=None)
def test_equals_scipy(depth: int, height: int, width: int, sigma: float, truncate: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    volume = probabilities(depth, height, width)
    weights = kernels.gaussian_weights(sigma, truncate)
    expected = volume.astype(np.float64)
    if sigma > 0.0:
        expected = ndimage.gaussian_filter1d(
            expected, sigma, axis=0, mode="nearest", truncate=truncate
        )
    for isa, native in LIBRARIES.items():
        got = whole(kernels.smooth_z(volume, weights, native=native).probability)
        assert np.abs(got - expected).max() <= TOLERANCE, isa


@given(sigma=st.floats(1e-200, 200.0), truncate=st.floats(0.0, 5.0))
@example(sigma=1.5, truncate=4.0)
@example(sigma=1e-200, truncate=4.0)
@example(sigma=0.9562724486674725, truncate=1.0)
@settings(max_examples=100, deadline=None)
def test_weights_are_those_of_scipy(sigma: float, truncate: float) -> None:
    filters = pytest.importorskip("scipy.ndimage._filters")
    radius = int(truncate * sigma + 0.5)
    weights = kernels.gaussian_weights(sigma, truncate)
    assert weights.shape == (radius + 1,)
    assert weights[0] + 2 * weights[1:].sum() == pytest.approx(1.0, abs=1e-14)
    if sigma > 1e-100:  # below, scipy gives NaN
        np.testing.assert_array_equal(
            weights, filters._gaussian_kernel1d(sigma, 0, radius)[radius:]
        )


def test_no_smoothing_is_one_weight() -> None:
    np.testing.assert_array_equal(kernels.gaussian_weights(0.0), [1.0])
    volume = probabilities(3, 4, 5)
    got = whole(kernels.smooth_z(volume, kernels.gaussian_weights(0.0)).probability)
    np.testing.assert_array_equal(got, volume)


@pytest.mark.parametrize(
    "arguments", [(-0.1,), (float("nan"),), (float("inf"),), (1.0, -1.0), (1.0, np.nan), (257.0,)]
)
def test_gaussians_that_are_none(arguments: tuple[float, ...]) -> None:
    with pytest.raises(InputError):
        kernels.gaussian_weights(*arguments)


@any_isa
@given(data=st.data(), depth=depths, channels=st.sampled_from([1, 3]), sigma=sigmas)
@settings(max_examples=30, deadline=None)
def test_slabs_equal_the_whole_bit_for_bit(
    isa: str, data: st.DataObject, depth: int, channels: int, sigma: float
) -> None:
    native = LIBRARIES[isa]
    volume = probabilities(channels, depth, 7, 13)
    weights = kernels.gaussian_weights(sigma)
    radius = len(weights) - 1
    expected = kernels.smooth_z(volume, weights, mask=True, native=native)
    first = data.draw(st.integers(0, depth - 1))
    count = data.draw(st.integers(1, depth - first))
    slab = kernels.smooth_z(
        volume, weights, first=first, count=count, mask=True, threads=2, native=native
    )
    wanted = slice(first, first + count)
    np.testing.assert_array_equal(whole(slab.probability), whole(expected.probability)[:, wanted])
    np.testing.assert_array_equal(whole(slab.mask), whole(expected.mask)[wanted])
    # A volume of its own that brings no more than its neighbours.
    start, stop = max(first - radius, 0), min(first + count + radius, depth)
    part = np.ascontiguousarray(volume[:, start:stop])
    alone = kernels.smooth_z(part, weights, first=first - start, count=count, native=native)
    np.testing.assert_array_equal(whole(alone.probability), whole(slab.probability))
    rest = kernels.smooth_z(volume, weights, first=first, native=native)
    np.testing.assert_array_equal(whole(rest.probability), whole(expected.probability)[:, first:])


@any_isa
@pytest.mark.parametrize("shape", [(9, 77, 131), (2, 40, 31, 33), (1, 5, 1, 1), (70, 1, 7)])
def test_any_number_of_threads_gives_the_same_bits(isa: str, shape: tuple[int, ...]) -> None:
    volume = probabilities(*shape)
    weights = kernels.gaussian_weights(1.5)
    alone = kernels.smooth_z(volume, weights, mask=True, native=LIBRARIES[isa])
    for threads in (2, 3, 7):
        shared = kernels.smooth_z(
            volume, weights, mask=True, threads=threads, native=LIBRARIES[isa]
        )
        np.testing.assert_array_equal(whole(shared.probability), whole(alone.probability))
        np.testing.assert_array_equal(whole(shared.mask), whole(alone.mask))


@any_isa
@pytest.mark.parametrize("shift", [0, 1, 15])
@pytest.mark.parametrize("plane", [(128, 128), (127, 129)])
def test_large_results_at_any_address(isa: str, shift: int, plane: tuple[int, int]) -> None:
    """Results of this size are written past the caches, in whole lines."""
    volume = probabilities(270, *plane)
    assert volume.nbytes > 16 * 2**20
    weights = kernels.gaussian_weights(0.4)
    space = np.full(volume.size + 64, 7.5, np.float32)
    out = space[shift : shift + volume.size].reshape(volume.shape)
    got = kernels.smooth_z(volume, weights, out=out, threads=2, native=LIBRARIES[isa])
    assert got.probability is out
    assert got.mask is None
    padded = np.pad(volume, ((1, 1), (0, 0), (0, 0)), mode="edge").astype(np.float64)
    # Two slices of each side at a time, since the float64 of all of it is large.
    for part in (slice(0, 3), slice(134, 137), slice(267, 270)):
        around = padded[part.start : part.stop + 2]
        expected = weights[0] * around[1:-1] + weights[1] * (around[:-2] + around[2:])
        assert np.abs(out[part] - expected).max() <= TOLERANCE
    np.testing.assert_array_equal(
        out, whole(kernels.smooth_z(volume, weights, mask=True, native=LIBRARIES[isa]).probability)
    )
    assert np.all(space[:shift] == 7.5)
    assert np.all(space[shift + volume.size :] == 7.5)


@any_isa
def test_voxels_that_are_not_finite(isa: str) -> None:
    volume = probabilities(2, 20, 6, 11)
    volume[0, 3, 2, 5] = np.nan
    volume[0, 4, 1, 1] = np.inf
    volume[1, 19, 5, 10] = -np.inf
    volume[1, 0] = np.nan
    weights = kernels.gaussian_weights(1.5)
    got = whole(kernels.smooth_z(volume, weights, native=LIBRARIES[isa]).probability)
    finite = np.where(np.isnan(volume), np.float32(0), np.clip(volume, -65504, 65504))
    expected = reference_smooth.smooth_z(finite, weights)
    assert np.all(np.abs(got - expected) <= TOLERANCE * np.maximum(1.0, np.abs(expected)))
    # Large but finite values stay as they are.
    huge = np.full((3, 1, 1), 1e30, np.float32)
    same = whole(kernels.smooth_z(huge, weights, native=LIBRARIES[isa]).probability)
    np.testing.assert_allclose(same, huge, rtol=1e-6)


@any_isa
def test_the_lower_channel_wins_a_tie_and_the_threshold_is_exclusive(isa: str) -> None:
    volume = np.zeros((4, 2, 3, 50), np.float32)
    volume[1] = volume[3] = 0.25
    got = kernels.smooth_z(volume, np.array([1.0]), mask=True, native=LIBRARIES[isa])
    assert np.all(whole(got.mask) == 1)
    level = np.full((2, 3, 50), 0.25, np.float32)
    for threshold, expected in ((0.25, 0), (0.2499, 1), (-1.0, 1), (np.inf, 0)):
        mask = kernels.smooth_z(
            level,
            np.array([1.0]),
            probability=False,
            mask=True,
            threshold=threshold,
            native=LIBRARIES[isa],
        ).mask
        assert np.all(whole(mask) == expected), threshold


@any_isa
def test_writes_into_what_it_is_given_and_nowhere_else(isa: str) -> None:
    volume = probabilities(3, 12, 9, 15)
    weights = kernels.gaussian_weights(1.0)
    size, voxels = 3 * 5 * 9 * 15, 5 * 9 * 15
    floats, bytes_ = np.full(size + 128, 7.5, np.float32), np.full(voxels + 128, 77, np.uint8)
    out = floats[64:-64].reshape(3, 5, 9, 15)
    mask = bytes_[64:-64].reshape(5, 9, 15)
    got = kernels.smooth_z(
        volume,
        weights,
        first=4,
        count=5,
        mask=True,
        out=out,
        mask_out=mask,
        threads=2,
        native=LIBRARIES[isa],
    )
    assert got.probability is out
    assert got.mask is mask
    expected = reference_smooth.smooth_z(volume, weights)[:, 4:9]
    assert np.abs(out - expected).max() <= TOLERANCE
    assert mask.max() < 3
    assert np.all(floats[:64] == 7.5)
    assert np.all(floats[-64:] == 7.5)
    assert np.all(bytes_[:64] == 77)
    assert np.all(bytes_[-64:] == 77)


def test_the_largest_radius() -> None:
    volume = probabilities(40, 2, 70)
    weights = np.full(_smooth.MAX_RADIUS + 1, 1.0 / (2 * _smooth.MAX_RADIUS + 1))
    expected = reference_smooth.smooth_z(volume, weights)
    for native in LIBRARIES.values():
        got = whole(kernels.smooth_z(volume, weights, native=native).probability)
        assert np.abs(got - expected).max() <= TOLERANCE


VOLUME = np.zeros((2, 5, 4, 3), np.float32)
UNALIGNED = np.zeros(4 * VOLUME.size + 4, np.uint8)[1:-3].view(np.float32).reshape(VOLUME.shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": VOLUME.astype(np.float64)}, "float32"),
        ({"volume": VOLUME[0, 0]}, r"\(4, 3\)"),
        ({"volume": VOLUME[:, :0]}, "not empty"),
        ({"volume": VOLUME[:, :, ::2]}, "C-contiguous"),
        ({"volume": UNALIGNED}, "aligned"),
        ({"volume": np.zeros((256, 1, 1, 1), np.float32)}, "255 channels"),
        ({"weights": np.zeros(0)}, r"\(0,\)"),
        ({"weights": np.zeros((2, 2))}, r"\(2, 2\)"),
        ({"weights": np.zeros(1026)}, "1026"),
        ({"weights": np.array([1, 2])}, "int"),
        ({"weights": np.array([0.5, np.nan])}, "finite"),
        ({"weights": np.array([1e300])}, "finite"),
        ({"first": -1}, "slices -1 to"),
        ({"first": 5}, "slices 5 to"),
        ({"first": 2, "count": 4}, "slices 2 to 6"),
        ({"count": 0}, "slices 0 to 0"),
        ({"threads": 0}, "threads"),
        ({"threads": 65}, "threads"),
        ({"probability": False}, "neither"),
        ({"volume": VOLUME[0], "mask": True, "threshold": float("nan")}, "threshold"),
        ({"volume": VOLUME[0], "mask": True, "threshold": None}, "threshold"),
        ({"out": np.zeros((2, 5, 4, 3))}, "out must be float32"),
        ({"out": np.zeros((5, 4, 3), np.float32)}, r"\(2, 5, 4, 3\)"),
        ({"out": np.zeros((2, 5, 4, 6), np.float32)[..., ::2]}, "C-contiguous"),
        ({"out": np.broadcast_to(np.float32(0), (2, 5, 4, 3))}, "writeable"),
        ({"out": UNALIGNED}, "aligned"),
        ({"out": VOLUME}, "overlap"),
        ({"out": np.zeros((2, 5, 4, 3), np.float32), "probability": False, "mask": True}, "given"),
        ({"mask": True, "mask_out": np.zeros((5, 4, 3), bool)}, "mask_out must be uint8"),
        ({"mask_out": np.zeros((5, 4, 3), np.uint8)}, "mask_out is given"),
    ],
)
def test_arguments_that_have_no_meaning(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"volume": VOLUME, "weights": np.array([0.5, 0.25]), **change}
    with pytest.raises(InputError, match=message):
        kernels.smooth_z(**arguments)


def test_several_channels_need_no_threshold() -> None:
    got = kernels.smooth_z(VOLUME, np.array([1.0]), mask=True, threshold=None)
    assert np.all(whole(got.mask) == 0)


def test_the_library_itself_refuses_bad_arguments() -> None:
    native = LIBRARIES["generic"]
    volume = np.zeros((1, 5, 4), np.float32)
    weights = np.ones(2, np.float32)
    out, mask = np.full((5, 4), 7.5, np.float32), np.full((5, 4), 77, np.uint8)
    level = ctypes.c_float(0.5)

    def call(**changes: Any) -> None:
        native.call(
            "edgeseg_smooth_z",
            _smooth._TYPES,
            changes.get("volume", volume.ctypes.data),
            changes.get("channels", 1),
            changes.get("depth", 5),
            changes.get("plane", 4),
            changes.get("weights", weights.ctypes.data),
            changes.get("radius", 1),
            changes.get("first", 0),
            changes.get("count", 5),
            changes.get("threshold", level),
            changes.get("threads", 1),
            changes.get("out", out.ctypes.data),
            changes.get("mask", mask.ctypes.data),
        )

    infinite = np.array([1, np.inf], np.float32)
    for bad in (
        {"volume": None},
        {"volume": volume.ctypes.data + 2},
        {"out": None, "mask": None},
        {"out": out.ctypes.data + 1},
        {"channels": 0},
        {"channels": 256},
        {"depth": 0},
        {"plane": 0},
        {"plane": 2**62},
        {"weights": None},
        {"weights": infinite.ctypes.data},
        {"radius": -1},
        {"radius": 1025},
        {"first": -1},
        {"first": 5},
        {"first": 2**31 - 1},
        {"count": 0},
        {"count": 6},
        {"count": 2**31 - 1},
        {"threshold": None},
        {"threshold": ctypes.c_float(float("nan"))},
        {"threads": 0},
        {"threads": 65},
    ):
        with pytest.raises(InputError, match="refused"):
            call(**bad)
        assert np.all(out == 7.5), bad
        assert np.all(mask == 77), bad
    call()
    assert np.all(out == 0.0)
    assert np.all(mask == 0)
