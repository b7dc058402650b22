"""Scanner values to 8-bit grey slices, by statistics of the whole volume.

Every way is a window: values from ``low`` to ``high`` become 0 to 255, others are clipped. The
slices of a volume share one window, since a window of each slice's own would show the same tissue
at different levels of grey.

- ``zscore``: the mean of the voxels above the volume's minimum (which is air or padding), plus and
  minus four of their standard deviations.
- ``minmax``: the smallest and the largest voxel.
- ``window=LEVEL,WIDTH``: the level plus and minus half the width, in the file's units (Hounsfield
  units for CT).
- ``none``: 0 to 255, and all voxels must lie there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError, UsageError
from edgeseg.spec import VolumeSpec
from edgeseg.volume.nifti import Scan
from edgeseg.volume.slices import slice_order

__all__ = [
    "DEFAULT_VOLUME",
    "ZSCORE_CLIP",
    "Normalization",
    "grey_window",
    "normalize_volume",
    "parse_normalization",
]

DEFAULT_VOLUME = VolumeSpec("zscore")
"""For models that were not fitted to volumes."""

ZSCORE_CLIP = 4.0
"""Standard deviations to either side of the mean that are shown."""

_GATHERED = 16
"""Slices; as many float32 as a cache line holds."""

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Normalization:
    """A parsed ``VolumeSpec.normalize``."""

    kind: Literal["zscore", "minmax", "window", "none"]
    level: float = 0.0
    width: float = 0.0


def parse_normalization(text: str) -> Normalization:
    """``zscore``, ``minmax``, ``window=LEVEL,WIDTH`` or ``none``.

    Raises:
        UsageError: it is something else, or the width is not positive.
    """
    if text == "zscore":
        return Normalization("zscore")
    if text == "minmax":
        return Normalization("minmax")
    if text == "none":
        return Normalization("none")
    head, _, numbers = text.partition("=")
    try:
        level, width = (float(number) for number in numbers.split(","))
    except ValueError:
        level = width = math.nan
    if head != "window" or not (math.isfinite(level) and math.isfinite(width)):
        raise UsageError(
            f"normalisation {text!r}: write zscore, minmax, none or window=LEVEL,WIDTH "
            "(such as window=40,400)"
        )
    if width <= 0.0:
        raise UsageError(f"normalisation {text!r}: the width must be positive")
    return Normalization("window", level, width)


def grey_window(slices: Float, normalization: Normalization, name: str) -> tuple[float, float]:
    """The values that become 0 and 255.

    Args:
        slices: float32 (slice, row, column), finite; sums run in this order, so that a scan gives
            the same bits whatever the order of its file.
        normalization: how.
        name: of the file, for messages.

    Raises:
        DataError: nothing would be seen: all voxels are the same, or lie on one side of the window,
            or the foreground is constant; or with ``none`` a voxel lies outside 0 to 255.
    """
    smallest, largest = float(slices.min()), float(slices.max())
    if smallest == largest:
        raise DataError(f"{name}: every voxel is {smallest:g}: there is nothing to segment")
    kind = normalization.kind
    if kind == "minmax":
        return smallest, largest
    if kind == "zscore":
        if all(bool(((plane == smallest) | (plane == largest)).all()) for plane in _planes(slices)):
            raise DataError(
                f"{name}: every voxel above the minimum {smallest:g} is {largest:g}, so there are "
                "no z-scores: use the normalisation minmax"
            )
        mean, deviation = _moments_above(slices, smallest)
        return mean - ZSCORE_CLIP * deviation, mean + ZSCORE_CLIP * deviation
    if kind == "none":
        if smallest < 0.0 or largest > 255.0:
            raise DataError(
                f"{name}: values from {smallest:g} to {largest:g} need a normalisation: without "
                "one they must lie between 0 and 255"
            )
        return 0.0, 255.0
    low = normalization.level - 0.5 * normalization.width
    high = normalization.level + 0.5 * normalization.width
    if largest <= low or smallest >= high:
        raise DataError(
            f"{name}: values from {smallest:g} to {largest:g} lie outside the window from {low:g} "
            f"to {high:g}: choose another window"
        )
    return low, high


def normalize_volume(scan: Scan, spec: VolumeSpec) -> npt.NDArray[np.uint8]:
    """Grey slices of a scan, as a network sees them.

    Args:
        scan: read by ``read_scan``.
        spec: normalisation and slicing direction.

    Returns:
        uint8 (slice, row, column), contiguous, in the orientation of ``edgeseg.volume.slices``.

    Raises:
        UsageError: the specification says something unknown.
        DataError: as ``grey_window``.
    """
    normalization = parse_normalization(spec.normalize)
    slices = slice_order(scan.geometry, spec.axis).to_slices(scan.voxels)
    low, high = grey_window(slices, normalization, str(scan.path))
    grey = np.empty(slices.shape, np.uint8)
    for source, target in zip(_planes(slices), grey, strict=True):
        share = (source.astype(np.float64) - low) / (high - low)
        np.rint(255.0 * np.clip(share, 0.0, 1.0), out=share)
        target[...] = share
    return grey


def _planes(slices: Float) -> Iterator[Float]:
    """The slices one by one, contiguous.

    They are gathered a few at a time: across the order of the file, each read of memory brings
    voxels of several neighbouring slices.
    """
    for start in range(0, len(slices), _GATHERED):
        yield from np.ascontiguousarray(slices[start : start + _GATHERED])


def _moments_above(slices: Float, minimum: float) -> tuple[float, float]:
    """Mean and standard deviation of the voxels above ``minimum``, of which several differ."""

    def above() -> Iterator[npt.NDArray[np.float64]]:
        return (plane[plane > minimum].astype(np.float64) for plane in _planes(slices))

    parts = [(voxels.size, float(voxels.sum())) for voxels in above()]
    count = sum(size for size, _ in parts)
    mean = math.fsum(total for _, total in parts) / count
    squares = math.fsum(float(np.square(voxels - mean).sum()) for voxels in above())
    return mean, math.sqrt(squares / count)
