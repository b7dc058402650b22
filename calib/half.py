"""FP16 numbers: their limits, and rounding of scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HALF_OVERFLOW", "MAX_HALF", "MIN_HALF", "half_upwards"]

MAX_HALF = float(np.finfo(np.float16).max)
HALF_OVERFLOW = 65520.0
"""Numbers from here on are rounded to infinity: half a step beyond the largest."""
MIN_HALF = 2.0**-24
"""Smallest positive FP16 number (subnormal)."""


def half_upwards(scale: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """The smallest positive FP16 numbers that are not below ``scale``.

    Upwards, so that a scale never becomes 0 and codes computed with it never leave their range.

    Args:
        scale: non-negative numbers of at most 65504, any shape.
    """
    half = scale.astype(np.float16)
    below = half.astype(np.float64) < scale
    half = np.where(below, np.nextafter(half, np.float16(np.inf)), half)
    return np.asarray(np.maximum(half, np.float16(MIN_HALF)), np.float16)
