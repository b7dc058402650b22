"""``fuse_views`` against the float64 reference and torch, on every instruction set."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeseg.errors import InputError
from edgeseg.kernels import View, _fuse, _library, fuse_views, reference_fuse
from edgeseg.spec import FLIPS, WEIGHTINGS, Flip, Weighting

PATH = _library.find_library()
INSTRUCTION_SETS = _library.load_library(PATH).info().available
LIBRARIES = {name: _library.load_library(PATH, name) for name in INSTRUCTION_SETS}

TOLERANCE = 1e-5
UNDECIDED = 2e-5

any_isa = pytest.mark.parametrize("isa", INSTRUCTION_SETS)
any_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)
sides = st.one_of(st.integers(1, 5), st.integers(1, 40), st.integers(1, 150))
scales = st.sampled_from([30.0, 8.0, 1.0, 1e-2, 1e-4])


def noise(
    rng: np.random.Generator, shape: tuple[int, int, int], scale: float, dtype: Any = np.float32
) -> npt.NDArray[Any]:
    return rng.uniform(-scale, scale, shape).astype(dtype)


def assert_mask(
    mask: npt.NDArray[np.uint8],
    expected: npt.NDArray[np.float64],
    threshold: float,
    limit: float,
) -> None:
    """The mask is what the reference's probabilities say wherever they say it clearly."""
    if expected.ndim == 2:
        decided = np.abs(expected - threshold) > limit
        wanted = (expected > threshold).astype(np.uint8)
    else:
        highest = np.sort(expected, axis=0)
        decided = highest[-1] - highest[-2] > limit
        wanted = expected.argmax(axis=0).astype(np.uint8)
    np.testing.assert_array_equal(mask[decided], wanted[decided])
    if expected.ndim == 3:
        # Undecided pixels still name one of the largest.
        named = np.take_along_axis(expected, mask[np.newaxis].astype(np.intp), axis=0)[0]
        assert np.all(expected.max(axis=0) - named <= limit)


def assert_close(
    views: list[View],
    height: int,
    width: int,
    *,
    isas: tuple[str, ...] = INSTRUCTION_SETS,
    threads: int = 1,
    weighting: Weighting = "entropy",
    temperature: float = 1.0,
    threshold: float = 0.5,
) -> None:
    expected, _ = reference_fuse.fuse_views(
        views, height, width, weighting=weighting, temperature=temperature, threshold=threshold
    )
    for isa in isas:
        fused = fuse_views(
            views,
            height,
            width,
            weighting=weighting,
            temperature=temperature,
            threshold=threshold,
            threads=threads,
            native=LIBRARIES[isa],
        )
        error = np.abs(fused.probability - expected).max()
        assert error <= TOLERANCE, f"{isa}: {error}"
        assert_mask(fused.mask, expected, threshold, 2 * TOLERANCE)


@st.composite
def view_lists(draw: st.DrawFn) -> list[View]:
    channels = draw(st.sampled_from([1, 1, 1, 2, 3, 7]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(scales)
    shapes = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=9))
    return [
        View(
            noise(rng, (channels, *shape), scale, draw(st.sampled_from([np.float32, np.float16]))),
            draw(st.sampled_from(FLIPS)),
        )
        for shape in shapes
    ]


@given(
    views=view_lists(),
    height=sides,
    width=sides,
    weighting=st.sampled_from(WEIGHTINGS),
    temperature=st.sampled_from([0.05, 0.3, 1.0, 100.0]),
    threshold=st.one_of(st.just(0.5), st.floats(0.0, 1.0, width=32)),
    threads=st.integers(1, 3),
)
@settings(max_examples=120, deadline=None)
def test_equals_the_reference(
    views: list[View],
    height: int,
    width: int,
    weighting: Weighting,
    temperature: float,
    threshold: float,
    threads: int,
) -> None:
    assert_close(
        views,
        height,
        width,
        weighting=weighting,
        temperature=temperature,
        threshold=threshold,
        threads=threads,
    )


@any_weighting
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(
    ("size", "size_in"),
    [((90, 512), (16, 32)), ((37, 1100), (20, 70)), ((9, 600), (700, 1300)), ((1, 1), (9, 9))],
)
def test_equals_the_reference_at_sizes_with_several_strips(
    weighting: Weighting, channels: int, size: tuple[int, int], size_in: tuple[int, int]
) -> None:
    rng = np.random.default_rng((channels, *size))
    views = [View(noise(rng, (channels, *size_in), 6.0), flip) for flip in ("none", "h")]
    assert_close(views, *size, weighting=weighting, threads=2)


