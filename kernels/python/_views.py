"""One frame at several sizes and mirrorings, on the compiled library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.kernels._library import Frame, Library, library
from edgeseg.kernels._resize import (
    Resample,
    as_rows,
    check_normalization,
    check_size,
    crop,
    describe,
    filter_index,
)
from edgeseg.spec import FLIPS, RoiSpec, ViewSpec

__all__ = ["MAX_VIEWS", "resize_normalize_views"]

MAX_VIEWS = 256
"""Largest number of views of one call (``EDGESEG_MAX_VIEWS``)."""


class _ViewTarget(ctypes.Structure):
    """``edgeseg_view_target``."""

    _fields_ = (
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("flip_count", ctypes.c_int32),
        ("flips", ctypes.POINTER(ctypes.c_int32)),
        ("out", ctypes.c_void_p),
    )


_TYPES = (
    ctypes.POINTER(Frame),
    ctypes.POINTER(_ViewTarget),
    ctypes.c_int32,
    ctypes.c_int,
    ctypes.c_double,
    ctypes.POINTER(ctypes.c_double),
    ctypes.POINTER(ctypes.c_double),
    ctypes.c_int,
)


def resize_normalize_views(
    frame: npt.NDArray[np.uint8],
    views: Sequence[ViewSpec],
    *,
    resample: Resample,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float = 1.0 / 255.0,
    roi: RoiSpec | None = None,
    out: Sequence[npt.NDArray[np.float32]] | None = None,
    threads: int = 1,
    native: Library | None = None,
) -> tuple[npt.NDArray[np.float32], ...]:
    """``resize_normalize`` to several sizes, each with its mirrored copies.

    Each size is resampled once; the copies are written from its rows as they are made. They equal,
    bit for bit, ``resize_normalize`` and then numpy's flips of the columns and rows.

    Args:
        frame: uint8 (H, W, 3), BGR, any strides; sides up to 65535. Other than positive or
            negative row strides cost a copy.
        views: 1 to 256 sizes and flips.
        resample: Pillow's filter of that name, antialiased.
        mean: three values in the order R, G, B, in units of ``value * scale``.
        std: three positive values in the order R, G, B, in units of ``value * scale``.
        scale: positive factor applied to the 8-bit values first.
        roi: region of the frame to resample; pixels outside do not count. None: all of it.
        out: for each view a C-contiguous float32 (len(flips), 3, height_px, width_px) to write
            into. None: new arrays.
        threads: 1 to 64 threads that share the work, the calling one among them.
        native: the library to use instead of this installation's.

    Returns:
        For each view float32 (len(flips), 3, height_px, width_px), RGB, the copies in the order of
        its flips: those of ``out`` if it was given.

    Raises:
        InputError: an argument is not as described, or ``roi`` leaves the frame.
        NativeLibraryError: the compiled library is missing or of another version.
    """
    if not 1 <= len(views) <= MAX_VIEWS:
        raise InputError(f"1 to {MAX_VIEWS} views are made at once, got {len(views)}")
    for view in views:
        check_size(view.height_px, view.width_px, threads)
    check_normalization(scale, mean, std)
    method = filter_index(resample)
    region = as_rows(crop(frame, roi))
    results = _outputs(out, views)
    targets = (_ViewTarget * len(views))(*map(_target, views, results))
    (native or library()).call(
        "edgeseg_resize_normalize_views",
        _TYPES,
        ctypes.byref(describe(region)),
        targets,
        len(views),
        method,
        scale,
        (ctypes.c_double * 3)(*mean),
        (ctypes.c_double * 3)(*std),
        threads,
    )
    return results


def _target(view: ViewSpec, out: npt.NDArray[np.float32]) -> _ViewTarget:
    # FLIPS is ordered so that the index is the sum of the library's flags.
    flips = (ctypes.c_int32 * len(view.flips))(*map(FLIPS.index, view.flips))
    return _ViewTarget(view.width_px, view.height_px, len(view.flips), flips, out.ctypes.data)


def _outputs(
    out: Sequence[npt.NDArray[np.float32]] | None, views: Sequence[ViewSpec]
) -> tuple[npt.NDArray[np.float32], ...]:
    shapes = [(len(view.flips), 3, view.height_px, view.width_px) for view in views]
    if out is None:
        return tuple(np.empty(shape, np.float32) for shape in shapes)
    if len(out) != len(views):
        raise InputError(f"out has one array for each view: {len(views)}, got {len(out)}")
    for array, shape, view in zip(out, shapes, views, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            raise InputError(f"out of view {view.name} must be a float32 numpy array")
        if array.shape != shape:
            raise InputError(
                f"out of view {view.name} must have the shape {shape}, got {array.shape}"
            )
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise InputError(f"out of view {view.name} must be C-contiguous and writeable")
    return tuple(out)
