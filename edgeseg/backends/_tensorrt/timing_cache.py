"""Timings of kernels that a build may take from an earlier one on the same machine.

TensorRT's own bytes are kept under a header that says what they are for, with their hash, so that
nothing cut off, changed or foreign reaches the library.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg._files import atomic_file
from edgeseg.errors import OutputError

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["attach_timing_cache", "read_timings", "save_timing_cache", "write_timings"]

_log = logging.getLogger(__name__)

_MAGIC = b"edgeseg tensorrt timings 1\n"
_HEADER_BYTES = 4096
_LARGEST_BYTES = 1 << 30


def read_timings(path: Path, tensorrt: str, device: str) -> bytes:
    """The bytes kept in ``path`` for one version of TensorRT and one kind of device.

    Raises:
        ValueError: they cannot be used; the message says why.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it is no timing cache of edgeseg")
        line = stream.readline(_HEADER_BYTES)
        try:
            header = json.loads(line)
            found = (str(header["tensorrt"]), str(header["device"]))
            size_bytes, digest = int(header["bytes"]), str(header["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError("its header is damaged") from error
        if found != (tensorrt, device):
            raise ValueError(f"it was made by TensorRT {found[0]} on {found[1]}")
        if not 0 <= size_bytes <= _LARGEST_BYTES:
            raise ValueError(f"it claims {size_bytes} bytes")
        data = stream.read(size_bytes + 1)
    if len(data) != size_bytes:
        raise ValueError(f"it holds {len(data)} bytes instead of {size_bytes}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("its content was changed")
    return data


def write_timings(path: Path, data: bytes, tensorrt: str, device: str) -> None:
    """Write what ``read_timings`` reads.

    Raises:
        OutputError: the file cannot be written.
    """
    header = {
        "tensorrt": tensorrt,
        "device": device,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        stream.write(_MAGIC + json.dumps(header).encode() + b"\n")
        stream.write(data)


def attach_timing_cache(
    config: trt.IBuilderConfig, path: Path, tensorrt: str, device: str
) -> tuple[trt.ITimingCache | None, str]:
    """Give the build the timings in ``path``, or an empty cache to fill.

    Returns:
        The cache, which must outlive the build; and why the timings in ``path`` were dropped, empty
        if they were not. They never fail a build.
    """
    data, dropped = b"", ""
    if path.exists():
        try:
            data = read_timings(path, tensorrt, device)
        except (OSError, ValueError) as error:
            dropped = str(error)
    cache = _attach(config, data)
    if cache is None and data:
        dropped = "TensorRT refuses it"
        cache = _attach(config, b"")
    if cache is None:
        return None, "TensorRT takes no timing cache: nothing is kept for later builds"
    if dropped:
        _log.warning("the timing cache %s is dropped: %s", path, dropped)
        return cache, f"the timing cache {path} was dropped: {dropped}"
    return cache, ""


def _attach(config: trt.IBuilderConfig, data: bytes) -> trt.ITimingCache | None:
    try:
        cache: trt.ITimingCache | None = config.create_timing_cache(data)
        # Timings of another device would be of no use: mismatches are not ignored.
        fits = cache is not None and bool(config.set_timing_cache(cache, False))
    except Exception as error:  # the bindings turn what C++ throws into several classes
        _log.info("a timing cache of %d bytes failed: %s", len(data), str(error))
        return None
    return cache if fits else None


def save_timing_cache(config: trt.IBuilderConfig, path: Path, tensorrt: str, device: str) -> str:
    """Keep what the build has timed.

    Returns:
        Why it could not be kept; empty if it was.
    """
    cache: trt.ITimingCache | None = config.get_timing_cache()
    serialized: trt.IHostMemory | None = None if cache is None else cache.serialize()
    if serialized is None:
        return "TensorRT gave no timings to keep"
    data = bytes(memoryview(serialized))
    if len(data) > _LARGEST_BYTES:
        return f"the timing cache is not kept: it has {len(data)} bytes"
    try:
        write_timings(path, data, tensorrt, device)
    except OutputError as error:
        _log.warning("the timing cache is not kept: %s", str(error))
        return f"the timing cache is not kept: {error}"
    return ""