@any_weighting
def test_as_many_channels_and_views_as_there_may_be(weighting: Weighting) -> None:
    rng = np.random.default_rng(5)
    many = [View(noise(rng, (255, 3, 4), 9.0)) for _ in range(2)]
    assert_close(many, 11, 70, weighting=weighting)
    views = [View(noise(rng, (1, 2 + i % 3, 2 + i % 5), 9.0), FLIPS[i % 4]) for i in range(256)]
    assert_close(views, 23, 31, weighting=weighting, threads=2)


@any_isa
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1e-1, 1e-3, 1e-4, 1e-6])
def test_weights_near_the_uniform_distribution_are_not_rounding(
    isa: str, channels: int, scale: float
) -> None:
    # Views so near 1 / C that 1 - H / ln C is nothing but rounding error in float32: what counts
    # is how far the fused logits lie from those of the reference, in units of the views' logits.
    rng = np.random.default_rng(7)
    views = [View(noise(rng, (channels, 8, 8), s)) for s in (scale, scale / 3, scale / 10)]
    expected, _ = reference_fuse.fuse_views(views, 40, 40)
    fused = fuse_views(views, 40, 40, native=LIBRARIES[isa])
    assert np.abs(fused.probability - expected).max() <= max(1e-2 * scale, 3e-7)


@any_isa
@any_weighting
@pytest.mark.parametrize("channels", [1, 4])
def test_saturated_and_uniform_views(isa: str, weighting: Weighting, channels: int) -> None:
    rng = np.random.default_rng(8)
    shape = (channels, 6, 7)
    certain = np.where(rng.random(shape) < 0.5, -1000.0, 1000.0).astype(np.float32)
    extreme = np.where(rng.random(shape) < 0.5, -3e38, 3e38).astype(np.float32)
    views = [View(certain), View(np.zeros(shape, np.float32)), View(extreme)]
    assert_close(views, 6, 7, isas=(isa,), weighting=weighting)
    assert_close(views[:2], 6, 7, isas=(isa,), weighting=weighting)


@any_isa
@pytest.mark.parametrize("channels", [1, 3])
def test_plain_mean_where_all_weights_vanish(isa: str, channels: int) -> None:
    views = [View(np.zeros((channels, 3, 3), np.float32)) for _ in range(4)]
    fused = fuse_views(views, 20, 21, native=LIBRARIES[isa])
    wanted = 0.5 if channels == 1 else 1.0 / channels
    np.testing.assert_allclose(fused.probability, wanted, rtol=0, atol=1e-7)
    assert not fused.mask.any()


@any_isa
def test_a_cold_temperature_takes_the_surest_view(isa: str) -> None:
    # exp(-H / T) itself is 0 in float32 and float64 for both views.
    views = [View(np.full((1, 2, 2), logit, np.float32)) for logit in (0.5, -1.0)]
    fused = fuse_views(
        views, 5, 5, weighting="exp", temperature=1e-4, native=LIBRARIES[isa]
    ).probability
    np.testing.assert_allclose(fused, 1.0 / (1.0 + math.e), rtol=0, atol=1e-6)
    tiny = fuse_views(views, 5, 5, weighting="exp", temperature=1e-42, native=LIBRARIES[isa])
    np.testing.assert_array_equal(tiny.probability, fused)


@any_isa
@pytest.mark.parametrize("shape", [(1, 16, 24), (1, 90, 70), (5, 24, 16), (3, 64, 64)])
def test_one_view_is_interpolation_and_activation(isa: str, shape: tuple[int, int, int]) -> None:
    torch = pytest.importorskip("torch")
    logits = noise(np.random.default_rng(shape), shape, 6.0)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None].double(), (64, 48), mode="bilinear", align_corners=False
    )[0]
    expected = resized.sigmoid()[0] if shape[0] == 1 else resized.softmax(0)
    for weighting in WEIGHTINGS:
        fused = fuse_views([View(logits)], 64, 48, weighting=weighting, native=LIBRARIES[isa])
        np.testing.assert_allclose(fused.probability, expected.numpy(), rtol=0, atol=2e-6)


