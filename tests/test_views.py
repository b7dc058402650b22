"""Several sizes and mirrorings of one frame: the single resize and numpy's flips, bit for bit."""

from __future__ import annotations

import ctypes
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeseg import kernels
from edgeseg.errors import InputError
from edgeseg.kernels import _library, _views, reference
from edgeseg.preprocess import Preprocessor
from edgeseg.spec import Flip, PreprocessSpec, RoiSpec, ViewSpec

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
ALL_FLIPS: tuple[Flip, ...] = get_args(Flip)
AXES = {"none": (), "h": (3,), "v": (2,), "hv": (2, 3)}

PATH = _library.find_library()
INSTRUCTION_SETS = _library.load_library(PATH).info().available
LIBRARIES = {name: _library.load_library(PATH, name) for name in INSTRUCTION_SETS}

sides = st.one_of(st.integers(1, 8), st.integers(1, 70), st.integers(1, 300))
flips = st.lists(st.sampled_from(ALL_FLIPS[1:]), unique=True).map(lambda more: ("none", *more))
view_lists = st.lists(st.builds(ViewSpec, sides, sides, flips), min_size=1, max_size=3)


def picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng((height, width))
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def singly(
    frame: npt.NDArray[np.uint8], view: ViewSpec, resample: Any, roi: RoiSpec | None = None
) -> npt.NDArray[np.float32]:
    """The copies of one view from the single resize."""
    plain = kernels.resize_normalize(
        frame, view.height_px, view.width_px, resample=resample, mean=MEAN, std=STD, roi=roi
    )
    return np.concatenate([np.flip(plain, AXES[flip]) for flip in view.flips])


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@given(height=sides, width=sides, views=view_lists, threads=st.integers(1, 4), data=st.data())
@settings(max_examples=60, deadline=None)
def test_equals_the_single_resize_and_flips(
    resample: Any,
    height: int,
    width: int,
    views: list[ViewSpec],
    threads: int,
    data: st.DataObject,
) -> None:
    frame = picture(height, width)
    roi = None
    if data.draw(st.booleans()):
        x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        roi = RoiSpec(
            x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
        )
    expected = [singly(frame, view, resample, roi) for view in views]
    for isa, native in LIBRARIES.items():
        results = kernels.resize_normalize_views(
            frame,
            views,
            resample=resample,
            mean=MEAN,
            std=STD,
            roi=roi,
            threads=threads,
            native=native,
        )
        for view, got, wanted in zip(views, results, expected, strict=True):
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, wanted, err_msg=f"{isa} {view}", strict=True)


@given(height=sides, width=sides, view=st.builds(ViewSpec, sides, sides))
@example(height=300, width=40, view=ViewSpec(20, 37))
@example(height=301, width=1, view=ViewSpec(3, 2))
@settings(max_examples=25, deadline=None)
def test_equals_the_float64_reference(height: int, width: int, view: ViewSpec) -> None:
    frame = picture(height, width)
    view = ViewSpec(view.height_px, view.width_px, ALL_FLIPS)
    plain = reference.resize_normalize(
        frame, view.height_px, view.width_px, resample="bicubic", mean=MEAN, std=STD
    )
    for isa, native in LIBRARIES.items():
        (got,) = kernels.resize_normalize_views(
            frame, [view], resample="bicubic", mean=MEAN, std=STD, threads=2, native=native
        )
        for flip, copy in zip(view.flips, got, strict=True):
            difference = np.abs(copy - np.flip(plain, AXES[flip])[0]).max()
            assert difference <= 2.5e-7, (isa, flip)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_views_of_which_no_copy_is_upright(isa: str) -> None:
    """The library, unlike a bundle, takes any list of flips, repeated ones too."""
    native = LIBRARIES[isa]
    for frame, height, width in [(picture(60, 47), 21, 19), (picture(211, 47), 21, 44)]:
        for codes in ([1], [2], [3, 1], [3, 3], [2, 0], [1, 2, 3, 0, 1]):
            out = np.full((len(codes), 3, height, width), np.nan, np.float32)
            target = _views._ViewTarget(
                width,
                height,
                len(codes),
                (ctypes.c_int32 * len(codes))(*codes),
                out.ctypes.data,
            )
            native.call(
                "edgeseg_resize_normalize_views",
                _views._TYPES,
                _library.Frame(frame.ctypes.data, frame.strides[0], 47, frame.shape[0]),
                (_views._ViewTarget * 1)(target),
                1,
                1,
                1 / 255,
                (ctypes.c_double * 3)(*MEAN),
                (ctypes.c_double * 3)(*STD),
                3,
            )
            plain = kernels.resize_normalize(
                frame, height, width, resample="bicubic", mean=MEAN, std=STD
            )
            expected = [np.flip(plain, AXES[ALL_FLIPS[code]]) for code in codes]
            np.testing.assert_array_equal(out, np.concatenate(expected))


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_writes_into_out_and_nowhere_else(isa: str) -> None:
    frame = picture(83, 91)[::-1]
    views = [ViewSpec(40, 33, ALL_FLIPS), ViewSpec(17, 50, ("none", "v"))]
    sizes = [12 * 40 * 33, 6 * 17 * 50]
    space = np.full(sum(sizes) + 3 * 64, 7.5, np.float32)
    first = space[64 : 64 + sizes[0]].reshape(4, 3, 40, 33)
    second = space[128 + sizes[0] : -64].reshape(2, 3, 17, 50)
    got = kernels.resize_normalize_views(
        frame,
        views,
        resample="bilinear",
        mean=MEAN,
        std=STD,
        out=(first, second),
        threads=2,
        native=LIBRARIES[isa],
    )
    assert got[0] is first
    assert got[1] is second
    np.testing.assert_array_equal(first, singly(frame, views[0], "bilinear"))
    np.testing.assert_array_equal(second, singly(frame, views[1], "bilinear"))
    for gap in (space[:64], space[64 + sizes[0] : 128 + sizes[0]], space[-64:]):
        assert np.all(gap == 7.5)


