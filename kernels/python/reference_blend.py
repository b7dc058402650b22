"""What ``blend_overlay`` draws, in numpy: clear, slow, exact, and independent of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["blend_overlay", "outline"]


def blend_overlay(
    frame: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    colours_bgr: npt.NDArray[np.uint8],
    *,
    alpha: float,
    outline_px: int = 0,
) -> npt.NDArray[np.uint8]:
    """As ``edgeseg.kernels.blend_overlay``, but returns the picture and leaves the frame alone."""
    weight = round(256 * alpha)
    result = frame.astype(np.int64)
    edges = outline(mask, outline_px)
    for index, colour in enumerate(colours_bgr.astype(np.int64), start=1):
        where = mask == index
        result[where] = (result[where] * (256 - weight) + colour * weight + 128) // 256
        result[where & edges] = colour
    return result.astype(np.uint8)


def outline(mask: npt.NDArray[np.uint8], radius: int) -> npt.NDArray[np.bool_]:
    """Where the square of ``radius`` to each side, within the mask, holds another index."""
    height, width = mask.shape
    other = np.zeros(mask.shape, np.bool_)
    for dy in range(-min(radius, height - 1), min(radius, height - 1) + 1):
        here = slice(max(0, -dy), height - max(0, dy))
        there = slice(max(0, dy), height - max(0, -dy))
        for dx in range(-min(radius, width - 1), min(radius, width - 1) + 1):
            x_here = slice(max(0, -dx), width - max(0, dx))
            x_there = slice(max(0, dx), width - max(0, -dx))
            other[here, x_here] |= mask[here, x_here] != mask[there, x_there]
    return other
