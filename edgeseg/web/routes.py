"""The page's own files and the REST interface; ``openapi.py`` describes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from edgeseg.errors import EdgesegError, UsageError
from edgeseg.live.base import Shown
from edgeseg.web import metrics
from edgeseg.web._threads import in_thread
from edgeseg.web.openapi import document, schemas
from edgeseg.web.pictures import VIEWS, PictureEncoder, View, Views
from edgeseg.web.plain import dumps
from edgeseg.web.schema import complaint
from edgeseg.web.session import NoAnswerError, Session, not_healthy, patience_s
from edgeseg.web.viewers import Viewers, status_json

__all__ = ["Parts", "application", "page_file"]

_LOG = logging.getLogger(__name__)

MAX_BODY_BYTES = 4096
_BODY_S = 5.0
_PNG_S = 10.0
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def page_file(name: str) -> bytes:
    """One of the page's files, as it is installed."""
    return resources.files("edgeseg.web").joinpath("page").joinpath(name).read_bytes()


@dataclass(frozen=True)
class Parts:
    """What the routes work on."""

    session: Session
    viewers: Viewers
    encoder: PictureEncoder
    views: Views
    ages: metrics.AgeHistogram
    version: str


def application(parts: Parts) -> Starlette:
    """All routes."""
    api = _Api(parts)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        ticking = asyncio.ensure_future(parts.viewers.tick())
        yield
        ticking.cancel()

    return Starlette(
        routes=[
            *(Route(path, _file(*file), methods=["GET"]) for path, file in _FILES.items()),
            Route("/api/status", api.status, methods=["GET"]),
            Route("/api/model", api.model, methods=["GET"]),
            Route("/api/controls", api.controls, methods=["GET", "PATCH"]),
            Route("/api/recording", api.recording, methods=["POST"]),
            Route("/api/snapshot", api.snapshot, methods=["GET"]),
            Route("/openapi.json", api.openapi, methods=["GET"]),
            Route("/metrics", api.metrics, methods=["GET"]),
            Route("/healthz", api.health, methods=["GET"]),
            WebSocketRoute("/ws", parts.viewers.serve),
        ],
        exception_handlers={
            HTTPException: _http_error,
            NoAnswerError: _no_answer,
            EdgesegError: _edgeseg_error,
            Exception: _failure,
        },
        lifespan=lifespan,
    )


