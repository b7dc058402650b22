"""Drawing masks: every pixel exactly as in numpy's integers."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeseg import kernels
from edgeseg.errors import InputError
from edgeseg.kernels import _blend, _library, reference_blend

PATH = _library.find_library()
INSTRUCTION_SETS = _library.load_library(PATH).info().available
LIBRARIES = {name: _library.load_library(PATH, name) for name in INSTRUCTION_SETS}
any_isa = pytest.mark.parametrize("isa", INSTRUCTION_SETS)

Bytes = npt.NDArray[np.uint8]

sides = st.one_of(st.integers(1, 8), st.integers(1, 90), st.integers(1, 270))


def picture(height: int, width: int) -> Bytes:
    return np.random.default_rng((height, width)).integers(0, 256, (height, width, 3), np.uint8)


def palette(classes: int) -> Bytes:
    return np.random.default_rng(classes).integers(0, 256, (classes, 3), np.uint8)


def blobs(height: int, width: int, indices: int, cell: int, share: float, seed: int) -> Bytes:
    """Squares of ``cell`` pixels with random indices from 0 on, background for the rest."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-height // cell), -(-width // cell)
    coarse = rng.integers(1, indices + 1, (rows, columns), np.uint8)
    coarse[rng.random((rows, columns)) > share] = 0
    return np.kron(coarse, np.ones((cell, cell), np.uint8))[:height, :width]


