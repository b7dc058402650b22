"""Puts frames together again that FFmpeg has torn apart.

GStreamer's RTSP servers repeat the parameter sets of H.264 and H.265 before every slice of a key
frame. FFmpeg takes them for the beginning of the next frame, and gives a key frame of several
slices as several packets with one time stamp. Each of them decodes to a picture of which a part is
new, unmarked, and everything up to the next key frame is made from those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av

from edgeseg.live.sources.h264_gaps import CONFIGURATION_RECORD, between_start_codes

__all__ = ["FrameJoiner"]

_H264_SLICES = frozenset({1, 2, 5})
_H264_KEY = 5
_HEVC_LAST_SLICE = 31
_HEVC_KEYS = range(16, 24)
_FIRST = 0x80
"""The first bit of a slice's header says in both codecs that it is the first one of its frame."""


@dataclass(frozen=True)
class _Piece:
    begins: bool
    key: bool


class FrameJoiner:
    """Takes packets and gives those that belong together as one.

    How many pieces a frame has is seen only when the next one begins, which would be a frame too
    late. So the number is learned, for key frames and for others, and a frame is given as soon as
    it has as many as any before.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        """Start with nothing learned.

        Args:
            codec: FFmpeg's name; of all but h264 and hevc packets are given as they come.
            extradata: of the codec context. A configuration record means a container that keeps
                frames apart by itself: there, too, packets are given as they come.
        """
        self._codec = "" if extradata and extradata[0] == CONFIGURATION_RECORD else codec
        self._pieces_of = {True: 0, False: 0}
        self._held: list[Any] = []
        self._held_key = False
        self._given_key = False
        self._given_pieces = 0

    def push(self, packet: Any, data: bytes) -> tuple[list[Any], bool]:
        """Take a packet.

        Args:
            packet: of PyAV, with start codes.
            data: its bytes.

        Returns:
            The packets that may be decoded now, and whether this one belongs to a frame that was
            given already without it: that one was damaged.
        """
        piece = self._look_at(data)
        if piece is None:
            return [*self._give(), packet], False
        if piece.begins:
            if self._held:
                self._learn(self._held_key, len(self._held))
            ready = self._give()
            self._held, self._held_key = [packet], piece.key
        elif self._held:
            ready = []
            self._held.append(packet)
        else:
            self._given_pieces += 1
            self._learn(self._given_key, self._given_pieces)
            return [], True
        if 0 < self._pieces_of[self._held_key] <= len(self._held):
            ready += self._give()
        return ready, False

    def _learn(self, key: bool, count: int) -> None:
        self._pieces_of[key] = max(self._pieces_of[key], count)

    def _give(self) -> list[Any]:
        if not self._held:
            return []
        held, self._held = self._held, []
        self._given_key, self._given_pieces = self._held_key, len(held)
        if len(held) == 1:
            return held
        joined = av.Packet(b"".join(bytes(piece) for piece in held))
        joined.pts, joined.dts = held[0].pts, held[0].dts
        joined.time_base = held[0].time_base
        return [joined]

    def _look_at(self, data: bytes) -> _Piece | None:
        """What kind of frame the packet's first slice belongs to; None without a slice."""
        if self._codec not in ("h264", "hevc"):
            return None
        for unit in between_start_codes(data):
            if self._codec == "h264":
                kind = unit[0] & 31
                if kind in _H264_SLICES and len(unit) > 1:
                    return _Piece(bool(unit[1] & _FIRST), kind == _H264_KEY)
            else:
                kind = unit[0] >> 1 & 63
                if kind <= _HEVC_LAST_SLICE and len(unit) > 2:
                    return _Piece(bool(unit[2] & _FIRST), kind in _HEVC_KEYS)
        return None
