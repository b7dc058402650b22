"""Smoothing of volumes along z, and the mask of the result, in one launch.

A program computes a run of consecutive slices for some voxels of the plane. It goes once through
the slices that the run depends on and adds each, weighted, to all slices of the run, so a voxel
is read about ``1 + 2 * radius / run`` times, and from memory once: programs of neighbouring runs
are next to each other and meet in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from edgeseg.errors import InputError
from edgeseg.kernels._smooth import MAX_CHANNELS, MAX_RADIUS
from edgeseg.kernels.triton_kernels._launch import ONE_WARP, check_tensor, interpreted, on_device

__all__ = ["Smoothed", "smooth_z"]

_FLOAT_MAX = tl.constexpr(3.4028234663852886e38)
_LARGEST_VALUE = tl.constexpr(65504.0)


class Smoothed(NamedTuple):
    """What ``smooth_z`` was asked for."""

    probability: torch.Tensor | None
    """float32 (C, count, H, W), or (count, H, W) for a volume without an axis of channels."""
    mask: torch.Tensor | None
    """uint8 (count, H, W): class index, 0 is background."""


@triton.jit
def _smooth(
    volume,
    weights,
    threshold,
    out,
    mask,
    channels,
    depth,
    plane,
    radius,
    first,
    count,
    OUT: tl.constexpr,
    MASK: tl.constexpr,
    ONE: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    runs = tl.cdiv(count, RUN)
    start = tl.program_id(0) % runs * RUN
    pixel = (tl.program_id(0) // runs).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < plane
    slices = start + tl.arange(0, RUN)
    size = tl.cast(plane, tl.int64)
    places = slices.to(tl.int64)[:, None] * size + pixel[None, :]
    wanted = (slices < count)[:, None] & inside[None, :]

    best = tl.full([RUN, BLOCK], -_FLOAT_MAX, tl.float32)
    index = tl.zeros([RUN, BLOCK], tl.int32)
    for c in range(0, channels):
        source = volume + c * (size * depth) + pixel
        total = tl.zeros([RUN, BLOCK], tl.float32)
        last = tl.minimum(start + RUN, count) - 1 + radius
        # Stages: slices are on their way into shared memory while earlier ones are added.
        for z in tl.range(start - radius, last + 1, num_stages=4):
            depth_index = tl.minimum(tl.maximum(first + z, 0), depth - 1)
            value = tl.load(source + depth_index * size, inside, 0.0)
            large = tl.where(value > 0.0, _LARGEST_VALUE, -_LARGEST_VALUE)
            value = tl.where(tl.abs(value) > _FLOAT_MAX, large, value)
            value = tl.where(value == value, value, 0.0)
            distance = tl.abs(slices - z)
            weight = tl.load(weights + distance, distance <= radius, 0.0)
            total += weight[:, None] * value[None, :]
        if OUT:
            tl.store(out + c * (size * count) + places, total, wanted)
        if MASK:
            if ONE:
                index = (total > tl.load(threshold)).to(tl.int32)
            else:
                # Later channels win where they are larger, not where they are equal.
                higher = total > best
                index = tl.where(higher, c, index)
                best = tl.where(higher, total, best)
    if MASK:
        tl.store(mask + places, index.to(tl.uint8), wanted)


def smooth_z(
    volume: torch.Tensor,
    weights: torch.Tensor | np.ndarray[Any, Any] | Sequence[float],
    *,
    first: int = 0,
    count: int | None = None,
    threshold: torch.Tensor | float = 0.5,
    probability: bool = True,
    mask: bool = False,
) -> Smoothed:
    """As ``edgeseg.kernels.smooth_z``, on tensors: weighted sum along the depth, edges replicated.

    Voxels that are NaN count as 0, infinite ones as +-65504.

    Args:
        volume: contiguous float32 (C, D, H, W), 1 to 255 channels, or (D, H, W).
        weights: at the distances 0 to radius, radius at most 1024: finite numbers, or a contiguous
            float32 tensor (radius + 1,) on the device of the volume.
        first: the first slice that is wanted.
        count: how many slices are wanted; None for all from ``first`` on.
        threshold: of the mask of one channel, which is 1 where the result is larger: a number, or
            a float32 tensor of one element on the device of the volume. Several channels compete:
            the largest wins, the lower index at a tie.
        probability: whether the smoothed volume is wanted.
        mask: whether the mask is wanted.

    Returns:
        What was asked for, in new tensors.

    Raises:
        InputError: an argument is not as described, or nothing is wanted.
    """
    check_tensor("the volume", volume, (torch.float32,))
    if volume.ndim not in (3, 4) or 0 in volume.shape:
        raise InputError(
            f"a volume is not empty and (C, D, H, W) or (D, H, W), got {tuple(volume.shape)}"
        )
    if not volume.is_contiguous():
        raise InputError("the volume must be contiguous: pass volume.contiguous()")
    *lead, depth, height, width = volume.shape
    channels = lead[0] if lead else 1
    if channels > MAX_CHANNELS:
        raise InputError(f"a volume has 1 to {MAX_CHANNELS} channels, got {channels}")
    taps = _weights(weights, volume.device)
    if count is None:
        count = depth - first
    if not (0 <= first < depth and 1 <= count <= depth - first):
        raise InputError(f"slices {first} to {first + count} are not among 0 to {depth}")
    if not (probability or mask):
        raise InputError("neither the probability nor the mask is wanted: choose one of them")

    radius = len(taps) - 1
    # Longer runs read fewer slices twice, up to what a thread's registers hold.
    run = 4 if interpreted() else min(max(triton.next_power_of_2(2 * radius), 8), 16)
    run = min(run, triton.next_power_of_2(count))
    # A mask of several channels keeps two more values for each voxel in registers.
    voxels = 1024 if mask and channels > 1 else 2048
    block = 64 if interpreted() else min(voxels // run, 256)
    plane = height * width
    device = volume.device
    smoothed = torch.empty((*lead, count, height, width), device=device) if probability else None
    decided = None
    if mask:
        decided = torch.empty((count, height, width), dtype=torch.uint8, device=device)
    level = _level(threshold, device) if mask and channels == 1 else taps
    with on_device(device):
        _smooth[(triton.cdiv(count, run) * triton.cdiv(plane, block),)](
            volume,
            taps,
            level,
            # What is not wanted is not touched; any address will do.
            volume if smoothed is None else smoothed,
            volume if decided is None else decided,
            channels,
            depth,
            plane,
            radius,
            first,
            count,
            OUT=probability,
            MASK=mask,
            ONE=channels == 1,
            RUN=run,
            BLOCK=block,
            # One warp: a thread holds all slices of the run for some neighbouring voxels.
            **ONE_WARP,
        )
    return Smoothed(smoothed, decided)


def _weights(weights: Any, device: torch.device) -> torch.Tensor:
    if isinstance(weights, torch.Tensor):
        check_tensor("weights", weights, (torch.float32,), device)
        taps = weights
    else:
        values = np.asarray(weights, np.float64)
        if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > _FLOAT_MAX.value:
            raise InputError("weights must be finite")
        taps = torch.from_numpy(values.astype(np.float32)).to(device)
    if taps.ndim != 1 or not 1 <= len(taps) <= MAX_RADIUS + 1 or not taps.is_contiguous():
        raise InputError(
            f"weights are 1 to {MAX_RADIUS + 1} floats, contiguous, got {tuple(taps.shape)}"
        )
    return taps


def _level(threshold: torch.Tensor | float, device: torch.device) -> torch.Tensor:
    if isinstance(threshold, torch.Tensor):
        check_tensor("threshold", threshold, (torch.float32,), device)
        if threshold.numel() != 1:
            raise InputError(f"threshold has one element, got {tuple(threshold.shape)}")
        return threshold
    if math.isnan(threshold):
        raise InputError("the mask of one channel needs a threshold, got NaN")
    return torch.tensor([threshold], dtype=torch.float32).to(device)
