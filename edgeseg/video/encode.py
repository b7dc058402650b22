"""Videos, encoded by PyAV (FFmpeg): H.264 to look at, FFV1 to compute with."""

from __future__ import annotations

import abc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError, OutputError
from edgeseg.video.base import Frame, Sink
from edgeseg.video.colour import YuvConverter

__all__ = ["LabelVideo", "OverlayVideo"]

_CRF = "20"
"""Constant quality: no visible difference from the source at viewing distance."""
_PRESET = "superfast"
"""At 720p it takes 13 ms of CPU time a frame where ``veryfast`` takes 21 and ``medium`` 50, for
files a third larger: on small machines the cores are the model's."""

_DEFAULT_RATE = Fraction(25)


class _Video(Sink):
    """One stream of one encoder; subclasses say which."""

    def __init__(
        self,
        path: Path,
        shown: Path,
        *,
        size: tuple[int, int],
        rate: Fraction | None,
        time_base: Fraction,
        pixel_aspect: Fraction | None,
    ) -> None:
        """Open the file; the header follows with the first frame.

        Args:
            path: where to write.
            shown: the name that error messages use.
            size: (width, height) in pixels.
            rate: average frames per second; it guides the encoder, the time stamps are the frames'.
            time_base: seconds that time stamps are rounded to multiples of.
            pixel_aspect: width of a pixel divided by its height; None for square ones.

        Raises:
            OutputError: the file cannot be created, or this FFmpeg has no such encoder.
        """
        self._size = size
        self._time_base = time_base
        self._last_pts = -1
        options = {"movflags": "+faststart"} if path.suffix.lower() != ".mkv" else {}
        self._shown = shown
        try:
            self._container = av.open(str(path), "w", options=options)
        except (av.FFmpegError, ValueError) as error:
            raise self._failed(error) from error
        try:
            self._stream = self._add_stream(rate or _DEFAULT_RATE)
            context = self._stream.codec_context
            context.time_base = time_base
            # Otherwise encoders drop the frames' durations, and the last frame's is guessed.
            context.flags |= av.codec.context.Flags.frame_duration
            if pixel_aspect:
                context.sample_aspect_ratio = pixel_aspect
        except (av.FFmpegError, ValueError) as error:
            self._container.close()
            raise self._failed(error) from error

    @abc.abstractmethod
    def _add_stream(self, rate: Fraction) -> Any:
        """Add the stream with its codec, size and pixel format."""

    @abc.abstractmethod
    def _convert(self, image: npt.NDArray[np.uint8]) -> Any:
        """The picture as a PyAV frame in the encoder's pixel format."""

    def write(self, frame: Frame, image: npt.NDArray[np.uint8]) -> None:
        """Encode one picture; see ``Sink``."""
        height, width = image.shape[:2]
        if (width, height) != self._size:
            raise InputError(
                f"a video of {self._size[0]}x{self._size[1]} cannot take a frame of "
                f"{width}x{height}"
            )
        converted = self._convert(np.ascontiguousarray(image))
        # Two frames at one time would be refused; broken sources have them.
        pts = max(self._ticks(frame.time_s or 0.0), self._last_pts + 1)
        self._last_pts = pts
        converted.pts = pts
        converted.time_base = self._time_base
        if frame.duration_s:
            converted.duration = max(1, self._ticks(frame.duration_s))
        try:
            self._container.mux(self._stream.encode(converted))
        except (av.FFmpegError, ValueError) as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        """Write the frames that the encoder holds, and the index."""
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        except (av.FFmpegError, ValueError) as error:
            raise self._failed(error) from error

    def discard(self) -> None:
        """Close the file as it is."""
        try:
            self._container.close()
        except (av.FFmpegError, ValueError):
            # The file is about to be removed, and an error is on its way to the caller.
            return

    def _ticks(self, time_s: float) -> int:
        return round(time_s / float(self._time_base))

    def _failed(self, error: Exception) -> OutputError:
        return OutputError(f"cannot write {self._shown}: {error}")


class OverlayVideo(_Video):
    """H.264, yuv420p, tagged with its colours; odd sizes get one more row or column."""

    def _add_stream(self, rate: Fraction) -> Any:
        if "libx264" not in av.codecs_available:
            raise OutputError(
                "this build of PyAV has no H.264 encoder (libx264): install its wheel with "
                "pip install --force-reinstall --only-binary av av"
            )
        width, height = self._size
        even = width + width % 2, height + height % 2
        stream = self._container.add_stream(
            "libx264", rate=rate, options={"crf": _CRF, "preset": _PRESET}
        )
        stream.width, stream.height = even
        stream.pix_fmt = "yuv420p"
        self._to_yuv = YuvConverter(*even)
        self._to_yuv.tag(stream.codec_context)
        return stream

    def _convert(self, image: npt.NDArray[np.uint8]) -> Any:
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            padded = cv2.copyMakeBorder(
                image, 0, height % 2, 0, width % 2, borderType=cv2.BORDER_REPLICATE
            )
            image = np.asarray(padded, np.uint8)
        return self._to_yuv(image)


class LabelVideo(_Video):
    """FFV1, 8-bit grey: the values come back exactly."""

    def _add_stream(self, rate: Fraction) -> Any:
        # Version 3 has a checksum for each slice, so damage is noticed when it is read,
        # and without references between frames (g 1) it costs one frame.
        stream = self._container.add_stream(
            "ffv1", rate=rate, options={"level": "3", "slicecrc": "1", "g": "1"}
        )
        stream.width, stream.height = self._size
        stream.pix_fmt = "gray"
        return stream

    def _convert(self, image: npt.NDArray[np.uint8]) -> Any:
        return av.VideoFrame.from_ndarray(image, format="gray")
