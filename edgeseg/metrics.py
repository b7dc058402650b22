"""Overlap and boundary metrics of segmentation masks.

The definitions are those of SegDINO v2's test script, for every family: Dice and IoU of the
foreground with epsilon 1e-6, and HD95, each for one image at a time. A mask holds class indices; 0
is background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError

__all__ = [
    "EPSILON",
    "CaseScore",
    "Score",
    "agreement",
    "boundary",
    "dice",
    "evaluate_mask",
    "hd95",
    "iou",
    "mean_score",
    "resize_mask",
]

EPSILON = 1e-6
"""Added to numerator and denominator, so that two empty masks score 1."""

_CHUNK_ELEMENTS = 1 << 22
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)

Mask = npt.NDArray[Any]
BoolMask = npt.NDArray[np.bool_]
Spacing = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """Dice and IoU (0 to 1) and HD95 (pixels, or mm where a spacing was given)."""

    dice: float
    iou: float
    hd95: float
    """0 where both masks are empty, infinite where one is."""


@dataclass(frozen=True)
class CaseScore(Score):
    """Scores of one case: means over the foreground classes, and each of them."""

    per_class: tuple[Score, ...]


def evaluate_mask(
    prediction: Mask, truth: Mask, classes: int = 1, *, spacing: Spacing = (1.0, 1.0)
) -> CaseScore:
    """Score one prediction against its truth.

    Args:
        prediction: integer or bool (H, W), class indices.
        truth: the same shape.
        classes: 1, where every non-zero pixel is foreground; otherwise the number of classes with
            the background, and classes 1 to ``classes - 1`` are scored one by one.
        spacing: height and width of a pixel, e.g. in mm.

    Returns:
        Means over the foreground classes; an infinite HD95 is left out of its mean unless all are
        infinite.

    Raises:
        InputError: shapes differ, or are not two-dimensional, or the dtype holds no labels.
    """
    _check_pair(prediction, truth)
    if classes < 1:
        raise InputError(f"classes must be positive, got {classes}")
    scores = tuple(
        _score(a, b, spacing)
        for a, b in (
            (_select(prediction, index, classes), _select(truth, index, classes))
            for index in range(1, max(classes, 2))
        )
    )
    mean = mean_score(scores)
    return CaseScore(mean.dice, mean.iou, mean.hd95, scores)


def mean_score(scores: Sequence[Score]) -> Score:
    """Mean of each metric; infinite HD95 values are left out of theirs.

    Where no HD95 is finite the mean is infinite.

    Raises:
        InputError: there are no scores.
    """
    if not scores:
        raise InputError("no scores to average")
    finite = [s.hd95 for s in scores if not math.isinf(s.hd95)]
    return Score(
        math.fsum(s.dice for s in scores) / len(scores),
        math.fsum(s.iou for s in scores) / len(scores),
        math.fsum(finite) / len(finite) if finite else math.inf,
    )


def agreement(mask_a: Mask, mask_b: Mask, classes: int = 1) -> float:
    """Dice of two predictions, of which neither is the truth; symmetric, 0 to 1.

    With several classes it is the mean over those foreground classes that either mask holds, so
    that absent classes do not flatter; two empty masks agree fully.
    """
    _check_pair(mask_a, mask_b)
    values = []
    for index in range(1, max(classes, 2)):
        a, b = _select(mask_a, index, classes), _select(mask_b, index, classes)
        if a.any() or b.any():
            values.append(dice(a, b))
    return math.fsum(values) / len(values) if values else 1.0


def dice(prediction: Mask, truth: Mask) -> float:
    """Foreground Dice: (2 |A and B| + eps) / (|A| + |B| + eps). Non-zero pixels are foreground."""
    a, b = _foreground_pair(prediction, truth)
    shared, total = np.count_nonzero(a & b), np.count_nonzero(a) + np.count_nonzero(b)
    return float((2.0 * shared + EPSILON) / (total + EPSILON))


def iou(prediction: Mask, truth: Mask) -> float:
    """Foreground IoU: (|A and B| + eps) / (|A or B| + eps). Non-zero pixels are foreground."""
    a, b = _foreground_pair(prediction, truth)
    return float((np.count_nonzero(a & b) + EPSILON) / (np.count_nonzero(a | b) + EPSILON))


def hd95(prediction: Mask, truth: Mask, *, spacing: Spacing = (1.0, 1.0)) -> float:
    """95th percentile of the distances from each boundary to the other, both ways pooled.

    Distances are Euclidean and exact (float64), between pixel centres; the percentile is
    interpolated linearly.

    Args:
        prediction: (H, W); non-zero pixels are foreground.
        truth: the same shape.
        spacing: height and width of a pixel; the result has its unit.

    Returns:
        0 where both masks are empty, infinity where one is.
    """
    a, b = _foreground_pair(prediction, truth)
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"spacing must be positive, got {spacing}")
    if not a.any() or not b.any():
        return 0.0 if a.any() == b.any() else math.inf
    edge_a, edge_b = boundary(a), boundary(b)
    distances = np.concatenate(
        [_distances(edge_a, edge_b, spacing), _distances(edge_b, edge_a, spacing)]
    )
    return float(np.percentile(distances, 95))


def boundary(mask: Mask) -> BoolMask:
    """Foreground pixels of which one of the 4 neighbours is background or outside the image."""
    region = np.ascontiguousarray(mask != 0)
    eroded = cv2.erode(
        region.view(np.uint8), _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0, 0)
    )
    edge: BoolMask = region & (eroded == 0)
    return edge


def resize_mask(mask: Mask, height_px: int, width_px: int) -> Mask:
    """Nearest-neighbour resize of (H, W) labels, as PIL's ``Image.resize(..., NEAREST)``.

    A target pixel takes the source pixel that its centre falls into.
    """
    if mask.ndim != 2 or 0 in mask.shape or height_px < 1 or width_px < 1:
        raise InputError(f"cannot resize a mask of shape {mask.shape} to {height_px}x{width_px}")
    rows = _nearest_indices(mask.shape[0], height_px)
    columns = _nearest_indices(mask.shape[1], width_px)
    return mask[rows[:, None], columns]


def _nearest_indices(source_px: int, target_px: int) -> npt.NDArray[np.intp]:
    # PIL adds the step up rather than multiplying; the running sum rounds the same way.
    step = source_px / target_px
    steps = np.full(target_px, step)
    steps[0] = 0.5 * step
    return np.minimum(np.cumsum(steps).astype(np.intp), source_px - 1)


def _distances(points: BoolMask, targets: BoolMask, spacing: Spacing) -> npt.NDArray[np.float64]:
    """Distance of each point to the nearest target, which must exist; in row-major order.

    The squared Euclidean distance transform is separable (Felzenszwalb and Huttenlocher, 2012):
    first along each column, then the minimum over columns, here only for the points asked for.
    """
    height, width = targets.shape
    row_numbers = np.arange(height, dtype=np.float64)[:, None]
    above = np.maximum.accumulate(np.where(targets, row_numbers, -np.inf), axis=0)
    below = np.minimum.accumulate(np.where(targets, row_numbers, np.inf)[::-1], axis=0)[::-1]
    vertical = (np.minimum(row_numbers - above, below - row_numbers) * spacing[0]) ** 2
    rows, columns = np.nonzero(points)
    squared = np.empty(len(rows))
    step = max(1, _CHUNK_ELEMENTS // width)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        horizontal = (np.arange(width) - columns[part, None]) * spacing[1]
        squared[part] = np.min(vertical[rows[part]] + horizontal**2, axis=1)
    return np.sqrt(squared)


def _score(a: BoolMask, b: BoolMask, spacing: Spacing) -> Score:
    return Score(dice(a, b), iou(a, b), hd95(a, b, spacing=spacing))


def _select(mask: Mask, index: int, classes: int) -> BoolMask:
    selected: BoolMask = (mask != 0) if classes == 1 else (mask == index)
    return selected


def _foreground_pair(prediction: Mask, truth: Mask) -> tuple[BoolMask, BoolMask]:
    _check_pair(prediction, truth)
    return prediction != 0, truth != 0


def _check_pair(prediction: Mask, truth: Mask) -> None:
    for mask in (prediction, truth):
        if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "bui":
            raise InputError(
                f"a mask is a non-empty (H, W) array of class indices, got {mask.dtype} "
                f"{mask.shape}"
            )
    if prediction.shape != truth.shape:
        raise InputError(f"masks differ in shape: {prediction.shape} and {truth.shape}")
