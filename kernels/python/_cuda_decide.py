"""``decide_mask``, a read-out of one view on the device; ``edgeseg.kernels.cuda`` offers it."""

from __future__ import annotations

import ctypes

import numpy as np

from edgeseg.errors import InputError
from edgeseg.kernels import _fuse
from edgeseg.kernels._cuda_library import CudaLibrary, library
from edgeseg.kernels._device_array import Block, DeviceArray, read_array, target_address
from edgeseg.kernels._library import MAX_SIDE_PX

__all__ = ["decide_mask"]

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32
_TYPES = (
    *(_POINTER, _INT, _INT, _INT, _INT),
    *(_POINTER, ctypes.c_ssize_t, _INT, _INT),
    *(_INT, _INT, _INT, _INT),
    *(_INT, _POINTER, _POINTER, _POINTER),
)


def decide_mask(
    planes: DeviceArray,
    mask: DeviceArray,
    *,
    level: DeviceArray | None,
    window_px: tuple[int, int, int, int] | None = None,
    align_corners: bool = False,
    counts: DeviceArray | None = None,
    stream: int = 0,
    native: CudaLibrary | None = None,
) -> None:
    """Resample the planes of one view to the frame and decide the mask, on the device.

    It equals ``edgeseg.readout.resize_logits`` and ``mask_from_logits`` (or
    ``mask_from_probability``) but for rounding: bilinear, edges replicated, no antialiasing. A
    sample of weight 0 takes no part, whatever it is. NaN is background: with one class it is above
    no level; with several it keeps the pixel if it lies in channel 0, and wins nothing elsewhere.

    Args:
        planes: C-contiguous float32 or float16 (C, h, w), logits or probabilities, 1 to 255
            channels, sides 1 to 65535.
        mask: uint8 (H, W), sides 1 to 65535; rows may be any distance apart. All of it is written:
            the window as decided, the rest with 0.
        level: float32 of one element; with one class a pixel is 1 where its value is above it. None
            with several, which compete: the largest value, the lower class at a tie.
        window_px: (x, y, width, height) within the mask that the planes cover; None: all of it.
        align_corners: lay the corners' centres onto each other, instead of half-pixel centres.
        counts: C-contiguous uint32 (max(C, 2),): set to how many pixels of the window got each
            class.
        stream: to enqueue on.
        native: the library to use instead of this installation's.

    Raises:
        InputError: an argument is not as described.
        BackendUnavailableError: there is no CUDA device.
        BackendError: CUDA refused the work.
        NativeLibraryError: the library is missing or of another version.
    """
    source = read_array("planes", planes, (np.float32, np.float16))
    if len(source.shape) != 3:
        raise InputError(f"planes must have the shape (C, h, w), got {source.shape}")
    channels, height, width = source.shape
    if channels > _fuse.MAX_CHANNELS or max(height, width) > MAX_SIDE_PX:
        raise InputError(
            f"planes have at most {_fuse.MAX_CHANNELS} channels and sides up to {MAX_SIDE_PX}, got "
            f"{source.shape}"
        )
    target = _mask(mask)
    rows, columns = target.shape
    x, y, wide, high = (0, 0, columns, rows) if window_px is None else window_px
    if min(x, y) < 0 or not (1 <= wide <= columns - x and 1 <= high <= rows - y):
        raise InputError(
            f"window_px is (x, y, width, height) within a mask of {columns}x{rows} pixels, got "
            f"{window_px}"
        )
    (native or library()).call(
        "edgeseg_cuda_decide_mask",
        _TYPES,
        source.address,
        _fuse._DTYPES[source.dtype],
        channels,
        width,
        height,
        target.address,
        target.strides[0],
        columns,
        rows,
        x,
        y,
        wide,
        high,
        int(align_corners),
        _level(level, channels),
        target_address("counts", counts, np.uint32, ((max(channels, 2),),)),
        stream,
    )


def _mask(array: DeviceArray) -> Block:
    block = read_array("mask", array, (np.uint8,), contiguous=False, writeable=True)
    if len(block.shape) != 2 or max(block.shape) > MAX_SIDE_PX:
        raise InputError(
            f"a mask has the shape (H, W), sides up to {MAX_SIDE_PX}, got {block.shape}"
        )
    height, width = block.shape
    if (width > 1 and block.strides[1] != 1) or (height > 1 and abs(block.strides[0]) < width):
        raise InputError(
            "a mask that is written must have rows without gaps that do not overlap, got strides "
            f"{block.strides} for shape {block.shape}"
        )
    return block


def _level(array: DeviceArray | None, channels: int) -> int | None:
    if channels > 1:
        if array is not None:
            raise InputError("a level has no meaning for several classes, which compete by argmax")
        return None
    if array is None:
        raise InputError("the mask of one class needs a level")
    block = read_array("level", array, (np.float32,))
    if block.nbytes != 4:
        raise InputError(f"a level is one float32, got the shape {block.shape}")
    return block.address
