"""``smooth_z`` on the device; ``edgeseg.kernels.cuda`` offers it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.kernels import _smooth
from edgeseg.kernels._cuda_library import CudaLibrary, library
from edgeseg.kernels._device_array import DeviceArray, read_array, target_address
from edgeseg.kernels._library import MAX_SIDE_PX

__all__ = ["smooth_z"]

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32
_TYPES = (
    *(_POINTER, _INT, _INT, ctypes.c_int64, _POINTER, _INT, _INT, _INT),
    *(_POINTER, _POINTER, _POINTER, _POINTER),
)


def smooth_z(
    volume: DeviceArray,
    weights: npt.NDArray[np.floating[Any]],
    *,
    first: int = 0,
    count: int | None = None,
    threshold: DeviceArray | None = None,
    out: DeviceArray | None = None,
    mask: DeviceArray | None = None,
    stream: int = 0,
    native: CudaLibrary | None = None,
) -> None:
    """``edgeseg.kernels.smooth_z`` on the device: smooth along the depth, decide the mask.

    Args:
        volume: C-contiguous float32 (C, D, H, W), 1 to 255 channels, or (D, H, W); at most 65535
            slices.
        weights: in host memory, at the distances 0 to radius, finite, radius at most 1024.
        first: the first slice that is wanted.
        count: how many slices are wanted; None for all from ``first`` on.
        threshold: float32 of one element; needed by the mask of one channel.
        out: C-contiguous float32 (C, count, H, W), or (count, H, W) for a volume without an axis of
            channels; it must not overlap ``volume``.
        mask: C-contiguous uint8 (count, H, W).
        stream: to enqueue on.
        native: the library to use instead of this installation's.

    Raises:
        InputError: an argument is not as described, or nothing is to be written.
        BackendUnavailableError: there is no CUDA device.
        BackendError: CUDA refused the work.
        NativeLibraryError: the library is missing or of another version.
    """
    source = read_array("volume", volume, (np.float32,))
    if len(source.shape) not in (3, 4):
        raise InputError(f"a volume is (C, D, H, W) or (D, H, W), got {source.shape}")
    *lead, depth, height, width = source.shape
    channels = lead[0] if lead else 1
    if channels > _smooth.MAX_CHANNELS or depth > MAX_SIDE_PX:
        raise InputError(
            f"a volume has at most {_smooth.MAX_CHANNELS} channels and {MAX_SIDE_PX} slices, got "
            f"{source.shape}"
        )
    taps = _smooth._check_weights(weights)
    if count is None:
        count = depth - first
    if not (0 <= first < depth and 1 <= count <= depth - first):
        raise InputError(f"slices {first} to {first + count} are not among 0 to {depth}")
    if out is None and mask is None:
        raise InputError("nothing to write: give out or mask")
    level = None
    if mask is not None and channels == 1:
        if threshold is None:
            raise InputError("the mask of one channel needs a threshold")
        level = read_array("threshold", threshold, (np.float32,)).address
    shape = (count, height, width)
    smoothed = target_address("out", out, np.float32, ((*lead, *shape),))
    if smoothed is not None:
        size = 4 * channels * count * height * width
        if smoothed < source.address + source.nbytes and source.address < smoothed + size:
            raise InputError("out must not overlap the volume")
    (native or library()).call(
        "edgeseg_cuda_smooth_z",
        _TYPES,
        source.address,
        channels,
        depth,
        height * width,
        taps.ctypes.data,
        len(taps) - 1,
        first,
        count,
        level,
        smoothed,
        target_address("mask", mask, np.uint8, (shape,)),
        stream,
    )
