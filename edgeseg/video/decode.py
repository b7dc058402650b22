"""Videos, decoded by PyAV (FFmpeg), which tells a cut file from one that has ended."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.stream import Disposition

from edgeseg.dataset import MAX_IMAGE_PX
from edgeseg.errors import DataError, TruncatedVideoError, UsageError
from edgeseg.video.base import Frame, Source
from edgeseg.video.colour import BgrConverter
from edgeseg.video.completeness import missing_end

__all__ = ["VideoSource"]

_log = logging.getLogger(__name__)

# Demuxers that make "videos" of text and of single pictures.
_NOT_VIDEOS = frozenset({"tty", "bin", "xbin", "adf", "idf"})

_FLUSH = None
"""Instead of a packet, makes PyAV's decoders give what they hold."""
_END: Any = object()

_ROTATIONS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_CLOCKWISE,
}


class VideoSource(Source):
    """The first video stream of a file.

    Frames are turned upright by the rotation the file states, as players do. Time stamps are kept,
    so variable frame rates survive; the first frame has time 0. Frames whose size changes in the
    middle end the reading with a ``DataError``.
    """

    kind = "video"

    def __init__(self, path: Path) -> None:
        """Open the file and decode its first frame.

        Raises:
            DataError: unreadable, not a video, no frames, or frames that are too large.
            TruncatedVideoError: it is known to be cut, and no frame can be read.
        """
        self.path = path
        self._frames_read = 0
        self._faults = 0
        self._missing = missing_end(path)
        self._convert = BgrConverter()
        self._iterated = False
        try:
            self._container = av.open(str(path))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._unreadable(error) from error
        try:
            self._open_stream()
        except BaseException:
            self._container.close()
            raise

    def _open_stream(self) -> None:
        if self._container.format.name in _NOT_VIDEOS:
            raise DataError(f"{self.path}: not a video")
        streams = [s for s in self._container.streams.video if not _is_cover(s)]
        if not streams:
            raise DataError(f"{self.path} has no video stream")
        stream = self._stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise DataError(f"{self.path}: this FFmpeg has no decoder for its video")
        self._check_size(context.width, context.height)
        stream.thread_type = "AUTO"
        self.rate = stream.average_rate or stream.guessed_rate
        self.time_base = stream.time_base
        self._stated_frames = int(stream.frames) or None
        self.frame_count = self._stated_frames or self._estimated_frames()
        self._packets = self._demux()
        self._pending: deque[Any] = deque()
        self._fill_pending()
        if not self._pending:
            raise self._unreadable(None)
        first = self._pending[0]
        self._coded_size = (first.width, first.height)
        self._rotation = int(first.rotation) % 360
        width, height = self._coded_size
        aspect = stream.sample_aspect_ratio
        if self._rotation in (90, 270):
            width, height = height, width
            aspect = 1 / aspect if aspect else None
        self.size = (width, height)
        self.pixel_aspect = aspect or None
        # AVI counts frames in decoding order, which with B-frames is not the order of showing.
        counted = self._container.format.name == "avi" and context.has_b_frames
        self._first_pts = None if counted else first.pts

    def __iter__(self) -> Iterator[Frame]:
        """Frames in the order of their presentation; see ``Source``."""
        if self._iterated:
            raise UsageError(f"{self.path}: a video source can be read once; open it again")
        self._iterated = True
        time_s = -math.inf
        step_s = float(1 / self.rate) if self.rate else 0.04
        while True:
            if not self._pending:
                self._fill_pending()
            if not self._pending:
                break
            raw = self._pending.popleft()
            if (raw.width, raw.height) != self._coded_size:
                raise DataError(
                    f"{self.path}: the frame size changes from {self._coded_size[0]}x"
                    f"{self._coded_size[1]} to {raw.width}x{raw.height} after "
                    f"{self._frames_read} frames: split the video there"
                )
            index = self._frames_read
            self._frames_read += 1
            stated_s = -math.inf
            if raw.pts is not None and self._first_pts is not None:
                stated_s = float((raw.pts - self._first_pts) * self.time_base)
            # Times that are missing or do not advance are made from the frame rate.
            time_s = stated_s if stated_s > time_s else max(0.0, time_s + step_s)
            duration_s = float(raw.duration * self.time_base) if raw.duration else None
            yield Frame(
                index, self._upright(raw), f"{self.path.stem}_{index:06d}", time_s, duration_s
            )
            del raw
        self._check_end(time_s)

    def close(self) -> None:
        """Close the file."""
        self._pending.clear()
        self._container.close()

    def _fill_pending(self) -> None:
        """Decode until at least one frame is pending, or the stream has ended."""
        while not self._pending:
            packet = next(self._packets, _END)
            if packet is _END:
                return
            # The demuxer marks a packet it could read only in part. A decoder would make up the
            # rest of the picture.
            if packet is not _FLUSH and packet.is_corrupt and self._missing:
                continue
            try:
                frames = self._stream.codec_context.decode(packet)
            except av.FFmpegError as error:
                self._note_fault(error)
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self._note_fault("a damaged frame")
                self._pending.append(frame)

    def _demux(self) -> Iterator[Any]:
        try:
            yield from self._container.demux(self._stream)
        except av.FFmpegError as error:
            self._note_fault(error)
            # The demuxer gave up without its last, empty packet, which empties the decoder.
            yield _FLUSH

    def _note_fault(self, what: object) -> None:
        # A recording that starts between two key frames has undecodable packets at its beginning;
        # that is no damage.
        if self._frames_read or self._pending:
            self._faults += 1
            _log.info("%s: after %d frames: %s", self.path, self._frames_read, what)

    def _upright(self, raw: Any) -> npt.NDArray[np.uint8]:
        image = self._convert(raw)
        turn = _ROTATIONS.get(self._rotation)
        return image if turn is None else np.asarray(cv2.rotate(image, turn), np.uint8)

    def _check_end(self, last_s: float) -> None:
        read, stated = self._frames_read, self._stated_frames
        reasons = []
        if self._missing and (stated is None or read < stated):
            reasons.append(self._missing)
        if self._faults:
            reasons.append(f"{self._faults} packet(s) or frame(s) are damaged")
        if reasons:
            count = f"{read} of {stated} frames" if stated else f"{read} frames"
            raise TruncatedVideoError(
                f"{self.path}: the video is cut or damaged: {' and '.join(reasons)}; "
                f"{count}{self._share(last_s)} could be read"
            )
        if self._missing:
            _log.warning("%s: %s, but all %d frames are there", self.path, self._missing, read)

    def _share(self, last_s: float) -> str:
        """How far the reading came in time, where the container's header states its duration."""
        if self._container.format.name.startswith("mpeg") or not self._container.duration:
            return ""
        return f" (to {last_s:.2f} s of {self._container.duration / av.time_base:.2f} s)"

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_IMAGE_PX:
            raise DataError(
                f"{self.path}: frames of {width}x{height} pixels are more than the "
                f"{MAX_IMAGE_PX} accepted: scale the video down"
            )

    def _estimated_frames(self) -> int | None:
        duration_s = (
            self._stream.duration * self._stream.time_base
            if self._stream.duration
            else Fraction(self._container.duration or 0, av.time_base)
        )
        count = round(duration_s * self.rate) if self.rate else 0
        return count or None

    def _unreadable(self, error: Exception | None) -> DataError:
        detail = f" ({error})" if error is not None else ""
        if self._missing:
            return TruncatedVideoError(
                f"{self.path}: the video is cut: {self._missing}; no frame can be read{detail}"
            )
        if error is not None:
            return DataError(f"{self.path}: not a video that can be read{detail}")
        return DataError(f"{self.path}: the video holds no frame that can be decoded")


def _is_cover(stream: Any) -> bool:
    """Whether the stream is a still picture attached to audio."""
    return bool(stream.disposition & Disposition.attached_pic)
