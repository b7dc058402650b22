"""Frames from a picture, a folder of pictures or a video, through one interface."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from edgeseg.dataset import IMAGE_SUFFIXES, DataFolder, read_image
from edgeseg.errors import DataError
from edgeseg.video.base import Frame, MediaKind, Source

__all__ = ["ImageSource", "media_kind", "open_source"]

_log = logging.getLogger(__name__)

_SHOWN_FAILURES = 5


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
