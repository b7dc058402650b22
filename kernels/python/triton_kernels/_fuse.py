"""Fusion of several views' logits, smoothing over time and the mask, in one launch.

The arithmetic is that of ``kernels/include/edgeseg/fuse.h``, where the reasons stand.

A program computes a tile of the result, on a device a part of one row. The views are found through
a table in device memory with one row for each: the address of its logits, its sides, flips and
type. A kernel casts an address to a pointer, which the compiler and the interpreter both do; a
concatenated buffer would cost a copy of all logits at every call. Whoever reads memory through
addresses must keep it alive: ``PackedViews`` holds the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from edgeseg.errors import InputError
from edgeseg.kernels._fuse import MAX_CHANNELS, MAX_VIEWS
from edgeseg.kernels.triton_kernels._launch import (
    FOUR_WARPS,
    check_output,
    check_sides,
    check_tensor,
    interpreted,
    interpreter_tile,
    on_device,
)
from edgeseg.spec import FLIPS, WEIGHTINGS, Flip, Weighting

__all__ = ["Fused", "PackedViews", "View", "fuse_views", "fusion_settings", "pack_views"]

_ENTROPY = tl.constexpr(WEIGHTINGS.index("entropy"))
_EXP = tl.constexpr(WEIGHTINGS.index("exp"))

_FLOAT_MAX = tl.constexpr(3.4028234663852886e38)
_LARGEST_LOGIT = tl.constexpr(65504.0)
_SATURATION = tl.constexpr(80.0)
_NEAR_UNIFORM = tl.constexpr(0.25)
_LEAST_WEIGHT = tl.constexpr(1e-30)
_LN2 = tl.constexpr(0.6931471805599453)

# Columns of the table of views.
_FIELDS = tl.constexpr(5)
_TYPES = {torch.float32: 0, torch.float16: 1}
_MIXED = 2

_LARGEST_BLOCK = 256


class View(NamedTuple):
    """What the network said about one view of a frame; a plain pair serves as well."""

    logits: torch.Tensor
    """(C, h, w), float32 or float16, contiguous; one channel, or background first."""
    flip: Flip = "none"
    """How the network's input was mirrored; the logits are mirrored back."""


class Fused(NamedTuple):
    """What the views say together."""

    probability: torch.Tensor
    """float32 (H, W) of the foreground for one class, else (C, H, W) with a sum of 1."""
    mask: torch.Tensor
    """uint8 (H, W): class index, 0 is background."""


@dataclass(frozen=True)
class PackedViews:
    """Views whose memory has been described to the kernels once and for all.

    A call reads what the tensors hold by then, so that a network may write into them again.
    """

    views: tuple[View, ...]
    table: torch.Tensor
    """int64 (V, 5): address, height, width, flips, type; on the device of the views."""
    type_code: int
    """0: all of float32; 1: all of float16; 2: both occur."""


@triton.jit
def _taps(index, size, result, mirrored, WIDE: tl.constexpr):
    """Where bilinear interpolation reads, and how much each of the two samples counts.

    The position is an exact fraction. A sample of weight 0 is not named, so that NaN in it cannot
    take part.
    """
    if WIDE:
        index = index.to(tl.int64)
    denominator = 2 * result
    numerator = tl.maximum((2 * index + 1) * size - result, 0)
    first = numerator // denominator
    rest = tl.where(first >= size - 1, 0, numerator - first * denominator)
    first = tl.minimum(first, size - 1)
    second = tl.where(rest == 0, first, first + 1)
    divisor = tl.cast(denominator, tl.float32)
    near = (denominator - rest).to(tl.float32) / divisor
    far = rest.to(tl.float32) / divisor
    first = tl.where(mirrored, size - 1 - first, first)
    second = tl.where(mirrored, size - 1 - second, second)
    return first.to(tl.int64), second.to(tl.int64), near, far


@triton.jit
def _logits(address, offset, inside, is_half, TYPE: tl.constexpr):
    if TYPE == 0:
        value = tl.load(address.to(tl.pointer_type(tl.float32)) + offset, inside, 0.0)
    elif TYPE == 1:
        value = tl.load(address.to(tl.pointer_type(tl.float16)) + offset, inside, 0.0)
        value = value.to(tl.float32)
    else:
        # Only one of the two loads touches memory. The type is spread over the block before it is
        # compared, for the interpreter, whose logic on a block and a scalar gives no truth values.
        is_half = is_half + offset * 0
        single = tl.load(
            address.to(tl.pointer_type(tl.float32)) + offset, inside & (is_half == 0), 0.0
        )
        half = tl.load(
            address.to(tl.pointer_type(tl.float16)) + offset, inside & (is_half != 0), 0.0
        )
        value = tl.where(is_half != 0, half.to(tl.float32), single)
    large = tl.where(value > 0.0, _LARGEST_LOGIT, -_LARGEST_LOGIT)
    return tl.where(tl.abs(value) > _FLOAT_MAX, large, value)


