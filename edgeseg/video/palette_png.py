"""PNG files whose values are class indices and which still look like something."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from edgeseg.errors import OutputError

__all__ = ["with_palette"]

_SIGNATURE_BYTES = 8
_HEADER_END = _SIGNATURE_BYTES + 12 + 13
"""IHDR is the first chunk and holds 13 bytes."""


def with_palette(png: bytes, colours: Sequence[tuple[int, int, int]]) -> bytes:
    """An 8-bit grey PNG turned into a palette PNG: value ``i`` is shown in ``colours[i]`` (RGB).

    The values are not touched, so readers of label images find the class indices. See the PNG
    specification (ISO/IEC 15948), colour type 3.

    Raises:
        OutputError: the file is no 8-bit grey PNG, or there are more than 256 colours.
    """
    header = png[_SIGNATURE_BYTES + 8 : _HEADER_END - 4]
    if len(header) != 13 or header[8] != 8 or header[9] != 0 or not 1 <= len(colours) <= 256:
        raise OutputError("a palette of 1 to 256 colours needs an 8-bit grey PNG")
    table = bytes(value for colour in colours for value in colour)
    return b"".join(
        (
            png[:_SIGNATURE_BYTES],
            _chunk(b"IHDR", header[:9] + b"\x03" + header[10:]),
            _chunk(b"PLTE", table),
            png[_HEADER_END:],
        )
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
