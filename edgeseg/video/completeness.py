"""Whether a video file is as long as its own container says.

Demuxers read what is there and report the end of a cut file as the end of the video. The containers
know better: MP4 boxes (ISO/IEC 14496-12), Matroska elements (RFC 8794, RFC 9559) and RIFF chunks
state their lengths, and MPEG transport streams (ISO/IEC 13818-1) consist of packets of one size.
Only the few bytes of the headers are read, not the payload.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from edgeseg.errors import DataError

__all__ = ["missing_end"]

_MP4_FIRST_BOXES = frozenset(
    {b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
)
_MP4_BOXES = _MP4_FIRST_BOXES | {
    b"moof", b"mfra", b"meta", b"uuid", b"sidx", b"ssix", b"pdin", b"prft", b"emsg",
}  # fmt: skip

_EBML = 0x1A45DFA3
_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
_MATROSKA_TOP = frozenset({
    _CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1043A770, 0x1941A469, 0x1254C367,
    0xEC, 0xBF,
})  # fmt: skip
_MATROSKA_IN_CLUSTER = frozenset({0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF})

_RIFF_SLACK_BYTES = 8
"""Some writers count the chunk header itself."""

_TS_SYNC = 0x47
_TS_LAYOUTS = ((188, 0), (192, 4), (204, 0))
"""Packet size, and where the sync byte stands in it: broadcast, Blu-ray and camcorder, with FEC."""
_TS_PROBED_PACKETS = 5


def missing_end(path: Path) -> str | None:
    """Say how the file is known to be cut, or None if its container gives no sign of that.

    None is also the answer for containers without lengths (elementary streams) and for recordings
    that never had any (a live stream cut on a packet's border).

    Raises:
        DataError: the file cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(_TS_PROBED_PACKETS * 204)
            if head[4:8] in _MP4_FIRST_BOXES:
                return _mp4(stream, size)
            if head[:4] == _EBML.to_bytes(4, "big"):
                return _matroska(stream, size)
            if head[:4] == b"RIFF":
                return _riff(stream, size)
            return _transport_stream(stream, head, size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _overrun(what: str, end: int, size: int) -> str:
    return f"{what} should end {end - size} bytes after the end of the file"


def _mp4(stream: BinaryIO, size: int) -> str | None:
    position = 0
    index_seen = False
    while position + 8 <= size:
        stream.seek(position)
        header = stream.read(16)
        length, kind = struct.unpack_from(">I4s", header)
        if kind not in _MP4_BOXES:
            break  # bytes appended to a whole file, which players pass over too
        index_seen = index_seen or kind == b"moov"
        if length == 0:
            break  # the last box may leave its length open
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack_from(">Q", header, 8)
        if length < 8:
            break
        if position + length > size:
            return _overrun(f"its {kind.decode()!r} box", position + length, size)
        position += length
    return None if index_seen else "its index (the 'moov' box) is missing"


def _matroska(stream: BinaryIO, size: int) -> str | None:
    position = 0
    allowed = frozenset({_EBML, _SEGMENT, 0xEC})
    while position < size:
        stream.seek(position)
        header = stream.read(12)
        element = _element(header)
        if element is None:
            break
        identifier, length, header_bytes = element
        if identifier not in allowed:
            break
        start = position + header_bytes
        if length is not None:
            if start + length > size:
                name = {_SEGMENT: "segment", _CLUSTER: "cluster"}.get(identifier, "element")
                return _overrun(f"its last {name}", start + length, size)
            position = start + length
            continue
        # Live recordings leave the lengths of the segment and of clusters open: look inside.
        if identifier == _SEGMENT:
            allowed = _MATROSKA_TOP
        elif identifier == _CLUSTER:
            allowed = _MATROSKA_TOP | _MATROSKA_IN_CLUSTER
        else:
            break
        position = start
    return None


def _element(header: bytes) -> tuple[int, int | None, int] | None:
    """Identifier, length (None if open) and header size of an EBML element; None if it is none."""
    if not header or header[0] == 0:
        return None
    id_bytes = 9 - header[0].bit_length()
    if id_bytes > 4 or len(header) <= id_bytes or header[id_bytes] == 0:
        return None
    size_bytes = 9 - header[id_bytes].bit_length()
    end = id_bytes + size_bytes
    if len(header) < end:
        return None
    length = int.from_bytes(header[id_bytes:end], "big") & ((1 << 7 * size_bytes) - 1)
    is_open = length == (1 << 7 * size_bytes) - 1
    return int.from_bytes(header[:id_bytes], "big"), None if is_open else length, end


def _riff(stream: BinaryIO, size: int) -> str | None:
    position = 0
    while position + 8 <= size:
        stream.seek(position)
        kind, length = struct.unpack("<4sI", stream.read(8))
        # A length of 0 is what an unfinished recording holds; it says nothing.
        if kind != b"RIFF" or length == 0:
            break
        end = position + 8 + length
        if end > size + _RIFF_SLACK_BYTES:
            return _overrun("its RIFF chunk", end, size)
        position = end + end % 2
    return None


def _transport_stream(stream: BinaryIO, head: bytes, size: int) -> str | None:
    for packet_bytes, sync in _TS_LAYOUTS:
        probes = head[sync : _TS_PROBED_PACKETS * packet_bytes : packet_bytes]
        if len(probes) < _TS_PROBED_PACKETS or any(byte != _TS_SYNC for byte in probes):
            continue
        rest = size % packet_bytes
        if rest <= sync:
            return None
        stream.seek(size - rest + sync)
        if stream.read(1)[0] == _TS_SYNC:
            return f"its last transport packet has {rest} of {packet_bytes} bytes"
        return None
    return None
