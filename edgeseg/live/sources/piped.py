"""What sources that are programs at the other end of a pipe have in common."""

from __future__ import annotations

import abc
import logging
import math
import time

from edgeseg.errors import DataError, EndOfStreamError, SourceLostError
from edgeseg.live.base import Captured, LiveSource
from edgeseg.live.process import Producer
from edgeseg.live.sources.framing import RawFrame, Reader, SizeChangedError

__all__ = ["PipedSource"]

_log = logging.getLogger(__name__)

_ENDED_S = 2.0
"""How long a program that has closed its pipe may take to say why."""


class PipedSource(LiveSource):
    """Frames that a program sends.

    A frame is captured when its last byte is there: what happens to it before, inside the program,
    edgeseg cannot know. Where the program can, it sends frames of another size on the way; ``size``
    is that of the newest frame then.

    What the program reads decides what its end means. Where that is a file (``is_finite``), the end
    is an ``EndOfStreamError`` and a failure a ``DataError``. Everything else may come back, so that
    whatever ends it is a ``SourceLostError`` once it has delivered a frame. Before the first one, a
    failure that no second attempt can mend (a mistake in the arguments) is a ``DataError``.
    """

    program: str
    """Name of the program that runs."""
    is_finite: bool
    """Its end is an end, and not a loss."""

    def __init__(self, *, name: str, timeout_s: float) -> None:
        """Start nothing yet.

        Args:
            name: what a person may read.
            timeout_s: after so many seconds without a byte the program is stopped.
        """
        self.name = name
        self._timeout_s = timeout_s
        self._child: Producer | None = None
        self._proven = False

    def _note_end(self, finite: str | None, *, timed: bool) -> None:
        """Decide, and say, what the program's end means and whether its frames wait.

        Args:
            finite: the word by which it reads a file; None if it reads none.
            timed: it plays what it reads by the clock.
        """
        self.is_finite = finite is not None
        self.is_live = finite is None or timed
        _log.info(
            "%s: %s, %s",
            self.name,
            f"its end is an end ({finite})" if finite else "its end is a loss (it reads no file)",
            "frames come at their own time" if self.is_live else "frames come as they are taken",
        )

    @abc.abstractmethod
    def _start(self) -> Producer:
        """Start the program.

        Raises:
            MissingDependencyError: it is not installed.
        """

    @abc.abstractmethod
    def _read(self) -> Reader:
        """A reader of what the program sends."""

    @abc.abstractmethod
    def _complaint(self, said: tuple[str, ...]) -> str:
        """The line among what the program printed that says why it failed; "" if none does."""

    @abc.abstractmethod
    def _is_hopeless(self, complaint: str) -> bool:
        """Whether the same program with the same arguments will always fail so."""

    def open(self) -> None:
        """Start the program and wait for its first frame; see ``LiveSource``."""
        self.close()
        try:
            self._child = self._start()
        except OSError as error:
            raise DataError(f"{self.name}: {self.program} cannot be started: {error}") from error
        self._reader = self._read()
        self._wanted: memoryview | None = None
        self._first: Captured | None = None
        self._delivered = False
        self._first_media_s = math.nan
        self._heard_s = time.monotonic()
        try:
            self._first = self._receive(time.monotonic() + self._timeout_s)
            if self._first is None:
                raise self._silent()
        except BaseException:
            self.close()
            raise
        self._proven = True

    def read(self, timeout_s: float) -> Captured | None:
        """The next frame; see ``LiveSource``."""
        if self._child is None:
            raise SourceLostError(f"{self.name} is not open")
        if self._first is not None:
            first, self._first = self._first, None
            return first
        frame = self._receive(time.monotonic() + timeout_s)
        if frame is None and time.monotonic() - self._heard_s > self._timeout_s:
            raise self._silent()
        return frame

    def close(self) -> None:
        """Stop the program."""
        child, self._child = self._child, None
        self._first = None
        if child is not None:
            child.close()

    def _receive(self, until_s: float) -> Captured | None:
        """Go on with the frame that is under way, until it is complete or the time is up."""
        child = self._child
        assert child is not None
        try:
            while True:
                if not self._wanted:
                    step = next(self._reader, None)
                    if step is None:
                        raise SourceLostError(f"{self.name} has failed and must be opened again")
                    if isinstance(step, RawFrame):
                        return self._captured(step)
                    self._wanted = step
                count = child.read_into(self._wanted, until_s)
                if not count:
                    return None
                self._heard_s = time.monotonic()
                self._wanted = self._wanted[count:]
        except EOFError:
            raise self._ended(child) from None
        except SizeChangedError:
            raise self._size_changed() from None
        except SourceLostError:
            raise
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error

    def _captured(self, frame: RawFrame) -> Captured:
        now_s = time.monotonic()
        height, width = frame.image.shape[:2]
        if self.size != (width, height):
            _log.info("%s: frames of %dx%d", self.name, width, height)
        self._delivered = True
        self.size = (width, height)
        self.rate = frame.rate
        media_s = frame.media_s
        if media_s is not None:
            if math.isnan(self._first_media_s):
                self._first_media_s = media_s
            media_s -= self._first_media_s
        return Captured(frame.image, now_s, media_s)

    def _silent(self) -> SourceLostError:
        child = self._child
        complaint = self._complaint(child.said) if child is not None else ""
        more = f" ({complaint})" if complaint else ""
        return SourceLostError(
            f"{self.name}: {self.program} runs, but nothing came for {self._timeout_s:g} s{more}"
        )

    def _size_changed(self) -> DataError:
        before = "what they were" if self.size is None else f"{self.size[0]}x{self.size[1]}"
        what = f"{self.name}: its frames are no longer {before}"
        if self.is_finite:
            # Opened again, it would begin again.
            return DataError(f"{what}, and how large they are is not known: name the file itself")
        return SourceLostError(f"{what}: it has to be opened again to find out how large they are")

    def _ended(self, child: Producer) -> Exception:
        """What the end of the program means."""
        code = child.ended(_ENDED_S)
        if code is None:
            child.close()
        complaint = self._complaint(child.said)
        why = f"{self.name}: {complaint or _how(self.program, code)}"
        if self.is_finite:
            if code == 0 and self._delivered:
                return EndOfStreamError(f"{self.name}: everything was delivered")
            return DataError(why)
        if not self._proven and self._is_hopeless(complaint):
            return DataError(why)
        return SourceLostError(why)


def _how(program: str, code: int | None) -> str:
    if code is None:
        return f"{program} closed its output and went on"
    if code < 0:
        return f"{program} was killed by signal {-code}"
    return f"{program} ended without a word" + (f" (exit code {code})" if code else "")
