"""``python -m edgeseg.live.sinks.highgui WIDTH HEIGHT TITLE``: raw pictures in a window.

For machines whose OpenCV has windows (highgui) and that have neither ffplay nor GStreamer. It is a
process of its own, since highgui wants the main thread, and since a window that hangs must not
hold up a session. It ends with code 0 when its input ends or somebody closes the window.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import cv2
import numpy as np

__all__ = ["ALIVE", "has_windows", "main"]

ALIVE = "window alive"
"""Printed on standard error every now and then, as long as the window goes on."""
_EVERY_S = 0.3


def has_windows() -> bool:
    """Whether this OpenCV was built with windows; the headless wheels were not."""
    for line in cv2.getBuildInformation().splitlines():
        name, _, value = line.strip().partition(":")
        if name == "GUI":
            return value.strip().upper() != "NONE"
    return False


def main(words: list[str]) -> int:
    """Show pictures until there are no more, or nobody wants to see them."""
    width, height, title = int(words[0]), int(words[1]), words[2]
    picture = np.empty((height, width, 3), np.uint8)
    into = memoryview(picture.data).cast("B")
    told_s = 0.0
    # Without the tool bar that some builds add.
    cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
    cv2.resizeWindow(title, width, height)
    shown = False
    while _read(into):
        cv2.imshow(title, picture)
        cv2.waitKey(1)
        if shown and cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
            return 0
        shown = True
        if time.monotonic() - told_s >= _EVERY_S:
            told_s = time.monotonic()
            sys.stderr.write(f"{ALIVE}\n")
            sys.stderr.flush()
    return 0


def _read(into: memoryview) -> bool:
    """Fill it from standard input; False at its end."""
    source: Any = sys.stdin.buffer
    done = 0
    while done < len(into):
        count = source.readinto(into[done:])
        if not count:
            return False
        done += count
    return True


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