@given(
    height=sides,
    width=sides,
    classes=st.integers(1, 4),
    extra=st.integers(0, 2),
    cell=st.sampled_from([1, 2, 5, 17, 60]),
    share=st.sampled_from([0.02, 0.3, 0.8, 1.0]),
    alpha=st.floats(0.0, 1.0),
    outline_px=st.one_of(st.integers(0, 5), st.integers(0, 12)),
    threads=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
@example(1, 1, 1, 0, 1, 1.0, 0.5, 3, 1, 0)
@example(270, 1, 2, 1, 5, 0.8, 0.5, 2, 3, 0)
@example(1, 270, 2, 1, 5, 0.8, 0.5, 2, 3, 0)
@example(200, 260, 1, 0, 60, 0.3, 0.4, 4, 2, 0)
@settings(max_examples=60, deadline=None)
def test_equals_the_reference_exactly(
    height: int,
    width: int,
    classes: int,
    extra: int,
    cell: int,
    share: float,
    alpha: float,
    outline_px: int,
    threads: int,
    seed: int,
) -> None:
    frame, colours = picture(height, width), palette(classes)
    mask = blobs(height, width, classes + extra, cell, share, seed)
    untouched = mask.copy()
    expected = reference_blend.blend_overlay(
        frame, mask, colours, alpha=alpha, outline_px=outline_px
    )
    for isa, native in LIBRARIES.items():
        drawn = frame.copy()
        kernels.blend_overlay(
            drawn,
            mask,
            colours,
            alpha=alpha,
            outline_px=outline_px,
            threads=threads,
            native=native,
        )
        np.testing.assert_array_equal(drawn, expected, err_msg=isa)
        np.testing.assert_array_equal(mask, untouched)


@pytest.mark.parametrize("outline_px", [64, 127])
def test_the_widest_outlines(outline_px: int) -> None:
    mask = np.ones((300, 150), np.uint8)
    mask[3, 140] = 0
    mask[290:, :2] = 2
    frame, colours = picture(300, 150), palette(2)
    expected = reference_blend.blend_overlay(frame, mask, colours, alpha=0.3, outline_px=outline_px)
    for isa, native in LIBRARIES.items():
        drawn = frame.copy()
        kernels.blend_overlay(
            drawn, mask, colours, alpha=0.3, outline_px=outline_px, threads=2, native=native
        )
        np.testing.assert_array_equal(drawn, expected, err_msg=isa)


@any_isa
def test_every_value_and_every_alpha(isa: str) -> None:
    values = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
    mask = np.ones((1, 256), np.uint8)
    for colour in (0, 1, 100, 254, 255):
        for weight in range(257):
            drawn = values.copy()
            kernels.blend_overlay(
                drawn, mask, [[colour] * 3], alpha=weight / 256, native=LIBRARIES[isa]
            )
            exact = values * (1 - weight / 256) + colour * (weight / 256)
            np.testing.assert_array_equal(drawn, np.floor(exact + 0.5))


@any_isa
def test_all_255_classes(isa: str) -> None:
    mask = np.arange(256 * 40, dtype=np.uint32).reshape(40, 256).astype(np.uint8)
    frame, colours = picture(40, 256), palette(255)
    expected = reference_blend.blend_overlay(frame, mask, colours, alpha=0.6, outline_px=0)
    kernels.blend_overlay(frame, mask, colours, alpha=0.6, native=LIBRARIES[isa])
    np.testing.assert_array_equal(frame, expected)


@any_isa
@pytest.mark.parametrize("outline_px", [0, 3])
def test_rows_any_distance_apart_and_nothing_else_touched(isa: str, outline_px: int) -> None:
    whole = picture(90, 110)
    masks = blobs(90, 110, 2, 13, 0.5, seed=4)
    colours = palette(2)
    for rows, columns in [
        (slice(None), slice(None)),
        (slice(None, None, -1), slice(None)),
        (slice(7, 61), slice(11, 97)),
        (slice(5, 80, 3), slice(1, 110)),
        (slice(80, 5, -2), slice(0, 109)),
        (slice(4, 5), slice(3, 77)),
        (slice(0, 90), slice(109, 110)),
    ]:
        around = whole.copy()
        mask = masks[rows, columns]
        expected = whole.copy()
        expected[rows, columns] = reference_blend.blend_overlay(
            whole[rows, columns], mask, colours, alpha=0.5, outline_px=outline_px
        )
        kernels.blend_overlay(
            around[rows, columns],
            mask,
            colours,
            alpha=0.5,
            outline_px=outline_px,
            threads=2,
            native=LIBRARIES[isa],
        )
        np.testing.assert_array_equal(around, expected)


@any_isa
def test_masks_in_any_layout(isa: str) -> None:
    colours = palette(1)
    frame = picture(40, 50)
    for mask in (
        np.asfortranarray(blobs(40, 50, 1, 7, 0.5, seed=1)),
        blobs(40, 150, 1, 7, 0.5, seed=2)[:, ::3],
        blobs(40, 50, 1, 7, 0.5, seed=3)[:, ::-1],
        np.broadcast_to(blobs(1, 50, 1, 7, 0.5, seed=4), (40, 50)),
    ):
        drawn = frame.copy()
        kernels.blend_overlay(drawn, mask, colours, alpha=0.25, outline_px=2, native=LIBRARIES[isa])
        expected = reference_blend.blend_overlay(frame, mask, colours, alpha=0.25, outline_px=2)
        np.testing.assert_array_equal(drawn, expected)


@any_isa
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 64), (16, 341)])
def test_reads_and_writes_nothing_past_the_end(isa: str, size: tuple[int, int]) -> None:
    """Frame and mask end where accessible memory ends."""
    with before_a_guard((*size, 3)) as frame, before_a_guard(size) as mask:
        frame[:] = picture(*size)
        mask[:] = 1
        mask[size[0] // 2, size[1] // 2] = 0
        expected = reference_blend.blend_overlay(frame, mask, palette(1), alpha=0.5, outline_px=1)
        kernels.blend_overlay(
            frame, mask, palette(1), alpha=0.5, outline_px=1, native=LIBRARIES[isa]
        )
        np.testing.assert_array_equal(frame, expected)


@contextlib.contextmanager
def before_a_guard(shape: tuple[int, ...]) -> Iterator[Bytes]:
    """An array behind which a page can neither be read nor written."""
    page, size = mmap.PAGESIZE, int(np.prod(shape))
    end = -(-size // page) * page
    whole = np.frombuffer(mmap.mmap(-1, end + page), np.uint8)
    guard = ctypes.c_void_p(whole.ctypes.data + end)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(guard, page, 0) == 0
    yield whole[end - size : end].reshape(shape)
    assert libc.mprotect(guard, page, mmap.PROT_READ | mmap.PROT_WRITE) == 0


def test_an_empty_mask_changes_nothing() -> None:
    frame = picture(50, 60)
    before = frame.copy()
    kernels.blend_overlay(frame, np.zeros((50, 60), np.uint8), palette(1), alpha=1.0, outline_px=3)
    np.testing.assert_array_equal(frame, before)


FRAME = np.zeros((6, 8, 3), np.uint8)
MASK = np.zeros((6, 8), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": FRAME.astype(np.float32)}, "uint8"),
        ({"frame": FRAME[..., 0]}, r"\(6, 8\)"),
        ({"frame": FRAME[:0]}, r"\(0, 8, 3\)"),
        ({"frame": np.zeros((6, 16, 3), np.uint8)[:, ::2]}, "contiguous within rows"),
        ({"frame": FRAME[:, :, ::-1]}, "contiguous within rows"),
        ({"frame": np.broadcast_to(FRAME[:1], FRAME.shape)}, "writeable"),
        ({"frame": np.lib.stride_tricks.as_strided(FRAME, strides=(3, 3, 1))}, "overlap"),
        ({"mask": MASK.astype(np.int64)}, "int64"),
        ({"mask": MASK[:, :7]}, r"\(6, 7\)"),
        ({"mask": None}, "NoneType"),
        ({"colours_bgr": []}, "1 to 255 triples"),
        ({"colours_bgr": np.zeros((256, 3), np.uint8)}, "1 to 255 triples"),
        ({"colours_bgr": [(1, 2)]}, "1 to 255 triples"),
        ({"colours_bgr": [(1, 2, 256)]}, "0 to 255"),
        ({"colours_bgr": [(1, 2, -1)]}, "0 to 255"),
        ({"colours_bgr": [(0.5, 0.5, 0.5)]}, "integers"),
        ({"alpha": -0.01}, "alpha"),
        ({"alpha": 1.01}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"outline_px": -1}, "outlines"),
        ({"outline_px": 128}, "outlines"),
        ({"threads": 0}, "threads"),
        ({"threads": 65}, "threads"),
    ],
)
def test_arguments_that_have_no_meaning(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "frame": FRAME,
        "mask": MASK,
        "colours_bgr": [(1, 2, 3)],
        "alpha": 0.5,
        **change,
    }
    with pytest.raises(InputError, match=message):
        kernels.blend_overlay(**arguments)


