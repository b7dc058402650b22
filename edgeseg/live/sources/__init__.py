"""Where live frames come from: files at their own pace, cameras, network streams, pipes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from edgeseg.dataset import MAX_IMAGE_PX
from edgeseg.errors import UsageError
from edgeseg.live.base import LiveSource
from edgeseg.live.uri import SourceKind, parse_source, parse_test_picture

__all__ = ["PACES", "RAW_FORMATS", "Pace", "SourceOptions", "Transport", "open_live_source"]

Pace = Literal["source", "none"]
"""Frames come when their time stamps say so; or as fast as they are taken."""
PACES: tuple[Pace, ...] = get_args(Pace)

Transport = Literal["tcp", "udp"]

RAW_FORMATS = ("bgr24", "rgb24", "gray", "yuv420p", "nv12")
"""Pixel formats of raw frames on standard input."""

_HIGHEST_FPS = 1000


@dataclass(frozen=True)
class SourceOptions:
    """What may be said about a source beside its name. None is "as the source has it".

    Raises:
        UsageError: a value that no source can have.
    """

    width_px: int | None = None
    """Of cameras: what is asked for. Of raw frames: what they have."""
    height_px: int | None = None
    rate: Fraction | None = None
    """Frames per second: asked of a camera; at which pictures of a folder and raw frames play."""
    codec: str | None = None
    """Of cameras: mjpeg, yuyv422, h264 ...; of raw frames: one of ``RAW_FORMATS``."""
    pace: Pace | None = None
    """Of files, folders, generated and raw frames; "source" if not given."""
    loop: bool = False
    """Play files and folders again and again."""
    transport: Transport | None = None
    """Of RTSP; "tcp" if not given."""
    timeout_s: float = 10.0
    """After so many seconds without an answer or a frame a camera or stream counts as lost."""

    def __post_init__(self) -> None:
        if (self.width_px is None) != (self.height_px is None):
            raise UsageError("width and height of a source belong together: give both or neither")
        if self.width_px is not None and self.height_px is not None:
            if min(self.width_px, self.height_px) < 1:
                raise UsageError(
                    f"a source of {self.width_px}x{self.height_px} pixels: both must be positive"
                )
            if self.width_px * self.height_px > MAX_IMAGE_PX:
                raise UsageError(
                    f"a source of {self.width_px}x{self.height_px} pixels is larger than the "
                    f"{MAX_IMAGE_PX} pixels accepted"
                )
        if self.rate is not None and not 0 < self.rate <= _HIGHEST_FPS:
            raise UsageError(
                f"the rate of a source lies between 0 and {_HIGHEST_FPS} a second, got {self.rate}"
            )
        if self.pace is not None and self.pace not in PACES:
            raise UsageError(f"the pace of a source is {' or '.join(PACES)}, got {self.pace!r}")
        if self.transport is not None and self.transport not in get_args(Transport):
            raise UsageError(f"the transport of RTSP is tcp or udp, got {self.transport!r}")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise UsageError(f"a timeout must be a positive number, got {self.timeout_s}")


_SIZE = frozenset({"width_px", "height_px"})
_OPTIONS: Mapping[SourceKind | Literal["pictures"], frozenset[str]] = {
    "file": frozenset({"pace", "loop"}),
    "pictures": frozenset({"pace", "loop", "rate"}),
    "v4l2": _SIZE | {"rate", "codec", "timeout_s"},
    "rtsp": frozenset({"transport", "timeout_s"}),
    "csi": _SIZE | {"rate", "timeout_s"},
    "gst": frozenset({"timeout_s"}),
    "ffmpeg": frozenset({"timeout_s"}),
    "stdin": _SIZE | {"rate", "codec", "pace"},
    "test": frozenset({"pace"}),
}
_WORDS = {
    "file": "a video file",
    "pictures": "a folder of pictures",
    "v4l2": "a camera",
    "rtsp": "an RTSP stream",
    "csi": "a CSI camera",
    "gst": "a GStreamer pipeline (say it in the pipeline)",
    "ffmpeg": "arguments of ffmpeg (say it there)",
    "stdin": "standard input",
    "test": "generated frames (say it as test://WIDTHxHEIGHT@FPS)",
}


def open_live_source(text: str, options: SourceOptions | None = None) -> LiveSource:
    """Make the source that ``text`` names. It is not opened yet: nothing is connected or read.

    Args:
        text: see ``edgeseg.live.uri.parse_source``.
        options: what is said beside its name.

    Raises:
        UsageError: no such kind of source, or an option that it does not have.
        DataError: a file or folder that does not exist.
    """
    options = options or SourceOptions()
    uri = parse_source(text)
    kind: SourceKind | Literal["pictures"] = uri.kind
    if kind == "file" and _holds_pictures(Path(uri.target)):
        kind = "pictures"
    _check(kind, options, uri.shown)
    match uri.kind:
        case "file":
            from edgeseg.live.sources.files import FileSource

            return FileSource(Path(uri.target), options)
        case "test":
            from edgeseg.live.sources.generated import GeneratedSource

            return GeneratedSource(parse_test_picture(uri.target), options, name=uri.shown)
        case "stdin":
            from edgeseg.live.sources.standard_input import RawSource

            return RawSource(options, name=uri.shown)
        case "v4l2":
            from edgeseg.live.sources.device import DeviceSource

            return DeviceSource(Path(uri.target), options, name=uri.shown)
        case "rtsp":
            from edgeseg.live.sources.rtsp import RtspSource

            return RtspSource(uri.target, options, name=uri.shown)
        case "csi":
            from edgeseg.live.sources.gstreamer import GstreamerSource, csi_pipeline

            pipeline = csi_pipeline(int(uri.target), options)
            return GstreamerSource(pipeline, options, name=uri.shown)
        case "gst":
            from edgeseg.live.sources.gstreamer import GstreamerSource

            return GstreamerSource(uri.target, options, name=uri.shown)
        case "ffmpeg":
            from edgeseg.live.sources.ffmpeg import FfmpegSource

            return FfmpegSource(uri.target, options, name=uri.shown)


def _holds_pictures(path: Path) -> bool:
    from edgeseg.live.sources.files import kind_of

    return kind_of(path) != "video"


def _check(kind: SourceKind | Literal["pictures"], options: SourceOptions, shown: str) -> None:
    allowed = _OPTIONS[kind]
    for field in fields(options):
        if field.name not in allowed and getattr(options, field.name) != field.default:
            what = field.name.rpartition("_")[0] or field.name
            raise UsageError(f"{shown}: {what!r} means nothing for {_WORDS[kind]}; leave it out")