@triton.jit
def _log1p_unit(x):
    """ln(1 + x) for x from 0 to 1, with a small relative error (``vectormath.h``)."""
    p = 5.23268804e-3 * x - 2.95052137e-2
    p = p * x + 7.82259107e-2
    p = p * x - 1.36632428e-1
    p = p * x + 1.91060051e-1
    p = p * x - 2.48429820e-1
    p = p * x + 3.33190978e-1
    p = p * x - 4.99994934e-1
    p = p * x + 9.99999940e-1
    return p * x


@triton.jit
def _share(measure, valid, inverse_temperature, least, WEIGHTING: tl.constexpr):
    """The factor for the sums so far, the weight of the new view, and the least entropy so far."""
    keep = tl.full(measure.shape, 1.0, tl.float32)
    if WEIGHTING == _ENTROPY:
        weight = tl.maximum(measure, 0.0) + _LEAST_WEIGHT
    elif WEIGHTING == _EXP:
        entropy = tl.where(valid, measure, least)
        distance = tl.minimum(tl.abs(least - entropy) * inverse_temperature, _SATURATION)
        e = tl.exp(-distance)
        lower = entropy < least
        keep = tl.where(lower, e, 1.0)
        weight = tl.where(lower, 1.0, e)
        least = tl.where(lower, entropy, least)
    else:
        weight = keep
    return keep, tl.where(valid, weight, 0.0), least


