"""What ``smooth_z`` computes, in numpy and float64: clear, slow, and independent of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["mask_of", "smooth_z"]

_INFINITE = 65504.0


def smooth_z(
    volume: npt.NDArray[np.float32], weights: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """As ``edgeseg.kernels.smooth_z`` of the whole volume.

    Args:
        volume: float32 (C, D, H, W) or (D, H, W).
        weights: at the distances 0 to radius.

    Returns:
        float64, shaped as the volume.
    """
    values = np.nan_to_num(volume.astype(np.float64), nan=0.0, posinf=_INFINITE, neginf=-_INFINITE)
    depth = volume.shape[-3]
    slices = np.arange(depth)
    result = np.zeros_like(values)
    for offset in range(1 - len(weights), len(weights)):
        neighbours = np.clip(slices + offset, 0, depth - 1)
        result += float(weights[abs(offset)]) * np.take(values, neighbours, axis=-3)
    return result


def mask_of(smoothed: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.uint8]:
    """The mask (D, H, W): above the threshold for one channel, the first largest of several."""
    if smoothed.ndim == 4 and len(smoothed) > 1:
        classes: npt.NDArray[np.uint8] = np.argmax(smoothed, axis=0).astype(np.uint8)
        return classes
    above: npt.NDArray[np.bool_] = smoothed.reshape(smoothed.shape[-3:]) > threshold
    return above.astype(np.uint8)
