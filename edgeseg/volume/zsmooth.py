"""Gaussian smoothing of probabilities across slices, in slabs that bring their neighbours.

Of the whole stack only one slab and the kernel's radius to either side are held, and the result is
the same, bit for bit, as that of smoothing everything at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeseg import kernels
from edgeseg.errors import InputError, UsageError
from edgeseg.spec import ZSmoothingSpec

__all__ = ["MAX_SIGMA_SLICES", "TRUNCATE", "SlabSmoother", "sigma_in_slices"]

TRUNCATE = 4.0
"""Standard deviations at which the Gaussian is cut off."""

MAX_SIGMA_SLICES = 255.0
"""Largest standard deviation; with ``TRUNCATE`` it fits the kernel's radius of 1024 slices."""

_MIN_SLAB = 8


def sigma_in_slices(spec: ZSmoothingSpec | None, slices: int, spacing_mm: float) -> float:
    """The standard deviation in slices; 0 for no smoothing.

    Args:
        spec: what is wanted, in millimetres or slices; None for nothing.
        slices: in the volume.
        spacing_mm: between neighbouring slices.

    Raises:
        UsageError: it is larger than the volume.
    """
    if spec is None or spec.sigma == 0.0:
        return 0.0
    sigma = spec.sigma / spacing_mm if spec.unit == "mm" else spec.sigma
    if sigma > slices:
        raise UsageError(
            f"a z-sigma of {_both(sigma, spacing_mm)} is larger than the volume, which extends "
            f"over {_both(slices, spacing_mm)} along this axis: choose a smaller one, or 0 for none"
        )
    if sigma > MAX_SIGMA_SLICES:
        raise UsageError(
            f"a z-sigma of {_both(sigma, spacing_mm)} is more than the largest, "
            f"{_both(MAX_SIGMA_SLICES, spacing_mm)}"
        )
    return sigma


class SlabSmoother:
    """Takes probabilities slice by slice, gives masks slab by slab.

    Edges replicate: beyond the first and the last slice the volume goes on as they are.
    """

    def __init__(
        self,
        slices: int,
        sigma_slices: float,
        *,
        threshold: float | None = None,
        slab: int | None = None,
        threads: int = 1,
    ) -> None:
        """Prepare for a volume.

        Args:
            slices: how many there will be.
            sigma_slices: standard deviation; above 0.
            threshold: for one class; several compete by argmax.
            slab: how many slices are smoothed at once; None for the kernel's radius.
            threads: of the smoothing.
        """
        self._slices = slices
        self._threshold = threshold
        self._threads = threads
        self._weights = kernels.gaussian_weights(sigma_slices, truncate=TRUNCATE)
        self._radius = len(self._weights) - 1
        slab = slab or max(_MIN_SLAB, self._radius)
        self._size = min(slices, slab + 2 * self._radius)
        self._window: npt.NDArray[np.float32] | None = None
        self._start = 0  # slice of the volume that the window begins with
        self._filled = 0
        self._done = 0

    def push(
        self, probability: npt.NDArray[np.float32]
    ) -> tuple[int, npt.NDArray[np.uint8]] | None:
        """Take the next slice.

        Args:
            probability: float32 (H, W) of one class or (C, H, W) of several, the same each time.

        Returns:
            None, or the index of a slice and the masks from there on, uint8 (count, H, W). The last
            slice is followed by the last masks.

        Raises:
            InputError: slices differ in shape, or there are more than announced.
        """
        planes = probability.reshape(-1, *probability.shape[-2:])
        if self._window is None:
            self._window = np.empty((len(planes), self._size, *planes.shape[1:]), np.float32)
        window = self._window
        if self._start + self._filled >= self._slices:
            raise InputError(f"more than the {self._slices} slices that were announced")
        if planes.shape != (window.shape[0], *window.shape[2:]):
            raise InputError(f"slices differ in shape: {planes.shape} after {window[:, 0].shape}")
        window[:, self._filled] = planes
        self._filled += 1
        if self._filled < self._size:
            return None
        end = self._start + self._size
        until = self._slices if end == self._slices else end - self._radius
        first = self._done
        masks = np.empty((until - first, *window.shape[2:]), np.uint8)
        kernels.smooth_z(
            window[0] if len(window) == 1 else window,
            self._weights,
            first=first - self._start,
            count=len(masks),
            threshold=self._threshold,
            probability=False,
            mask=True,
            mask_out=masks,
            threads=self._threads,
        )
        self._done = until
        if end < self._slices:
            self._advance(window)
        return first, masks

    def _advance(self, window: npt.NDArray[np.float32]) -> None:
        """Make room, keeping what the next slab needs on its left."""
        start = min(self._done - self._radius, self._slices - self._size)
        step = start - self._start
        # Slice by slice: a copy onto itself as a whole would make numpy buffer all of it.
        for position in range(self._size - step):
            window[:, position] = window[:, position + step]
        self._start = start
        self._filled = self._size - step


def _both(slices: float, spacing_mm: float) -> str:
    return f"{slices:.4g} slices ({slices * spacing_mm:.4g} mm)"