@any_isa
@pytest.mark.parametrize("size", [(31, 45), (7, 12), (64, 33)])
@pytest.mark.parametrize("channels", [1, 2])
def test_mirrored_logits_give_mirrored_probabilities(
    isa: str, size: tuple[int, int], channels: int
) -> None:
    logits = noise(np.random.default_rng(3), (channels, 13, 10), 4.0)
    plain = fuse_views([View(logits)], *size, native=LIBRARIES[isa]).probability
    turns: dict[Flip, tuple[slice, ...]] = {
        "h": (slice(None), slice(None, None, -1)),
        "v": (slice(None, None, -1), slice(None)),
        "hv": (slice(None, None, -1), slice(None, None, -1)),
    }
    for flip, turn in turns.items():
        mirrored = logits[(slice(None),) + turn]  # noqa: RUF005
        for array in (mirrored, np.ascontiguousarray(mirrored)):
            got = fuse_views([View(array, flip)], *size, native=LIBRARIES[isa]).probability
            np.testing.assert_array_equal(got, plain, err_msg=flip)


def spoilt_pixels(view: View, height: int, width: int) -> npt.NDArray[np.bool_]:
    spoilt: npt.NDArray[np.bool_] = np.isnan(reference_fuse.resample(view, height, width)).max(
        axis=0
    )
    return spoilt


