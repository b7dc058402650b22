"""Frames from ffmpeg, which runs in a process of its own."""

from __future__ import annotations

import logging
import re
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import UsageError
from edgeseg.live.process import Producer, find_program
from edgeseg.live.programs import (
    all_frames_words,
    complaint_of_ffmpeg,
    ffmpeg_version,
    untagged_size,
)
from edgeseg.live.sources.framing import Reader, read_nut
from edgeseg.live.sources.piped import PipedSource
from edgeseg.video.colour import is_high_definition

if TYPE_CHECKING:
    from edgeseg.live.sources import SourceOptions

__all__ = ["FfmpegSource"]

_log = logging.getLogger(__name__)

_STOPPING = frozenset({"-t", "-to", "-frames:v", "-vframes", "-frames"})
_MATRIX_OPTION = "scale=in_color_matrix"

_RATES = frozenset({"-r", "-fpsmax", "-vsync", "-fps_mode"})
_PACED = frozenset({"-re", "-readrate"})
_ENDLESS = frozenset({"-loop", "-stream_loop"})
_LAVFI_LENGTH = re.compile(r"[=:](?:d|duration)=")

# What another attempt may find otherwise. Everything else that ffmpeg says before the first frame
# is about its arguments or its input.
_PASSING = re.compile(
    r"connection|timed? ?out|unreachable|no route|network|temporar|resolve|resource|busy|reset|"
    r"broken pipe|input/output error|i/o error|server returned 5|failed: 5",
    re.IGNORECASE,
)


class FfmpegSource(PipedSource):
    """Runs ``ffmpeg ARGUMENTS`` and takes the first video stream of what it makes.

    ffmpeg converts to BGR. It takes BT.601 for every video that does not state its matrix, where
    everything else in edgeseg takes BT.709 in high definition: a warning says so, and what to add.

    Where the size of the frames changes midway the source is lost, and opened again it has the new
    one. ``is_finite`` is read off the arguments: all inputs are files, or a length is given.
    """

    program = "ffmpeg"

    def __init__(self, arguments: str, options: SourceOptions, *, name: str) -> None:
        """Start nothing yet.

        Args:
            arguments: inputs, and filters if need be, quoted as for a shell, though none sees them;
                the output is added.
            options: ``timeout_s`` alone is looked at.
            name: what a person may read.

        Raises:
            UsageError: a quote that is not closed, or no input.
        """
        super().__init__(name=name, timeout_s=options.timeout_s)
        self._text = arguments
        try:
            self._words = shlex.split(arguments)
        except ValueError as error:
            raise UsageError(f"{name}: the arguments cannot be taken apart: {error}") from error
        if "-i" not in self._words[:-1]:
            raise UsageError(f"{name}: there is no input: write for example 'ffmpeg:-i clip.mp4'")
        finite = _why_finite(self._words)
        paced = next((word for word in self._words if word in _PACED), None)
        self._note_end(finite, timed=paced is not None)

    def _start(self) -> Producer:
        ffmpeg = find_program("ffmpeg")
        # Frames of another size than the first must arrive as such and not be stretched to it.
        unscaled = ["-autoscale", "0"] if _knows_autoscale(ffmpeg) else []
        # Unless a rate is asked of the output, which an even rate belongs to.
        outputs = self._words[_last_input(self._words) :]
        every = () if _RATES.intersection(outputs) else all_frames_words(ffmpeg)
        return Producer(
            lambda sending: [
                *(ffmpeg, "-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info"),
                *(*self._words, "-an", "-sn", "-dn", *unscaled, *every),
                *("-c:v", "rawvideo", "-pix_fmt", "bgr24", "-sws_flags", "bilinear+accurate_rnd"),
                *("-flush_packets", "1", "-f", "nut", f"pipe:{sending}"),
            ]
        )

    def open(self) -> None:
        """Start ffmpeg and wait for its first frame; see ``LiveSource``."""
        super().open()
        size = untagged_size(self._child.said) if self._child is not None else None
        if size is not None and is_high_definition(*size) and _MATRIX_OPTION not in self._text:
            _log.warning(
                "%s: its video does not state its matrix, so that ffmpeg takes BT.601 and shows "
                "greens wrongly if it is BT.709: add  -vf %s=bt709  (or bt601 if it is that)",
                self.name,
                _MATRIX_OPTION,
            )

    def _read(self) -> Reader:
        return read_nut()

    def _complaint(self, said: tuple[str, ...]) -> str:
        return complaint_of_ffmpeg(said)

    def _is_hopeless(self, complaint: str) -> bool:
        return bool(complaint) and not _PASSING.search(complaint)


@cache
def _knows_autoscale(ffmpeg: str) -> bool:
    # Since 4.4; before, every frame is scaled to the size of the first, and nothing changes that.
    known = ffmpeg_version(ffmpeg) >= (4, 4)
    if not known:
        _log.warning("%s is older than 4.4: frames that change their size are stretched", ffmpeg)
    return known


def _why_finite(words: list[str]) -> str | None:
    """What shows that the program ends by itself; None if nothing does."""
    if any(word in _ENDLESS for word in words):
        return None
    for word in words:
        if word in _STOPPING:
            return word
    places = [number + 1 for number, word in enumerate(words[:-1]) if word == "-i"]
    inputs = [words[place] for place in places]
    return "it reads files" if all(_is_finite(text) for text in inputs) else None


def _last_input(words: list[str]) -> int:
    return max(number for number, word in enumerate(words) if word == "-i")


def _is_finite(text: str) -> bool:
    """Whether an input is a file, numbered files, or a generator with a length."""
    path = Path(text.removeprefix("file:"))
    if path.exists():
        return path.is_file()
    return bool(_LAVFI_LENGTH.search(text)) or ("%" in path.name and path.parent.is_dir())
