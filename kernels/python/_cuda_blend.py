"""``blend_overlay`` on the device; ``edgeseg.kernels.cuda`` offers it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.kernels import _blend
from edgeseg.kernels._cuda_library import CudaLibrary, library
from edgeseg.kernels._device_array import DeviceArray, describe_frame, read_array

__all__ = ["blend_overlay"]

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32
_TYPES = (_POINTER, _POINTER, ctypes.c_ssize_t, _POINTER, _INT, _INT, _INT, _POINTER)


def blend_overlay(
    frame: DeviceArray,
    mask: DeviceArray,
    colours_bgr: npt.NDArray[np.uint8] | Sequence[Sequence[int]],
    *,
    alpha: float,
    outline_px: int = 0,
    stream: int = 0,
    native: CudaLibrary | None = None,
) -> None:
    """``edgeseg.kernels.blend_overlay`` on the device: blend a mask's colours into a frame.

    Args:
        frame: uint8 (H, W, 3), sides 1 to 65535; rows may be any distance apart.
        mask: uint8 (H, W), class indices; 0 and indices without a colour are left alone. Rows may
            be any distance apart.
        colours_bgr: of the classes from 1 on, each three values 0 to 255 in the order of the
            frame's channels; 1 to 255 of them, in host memory.
        alpha: opacity, 0 to 1.
        outline_px: pixels with one of another index at most so far away in x and in y get the
            colour itself; 0: no outline, 127 at most.
        stream: to enqueue on.
        native: the library to use instead of this installation's.

    Raises:
        InputError: an argument is not as described.
        BackendUnavailableError: there is no CUDA device.
        BackendError: CUDA refused the work.
        NativeLibraryError: the library is missing or of another version.
    """
    canvas = read_array("frame", frame, (np.uint8,), contiguous=False, writeable=True)
    described = describe_frame(canvas)
    if canvas.shape[0] > 1 and abs(canvas.strides[0]) < 3 * canvas.shape[1]:
        raise InputError("the rows of a frame that is drawn on must not overlap")
    labels = read_array("mask", mask, (np.uint8,), contiguous=False)
    if labels.shape != canvas.shape[:2] or (labels.shape[1] > 1 and labels.strides[1] != 1):
        raise InputError(
            f"mask must have the shape {canvas.shape[:2]} and rows without gaps, got "
            f"{labels.shape} with strides {labels.strides}"
        )
    packed = _blend._colours(colours_bgr)
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha must lie between 0 and 1, got {alpha}")
    if not 0 <= outline_px <= _blend.MAX_OUTLINE_PX:
        raise InputError(f"outlines are 0 to {_blend.MAX_OUTLINE_PX} pixels wide, got {outline_px}")
    (native or library()).call(
        "edgeseg_cuda_blend_overlay",
        _TYPES,
        ctypes.addressof(described),
        labels.address,
        labels.strides[0],
        packed.ctypes.data,
        len(packed),
        round(_blend.ALPHA_STEPS * alpha),
        outline_px,
        stream,
    )