@triton.jit
def _fuse_one(
    table,
    count,
    settings,
    state,
    probability,
    mask,
    height,
    width,
    WEIGHTING: tl.constexpr,
    TYPE: tl.constexpr,
    WIDE: tl.constexpr,
    STATE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One class."""
    y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (y < height) & (x < width)
    inverse_temperature = tl.minimum(1.0 / tl.load(settings), _FLOAT_MAX)
    threshold = tl.load(settings + 1)

    weighted = tl.zeros([ROWS, COLUMNS], tl.float32)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    least = tl.full([ROWS, COLUMNS], _FLOAT_MAX, tl.float32)
    for v in range(0, count):
        row = table + v * _FIELDS
        address = tl.load(row)
        rows = tl.load(row + 1).to(tl.int32)
        columns = tl.load(row + 2).to(tl.int32)
        flips = tl.load(row + 3).to(tl.int32)
        is_half = tl.load(row + 4).to(tl.int32)
        upper, lower, near_y, far_y = _taps(y, rows, height, (flips & 2) != 0, WIDE)
        left, right, near_x, far_x = _taps(x, columns, width, (flips & 1) != 0, WIDE)
        a = near_x * _logits(address, upper * columns + left, inside, is_half, TYPE)
        a += far_x * _logits(address, upper * columns + right, inside, is_half, TYPE)
        b = near_x * _logits(address, lower * columns + left, inside, is_half, TYPE)
        b += far_x * _logits(address, lower * columns + right, inside, is_half, TYPE)
        logit = near_y * a + far_y * b
        valid = logit == logit
        logit = tl.where(valid, logit, 0.0)

        distance = tl.minimum(tl.abs(logit), _SATURATION)
        e = tl.exp(-distance)
        larger = 1.0 / (1.0 + e)
        smaller = e * larger
        entropy = _log1p_unit(e) + distance * smaller
        measure = entropy
        if WEIGHTING == _ENTROPY:
            t = (1.0 - e) * larger
            s = t * t
            series = ((s * (1.0 / 56.0) + 1.0 / 30.0) * s + 1.0 / 12.0) * s + 0.5
            measure = tl.where(t < _NEAR_UNIFORM, series * s, _LN2 - entropy)
        keep, weight, least = _share(measure, valid, inverse_temperature, least, WEIGHTING)
        weighted = keep * weighted + weight * tl.where(logit >= 0.0, larger, smaller)
        total = keep * total + weight

    p = tl.where(total > 0.0, weighted / tl.where(total > 0.0, total, 1.0), 0.0)
    pixel = y.to(tl.int64) * width + x
    if STATE:
        keep_state = tl.load(settings + 2)
        reset = tl.load(settings + 3) + tl.zeros([ROWS, COLUMNS], tl.float32)
        before = tl.load(state + pixel, inside & (reset == 0.0), float("nan"))
        usable = tl.abs(before) <= _FLOAT_MAX
        before = tl.where(usable, before, 0.0)
        p = tl.where(usable, keep_state * before + (1.0 - keep_state) * p, p)
        tl.store(state + pixel, p, inside)
    tl.store(probability + pixel, p, inside)
    tl.store(mask + pixel, (p > threshold).to(tl.uint8), inside)


@triton.jit
def _fuse_many(
    table,
    count,
    settings,
    state,
    probability,
    mask,
    height,
    width,
    channels,
    WEIGHTING: tl.constexpr,
    TYPE: tl.constexpr,
    WIDE: tl.constexpr,
    STATE: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Several classes; CHANNELS is the power of two from ``channels`` on.

    All channels of a pixel are held at once, so that a logit is read once.
    """
    y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    c = tl.arange(0, CHANNELS)[:, None, None]
    real = c < channels
    on_result = (y < height) & (x < width)
    inside = on_result[None, :, :] & real
    classes = tl.cast(channels, tl.float32)
    inverse_temperature = tl.minimum(1.0 / tl.load(settings), _FLOAT_MAX)

    weighted = tl.zeros([CHANNELS, ROWS, COLUMNS], tl.float32)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    least = tl.full([ROWS, COLUMNS], _FLOAT_MAX, tl.float32)
    for v in range(0, count):
        row = table + v * _FIELDS
        address = tl.load(row)
        rows = tl.load(row + 1).to(tl.int32)
        columns = tl.load(row + 2).to(tl.int32)
        flips = tl.load(row + 3).to(tl.int32)
        is_half = tl.load(row + 4).to(tl.int32)
        upper, lower, near_y, far_y = _taps(y, rows, height, (flips & 2) != 0, WIDE)
        left, right, near_x, far_x = _taps(x, columns, width, (flips & 1) != 0, WIDE)
        plane = c.to(tl.int64) * (rows.to(tl.int64) * columns)
        upper = plane + (upper * columns)[None, :, :]
        lower = plane + (lower * columns)[None, :, :]
        near_y = near_y[None, :, :]
        far_y = far_y[None, :, :]
        near_x = near_x[None, :, :]
        far_x = far_x[None, :, :]
        left = left[None, :, :]
        right = right[None, :, :]
        a = near_x * _logits(address, upper + left, inside, is_half, TYPE)
        a += far_x * _logits(address, upper + right, inside, is_half, TYPE)
        b = near_x * _logits(address, lower + left, inside, is_half, TYPE)
        b += far_x * _logits(address, lower + right, inside, is_half, TYPE)
        logit = near_y * a + far_y * b
        # A channel that is NaN leaves the view out of the pixel.
        valid = tl.sum((logit != logit).to(tl.int32), axis=0) == 0
        logit = tl.where(logit == logit, logit, 0.0)
        # Rounding may have carried sums of the largest floats beyond them.
        logit = tl.minimum(tl.maximum(logit, -_FLOAT_MAX), _FLOAT_MAX)

        top = tl.max(tl.where(real, logit, -_FLOAT_MAX), axis=0)
        below = tl.maximum(logit - top[None, :, :], -_SATURATION)
        e = tl.where(real, tl.exp(below), 0.0)
        denominator = tl.sum(e, axis=0)
        if WEIGHTING == _ENTROPY:
            # u ln u - u + 1 with u = C p, added over the channels, is C (ln C - H).
            level = tl.log(denominator / classes)
            distance = tl.maximum(below - level[None, :, :], -_SATURATION)
            u = e * (classes / denominator)[None, :, :]
            series = distance * (1.0 / 144.0) + 1.0 / 30.0
            series = (series * distance + 1.0 / 8.0) * distance + 1.0 / 3.0
            series = (series * distance + 0.5) * distance * distance
            part = tl.where(tl.abs(distance) < _NEAR_UNIFORM, series, u * (distance - 1.0) + 1.0)
            measure = tl.sum(tl.where(real, part, 0.0), axis=0)
        elif WEIGHTING == _EXP:
            measure = tl.log(denominator) - tl.sum(e * below, axis=0) / denominator
        else:
            measure = denominator
        keep, weight, least = _share(measure, valid, inverse_temperature, least, WEIGHTING)
        weighted = keep[None, :, :] * weighted + (weight / denominator)[None, :, :] * e
        total = keep * total + weight

    some = (total > 0.0)[None, :, :]
    certain = tl.where(c == 0, 1.0, 0.0)
    p = tl.where(some, weighted / tl.where(some, total[None, :, :], 1.0), certain)
    pixel = y.to(tl.int64) * width + x
    places = c.to(tl.int64) * (tl.cast(height, tl.int64) * width) + pixel[None, :, :]
    if STATE:
        keep_state = tl.load(settings + 2)
        reset = tl.load(settings + 3) + tl.zeros([1, ROWS, COLUMNS], tl.float32)
        before = tl.load(state + places, inside & (reset == 0.0), float("nan"))
        finite = (tl.abs(before) <= _FLOAT_MAX) | (real == 0)
        usable = (tl.sum((finite == 0).to(tl.int32), axis=0) == 0)[None, :, :]
        before = tl.where(usable & real, before, 0.0)
        p = tl.where(usable, keep_state * before + (1.0 - keep_state) * p, p)
        tl.store(state + places, p, inside)
    tl.store(probability + places, p, inside)
    largest = tl.argmax(tl.where(real, p, -1.0), axis=0, tie_break_left=True)
    tl.store(mask + pixel, largest.to(tl.uint8), on_result)


def fusion_settings(
    *,
    temperature: float = 1.0,
    threshold: float = 0.5,
    keep: float = 0.0,
    reset: bool = False,
    device: torch.device | str = "cuda",
) -> torch.Tensor:
    """What ``fuse_views`` reads from device memory: float32 (4,), in the order of the arguments.

    A captured CUDA graph is replayed with other values after ``settings.copy_(fusion_settings(
    ...))`` or an assignment to one element.

    Args:
        temperature: positive, in nats; of the weighting ``exp``.
        threshold: 0 to 1; of the mask of one class.
        keep: weight of the state, from 0 to below 1.
        reset: do not read the state, only write it.
        device: of the tensor.

    Raises:
        InputError: an argument is not as described.
    """
    settings = torch.tensor([temperature, threshold, keep, float(reset)], dtype=torch.float32)
    # As float32, which is what the kernel reads: 1e-60 is 0 there.
    if not (math.isfinite(settings[0]) and settings[0] > 0.0):
        raise InputError(f"temperature must be positive and finite, got {temperature}")
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"threshold must lie between 0 and 1, got {threshold}")
    if not (keep >= 0.0 and settings[2] < 1.0):
        raise InputError(f"keep must be at least 0 and below 1, got {keep}")
    return settings.to(device)


