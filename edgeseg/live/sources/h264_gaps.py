"""Whether a frame that others were made from is missing in an H.264 stream.

FFmpeg's decoder puts a copy of an earlier frame in the place of a missing one, goes on, and marks
nothing: up to the next key frame the picture is smeared, or shows parts that are long gone. The
standard (ITU-T H.264, 7.4.3) numbers the frames that others refer to, so that a gap can be seen in
the first bytes of each frame. HEVC needs no such help, since FFmpeg drops what lacks a reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["CONFIGURATION_RECORD", "H264Gaps", "between_start_codes"]

_SLICE, _IDR_SLICE, _SPS, _PPS = 1, 5, 7, 8
_PROFILES_WITH_CHROMA = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_SLICE_HEADER_BYTES = 32
CONFIGURATION_RECORD = 1
"""First byte of a configuration record; other extradata begin with a start code."""


@dataclass(frozen=True)
class _Sequence:
    frame_num_bits: int
    separate_planes: bool
    gaps_allowed: bool


class H264Gaps:
    """Follows the numbers of the reference frames of one stream."""

    def __init__(self, extradata: bytes | None) -> None:
        """Nothing was seen yet.

        Args:
            extradata: of the codec context; says how packets are built, and holds parameter sets.
        """
        self._length_bytes = 0
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self._last: int | None = None
        if not extradata:
            return
        if extradata[0] == CONFIGURATION_RECORD and len(extradata) > 6:
            self._length_bytes = (extradata[4] & 3) + 1
            for unit in _configured(extradata):
                self._note(unit)
        else:
            for unit in between_start_codes(extradata):
                self._note(unit)

    def missing(self, packet: bytes) -> bool:
        """Whether a reference frame is missing between the packets before and this one.

        Args:
            packet: the next frame, in decoding order. What cannot be read is left to the decoder.
        """
        try:
            return self._missing(packet)
        except (IndexError, KeyError):
            return False

    def _missing(self, packet: bytes) -> bool:
        units = (
            _with_lengths(packet, self._length_bytes)
            if self._length_bytes
            else between_start_codes(packet)
        )
        for unit in units:
            kind = unit[0] & 31
            if kind in (_SPS, _PPS):
                self._note(unit)
            elif kind in (_SLICE, _IDR_SLICE):
                return self._step(unit)
        return False

    def _step(self, unit: bytes) -> bool:
        bits = _Bits(unit[1 : 1 + _SLICE_HEADER_BYTES])
        bits.unsigned()  # first macroblock
        bits.unsigned()  # type of the slice
        sequence = self._sequences[self._sequence_of[bits.unsigned()]]
        if sequence.separate_planes:
            bits.take(2)
        number = bits.take(sequence.frame_num_bits)
        last = self._last
        if unit[0] & 31 == _IDR_SLICE:
            self._last = 0
            return False
        following = None if last is None else (last + 1) % (1 << sequence.frame_num_bits)
        is_reference = bool(unit[0] >> 5 & 3)
        if is_reference or last is None:
            self._last = number
        if last is None or sequence.gaps_allowed or number in (last, following):
            return False
        self._last = number
        return True

    def _note(self, unit: bytes) -> None:
        try:
            if unit[0] & 31 == _SPS:
                identifier, sequence = _sequence(_Bits(unit[1:]))
                self._sequences[identifier] = sequence
            elif unit[0] & 31 == _PPS:
                bits = _Bits(unit[1:])
                identifier = bits.unsigned()
                self._sequence_of[identifier] = bits.unsigned()
        except IndexError:
            return


def _sequence(bits: _Bits) -> tuple[int, _Sequence]:
    """Identifier and meaning of a sequence parameter set (7.3.2.1.1)."""
    profile = bits.take(8)
    bits.take(16)  # constraints, level
    identifier = bits.unsigned()
    separate = False
    if profile in _PROFILES_WITH_CHROMA:
        chroma = bits.unsigned()
        separate = chroma == 3 and bool(bits.take(1))
        bits.unsigned()  # depths of luma and chroma
        bits.unsigned()
        bits.take(1)
        if bits.take(1):
            for i in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    frame_num_bits = bits.unsigned() + 4
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.take(1)
        bits.unsigned()  # signed values take the same bits
        bits.unsigned()
        for _ in range(min(bits.unsigned(), 255)):
            bits.unsigned()
    bits.unsigned()  # reference frames
    return identifier, _Sequence(frame_num_bits, separate, bool(bits.take(1)))


def _skip_scaling_list(bits: _Bits, count: int) -> None:
    last = following = 8
    for _ in range(count):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


class _Bits:
    """Reads bits from the front; IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        # Within a unit every 00 00 is followed by an inserted 03 where more than 3 would be less.
        self._data = data.replace(b"\0\0\3", b"\0\0")
        self._position = 0

    def take(self, count: int) -> int:
        """The next ``count`` bits as a number."""
        value = 0
        for _ in range(count):
            byte = self._data[self._position >> 3]
            value = value << 1 | byte >> (7 - (self._position & 7)) & 1
            self._position += 1
        return value

    def unsigned(self) -> int:
        """The next Exp-Golomb code (9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """The next signed Exp-Golomb code."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def between_start_codes(data: bytes) -> Iterator[bytes]:
    """The units of a stream of bytes (annex B)."""
    start = data.find(b"\0\0\1")
    while start >= 0:
        end = data.find(b"\0\0\1", start + 3)
        unit = data[start + 3 : end if end >= 0 else len(data)]
        if unit:
            yield unit
        start = end


def _with_lengths(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """The units of a packet of MP4 or Matroska, each after its length."""
    position = 0
    while position + length_bytes < len(data):
        length = int.from_bytes(data[position : position + length_bytes], "big")
        position += length_bytes
        if not length:
            continue
        yield data[position : position + length]
        position += length


def _configured(record: bytes) -> Iterator[bytes]:
    """The parameter sets of a configuration record (ISO/IEC 14496-15)."""
    position = 5
    for mask in (31, 255):
        if position >= len(record):
            return
        count = record[position] & mask
        position += 1
        for _ in range(count):
            length = int.from_bytes(record[position : position + 2], "big")
            unit = record[position + 2 : position + 2 + length]
            if unit:
                yield unit
            position += 2 + length