def test_the_library_itself_refuses_bad_arguments() -> None:
    native = LIBRARIES["generic"]
    frame, mask, colours = picture(6, 8), np.ones((6, 8), np.uint8), palette(1)
    before = frame.copy()

    def call(**changes: Any) -> None:
        canvas = _blend._Canvas(
            changes.get("pixels", frame.ctypes.data),
            changes.get("row_stride", 24),
            changes.get("width", 8),
            changes.get("height", 6),
        )
        native.call(
            "edgeseg_blend_overlay",
            _blend._TYPES,
            canvas,
            changes.get("mask", mask.ctypes.data),
            8,
            changes.get("colours", colours.ctypes.data),
            changes.get("classes", 1),
            changes.get("alpha", 256),
            changes.get("outline_px", 0),
            changes.get("threads", 1),
        )

    for bad in (
        {"pixels": None},
        {"row_stride": 23},
        {"row_stride": -23},
        {"width": 0},
        {"height": 65536},
        {"mask": None},
        {"colours": None},
        {"classes": 0},
        {"classes": 256},
        {"alpha": -1},
        {"alpha": 257},
        {"outline_px": -1},
        {"outline_px": 128},
        {"threads": 0},
        {"threads": 65},
    ):
        with pytest.raises(InputError, match="refused"):
            call(**bad)
        np.testing.assert_array_equal(frame, before, err_msg=str(bad))
    call()
    assert np.all(frame == colours[0])
