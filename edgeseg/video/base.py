"""What sources and sinks are, whatever lies behind them."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeseg._closing import Closing

__all__ = ["Frame", "MediaKind", "Sink", "Source"]

MediaKind = Literal["image", "folder", "video"]


@dataclass(frozen=True)
class Frame:
    """A picture and where it comes from."""

    index: int
    """0 for the first one that was delivered."""
    image: npt.NDArray[np.uint8]
    """uint8 (H, W, 3), BGR."""
    name: str
    """Stem of the picture's file, or of the video's with the frame's number."""
    time_s: float | None = None
    """Presentation time since the first frame; None for pictures."""
    duration_s: float | None = None
    """How long a video's frame is shown, if the file says."""


class Source(Closing):
    """Iterate over it once; use it as a context manager, or call ``close``."""

    kind: MediaKind
    path: Path
    """The file, or the folder in which the pictures themselves lie."""
    size: tuple[int, int] | None
    """(width, height) in pixels that all frames share; None if they may differ."""
    rate: Fraction | None = None
    """Average frames per second; None for pictures and where a video does not say."""
    frame_count: int | None = None
    """Number of frames, or the container's estimate; None if unknown."""
    time_base: Fraction | None = None
    """Seconds that the container's time stamps are multiples of."""
    pixel_aspect: Fraction | None = None
    """Width of a pixel divided by its height, if the video says."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Frames in order.

        Raises:
            TruncatedVideoError: after the last frame that could be read, if more should follow.
            DataError: after the last picture of a folder, if some could not be read.
        """

    def close(self) -> None:
        """Free the file; the default holds none."""
        return


class Sink(abc.ABC):
    """Takes pictures in order."""

    @abc.abstractmethod
    def write(self, frame: Frame, image: npt.NDArray[np.uint8]) -> None:
        """Write ``image``, which was made from ``frame`` and is named and timed like it.

        Raises:
            OutputError: it cannot be written.
        """

    def finish(self) -> None:
        """Complete the file."""
        return

    def discard(self) -> None:
        """Let go of the file without completing it."""
        return
