"""Pictures in a window of this machine's screen, shown by a program that can."""

from __future__ import annotations

import abc
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from edgeseg.errors import MissingDependencyError, OutputError, SinkLostError, UsageError
from edgeseg.live.base import Picture
from edgeseg.live.process import Consumer, find_program
from edgeseg.live.programs import complaint_of_ffmpeg, complaint_of_gstreamer, has_element
from edgeseg.live.sinks import highgui
from edgeseg.live.sinks.piped import PipedSink, raw_input_words

__all__ = ["DisplaySink", "WindowClosedError"]

_log = logging.getLogger(__name__)

_ELSEWHERE = "use --serve to look at it in a browser, or write to a file"

_TARGET = re.compile(r":?(\d+(?:\.\d+)?)|(wayland-\w+)")

# ffplay shows a picture when its time stamp says so, but never earlier than this after the last.
# With stamps that always lag behind it shows each at once, and the newest if there are several.
_FFPLAY_RATE = Fraction(1000)

# What ffplay prints 33 times a second: "  12.34 M-V: 0.000 fd= 3 aq= 0KB vq= 14KB sq= 0B f=0/0".
_FFPLAY_ALIVE = re.compile(r"\bfd=\s*\d+\s+aq=")
_FFPLAY_SILENT_S = 1.0
_HIGHGUI_SILENT_S = 2.0

_ROW_ALIGNMENT_BYTES = 4
_GST_WINDOWS = {
    "DISPLAY": ("nv3dsink", "xvimagesink", "ximagesink", "glimagesink"),
    "WAYLAND_DISPLAY": ("waylandsink", "glimagesink"),
}
"""Elements that open a window, the best first, by the variable that names their screen."""
_GST_CLOSED = "window was closed"


class WindowClosedError(OutputError):
    """The person in front of it has closed the window; the session goes on without it."""


class DisplaySink(PipedSink):
    """A window, of the size of the pictures, on a screen of X or Wayland.

    ffplay shows it where it is installed, else GStreamer. ffplay can be stopped by keys (p, space):
    since a window that stands still looks like a live one, it is watched, and taken away when it
    does not go on.
    """

    _finishes = False

    def __init__(self, target: str, *, name: str, title: str) -> None:
        """Find a screen and a program; the window opens with the first picture.

        Args:
            target: "" for the screen that the environment names; 0, :0 or wayland-0 for another.
            name: what a person may read.
            title: of the window.

        Raises:
            UsageError: no such way to name a screen.
            OutputError: there is no screen.
            MissingDependencyError: no program that can show pictures is installed.
        """
        super().__init__(name=name)
        self.closed_by_user = False
        """The window was closed, and that was no failure."""
        environment = _screen(target, name)
        self._window = _choose(environment)
        self.program = self._window.program
        self.why = self._window.why
        """Why this program shows the window."""
        self._title = "".join(character for character in title if character.isprintable())
        self._environment = environment
        _log.info("%s: shown by %s, %s", name, self.program, self.why)

    @property
    def how(self) -> str:
        """The program that shows the window, and why it."""
        return f"shown by {self.program}, {self.why}"

    def _start(self, width_px: int, height_px: int) -> Consumer:
        return Consumer(
            self._window.words(width_px, height_px, self._title),
            environment=self._environment,
            heartbeat=self._window.heartbeat,
        )

    def _complaint(self, said: tuple[str, ...]) -> str:
        return self._window.complaint(said)

    def _laid_out(self, picture: Picture) -> Picture:
        return self._window.laid_out(picture)

    def _check(self, child: Consumer) -> None:
        if self._window.stands_still(child):
            raise SinkLostError(
                f"{self.name}: the window does not go on (was it paused?) and was taken away"
            )

    def _is_started(self, child: Consumer) -> bool:
        return child.heard_s is not None or super()._is_started(child)

    def _is_hopeless(self, complaint: str) -> bool:
        # Without a screen that can be opened there will be none in a second either.
        return bool(complaint)

    def _failed(self, child: Consumer) -> OutputError:
        error = super()._failed(child)
        if not self._window.was_closed(child):
            return error
        self.closed_by_user = True
        return WindowClosedError(f"{self.name}: the window was closed")


class _Window(abc.ABC):
    """A program that shows what it is sent."""

    program: str
    why: str
    heartbeat: re.Pattern[str] | None = None
    """What it prints as long as its window goes on."""

    @abc.abstractmethod
    def words(self, width_px: int, height_px: int, title: str) -> list[str]:
        """Program and arguments."""

    @abc.abstractmethod
    def complaint(self, said: tuple[str, ...]) -> str:
        """Why it failed, in its own words."""

    @abc.abstractmethod
    def was_closed(self, child: Consumer) -> bool:
        """Whether a child that ended did so because somebody closed its window."""

    def laid_out(self, picture: Picture) -> Picture:
        """The bytes that it wants."""
        return np.ascontiguousarray(picture)

    def stands_still(self, child: Consumer) -> bool:
        """Whether its window shows an old picture although newer ones came."""
        return False


