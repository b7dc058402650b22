"""uvicorn in a thread, on sockets that listen already, with bounds that it lacks by itself."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import h11
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from edgeseg._closing import Closing
from edgeseg.errors import OutputError

__all__ = ["ServerThread"]

_LOG = logging.getLogger(__name__)

_MOST_CONNECTIONS = 64
_MAX_HEAD_BYTES = 16 * 1024
_MAX_MESSAGE_BYTES = 1024
_HEAD_S = 10.0
_KEEP_ALIVE_S = 15
_STUCK_S = 15.0
_PING_S = 10.0
_START_S = 20.0
_STOP_S = 2


class _Draining(asyncio.Protocol):
    """Cuts a connection whose other end has taken nothing for a while.

    Closing it would wait for what is still to be sent, and so for ever.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _stuck: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(_STUCK_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_stuck()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_stuck()
        super().connection_lost(exc)

    def _cancel_stuck(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


class _Http(_Draining, H11Protocol):
    """Also gives a request's head ten seconds, and refuses connections beyond a number."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            _LOG.debug("a connection is cut: %d are open", _MOST_CONNECTIONS)
            transport.abort()
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A head that is under way; a body is timed by who reads it, idle lines by uvicorn.
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._await_head()
        else:
            self._cancel_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(_HEAD_S, self.transport.abort)

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class _WebSocket(_Draining, WebSocketsSansIOProtocol):
    """A WebSocket that is cut when nobody reads."""


class ServerThread(Closing):
    """Serves an ASGI application until it is closed."""

    def __init__(self, app: Any, sockets: Sequence[socket.socket]) -> None:
        """Start, and return when requests are answered.

        Args:
            app: the application.
            sockets: listening ones; they are closed with the server.

        Raises:
            OutputError: it did not start.
        """
        config = Config(
            app,
            loop="asyncio",
            http=_Http,
            ws=_WebSocket,
            ws_max_size=_MAX_MESSAGE_BYTES,
            ws_ping_interval=_PING_S,
            ws_ping_timeout=_PING_S,
            ws_per_message_deflate=False,
            lifespan="on",
            # Requests and their addresses, which may hold tokens, are logged nowhere.
            log_config=None,
            log_level=logging.CRITICAL,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_STOP_S,
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        )
        self.loop = asyncio.new_event_loop()
        self._sockets = list(sockets)
        self._server = Server(config)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="page-server", daemon=True)
        self._thread.start()
        deadline_s = time.monotonic() + _START_S
        while not self._server.started:
            self._thread.join(0.01)
            if not self._thread.is_alive() or time.monotonic() > deadline_s:
                self.close()
                raise OutputError(f"the live page did not start: {self._error or 'no answer'}")

    @property
    def is_alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(self._server.serve(self._sockets))
        except (Exception, SystemExit) as error:
            # uvicorn leaves by SystemExit when it cannot start.
            self._error = error
            _LOG.exception("the live page has stopped")
        finally:
            self._end()

    def _end(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        for one in self._sockets:
            one.close()

    def close(self) -> None:
        """Stop to serve, and end the thread; open sockets are told."""
        self._server.should_exit = True
        self._thread.join(_STOP_S + 8.0)
        if self._thread.is_alive():
            _LOG.warning("the live page's server does not end; it is left behind")
