"""Raw video that says of itself what it is: size, layout and time stamps beside the pixels.

The size of bare pixels would have to be known beforehand, and a camera that changes it would be
shown sheared. ffmpeg sends NUT, its container for pipes; GStreamer its own data protocol (GDP).
Both are read here and not by PyAV: a frame is received into the array that is handed on, where
PyAV reads it in pieces of Python bytes, copies it three times, and has to be given a thread since
it cannot be interrupted. Only what our own pipelines send is understood; all else is refused.

A reader is a generator. It yields either a ``memoryview`` that must be filled with the next bytes
before it is resumed, or a ``RawFrame``.
"""

from __future__ import annotations

import binascii
import re
import struct
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from edgeseg.dataset import MAX_IMAGE_PX
from edgeseg.errors import DataError
from edgeseg.live.base import Picture

__all__ = ["RawFrame", "Reader", "SizeChangedError", "read_gdp", "read_nut"]


@dataclass(frozen=True)
class RawFrame:
    """A frame as it was sent."""

    image: Picture
    media_s: float | None
    """Time stamp, from whatever zero the sender has."""
    rate: Fraction | None
    """Frames per second that the sender states."""


class SizeChangedError(Exception):
    """Frames have another size now, and the container cannot say which."""


Step = memoryview | RawFrame
Reader = Generator[Step, None, None]
_Bytes = Generator[Step, None, bytes]
_Number = Generator[Step, None, int]

_MAX_HEADER_BYTES = 1 << 20
"""Far more than any header or event of one video stream."""

_LOST = "what came through the pipe is not what was asked for ({}): another program writes into it"

_GDP_HEADER = struct.Struct(">BBBxHIQQQQHQ6xHH")
_GDP_CHECKED_BYTES = 58
_GDP_BUFFER = 1
_GDP_CAPS = 2
_GDP_HAS_HEADER_CRC = 1
_NO_TIME = (1 << 64) - 1
_ROW_ALIGNMENT_BYTES = 4

_CAPS_FIELD = re.compile(r"(?:^|,)\s*([\w\-]+)=(?:\(\w+\))?\"?([^,;\"]+)")


def _take(count: int) -> _Bytes:
    data = bytearray(count)
    if count:
        yield memoryview(data)
    return bytes(data)


def _image(width: int, height: int) -> Picture:
    if width < 1 or height < 1 or width * height > MAX_IMAGE_PX:
        raise DataError(
            f"frames of {width}x{height} pixels; between 1 and {MAX_IMAGE_PX} are accepted: scale "
            "them down in the pipeline"
        )
    return np.empty((height, width, 3), np.uint8)


