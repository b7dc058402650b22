"""A session that is made up, for the live page: a board, and a thread that shows pictures."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from edgeseg.errors import OutputError, UsageError
from edgeseg.live.base import LiveFrame, Reason, Shown
from edgeseg.live.controls import Controls
from edgeseg.live.status import AgeFigures, LiveStatus, SinkStatus
from edgeseg.spec import RoiSpec

HEIGHT_PX, WIDTH_PX = 180, 320
CELL_PX = 20
"""The picture's number is the column of a bright square, from the left."""
COLUMNS = WIDTH_PX // CELL_PX
AGE_MS = 40.0
MAX_AGE_MS = 400.0

CARD: dict[str, Any] = {
    "name": "polyps",
    "family": "segdino_v2",
    "classes": ["polyp"],
    "precision": "int8",
    "backend": "openvino 2026.4.1",
    "input_size": "256x320",
    "checkpoint_sha256": "0123456789abcdef" * 4,
    "accuracy": [
        {"variant": "int8", "backend": "openvino", "cases": 120, "dice": 0.91234, "iou": 0.85},
        {"variant": "fp32", "backend": "openvino", "cases": 120, "dice": 0.915, "iou": 0.8531},
    ],
}


class StandInBoard:
    """Keeps what the page does to it."""

    def __init__(self, *, threshold: float | None = 0.5) -> None:
        self.controls = Controls(opacity=0.4, threshold=threshold)
        self.changes: dict[str, Any] = {}
        self.recording: str | None = None
        self.refuse_recording = ""
        self.hang = threading.Event()
        self.hung = threading.Event()
        self._since_s = time.monotonic()

    def status(self) -> LiveStatus:
        if self.hang.is_set():
            self.hung.set()
            while self.hang.is_set():
                time.sleep(0.01)
        made = LiveStatus(
            state="current",
            reason=None,
            detail="",
            source="rtsp://camera/live",
            connected=True,
            uptime_s=time.monotonic() - self._since_s,
            frame_size_px=(WIDTH_PX, HEIGHT_PX),
            captured_fps=25.0,
            mask_fps=24.5,
            shown_fps=25.0,
            captured=1000,
            shown=960,
            predicted=10,
            unmasked=8,
            dropped={"no room": 15, "too old": 5},
            in_flight=2,
            faults={"engine": 1},
            reconnections=2,
            age_ms=AGE_MS,
            ages=AgeFigures(960, 38.0, 52.0, 71.0, 96.0),
            engine_ms=28.5,
            engine_busy=0.7,
            sinks=(
                SinkStatus("out.mp4", 990, 0),
                SinkStatus('rtsp://server/"live"', 900, 60, "server went away"),
            ),
            views="views 2 of 6",
            region=RoiSpec(8, 0, 300, 180),
            opacity=self.controls.opacity,
            threshold=self.controls.threshold,
            recording=self.recording,
            max_age_ms=MAX_AGE_MS,
        )
        return replace(made, **self.changes)

    def card(self) -> Mapping[str, Any]:
        return CARD

    def start_recording(self) -> str:
        if self.refuse_recording:
            raise OutputError(self.refuse_recording)
        if self.recording:
            raise UsageError(f"it records to {self.recording} already")
        self.recording = "/recordings/session-1.mp4"
        return self.recording

    def stop_recording(self) -> str | None:
        done, self.recording = self.recording, None
        return done


def shown(
    number: int,
    *,
    reason: Reason | None = None,
    predicted: bool = False,
    age_ms: float = AGE_MS,
    size_px: tuple[int, int] = (WIDTH_PX, HEIGHT_PX),
) -> Shown:
    """A picture whose number is the column of a bright square (modulo ``COLUMNS``).

    The overlay's square is sky blue, the original's white; with a reason the picture is grey and
    without a mask.
    """
    width, height = size_px
    image = np.full((height, width, 3), (40, 50, 90), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    left = number % COLUMNS * CELL_PX
    image[60:120, left : left + CELL_PX] = 255
    mask[60:120, left : left + CELL_PX] = 1
    picture = image.copy()
    picture[mask > 0] = (233, 180, 86)
    if reason is not None:
        picture = np.full_like(image, 70)
        cv2.putText(picture, "SIGN", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255), 2)
    now_s = time.monotonic()
    return Shown(
        number=number,
        frame=LiveFrame(number + 100, image, now_s - age_ms / 1e3),
        picture=picture,
        mask=None if reason else mask,
        state="none" if reason else "predicted" if predicted else "current",
        reason=reason,
        detail="for 1.4 s" if reason else "",
        mask_index=None if reason else number + 100 - predicted,
        age_ms=None if reason else age_ms,
        frame_age_ms=age_ms,
        shown_s=now_s,
    )


class Feed:
    """Shows pictures in a thread until it is stopped."""

    def __init__(self, sink: Any, *, per_s: float = 20.0) -> None:
        self.reason: Reason | None = None
        self.predicted = False
        self.age_ms = AGE_MS
        self.number = 0
        self.slowest_s = 0.0
        self._sink = sink
        self._pause_s = 1.0 / per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            picture = shown(
                self.number, reason=self.reason, predicted=self.predicted, age_ms=self.age_ms
            )
            before_s = time.monotonic()
            with contextlib.suppress(OutputError):  # while a test restarts the page
                self._sink.write(picture)
            self.slowest_s = max(self.slowest_s, time.monotonic() - before_s)
            self.number += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def feeding(sink: Any, *, per_s: float = 20.0) -> Iterator[Feed]:
    """Pictures for as long as the block lasts."""
    feed = Feed(sink, per_s=per_s)
    try:
        yield feed
    finally:
        feed.stop()


class Client:
    """Requests from an address of its own, so that tests do not share a client's rate."""

    _addresses = itertools.count(2)

    def __init__(self, page: Any, **headers: str) -> None:
        self.page = page
        self.headers = headers
        number = next(self._addresses)
        self.address = f"127.0.{number // 250}.{number % 250 + 1}"

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(
            "127.0.0.1", self.page.port, timeout=30, source_address=(self.address, 0)
        )

    def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, Any]:
        """Status, headers and body, which is parsed if it is JSON."""
        sent = {**self.headers, **{name.replace("_", "-"): one for name, one in headers.items()}}
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            content = answer.read()
        kind = answer.headers.get("Content-Type", "")
        value = json.loads(content) if kind == "application/json" and content else content
        return answer.status, answer.headers, value