def test_more_sizes_than_the_library_keeps_tables_for() -> None:
    frame = picture(90, 120)
    views = [ViewSpec(20 + i, 60 - i, ("none", "hv")) for i in range(30)]
    for _ in range(2):
        results = kernels.resize_normalize_views(
            frame, views, resample="bicubic", mean=MEAN, std=STD
        )
        for view, got in zip(views, results, strict=True):
            np.testing.assert_array_equal(got, singly(frame, view, "bicubic"))


def test_the_preprocessor_makes_the_views() -> None:
    views = (ViewSpec(32, 40, ("none", "h")), ViewSpec(48, 56))
    roi = RoiSpec(3, 5, 60, 50)
    frame = picture(70, 80)
    spec = PreprocessSpec(32, 40, "bicubic", MEAN, STD, roi=roi, views=views)
    for view, got in zip(views, Preprocessor(spec).tensors(frame), strict=True):
        np.testing.assert_array_equal(got, singly(frame, view, "bicubic", roi))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": []}, "1 to 256 views"),
        ({"views": [ViewSpec(4, 5)] * 257}, "1 to 256 views"),
        ({"views": [ViewSpec(4, 65536)]}, "65536"),
        ({"frame": np.zeros((8, 8), np.uint8)}, r"\(8, 8\)"),
        ({"resample": "lanczos"}, "lanczos"),
        ({"threads": 0}, "threads"),
        ({"threads": 65}, "threads"),
        ({"scale": float("nan")}, "scale"),
        ({"mean": (0.5, 0.5)}, "three values"),
        ({"std": (0.5, 0.0, 0.5)}, "std"),
        ({"roi": RoiSpec(0, 0, 9, 4)}, "leaves the frame"),
        ({"out": []}, "one array for each view"),
        ({"out": [np.zeros((2, 3, 4, 5), np.float64)]}, "4x5 must be a float32"),
        ({"out": [np.zeros((1, 3, 4, 5), np.float32)]}, r"\(2, 3, 4, 5\)"),
        ({"out": [np.zeros((2, 3, 4, 10), np.float32)[..., ::2]]}, "contiguous"),
        ({"out": [np.broadcast_to(np.float32(0), (2, 3, 4, 5))]}, "writeable"),
    ],
)
def test_arguments_that_have_no_meaning(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "frame": np.zeros((8, 8, 3), np.uint8),
        "views": [ViewSpec(4, 5, ("none", "h"))],
        "resample": "bilinear",
        "mean": MEAN,
        "std": STD,
        **change,
    }
    with pytest.raises(InputError, match=message):
        kernels.resize_normalize_views(**arguments)


def test_the_library_itself_refuses_bad_arguments_before_it_writes() -> None:
    native = LIBRARIES["generic"]
    pixels = np.zeros((4, 4, 3), np.uint8)
    out = np.full((2, 3, 4, 4), 7.5, np.float32)

    def call(**changes: Any) -> None:
        codes = (ctypes.c_int32 * 2)(0, changes.get("flip", 1))
        good = _views._ViewTarget(4, 4, 2, codes, out.ctypes.data)
        bad = _views._ViewTarget(
            changes.get("width", 4),
            4,
            changes.get("flip_count", 2),
            None if "no_flips" in changes else codes,
            None if "no_out" in changes else out.ctypes.data,
        )
        native.call(
            "edgeseg_resize_normalize_views",
            _views._TYPES,
            _library.Frame(pixels.ctypes.data, 12, 4, 4),
            None if "no_targets" in changes else (_views._ViewTarget * 2)(good, bad),
            changes.get("count", 2),
            0,
            1.0,
            None if "no_mean" in changes else (ctypes.c_double * 3)(),
            (ctypes.c_double * 3)(1, 1, changes.get("std", 1)),
            changes.get("threads", 1),
        )

    for bad in (
        {"flip": 4},
        {"flip": -1},
        {"flip_count": 0},
        {"no_flips": True},
        {"no_out": True},
        {"no_targets": True},
        {"no_mean": True},
        {"width": 0},
        {"count": 0},
        {"count": 257},
        {"std": 0},
        {"threads": 65},
    ):
        with pytest.raises(InputError, match="refused"):
            call(**bad)
        assert np.all(out == 7.5), bad
    call()
    assert np.all(out == 0.0)
