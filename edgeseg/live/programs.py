"""What ffmpeg and GStreamer's launcher say when they fail, and what an installed one knows."""

from __future__ import annotations

import logging
import re
import subprocess
from functools import cache

__all__ = [
    "all_frames_words",
    "complaint_of_ffmpeg",
    "complaint_of_gstreamer",
    "ffmpeg_version",
    "has_element",
    "untagged_size",
]

_log = logging.getLogger(__name__)

_ASKED_S = 20.0
"""GStreamer may look through all its plugins when it is asked for the first time."""

# "[tcp @ 0x55d0] [error] Connection refused", with the level because it is asked to say it.
_FFMPEG_ERROR = re.compile(r"(?:\[[^\]]* @ [^\]]*\]\s*)*\[(?:error|fatal|panic)\]\s*(.*)")
# Its reason stands in the line before.
_FFMPEG_EMPTY = re.compile(r"Error initializing output stream \S+ --\s*|Conversion failed!?")
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")

# "[info]   Stream #0:0: Video: h264 (High), yuv420p(tv, bt709, progressive), 1280x720 [SAR ..."
_FFMPEG_VIDEO = re.compile(
    r"Stream #\S+: Video: .*?, (?:yuv|nv|uyvy|p0)\w+(?:\(([^)]*)\))?, (\d+)x(\d+)"
)
_MATRIX = re.compile(r"bt\d|smpte|fcc|ycgco|gbr")

_GST_ERROR = re.compile(r"ERROR: from element (\S+): (.*)")
_GST_MISTAKE = re.compile(r"(?:WARNING: erroneous pipeline|ERROR: pipeline could not be \w+): (.*)")
_GST_DETAILS = "Additional debug info:"

# Builds from the repository are called N-110000-gabcdef, and are newer than what is asked about.
_VERSION = re.compile(r"ffmpeg version n?(\d+)\.(\d+)")
_NEWEST = (1000, 0)


def complaint_of_ffmpeg(said: tuple[str, ...]) -> str:
    """The last errors among what ffmpeg printed, in one line; "" if there are none.

    Two of them, since the very last one often says no more than that it could not go on.
    """
    found: list[str] = []
    for line in said:
        if (error := _FFMPEG_ERROR.match(line)) and error[1]:
            text = _ADDRESS.sub("", error[1]).rstrip(".")
            if text not in found and not _FFMPEG_EMPTY.fullmatch(text):
                found.append(text)
    return "; ".join(found[-2:])


def all_frames_words(path: str) -> tuple[str, ...]:
    """Output options with which the ffmpeg at ``path`` keeps every frame, and its time stamp.

    Otherwise time stamps are rounded to the rate that the input states, and frames that come
    faster for a while are dropped; most outputs even get an even rate, by repeating and dropping.
    """
    # Renamed in 5.1, and the old name will go.
    option = "-fps_mode" if ffmpeg_version(path) >= (5, 1) else "-vsync"
    return (option, "passthrough", "-enc_time_base", "1:1000")


def untagged_size(said: tuple[str, ...]) -> tuple[int, int] | None:
    """Size of ffmpeg's first input, if that is YCbCr video that does not state its matrix."""
    for line in said:
        if video := _FFMPEG_VIDEO.search(line):
            tagged = video[1] is not None and _MATRIX.search(video[1])
            return None if tagged else (int(video[2]), int(video[3]))
    return None


def complaint_of_gstreamer(said: tuple[str, ...]) -> str:
    """The first error among what gst-launch printed, in one line; "" if there is none.

    The first one is the cause; those after it are what the other elements made of it. A pipeline
    that is written wrongly is called a mistake.
    """
    for number, line in enumerate(said):
        if mistake := _GST_MISTAKE.match(line):
            return f"mistake in the pipeline: {mistake[1]}"
        if error := _GST_ERROR.match(line):
            element = error[1].rpartition(":")[2].rpartition("/")[2]
            detail = ""
            # Then a line with the place in GStreamer's sources, and at times one for people.
            more = said[number + 1 : number + 4]
            if len(more) == 3 and more[0] == _GST_DETAILS and not more[2].startswith("ERROR"):
                detail = f" ({more[2]})"
            return f"{element}: {error[2]}{detail}"
    return ""


@cache
def ffmpeg_version(path: str) -> tuple[int, int]:
    """Major and minor version of the ffmpeg at ``path``; one beyond all where it has no number."""
    found = _VERSION.search(_ask(path, "-version")[1])
    return (int(found[1]), int(found[2])) if found else _NEWEST


@cache
def has_element(inspector: str, name: str) -> bool:
    """Whether GStreamer has an element, asked of the ``gst-inspect-1.0`` at ``inspector``."""
    return _ask(inspector, "--exists", name)[0] == 0


def _ask(*words: str) -> tuple[int, str]:
    """Exit code and output of a program that only looks something up."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASKED_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("%s does not answer: %s", words[0], error)
        return -1, ""
    return done.returncode, done.stdout.decode("utf-8", "replace")