class _Ffplay(_Window):
    program = "ffplay"
    heartbeat = _FFPLAY_ALIVE

    def __init__(self, path: str) -> None:
        self._path = path
        self.why = "which is installed"

    def words(self, width_px: int, height_px: int, title: str) -> list[str]:
        return [
            *(self._path, "-hide_banner", "-loglevel", "repeat+level+info", "-stats"),
            *("-fflags", "nobuffer", "-flags", "low_delay", "-framedrop", "-an"),
            *("-window_title", title),
            *raw_input_words(width_px, height_px, _FFPLAY_RATE, wall_clock=False),
        ]

    def complaint(self, said: tuple[str, ...]) -> str:
        return complaint_of_ffmpeg(said)

    def was_closed(self, child: Consumer) -> bool:
        return child.ended() == 0

    def stands_still(self, child: Consumer) -> bool:
        heard_s = child.heard_s
        return heard_s is not None and time.monotonic() - heard_s > _FFPLAY_SILENT_S


class _GstreamerWindow(_Window):
    program = "GStreamer"
    _newest = (
        *("leaky=downstream", "max-size-buffers=1"),
        *("max-size-bytes=0", "max-size-time=0"),
    )

    def __init__(self, launcher: str, element: str) -> None:
        self._launcher = launcher
        self._element = element
        self.why = f"which has {element} (ffplay is not installed)"

    def words(self, width_px: int, height_px: int, title: str) -> list[str]:
        row_bytes = _padded_bytes(width_px)
        return [
            *(self._launcher, "-q", "fdsrc", "fd=0", "blocksize=1048576", "!"),
            *("rawvideoparse", "format=bgr", f"width={width_px}", f"height={height_px}"),
            *(f"plane-strides=<{row_bytes}>", f"frame-size={row_bytes * height_px}"),
            # What a slow screen cannot show in time is left out.
            *("!", "queue", *self._newest),
            *("!", "taginject", f"tags=title={_plain(title)}"),
            *("!", "videoconvert", "!", self._element, "sync=false"),
        ]

    def complaint(self, said: tuple[str, ...]) -> str:
        return complaint_of_gstreamer(said)

    def was_closed(self, child: Consumer) -> bool:
        return any(_GST_CLOSED in line for line in child.said)

    def laid_out(self, picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        row_bytes = _padded_bytes(width)
        if row_bytes == 3 * width:
            return np.ascontiguousarray(picture)
        # GStreamer begins each row at a multiple of four bytes.
        rows = np.zeros((height, row_bytes), np.uint8)
        rows[:, : 3 * width] = picture.reshape(height, 3 * width)
        return rows


class _HighguiWindow(_Window):
    program = "OpenCV"
    heartbeat = re.compile(highgui.ALIVE)
    why = "whose build has windows (neither ffplay nor GStreamer is installed)"

    def words(self, width_px: int, height_px: int, title: str) -> list[str]:
        return [sys.executable, "-m", highgui.__name__, str(width_px), str(height_px), title]

    def complaint(self, said: tuple[str, ...]) -> str:
        return next((line for line in reversed(said) if line.strip()), "")

    def was_closed(self, child: Consumer) -> bool:
        return child.ended() == 0

    def stands_still(self, child: Consumer) -> bool:
        heard_s = child.heard_s
        return heard_s is not None and time.monotonic() - heard_s > _HIGHGUI_SILENT_S


def _padded_bytes(width_px: int) -> int:
    return -(-3 * width_px // _ROW_ALIGNMENT_BYTES) * _ROW_ALIGNMENT_BYTES


def _plain(text: str) -> str:
    """What needs no quotes in a value of a value of gst-launch, which no version takes alike."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-") or "edgeseg"


def _screen(target: str, name: str) -> Mapping[str, str]:
    """Variables that name the screen, beside those of this process."""
    if target:
        named = _TARGET.fullmatch(target)
        if named is None:
            raise UsageError(f"{name}: a screen is named as in display://0 or display://wayland-0")
        if named[1]:
            # Programs prefer Wayland where both are named.
            return {"DISPLAY": f":{named[1]}", "WAYLAND_DISPLAY": "", "SDL_VIDEODRIVER": "x11"}
        return {"WAYLAND_DISPLAY": named[2], "DISPLAY": "", "SDL_VIDEODRIVER": "wayland"}
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise OutputError(
            f"{name}: no screen: neither DISPLAY nor WAYLAND_DISPLAY is set: {_ELSEWHERE}"
        )
    # Where it finds no screen SDL, which ffplay shows with, draws into memory and says nothing.
    driver = "x11" if os.environ.get("DISPLAY") else "wayland"
    return {"SDL_VIDEODRIVER": os.environ.get("SDL_VIDEODRIVER") or driver}


def _choose(environment: Mapping[str, str]) -> _Window:
    ffplay = shutil.which("ffplay")
    if ffplay is not None:
        return _Ffplay(ffplay)
    if shutil.which("gst-launch-1.0") and shutil.which("gst-inspect-1.0"):
        inspector = find_program("gst-inspect-1.0")
        for variable, elements in _GST_WINDOWS.items():
            if not environment.get(variable, os.environ.get(variable)):
                continue
            for element in elements:
                if has_element(inspector, element):
                    return _GstreamerWindow(find_program("gst-launch-1.0"), element)
    if highgui.has_windows():
        return _HighguiWindow()
    raise MissingDependencyError(
        "nothing is installed that can show a window: run  sudo apt install ffmpeg  (for ffplay), "
        f"or {_ELSEWHERE}"
    )
