"""Frames from a GStreamer pipeline, which runs in a process of its own."""

from __future__ import annotations

import re
import shlex
from fractions import Fraction
from typing import TYPE_CHECKING

from edgeseg.errors import MissingDependencyError, UsageError
from edgeseg.live.process import Producer, find_program
from edgeseg.live.programs import complaint_of_gstreamer
from edgeseg.live.sources.framing import Reader, read_gdp
from edgeseg.live.sources.piped import PipedSource

if TYPE_CHECKING:
    from edgeseg.live.sources import SourceOptions

__all__ = ["GstreamerSource", "csi_pipeline"]


_LAUNCHER = "gst-launch-1.0"

# Two frames at most wait inside the pipeline, and the oldest goes first: what edgeseg gets is new,
# also after it could not take frames for a while.
_NEWEST = (
    "queue",
    "leaky=downstream",
    "max-size-buffers=2",
    "max-size-bytes=0",
    "max-size-time=0",
)

_CSI_SIZE_PX = (1920, 1080)
_CSI_RATE = Fraction(30)

_CLOCKED = frozenset({"clocksync", "is-live=true", "is-live=1", "do-timestamp=true", "sync=true"})
_NO_ELEMENT = re.compile(r'no element "([^"]+)"')

_PLUGINS = {
    "gdppay": "gstreamer1.0-plugins-bad",
    "videoconvert": "gstreamer1.0-plugins-base",
    "fdsink": "gstreamer1.0-tools gstreamer1.0-plugins-base",
}
"""Packages of the elements that are added to every pipeline."""


class GstreamerSource(PipedSource):
    """Runs a pipeline that ends in raw video of any format in the host's memory.

    What it sends is converted to BGR by GStreamer, with the matrix and range that its caps state.
    Frames may change their size on the way. ``is_finite`` is read off the pipeline: it holds
    ``filesrc``, a file as ``uri`` or ``num-buffers``.
    """

    program = "GStreamer"

    def __init__(self, pipeline: str, options: SourceOptions, *, name: str) -> None:
        """Start nothing yet.

        Args:
            pipeline: as after ``gst-launch-1.0``, quoted as for a shell, though none sees it; ends
                before the conversion to BGR.
            options: ``timeout_s`` alone is looked at.
            name: what a person may read.

        Raises:
            UsageError: a quote that is not closed, or nothing at all.
        """
        super().__init__(name=name, timeout_s=options.timeout_s)
        try:
            self._words = shlex.split(pipeline)
        except ValueError as error:
            raise UsageError(f"{name}: the pipeline cannot be taken apart: {error}") from error
        if not self._words or self._words[0].startswith("-"):
            raise UsageError(f"{name}: a pipeline begins with an element, such as videotestsrc")
        if self._words[-1] == "!":
            raise UsageError(f"{name}: a pipeline ends with an element and not with '!'")
        finite = next((word for word in self._words if _is_finite(word)), None)
        clocked = next((word for word in self._words if word in _CLOCKED), None)
        self._note_end(finite, timed=clocked is not None)

    def _start(self) -> Producer:
        launcher = find_program(_LAUNCHER)
        # Frames that wait for whoever takes them must all arrive.
        newest = [*_NEWEST, "!"] if self.is_live else []
        bgr = ["videoconvert", "!", "video/x-raw,format=BGR", "!", "gdppay", "!"]
        return Producer(
            lambda sending: [
                *(launcher, "-q", *self._words, "!", *newest, *bgr),
                *("fdsink", f"fd={sending}", "sync=false"),
            ]
        )

    def _read(self) -> Reader:
        return read_gdp()

    def _complaint(self, said: tuple[str, ...]) -> str:
        complaint = complaint_of_gstreamer(said)
        missing = _NO_ELEMENT.search(complaint)
        if missing and missing[1].startswith("nv"):
            return f"{complaint} (NVIDIA's elements come with JetPack, on a Jetson)"
        return complaint

    def _is_hopeless(self, complaint: str) -> bool:
        # Elements that were added to the user's are not the user's mistake.
        missing = _NO_ELEMENT.search(complaint)
        if missing and missing[1] in _PLUGINS and missing[1] not in self._words:
            raise MissingDependencyError(
                f"GStreamer's element {missing[1]!r} is not installed: run  sudo apt install "
                f"{_PLUGINS[missing[1]]}"
            )
        return complaint.startswith("mistake in the pipeline")


def csi_pipeline(sensor_id: int, options: SourceOptions) -> str:
    """Pipeline of a camera at a Jetson's CSI port.

    Args:
        sensor_id: number of the camera, 0 and up.
        options: size and rate choose the sensor's mode; 1920x1080 at 30 where they say nothing.
    """
    width, height = _CSI_SIZE_PX
    if options.width_px is not None and options.height_px is not None:
        width, height = options.width_px, options.height_px
    rate = options.rate or _CSI_RATE
    caps = (
        f"video/x-raw(memory:NVMM),format=NV12,width={width},height={height},"
        f"framerate={rate.numerator}/{rate.denominator}"
    )
    # nvvidconv takes the frame out of NVIDIA's memory and cannot make BGR, but BGRx.
    return shlex.join(
        [
            *("nvarguscamerasrc", f"sensor-id={sensor_id}", "!", caps, "!"),
            *("nvvidconv", "!", "video/x-raw,format=BGRx"),
        ]
    )


def _is_finite(word: str) -> bool:
    if word == "filesrc":
        return True
    name, _, value = word.partition("=")
    if name == "uri":
        return value.startswith("file:")
    return name == "num-buffers" and not value.startswith("-")