def pack_views(views: Sequence[View | tuple[torch.Tensor, Flip]]) -> PackedViews:
    """Describe views to the kernels once, for many calls of ``fuse_views``.

    Args:
        views: 1 to 256 pairs of logits (C, h, w), float32 or float16, contiguous, and how the
            network's input was mirrored; of the same number of channels (1 to 255), sides 1 to
            65535, on one device.

    Raises:
        InputError: an argument is not as described.
    """
    if not 1 <= len(views) <= MAX_VIEWS:
        raise InputError(f"1 to {MAX_VIEWS} views can be fused, got {len(views)}")
    packed = tuple(View(*view) for view in views)
    rows = []
    for index, (logits, flip) in enumerate(packed):
        name = f"logits of view {index}"
        check_tensor(name, logits, tuple(_TYPES), packed[0].logits.device if index else None)
        if logits.ndim != 3:
            raise InputError(f"{name} must have the shape (C, h, w), got {tuple(logits.shape)}")
        if not logits.is_contiguous():
            raise InputError(f"{name} must be contiguous: pass logits.contiguous()")
        channels, height, width = logits.shape
        if not 1 <= channels <= MAX_CHANNELS:
            raise InputError(f"view {index} has {channels} channels; 1 to {MAX_CHANNELS} can be")
        if channels != packed[0].logits.shape[0]:
            raise InputError(
                f"views must have the same classes, but view 0 has {packed[0].logits.shape[0]} "
                f"channel(s) and view {index} has {channels}"
            )
        check_sides(f"view {index}", height, width)
        if flip not in FLIPS:
            raise InputError(
                f"flip of view {index} must be one of {', '.join(FLIPS)}, got {flip!r}"
            )
        # FLIPS is ordered so that the index is the sum of 1 (columns) and 2 (rows).
        rows.append([logits.data_ptr(), height, width, FLIPS.index(flip), _TYPES[logits.dtype]])
    types = {row[4] for row in rows}
    table = torch.tensor(rows, dtype=torch.int64).to(packed[0].logits.device)
    return PackedViews(packed, table, types.pop() if len(types) == 1 else _MIXED)