def read_gdp() -> Reader:
    """Frames of BGR video from GStreamer's ``gdppay``. The size may change with every frame.

    Raises:
        DataError: another format than BGR, too large, or not GDP.
    """
    size: tuple[int, int] | None = None
    rate: Fraction | None = None
    while True:
        header = yield from _take(_GDP_HEADER.size)
        fields = _GDP_HEADER.unpack(header)
        major, _, flags, kind, length, stamp_ns = fields[:6]
        right = major == 1
        if right and flags & _GDP_HAS_HEADER_CRC:
            crc = binascii.crc_hqx(header[:_GDP_CHECKED_BYTES], 0xFFFF) ^ 0xFFFF
            right = crc == fields[-2]
        if not right:
            raise DataError(_LOST.format("no GDP header"))
        if kind != _GDP_BUFFER:
            if length > _MAX_HEADER_BYTES:
                raise DataError(_LOST.format(f"a GDP packet of {length} bytes"))
            payload = yield from _take(length)
            if kind == _GDP_CAPS:
                size, rate = _from_caps(payload)
            continue
        if size is None:
            raise DataError(_LOST.format("frames before their format"))
        width, height = size
        image = _image(width, height)
        row_bytes = 3 * width
        # GStreamer begins each row at a multiple of four bytes.
        padded_bytes = -(-row_bytes // _ROW_ALIGNMENT_BYTES) * _ROW_ALIGNMENT_BYTES
        if length != padded_bytes * height:
            raise DataError(
                f"a frame of {width}x{height} came in {length} bytes where {padded_bytes * height} "
                "were expected: end the pipeline with  ! videoconvert ! video/x-raw,format=BGRx"
            )
        if padded_bytes == row_bytes:
            yield image.data.cast("B")
        else:
            rows = np.empty((height, padded_bytes), np.uint8)
            yield rows.data.cast("B")
            image[:] = rows[:, :row_bytes].reshape(height, width, 3)
        yield RawFrame(image, None if stamp_ns == _NO_TIME else 1e-9 * stamp_ns, rate)
        # Whoever has the frame now owns it.
        del image


def _from_caps(payload: bytes) -> tuple[tuple[int, int], Fraction | None]:
    text = payload.rstrip(b"\0").decode("utf-8", "replace")
    kind, _, rest = text.partition(",")
    found = {name: value.strip() for name, value in _CAPS_FIELD.findall(rest)}
    if kind.strip() != "video/x-raw" or found.get("format") != "BGR":
        raise DataError(_LOST.format(text[:80]))
    rate = None
    with_rate = re.fullmatch(r"(\d+)/(\d+)", found.get("framerate", ""))
    # 0/1 stands for a variable rate.
    if with_rate and int(with_rate[1]) and int(with_rate[2]):
        rate = Fraction(int(with_rate[1]), int(with_rate[2]))
    try:
        return (int(found["width"]), int(found["height"])), rate
    except (KeyError, ValueError):
        raise DataError(_LOST.format(text[:80])) from None


_NUT_ID = b"nut/multimedia container\0"
_NUT_MAIN = 0x4E4D7A561F5F04AD
_NUT_STREAM = 0x4E5311405BF2F9DB
_NUT_SYNCPOINT = 0x4E4BE4ADEECA4569
_NUT_INFO = 0x4E49AB68B596BA78
_NUT_INDEX = 0x4E58DD672F23E64E
_NUT_PACKETS = frozenset({_NUT_MAIN, _NUT_STREAM, _NUT_SYNCPOINT, _NUT_INFO, _NUT_INDEX})
_NUT_FIRST_BYTE = 0x4E
_NUT_SHORT_PACKET_BYTES = 4096
_BGR24 = b"BGR\x18"

_CODED_PTS, _STREAM_ID, _SIZE_MSB, _CHECKSUM = 1 << 3, 1 << 4, 1 << 5, 1 << 6
_RESERVED, _SM_DATA, _HEADER_IDX, _MATCH_TIME = 1 << 7, 1 << 8, 1 << 10, 1 << 11
_CODED_FLAGS, _INVALID = 1 << 12, 1 << 13


@dataclass(frozen=True)
class _FrameCode:
    """What one byte at the beginning of a frame stands for."""

    flags: int
    pts_delta: int = 0
    stream: int = 0
    size_mul: int = 1
    size_lsb: int = 0
    reserved: int = 0
    header: int = 0


class _Fields:
    """Numbers out of a packet's bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def unsigned(self) -> int:
        value = 0
        while True:
            if self._at >= len(self._data):
                raise DataError(_LOST.format("a NUT packet ends too early"))
            byte = self._data[self._at]
            self._at += 1
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value

    def signed(self) -> int:
        value = self.unsigned() + 1
        return -(value >> 1) if value & 1 else value >> 1

    def block(self) -> bytes:
        length = self.unsigned()
        if length > self.left:
            raise DataError(_LOST.format("a NUT packet ends too early"))
        self._at += length
        return self._data[self._at - length : self._at]


def _number(limit: int = 1 << 62) -> _Number:
    value = 0
    while True:
        byte = (yield from _take(1))[0]
        value = value << 7 | byte & 0x7F
        if value > limit:
            raise DataError(_LOST.format("a number that is too large"))
        if byte < 0x80:
            return value


class _Nut:
    """What a NUT stream's headers said."""

    def __init__(self) -> None:
        self.time_bases: list[Fraction] = []
        self.codes: list[_FrameCode] = []
        self.elided: list[bytes] = [b""]
        self.size: tuple[int, int] | None = None
        self.rate: Fraction | None = None
        self.time_base = Fraction(1)
        self.pts_bits = 0
        self.last_pts = 0

    def main(self, fields: _Fields) -> None:
        if fields.unsigned() > 3:
            fields.unsigned()
        streams = fields.unsigned()
        if streams != 1:
            raise DataError(
                f"ffmpeg sends {streams} video streams: choose one in the arguments with  -map "
                "0:v:0"
            )
        fields.unsigned()  # largest distance between points to synchronise at
        self.time_bases = []
        for _ in range(fields.unsigned()):
            numerator, denominator = fields.unsigned(), fields.unsigned()
            if not numerator or not denominator:
                raise DataError(_LOST.format("a time base of zero"))
            self.time_bases.append(Fraction(numerator, denominator))
        self.codes = _frame_codes(fields)
        self.elided = [b""]
        if fields.left:
            self.elided += [fields.block() for _ in range(fields.unsigned())]

    def stream(self, fields: _Fields) -> None:
        fields.unsigned()  # number of the stream
        is_video = fields.unsigned() == 0
        layout = fields.block()
        if not is_video or layout != _BGR24:
            raise DataError(_LOST.format(f"frames stored as {layout!r}"))
        base = fields.unsigned()
        if base >= len(self.time_bases):
            raise DataError(_LOST.format("a time base that was not announced"))
        self.time_base = self.time_bases[base]
        self.pts_bits = fields.unsigned()
        for _ in range(3):  # largest step of time, delay of decoding, flags
            fields.unsigned()
        fields.block()
        self.size = fields.unsigned(), fields.unsigned()

    def syncpoint(self, fields: _Fields) -> None:
        # The time of the next frame's predecessor, in the time base that the remainder names.
        coded, bases = fields.unsigned(), len(self.time_bases)
        base = self.time_bases[coded % bases]
        self.last_pts = int(coded // bases * base / self.time_base)

    def info(self, fields: _Fields) -> None:
        for _ in range(4):  # stream, chapter and its place
            fields.unsigned()
        for _ in range(fields.unsigned()):
            name, kind = fields.block(), fields.signed()
            if kind == -2:
                fields.block()
            value = fields.block() if kind in (-1, -2) else b""
            if kind < -2:
                fields.unsigned()
            stated = re.fullmatch(rb"(\d+)/(\d+)", value) if name == b"r_frame_rate" else None
            if stated and int(stated[1]) and int(stated[2]):
                self.rate = Fraction(int(stated[1]), int(stated[2]))

    def time_of(self, code: _FrameCode, coded: int | None) -> float:
        if coded is None:
            pts = self.last_pts + code.pts_delta
        elif coded >= 1 << self.pts_bits:
            pts = coded - (1 << self.pts_bits)
        else:
            # Only the last bits are there; the nearest such number to the last one is meant.
            mask = (1 << self.pts_bits) - 1
            low = self.last_pts - mask // 2
            pts = (coded - low & mask) + low
        self.last_pts = pts
        return float(pts * self.time_base)


def _frame_codes(fields: _Fields) -> list[_FrameCode]:
    codes: list[_FrameCode] = []
    pts_delta, size_mul, stream, header = 0, 1, 0, 0
    while len(codes) < 256:
        flags, count = fields.unsigned(), fields.unsigned()
        # Those of the first five that are left out keep their value, the others are 0 then.
        if count > 0:
            pts_delta = fields.signed()
        if count > 1:
            size_mul = fields.unsigned()
        if count > 2:
            stream = fields.unsigned()
        size = fields.unsigned() if count > 3 else 0
        reserved = fields.unsigned() if count > 4 else 0
        repeated = fields.unsigned() if count > 5 else size_mul - size
        if count > 6:
            fields.signed()
        if count > 7:
            header = fields.unsigned()
        for _ in range(8, count):
            fields.unsigned()
        if repeated < 1 or repeated > 256 - len(codes):
            raise DataError(_LOST.format("a table of frame codes that does not fit"))
        number = 0
        while number < repeated and len(codes) < 256:
            # This byte is how packets begin.
            if len(codes) == _NUT_FIRST_BYTE:
                codes.append(_FrameCode(_INVALID))
                continue
            codes.append(
                _FrameCode(flags, pts_delta, stream, size_mul, size + number, reserved, header)
            )
            number += 1
    return codes


def _packet(first: bytes) -> Generator[Step, None, tuple[int, bytes]]:
    """Start code and contents of a packet whose first byte was read; without its checksum."""
    code = int.from_bytes(first + (yield from _take(7)), "big")
    if code not in _NUT_PACKETS:
        raise DataError(_LOST.format("no NUT packet"))
    length = yield from _number()
    if length > _MAX_HEADER_BYTES or length < 4:
        raise DataError(_LOST.format(f"a NUT packet of {length} bytes"))
    if length > _NUT_SHORT_PACKET_BYTES:
        yield from _take(4)
    return code, (yield from _take(length))[:-4]


def read_nut() -> Reader:
    """Frames of the one video stream in bgr24 that ffmpeg sends as NUT.

    Raises:
        DataError: several streams, another format, too large, or not NUT.
        SizeChangedError: a frame has another number of bytes than the size that was announced.
    """
    if (yield from _take(len(_NUT_ID))) != _NUT_ID:
        raise DataError(_LOST.format("no NUT header"))
    nut = _Nut()
    while True:
        first = yield from _take(1)
        if first[0] == _NUT_FIRST_BYTE:
            kind, payload = yield from _packet(first)
            if kind == _NUT_MAIN:
                nut.main(_Fields(payload))
            elif kind == _NUT_STREAM:
                nut.stream(_Fields(payload))
            elif kind == _NUT_SYNCPOINT and nut.time_bases:
                nut.syncpoint(_Fields(payload))
            elif kind == _NUT_INFO:
                nut.info(_Fields(payload))
            continue
        if nut.size is None or not nut.codes:
            raise DataError(_LOST.format("frames before their format"))
        code = nut.codes[first[0]]
        flags = code.flags
        if flags & _CODED_FLAGS:
            flags ^= yield from _number()
        if flags & (_INVALID | _SM_DATA):
            raise DataError(_LOST.format("a NUT frame of an unknown kind"))
        if flags & _STREAM_ID:
            yield from _number()
        coded = (yield from _number()) if flags & _CODED_PTS else None
        length = code.size_lsb
        if flags & _SIZE_MSB:
            length += code.size_mul * (yield from _number())
        if flags & _MATCH_TIME:
            yield from _number()
        header = (yield from _number()) if flags & _HEADER_IDX else code.header
        reserved = (yield from _number()) if flags & _RESERVED else code.reserved
        for _ in range(reserved):
            yield from _number()
        if flags & _CHECKSUM:
            yield from _take(4)
        elided = nut.elided[header] if header < len(nut.elided) else b""
        if length > _NUT_SHORT_PACKET_BYTES:
            elided = b""
        media_s = nut.time_of(code, coded)
        width, height = nut.size
        image = _image(width, height)
        if length != image.nbytes:
            raise SizeChangedError
        pixels = image.data.cast("B")
        pixels[: len(elided)] = elided
        yield pixels[len(elided) :]
        yield RawFrame(image, media_s, nut.rate)
        del image, pixels
