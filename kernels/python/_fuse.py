"""Fusion of several views' logits into probabilities and a mask, on the compiled library."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.kernels._library import MAX_SIDE_PX, MAX_THREADS, Library, library
from edgeseg.spec import Flip, Weighting

__all__ = ["MAX_CHANNELS", "MAX_VIEWS", "Fused", "View", "fuse_views"]

MAX_VIEWS = 256
"""Largest number of views of one call (``EDGESEG_MAX_VIEWS``)."""

MAX_CHANNELS = 255
"""Largest number of channels (``EDGESEG_MAX_CHANNELS``)."""

FloatArray = npt.NDArray[np.float32]

_FLIPS = {"none": 0, "h": 1, "v": 2, "hv": 3}
_WEIGHTINGS = {"entropy": 0, "exp": 1, "mean": 2}
_DTYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}


@dataclass(frozen=True)
class View:
    """What the network said about one view of a frame."""

    logits: npt.NDArray[np.float32] | npt.NDArray[np.float16]
    """(C, h, w), on a grid of any size; one channel, or background first. Infinite values count as
    +-65504; NaN leaves the view out of the pixels that it takes part in."""
    flip: Flip = "none"
    """How the network's input was mirrored; the logits are mirrored back."""


@dataclass(frozen=True)
class Fused:
    """What the views say together."""

    probability: FloatArray
    """(H, W) of the foreground for one class, else (C, H, W) with a sum of 1."""
    mask: npt.NDArray[np.uint8]
    """(H, W): class index, 0 is background."""


