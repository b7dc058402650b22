"""What the page asks the session, off its event loop and never for longer than it may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from edgeseg.live.base import Shown
from edgeseg.live.controls import Controls
from edgeseg.live.status import Board, LiveStatus
from edgeseg.web._threads import in_thread
from edgeseg.web.plain import plain

__all__ = ["NoAnswerError", "Session", "not_healthy", "patience_s"]

T = TypeVar("T")

_STATUS_S = 2.0
_RECORDING_S = 10.0
_LEAST_PATIENCE_S = 1.5
_PATIENCE_WITHOUT_LIMIT_S = 2.0


class NoAnswerError(Exception):
    """The session did not answer in time."""


def patience_s(max_age_ms: float) -> float:
    """How long a picture may be the newest one; pages go by the same rule."""
    if not 0.0 < max_age_ms < 1e3 * 3600.0:
        return _PATIENCE_WITHOUT_LIMIT_S
    return max(_LEAST_PATIENCE_S, max_age_ms / 1e3)


def not_healthy(status: LiveStatus, newest: Shown | None, now_s: float) -> str | None:
    """Why no current result is shown; None if one is."""
    if status.state == "none":
        return f"{status.reason}: {status.detail}" if status.detail else str(status.reason)
    if newest is None:
        return "no picture has come yet"
    since_s = now_s - newest.shown_s
    if since_s > patience_s(status.max_age_ms):
        return f"no new picture for {since_s:.1f} s"
    return None


class Session:
    """A board, for coroutines of one event loop.

    However many ask for the status, one thread at a time waits for it: a session that does not
    answer holds up that thread and nothing else.
    """

    def __init__(self, board: Board) -> None:
        """Ask nothing yet."""
        self._board = board
        self._pending: asyncio.Future[LiveStatus] | None = None
        self._pending_card: asyncio.Future[Any] | None = None
        self._recording = asyncio.Lock()

    @property
    def controls(self) -> Controls:
        """Opacity and threshold."""
        return self._board.controls

    async def status(self) -> LiveStatus:
        """This moment.

        Raises:
            NoAnswerError: not within two seconds.
        """
        if self._pending is None or self._pending.done():
            self._pending = in_thread(self._board.status)
        return await _within(self._pending, _STATUS_S)

    async def card(self) -> dict[str, Any]:
        """The card of the model, as JSON values.

        Raises:
            NoAnswerError: not within two seconds.
        """
        if self._pending_card is None or self._pending_card.done():
            self._pending_card = in_thread(lambda: plain(dict(self._board.card())))
        card: dict[str, Any] = await _within(self._pending_card, _STATUS_S)
        return card

    async def record(self, action: str) -> str | None:
        """Start or stop to record; returns the file.

        Raises:
            UsageError: it records already, or has no folder for it.
            OutputError: the file cannot be made or completed.
            NoAnswerError: not within ten seconds.
        """
        started = time.monotonic()
        try:
            await asyncio.wait_for(self._recording.acquire(), _RECORDING_S)
        except asyncio.TimeoutError:
            raise NoAnswerError("the last request to record is not done yet") from None
        call: Callable[[], str | None] = (
            self._board.start_recording if action == "start" else self._board.stop_recording
        )
        future = in_thread(call)
        # Freed when the call is over, not when this request has given up.
        future.add_done_callback(lambda _: self._recording.release())
        return await _within(future, _RECORDING_S - (time.monotonic() - started))


async def _within(future: asyncio.Future[T], limit_s: float) -> T:
    try:
        return await asyncio.wait_for(asyncio.shield(future), max(0.1, limit_s))
    except asyncio.TimeoutError:
        raise NoAnswerError(f"the session did not answer within {limit_s:.0f} s") from None
