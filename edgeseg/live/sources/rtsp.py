"""RTSP cameras and servers."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import av

from edgeseg.dataset import MAX_IMAGE_PX
from edgeseg.errors import DataError, EdgesegError, SourceLostError
from edgeseg.live.sources import SourceOptions
from edgeseg.live.sources.clock import StreamClock
from edgeseg.live.sources.stream import StreamSource, because

__all__ = ["RtspSource"]

_log = logging.getLogger(__name__)

_PORTS = {"rtsp": 554, "rtsps": 322}
_NEARLY = 0.95
_PROBED_US = 500_000
# Their RTP packets carry pieces of a stream of bytes in which FFmpeg looks for frames; that of a
# frame's end takes the beginning of the next one.
_PARSED = frozenset({"h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video", "h263"})
# Neither FFmpeg nor edgeseg sees that a frame is missing.
_UNSEEN = _PARSED - {"h264", "hevc"}


class RtspSource(StreamSource):
    """A stream by RTSP, over TCP unless UDP is asked for.

    ``captured_s`` follows the stream's own clock (``StreamClock``). A stream whose frames come more
    than the timeout too late counts as lost, since only a new connection gets rid of the queue.
    """

    def __init__(self, url: str, options: SourceOptions, *, name: str) -> None:
        """Connect to nothing yet.

        Args:
            url: with user name and password, if it needs them.
            options: transport and timeout.
            name: the URL without user name and password.
        """
        super().__init__(name=name, timeout_s=options.timeout_s)
        self._url = url
        self._transport = options.transport or "tcp"
        self._clock = StreamClock(name=name, one_late=False)

    def _connect(self) -> Any:
        self._look_up()
        # "nobuffer" is left out on purpose: it throws away what was read while the stream was
        # looked at, with the key frame that every other one needs. Old frames are skipped instead.
        options = {
            "rtsp_transport": self._transport,
            "allowed_media_types": "video",
            "timeout": str(round(self._timeout_s * 1e6)),
            "flags": "low_delay",
            "fpsprobesize": "0",
            "analyzeduration": str(_PROBED_US),
            "max_pixels": str(MAX_IMAGE_PX),
        }
        problem: EdgesegError
        started_s = time.monotonic()
        try:
            return av.open(
                self._url, format="rtsp", options=options, timeout=(self._timeout_s,) * 2
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            problem = self._problem(error, time.monotonic() - started_s)
        raise problem  # here, so that FFmpeg's own error with the password is no part of it

    def _start_clock(self, codec: str) -> None:
        if codec in _UNSEEN or (codec == "hevc" and self._transport == "udp"):
            _log.warning(
                "%s: with %s by %s losses are not always recognised, and damaged pictures may be "
                "shown: use H.264, or TCP", self.name, codec, self._transport,
            )  # fmt: skip
        self._clock = StreamClock(name=self.name, one_late=codec in _PARSED)

    def _note_packet(self, stamp_s: float | None, now_s: float) -> None:
        self._clock.arrived(stamp_s, now_s)

    def _captured_s(self, stamp_s: float | None, now_s: float) -> float:
        captured_s = self._clock.captured_s(stamp_s, now_s)
        if now_s - captured_s > self._timeout_s:
            raise SourceLostError(
                f"{self.name}: frames come {now_s - captured_s:.0f} s late by the stream's own "
                "clock: the network or the server does not keep up (try a smaller stream), or its "
                "time stamps are wrong ('gst:rtspsrc location=... ! decodebin' goes by arrival)"
            )
        return captured_s

    def _look_up(self) -> None:
        """Find the host by FFmpeg's own means, but say clearly if there is none."""
        parts = urlsplit(self._url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme.lower()]
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a name"
            raise SourceLostError(f"{self.name}: no address of {host!r} ({reason})") from None

    def _problem(self, error: Exception, passed_s: float) -> EdgesegError:
        silent = SourceLostError(f"{self.name}: no answer within {self._timeout_s:g} s")
        match error:
            case av.error.HTTPUnauthorizedError():
                given = urlsplit(self._url).username is not None
                return DataError(
                    f"{self.name}: the server refuses this user name and password (401)"
                    if given
                    else f"{self.name}: the server wants a user name and a password (401): write "
                    "rtsp://USER:PASSWORD@HOST/..."
                )
            case av.error.HTTPForbiddenError():
                return DataError(f"{self.name}: the server forbids this stream (403)")
            case av.error.HTTPNotFoundError():
                return DataError(
                    f"{self.name}: the server has no such stream (404): look at the path"
                )
            case av.error.HTTPServerError():
                return SourceLostError(f"{self.name}: the server cannot serve the stream now (5xx)")
            case av.error.HTTPClientError():
                other = "udp" if self._transport == "tcp" else "tcp"
                return DataError(
                    f"{self.name}: the server refuses the connection by {self._transport}"
                    f" (4xx): try {other}"
                )
            case av.error.ConnectionRefusedError():
                return SourceLostError(f"{self.name}: nothing listens there")
            case av.error.ExitError() | av.error.TimeoutError():
                return silent
            case av.error.InvalidDataError():
                # It is also what FFmpeg says when it gives up waiting for the first answer.
                if passed_s > _NEARLY * self._timeout_s:
                    return silent
                return DataError(
                    f"{self.name}: what answers there is no RTSP stream that can be read"
                )
            case av.error.ProtocolNotFoundError():
                return DataError(f"{self.name}: this FFmpeg does not know the protocol")
            case ValueError() if not isinstance(error, OSError):
                return DataError(f"{self.name}: the stream cannot be read")
            case _:
                return SourceLostError(f"{self.name}: cannot be reached{because(error)}")