class _View(ctypes.Structure):
    """``edgeseg_view``."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("flips", ctypes.c_int32),
    )


class _Fusion(ctypes.Structure):
    """``edgeseg_fusion``."""

    _fields_ = (
        ("weighting", ctypes.c_int32),
        ("temperature", ctypes.c_float),
        ("threshold", ctypes.c_float),
        ("keep", ctypes.c_float),
        ("reset", ctypes.c_int32),
    )


_TYPES = (
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_int32,
    ctypes.c_int32,
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
)


def fuse_views(
    views: Sequence[View],
    height_px: int,
    width_px: int,
    *,
    weighting: Weighting = "entropy",
    temperature: float = 1.0,
    threshold: float = 0.5,
    keep: float = 0.0,
    reset: bool = False,
    state: FloatArray | None = None,
    probability: FloatArray | None = None,
    mask: npt.NDArray[np.uint8] | None = None,
    threads: int = 1,
    native: Library | None = None,
) -> Fused:
    """Fuse the views of a frame, smooth them over time and decide the mask, in one pass.

    Each view is mirrored back, resampled to the result (bilinear, half-pixel centres, edges
    replicated, no antialiasing) and activated: one channel by the sigmoid, counted as two classes,
    several by the softmax. Where ``H = -sum p ln p``, the fused ``p`` is ``sum w p / sum w`` with
    ``w = 1 - H / ln(max(C, 2))`` (``entropy``), ``exp(-H / temperature)`` (``exp``) or 1
    (``mean``), and the plain mean where all weights vanish (DINO-MVR, arXiv 2605.07221). With
    ``state``, ``p`` becomes ``keep * state + (1 - keep) * p``, which is the new state as well.

    Where NaN takes part in a view's pixel, the view is left out there. Where no view is left, the
    fused pixel is background for certain. Where a state is not finite (in any channel of a pixel),
    the pixel starts anew.

    Logits up to 30 give probabilities that are right to 1e-5, with ``exp`` from a temperature of
    0.05 on; at 0.01, float32's rounding of the logits can make it 5e-5.

    Args:
        views: 1 to 256, of the same number of channels (1 to 255), sides 1 to 65535. Arrays that
            are not C-contiguous cost a copy.
        height_px: rows of the result, 1 to 65535.
        width_px: columns of the result, 1 to 65535.
        weighting: of the views, pixel by pixel.
        temperature: positive, in nats; used by ``exp`` alone.
        threshold: 0 to 1; of the mask of one class, which is 1 where ``p > threshold``. Several
            classes compete: the largest wins, the lower index at a tie.
        keep: weight of ``state``, from 0 to below 1; positive values need ``state``.
        reset: do not read ``state``, only write it.
        state: C-contiguous float32 (C, H, W), or (H, W) for one channel; probabilities of the
            frames before, updated in place.
        probability: C-contiguous float32 array to write into, shaped as ``Fused.probability``; it
            may be ``state``. None: a new array.
        mask: C-contiguous uint8 (H, W) to write into. None: a new array.
        threads: 1 to 64 threads that share the work, the calling one among them.
        native: the library to use instead of this installation's.

    Returns:
        The probabilities and the mask: ``probability`` and ``mask`` where they were given.

    Raises:
        InputError: an argument is not as described.
        NativeLibraryError: the compiled library is missing or of another version.
    """
    if not (1 <= height_px <= MAX_SIDE_PX and 1 <= width_px <= MAX_SIDE_PX):
        raise InputError(
            f"the sides of the result are 1 to {MAX_SIDE_PX} pixels, got {height_px}x{width_px}"
        )
    if not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads must be 1 to {MAX_THREADS}, got {threads}")
    settings = _settings(weighting, temperature, threshold, keep, reset)
    # `arrays` keeps copies alive until the call has returned.
    described, arrays = _describe(views)
    channels = arrays[0].shape[0]
    plane = (height_px, width_px)
    whole = (channels, height_px, width_px)
    if state is None:
        if keep > 0.0:
            raise InputError(f"smoothing over time (keep {keep}) needs a state to smooth with")
    else:
        _check_array("state", state, np.float32, (plane, whole) if channels == 1 else (whole,))
    shape = plane if channels == 1 else whole
    if probability is None:
        probability = np.empty(shape, np.float32)
    else:
        _check_array("probability", probability, np.float32, (shape,))
    if mask is None:
        mask = np.empty(plane, np.uint8)
    else:
        _check_array("mask", mask, np.uint8, (plane,))
    (native or library()).call(
        "edgeseg_fuse_views",
        _TYPES,
        ctypes.addressof(described),
        len(arrays),
        channels,
        width_px,
        height_px,
        ctypes.addressof(settings),
        threads,
        None if state is None else state.ctypes.data,
        probability.ctypes.data,
        mask.ctypes.data,
    )
    return Fused(probability, mask)


def _settings(
    weighting: str, temperature: float, threshold: float, keep: float, reset: bool
) -> _Fusion:
    if weighting not in _WEIGHTINGS:
        raise InputError(f"weighting must be one of {', '.join(_WEIGHTINGS)}, got {weighting!r}")
    settings = _Fusion(_WEIGHTINGS[weighting], temperature, threshold, keep, bool(reset))
    # As float32, which is what the library reads: 1e-60 is 0 there.
    if not (math.isfinite(settings.temperature) and settings.temperature > 0.0):
        raise InputError(f"temperature must be positive and finite, got {temperature}")
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"threshold must lie between 0 and 1, got {threshold}")
    if not (keep >= 0.0 and settings.keep < 1.0):
        raise InputError(f"keep must be at least 0 and below 1, got {keep}")
    return settings


def _describe(views: Sequence[View]) -> tuple[ctypes.Array[_View], list[npt.NDArray[Any]]]:
    if not 1 <= len(views) <= MAX_VIEWS:
        raise InputError(f"1 to {MAX_VIEWS} views can be fused, got {len(views)}")
    described = (_View * len(views))()
    arrays: list[npt.NDArray[Any]] = []
    for index, view in enumerate(views):
        logits = view.logits
        if not isinstance(logits, np.ndarray) or logits.ndim != 3:
            raise InputError(
                f"logits of view {index} must be an array (C, h, w), got "
                f"{getattr(logits, 'shape', type(logits).__name__)}"
            )
        dtype = _DTYPES.get(logits.dtype)
        if dtype is None:
            raise InputError(
                f"logits of view {index} must be float32 or float16, got {logits.dtype}"
            )
        channels, height, width = logits.shape
        if not 1 <= channels <= MAX_CHANNELS:
            raise InputError(f"view {index} has {channels} channels; 1 to {MAX_CHANNELS} can be")
        if arrays and channels != arrays[0].shape[0]:
            raise InputError(
                f"views must have the same classes, but view 0 has {arrays[0].shape[0]} channel(s) "
                f"and view {index} has {channels}"
            )
        if not (1 <= height <= MAX_SIDE_PX and 1 <= width <= MAX_SIDE_PX):
            raise InputError(
                f"the sides of view {index} must be 1 to {MAX_SIDE_PX}, got {height}x{width}"
            )
        flip = _FLIPS.get(view.flip)
        if flip is None:
            raise InputError(
                f"flip of view {index} must be one of {', '.join(_FLIPS)}, got {view.flip!r}"
            )
        contiguous = np.ascontiguousarray(logits)
        arrays.append(contiguous)
        described[index] = _View(contiguous.ctypes.data, width, height, dtype, flip)
    return described, arrays


def _check_array(
    name: str, array: npt.NDArray[Any], dtype: type, shapes: tuple[tuple[int, ...], ...]
) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise InputError(f"{name} must be a {np.dtype(dtype)} numpy array")
    if array.shape not in shapes:
        raise InputError(
            f"{name} must have the shape {' or '.join(map(str, shapes))}, got {array.shape}"
        )
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise InputError(f"{name} must be C-contiguous and writeable")
