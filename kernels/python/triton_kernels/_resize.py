"""One frame at several sizes and mirrorings: Pillow's antialiased resize and the normalisation.

Two passes for each size, each rounded to 8 bits as Pillow's are (``src/libImaging/Resample.c``).
Weights are computed in float64 on the host and rounded to 22-bit fixed point; a pass is exact
integer arithmetic. A normalised value depends on 8 bits alone, so the second pass looks it up.
Tables stay on the device for the sizes of late.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from edgeseg.errors import InputError
from edgeseg.kernels._resize import Resample, check_normalization, filter_index
from edgeseg.kernels._views import MAX_VIEWS
from edgeseg.kernels.triton_kernels._launch import (
    FOUR_WARPS,
    check_sides,
    check_tensor,
    interpreted,
    interpreter_tile,
    on_device,
)
from edgeseg.spec import FLIPS, ViewSpec

__all__ = ["resize_normalize_views"]

_BITS = tl.constexpr(22)
_HALF = tl.constexpr(1 << 21)


class _Taps(NamedTuple):
    """How the samples of one axis come from those of another size."""

    first: torch.Tensor
    """int32 (out,): the first source sample."""
    weights: torch.Tensor
    """int32 (taps, out): fixed-point weights of the samples from there on, 0 after the last."""


@triton.jit
def _resample(
    source,
    first,
    weights,
    values,
    result,
    flips,
    copies,
    size_in,
    height,
    width,
    source_stride,
    taps,
    VERTICAL: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One pass: to 8 bits, or, if it is the last, to normalised planes and their mirror images."""
    y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (y < height) & (x < width)
    if VERTICAL:
        outputs = height
        result_sample = y
        place = source + x.to(tl.int64) * 3
        step = source_stride
    else:
        outputs = width
        result_sample = x
        place = source + y.to(tl.int64) * source_stride
        step = 3
    exists = result_sample < outputs
    start = tl.load(first + result_sample, exists, 0)
    blue = tl.full([ROWS, COLUMNS], _HALF, tl.int32)
    green = tl.full([ROWS, COLUMNS], _HALF, tl.int32)
    red = tl.full([ROWS, COLUMNS], _HALF, tl.int32)
    for k in range(0, taps):
        # Samples beyond the last one have weight 0.
        sample = tl.minimum(start + k, size_in - 1)
        weight = tl.load(weights + k * outputs + result_sample, exists, 0)
        pixel = place + sample.to(tl.int64) * step
        blue += weight * tl.load(pixel, inside, 0).to(tl.int32)
        green += weight * tl.load(pixel + 1, inside, 0).to(tl.int32)
        red += weight * tl.load(pixel + 2, inside, 0).to(tl.int32)
    blue = tl.minimum(tl.maximum(blue >> _BITS, 0), 255)
    green = tl.minimum(tl.maximum(green >> _BITS, 0), 255)
    red = tl.minimum(tl.maximum(red >> _BITS, 0), 255)
    row = y.to(tl.int64)
    if LAST:
        plane = tl.cast(height, tl.int64) * width
        r = tl.load(values + red)
        g = tl.load(values + 256 + green)
        b = tl.load(values + 512 + blue)
        for copy in range(0, copies):
            flip = (flips >> (2 * copy)) & 3
            line = tl.where((flip & 2) != 0, height - 1 - row, row)
            column = tl.where((flip & 1) != 0, width - 1 - x, x)
            out = result + copy * (3 * plane) + line * width + column
            tl.store(out, r, inside)
            tl.store(out + plane, g, inside)
            tl.store(out + 2 * plane, b, inside)
    else:
        out = result + (row * width + x) * 3
        tl.store(out, blue.to(tl.uint8), inside)
        tl.store(out + 1, green.to(tl.uint8), inside)
        tl.store(out + 2, red.to(tl.uint8), inside)


def resize_normalize_views(
    frame: torch.Tensor,
    views: Sequence[ViewSpec],
    *,
    resample: Resample,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float = 1.0 / 255.0,
) -> tuple[torch.Tensor, ...]:
    """As ``edgeseg.kernels.resize_normalize_views``, on tensors, and equal to it bit for bit.

    Args:
        frame: uint8 (H, W, 3), BGR, sides 1 to 65535; rows may be any distance apart (a region of
            interest is ``frame[y0:y1, x0:x1]``), pixels within them are contiguous.
        views: 1 to 256 sizes and flips.
        resample: Pillow's filter of that name, antialiased.
        mean: three values in the order R, G, B, in units of ``value * scale``.
        std: three positive values in the order R, G, B, in units of ``value * scale``.
        scale: positive factor applied to the 8-bit values first.

    Returns:
        For each view float32 (len(flips), 3, height_px, width_px), RGB, the copies in the order of
        its flips.

    Raises:
        InputError: an argument is not as described.
    """
    check_tensor("the frame", frame, (torch.uint8,))
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(f"a frame has the shape (H, W, 3), got {tuple(frame.shape)}")
    check_sides("a frame", *frame.shape[:2])
    if frame.stride()[1:] != (3, 1):
        raise InputError("the pixels in the frame's rows must be contiguous")
    if not 1 <= len(views) <= MAX_VIEWS:
        raise InputError(f"1 to {MAX_VIEWS} views are made at once, got {len(views)}")
    for view in views:
        check_sides(f"view {view.name}", view.height_px, view.width_px)
    check_normalization(scale, mean, std)
    filter_index(resample)
    values = _values(scale, tuple(mean), tuple(std), frame.device)
    with on_device(frame.device):
        return tuple(_view(frame, view, resample, values) for view in views)


