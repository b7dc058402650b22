"""What an image file says about itself before it is decoded: format, size and completeness.

Decoders fill the missing part of a broken file with grey or zeros and say nothing; they also
believe the size in a header of a few bytes. Both are checked here, on the raw bytes, before a
decoder sees them. Formats: JPEG (ITU-T T.81), PNG (ISO/IEC 15948), BMP, TIFF 6.0 and WebP
(RFC 9649).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["FormatError", "ImageHeader", "palette_png_as_indices", "probe"]

ImageFormat = Literal["jpeg", "png", "bmp", "tiff", "webp"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
# In entropy-coded data FF is followed by 00 (a stuffed byte), a restart marker, or fill bytes.
_JPEG_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_TIFF_INTEGER_BYTES = {3: 2, 4: 4}


class FormatError(ValueError):
    """The bytes are no complete image of a known format; the message says what is wrong."""


@dataclass(frozen=True)
class ImageHeader:
    """Format and size as the file states them."""

    format: ImageFormat
    width_px: int
    height_px: int
    palette: bool = False
    """The file stores indices into a colour table (PNG only)."""


def probe(data: bytes) -> ImageHeader:
    """Read the header of an image held in memory and check that its end is there.

    Raises:
        FormatError: unknown format, a header that makes no sense, or a file that breaks off.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(_PNG_SIGNATURE):
            return _png(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise FormatError("the file breaks off inside its header (truncated)") from error
    raise FormatError("it is no JPEG, PNG, BMP, TIFF or WebP image")


def palette_png_as_indices(data: bytes) -> bytes:
    """A palette PNG rewritten as a grey one whose values are the palette's indices.

    OpenCV always expands a palette to colours, but label images (such as PASCAL VOC's) mean the
    index. Indices of fewer than 8 bits come out of a decoder spread over 0..255, as grey does.
    """
    pieces = [_PNG_SIGNATURE]
    for kind, body in _png_chunks(data):
        if kind in (b"PLTE", b"tRNS"):
            continue
        if kind == b"IHDR":
            body = body[:9] + b"\0" + body[10:]  # noqa: PLW2901 - colour type 0 is grey
        pieces.append(struct.pack(">I", len(body)) + kind + body)
        pieces.append(struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))
    return b"".join(pieces)


def _jpeg(data: bytes) -> ImageHeader:
    position = 2
    size: tuple[int, int] | None = None
    while True:
        # Decoders pass over padding between segments, so it is no sign of damage.
        position = data.find(b"\xff", position)
        if position < 0:
            raise FormatError("the JPEG has no end marker (truncated)")
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker == 0xD9:
            break
        if marker in _JPEG_WITHOUT_LENGTH:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 3)
            size = (width, height)
        position += length
        if marker == 0xDA:
            found = _JPEG_MARKER_IN_SCAN.search(data, position)
            position = found.start() if found else len(data)
    if size is None:
        raise FormatError("the JPEG holds no frame")
    return _sized("jpeg", *size)


def _png(data: bytes) -> ImageHeader:
    header: ImageHeader | None = None
    for kind, body in _png_chunks(data):
        if kind == b"IHDR":
            width, height, _depth, colour = struct.unpack_from(">IIBB", body)
            header = _sized("png", width, height, palette=colour == 3)
    if header is None:
        raise FormatError("the PNG has no header chunk")
    return header


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and body of each chunk up to IEND, checksums verified."""
    position = len(_PNG_SIGNATURE)
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise FormatError("the PNG breaks off before its end chunk (truncated)")
        body = data[position + 8 : end - 4]
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(body, zlib.crc32(kind)) != checksum:
            name = kind.decode("latin-1")
            raise FormatError(f"the checksum of its PNG chunk {name!r} is wrong (damaged)")
        yield kind, body
        if kind == b"IEND":
            return
        position = end


def _bmp(data: bytes) -> ImageHeader:
    offset, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes == 12:
        width, height, _planes, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _planes, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    header = _sized("bmp", width, abs(height))
    # 1 and 2 are run-length codes, whose size is not known beforehand.
    row_bytes = (width * bits + 31) // 32 * 4
    if compression not in (1, 2) and len(data) < offset + row_bytes * abs(height):
        raise FormatError("the BMP holds fewer rows than its header says (truncated)")
    return header


def _tiff(data: bytes) -> ImageHeader:
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    found: dict[int, int] = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", data, entry)
        if tag in (256, 257) and values == 1 and kind in _TIFF_INTEGER_BYTES:
            code = "H" if _TIFF_INTEGER_BYTES[kind] == 2 else "I"
            (found[tag],) = struct.unpack_from(order + code, data, entry + 8)
    if len(found) != 2:
        raise FormatError("the TIFF does not state its width and height")
    return _sized("tiff", found[256], found[257])


def _webp(data: bytes) -> ImageHeader:
    (riff_bytes,) = struct.unpack_from("<I", data, 4)
    if len(data) < riff_bytes + 8:
        raise FormatError("the WebP is shorter than its header says (truncated)")
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        raise FormatError("the WebP holds no picture")
    return _sized("webp", width, height)


def _sized(name: ImageFormat, width: int, height: int, *, palette: bool = False) -> ImageHeader:
    if width < 1 or height < 1:
        raise FormatError(f"its header states an impossible size of {width}x{height} pixels")
    return ImageHeader(name, width, height, palette)
