"""The one definition of the read-out of one view: logits to probabilities to masks.

``edgeseg.reader`` puts it together with fusion, regularisation and smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.spec import ReadoutSpec

__all__ = [
    "activate",
    "chosen_threshold",
    "logit",
    "mask_from_logits",
    "mask_from_probability",
    "resize_logits",
]

FloatArray = npt.NDArray[np.float32]


def _check_logits(logits: FloatArray, spec: ReadoutSpec) -> None:
    if logits.ndim != 3:
        raise InputError(f"logits of one image have shape (C, H, W), got {logits.shape}")
    channels = logits.shape[0]
    if (channels == 1) != (spec.activation == "sigmoid"):
        raise InputError(f"{spec.activation} read-out does not fit {channels} channel(s) of logits")


def resize_logits(
    logits: FloatArray, height_px: int, width_px: int, *, align_corners: bool = False
) -> FloatArray:
    """Bilinear resize of (C, H, W) float32 logits to (C, height_px, width_px), edges replicated.

    It equals ``torch.nn.functional.interpolate(mode="bilinear")``: no antialiasing, half-pixel
    centres, or with ``align_corners`` the corner pixels' centres laid onto each other.
    """
    channels, height, width = logits.shape
    if (height, width) == (height_px, width_px):
        return np.ascontiguousarray(logits)
    if align_corners:
        # cv2.resize knows half-pixel centres only; the affine map says the other convention.
        step_x = (width - 1) / max(width_px - 1, 1)
        step_y = (height - 1) / max(height_px - 1, 1)
        x = np.linspace(0.0, step_x * (width_px - 1), width_px)
        y = np.linspace(0.0, step_y * (height_px - 1), height_px)
        return np.stack([_sample_rows_columns(plane, y, x) for plane in logits])
    resized = np.empty((channels, height_px, width_px), np.float32)
    for plane, target in zip(logits, resized, strict=True):
        cv2.resize(plane, (width_px, height_px), dst=target, interpolation=cv2.INTER_LINEAR)
    return resized


def _sample_rows_columns(
    plane: FloatArray, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> FloatArray:
    """Bilinear samples of ``plane`` on the grid of rows ``y`` and columns ``x`` (pixel indices)."""
    y0 = np.minimum(y.astype(np.intp), plane.shape[0] - 1)
    x0 = np.minimum(x.astype(np.intp), plane.shape[1] - 1)
    y1 = np.minimum(y0 + 1, plane.shape[0] - 1)
    x1 = np.minimum(x0 + 1, plane.shape[1] - 1)
    fy = (y - y0).astype(np.float32)[:, None]
    fx = (x - x0).astype(np.float32)[None, :]
    rows = plane[y0] * (1 - fy) + plane[y1] * fy
    sampled: FloatArray = rows[:, x0] * (1 - fx) + rows[:, x1] * fx
    return sampled


def activate(logits: FloatArray, spec: ReadoutSpec) -> FloatArray:
    """Probabilities of (C, H, W) logits: (H, W) for one class, else (C, H, W) that sum to 1."""
    _check_logits(logits, spec)
    if spec.activation == "sigmoid":
        # Through exp(-|x|), which cannot overflow.
        decay = np.exp(-np.abs(logits[0]))
        probability: FloatArray = np.where(logits[0] >= 0, 1.0, decay) / (1.0 + decay)
        return probability.astype(np.float32, copy=False)
    shifted = np.exp(logits - logits.max(axis=0, keepdims=True))
    softmax: FloatArray = shifted / shifted.sum(axis=0, keepdims=True)
    return softmax


def chosen_threshold(spec: ReadoutSpec, threshold: float | None) -> float:
    """The given threshold, or the specification's for None.

    Raises:
        InputError: it lies outside (0, 1), or was given for several classes.
    """
    if threshold is None:
        return spec.threshold
    if spec.activation != "sigmoid":
        raise InputError("a threshold has no meaning for several classes, which compete by argmax")
    if not 0.0 < threshold < 1.0:
        raise InputError(f"threshold must lie between 0 and 1, got {threshold}")
    return threshold


def logit(probability: float) -> float:
    """What the sigmoid turns into ``probability``, which lies between 0 and 1 (excluded)."""
    return math.log(probability / (1.0 - probability))


def mask_from_logits(
    logits: FloatArray, spec: ReadoutSpec, threshold: float | None = None
) -> npt.NDArray[np.uint8]:
    """Class index of each pixel of (C, H, W) logits: uint8 (H, W), 0 is background.

    One class: 1 where the probability is above ``threshold`` (default: the specification's).
    Several: the channel of the largest logit, the lower one at a tie; channel 0 is background.
    NaN is background.

    Raises:
        InputError: shape and activation disagree, or a threshold was given with several classes
            or lies outside (0, 1).
    """
    _check_logits(logits, spec)
    if spec.activation == "sigmoid":
        # p > t is logit > log(t / (1 - t)): no exponential per pixel.
        level = logit(chosen_threshold(spec, threshold))
        above: npt.NDArray[np.uint8] = (logits[0] > level).view(np.uint8)
        return above
    chosen_threshold(spec, threshold)
    return _argmax(logits)


def mask_from_probability(probability: FloatArray, threshold: float) -> npt.NDArray[np.uint8]:
    """Class index of each pixel of (H, W) or (C, H, W) probabilities, as ``mask_from_logits``."""
    if probability.ndim == 2:
        above: npt.NDArray[np.uint8] = (probability > threshold).view(np.uint8)
        return above
    return _argmax(probability)


def _argmax(logits: Sequence[FloatArray] | FloatArray) -> npt.NDArray[np.uint8]:
    """Running argmax over the planes: one byte a pixel, where np.argmax would make eight."""
    best = logits[0].copy()
    index = np.zeros(best.shape, np.uint8)
    for channel in range(1, len(logits)):
        larger = logits[channel] > best
        np.copyto(best, logits[channel], where=larger)
        index[larger] = channel
    return index
