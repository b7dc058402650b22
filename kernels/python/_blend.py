"""Masks blended into frames, with outlines, on the compiled library."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.kernels._library import MAX_SIDE_PX, MAX_THREADS, Library, library

__all__ = ["ALPHA_STEPS", "MAX_CLASSES", "MAX_OUTLINE_PX", "blend_overlay"]

ALPHA_STEPS = 256
"""Opacities are multiples of 1 / 256."""

MAX_CLASSES = 255
"""Largest number of colours (``EDGESEG_MAX_CHANNELS``)."""

MAX_OUTLINE_PX = 127
"""Widest outline (``EDGESEG_MAX_OUTLINE``)."""


class _Canvas(ctypes.Structure):
    """``edgeseg_canvas``."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("row_stride", ctypes.c_ssize_t),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
    )


_TYPES = (
    ctypes.POINTER(_Canvas),
    ctypes.c_void_p,
    ctypes.c_ssize_t,
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_int32,
    ctypes.c_int32,
    ctypes.c_int,
)


def blend_overlay(
    frame: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    colours_bgr: npt.NDArray[np.uint8] | Sequence[Sequence[int]],
    *,
    alpha: float,
    outline_px: int = 0,
    threads: int = 1,
    native: Library | None = None,
) -> None:
    """Blend the colours of a mask into a frame, in place.

    A pixel of class ``k`` becomes ``(p * (256 - a) + colour * a + 128) >> 8``, where ``a`` is
    ``256 * alpha`` rounded, and the colour itself where the square of ``outline_px`` to each side
    holds a pixel of another index. The frame's border is no outline. Everything else is left alone.

    Args:
        frame: uint8 (H, W, 3), writeable, sides 1 to 65535; pixels are contiguous within rows, and
            rows any distance apart, upwards too.
        mask: uint8 (H, W), class indices; 0 and those without a colour are not drawn. Pixels that
            are not contiguous within rows cost a copy.
        colours_bgr: uint8 (K, 3) or as many integers from 0 to 255, of the classes 1 to K, in the
            order of the frame's channels; K is 1 to 255.
        alpha: opacity, 0 to 1.
        outline_px: how wide outlines are, on the class's side of the border; 0 to 127.
        threads: 1 to 64 threads that share the work, the calling one among them.
        native: the library to use instead of this installation's.

    Raises:
        InputError: an argument is not as described.
        NativeLibraryError: the compiled library is missing or of another version.
    """
    canvas = _canvas(frame)
    rows = _mask_rows(mask, frame.shape[:2])
    colours = _colours(colours_bgr)
    if not (math.isfinite(alpha) and 0.0 <= alpha <= 1.0):
        raise InputError(f"alpha must lie between 0 and 1, got {alpha}")
    if not 0 <= outline_px <= MAX_OUTLINE_PX:
        raise InputError(f"outlines are 0 to {MAX_OUTLINE_PX} pixels wide, got {outline_px}")
    if not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads must be 1 to {MAX_THREADS}, got {threads}")
    (native or library()).call(
        "edgeseg_blend_overlay",
        _TYPES,
        ctypes.byref(canvas),
        rows.ctypes.data,
        rows.strides[0],
        colours.ctypes.data,
        len(colours),
        round(ALPHA_STEPS * alpha),
        outline_px,
        threads,
    )


def _canvas(frame: npt.NDArray[np.uint8]) -> _Canvas:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        raise InputError("a frame is a uint8 numpy array (H, W, 3)")
    if frame.ndim != 3 or frame.shape[2] != 3 or not _in_range(*frame.shape[:2]):
        raise InputError(
            f"a frame is (H, W, 3) with sides of 1 to {MAX_SIDE_PX} pixels, got {frame.shape}"
        )
    height, width = frame.shape[:2]
    # Steps along an axis of one element have no meaning.
    if frame.strides[2] != 1 or (width > 1 and frame.strides[1] != 3):
        raise InputError("the pixels of a frame that is drawn on must be contiguous within rows")
    if not frame.flags.writeable:
        raise InputError("a frame that is drawn on must be writeable")
    if height > 1 and abs(frame.strides[0]) < 3 * width:
        raise InputError("the rows of a frame that is drawn on must not overlap")
    return _Canvas(frame.ctypes.data, frame.strides[0], width, height)


def _mask_rows(mask: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8 or mask.shape != shape:
        found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask)
        raise InputError(f"the mask of a frame {shape} is uint8 of that shape, got {found}")
    return mask if mask.strides[1] == 1 or shape[1] == 1 else np.ascontiguousarray(mask)


def _colours(colours_bgr: Any) -> npt.NDArray[np.uint8]:
    values = np.asarray(colours_bgr)
    if values.ndim != 2 or values.shape[1] != 3 or not 1 <= len(values) <= MAX_CLASSES:
        raise InputError(
            f"colours are 1 to {MAX_CLASSES} triples blue, green, red, got {values.shape}"
        )
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise InputError("colours are integers from 0 to 255")
    return np.ascontiguousarray(values, np.uint8)


def _in_range(*sides: int) -> bool:
    return all(1 <= side <= MAX_SIDE_PX for side in sides)
