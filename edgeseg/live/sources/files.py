"""Videos, pictures and folders of pictures, played as if a camera delivered them."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

from edgeseg.errors import DataError
from edgeseg.live.sources import SourceOptions
from edgeseg.live.sources.played import Played, PlayedSource
from edgeseg.video.base import MediaKind
from edgeseg.video.source import ImageSource, media_kind

__all__ = ["FileSource", "kind_of"]

_log = logging.getLogger(__name__)

_FOLDER_RATE = Fraction(25)


class FileSource(PlayedSource):
    """A video file, one picture, or the pictures of a folder in natural order.

    Frames of a video may change their size midway. Damaged ones are left out, up to the next that
    needs none of them; a video that is cut or damaged ends with ``TruncatedVideoError`` after its
    last good frame, also in a loop.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        """Look at the path; nothing is decoded.

        Raises:
            DataError: nothing is there, or something that is no file.
        """
        super().__init__(name=str(path), paced=options.pace != "none", loop=options.loop)
        self._path = path
        self._kind = kind_of(path)
        self._rate = options.rate
        self._pictures: ImageSource | None = None
        if self._kind != "video" and self._rate is None and self.is_live:
            self._rate = _FOLDER_RATE
            _log.info("%s: pictures are played at %s a second", path, _FOLDER_RATE)

    def _play(self) -> Played:
        return self._play_video() if self._kind == "video" else self._play_pictures()

    def _play_video(self) -> Played:
        from edgeseg.live.sources.flowing_video import FlowingVideo

        before = self.faults
        with FlowingVideo(self._path) as video:
            self.size, self.rate = video.size, video.rate
            for frame in video:
                self.faults = before + video.left_out
                yield frame.image, frame.time_s
                del frame

    def _play_pictures(self) -> Played:
        # Once, so that a loop does not list the folder and say what it passes over again.
        if self._pictures is None:
            self._pictures = ImageSource(self._path, self._kind)
        self.rate = self._rate
        for frame in self._pictures:
            height, width = frame.image.shape[:2]
            self.size = self.size or (width, height)
            yield frame.image, float(frame.index / self._rate) if self._rate else None
            del frame


def kind_of(path: Path) -> MediaKind:
    """What lies at ``path``.

    Raises:
        DataError: nothing, something that is no file (a device, a pipe), or out of reach.
    """
    try:
        kind = media_kind(path)
        usable = path.is_dir() or path.is_file()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    if not usable:
        raise DataError(
            f"{path} is neither a file nor a folder: a camera is named v4l2:///dev/video0, raw "
            "frames from a pipe are read as  -  from standard input"
        )
    return kind