def _view(
    frame: torch.Tensor, view: ViewSpec, resample: Resample, values: torch.Tensor
) -> torch.Tensor:
    height, width = frame.shape[:2]
    size = (view.height_px, view.width_px)
    # Since version 13, Pillow goes along the rows' axis first where the height shrinks by more
    # than twice as many pixels as the width.
    vertical_first = height - size[0] > max(0, 2 * (width - size[1]))
    middle = (size[0], width) if vertical_first else (height, size[1])
    if middle != (height, width):
        between = torch.empty((*middle, 3), dtype=torch.uint8, device=frame.device)
        _pass(frame, between, vertical_first, resample, values, None)
        frame = between
    result = torch.empty((len(view.flips), 3, *size), device=frame.device)
    _pass(frame, result, not vertical_first, resample, values, view)
    return result


def _pass(
    source: torch.Tensor,
    result: torch.Tensor,
    vertical: bool,
    resample: Resample,
    values: torch.Tensor,
    view: ViewSpec | None,
) -> None:
    """Fill ``result``: normalised, if it is that of a ``view``."""
    height, width = result.shape[:2] if view is None else result.shape[2:]
    size_in = source.shape[0 if vertical else 1]
    taps = _taps(size_in, height if vertical else width, resample, source.device)
    flips = () if view is None else view.flips
    rows, columns = interpreter_tile(height) if interpreted() else (1, 128)
    _resample[(triton.cdiv(width, columns), triton.cdiv(height, rows))](
        source,
        taps.first,
        taps.weights,
        values,
        result,
        # FLIPS is ordered so that the index is the sum of 1 (columns) and 2 (rows).
        sum(FLIPS.index(flip) << (2 * i) for i, flip in enumerate(flips)),
        len(flips),
        size_in,
        height,
        width,
        source.stride(0),
        len(taps.weights),
        VERTICAL=vertical,
        LAST=view is not None,
        ROWS=rows,
        COLUMNS=columns,
        **FOUR_WARPS,
    )


@functools.lru_cache(maxsize=64)
def _taps(size_in: int, size_out: int, resample: Resample, device: torch.device) -> _Taps:
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    radius = (2.0 if resample == "bicubic" else 1.0) * stretch
    centre = (np.arange(size_out) + 0.5) * scale
    first = np.maximum((centre - radius + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + radius + 0.5).astype(np.int64), size_in)
    if size_in == size_out:
        # A side that keeps its size is left alone: the weights would be 1 and zeros.
        first = np.arange(size_out)
        last = first + 1
    k = np.arange((last - first).max())[:, np.newaxis]
    # The order of these operations is Pillow's: another one would round differently.
    distance = np.abs((k + first - centre + 0.5) * (1.0 / stretch))
    weights = np.where(k < last - first, _filter(distance, resample), 0.0)
    total = np.add.accumulate(weights)[-1]
    weights = weights / np.where(total != 0.0, total, 1.0)
    scaled = weights * float(1 << _BITS.value)
    fixed = np.trunc(scaled + np.where(scaled < 0.0, -0.5, 0.5))
    return _Taps(
        torch.from_numpy(first.astype(np.int32)).to(device),
        torch.from_numpy(fixed.astype(np.int32)).to(device),
    )


def _filter(
    x: np.ndarray[tuple[int, ...], np.dtype[np.float64]], resample: Resample
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The triangle, or Keys' cubic with a = -0.5, at the distances ``x``."""
    if resample == "bilinear":
        return np.where(x < 1.0, 1.0 - x, 0.0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


@functools.lru_cache(maxsize=8)
def _values(
    scale: float, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> torch.Tensor:
    """float32 (3, 256): the normalised values of R, G and B.

    As the compiled library computes them: a multiply-add in double precision that rounds once,
    then the rounding to float32. Rational numbers do not round at all before that.
    """
    table = np.empty((3, 256), np.float32)
    for channel in range(3):
        gain = Fraction(scale / std[channel])
        offset = Fraction(-mean[channel] / std[channel])
        table[channel] = [np.float32(float(value * gain + offset)) for value in range(256)]
    return torch.from_numpy(table).to(device)
