"""Raw frames on standard input: the way for programs that have pictures of their own.

ffmpeg -i ... -f rawvideo -pix_fmt bgr24 - | edgeseg live NAME.edgeseg - ...
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import stat
import time
from collections.abc import Callable
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError, EndOfStreamError, UsageError
from edgeseg.live.base import Captured, LiveSource, Picture
from edgeseg.live.sources import RAW_FORMATS, SourceOptions

__all__ = ["RawSource"]

_log = logging.getLogger(__name__)

_BITS = {"bgr24": 24, "rgb24": 24, "gray": 8, "yuv420p": 12, "nv12": 12}
_LARGEST_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 22

Bytes = npt.NDArray[np.uint8]


class RawSource(LiveSource):
    """Frames of one size and pixel format, one after the other, without anything between them.

    At the pace of the source (the default) it is live: whoever writes is taken to be at work now,
    and the session drops what it cannot do. With ``pace="none"`` the writer waits. ``close`` leaves
    the stream where it is, so opening again goes on in the middle of a frame, if need be.
    """

    silence_is_loss = False
    """A writer that is slow cannot be connected to again."""

    def __init__(self, options: SourceOptions, *, name: str, descriptor: int = 0) -> None:
        """Read nothing yet.

        Args:
            options: size, pixel format (``codec``, bgr24 if not given), rate, pace.
            name: what a person may read.
            descriptor: where the bytes come from.

        Raises:
            UsageError: the size is missing, the format unknown, or they do not go together.
        """
        if options.width_px is None or options.height_px is None:
            raise UsageError("raw frames on standard input do not tell their size: give it")
        self._format = options.codec or "bgr24"
        if self._format not in RAW_FORMATS:
            raise UsageError(f"raw frames are {', '.join(RAW_FORMATS)}, not {self._format!r}")
        width, height = options.width_px, options.height_px
        if _BITS[self._format] == 12 and (width % 2 or height % 2):
            raise UsageError(f"{self._format} needs an even width and height, not {width}x{height}")
        self.name = name
        self.size = (width, height)
        self.rate: Fraction | None = options.rate
        self.is_live = options.pace != "none"
        self._descriptor = descriptor
        self._frame_bytes = width * height * _BITS[self._format] // 8
        self._to_bgr = _converter(self._format, width, height)
        self._buffer = np.empty(self._frame_bytes, np.uint8)
        self._filled = 0
        self._count = 0

    def open(self) -> None:
        """Check that something is there to read.

        Raises:
            DataError: standard input is a terminal, or was closed.
        """
        try:
            mode = os.fstat(self._descriptor).st_mode
        except OSError as error:
            raise DataError(f"{self.name} is closed: pipe raw frames into it") from error
        if os.isatty(self._descriptor):
            raise DataError(f"{self.name} is a terminal: pipe raw frames into it")
        if stat.S_ISFIFO(mode):
            # 64 KiB are the default, a hundred system calls for a large frame. More than a frame
            # would only let frames grow old.
            size = min(_LARGEST_PIPE_BYTES, self._frame_bytes)
            with contextlib.suppress(OSError):
                if fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ) < size:
                    fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, size)

    def read(self, timeout_s: float) -> Captured | None:
        """The next whole frame; see ``LiveSource``.

        Raises:
            EndOfStreamError: the stream ended after a whole frame.
            DataError: it ended within a frame, or cannot be read.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._filled < self._frame_bytes:
            if not self._readable(deadline_s):
                return None
            view = self._buffer.data[self._filled : self._filled + _READ_BYTES]
            try:
                count = os.readv(self._descriptor, [view])
            except BlockingIOError:
                continue  # somebody else made it non-blocking and took what was there
            except OSError as error:
                raise DataError(f"{self.name} cannot be read: {error.strerror}") from error
            if count == 0:
                raise self._end()
            self._filled += count
        captured_s = time.monotonic()
        image = self._to_bgr(self._buffer)
        if np.shares_memory(image, self._buffer):
            self._buffer = np.empty(self._frame_bytes, np.uint8)
        self._filled = 0
        media_s = float(self._count / self.rate) if self.rate else None
        self._count += 1
        return Captured(image, captured_s, media_s)

    def close(self) -> None:
        """Leave standard input to whoever opened it."""
        return

    def _readable(self, deadline_s: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        left_ms = max(0.0, 1e3 * (deadline_s - time.monotonic()))
        # Bytes, the end and errors all wake it, and reading then tells which it was.
        return bool(poll.poll(left_ms))

    def _end(self) -> DataError:
        if self._filled == 0 and self._count:
            return EndOfStreamError(f"{self.name}: all {self._count} frames were read")
        size = f"{self.size[0]}x{self.size[1]}" if self.size else ""
        if self._filled == 0:
            return DataError(f"{self.name} ended before the first frame")
        return DataError(
            f"{self.name} ended within frame {self._count}, after {self._filled} of "
            f"{self._frame_bytes} bytes: cut off, or not {size} {self._format}"
        )


def _converter(pixel_format: str, width: int, height: int) -> Callable[[Bytes], Picture]:
    """From the bytes of a frame to BGR; only for bgr24 the result lies in them."""
    shape = (height, width, 3)
    if pixel_format == "bgr24":
        return lambda data: data.reshape(shape)
    if pixel_format == "rgb24":
        return lambda data: np.asarray(cv2.cvtColor(data.reshape(shape), cv2.COLOR_RGB2BGR))
    if pixel_format == "gray":
        grey = (height, width)
        return lambda data: np.asarray(cv2.cvtColor(data.reshape(grey), cv2.COLOR_GRAY2BGR))
    import av

    from edgeseg.video.colour import BgrConverter

    convert = BgrConverter()
    planes = (height * 3 // 2, width)

    def from_yuv(data: Bytes) -> Picture:
        frame = av.VideoFrame.from_ndarray(data.reshape(planes), format=pixel_format)
        return convert(frame)

    return from_yuv