@given(
    channels=st.sampled_from([1, 3]),
    size_in=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 80)),
    flip=st.sampled_from(FLIPS),
    weighting=st.sampled_from(WEIGHTINGS),
    half=st.booleans(),
    seed=st.integers(0, 999),
)
@example(channels=1, size_in=(8, 8), size=(8, 8), flip="h", weighting="entropy", half=False, seed=0)
@example(channels=3, size_in=(8, 8), size=(24, 24), flip="v", weighting="exp", half=True, seed=1)
@settings(max_examples=60, deadline=None)
def test_nan_leaves_its_view_out_and_touches_nothing_else(
    channels: int,
    size_in: tuple[int, int],
    size: tuple[int, int],
    flip: Flip,
    weighting: Weighting,
    half: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    sound = [View(noise(rng, (channels, 5, 4), 3.0)), View(noise(rng, (channels, 9, 9), 3.0), "v")]
    clean = noise(rng, (channels, *size_in), 3.0, np.float16 if half else np.float32)
    broken = clean.copy()
    broken[rng.integers(channels), rng.integers(size_in[0]), rng.integers(size_in[1])] = np.nan
    spoilt = spoilt_pixels(View(broken, flip), *size)
    for isa, native in LIBRARIES.items():

        def fuse(*views: View, native: Any = native) -> npt.NDArray[np.float32]:
            return fuse_views(views, *size, weighting=weighting, native=native).probability

        got = fuse(sound[0], View(broken, flip), sound[1])
        whole = fuse(sound[0], View(clean, flip), sound[1])
        without = fuse(*sound)
        np.testing.assert_array_equal(got[..., ~spoilt], whole[..., ~spoilt], err_msg=isa)
        np.testing.assert_array_equal(got[..., spoilt], without[..., spoilt], err_msg=isa)
        alone = fuse_views([View(broken, flip)], *size, weighting=weighting, native=native)
        background = alone.probability if channels == 1 else 1.0 - alone.probability[0]
        assert np.all(background[spoilt] == 0.0), isa
        assert not alone.mask[spoilt].any()
        assert np.isfinite(alone.probability).all()


@any_isa
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("channels", [1, 4])
def test_infinite_logits_count_as_the_largest_of_float16(
    isa: str, dtype: Any, channels: int
) -> None:
    rng = np.random.default_rng(11)
    logits = noise(rng, (channels, 9, 11), 5.0, dtype)
    places = rng.random(logits.shape)
    infinite, finite = logits.copy(), logits.copy()
    for low, value in ((0.0, np.inf), (0.1, -np.inf)):
        chosen = (places >= low) & (places < low + 0.1)
        infinite[chosen] = value
        finite[chosen] = math.copysign(65504.0, value)
    other = View(noise(rng, (channels, 7, 7), 2.0))
    got = fuse_views([View(infinite), other], 40, 50, native=LIBRARIES[isa])
    same = fuse_views([View(finite), other], 40, 50, native=LIBRARIES[isa])
    np.testing.assert_array_equal(got.probability, same.probability)
    expected, _ = reference_fuse.fuse_views([View(infinite), other], 40, 50)
    # Two large logits that differ little have no fraction left in float32.
    large = np.abs(reference_fuse.resample(View(infinite), 40, 50)) > 100.0
    clear = large.sum(axis=0) <= 1
    assert np.abs(got.probability - expected)[..., clear].max() <= TOLERANCE
    assert np.count_nonzero(clear & large.any(axis=0)) > 100


@any_isa
def test_every_float16_is_read_right(isa: str) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(1, 256, 256)
    single = halves.astype(np.float32)
    got = fuse_views([View(halves)], 256, 256, weighting="mean", native=LIBRARIES[isa])
    same = fuse_views([View(single)], 256, 256, weighting="mean", native=LIBRARIES[isa])
    np.testing.assert_array_equal(got.probability, same.probability)
    nan = np.isnan(single[0])
    expected = 1.0 / (
        1.0 + np.exp(-np.clip(np.where(nan, 0, single[0]).astype(np.float64), -700, 700))
    )
    np.testing.assert_allclose(got.probability[~nan], expected[~nan], rtol=0, atol=1e-6)
    assert np.all(got.probability[nan] == 0.0)


@any_isa
@pytest.mark.parametrize("channels", [1, 3])
def test_smoothing_over_time_is_the_recursion(isa: str, channels: int) -> None:
    rng = np.random.default_rng(13)
    height, width = 30, 41
    whole = (channels, height, width)
    state = np.full(whole, np.nan, np.float32)
    exact = np.zeros(whole)
    for step, keep in enumerate((0.9, 0.9, 0.25, 0.0, 0.999)):
        views = [View(noise(rng, (channels, 6, 8), 4.0), flip) for flip in ("none", "h")]
        arguments: dict[str, Any] = {"keep": keep, "reset": step == 0, "threshold": 0.4}
        expected, _ = reference_fuse.fuse_views(views, height, width, state=exact, **arguments)
        fused = fuse_views(
            views, height, width, state=state, threads=2, native=LIBRARIES[isa], **arguments
        )
        assert np.abs(fused.probability - expected).max() <= TOLERANCE
        np.testing.assert_array_equal(fused.probability.reshape(whole), state)
        assert_mask(fused.mask, expected, 0.4, UNDECIDED)


@any_isa
@pytest.mark.parametrize("channels", [1, 3])
def test_a_reset_or_a_broken_state_starts_anew_where_it_is(isa: str, channels: int) -> None:
    rng = np.random.default_rng(17)
    views = [View(noise(rng, (channels, 5, 5), 4.0))]
    native = LIBRARIES[isa]
    fresh = fuse_views(views, 20, 30, native=native).probability.reshape(channels, 20, 30)
    before = rng.random((channels, 20, 30)).astype(np.float32)
    smoothed = before.copy()
    fuse_views(views, 20, 30, keep=0.7, state=smoothed, native=native)
    assert np.abs(smoothed - (0.7 * before + 0.3 * fresh)).max() <= 1e-6

    forgotten = before.copy()
    fuse_views(views, 20, 30, keep=0.7, reset=True, state=forgotten, native=native)
    np.testing.assert_array_equal(forgotten, fresh)

    state = before.copy()
    broken = np.zeros((20, 30), bool)
    for value, (y, x) in zip((np.nan, np.inf, -np.inf), ((0, 0), (7, 29), (19, 16)), strict=True):
        state[rng.integers(channels), y, x] = value
        broken[y, x] = True
    fuse_views(views, 20, 30, keep=0.7, state=state, native=native)
    np.testing.assert_array_equal(state, np.where(broken, fresh, smoothed))


@any_isa
@any_weighting
@pytest.mark.parametrize("channels", [1, 3])
def test_threads_and_earlier_calls_change_no_bit(
    isa: str, weighting: Weighting, channels: int
) -> None:
    rng = np.random.default_rng(19)
    views = [
        View(noise(rng, (channels, 9, 12), 5.0)),
        View(noise(rng, (channels, 14, 17), 5.0), "hv"),
    ]
    native = _library.load_library(PATH, isa)
    first = fuse_views(views, 90, 130, weighting=weighting, native=native)
    for threads, size in ((2, (90, 130)), (3, (200, 17)), (7, (90, 130)), (1, (90, 130))):
        if size != (90, 130):
            fuse_views(views, *size, weighting=weighting, threads=threads, native=native)
            continue
        again = fuse_views(views, *size, weighting=weighting, threads=threads, native=native)
        np.testing.assert_array_equal(again.probability, first.probability)
        np.testing.assert_array_equal(again.mask, first.mask)


def test_more_sizes_than_are_remembered() -> None:
    rng = np.random.default_rng(23)
    views = [View(noise(rng, (1, 2 + i, 50 - i), 5.0)) for i in range(45)]
    assert_close(views, 30, 31)
    for size in range(20, 26):
        assert_close(views[size : size + 2], size, size)
    assert_close(views, 30, 31)


@pytest.mark.parametrize("channels", [1, 2])
def test_results_go_where_they_are_wanted(channels: int) -> None:
    rng = np.random.default_rng(29)
    views = [View(noise(rng, (channels, 4, 4), 3.0))]
    plane = (12, 10)
    shape = plane if channels == 1 else (channels, *plane)
    wanted = fuse_views(views, *plane)
    assert wanted.probability.shape == shape and wanted.mask.shape == plane
    probability = np.empty(shape, np.float32)
    mask = np.full(plane, 9, np.uint8)
    fused = fuse_views(views, *plane, probability=probability, mask=mask)
    assert fused.probability is probability and fused.mask is mask
    np.testing.assert_array_equal(probability, wanted.probability)
    np.testing.assert_array_equal(mask, wanted.mask)

    # The state may be what is wanted.
    before = rng.random(shape).astype(np.float32)
    state, shared = before.copy(), before.copy()
    separate = fuse_views(views, *plane, keep=0.5, state=state).probability
    fuse_views(views, *plane, keep=0.5, state=shared, probability=shared)
    np.testing.assert_array_equal(shared, separate)
    np.testing.assert_array_equal(shared, state)


def test_nothing_is_written_beyond_the_results() -> None:
    rng = np.random.default_rng(31)
    views = [View(noise(rng, (2, 4, 4), 3.0))]
    for width in (1, 15, 63, 64, 65, 130):
        probability = np.full(2 * 5 * width + 64, 7.0, np.float32)
        mask = np.full(5 * width + 64, 7, np.uint8)
        fuse_views(
            views,
            5,
            width,
            probability=probability[: 2 * 5 * width].reshape(2, 5, width),
            mask=mask[: 5 * width].reshape(5, width),
        )
        assert np.all(probability[2 * 5 * width :] == 7.0)
        assert np.all(mask[5 * width :] == 7)


def test_the_lower_class_wins_a_tie() -> None:
    logits = np.zeros((4, 3, 3), np.float32)
    logits[0] = -1.0
    assert np.all(fuse_views([View(logits)], 8, 8).mask == 1)


ONE: Any = np.zeros((1, 4, 4), np.float32)
BACKWARDS: Any = "vh"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": []}, "1 to 256 views"),
        ({"views": [View(ONE)] * 257}, "1 to 256 views"),
        ({"views": [View(ONE), View(np.zeros((3, 4, 4), np.float32))]}, "view 0 has 1 .* view 1"),
        ({"views": [View(ONE[0])]}, r"\(C, h, w\)"),
        ({"views": [View(ONE.tolist())]}, "list"),
        ({"views": [View(ONE.astype(np.float64))]}, "float64"),
        ({"views": [View(ONE.astype(">f4"))]}, "float32 or float16"),
        ({"views": [View(np.zeros((1, 0, 4), np.float32))]}, "0x4"),
        ({"views": [View(np.zeros((0, 4, 4), np.float32))]}, "0 channels"),
        ({"views": [View(np.zeros((256, 1, 1), np.float32))]}, "256 channels"),
        ({"views": [View(ONE, BACKWARDS)]}, "'vh'"),
        ({"height_px": 0}, "0x8"),
        ({"width_px": 65536}, "65536"),
        ({"weighting": "median"}, "'median'"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": 1e-60}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"keep": 1.0, "state": np.zeros((8, 8), np.float32)}, "keep"),
        ({"keep": 0.999999999, "state": np.zeros((8, 8), np.float32)}, "keep"),
        ({"keep": -0.1}, "keep"),
        ({"keep": math.nan}, "keep"),
        ({"keep": 0.5}, "needs a state"),
        ({"threads": 0}, "threads"),
        ({"threads": 65}, "threads"),
        ({"state": np.zeros((8, 9), np.float32)}, r"\(8, 8\) or \(1, 8, 8\)"),
        ({"state": np.zeros((8, 8))}, "float32"),
        ({"probability": np.zeros((1, 8, 8), np.float32)}, r"\(8, 8\)"),
        ({"probability": np.zeros((8, 16), np.float32)[:, ::2]}, "C-contiguous"),
        ({"mask": np.zeros((8, 8), bool)}, "uint8"),
        ({"mask": np.frombuffer(bytes(64), np.uint8).reshape(8, 8)}, "writeable"),
    ],
)
def test_arguments_that_cannot_be(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"views": [View(ONE)], "height_px": 8, "width_px": 8, **change}
    with pytest.raises(InputError, match=message):
        fuse_views(**arguments)


