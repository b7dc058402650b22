"""What sinks that are programs at the other end of a pipe have in common."""

from __future__ import annotations

import abc
import logging
import time
from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np

from edgeseg.errors import OutputError, SinkLostError
from edgeseg.live.base import LiveSink, Picture, Shown
from edgeseg.live.process import Consumer
from edgeseg.live.programs import complaint_of_ffmpeg

__all__ = ["PipedSink", "raw_input_words"]

_log = logging.getLogger(__name__)

_STARTED_S = 10.0
"""A program on a busy board, and its connection to a server, may take so long until it reads."""
_TAKEN_S = 2.0
"""A program that reads takes a picture in milliseconds."""
_PROVEN_S = 3.0
_SAID_S = 2.0


class PipedSink(LiveSink):
    """Hands pictures to a program, which is started with the first one.

    The program is told the size of the pictures when it starts, so it is started anew where that
    changes: a window is opened anew, whoever watches a stream has to connect again. A program that
    does not take a picture in time is stopped, and the sink is lost until it is reopened.

    A failure in the first seconds that no second attempt can mend (an encoder that does not exist)
    is an ``OutputError``.
    """

    program: str = "ffmpeg"
    """Name of the program that runs."""
    _finishes = True
    """When it is closed, the program has something to complete."""
    _even = False
    """Odd sizes get one more row or column, which is a copy of the last."""

    def __init__(self, *, name: str) -> None:
        """Start nothing yet.

        Args:
            name: what a person may read.
        """
        self.name = name
        self._child: Consumer | None = None
        self._size = (0, 0)
        self._started_s = 0.0
        self._proven = False

    @abc.abstractmethod
    def _start(self, width_px: int, height_px: int) -> Consumer:
        """Start the program for pictures of this size.

        Raises:
            OSError: the system cannot start it.
        """

    @abc.abstractmethod
    def _is_hopeless(self, complaint: str) -> bool:
        """Whether the same program with the same arguments will always fail so."""

    def _complaint(self, said: tuple[str, ...]) -> str:
        """The line among what the program printed that says why it failed; "" if none does."""
        return complaint_of_ffmpeg(said)

    def _laid_out(self, picture: Picture) -> Picture:
        """The bytes of a picture as the program wants them."""
        height, width = picture.shape[:2]
        if self._even and (height % 2 or width % 2):
            picture = np.asarray(
                cv2.copyMakeBorder(
                    picture, 0, height % 2, 0, width % 2, borderType=cv2.BORDER_REPLICATE
                ),
                np.uint8,
            )
        return np.ascontiguousarray(picture)

    def _check(self, child: Consumer) -> None:
        """Look whether a running program does what it should; raises if it does not."""
        return

    def _is_started(self, child: Consumer) -> bool:
        """Whether a running program has had the time, or has shown, to be at work."""
        return time.monotonic() - self._started_s > _STARTED_S

    def write(self, shown: Shown) -> None:
        """Hand over one picture; see ``LiveSink``."""
        picture = shown.picture
        size = (picture.shape[1], picture.shape[0])
        if self._child is not None and size != self._size:
            _log.info(
                "%s: pictures of %dx%d instead of %dx%d: %s is started anew",
                *(self.name, *size, *self._size, self.program),
            )
            self._stop()
        child = self._child
        if child is None:
            child = self._child = self._started(size)
        if child.ended() is not None:
            raise self._failed(child)
        try:
            self._check(child)
            data = self._laid_out(picture).data.cast("B")
            child.write(data, _TAKEN_S if self._is_started(child) else _STARTED_S)
        except BrokenPipeError:
            raise self._failed(child) from None
        except TimeoutError:
            complaint = self._complaint(child.said)
            self._kill()
            raise SinkLostError(
                f"{self.name}: {self.program} takes no pictures and was stopped"
                + (f" ({complaint})" if complaint else "")
            ) from None
        except OutputError:
            self._kill()
            raise
        self._proven = self._proven or time.monotonic() - self._started_s > _PROVEN_S

    def reopen(self) -> None:
        """Stop what is left of the program; the next picture starts it again."""
        self._kill()

    def close(self) -> None:
        """Let the program complete what it has, and stop it."""
        self._stop()

    def _started(self, size: tuple[int, int]) -> Consumer:
        width, height = size
        if self._even:
            width, height = width + width % 2, height + height % 2
        try:
            child = self._start(width, height)
        except OSError as error:
            raise OutputError(f"{self.name}: {self.program} cannot be started: {error}") from error
        self._size = size
        self._started_s = time.monotonic()
        return child

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            if self._finishes:
                child.finish(_TAKEN_S)
            child.close()

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def _failed(self, child: Consumer) -> OutputError:
        """What the end of the program means."""
        code = child.ended(_SAID_S)
        self._kill()
        complaint = self._complaint(child.said)
        why = complaint or _how(self.program, code)
        if not self._proven and self._is_hopeless(complaint):
            return OutputError(f"{self.name}: {why}")
        return SinkLostError(f"{self.name}: {why}")


def raw_input_words(
    width_px: int, height_px: int, rate: Fraction, *, wall_clock: bool
) -> Sequence[str]:
    """Arguments with which ffmpeg or ffplay reads BGR pictures at once, without guessing.

    Args:
        width_px: of the pictures.
        height_px: of the pictures.
        rate: nominal pictures per second.
        wall_clock: the time stamp of a picture is when it arrives, and not counted by ``rate``.
    """
    return (
        *("-probesize", "32", "-analyzeduration", "0", "-fpsprobesize", "0"),
        *(("-use_wallclock_as_timestamps", "1") if wall_clock else ()),
        *("-f", "rawvideo", "-pixel_format", "bgr24", "-video_size", f"{width_px}x{height_px}"),
        *("-framerate", f"{rate.numerator}/{rate.denominator}", "-i", "pipe:0"),
    )


def _how(program: str, code: int | None) -> str:
    if code is None:
        return f"{program} closed its input and went on"
    if code < 0:
        return f"{program} was killed by signal {-code}"
    return f"{program} ended without a word (exit code {code})"