def fuse_views(
    views: PackedViews | Sequence[View | tuple[torch.Tensor, Flip]],
    height_px: int,
    width_px: int,
    *,
    weighting: Weighting = "entropy",
    temperature: float = 1.0,
    threshold: float = 0.5,
    keep: float = 0.0,
    reset: bool = False,
    settings: torch.Tensor | None = None,
    state: torch.Tensor | None = None,
    probability: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> Fused:
    """As ``edgeseg.kernels.fuse_views``, on tensors: fuse, smooth over time, decide the mask.

    Args:
        views: as ``pack_views`` takes them, or what it made of them. A sequence costs a small
            copy from the host at every call.
        height_px: rows of the result, 1 to 65535.
        width_px: columns of the result, 1 to 65535.
        weighting: of the views, pixel by pixel: ``1 - H / ln(max(C, 2))`` (``entropy``),
            ``exp(-H / temperature)`` (``exp``) or 1 (``mean``).
        temperature: positive, in nats; used by ``exp`` alone.
        threshold: 0 to 1; of the mask of one class, which is 1 where ``p > threshold``. Several
            classes compete: the largest wins, the lower index at a tie.
        keep: weight of ``state``, from 0 to below 1; positive values need ``state``.
        reset: do not read ``state``, only write it.
        settings: these four from device memory instead (``fusion_settings``), without a copy
            from the host. The values are the caller's to check.
        state: contiguous float32 (C, H, W), or (H, W) for one channel; probabilities of the frames
            before, updated in place.
        probability: contiguous float32 to write into, shaped as ``Fused.probability``; it may be
            ``state``. None: a new tensor.
        mask: contiguous uint8 (H, W) to write into. None: a new tensor.

    Returns:
        The probabilities and the mask: ``probability`` and ``mask`` where they were given.

    Raises:
        InputError: an argument is not as described, or on a device that no kernel reaches.
    """
    check_sides("the result", height_px, width_px)
    if weighting not in WEIGHTINGS:
        raise InputError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
    packed = views if isinstance(views, PackedViews) else pack_views(views)
    device = packed.table.device
    channels = packed.views[0].logits.shape[0]
    if settings is None:
        settings = fusion_settings(
            temperature=temperature, threshold=threshold, keep=keep, reset=reset, device=device
        )
        if state is None and keep > 0.0:
            raise InputError(f"smoothing over time (keep {keep}) needs a state to smooth with")
    elif (temperature, threshold, keep, reset) != (1.0, 0.5, 0.0, False):
        raise InputError(
            "temperature, threshold, keep and reset stand in `settings`: pass them to "
            "fusion_settings"
        )
    check_output("settings", settings, torch.float32, ((4,),), device)
    plane = (height_px, width_px)
    whole = (channels, height_px, width_px)
    if state is not None:
        check_output(
            "state", state, torch.float32, (plane, whole) if channels == 1 else (whole,), device
        )
    shape = plane if channels == 1 else whole
    if probability is None:
        probability = torch.empty(shape, dtype=torch.float32, device=device)
    else:
        check_output("probability", probability, torch.float32, (shape,), device)
    if mask is None:
        mask = torch.empty(plane, dtype=torch.uint8, device=device)
    else:
        check_output("mask", mask, torch.uint8, (plane,), device)

    sides = [side for view in packed.views for side in view.logits.shape[1:]]
    arguments = (
        packed.table,
        len(packed.views),
        settings,
        probability if state is None else state,
        probability,
        mask,
        height_px,
        width_px,
    )
    options = {
        "WEIGHTING": WEIGHTINGS.index(weighting),
        "TYPE": packed.type_code,
        # Positions are computed in 32 bits where they fit.
        "WIDE": 2 * (max(plane) + _LARGEST_BLOCK) * max(sides) >= 2**31,
        "STATE": state is not None,
    }
    rows, columns = _tile(height_px, width_px, channels)
    grid = (triton.cdiv(width_px, columns), triton.cdiv(height_px, rows))
    options.update(ROWS=rows, COLUMNS=columns, **FOUR_WARPS)
    with on_device(device):
        if channels == 1:
            _fuse_one[grid](*arguments, **options)
        else:
            _fuse_many[grid](
                *arguments, channels, **options, CHANNELS=triton.next_power_of_2(channels)
            )
    return Fused(probability, mask)


def _tile(height_px: int, width_px: int, channels: int) -> tuple[int, int]:
    """Rows and columns of a program: few enough pixels that four warps hold them in registers."""
    if interpreted():
        return interpreter_tile(height_px)
    largest = _LARGEST_BLOCK if channels == 1 else max(4, min(128, 2048 // channels))
    return 1, int(min(triton.next_power_of_2(width_px), largest))
