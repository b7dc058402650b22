"""The live page of a session, and the sink that it takes pictures by."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeseg._closing import Closing
from edgeseg._optional import require
from edgeseg.errors import OutputError, UsageError
from edgeseg.live.base import LiveSink, Shown
from edgeseg.live.status import Board
from edgeseg.overlay import Colour
from edgeseg.web.address import Names, listen, parse_address
from edgeseg.web.guard import Guard
from edgeseg.web.metrics import AgeHistogram
from edgeseg.web.pictures import Encoded, PictureEncoder, Views
from edgeseg.web.rates import Rates
from edgeseg.web.session import Session
from edgeseg.web.token import MIN_TOKEN_CHARACTERS, TOKEN_VARIABLE, Key

if TYPE_CHECKING:
    from edgeseg.web.server import ServerThread

__all__ = ["LivePage", "PageSink"]

_LOG = logging.getLogger(__name__)

_MOST_VIEWERS = 8
_REQUESTS_PER_S = 20.0
_REQUESTS_AT_ONCE = 60.0
_LIBRARIES = ("starlette", "uvicorn", "h11", "websockets")


class PageSink(LiveSink):
    """Gives pictures to the page; never waits for a viewer."""

    policy = "drop-oldest"

    def __init__(self, name: str, offer: Callable[[Shown], None], clear: Callable[[], None]):
        """Made by ``LivePage``."""
        self.name = name
        self._offer = offer
        self._clear = clear

    def write(self, shown: Shown) -> None:
        """Make this the picture that viewers see next.

        Raises:
            OutputError: the page does not serve any more.
        """
        self._offer(shown)

    def close(self) -> None:
        """There is no newest picture any more; the page goes on to serve."""
        self._clear()


class LivePage(Closing):
    """Serves the live page, from the moment on that it is made.

    ``sink`` is what a session writes its pictures to. The page is closed by whoever made it, after
    the session, so that viewers learn of the session's end.
    """

    url: str
    """What to open in a browser of this machine; without the token."""
    port: int
    sink: PageSink

    def __init__(
        self,
        address: str,
        board: Board,
        *,
        token: str | None,
        quality: int = 80,
        max_width_px: int = 1280,
        colours: Sequence[Colour] = (),
        names: Sequence[str] = (),
    ) -> None:
        """Start to serve.

        Args:
            address: ``PORT``, ``HOST:PORT`` or ``[IPV6]:PORT``; the host is 127.0.0.1 by default,
                port 0 any that is free.
            board: the session.
            token: what a client must know; needed where other machines can reach the page.
            quality: of the JPEGs, 1 to 100.
            max_width_px: wider pictures are made smaller for viewers; snapshots are not.
            colours: of classes 1, 2 and so on in the view of the mask; default ones otherwise.
            names: further names that lead here, such as the one of a proxy.

        Raises:
            UsageError: a malformed address, a missing or unfit token, a setting out of range.
            OutputError: the port is in use, or needs rights that are not there.
            MissingDependencyError: the extra ``web`` is not installed.
        """
        if not 1 <= quality <= 100:
            raise UsageError(f"the quality of the page's pictures is 1 to 100, got {quality}")
        if max_width_px < 16:
            raise UsageError(f"the page's pictures are at least 16 px wide, got {max_width_px}")
        where = parse_address(address)
        key = None if token is None else Key(token)
        if key is None and not where.is_loopback:
            raise UsageError(
                f"other machines can reach a page on {address}, so it needs a token of at least "
                f"{MIN_TOKEN_CHARACTERS} characters: set {TOKEN_VARIABLE} or pass --token-file "
                "FILE (openssl rand -hex 16 makes one), or serve on 127.0.0.1"
            )
        for library in _LIBRARIES:
            require(library, "web")
        from edgeseg import __version__
        from edgeseg.web.routes import Parts, application
        from edgeseg.web.server import ServerThread
        from edgeseg.web.viewers import Viewers

        sockets = listen(where)
        self.port = sockets[0].getsockname()[1]
        self.url = where.url(self.port)
        self.sink = PageSink(f"page {self.url}", self._offer, self._clear)
        self._ages = AgeHistogram()
        self._closing = threading.Lock()
        self._server: ServerThread | None = None
        session = Session(board)
        self._viewers = Viewers(session, most=_MOST_VIEWERS)
        views = Views(colours)
        self._encoder = PictureEncoder(
            views, self._publish, quality=quality, max_width_px=max_width_px
        )
        self._viewers.attach(self._encoder)
        try:
            app = application(
                Parts(session, self._viewers, self._encoder, views, self._ages, __version__)
            )
            guard = Guard(
                app,
                names=Names(where, names),
                key=key,
                port=self.port,
                rates=Rates(_REQUESTS_PER_S, _REQUESTS_AT_ONCE),
            )
            self._server = ServerThread(guard, sockets)
        except BaseException:
            self._encoder.close()
            for one in sockets:
                one.close()
            raise
        _LOG.info(
            "the live page is at %s, %s", self.url, "with its token" if key else "without a token"
        )

    @property
    def encodes(self) -> dict[str, int]:
        """How many pictures were encoded, by view."""
        return {str(view): count for view, count in self._encoder.encodes.items()}

    @property
    def viewers(self) -> int:
        """How many look."""
        return len(self._viewers)

    def _offer(self, shown: Shown) -> None:
        if self._server is None or not self._server.is_alive:
            raise OutputError(f"the live page at {self.url} does not serve any more")
        if shown.age_ms is not None:
            self._ages.count(shown.age_ms / 1e3)
        self._encoder.offer(shown)

    def _clear(self) -> None:
        self._encoder.clear()

    def _publish(self, encoded: Encoded) -> None:
        server = self._server
        if server is None:
            return
        try:
            server.loop.call_soon_threadsafe(self._viewers.publish, encoded)
        except RuntimeError:
            _LOG.debug("picture %d came after the page's end", encoded.shown.number)

    def close(self) -> None:
        """Stop to serve; viewers cover their picture at once."""
        with self._closing:
            if self._server is None:
                return
            self._server.close()
            self._server = None
            self._encoder.close()