def raw_call(**change: Any) -> None:
    """The C function itself, which checks again."""
    logits = np.zeros((1, 4, 4), np.float32)
    out = np.zeros((8, 8), np.float32)
    view = {"logits": logits.ctypes.data, "width": 4, "height": 4, "dtype": 0, "flips": 0}
    fusion = {"weighting": 0, "temperature": 1.0, "threshold": 0.5, "keep": 0.0, "reset": 0}
    call = {"count": 1, "channels": 1, "width": 8, "height": 8, "threads": 1}
    for group in (view, fusion, call):
        for name in group:
            group[name] = change.pop(f"call_{name}" if group is call else name, group[name])
    described = _fuse._View(**view)
    settings_ = _fuse._Fusion(**fusion)
    _library.library().call(
        "edgeseg_fuse_views",
        _fuse._TYPES,
        change.get("views", ctypes.addressof(described)),
        call["count"],
        call["channels"],
        call["width"],
        call["height"],
        change.get("fusion", ctypes.addressof(settings_)),
        call["threads"],
        None,
        out.ctypes.data,
        None,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"views": None},
        {"fusion": None},
        {"logits": None},
        {"width": 0},
        {"height": 65536},
        {"dtype": 2},
        {"flips": 4},
        {"flips": -1},
        {"weighting": 3},
        {"weighting": -1},
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"threshold": math.nan},
        {"threshold": 1.5},
        {"keep": 1.0},
        {"keep": math.nan},
        {"call_count": 0},
        {"call_count": 257},
        {"call_channels": 0},
        {"call_channels": 256},
        {"call_width": 0},
        {"call_height": 65536},
        {"call_threads": 0},
        {"call_threads": 65},
    ],
)
def test_the_library_refuses_what_it_cannot_do(change: dict[str, Any]) -> None:
    raw_call()
    with pytest.raises(InputError, match="refused"):
        raw_call(**change)


