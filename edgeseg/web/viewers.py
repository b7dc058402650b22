"""Those who look: a WebSocket each, the newest picture when they are ready for it, the status.

A viewer says which view it wants and acknowledges each picture; before that it gets no other, so
that nothing piles up on a slow line. All of this runs on the page's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
import time
from collections import deque
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from edgeseg.live.base import Shown
from edgeseg.live.status import LiveStatus
from edgeseg.web.pictures import VIEWS, Encoded, PictureEncoder, View
from edgeseg.web.plain import dumps, plain
from edgeseg.web.rates import Bucket
from edgeseg.web.schema import Schema, complaint
from edgeseg.web.session import NoAnswerError, Session

__all__ = ["Viewers", "status_json"]

_LOG = logging.getLogger(__name__)

_PROTOCOL = 1
_STATUS_EVERY_S = 0.5
_HISTORY_S = 60.0
_PATIENCE_S = 10.0
"""For an acknowledgement, and for a message to leave."""
_MESSAGES_PER_S = 200.0
_MOST_PONGS = 4
_MOST_REASON_BYTES = 123
"""RFC 6455, 5.5: a closing frame holds 125 bytes, two of which are its code."""
_REFUSED, _BUSY = 1008, 1013

_NUMBER: Schema = {"type": "number"}
_MESSAGES: dict[str, Schema] = {
    "view": {
        "type": "object",
        "properties": {"type": {"const": "view"}, "view": {"enum": [*VIEWS, None]}},
        "required": ["type", "view"],
        "additionalProperties": False,
    },
    "ack": {
        "type": "object",
        "properties": {"type": {"const": "ack"}, "number": {"type": "integer"}},
        "required": ["type", "number"],
        "additionalProperties": False,
    },
    "ping": {
        "type": "object",
        "properties": {"type": {"const": "ping"}, "sent_ms": _NUMBER},
        "required": ["type", "sent_ms"],
        "additionalProperties": False,
    },
}


class _RefusedError(Exception):
    """A viewer said something that it may not say."""


class _Viewer:
    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.view: View | None = None
        self.work = asyncio.Event()
        self.status: str | None = None
        self.pongs: deque[float] = deque(maxlen=_MOST_PONGS)
        self.picture: Encoded | None = None
        """To be sent."""
        self.last: Shown | None = None
        self.last_view: View | None = None
        self.unacknowledged: int | None = None
        self.unacknowledged_since_s = 0.0

    @property
    def waits_for(self) -> View | None:
        """View of the picture that it may get next."""
        free = self.unacknowledged is None and self.picture is None
        return self.view if free else None

    def give(self, encoded: Encoded) -> None:
        """Send this picture, if it waits for it and has not had it."""
        had = self.last is encoded.shown and self.last_view == encoded.view
        if self.waits_for == encoded.view and not had:
            self.picture = encoded
            self.work.set()


class Viewers:
    """All open sockets."""

    def __init__(self, session: Session, *, most: int) -> None:
        """Nobody looks yet.

        Args:
            session: whose status is sent twice a second.
            most: sockets at a time.
        """
        self._session = session
        self._most = most
        self._viewers: set[_Viewer] = set()
        self._encoder: PictureEncoder | None = None
        self._encoded: dict[View, Encoded] = {}
        self._status: str | None = None
        self._history: deque[dict[str, Any]] = deque(maxlen=int(_HISTORY_S / _STATUS_EVERY_S))

    def __len__(self) -> int:
        return len(self._viewers)

    def attach(self, encoder: PictureEncoder) -> None:
        """Where pictures come from."""
        self._encoder = encoder

    def publish(self, encoded: Encoded) -> None:
        """A picture is ready."""
        self._encoded[encoded.view] = encoded
        for viewer in self._viewers:
            viewer.give(encoded)
        self._ask()

    def _ask(self) -> None:
        assert self._encoder is not None
        newest = self._encoder.newest
        for viewer in self._viewers:
            view = viewer.waits_for
            done = self._encoded.get(view) if view else None
            # The one that another viewer got meanwhile costs no encode.
            if done is not None and done.shown is newest:
                viewer.give(done)
        self._encoder.want({viewer.waits_for for viewer in self._viewers if viewer.waits_for})

    async def tick(self) -> None:
        """Send the status twice a second, and keep a minute of it, until it is cancelled."""
        while True:
            try:
                status = await self._session.status()
                self._note(status)
                text = dumps({"type": "status", **status_json(status, len(self))})
            except NoAnswerError as error:
                text = dumps({"type": "error", "error": str(error)})
            except Exception as error:
                _LOG.exception("the page could not read the status of the session")
                text = dumps({"type": "error", "error": f"no status: {type(error).__name__}"})
            self._status = text
            for viewer in self._viewers:
                viewer.status = text
                viewer.work.set()
            await asyncio.sleep(_STATUS_EVERY_S)

    def _note(self, status: LiveStatus) -> None:
        self._history.append(
            {
                "at_ms": 1e3 * time.monotonic(),
                "age_ms": None if status.state == "none" else status.age_ms,
                "engine_ms": status.engine_ms,
                "state": status.state,
            }
        )

    async def serve(self, socket: WebSocket) -> None:
        """Serve one socket until either side closes it."""
        await socket.accept()
        if len(self._viewers) >= self._most:
            reason = f"{self._most} viewers look already: close a page, then reload"
            await socket.send_text(dumps({"type": "error", "error": reason}))
            await socket.close(_BUSY, reason)
            return
        viewer = _Viewer(socket)
        # The limit of age is in it, without which a page shows nothing.
        viewer.status = self._status
        viewer.work.set()
        self._viewers.add(viewer)
        _LOG.debug("a viewer came, %d look", len(self._viewers))
        sending = asyncio.ensure_future(self._send_all(viewer))
        reading = asyncio.ensure_future(self._read_all(viewer))
        try:
            await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
            for task in (reading, sending):
                error = task.exception() if task.done() and not task.cancelled() else None
                if isinstance(error, _RefusedError):
                    await self._refuse(socket, str(error))
                elif error is not None and not isinstance(error, (WebSocketDisconnect, OSError)):
                    _LOG.error("a viewer's socket failed", exc_info=error)
        finally:
            self._viewers.discard(viewer)
            for task in (reading, sending):
                task.cancel()
            await asyncio.gather(reading, sending, return_exceptions=True)
            self._ask()
            _LOG.debug("a viewer went, %d look", len(self._viewers))

    @staticmethod
    async def _refuse(socket: WebSocket, reason: str) -> None:
        _LOG.debug("a viewer's socket is closed: %s", reason)
        short = reason.encode("utf-8", "replace")[:_MOST_REASON_BYTES].decode("utf-8", "ignore")
        with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect, asyncio.TimeoutError):
            await asyncio.wait_for(socket.close(_REFUSED, short), 1.0)

    async def _read_all(self, viewer: _Viewer) -> None:
        bucket = Bucket(_MESSAGES_PER_S, _MESSAGES_PER_S)
        while True:
            message = await viewer.socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if not bucket.take():
                raise _RefusedError("too many messages")
            self._take(viewer, _parsed(message.get("text")))

    def _take(self, viewer: _Viewer, message: dict[str, Any]) -> None:
        if message["type"] == "ping":
            viewer.pongs.append(message["sent_ms"])
            viewer.work.set()
            return
        if message["type"] == "view":
            viewer.view = message["view"]
        elif message["number"] == viewer.unacknowledged:
            viewer.unacknowledged = None
        self._ask()

    async def _send_all(self, viewer: _Viewer) -> None:
        await self._send(viewer, self._hello())
        while True:
            await viewer.work.wait()
            viewer.work.clear()
            while viewer.pongs:
                pong = {"type": "pong", "sent_ms": viewer.pongs.popleft()}
                await self._send(viewer, dumps({**pong, "server_ms": 1e3 * time.monotonic()}))
            if viewer.status is not None:
                text, viewer.status = viewer.status, None
                await self._send(viewer, text)
            await self._send_picture(viewer)

    async def _send_picture(self, viewer: _Viewer) -> None:
        now_s = time.monotonic()
        if viewer.picture is not None:
            encoded, viewer.picture = viewer.picture, None
            viewer.last, viewer.last_view = encoded.shown, encoded.view
            viewer.unacknowledged = encoded.shown.number
            viewer.unacknowledged_since_s = now_s
            await self._send(viewer, _message(encoded))
        elif (
            viewer.unacknowledged is not None
            and now_s - viewer.unacknowledged_since_s > _PATIENCE_S
        ):
            raise _RefusedError(f"no picture was acknowledged for {_PATIENCE_S:.0f} s")

    @staticmethod
    async def _send(viewer: _Viewer, message: str | bytes) -> None:
        sending = (
            viewer.socket.send_text(message)
            if isinstance(message, str)
            else viewer.socket.send_bytes(message)
        )
        try:
            await asyncio.wait_for(sending, _PATIENCE_S)
        except asyncio.TimeoutError:
            raise _RefusedError(f"nothing was read for {_PATIENCE_S:.0f} s") from None

    def _hello(self) -> str:
        return dumps(
            {
                "type": "hello",
                "protocol": _PROTOCOL,
                "views": VIEWS,
                "server_ms": 1e3 * time.monotonic(),
                "wall_ms": 1e3 * time.time(),
                "history": list(self._history),
            }
        )


def status_json(status: LiveStatus, viewers: int) -> dict[str, Any]:
    """The status as the page and the REST interface give it."""
    return {**plain(status), "viewers": viewers}


def _parsed(text: object) -> dict[str, Any]:
    if not isinstance(text, str):
        raise _RefusedError("messages are text")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise _RefusedError("a message is no JSON") from None
    kind = message.get("type") if isinstance(message, dict) else None
    if not isinstance(kind, str) or kind not in _MESSAGES:
        raise _RefusedError(f"a message's type must be one of {', '.join(_MESSAGES)}")
    wrong = complaint(message, _MESSAGES[kind], {}, kind)
    if wrong:
        raise _RefusedError(wrong)
    checked: dict[str, Any] = message
    return checked


def _message(encoded: Encoded) -> bytes:
    shown = encoded.shown
    shown_ms = 1e3 * shown.shown_s
    header = dumps(
        {
            "number": shown.number,
            "view": encoded.view,
            "frame": shown.frame.index,
            "mask_frame": shown.mask_index,
            "state": shown.state,
            "reason": shown.reason,
            "detail": shown.detail,
            "age_ms": shown.age_ms,
            "frame_age_ms": shown.frame_age_ms,
            "shown_ms": shown_ms,
            "captured_ms": shown_ms - shown.frame_age_ms,
            "mask_captured_ms": None if shown.age_ms is None else shown_ms - shown.age_ms,
            "sent_ms": 1e3 * time.monotonic(),
            "width_px": encoded.width_px,
            "height_px": encoded.height_px,
        }
    ).encode()
    return struct.pack(">I", len(header)) + header + encoded.jpeg