def _json(value: Any, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(dumps(value), code, headers, media_type="application/json")


def _error(code: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": " ".join(text.split())}, code, headers)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {
        404: "there is nothing at this address: /openapi.json lists what there is",
        405: "this address does not take that method: /openapi.json lists what it takes",
    }
    text = texts.get(error.status_code, error.detail)
    return _error(error.status_code, text, dict(error.headers or {}))


def _no_answer(request: Request, error: Exception) -> Response:
    return _error(504, str(error))


def _edgeseg_error(request: Request, error: Exception) -> Response:
    # What may not be done now is the asker's to mend; everything else is not.
    return _error(409 if isinstance(error, UsageError) else 500, str(error))


def _failure(request: Request, error: Exception) -> Response:
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error(500, f"it failed ({type(error).__name__}): the log of the session says more")


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = page_file(name)

    async def serve(request: Request) -> Response:
        return Response(content, headers={"content-type": kind})

    return serve


class _Api:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._session = parts.session
        self._encoding = asyncio.Lock()

    async def status(self, request: Request) -> Response:
        status = await self._session.status()
        return _json(status_json(status, len(self._parts.viewers)))

    async def model(self, request: Request) -> Response:
        return _json(await self._session.card())

    async def controls(self, request: Request) -> Response:
        controls = self._session.controls
        if request.method == "PATCH":
            change = await _body(request, "ControlsChange")
            # A threshold that the model has not is refused before anything is changed.
            if "threshold" in change:
                controls.set_threshold(change["threshold"])
            if "opacity" in change:
                controls.set_opacity(change["opacity"])
        return _json({"opacity": controls.opacity, "threshold": controls.threshold})

    async def recording(self, request: Request) -> Response:
        action = (await _body(request, "RecordingAction"))["action"]
        file = await self._session.record(action)
        return _json({"recording": action == "start", "file": file})

    async def snapshot(self, request: Request) -> Response:
        given = request.query_params.getlist("view") or ["overlay"]
        if len(given) != 1 or given[0] not in VIEWS:
            return _error(400, f"the view must be one of {', '.join(VIEWS)}")
        view = given[0]
        status = await self._session.status()
        shown = self._parts.encoder.newest
        if shown is None:
            return _error(503, "there is no picture yet")
        since_s = time.monotonic() - shown.shown_s
        if since_s > patience_s(status.max_age_ms):
            return _error(503, f"there is no current picture: the last one is {since_s:.1f} s old")
        if view == "mask" and shown.mask is None:
            return _error(503, f"there is no mask now: {shown.reason}")
        # One at a time: a large PNG takes a processor for some tenths of a second.
        async with self._encoding:
            png = await _png(self._parts.views, shown, view)
        return Response(png, headers=_snapshot_headers(shown, view), media_type="image/png")

    async def openapi(self, request: Request) -> Response:
        return _json(document(self._parts.version))

    async def metrics(self, request: Request) -> Response:
        text = metrics.render(
            await self._session.status(),
            self._parts.ages,
            version=self._parts.version,
            viewers=len(self._parts.viewers),
            encodes={str(view): count for view, count in self._parts.encoder.encodes.items()},
        )
        return Response(text, headers={"content-type": metrics.CONTENT_TYPE})

    async def health(self, request: Request) -> Response:
        try:
            status = await self._session.status()
        except NoAnswerError as error:
            return _json({"healthy": False, "state": "none", "reason": str(error)}, 503)
        reason = not_healthy(status, self._parts.encoder.newest, time.monotonic())
        health = {"healthy": reason is None, "state": status.state, "reason": reason}
        return _json(health, 200 if reason is None else 503)


async def _png(views: Views, shown: Shown, view: View) -> bytes:
    try:
        return await asyncio.wait_for(in_thread(lambda: views.png(shown, view)), _PNG_S)
    except asyncio.TimeoutError:
        raise NoAnswerError(f"the picture was not encoded within {_PNG_S:.0f} s") from None


def _snapshot_headers(shown: Shown, view: View) -> dict[str, str]:
    headers = {
        "content-disposition": f'attachment; filename="edgeseg-{shown.frame.index}-{view}.png"',
        "x-edgeseg-frame": str(shown.frame.index),
        "x-edgeseg-state": shown.state,
        "x-edgeseg-frame-age-ms": f"{shown.frame_age_ms:.1f}",
    }
    if shown.age_ms is not None:
        headers["x-edgeseg-mask-frame"] = str(shown.mask_index)
        headers["x-edgeseg-age-ms"] = f"{shown.age_ms:.1f}"
    if shown.reason is not None:
        headers["x-edgeseg-reason"] = shown.reason
    return headers


async def _body(request: Request, schema: str) -> dict[str, Any]:
    """The body, checked by a schema of the description."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A form of another site can send anything but this without being asked first.
        raise HTTPException(415, "the body must be application/json")
    try:
        content = await asyncio.wait_for(_read(request), _BODY_S)
    except asyncio.TimeoutError:
        raise HTTPException(
            408, f"the body did not come within {_BODY_S:.0f} s", {"connection": "close"}
        ) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body broke off") from None
    try:
        value = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON") from None
    wrong = complaint(value, schemas[schema], schemas, "the body")
    if wrong:
        raise HTTPException(422, wrong)
    checked: dict[str, Any] = value
    return checked


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


async def _read(request: Request) -> bytes:
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > MAX_BODY_BYTES:
            raise HTTPException(
                413,
                f"the body is larger than {MAX_BODY_BYTES} bytes",
                {"connection": "close"},
            )
    return content
