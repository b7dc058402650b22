"""What a frame path is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError, UsageError

__all__ = ["FrameResult", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """What comes down from the device for each frame."""

    overlay: bool = True
    """The frame with the mask drawn on it."""
    mask: bool = False
    """The mask."""
    statistics: bool = True
    """How many pixels each class has."""

    def __post_init__(self) -> None:
        if not (self.overlay or self.mask or self.statistics):
            raise UsageError("nothing is wanted: ask for the overlay, the mask or the statistics")


@dataclass(frozen=True)
class FrameResult:
    """What a frame path says about one frame. The arrays are the caller's own."""

    overlay: npt.NDArray[np.uint8] | None
    """uint8 (H, W, 3), BGR; None if it was not wanted."""
    mask: npt.NDArray[np.uint8] | None
    """uint8 (H, W), 0 background, else the index of the class; None if it was not wanted."""
    counts: tuple[int, ...] | None
    """Pixels of the frame in each class, background first (a model of one class has two entries);
    None if statistics were not wanted."""
    timings_ms: Mapping[str, float]
    """Milliseconds on the device: ``copy_in``, ``compute`` and ``copy_out``, which overlap with
    those of the neighbouring frames."""

    @property
    def area_px(self) -> int:
        """Number of foreground pixels.

        Raises:
            InputError: neither statistics nor the mask were wanted.
        """
        if self.counts is not None:
            return sum(self.counts[1:])
        if self.mask is not None:
            return int(np.count_nonzero(self.mask))
        raise InputError("the area needs Wanted(statistics=True) or Wanted(mask=True)")
