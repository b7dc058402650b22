"""Raw frames on standard output, for programs that read them there."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path

import cv2
import numpy as np

from edgeseg.errors import OutputError, UsageError
from edgeseg.live.base import LiveSink, Picture, Shown, SinkPolicy

__all__ = ["RawSink", "letterbox"]

_log = logging.getLogger(__name__)

_STANDARD_OUTPUT = 1
_STANDARD_ERROR = 2


class RawSink(LiveSink):
    """Writes pictures as bytes: height x width x 3, BGR, nothing between them.

    Readers of raw frames count bytes, so the size of the first frame is that of all. Pictures of
    another size that come later are scaled to fit into it, with their proportions, on black; blank
    ones before the first frame, which may have any size, are left out.

    Standard output belongs to the frames from then on: whatever else this program and its libraries
    print goes to standard error, also after the sink was closed.
    """

    policy: SinkPolicy = "wait"
    name = "standard output"
    size: tuple[int, int] | None = None
    """(width, height) in pixels; None before the first frame."""

    def __init__(self) -> None:
        """Take standard output over.

        Raises:
            UsageError: it is a terminal, or where messages go.
            OutputError: it is closed.
        """
        try:
            if os.isatty(_STANDARD_OUTPUT):
                raise UsageError(
                    "raw frames on a terminal are of no use: send them on, as in  edgeseg ... | "
                    "ffplay -f rawvideo -pixel_format bgr24 -video_size 1280x720 -"
                )
            if _messages_go_there():
                raise UsageError(
                    "raw frames and messages would mix: standard output and standard error are the "
                    "same; send one of them elsewhere"
                )
            # A program may have no sys.stdout, or have closed it: then nothing waits in it.
            with contextlib.suppress(AttributeError, ValueError):
                sys.stdout.flush()
            self._descriptor = os.dup(_STANDARD_OUTPUT)
            os.dup2(_STANDARD_ERROR, _STANDARD_OUTPUT)
        except OSError as error:
            raise OutputError(
                f"standard output cannot take frames: {error.strerror or error}; send it to a "
                "program or a file"
            ) from error

    def write(self, shown: Shown) -> None:
        """Write one picture; see ``LiveSink``."""
        picture = shown.picture
        size = picture.shape[1], picture.shape[0]
        if self.size is None:
            if shown.frame.index < 0:
                return
            self.size = size
            _log.info("raw frames on standard output: bgr24, %dx%d", *size)
        elif size != self.size:
            picture = letterbox(picture, self.size)
        view = np.ascontiguousarray(picture).data.cast("B")
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError as error:
            raise OutputError(
                "standard output was closed by the program that read the raw frames: look there why"
            ) from error
        except OSError as error:
            raise OutputError(
                f"cannot write raw frames to standard output: {error.strerror or error}"
            ) from error

    def close(self) -> None:
        """End the stream, which its reader sees; see ``LiveSink``."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _messages_go_there() -> bool:
    output, error = os.fstat(_STANDARD_OUTPUT), os.fstat(_STANDARD_ERROR)
    return os.path.samestat(output, error) and not os.path.samestat(output, Path(os.devnull).stat())


def letterbox(picture: Picture, size: tuple[int, int]) -> Picture:
    """``picture`` scaled to fit into ``size`` = (width, height) in pixels, centred on black."""
    height, width = picture.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    result = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    result[top : top + inner[1], left : left + inner[0]] = cv2.resize(
        picture, inner, interpolation=method
    )
    return result
