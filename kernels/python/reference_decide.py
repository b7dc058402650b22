"""What ``cuda.decide_mask`` decides, in numpy and float64: clear, slow, and independent of it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["decide_mask", "resample"]


def decide_mask(
    planes: npt.NDArray[np.floating[Any]],
    height_px: int,
    width_px: int,
    *,
    level: float | None = None,
    window_px: tuple[int, int, int, int] | None = None,
    align_corners: bool = False,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Mask (H, W), pixels of each class in the window, and the values (C, h, w) in the window."""
    x, y, width, height = (0, 0, width_px, height_px) if window_px is None else window_px
    values = resample(planes, height, width, align_corners=align_corners)
    labels = np.zeros((height, width), np.uint8)
    for row in range(height):
        for column in range(width):
            labels[row, column] = _label([float(v) for v in values[:, row, column]], level)
    mask = np.zeros((height_px, width_px), np.uint8)
    mask[y : y + height, x : x + width] = labels
    return mask, np.bincount(labels.reshape(-1), minlength=max(len(planes), 2)), values


def _label(values: list[float], level: float | None) -> int:
    if len(values) == 1:
        assert level is not None
        return int(values[0] > level)
    if math.isnan(values[0]):
        return 0
    contenders = [float("-inf") if math.isnan(v) else v for v in values]
    return contenders.index(max(contenders))


def resample(
    planes: npt.NDArray[np.floating[Any]],
    height_px: int,
    width_px: int,
    *,
    align_corners: bool = False,
) -> npt.NDArray[np.float64]:
    """Bilinear samples (C, height_px, width_px) of (C, h, w); weight 0 means not looked at."""
    rows = [_neighbours(planes.shape[1], height_px, i, align_corners) for i in range(height_px)]
    columns = [_neighbours(planes.shape[2], width_px, i, align_corners) for i in range(width_px)]
    exact = planes.astype(np.float64)
    result = np.empty((len(planes), height_px, width_px))
    with np.errstate(invalid="ignore"):
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                parts = [down * across * exact[:, y, x] for y, down in row for x, across in column]
                result[:, i, j] = np.sum(parts, axis=0)
    return result


def _neighbours(size: int, wanted: int, index: int, align_corners: bool) -> list[tuple[int, float]]:
    """Samples and their weights, those of weight 0 left out."""
    if align_corners:
        position = Fraction(index * (size - 1), max(wanted - 1, 1))
    else:
        position = Fraction((2 * index + 1) * size, 2 * wanted) - Fraction(1, 2)
    position = min(max(position, Fraction(0)), Fraction(size - 1))
    first = int(position)
    share = position - first
    weights = [(first, float(1 - share)), (first + 1, float(share))]
    return [(sample, weight) for sample, weight in weights if weight > 0.0]
