"""What may stand for a source or a sink on the command line, and how it is shown to people.

The spellings are those of jetson-inference where it has them. Parsing opens nothing: whether a file
or a camera exists is found out by ``open``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import unquote

from edgeseg.errors import UsageError

__all__ = [
    "SINK_KINDS",
    "SOURCE_KINDS",
    "VIDEO_SINK_SUFFIXES",
    "SinkKind",
    "SinkUri",
    "SourceKind",
    "SourceUri",
    "TestPicture",
    "parse_sink",
    "parse_source",
    "parse_test_picture",
    "without_credentials",
]

SourceKind = Literal["file", "v4l2", "rtsp", "csi", "gst", "ffmpeg", "stdin", "test"]
SOURCE_KINDS: tuple[SourceKind, ...] = get_args(SourceKind)

SinkKind = Literal["file", "display", "rtsp", "udp", "v4l2", "stdout", "mask"]
SINK_KINDS: tuple[SinkKind, ...] = get_args(SinkKind)

VIDEO_SINK_SUFFIXES = (".mp4", ".mkv", ".mov", ".ts")

_SOURCES = (
    "a path or file://PATH (video, picture, folder of pictures), 0 or v4l2:///dev/video0 (camera), "
    "rtsp://HOST/..., csi://0, gst:PIPELINE, ffmpeg:ARGUMENTS, test://640x480@25, - (raw frames "
    "on standard input)"
)
_SINKS = (
    f"a path or file://PATH ({' '.join(VIDEO_SINK_SUFFIXES)}), display://, rtsp://HOST/..., "
    "udp://HOST:PORT, v4l2:///dev/video2, mask://FOLDER, mask://FILE.jsonl, - (raw frames on "
    "standard output)"
)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)
_PREFIX = re.compile(r"(gst|ffmpeg):(.*)", re.DOTALL | re.IGNORECASE)
_CAMERA_PATH = re.compile(r"/dev/(video[0-9]+|v4l/.+)")
_TEST = re.compile(r"(?:([0-9]+)x([0-9]+))?(?:@([0-9]+(?:\.[0-9]+|/[0-9]+)?))?")
_TEST_PX = (16, 4096)
_TEST_FPS = 240
_HIGHEST_PORT = 65535

# What would tell a password: user names and passwords of URLs, values of parameters that are called
# so, and options of programs that take one as the next word.
_SECRET_NAMES = (
    r"user-id|user-pw|user|username|login|proxy-id|proxy-pw|password|passwd|passphrase|pass|pwd|"
    r"[\w.\-]*token|auth|api[_\-]?key|apikey|key|secret|sig|signature|cryptokey|streamid"
)
# The second way: a password with an unescaped slash or hash ends what is formally the host.
_USER_INFO = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]*://)"
    r"(?!\*\*\*@)(?:[^\s/?#\"'<>]*@|(?P<torn>[^\s/?#@\"'<>\[\]]*:[^\s\"'<>]*@))"
)
_PARAMETER = re.compile(
    rf"(?<![\w\-])((?:{_SECRET_NAMES})=)(\"[^\"]*\"|'[^']*'|[^\s&;,\"'!]+)", re.IGNORECASE
)
_OPTION = re.compile(rf"((?:^|\s)--?(?:{_SECRET_NAMES})\s+)(\"[^\"]*\"|'[^']*'|\S+)", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    r"((?:proxy-)?authorization\s*:\s*(?:basic|digest|bearer)?\s*)[^\s\"']+", re.IGNORECASE
)
_HIDDEN = "***"


@dataclass(frozen=True)
class SourceUri:
    """Where frames come from."""

    kind: SourceKind
    target: str
    """What the kind needs: a path, a device, the whole URL, the number of a CSI camera, a pipeline,
    the arguments of ffmpeg; may hold a password."""
    shown: str
    """What may be printed and logged."""


@dataclass(frozen=True)
class SinkUri:
    """Where pictures go."""

    kind: SinkKind
    target: str
    """What the kind needs: a path, a device, the whole URL; may hold a password."""
    shown: str
    """What may be printed and logged."""


@dataclass(frozen=True)
class TestPicture:
    """What ``test://WxH@FPS`` asks for."""

    __test__ = False  # pytest collects classes by this name

    width_px: int
    height_px: int
    rate: Fraction


