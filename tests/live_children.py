"""What the tests of programs at the other end of a pipe share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from edgeseg.live.base import LiveFrame, Shown


def shown(picture: np.ndarray, number: int = 0) -> Shown:
    """A picture without a mask, as a session shows it."""
    return Shown(
        number=number,
        frame=LiveFrame(number, picture, time.monotonic()),
        picture=picture,
        mask=None,
        state="none",
        reason="starting",
        detail="",
        mask_index=None,
        age_ms=None,
        frame_age_ms=0.0,
        shown_s=time.monotonic(),
    )


def quarters(width: int, height: int) -> np.ndarray:
    """uint8 (H, W, 3) BGR: red, green, blue and white quarters."""
    picture = np.zeros((height, width, 3), np.uint8)
    half_w, half_h = width // 2, height // 2
    picture[:half_h, :half_w] = 0, 0, 255
    picture[:half_h, half_w:] = 0, 255, 0
    picture[half_h:, :half_w] = 255, 0, 0
    picture[half_h:, half_w:] = 255
    return picture


def corners(picture: np.ndarray) -> np.ndarray:
    """Colours in the middle of the four quarters, int (4, 3)."""
    height, width = picture.shape[:2]
    rows = [height // 4, height // 4, 3 * height // 4, 3 * height // 4]
    columns = [width // 4, 3 * width // 4, width // 4, 3 * width // 4]
    return picture[rows, columns].astype(int)


def wait_for(condition: Callable[[], object], within_s: float = 20.0) -> bool:
    """Whether it comes true in time; the time is only a limit against hanging."""
    until_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    """Whether there is no such process, not even a zombie."""
    return not Path(f"/proc/{pid}").exists()


def dead(pid: int) -> bool:
    """Whether a process has ended, even if nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children() -> set[int]:
    """Processes that this one has started and not waited for, zombies included."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        # A thread may just have ended.
        with suppress(FileNotFoundError, ProcessLookupError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """No process and no descriptor more at the end than at the beginning."""
    before, open_before = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert wait_for(lambda: not children() - before), children() - before
    assert wait_for(lambda: len(os.listdir("/proc/self/fd")) <= open_before)
