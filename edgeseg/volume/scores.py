"""Dice, IoU and HD95 of label volumes; the conventions are those of ``edgeseg.metrics``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.metrics import CaseScore, Score, dice, iou, mean_score
from edgeseg.volume.distance import Spacing3, nearest_distances

__all__ = ["hd95_mm", "score_volume", "surface"]

Labels = npt.NDArray[Any]
BoolVolume = npt.NDArray[np.bool_]


def score_volume(
    prediction: Labels, truth: Labels, classes: int, spacing_mm: Spacing3
) -> CaseScore:
    """Score a segmentation against its truth.

    Args:
        prediction: integer (a, b, c), class indices.
        truth: the same shape.
        classes: 1, where every label but 0 is foreground; otherwise the number of classes with the
            background, and classes 1 to ``classes - 1`` are scored one by one.
        spacing_mm: of the voxels along the axes.

    Returns:
        Means over the foreground classes, HD95 in millimetres; an infinite one is left out of its
        mean unless all are.

    Raises:
        InputError: shapes differ, or are not three-dimensional.
    """
    if prediction.shape != truth.shape or prediction.ndim != 3 or prediction.size == 0:
        raise InputError(
            f"volumes to compare have one shape (a, b, c), got {prediction.shape} and {truth.shape}"
        )
    scores = []
    for index in range(1, max(classes, 2)):
        a = prediction != 0 if classes == 1 else prediction == index
        b = truth != 0 if classes == 1 else truth == index
        # Overlaps only count voxels, so the shape may be that of a picture.
        flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        scores.append(Score(dice(flat_a, flat_b), iou(flat_a, flat_b), hd95_mm(a, b, spacing_mm)))
    mean = mean_score(scores)
    return CaseScore(mean.dice, mean.iou, mean.hd95, tuple(scores))


def hd95_mm(prediction: BoolVolume, truth: BoolVolume, spacing_mm: Spacing3) -> float:
    """95th percentile of the distances from each surface to the other, both ways pooled.

    Distances are Euclidean and exact (float64), between voxel centres; the percentile is
    interpolated linearly.

    Args:
        prediction: bool (a, b, c).
        truth: the same shape.
        spacing_mm: of the voxels along the axes, which are taken as perpendicular.

    Returns:
        0 where both are empty, infinity where one is.
    """
    if not all(math.isfinite(s) and s > 0.0 for s in spacing_mm):
        raise InputError(f"spacing must be positive, got {spacing_mm}")
    if not prediction.any() or not truth.any():
        return 0.0 if prediction.any() == truth.any() else math.inf
    box = _bounding_box(prediction | truth)
    # Cut out after the surfaces are known: the box's border is no background.
    edge_a, edge_b = surface(prediction)[box], surface(truth)[box]
    distances = np.concatenate(
        [
            nearest_distances(edge_a, edge_b, spacing_mm),
            nearest_distances(edge_b, edge_a, spacing_mm),
        ]
    )
    return float(np.percentile(distances, 95))


def surface(volume: BoolVolume) -> BoolVolume:
    """Foreground voxels of which one of the 6 neighbours is background or outside the volume."""
    inner = volume.copy()
    for axis in range(3):
        along, there = np.moveaxis(inner, axis, 0), np.moveaxis(volume, axis, 0)
        along[1:] &= there[:-1]
        along[:-1] &= there[1:]
        along[0] = along[-1] = False
    edge: BoolVolume = volume & ~inner
    return edge


def _bounding_box(volume: BoolVolume) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        present = np.flatnonzero(volume.any(axis=others))
        box.append(slice(int(present[0]), int(present[-1]) + 1))
    return tuple(box)