def parse_source(text: str) -> SourceUri:
    """Understand a source.

    Args:
        text: path, number of a camera, URI, ``gst:PIPELINE``, ``ffmpeg:ARGUMENTS`` or ``-``.

    Raises:
        UsageError: it is none of them; the message says what there is.
    """
    if not text.strip():
        raise UsageError(f"the source is empty: name {_SOURCES}")
    if text == "-":
        return SourceUri("stdin", "-", "standard input")
    if text.isascii() and text.isdecimal():
        return _camera(text)
    if prefixed := _PREFIX.fullmatch(text):
        return _program(prefixed[1].lower(), prefixed[2].removeprefix("//").strip())
    parts = _SCHEME.fullmatch(text)
    if parts is None:
        if _CAMERA_PATH.fullmatch(text):
            return _camera(text)
        return SourceUri("file", text, _line(text))
    scheme, rest = parts[1].lower(), parts[2]
    match scheme:
        case "file":
            return SourceUri("file", _path(rest, text), _line(text))
        case "v4l2":
            return _camera(rest)
        case "csi":
            if not (rest.isascii() and rest.isdecimal()):
                raise UsageError(f"{_line(text)}: a CSI camera has a number, such as csi://0")
            return SourceUri("csi", str(int(rest)), f"csi://{int(rest)}")
        case "rtsp" | "rtsps":
            return SourceUri("rtsp", _with_host(text), _line(text))
        case "test":
            parse_test_picture(rest)
            return SourceUri("test", rest, text)
    hint = f"other network streams are read with  'ffmpeg:-i {scheme}://...'"
    raise UsageError(f"a source cannot be {scheme}://...: there are {_SOURCES}; {hint}")


def parse_sink(text: str) -> SinkUri:
    """Understand a sink.

    Args:
        text: path, URI or ``-``.

    Raises:
        UsageError: it is none of them; the message says what there is.
    """
    if not text.strip():
        raise UsageError(f"the sink is empty: name {_SINKS}")
    if text == "-":
        return SinkUri("stdout", "-", "standard output")
    parts = _SCHEME.fullmatch(text)
    if parts is None:
        if _CAMERA_PATH.fullmatch(text):
            return SinkUri("v4l2", text, f"v4l2://{_line(text)}")
        return SinkUri("file", _video_path(text), _line(text))
    scheme, rest = parts[1].lower(), parts[2]
    match scheme:
        case "file":
            return SinkUri("file", _video_path(_path(rest, text)), _line(text))
        case "display":
            return SinkUri("display", rest, _line(text))
        case "mask":
            return SinkUri("mask", _path(rest, text), _line(text))
        case "v4l2":
            device = f"/dev/video{int(rest)}" if rest.isascii() and rest.isdecimal() else rest
            return SinkUri("v4l2", _device(device, text), f"v4l2://{_line(device)}")
        case "rtsp" | "rtsps":
            return SinkUri("rtsp", _with_host(text), _line(text))
        case "udp":
            return SinkUri("udp", _with_host(text, port_needed=True), _line(text))
    raise UsageError(f"a sink cannot be {scheme}://...: there are {_SINKS}")


def parse_test_picture(text: str) -> TestPicture:
    """Size and rate of generated frames.

    Args:
        text: ``WIDTHxHEIGHT@FPS``; what is left out is 640x480 and 25.

    Raises:
        UsageError: not of that form, or out of range (16 to 4096 pixels, up to 240 a second).
    """
    match = _TEST.fullmatch(text)
    if match is None:
        raise UsageError(
            f"test://{_line(text)}: generated frames are named as in test://640x480@25"
        )
    width, height = int(match[1] or 640), int(match[2] or 480)
    if not all(_TEST_PX[0] <= side <= _TEST_PX[1] for side in (width, height)):
        raise UsageError(
            f"test://{text}: width and height lie between {_TEST_PX[0]} and {_TEST_PX[1]} pixels"
        )
    try:
        rate = Fraction(match[3] or 25)
    except ZeroDivisionError:
        rate = Fraction(0)
    if not 0 < rate <= _TEST_FPS:
        raise UsageError(f"test://{text}: the rate lies between 0 and {_TEST_FPS} a second")
    return TestPicture(width, height, rate)


