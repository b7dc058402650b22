"""What cameras and network streams have in common when FFmpeg (PyAV) reads them."""

from __future__ import annotations

import abc
import contextlib
import errno
import logging
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.codec.context import Flags

from edgeseg.dataset import MAX_IMAGE_PX
from edgeseg.errors import DataError, SourceLostError, UsageError
from edgeseg.live.base import Captured, LiveSource
from edgeseg.live.sources.fetcher import Fetcher
from edgeseg.live.sources.gate import DamageGate
from edgeseg.live.sources.h264_gaps import H264Gaps
from edgeseg.live.sources.joiner import FrameJoiner
from edgeseg.video.colour import BgrConverter

__all__ = ["StreamSource", "because"]

_log = logging.getLogger(__name__)

_CLOSE_S = 1.0
_OPEN_SLACK_S = 1.0
_MOST_LEFT_BEHIND = 2
_WAITED_S = 2e-3
"""Whoever had to wait so long for a packet has taken all that was queued."""
_NEARLY = 0.95
_LONGEST_QUEUE_S = 3.0


class StreamSource(LiveSource):
    """Reads packets, decodes and converts them in a thread; only the newest frame waits.

    What was queued while the stream was opened is decoded but not shown, since nobody knows how old
    it is. A frame that is damaged or that was made from a damaged one is not shown either.
    """

    is_live = True
    silence_is_loss = True

    def __init__(self, *, name: str, timeout_s: float) -> None:
        """Connect to nothing yet."""
        self.name = name
        self.faults = 0
        """Packets and frames that were damaged, and frames that were left out because of them."""
        self.skipped = 0
        """Frames that came while the one before waited to be read, and those queued at the
        start."""
        self._timeout_s = timeout_s
        self._fetcher: Fetcher | None = None
        self._left_behind: list[Fetcher] = []

    @abc.abstractmethod
    def _connect(self) -> Any:
        """Open the container; runs in the fetching thread.

        Raises:
            SourceLostError, DataError: as ``LiveSource.open``.
        """

    @abc.abstractmethod
    def _start_clock(self, codec: str) -> None:
        """A stream of this codec begins."""

    @abc.abstractmethod
    def _note_packet(self, stamp_s: float | None, now_s: float) -> None:
        """A packet came."""

    @abc.abstractmethod
    def _captured_s(self, stamp_s: float | None, now_s: float) -> float:
        """When the frame with this time stamp was captured.

        Raises:
            SourceLostError: so long ago that the stream is of no use.
        """

    def _await_data(self, fetcher: Fetcher) -> None:
        """Wait before a packet is read, where reading could block for ever."""

    def open(self) -> None:
        """Connect and decode the first frame; see ``LiveSource``.

        It takes no longer than twice the timeout. A stream that is joined in the middle begins with
        its next key frame.
        """
        if self._fetcher is not None:
            raise UsageError(f"{self.name} is open already")
        self._left_behind = [fetcher for fetcher in self._left_behind if not fetcher.join(0.0)]
        if len(self._left_behind) > _MOST_LEFT_BEHIND:
            raise SourceLostError(
                f"{self.name}: {len(self._left_behind)} attempts before this block"
            )
        self.size = self.rate = None
        fetcher = self._fetcher = Fetcher(self._fetch, name=self.name, waits=False)
        try:
            fetcher.start(2.0 * self._timeout_s + _OPEN_SLACK_S)
        except BaseException:
            self.close()
            raise

    def read(self, timeout_s: float) -> Captured | None:
        """The newest frame that was not read yet; see ``LiveSource``."""
        if self._fetcher is None:
            raise UsageError(f"{self.name} is not open")
        return self._fetcher.take(timeout_s)

    def close(self) -> None:
        """Disconnect. A connection that blocks is left to its own timeout."""
        fetcher, self._fetcher = self._fetcher, None
        if fetcher is not None and not fetcher.stop(_CLOSE_S):
            self._left_behind.append(fetcher)

    def _fetch(self, fetcher: Fetcher) -> None:
        # FFmpeg's messages hold the whole URL with its password, so they are never passed on.
        with contextlib.closing(self._connect()) as container:
            if fetcher.stopped:  # another one may be at work by now, whose settings stay
                return
            stream = self._video_of(container)
            self._start_clock(str(stream.codec_context.name))
            self._read_packets(container, stream, fetcher)

    def _video_of(self, container: Any) -> Any:
        if not container.streams.video:
            raise DataError(f"{self.name} has no video")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise DataError(f"{self.name}: this FFmpeg has no decoder for its video")
        # Frame threads would hold back as many frames as there are threads.
        stream.thread_type = "SLICE"
        context.flags |= Flags.low_delay
        context.options = {"max_pixels": str(MAX_IMAGE_PX)}
        self._check_size(context.width, context.height)
        return stream

    def _announce(self, stream: Any, size: tuple[int, int]) -> None:
        """The first frame was decoded: say what it is."""
        self.size = size
        rate = stream.average_rate or stream.guessed_rate
        self.rate = Fraction(rate) if rate else None
        _log.info(
            "%s: %s, %dx%d, %s frames per second", self.name, stream.codec_context.name, *size,
            f"{float(self.rate):g}" if self.rate else "unknown",
        )  # fmt: skip

    def _read_packets(self, container: Any, stream: Any, fetcher: Fetcher) -> None:
        gate = DamageGate()
        context = stream.codec_context
        gaps = H264Gaps(context.extradata) if context.name == "h264" else None
        joiner = FrameJoiner(context.name, context.extradata)
        convert = BgrConverter()
        first_stamp_s: float | None = None
        queue_ends_s: float | None = time.monotonic() + _LONGEST_QUEUE_S
        last_good_s = time.monotonic()
        was_stamped = is_announced = is_told = False
        packets = container.demux(stream)
        while True:
            asked_s = time.monotonic()
            self._await_data(fetcher)
            packet = self._next_packet(packets)
            now_s = time.monotonic()
            # When reading gives up, FFmpeg first hands out what it still held.
            if now_s - asked_s > _NEARLY * self._timeout_s:
                raise SourceLostError(f"{self.name}: nothing came for {self._timeout_s:g} s")
            if fetcher.stopped:
                return
            packet_s = _seconds(packet.pts, packet.time_base)
            # The clock needs a packet with a stamp before the first frame that it dates.
            if queue_ends_s is not None:
                waited = was_stamped and now_s - asked_s > _WAITED_S
                queue_ends_s = None if waited or now_s > queue_ends_s else queue_ends_s
            was_stamped = packet_s is not None
            self._note_packet(packet_s, now_s)
            data = bytes(packet)
            whole, torn = joiner.push(packet, data)
            if torn or (gaps is not None and gaps.missing(data)):
                self.faults += 1
                gate.damage(packet_s)
                # Said aloud once a connection: a server that drops frames does it often.
                _log.log(
                    logging.INFO if is_told else logging.WARNING,
                    "%s: %s is missing that others need; nothing is shown up to the next key "
                    "frame", self.name, "a part of a frame" if torn else "a frame",
                )  # fmt: skip
                is_told = True
            for raw in self._decode_all(stream, whole, gate):
                stamp_s = _seconds(raw.pts, raw.time_base)
                if not gate.passes(damaged=raw.is_corrupt, key=raw.key_frame, stamp_s=stamp_s):
                    self.faults += 1
                    continue
                last_good_s = now_s
                self._check_size(raw.width, raw.height)
                if not is_announced:
                    is_announced = True
                    self._announce(stream, (raw.width, raw.height))
                    fetcher.ready()
                if queue_ends_s is not None:
                    self.skipped += 1
                    continue
                captured_s = self._captured_s(stamp_s, now_s)
                first_stamp_s = stamp_s if first_stamp_s is None else first_stamp_s
                media_s = None
                if stamp_s is not None and first_stamp_s is not None:
                    media_s = stamp_s - first_stamp_s
                before = fetcher.skipped
                fetcher.put(Captured(convert(raw), captured_s, media_s))
                self.skipped += fetcher.skipped - before
            if now_s - last_good_s > self._timeout_s:
                raise SourceLostError(
                    f"{self.name}: data comes, but no picture could be decoded for "
                    f"{self._timeout_s:g} s (key frames more often, or a longer timeout, may help)"
                )

    def _decode_all(self, stream: Any, packets: list[Any], gate: DamageGate) -> Iterator[Any]:
        for packet in packets:
            yield from self._decode(stream, packet, gate)

    def _decode(self, stream: Any, packet: Any, gate: DamageGate) -> list[Any]:
        packet_s = _seconds(packet.pts, packet.time_base)
        # A camera's driver empties what came damaged; a decoder would take that for the end.
        if packet.is_corrupt or packet.size == 0:
            self.faults += 1
            gate.damage(packet_s)
            return []
        try:
            return list(stream.codec_context.decode(packet))
        except av.FFmpegError as error:
            self.faults += 1
            gate.damage(packet_s)
            _log.debug("%s: a packet that cannot be decoded: %s", self.name, error.strerror)
            return []

    def _next_packet(self, packets: Any) -> Any:
        try:
            packet = next(packets, None)
        except av.error.ExitError:
            packet, why = None, f"nothing came for {self._timeout_s:g} s"
        except (av.FFmpegError, OSError) as error:
            packet, why = None, f"the connection broke{because(error)}"
        else:
            why = "the stream ended"
        # The empty packet at the end only empties the decoder, whose frames are old by then.
        if packet is None or (packet.size == 0 and packet.pts is None):
            raise SourceLostError(f"{self.name}: {why}")
        return packet

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_IMAGE_PX:
            raise DataError(
                f"{self.name}: frames of {width}x{height} pixels are more than the "
                f"{MAX_IMAGE_PX} accepted: choose a smaller stream"
            )


def because(error: Exception) -> str:
    """What the system says about an error, in brackets; "" where that means nothing.

    The error's own text is not used: it holds the URL, and with it the password.
    """
    if not isinstance(error, OSError | av.FFmpegError) or error.errno in (None, errno.EPERM):
        return ""  # FFmpeg returns -1, which is EPERM, where it has no reason
    return f" ({error.strerror})" if error.strerror else ""


def _seconds(stamp: int | None, base: Fraction | None) -> float | None:
    return None if stamp is None or base is None else float(stamp * base)
