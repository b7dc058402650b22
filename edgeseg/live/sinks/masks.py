"""Masks in files: one PNG a mask, or one JSON line a picture."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edgeseg.errors import OutputError, UsageError
from edgeseg.live.base import LiveSink, Shown, SinkPolicy
from edgeseg.live.sinks.growing_file import GrowingFile, check_free_space, write_error
from edgeseg.live.sinks.mask_lines import MaskLine, read_masks, to_line, utc

__all__ = ["MaskFolderSink", "MaskLine", "MaskLinesSink", "open_mask_sink", "read_masks"]

_KEEP_FREE_MB = 64
"""Room for the log, which goes on after the masks."""
_PNG_COMPRESSION = 1
_TEMPORARY = ".edgeseg-{}.tmp"
LINES_SUFFIX = ".jsonl"


def open_mask_sink(
    target: Path | str,
    *,
    classes: Sequence[str],
    force: bool = False,
    keep_free_mb: int = _KEEP_FREE_MB,
) -> LiveSink:
    """Lines for a path that ends in ``.jsonl``, PNG files in a folder for one without a suffix.

    Args:
        target: where to.
        classes: the manifest's names: a single one, or the background's and those of the others.
        force: replace what is there.
        keep_free_mb: stop when less is left on the disk, in 10^6 bytes; 0: fill it up.

    Raises:
        UsageError: another suffix.
        OutputError: it exists, or cannot be written.
    """
    path = Path(target)
    if path.suffix.lower() == LINES_SUFFIX:
        return MaskLinesSink(path, classes=classes, force=force, keep_free_mb=keep_free_mb)
    if path.suffix and not path.is_dir():
        raise UsageError(
            f"mask://{target}: masks go to a folder (as PNG) or to a file that ends in "
            f"{LINES_SUFFIX}"
        )
    return MaskFolderSink(path, classes=classes, force=force, keep_free_mb=keep_free_mb)


class MaskLinesSink(LiveSink):
    """Writes one JSON line for every picture, also for those without a mask (``mask_lines.py``).

    A reader that sees no line knows nothing; one that sees ``"mask": null`` knows that there was no
    current result, and why.
    """

    policy: SinkPolicy = "wait"

    def __init__(
        self,
        path: Path | str,
        *,
        classes: Sequence[str],
        force: bool = False,
        keep_free_mb: int = _KEEP_FREE_MB,
    ) -> None:
        """Make the file; see ``open_mask_sink``."""
        self.path = Path(path)
        self.name = f"mask://{path}"
        self._classes = tuple(classes)
        self._keep_free_mb = keep_free_mb
        self._file = GrowingFile(self.path, force=force)
        try:
            self._file.check_free_space(keep_free_mb)
        except OutputError:
            self._file.close()
            raise

    def write(self, shown: Shown) -> None:
        """Append the line of one picture; see ``LiveSink``."""
        line = to_line(shown, self._classes, _captured_wall_s(shown))
        self._file.append(line.encode())
        self._file.check_free_space(self._keep_free_mb)

    def close(self) -> None:
        """Close the file; see ``LiveSink``."""
        self._file.close()


class MaskFolderSink(LiveSink):
    """Writes a PNG for every mask: uint8, 0 and 255 for one class, else the index of the class.

    The name is the index of the frame and the time at which it was captured, in UTC:
    ``00000012_20261121T203114.480Z.png``. A mask that was moved to the frame from another one says
    so: ``00000012_20261121T203114.480Z_predicted-from-00000009.png``. A picture without a current
    result gives no file, so a number that is missing says nothing; write lines (``.jsonl``) where
    the reason matters. Each file appears when it is whole.
    """

    policy: SinkPolicy = "wait"

    def __init__(
        self,
        folder: Path | str,
        *,
        classes: Sequence[str],
        force: bool = False,
        keep_free_mb: int = _KEEP_FREE_MB,
    ) -> None:
        """Make the folder, or take one that is empty; with ``force`` one that is not.

        The other arguments are those of ``open_mask_sink``; files that are there stay.
        """
        self.path = Path(folder)
        self.name = f"mask://{folder}"
        self._one_class = len(classes) == 1
        self._keep_free_mb = keep_free_mb
        self._temporary = self.path / _TEMPORARY.format(os.getpid())
        self._last: tuple[int, int, int | None] | None = None
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is no folder: name one, or a file ending in .jsonl")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not force and any(not _is_leftover(path) for path in self.path.iterdir()):
                raise OutputError(
                    f"{self.path} exists already and is not empty: choose another name, or pass "
                    "--force to add to it"
                )
            # Tried now, so that nobody learns of a read-only disk in the middle.
            self._temporary.touch()
            self._temporary.unlink()
        except OutputError:
            raise
        except OSError as error:
            raise write_error(self.path, error) from error
        check_free_space(self.path, self.path, keep_free_mb)

    def write(self, shown: Shown) -> None:
        """Write the mask of one picture, if it has one; see ``LiveSink``."""
        frame, mask = shown.frame, shown.mask
        # A frame that is displayed again has its file already.
        key = frame.segment, frame.index, shown.mask_index
        if mask is None or key == self._last:
            return
        values = np.where(mask != 0, np.uint8(255), np.uint8(0)) if self._one_class else mask
        done, data = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION])
        if not done:
            raise OutputError(f"a mask of shape {mask.shape} cannot be written as PNG")
        stamp = utc(_captured_wall_s(shown)).replace("-", "").replace(":", "")
        moved = "" if shown.state == "current" else f"_predicted-from-{shown.mask_index:08d}"
        path = self.path / f"{frame.index:08d}_{stamp}{moved}.png"
        try:
            self._temporary.write_bytes(data.tobytes())
            self._temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            raise write_error(path, error) from error
        self._last = key
        check_free_space(path, self.path, self._keep_free_mb)

    def close(self) -> None:
        """Nothing is open between two masks."""


def _is_leftover(path: Path) -> bool:
    """Whether a process that was killed left this half of a file."""
    return re.fullmatch(_TEMPORARY.format("[0-9]+"), path.name) is not None


def _captured_wall_s(shown: Shown) -> float:
    """When the frame was captured, by the clock on the wall."""
    return time.time() - (time.monotonic() - shown.frame.captured_s)
