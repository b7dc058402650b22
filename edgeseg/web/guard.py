"""What every request has to pass before anything looks at it: name, rate, token, origin."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edgeseg.web.address import Names, host_of
from edgeseg.web.rates import Rates
from edgeseg.web.token import Key

__all__ = ["SECURITY_HEADERS", "Guard", "Message", "Receive", "Scope", "Send"]

_LOG = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
"""With every answer; patients' pictures are kept by no browser and no proxy."""

_READING = ("GET", "HEAD")
_MAX_QUERY_BYTES = 1024

# Where the token goes in, and, once it is a cookie, the way on: a page that sends itself on is the
# origin of what follows, so that a strict cookie goes along wherever the link was.
_SIGN_IN = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="dark">
<title>edgeseg</title><h1>edgeseg</h1>
<p>This page needs its token, the one that it was started with.</p>
<form action="/" method="get"><label>Token
<input name="token" type="password" autocomplete="off" required autofocus></label>
<button>Open</button></form></html>
"""
_GO_ON = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="color-scheme" content="dark"><meta http-equiv="refresh" content="0; url=/">
<title>edgeseg</title><p><a href="/">Go on</a></p></html>
"""


@dataclass(frozen=True)
class _Answer:
    status: int
    error: str = ""
    html: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: App, *, names: Names, key: Key | None, port: int, rates: Rates) -> None:
        """Guard ``app``.

        Args:
            app: what answers in the end.
            names: by which the page may be asked for.
            key: None where no token is needed.
            port: of the page; cookies are shared by all ports of a host, so that it is in the name.
            rates: of each client's requests.
        """
        self._app = app
        self._names = names
        self._key = key
        self._cookie = f"edgeseg_{port}"
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what may not pass; hand on the rest, and add headers to its answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        answer = self._judge(scope)
        if answer is None:
            await self._app(scope, receive, _with_headers(send))
            return
        if answer.error:
            # The path without its query, which may hold a token.
            _LOG.debug("%r refused: %s", scope["path"][:100], answer.error)
        await _send(answer, websocket=scope["type"] == "websocket", send=_with_headers(send))

    def _judge(self, scope: Scope) -> _Answer | None:
        headers = _Headers(scope)
        host = host_of(headers.one("host"))
        if host is None or host not in self._names:
            return _Answer(
                421,
                "this page is not served under the name that was asked for: use its own address",
            )
        client = scope.get("client")
        if not self._rates.take(client[0] if client else ""):
            return _Answer(429, "too many requests: ask less often", headers={"retry-after": "1"})
        if len(scope.get("query_string", b"")) > _MAX_QUERY_BYTES:
            return _Answer(414, f"the query is longer than {_MAX_QUERY_BYTES} bytes")
        return self._judge_token(scope, headers) or _judge_origin(scope, headers)

    def _judge_token(self, scope: Scope, headers: _Headers) -> _Answer | None:
        if self._key is None:
            return None
        first_page = (
            scope["type"] == "http" and scope["method"] in _READING and scope["path"] == "/"
        )
        if first_page:
            token = _query_token(scope)
            if token is not None and self._key.is_token(token):
                return _Answer(
                    200,
                    html=_GO_ON,
                    headers={
                        "set-cookie": f"{self._cookie}={self._key.cookie_value}; "
                        "HttpOnly; SameSite=Strict; Path=/"
                    },
                )
        scheme, _, bearer = headers.one("authorization").partition(" ")
        if scheme.lower() == "bearer" and self._key.is_token(bearer.strip()):
            return None
        if self._key.is_cookie(_cookie(headers.one("cookie"), self._cookie)):
            return None
        return _Answer(
            401,
            "a token is needed: send  Authorization: Bearer TOKEN , or open /?token=TOKEN in a "
            "browser",
            html=_SIGN_IN if first_page else "",
            headers={"www-authenticate": 'Bearer realm="edgeseg"'},
        )


def _judge_origin(scope: Scope, headers: _Headers) -> _Answer | None:
    """Other sites may neither change anything nor open a socket. Programs send no origin."""
    if scope["type"] == "http" and scope["method"] in _READING:
        return None
    origin = headers.one("origin")
    if not origin and "origin" not in headers:
        return None
    try:
        parts = urlsplit(origin)
    except ValueError:
        parts = urlsplit("")
    same = parts.scheme in ("http", "https") and parts.netloc.lower() == headers.one("host").lower()
    return None if same else _Answer(403, "another site's page may not do this")


class _Headers:
    """Headers of a request; one that stands twice has no value that could be believed."""

    def __init__(self, scope: Scope) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self._values.setdefault(name.decode("latin-1").lower(), []).append(
                value.decode("latin-1")
            )

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def one(self, name: str) -> str:
        values = self._values.get(name, [])
        return values[0] if len(values) == 1 else ""


def _query_token(scope: Scope) -> str | None:
    try:
        query = parse_qs(scope["query_string"].decode("ascii"), max_num_fields=8)
    except ValueError:
        return None
    values = query.get("token", [])
    return values[0] if len(values) == 1 else None


def _cookie(header: str, name: str) -> str:
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _with_headers(send: Send) -> Send:
    extra = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

    async def sending(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return sending


async def _send(answer: _Answer, *, websocket: bool, send: Send) -> None:
    if answer.html:
        kind, body = "text/html; charset=utf-8", answer.html.encode()
    else:
        kind, body = "application/json", json.dumps({"error": answer.error}).encode()
    headers = {"content-type": kind, **answer.headers}
    # Before a handshake is answered a socket may still be refused as a request is; the length is
    # then uvicorn's to say, and some versions would say it twice.
    prefix = "websocket." if websocket else ""
    if not websocket:
        headers["content-length"] = str(len(body))
    await send(
        {
            "type": f"{prefix}http.response.start",
            "status": answer.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": f"{prefix}http.response.body", "body": body, "more_body": False})
