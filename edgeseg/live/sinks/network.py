"""Pictures to a network: published to an RTSP server, or sent as MPEG-TS over UDP, by ffmpeg."""

from __future__ import annotations

import logging
import re
import socket
from fractions import Fraction
from urllib.parse import urlsplit

from edgeseg.errors import SinkLostError, UsageError
from edgeseg.live.process import Consumer, find_program
from edgeseg.live.programs import all_frames_words
from edgeseg.live.sinks.piped import PipedSink, raw_input_words
from edgeseg.video.colour import is_high_definition

__all__ = ["NetworkSink"]

_log = logging.getLogger(__name__)

_DEFAULT_RATE = Fraction(30)
_DEFAULT_ENCODER = "libx264"
_ALIASES = {"h264": "libx264", "h265": "libx265", "hevc": "libx265"}
_RTSP_PORTS = {"rtsp": 554, "rtsps": 322}
_CONNECTED_S = 2.0

# Encoders whose default is to look ahead; others are only told not to reorder.
_LOW_LATENCY = {
    "libx264": ("-preset", "superfast", "-tune", "zerolatency"),
    "libx265": ("-preset", "superfast", "-tune", "zerolatency"),
    "h264_nvenc": ("-delay", "0", "-zerolatency", "1"),
    "hevc_nvenc": ("-delay", "0", "-zerolatency", "1"),
}

_HOPELESS = re.compile(
    r"unknown encoder|error while opening encoder|unrecognized option|option not found|"
    r"protocol not found|unable to find a suitable output|invalid argument|unauthorized|forbidden|"
    r"method not allowed|not implemented|not found",
    re.IGNORECASE,
)


class NetworkSink(PipedSink):
    """Encodes by ffmpeg and sends the stream to ``rtsp://`` or ``udp://``.

    An RTSP server must take what is published to it (ANNOUNCE and RECORD, as MediaMTX does).
    A picture's time stamp is when it is handed over, so that a stream whose pictures come
    irregularly neither drifts nor is filled up. There is a key frame every second, so that whoever
    comes later sees something soon.

    ffmpeg is told the whole URL as an argument, which other users of the machine can see.
    """

    _even = True

    def __init__(
        self,
        target: str,
        *,
        name: str,
        rate: Fraction | None = None,
        codec: str | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            target: ``rtsp://...``, ``rtsps://...`` or ``udp://host:port``.
            name: what a person may read, without credentials.
            rate: nominal pictures per second, for the encoder's estimates; 30 if None.
            codec: ffmpeg's name of an encoder, h264 or h265; libx264 if None.

        Raises:
            UsageError: another kind of target.
            MissingDependencyError: ffmpeg is not installed.
        """
        super().__init__(name=name)
        self._scheme = urlsplit(target).scheme.lower()
        if self._scheme not in ("rtsp", "rtsps", "udp"):
            raise UsageError(f"{name}: a stream goes to rtsp://... or udp://HOST:PORT")
        self._target = target
        self._rate = rate or _DEFAULT_RATE
        self._ffmpeg = find_program("ffmpeg")
        self.encoder = _ALIASES.get(codec, codec) if codec else _DEFAULT_ENCODER
        """ffmpeg's name of the encoder."""
        why = "as asked" if codec else "the default"
        _log.info("%s: encoded by %s (%s)", name, self.encoder, why)

    @property
    def how(self) -> str:
        """The encoder."""
        return f"encoded by {self.encoder}"

    def reopen(self) -> None:
        """See whether the server is there; see ``LiveSink``."""
        super().reopen()
        if self._scheme == "udp":
            return
        parts = urlsplit(self._target)
        address = (parts.hostname or "", parts.port or _RTSP_PORTS[self._scheme])
        try:
            socket.create_connection(address, _CONNECTED_S).close()
        except OSError as error:
            raise SinkLostError(
                f"{self.name}: the server does not answer: {error.strerror or error}"
            ) from error

    def _start(self, width_px: int, height_px: int) -> Consumer:
        matrix = "bt709" if is_high_definition(width_px, height_px) else "smpte170m"
        return Consumer(
            [
                *(self._ffmpeg, "-hide_banner", "-nostdin", "-nostats"),
                *("-loglevel", "level+error"),
                *raw_input_words(width_px, height_px, self._rate, wall_clock=True),
                *("-vf", _to_yuv(matrix)),
                *("-c:v", self.encoder, *_LOW_LATENCY.get(self.encoder, ())),
                *("-bf", "0", "-force_key_frames", "expr:gte(t,n_forced)"),
                *("-colorspace", matrix, "-color_primaries", matrix, "-color_trc", matrix),
                *("-color_range", "tv", *all_frames_words(self._ffmpeg)),
                *self._output(),
            ]
        )

    def _output(self) -> tuple[str, ...]:
        if self._scheme == "udp":
            # Seven packets of MPEG-TS are what fits into a packet of Ethernet.
            joint = "&" if "?" in self._target else "?"
            sized = "" if "pkt_size=" in self._target else f"{joint}pkt_size=1316"
            immediate = ("-muxdelay", "0", "-muxpreload", "0", "-flush_packets", "1")
            return (*immediate, "-f", "mpegts", self._target + sized)
        return ("-f", "rtsp", "-rtsp_transport", "tcp", self._target)

    def _is_hopeless(self, complaint: str) -> bool:
        return bool(_HOPELESS.search(complaint))


def _to_yuv(matrix: str) -> str:
    # The filter has names of its own for the same matrices.
    name = "bt709" if matrix == "bt709" else "bt601"
    return f"scale=out_color_matrix={name}:out_range=tv:flags=bilinear+accurate_rnd,format=yuv420p"
