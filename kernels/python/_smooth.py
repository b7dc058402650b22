"""Gaussian smoothing of volumes along z, on the compiled library."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.kernels._library import MAX_THREADS, Library, library

__all__ = ["MAX_CHANNELS", "MAX_RADIUS", "Smoothed", "gaussian_weights", "smooth_z"]

MAX_RADIUS = 1024
"""Largest distance between slices that are added up (``EDGESEG_MAX_RADIUS``)."""

MAX_CHANNELS = 255
"""Largest number of channels (``EDGESEG_MAX_CHANNELS``)."""

_TYPES = (
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_int32,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_int32,
    ctypes.c_int32,
    ctypes.POINTER(ctypes.c_float),
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
)


@dataclass(frozen=True)
class Smoothed:
    """What ``smooth_z`` was asked for."""

    probability: npt.NDArray[np.float32] | None
    """(C, count, H, W), or (count, H, W) for a volume without an axis of channels."""
    mask: npt.NDArray[np.uint8] | None
    """(count, H, W): class index, 0 is background."""


def gaussian_weights(sigma: float, truncate: float = 4.0) -> npt.NDArray[np.float64]:
    """Weights of a sampled Gaussian at the distances 0 to ``int(truncate * sigma + 0.5)``.

    With their mirror image they sum to 1. Source: ``scipy.ndimage.gaussian_filter1d``, order 0.

    Args:
        sigma: standard deviation in slices, 0 or more; 0 gives the weight 1 alone.
        truncate: standard deviations at which the Gaussian ends.

    Returns:
        float64 (radius + 1,), from the middle outwards.

    Raises:
        InputError: sigma or truncate is negative or not finite, or the radius above 1024.
    """
    if not (math.isfinite(sigma) and sigma >= 0.0):
        raise InputError(f"sigma must be at least 0 slices, got {sigma}")
    if not (math.isfinite(truncate) and truncate >= 0.0):
        raise InputError(f"truncate must be at least 0 standard deviations, got {truncate}")
    reach = truncate * sigma + 0.5
    if reach >= MAX_RADIUS + 1:
        raise InputError(
            f"a Gaussian with sigma {sigma}, cut off at {truncate} sigma, spans more than "
            f"{MAX_RADIUS} slices to either side: choose a smaller one"
        )
    distance = np.arange(-int(reach), int(reach) + 1)
    # The variance may underflow to 0, where the division then gives the limit: one weight of 1.
    variance = np.float64(sigma * sigma)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exponent = np.where(distance == 0, 0.0, -0.5 / variance * distance**2)
    weights = np.exp(exponent)
    half: npt.NDArray[np.float64] = (weights / weights.sum())[int(reach) :]
    return half


def smooth_z(
    volume: npt.NDArray[np.float32],
    weights: npt.NDArray[np.floating[Any]],
    *,
    first: int = 0,
    count: int | None = None,
    threshold: float | None = 0.5,
    probability: bool = True,
    mask: bool = False,
    out: npt.NDArray[np.float32] | None = None,
    mask_out: npt.NDArray[np.uint8] | None = None,
    threads: int = 1,
    native: Library | None = None,
) -> Smoothed:
    """Weighted sum along the depth of a volume, edges replicated; and the mask of the result.

    ``out[z] = weights[0] * v[z] + sum_k weights[k] * (v[z - k] + v[z + k])`` in float32. Voxels
    that are NaN count as 0, infinite ones as +-65504. A slab of a volume, given with ``radius``
    neighbours on either side (fewer at the ends of the volume), has the same bits as the whole.

    Args:
        volume: C-contiguous float32 (C, D, H, W), 1 to 255 channels, or (D, H, W).
        weights: at the distances 0 to radius, finite, radius at most 1024; rounded to float32.
        first: the first slice that is wanted.
        count: how many slices are wanted; None for all from ``first`` on.
        threshold: of the mask of one channel, which is 1 where the result is larger. Several
            channels compete and do not read it: the largest wins, the lower index at a tie.
        probability: whether the smoothed volume is wanted.
        mask: whether the mask is wanted.
        out: C-contiguous float32 array to write into, shaped as ``Smoothed.probability``; it must
            not overlap ``volume``. None: a new array.
        mask_out: C-contiguous uint8 (count, H, W) to write into. None: a new array.
        threads: 1 to 64 threads that share the work, the calling one among them.
        native: the library to use instead of this installation's.

    Returns:
        What was asked for: ``out`` and ``mask_out`` where they were given.

    Raises:
        InputError: an argument is not as described, or nothing is wanted.
        NativeLibraryError: the compiled library is missing or of another version.
    """
    _check_volume(volume)
    *lead, depth, height, width = volume.shape
    channels = lead[0] if lead else 1
    taps = _check_weights(weights)
    if count is None:
        count = depth - first
    if not (0 <= first < depth and 1 <= count <= depth - first):
        raise InputError(f"slices {first} to {first + count} are not among 0 to {depth}")
    if not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads must be 1 to {MAX_THREADS}, got {threads}")
    if not (probability or mask):
        raise InputError("neither the probability nor the mask is wanted: choose one of them")
    level = _level(threshold, needed=mask and channels == 1)
    shape = (count, height, width)
    smoothed = _result("out", out, (*lead, *shape), np.float32, wanted=probability)
    if smoothed is not None and np.may_share_memory(smoothed, volume):
        raise InputError("out must not overlap the volume")
    decided = _result("mask_out", mask_out, shape, np.uint8, wanted=mask)
    (native or library()).call(
        "edgeseg_smooth_z",
        _TYPES,
        volume.ctypes.data,
        channels,
        depth,
        height * width,
        taps.ctypes.data,
        len(taps) - 1,
        first,
        count,
        level,
        threads,
        None if smoothed is None else smoothed.ctypes.data,
        None if decided is None else decided.ctypes.data,
    )
    return Smoothed(smoothed, decided)


def _check_volume(volume: npt.NDArray[np.float32]) -> None:
    if not isinstance(volume, np.ndarray) or volume.dtype != np.float32:
        raise InputError("a volume is a float32 numpy array")
    if volume.ndim not in (3, 4) or 0 in volume.shape:
        raise InputError(f"a volume is not empty and (C, D, H, W) or (D, H, W), got {volume.shape}")
    if not (volume.flags.c_contiguous and volume.flags.aligned):
        raise InputError("the volume must be C-contiguous and aligned")
    if volume.ndim == 4 and volume.shape[0] > MAX_CHANNELS:
        raise InputError(f"a volume has 1 to {MAX_CHANNELS} channels, got {volume.shape[0]}")
    if volume.shape[-3] >= 2**31:
        raise InputError(f"a volume has fewer than 2**31 slices, got {volume.shape[-3]}")


def _check_weights(weights: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    values = np.asarray(weights)
    if values.dtype.kind != "f" or values.ndim != 1 or not 1 <= len(values) <= MAX_RADIUS + 1:
        raise InputError(
            f"weights are 1 to {MAX_RADIUS + 1} floats, got {values.dtype} {values.shape}"
        )
    with np.errstate(over="ignore"):
        taps = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(taps).all():
        raise InputError("weights must be finite")
    return taps


def _level(threshold: float | None, *, needed: bool) -> ctypes.c_float | None:
    if not needed:
        return None
    if threshold is None or math.isnan(threshold):
        raise InputError(f"the mask of one channel needs a threshold, got {threshold}")
    return ctypes.c_float(threshold)


def _result(
    name: str, array: Any, shape: tuple[int, ...], dtype: Any, *, wanted: bool
) -> npt.NDArray[Any] | None:
    if not wanted:
        if array is not None:
            raise InputError(f"{name} is given, but nothing to write into it is wanted")
        return None
    if array is None:
        return np.empty(shape, dtype)
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        found = (
            f"{array.dtype} {array.shape}"
            if isinstance(array, np.ndarray)
            else type(array).__name__
        )
        raise InputError(f"{name} must be {np.dtype(dtype)} {shape}, got {found}")
    if not array.flags.carray:
        raise InputError(f"{name} must be C-contiguous, aligned and writeable")
    return array
