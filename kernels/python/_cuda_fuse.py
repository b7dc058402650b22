"""``fuse_views`` on the device; ``edgeseg.kernels.cuda`` offers it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.kernels import _fuse
from edgeseg.kernels._cuda_library import CudaLibrary, library
from edgeseg.kernels._device_array import DeviceArray, read_array, target_address
from edgeseg.kernels._library import MAX_SIDE_PX
from edgeseg.kernels._resize import check_size
from edgeseg.spec import FLIPS, Flip, Weighting

__all__ = ["SETTINGS_BYTES", "DeviceView", "fuse_views", "fusion_settings"]

SETTINGS_BYTES = ctypes.sizeof(_fuse._Fusion)
"""Size of ``edgeseg_fusion``."""

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32
_TYPES = (_POINTER, _INT, _INT, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER)


@dataclass(frozen=True)
class DeviceView:
    """What the network said about one view of a frame, in device memory."""

    logits: DeviceArray
    """float32 or float16 (C, h, w), C-contiguous, on a grid of any size; one channel, or background
    first."""
    flip: Flip = "none"
    """How the network's input was mirrored; the logits are mirrored back."""


def fusion_settings(
    *,
    weighting: Weighting = "entropy",
    temperature: float = 1.0,
    threshold: float = 0.5,
    keep: float = 0.0,
    reset: bool = False,
) -> npt.NDArray[np.uint8]:
    """The settings of ``fuse_views`` as bytes, to be copied to the device.

    Args:
        weighting: of the views, pixel by pixel.
        temperature: positive, in nats; used by ``exp`` alone.
        threshold: 0 to 1; of the mask of one class, which is 1 where ``p > threshold``.
        keep: weight of the state, from 0 to below 1.
        reset: do not read the state, only write it.

    Returns:
        uint8 (20,): ``edgeseg_fusion``.

    Raises:
        InputError: an argument is not as described.
    """
    settings = _fuse._settings(weighting, temperature, threshold, keep, reset)
    packed: npt.NDArray[np.uint8] = np.frombuffer(bytes(settings), np.uint8).copy()
    return packed


def fuse_views(
    views: Sequence[DeviceView],
    height_px: int,
    width_px: int,
    *,
    settings: DeviceArray,
    state: DeviceArray | None = None,
    probability: DeviceArray | None = None,
    mask: DeviceArray | None = None,
    stream: int = 0,
    native: CudaLibrary | None = None,
) -> None:
    """``edgeseg.kernels.fuse_views`` on the device: fuse, smooth over time, decide the mask.

    Args:
        views: 1 to 256, of the same number of channels (1 to 255), sides 1 to 65535.
        height_px: rows of the result, 1 to 65535.
        width_px: columns of the result, 1 to 65535.
        settings: uint8 (20,), the bytes of ``fusion_settings``.
        state: C-contiguous float32 (C, H, W), or (H, W) for one channel; probabilities of the
            frames before, updated in place. None: no smoothing over time, whatever ``keep`` is.
        probability: C-contiguous float32 (C, H, W), or (H, W) for one channel; may be ``state``.
        mask: C-contiguous uint8 (H, W).
        stream: to enqueue on.
        native: the library to use instead of this installation's.

    Raises:
        InputError: an argument is not as described, or nothing is to be written.
        BackendUnavailableError: there is no CUDA device.
        BackendError: CUDA refused the work.
        NativeLibraryError: the library is missing or of another version.
    """
    check_size(height_px, width_px, 1)
    if state is None and probability is None and mask is None:
        raise InputError("nothing to write: give a state, a probability or a mask")
    described, channels = _describe(views)
    plane = (height_px, width_px)
    whole = (channels, *plane)
    shapes = (plane, whole) if channels == 1 else (whole,)
    given = read_array("settings", settings, (np.uint8,))
    if given.address % ctypes.alignment(_fuse._Fusion) != 0:
        raise InputError("settings must begin at a multiple of 4 bytes")
    if given.nbytes != SETTINGS_BYTES:
        raise InputError(
            f"settings are the {SETTINGS_BYTES} bytes of fusion_settings(), got {given.nbytes}"
        )
    (native or library()).call(
        "edgeseg_cuda_fuse_views",
        _TYPES,
        ctypes.addressof(described),
        len(described),
        channels,
        width_px,
        height_px,
        given.address,
        target_address("state", state, np.float32, shapes),
        target_address("probability", probability, np.float32, shapes),
        target_address("mask", mask, np.uint8, (plane,)),
        stream,
    )


def _describe(views: Sequence[DeviceView]) -> tuple[ctypes.Array[_fuse._View], int]:
    if not 1 <= len(views) <= _fuse.MAX_VIEWS:
        raise InputError(f"1 to {_fuse.MAX_VIEWS} views can be fused, got {len(views)}")
    described = (_fuse._View * len(views))()
    channels = 0
    for index, view in enumerate(views):
        name = f"logits of view {index}"
        logits = read_array(name, view.logits, (np.float32, np.float16))
        if len(logits.shape) != 3:
            raise InputError(f"{name} must have the shape (C, h, w), got {logits.shape}")
        found, height, width = logits.shape
        channels = channels or found
        if found != channels:
            raise InputError(
                f"views must have the same classes, but view 0 has {channels} channel(s) and view "
                f"{index} has {found}"
            )
        if found > _fuse.MAX_CHANNELS or max(height, width) > MAX_SIDE_PX:
            raise InputError(
                f"{name} have at most {_fuse.MAX_CHANNELS} channels and sides up to {MAX_SIDE_PX}, "
                f"got {logits.shape}"
            )
        if view.flip not in FLIPS:
            raise InputError(
                f"flip of view {index} must be one of {', '.join(FLIPS)}, got {view.flip!r}"
            )
        described[index] = _fuse._View(
            logits.address, width, height, _fuse._DTYPES[logits.dtype], FLIPS.index(view.flip)
        )
    return described, channels
