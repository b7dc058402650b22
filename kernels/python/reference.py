"""What the kernels compute, in numpy: clear, slow, and written independently of them.

Follows Pillow, ``src/libImaging/Resample.c``, 8 bits per channel. Weights are computed in float64
and rounded to 22-bit fixed point; sums are exact in int64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeseg.kernels._resize import Resample, crop
from edgeseg.spec import RoiSpec

__all__ = ["resize_normalize", "resize_u8"]

_PRECISION_BITS = 22


def resize_normalize(
    frame: npt.NDArray[np.uint8],
    height_px: int,
    width_px: int,
    *,
    resample: Resample,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float = 1.0 / 255.0,
    roi: RoiSpec | None = None,
) -> npt.NDArray[np.float64]:
    """As ``edgeseg.kernels.resize_normalize``, in float64: (1, 3, height_px, width_px), RGB."""
    values = resize_u8(frame, height_px, width_px, resample=resample, roi=roi)
    rgb = values[:, :, ::-1].astype(np.float64)
    normalized = (rgb * scale - np.asarray(mean)) / np.asarray(std)
    return np.ascontiguousarray(normalized.transpose(2, 0, 1))[np.newaxis]


def resize_u8(
    frame: npt.NDArray[np.uint8],
    height_px: int,
    width_px: int,
    *,
    resample: Resample,
    roi: RoiSpec | None = None,
) -> npt.NDArray[np.uint8]:
    """As ``edgeseg.kernels.resize_u8``: uint8 (height_px, width_px, 3)."""
    region = crop(frame, roi)
    lost_rows = region.shape[0] - height_px
    lost_columns = region.shape[1] - width_px
    if lost_rows > max(0, 2 * lost_columns):
        return _along(_along(region, height_px, 0, resample), width_px, 1, resample)
    return _along(_along(region, width_px, 1, resample), height_px, 0, resample)


def _along(
    picture: npt.NDArray[np.uint8], size: int, axis: int, resample: Resample
) -> npt.NDArray[np.uint8]:
    """One pass, rounded to 8 bits; a side that keeps its size is left alone."""
    samples = np.moveaxis(picture, axis, 0)
    if samples.shape[0] == size:
        return picture
    result = np.empty((size, *samples.shape[1:]), np.uint8)
    for i in range(size):
        first, weights = _fixed_weights(samples.shape[0], size, i, resample)
        window = samples[first : first + len(weights)].astype(np.int64)
        total = np.tensordot(weights, window, axes=1) + (1 << (_PRECISION_BITS - 1))
        result[i] = np.clip(total >> _PRECISION_BITS, 0, 255)
    return np.moveaxis(result, 0, axis)


def _fixed_weights(
    size_in: int, size_out: int, index: int, resample: Resample
) -> tuple[int, npt.NDArray[np.int64]]:
    """First source sample of the result sample ``index``, and the weights from there on."""
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    radius = {"bilinear": 1.0, "bicubic": 2.0}[resample] * stretch
    centre = (index + 0.5) * scale
    first = max(int(centre - radius + 0.5), 0)
    last = min(int(centre + radius + 0.5), size_in)
    position = np.arange(first, last) - centre + 0.5
    weights = _kernel(np.abs(position * (1.0 / stretch)), resample)
    # Added one after the other: numpy's pairwise sum would round differently.
    total = float(np.add.accumulate(weights)[-1])
    if total != 0.0:
        weights = weights / total
    scaled = weights * float(1 << _PRECISION_BITS)
    return first, np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int64)


def _kernel(x: npt.NDArray[np.float64], resample: Resample) -> npt.NDArray[np.float64]:
    """The triangle, or Keys' cubic with a = -0.5, at the distances ``x`` >= 0."""
    if resample == "bilinear":
        return np.where(x < 1.0, 1.0 - x, 0.0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