def without_credentials(text: str) -> str:
    """``text`` (a URI, a pipeline, what a program said) without user names, passwords and tokens.

    The user part of URLs goes; values of parameters and options that are named like a secret
    become ``***``.
    """
    text = _USER_INFO.sub(lambda m: m[1] + (f"{_HIDDEN}@" if m["torn"] else ""), text)
    text = _AUTHORIZATION.sub(rf"\1{_HIDDEN}", text)
    text = _OPTION.sub(rf"\1{_HIDDEN}", text)
    return _PARAMETER.sub(rf"\1{_HIDDEN}", text)


def _line(text: str) -> str:
    """``text`` on one line that may be printed, without credentials."""
    kept = "".join(c if c.isprintable() or c.isspace() else "?" for c in text)
    return without_credentials(" ".join(kept.split()))


def _camera(device: str) -> SourceUri:
    if device.isascii() and device.isdecimal():
        device = f"/dev/video{int(device)}"
    shown = f"v4l2://{_line(device)}"
    return SourceUri("v4l2", _device(device, shown), shown)


def _device(device: str, text: str) -> str:
    if not device.startswith("/"):
        raise UsageError(
            f"{_line(text)}: name the device by its whole path, as in v4l2:///dev/video0"
        )
    return device


def _program(name: str, arguments: str) -> SourceUri:
    kind: SourceKind = "gst" if name == "gst" else "ffmpeg"
    if not arguments:
        example = "'gst:v4l2src ! jpegdec'" if kind == "gst" else "'ffmpeg:-i udp://:5000'"
        raise UsageError(f"{name}: says nothing after the colon: write for example {example}")
    return SourceUri(kind, arguments, f"{kind}:{_line(arguments)}")


def _path(rest: str, text: str) -> str:
    # "file://clip.mp4" is a relative path, as in jetson-inference; hosts have no meaning here.
    path = unquote(rest)
    if not path or "\0" in path:
        raise UsageError(f"{_line(text)}: a path must follow the two slashes")
    return path


def _video_path(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in VIDEO_SINK_SUFFIXES:
        raise UsageError(
            f"{_line(path)}: a video is written as {', '.join(VIDEO_SINK_SUFFIXES)}, not as "
            f"{_line(suffix) or 'a file without suffix'}; sinks are {_SINKS}"
        )
    return path


def _with_host(text: str, *, port_needed: bool = False) -> str:
    """``text`` with its scheme in small letters, if it has a host and its port is one."""
    shown = _line(text)
    if any(character.isspace() or not character.isprintable() for character in text):
        raise UsageError(f"{shown}: a URL holds no spaces: write them as %20")
    authority = re.split(r"[/?#]", text.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    if authority.startswith("["):
        host, closed, port = authority[1:].partition("]")
        port = port if closed else "unclosed"
    else:
        host, colon, port = authority.partition(":")
        port = colon + port
    if not host:
        raise UsageError(f"{shown}: the host is missing")
    number = port[1:]
    valid = port.startswith(":") and number.isascii() and number.isdecimal()
    if port and not (valid and 0 < int(number) <= _HIGHEST_PORT):
        raise UsageError(
            f"{shown}: what follows the host is no port (1 to {_HIGHEST_PORT}); in user names and "
            "passwords write : / ? # @ as %3A %2F %3F %23 %40"
        )
    if port_needed and not port:
        raise UsageError(f"{shown}: a port is missing, as in udp://127.0.0.1:5000")
    scheme, separator, rest = text.partition("://")
    return scheme.lower() + separator + rest
