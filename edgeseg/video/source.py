"""Frames from a picture, a folder of pictures or a video, through one interface."""

from __future__ import annotations

import abc
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeseg.dataset import IMAGE_SUFFIXES, DataFolder, read_image
from edgeseg.errors import DataError

__all__ = ["Frame", "ImageSource", "MediaKind", "Source", "media_kind", "open_source"]

_log = logging.getLogger(__name__)

MediaKind = Literal["image", "folder", "video"]

_SHOWN_FAILURES = 5


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


class Source(abc.ABC):
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

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ImageSource(Source):
    """One picture, or the pictures of a folder in natural order of their names.

    A folder is read to its end even if some of its pictures cannot be; they are named then.
    """

    def __init__(self, path: Path, kind: MediaKind) -> None:
        """Find the pictures; none is decoded yet.

        Raises:
            DataError: there are none.
        """
        folder = DataFolder.open(path, masks="ignored")
        if not folder.cases:
            raise DataError(
                f"{path} holds videos but no pictures: name one video at a time "
                f"(such as {folder.videos[0]})"
            )
        if folder.videos and kind == "folder":
            _log.warning(
                "%s: %d video(s) beside the pictures are passed over", path, len(folder.videos)
            )
        self.kind = kind
        # A data folder's pictures lie in its image/.
        self.path = folder.cases[0].image.parent if kind == "folder" else path
        self.size = None
        self.frame_count = len(folder.cases)
        self._cases = folder.cases

    def __iter__(self) -> Iterator[Frame]:
        """Pictures in order; see ``Source``."""
        failures: list[DataError] = []
        index = 0
        for case in self._cases:
            try:
                image = read_image(case.image)
            except DataError as error:
                failures.append(error)
                continue
            yield Frame(index, image, case.id)
            del image
            index += 1
        if failures and self.kind == "image":
            raise failures[0]
        if failures:
            shown = "; ".join(str(error) for error in failures[:_SHOWN_FAILURES])
            rest = len(failures) - _SHOWN_FAILURES
            more = f"; and {rest} more" if rest > 0 else ""
            raise DataError(
                f"{len(failures)} of {len(self._cases)} pictures of {self.path} could not be "
                f"read: {shown}{more}"
            )


def media_kind(path: Path) -> MediaKind:
    """What ``path`` is by its name: a folder, a picture by its suffix, or else a video.

    Raises:
        DataError: nothing is there.
    """
    if path.is_dir():
        return "folder"
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    return "image" if path.suffix.lower() in IMAGE_SUFFIXES else "video"


def open_source(path: Path | str) -> Source:
    """Open a picture, a folder of pictures or a video.

    A video's first frame is decoded here, so a file that is no video fails now and not in the
    middle of the work.

    Raises:
        DataError: nothing there, no pictures, not a video, or a video without frames.
        TruncatedVideoError: a video cut so early that no frame can be read.
    """
    path = Path(path)
    kind = media_kind(path)
    if kind == "video":
        from edgeseg.video.decode import VideoSource

        return VideoSource(path)
    return ImageSource(path, kind)
