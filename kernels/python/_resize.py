"""Pillow's antialiased resize and the normalisation after it, on the compiled library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.kernels._library import MAX_SIDE_PX, MAX_THREADS, Frame, Library, library
from edgeseg.spec import RoiSpec

__all__ = [
    "Resample",
    "as_rows",
    "check_normalization",
    "check_output",
    "check_size",
    "crop",
    "describe",
    "filter_index",
    "resize_normalize",
    "resize_u8",
]

Resample = Literal["bilinear", "bicubic"]

_FILTERS = {"bilinear": 0, "bicubic": 1}


def resize_normalize(
    frame: npt.NDArray[np.uint8],
    height_px: int,
    width_px: int,
    *,
    resample: Resample,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float = 1.0 / 255.0,
    roi: RoiSpec | None = None,
    out: npt.NDArray[np.float32] | None = None,
    threads: int = 1,
    native: Library | None = None,
) -> npt.NDArray[np.float32]:
    """Resample a BGR frame to RGB planes and write ``(value * scale - mean) / std``.

    The 8-bit ``value`` is that of ``resize_u8``. The normalisation is one fused multiply-add in
    double precision with gain ``scale / std`` and offset ``-mean / std``, rounded to float32 once.

    Args:
        frame: uint8 (H, W, 3), BGR, any strides; sides up to 65535. Other than positive or
            negative row strides cost a copy.
        height_px: rows of the result, 1 to 65535.
        width_px: columns of the result, 1 to 65535.
        resample: Pillow's filter of that name, antialiased.
        mean: three values in the order R, G, B, in units of ``value * scale``.
        std: three positive values in the order R, G, B, in units of ``value * scale``.
        scale: positive factor applied to the 8-bit values first.
        roi: region of the frame to resample; pixels outside do not count. None: all of it.
        out: C-contiguous float32 (1, 3, height_px, width_px) or (3, height_px, width_px) to write
            into. None: a new array.
        threads: 1 to 64 threads that share the work, the calling one among them.
        native: the library to use instead of this installation's.

    Returns:
        float32 (1, 3, height_px, width_px): ``out``, or a view of it, if it was given.

    Raises:
        InputError: an argument is not as described, or ``roi`` leaves the frame.
        NativeLibraryError: the compiled library is missing or of another version.
    """
    check_size(height_px, width_px, threads)
    check_normalization(scale, mean, std)
    region = as_rows(crop(frame, roi))
    result = _output(out, height_px, width_px)
    (native or library()).resize_normalize(
        describe(region),
        (height_px, width_px),
        filter_index(resample),
        scale=scale,
        mean=mean,
        std=std,
        threads=threads,
        out=result.ctypes.data,
    )
    return result


def resize_u8(
    frame: npt.NDArray[np.uint8],
    height_px: int,
    width_px: int,
    *,
    resample: Resample,
    roi: RoiSpec | None = None,
    out: npt.NDArray[np.uint8] | None = None,
    threads: int = 1,
    native: Library | None = None,
) -> npt.NDArray[np.uint8]:
    """Resample a picture exactly as Pillow's ``Image.crop(roi).resize((width, height), resample)``.

    The two passes are rounded to 8 bits each. Their order is that of Pillow 13: rows first where
    the height shrinks by more than twice as many pixels as the width, columns first otherwise.
    Earlier versions of Pillow always go columns first, which differs by rounding in such pictures.

    Args:
        frame: uint8 (H, W, 3), channels in any order, any strides; sides up to 65535.
        height_px: rows of the result, 1 to 65535.
        width_px: columns of the result, 1 to 65535.
        resample: Pillow's filter of that name, antialiased.
        roi: region of the frame to resample; pixels outside do not count. None: all of it.
        out: C-contiguous uint8 (height_px, width_px, 3) to write into. None: a new array.
        threads: 1 to 64 threads that share the work, the calling one among them.
        native: the library to use instead of this installation's.

    Returns:
        uint8 (height_px, width_px, 3), channels in the order of the frame; ``out`` if it was given.

    Raises:
        InputError: an argument is not as described, or ``roi`` leaves the frame.
        NativeLibraryError: the compiled library is missing or of another version.
    """
    check_size(height_px, width_px, threads)
    region = as_rows(crop(frame, roi))
    shape = (height_px, width_px, 3)
    if out is None:
        out = np.empty(shape, np.uint8)
    else:
        check_output(out, np.uint8, shape)
    (native or library()).resize_u8(
        describe(region), (height_px, width_px), filter_index(resample), threads, out.ctypes.data
    )
    return out


def crop(frame: npt.NDArray[np.uint8], roi: RoiSpec | None) -> npt.NDArray[np.uint8]:
    """The region of interest of a checked frame, as a view.

    Raises:
        InputError: the frame is not a uint8 (H, W, 3) array of sides 1 to 65535, or ``roi`` leaves
            it.
    """
    if not isinstance(frame, np.ndarray):
        raise InputError(f"a frame is a numpy array, got {type(frame).__name__}")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(f"a frame is uint8 of shape (H, W, 3), got {frame.dtype} {frame.shape}")
    height, width = frame.shape[:2]
    if not (1 <= height <= MAX_SIDE_PX and 1 <= width <= MAX_SIDE_PX):
        raise InputError(
            f"the sides of a frame are 1 to {MAX_SIDE_PX} pixels, got {height}x{width}"
        )
    if roi is None:
        return frame
    if roi.x_px + roi.width_px > width or roi.y_px + roi.height_px > height:
        raise InputError(f"the region of interest {roi} leaves the frame of {height}x{width}")
    return frame[roi.y_px : roi.y_px + roi.height_px, roi.x_px : roi.x_px + roi.width_px]


def check_size(height_px: int, width_px: int, threads: int) -> None:
    """Refuse a size of results, or a number of threads, that the library does not take.

    Raises:
        InputError: saying which.
    """
    if not (1 <= height_px <= MAX_SIDE_PX and 1 <= width_px <= MAX_SIDE_PX):
        raise InputError(
            f"the sides of the result are 1 to {MAX_SIDE_PX} pixels, got {height_px}x{width_px}"
        )
    if not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads must be 1 to {MAX_THREADS}, got {threads}")


def check_normalization(scale: float, mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse what is no normalisation of three channels.

    Raises:
        InputError: saying why.
    """
    if len(mean) != 3 or len(std) != 3:
        raise InputError(f"mean and std have three values (R, G, B), got {mean} and {std}")
    if not (math.isfinite(scale) and scale > 0 and all(math.isfinite(m) for m in mean)):
        raise InputError(f"scale must be positive and mean finite, got {scale} and {mean}")
    if not all(math.isfinite(s) and s > 0 for s in std):
        raise InputError(f"std must be positive and finite, got {std}")


