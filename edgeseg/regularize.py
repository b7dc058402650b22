"""Spatial regularisation of probabilities: blur, hole filling, removal of small components.

The "simple spatial regularisation" of DINO-MVR (arXiv 2605.07221). Every step changes
probabilities, not masks, so that what follows (resizing to a frame, smoothing across slices) goes
on as if the model had said so: a filled hole is foreground for certain, a removed component
background for certain.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.spec import RegularizeSpec

__all__ = ["regularize"]

FloatArray = npt.NDArray[np.float32]
_BACKGROUND_CONNECTIVITY = 4
_FOREGROUND_CONNECTIVITY = 8
"""The usual pair: with it a closed outline separates inside from outside."""


def regularize(probability: FloatArray, spec: RegularizeSpec, threshold: float = 0.5) -> FloatArray:
    """Regularise the probabilities of one picture.

    The steps in order: Gaussian blur with the edges replicated; holes, which are background that
    is enclosed, become the class that borders them most; components of a class that are then
    smaller than ``min_component_px`` become background.

    Args:
        probability: float32 (H, W) of one class, or (C, H, W) of several, background first.
        spec: what to do, in pixels of this very grid.
        threshold: above which a pixel of one class is foreground.

    Returns:
        float32 of the same shape; the argument itself where there is nothing to do.
    """
    if spec.blur_sigma_px > 0.0:
        probability = _blurred(probability, spec.blur_sigma_px)
    if not spec.fill_holes and spec.min_component_px <= 1:
        return probability
    labels = _labels(probability, threshold)
    if not labels.any():
        return probability
    cleaned = labels.copy()
    if spec.fill_holes:
        _fill_holes(cleaned)
    if spec.min_component_px > 1:
        _remove_small(cleaned, spec.min_component_px)
    return _with_labels(probability, labels, cleaned)


def _blurred(probability: FloatArray, sigma_px: float) -> FloatArray:
    planes = probability.reshape(-1, *probability.shape[-2:])
    blurred = np.empty_like(planes)
    for plane, target in zip(planes, blurred, strict=True):
        cv2.GaussianBlur(plane, (0, 0), sigma_px, dst=target, borderType=cv2.BORDER_REPLICATE)
    return blurred.reshape(probability.shape)


def _labels(probability: FloatArray, threshold: float) -> npt.NDArray[np.uint8]:
    if probability.ndim == 2:
        above: npt.NDArray[np.uint8] = (probability > threshold).view(np.uint8)
        return above
    largest: npt.NDArray[np.uint8] = np.argmax(probability, axis=0).astype(np.uint8)
    return largest


def _fill_holes(labels: npt.NDArray[np.uint8]) -> None:
    """Give enclosed background the class that borders it most, in place."""
    height, width = labels.shape
    background = (labels == 0).view(np.uint8)
    count, components, stats, _ = cv2.connectedComponentsWithStats(
        background, connectivity=_BACKGROUND_CONNECTIVITY
    )
    for index in range(1, count):
        x, y, w, h = (int(value) for value in stats[index, :4])
        if x == 0 or y == 0 or x + w == width or y + h == height:
            continue
        # A hole does not touch the border, so its box can grow by a pixel.
        window = (slice(y - 1, y + h + 1), slice(x - 1, x + w + 1))
        hole = (components[window] == index).view(np.uint8)
        ring = cv2.dilate(hole, np.ones((3, 3), np.uint8)).view(bool) & ~hole.view(bool)
        neighbours = labels[window][ring]
        labels[window][hole.view(bool)] = np.bincount(neighbours[neighbours > 0]).argmax()


def _remove_small(labels: npt.NDArray[np.uint8], min_component_px: int) -> None:
    """Make components of a class with fewer pixels background, in place."""
    for index in range(1, int(labels.max()) + 1):
        count, components, stats, _ = cv2.connectedComponentsWithStats(
            (labels == index).view(np.uint8), connectivity=_FOREGROUND_CONNECTIVITY
        )
        small = stats[:, cv2.CC_STAT_AREA] < min_component_px
        small[0] = False
        if count > 1 and small.any():
            labels[small[components]] = 0


def _with_labels(
    probability: FloatArray, before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]
) -> FloatArray:
    """Probabilities that are certain where the labels were changed."""
    changed = before != after
    if not changed.any():
        return probability
    result: FloatArray = probability.copy()
    if probability.ndim == 2:
        result[changed] = after[changed]
        return result
    result[:, changed] = 0.0
    rows, columns = np.nonzero(changed)
    result[after[changed], rows, columns] = 1.0
    return result
