"""Masks as JSON lines: the form, and how it is read back.

One line a shown picture, each ending in a line feed::

    {"number": 7, "frame": 12, "mask_index": 12, "state": "current", "reason": null, "detail": "",
     "captured_s": 5021.25, "captured_utc": "2026-11-21T20:31:14.480Z", "media_s": 0.48,
     "shown_s": 5021.31, "age_ms": 60.0, "frame_age_ms": 60.0, "size": [1080, 1920],
     "mask": [{"class": 1, "name": "polyp", "size": [1080, 1920], "counts": [920311, 14, ...]}]}

``mask`` holds the classes that have pixels, so ``[]`` is a mask without any, and ``null`` says that
there is no mask, for the ``reason`` given. With the state "predicted" the mask was computed on
frame ``mask_index`` and moved to ``frame``. ``size`` is (height, width) and ``counts`` are run
lengths (``rle.py``): what has these two is a segmentation as the COCO tools take it. ``captured_s``
and ``shown_s`` are the machine's monotonic clock. A line without its line feed was cut off by a
crash, and is to be ignored.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from edgeseg.dataset import MAX_IMAGE_PX
from edgeseg.errors import DataError
from edgeseg.live.base import Reason, Shown, State
from edgeseg.live.sinks.rle import decode_rle, encode_rle

__all__ = ["MaskLine", "class_name", "parse_line", "read_masks", "to_line", "utc"]

_log = logging.getLogger(__name__)

_LONGEST_LINE_BYTES = 1 << 25
"""A mask of 4K whose pixels alternate has 8 million counts; real ones have some thousands."""
_MOST_CLASSES = 256

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MaskLine:
    """What one line says; see the module."""

    number: int
    """Of the shown picture."""
    frame: int
    """Index of the frame that it shows; -1 before anything was captured."""
    mask_index: int | None
    """Index of the frame that the mask was computed on; None without a mask."""
    state: State
    reason: Reason | None
    detail: str
    captured_s: float
    captured_utc: str
    media_s: float | None
    shown_s: float
    age_ms: float | None
    frame_age_ms: float
    size: tuple[int, int]
    """(height, width) in pixels."""
    mask: Mask | None
    """uint8 (H, W): 0 background, else the index of the class; None if there is no mask."""


def to_line(shown: Shown, classes: Sequence[str], captured_wall_s: float) -> str:
    """One picture as a line, with its line feed.

    Args:
        shown: the picture.
        classes: the manifest's names: a single one, or the background's and those of the others.
        captured_wall_s: when the frame was captured, in seconds since 1970.
    """
    frame = shown.frame
    height, width = frame.image.shape[:2]
    record = {
        "number": shown.number,
        "frame": frame.index,
        "mask_index": shown.mask_index,
        "state": shown.state,
        "reason": shown.reason,
        "detail": shown.detail,
        "captured_s": _rounded(frame.captured_s, 6),
        "captured_utc": utc(captured_wall_s),
        "media_s": _rounded(frame.media_s, 6),
        "shown_s": _rounded(shown.shown_s, 6),
        "age_ms": _rounded(shown.age_ms, 3),
        "frame_age_ms": _rounded(shown.frame_age_ms, 3),
        "size": [height, width],
        "mask": None if shown.mask is None else _classes_of(shown.mask, classes),
    }
    return json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n"


def read_masks(path: Path | str) -> Iterator[MaskLine]:
    """Read a file of mask lines, also one that is still being written.

    A last line that was cut off is left out, and logged.

    Raises:
        DataError: the file cannot be read, or a line is not what it should be; names the line.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            number = 0
            while text := stream.readline(_LONGEST_LINE_BYTES + 1):
                number += 1
                where = f"{path}, line {number}"
                if len(text) > _LONGEST_LINE_BYTES:
                    raise DataError(f"{where}: longer than {_LONGEST_LINE_BYTES} bytes")
                if not text.endswith(b"\n"):
                    _log.warning("%s was cut off while it was written, and is left out", where)
                    return
                yield parse_line(text, where)
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def parse_line(text: bytes, where: str) -> MaskLine:
    """Understand one line.

    Args:
        text: as written by ``to_line``.
        where: what the error names.

    Raises:
        DataError: it is no such line.
    """
    try:
        record = json.loads(text, parse_constant=_no_number)
        if not isinstance(record, dict):
            raise TypeError("not an object")
        height, width = (_whole(value) for value in record["size"])
        if min(height, width) < 1 or height * width > MAX_IMAGE_PX:
            raise ValueError(f"a picture of {width}x{height}")
        state, reason = record["state"], record["reason"]
        if state not in get_args(State) or reason not in (None, *get_args(Reason)):
            raise ValueError(f"unknown state or reason {state!r}, {reason!r}")
        pieces = record["mask"]
        if (pieces is None) != (state == "none") or (pieces is None) != (reason is not None):
            raise ValueError("state, reason and mask contradict each other")
        return MaskLine(
            number=_whole(record["number"]),
            frame=_whole(record["frame"]),
            mask_index=_optional(_whole, record["mask_index"]),
            state=cast(State, state),
            reason=cast("Reason | None", reason),
            detail=str(record["detail"]),
            captured_s=_number(record["captured_s"]),
            captured_utc=str(record["captured_utc"]),
            media_s=_optional(_number, record["media_s"]),
            shown_s=_number(record["shown_s"]),
            age_ms=_optional(_number, record["age_ms"]),
            frame_age_ms=_number(record["frame_age_ms"]),
            size=(height, width),
            mask=None if pieces is None else _mask_of(pieces, (height, width)),
        )
    except KeyError as error:
        raise DataError(f"{where}: {error.args[0]!r} is missing") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{where} is no line of masks: {error}") from error
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def utc(wall_s: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(wall_s, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def class_name(classes: Sequence[str], index: int) -> str:
    """Name of the class with this index in a mask; "" if the bundle has none for it."""
    place = 0 if len(classes) == 1 and index == 1 else index
    return classes[place] if place < len(classes) else ""


def _classes_of(mask: Mask, classes: Sequence[str]) -> list[dict[str, Any]]:
    # Nearly always there is one class, and then the histogram can be done without.
    top = int(mask.max())
    present = range(1, top + 1) if top <= 1 else np.flatnonzero(np.bincount(mask.reshape(-1)))
    return [
        {
            "class": int(index),
            "name": class_name(classes, int(index)),
            "size": list(mask.shape),
            "counts": encode_rle(mask == index),
        }
        for index in present
        if index
    ]


def _mask_of(pieces: Any, size: tuple[int, int]) -> Mask:
    if not isinstance(pieces, list) or len(pieces) > _MOST_CLASSES:
        raise TypeError("'mask' is no list of classes")
    mask = np.zeros(size, np.uint8)
    for piece in pieces:
        index = _whole(piece["class"])
        if not 0 < index < _MOST_CLASSES or tuple(piece["size"]) != size:
            raise ValueError("a class out of range, or of another size than the picture")
        if not isinstance(piece["counts"], list):
            raise TypeError("'counts' is no list")
        covered = decode_rle(piece["counts"], size) != 0
        if mask[covered].any():
            raise ValueError("classes overlap")
        mask[covered] = index
    return mask


def _rounded(value: float | None, digits: int) -> float | None:
    # JSON has no word for what is not finite.
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _optional(check: Any, value: Any) -> Any:
    return None if value is None else check(value)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")
