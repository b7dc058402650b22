"""What one writes with OpenCV and numpy instead of ``edgeseg.kernels.fuse_views``."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.kernels import View
from edgeseg.regularize import regularize
from edgeseg.spec import FusionSpec, PreprocessSpec, ReadoutSpec

__all__ = ["fuse_with_opencv", "fused_probability"]

_CV_FLIPS = {"h": 1, "v": 0, "hv": -1}
_TINY = 1e-7

FloatArray = npt.NDArray[np.float32]


def fused_probability(
    views: Sequence[View], height_px: int, width_px: int, fusion: FusionSpec | None = None
) -> FloatArray:
    """Weighted mean of the views' probabilities.

    For each view ``cv2.flip``, ``cv2.resize`` (``INTER_LINEAR``), sigmoid or softmax and entropy in
    numpy, in float32.

    Args:
        views: logits, float32 (C, h, w), as mirrored as their images.
        height_px, width_px: of the result.
        fusion: how views are weighted; None for entropy weights.

    Returns:
        float32 (C, height_px, width_px).
    """
    fusion = fusion or FusionSpec()
    channels = views[0].logits.shape[0]
    weighted = np.zeros((channels, height_px, width_px), np.float32)
    total = np.full((height_px, width_px), 1e-12, np.float32)
    for view in views:
        logits = np.empty((channels, height_px, width_px), np.float32)
        for plane, target in zip(view.logits, logits, strict=True):
            code = _CV_FLIPS.get(view.flip)
            upright = plane if code is None else cv2.flip(plane, code)
            cv2.resize(upright, (width_px, height_px), dst=target, interpolation=cv2.INTER_LINEAR)
        p = _activated(logits)
        if fusion.weighting == "mean":
            weighted += p
            total += 1.0
            continue
        entropy = _entropy(p)
        if fusion.weighting == "exp":
            weight = np.exp(-entropy / np.float32(fusion.temperature))
        else:
            weight = 1.0 - entropy / np.float32(np.log(max(channels, 2)))
        weighted += weight * p
        total += weight
    weighted /= total
    return weighted


def _activated(logits: FloatArray) -> FloatArray:
    p: FloatArray
    if len(logits) == 1:
        p = np.exp(-logits)
        p += 1.0
        return np.reciprocal(p)
    p = np.exp(logits - logits.max(axis=0))
    p /= p.sum(axis=0)
    return p


def _entropy(p: FloatArray) -> FloatArray:
    """Of each pixel, in nats, float32 (H, W)."""
    entropy: FloatArray
    if len(p) == 1:
        q = np.clip(p, _TINY, 1.0 - _TINY)
        entropy = -(q * np.log(q) + (1.0 - q) * np.log(1.0 - q))[0]
    else:
        q = np.clip(p, _TINY, 1.0)
        entropy = -(q * np.log(q)).sum(axis=0)
    return entropy


def fuse_with_opencv(
    outputs: Sequence[npt.NDArray[np.float32]],
    preprocess: PreprocessSpec,
    readout: ReadoutSpec,
    size_px: tuple[int, int],
) -> npt.NDArray[np.uint8]:
    """The read-out of many views as one would write it with OpenCV and numpy.

    Does what ``edgeseg.reader.Reader`` does for one frame: fuse on the grid of the preprocessing,
    regularise there, resize the probabilities to the frame, decide. The thread count of OpenCV is
    that of the process.

    Args:
        outputs: for each of ``preprocess.views`` its logits, float32 (len(flips), C, h, w).
        preprocess: has views.
        readout: weighting, regularisation and threshold.
        size_px: (height, width) of the frame.

    Returns:
        uint8 (height, width): 0 background, else the index of the class.
    """
    height_px, width_px = size_px
    views = [
        View(logits, flip)
        for output, view in zip(outputs, preprocess.views, strict=True)
        for logits, flip in zip(output, view.flips, strict=True)
    ]
    probability = fused_probability(
        views, preprocess.height_px, preprocess.width_px, readout.fusion
    )
    one_class = len(probability) == 1
    regular = regularize(
        probability[0] if one_class else probability, readout.regularize, readout.threshold
    )
    if one_class:
        large = cv2.resize(regular, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
        above: npt.NDArray[np.uint8] = (large > readout.threshold).astype(np.uint8)
        return above
    planes = [
        cv2.resize(plane, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
        for plane in regular
    ]
    best: npt.NDArray[np.uint8] = np.stack(planes).argmax(axis=0).astype(np.uint8)
    return best