def test_long_axes_keep_their_positions() -> None:
    # In float32, positions of so many pixels would be off by hundredths of a pixel.
    length = 65535
    ramp = np.where(np.arange(length) % 2 == 0, 4.0, -4.0).astype(np.float32)
    views = [View(ramp.reshape(1, 1, length))]
    position = np.maximum((np.arange(length - 1) + 0.5) * (length / (length - 1)) - 0.5, 0.0)
    logits = np.interp(position, np.arange(length), ramp.astype(np.float64))
    fused = fuse_views(views, 1, length - 1, weighting="mean").probability[0]
    assert np.abs(fused - 1.0 / (1.0 + np.exp(-logits))).max() <= 2e-6
    upright = [View(ramp.reshape(1, length, 1), "v")]
    turned = fuse_views(upright, length - 1, 1, weighting="mean").probability[::-1, 0]
    assert np.abs(turned - 1.0 / (1.0 + np.exp(-logits))).max() <= 2e-6


def test_the_reference_follows_the_formulas() -> None:
    """Written out for two views of one pixel."""
    logits = (2.0, -0.5)
    views = [View(np.full((1, 1, 1), x, np.float32)) for x in logits]
    p = [1.0 / (1.0 + math.exp(-x)) for x in logits]
    entropy = [-(q * math.log(q) + (1 - q) * math.log(1 - q)) for q in p]
    weights: dict[Weighting, Callable[[float], float]] = {
        "entropy": lambda h: 1.0 - h / math.log(2.0),
        "exp": lambda h: math.exp(-h / 0.3),
        "mean": lambda h: 1.0,
    }
    for weighting, weight in weights.items():
        w = [weight(h) for h in entropy]
        expected = (w[0] * p[0] + w[1] * p[1]) / (w[0] + w[1])
        got, mask = reference_fuse.fuse_views(
            views, 1, 1, weighting=weighting, temperature=0.3, threshold=expected - 1e-9
        )
        assert got[0, 0] == pytest.approx(expected, abs=1e-12)
        assert mask[0, 0] == 1