def filter_index(resample: str) -> int:
    """The ``edgeseg_filter`` of that name.

    Raises:
        InputError: there is none.
    """
    try:
        return _FILTERS[resample]
    except KeyError:
        raise InputError(
            f"resample must be one of {', '.join(_FILTERS)}, got {resample!r}"
        ) from None


def as_rows(region: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The region with interleaved pixels in each row; rows may be any distance apart."""
    if region.strides[1:] == (3, 1):
        return region
    return np.ascontiguousarray(region)


def describe(region: npt.NDArray[np.uint8]) -> Frame:
    """The ``edgeseg_frame`` of what ``as_rows`` gave; it does not keep the array alive."""
    height, width = region.shape[:2]
    return Frame(region.ctypes.data, region.strides[0], width, height)


def check_output(out: npt.NDArray[Any], dtype: type[np.generic], *shapes: tuple[int, ...]) -> None:
    """Refuse what the library cannot write a result into.

    Raises:
        InputError: it is no numpy array of that dtype and one of the shapes, or not C-contiguous
            and writeable.
    """
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        raise InputError(f"out must be a {np.dtype(dtype).name} numpy array")
    if out.shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise InputError(f"out must have the shape {wanted}, got {out.shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise InputError("out must be C-contiguous and writeable")


def _output(
    out: npt.NDArray[np.float32] | None, height_px: int, width_px: int
) -> npt.NDArray[np.float32]:
    shape = (1, 3, height_px, width_px)
    if out is None:
        return np.empty(shape, np.float32)
    check_output(out, np.float32, shape, shape[1:])
    return out if out.ndim == 4 else out[np.newaxis]
