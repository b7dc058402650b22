"""The description of the REST interface, by which requests are checked as well."""

from __future__ import annotations

from typing import Any, get_args

from edgeseg.live.base import Reason, State
from edgeseg.web.pictures import VIEWS

__all__ = ["document", "schemas"]

_STATES = list(get_args(State))
_REASONS = list(get_args(Reason))


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    """An object that has all of these and nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_NUMBER: dict[str, Any] = {"type": "number"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_TEXT: dict[str, Any] = {"type": "string"}
_COUNTS: dict[str, Any] = {"type": "object", "additionalProperties": _COUNT}
_STATE: dict[str, Any] = {
    "enum": _STATES,
    "description": "The mask that is shown: computed on this very frame, moved to it, or absent.",
}
_REASON: dict[str, Any] = {
    "enum": [*_REASONS, None],
    "description": "Why there is no current result.",
}
_OPACITY: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
_THRESHOLD: dict[str, Any] = {
    "type": ["number", "null"],
    "exclusiveMinimum": 0,
    "exclusiveMaximum": 1,
    "description": "Probability from which on a pixel is foreground; null for several classes.",
}

schemas: dict[str, dict[str, Any]] = {
    "Error": _closed({"error": {"type": "string", "description": "One line."}}),
    "Ages": _closed(
        {
            "count": _COUNT,
            "p50_ms": _NUMBER,
            "p90_ms": _NUMBER,
            "p99_ms": _NUMBER,
            "max_ms": _NUMBER,
        }
    ),
    "Sink": _closed({"name": _TEXT, "written": _COUNT, "dropped": _COUNT, "error": _TEXT}),
    "Region": {
        **_closed({"x_px": _COUNT, "y_px": _COUNT, "width_px": _COUNT, "height_px": _COUNT}),
        "type": ["object", "null"],
    },
    "Status": _closed(
        {
            "state": _STATE,
            "reason": _REASON,
            "detail": _TEXT,
            "source": _TEXT,
            "connected": {"type": "boolean"},
            "uptime_s": _NUMBER,
            "frame_size_px": {
                "type": ["array", "null"],
                "items": _COUNT,
                "minItems": 2,
                "maxItems": 2,
                "description": "Width and height.",
            },
            "captured_fps": _NUMBER,
            "mask_fps": _NUMBER,
            "shown_fps": _NUMBER,
            "captured": _COUNT,
            "shown": _COUNT,
            "predicted": _COUNT,
            "unmasked": _COUNT,
            "dropped": {**_COUNTS, "description": "Frames that were never displayed, by cause."},
            "in_flight": _COUNT,
            "faults": {**_COUNTS, "description": "Errors that were survived, by place."},
            "reconnections": _COUNT,
            "age_ms": {
                "type": ["number", "null"],
                "description": "Age of the last mask's frame when it was shown.",
            },
            "ages": _ref("Ages"),
            "engine_ms": _NUMBER,
            "engine_busy": _NUMBER,
            "sinks": {"type": "array", "items": _ref("Sink")},
            "views": _TEXT,
            "region": _ref("Region"),
            "opacity": _OPACITY,
            "threshold": _THRESHOLD,
            "recording": {"type": ["string", "null"], "description": "File that is written."},
            "max_age_ms": _NUMBER,
            "viewers": {**_COUNT, "description": "Open sockets of pages."},
        }
    ),
    "Model": {
        "type": "object",
        "description": "What the bundle says of its model, with the accuracy at its build.",
    },
    "Controls": _closed({"opacity": _OPACITY, "threshold": _THRESHOLD}),
    "ControlsChange": {
        "type": "object",
        "properties": {
            "opacity": _OPACITY,
            "threshold": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        },
        "additionalProperties": False,
        "minProperties": 1,
    },
    "RecordingAction": _closed({"action": {"enum": ["start", "stop"]}}),
    "Recording": _closed(
        {
            "recording": {"type": "boolean"},
            "file": {
                "type": ["string", "null"],
                "description": "The file that is written, or that is complete now; null if none.",
            },
        }
    ),
    "Health": _closed(
        {
            "healthy": {"type": "boolean"},
            "state": _STATE,
            "reason": {"type": ["string", "null"], "description": "Why it is not healthy."},
        }
    ),
}

_ERRORS = {
    400: "The request is malformed.",
    401: "The token is missing or wrong.",
    403: "A page of another site asked.",
    408: "The body did not come in time.",
    409: "Not in the present state.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    421: "The page is not served under that name.",
    422: "The values do not fit.",
    429: "Too many requests.",
    500: "It failed; the line says why.",
    503: "There is nothing current to give.",
    504: "The session did not answer in time.",
}
_ALWAYS = (401, 421, 429)


def _answers(good: str, content: dict[str, Any], *codes: int) -> dict[str, Any]:
    error = {"application/json": {"schema": _ref("Error")}}
    answers: dict[str, Any] = {"200": {"description": good, "content": content}}
    for code in sorted({*codes, *_ALWAYS}):
        answers[str(code)] = {"description": _ERRORS[code], "content": error}
    return answers


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(name)}}


def _body(name: str) -> dict[str, Any]:
    return {"required": True, "content": _json(name)}


def _header(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "schema": schema}


def _snapshot() -> dict[str, Any]:
    answers = _answers("The newest picture in full size.", {"image/png": {}}, 400, 503, 504)
    answers["200"]["headers"] = {
        "X-Edgeseg-Frame": _header("Index of the frame.", {"type": "integer"}),
        "X-Edgeseg-Mask-Frame": _header("Index of the frame of the mask.", {"type": "integer"}),
        "X-Edgeseg-State": _header("State of the mask.", _STATE),
        "X-Edgeseg-Reason": _header("Why there is no mask.", {"enum": _REASONS}),
        "X-Edgeseg-Age-Ms": _header("Age of the mask's frame when it was shown.", _NUMBER),
        "X-Edgeseg-Frame-Age-Ms": _header("Age of the frame when it was shown.", _NUMBER),
    }
    return {
        "summary": "The newest picture",
        "description": "Without a mask overlay and original are the picture with its sign, and "
        "mask is refused. Masks are palette PNGs whose values are class indices.",
        "parameters": [
            {
                "name": "view",
                "in": "query",
                "schema": {"enum": list(VIEWS)},
                "description": "overlay if it is left out.",
            }
        ],
        "responses": answers,
    }


def _paths() -> dict[str, Any]:
    health = _answers("A current result is shown.", _json("Health"))
    health["503"] = {
        "description": "No current result is shown; the body says why.",
        "content": _json("Health"),
    }
    return {
        "/api/status": {
            "get": {
                "summary": "What can be said about the session now",
                "responses": _answers("The status.", _json("Status"), 504),
            }
        },
        "/api/model": {
            "get": {
                "summary": "The card of the model",
                "responses": _answers("The card.", _json("Model"), 504),
            }
        },
        "/api/controls": {
            "get": {
                "summary": "Opacity and threshold",
                "responses": _answers("Both.", _json("Controls")),
            },
            "patch": {
                "summary": "Change opacity, threshold or both, for all who look",
                "requestBody": _body("ControlsChange"),
                "responses": _answers(
                    "Both, as they are now.",
                    _json("Controls"),
                    *(400, 403, 408, 409, 413, 415, 422),
                ),
            },
        },
        "/api/recording": {
            "post": {
                "summary": "Start or stop to record the shown pictures",
                "requestBody": _body("RecordingAction"),
                "responses": _answers(
                    "What is recorded now.",
                    _json("Recording"),
                    *(400, 403, 408, 409, 413, 415, 422, 500, 504),
                ),
            }
        },
        "/api/snapshot": {"get": _snapshot()},
        "/openapi.json": {
            "get": {
                "summary": "This description",
                "responses": _answers(
                    "The description.", {"application/json": {"schema": {"type": "object"}}}
                ),
            }
        },
        "/metrics": {
            "get": {
                "summary": "Figures for Prometheus",
                "responses": _answers("Text, version 0.0.4.", {"text/plain": {}}, 504),
            }
        },
        "/healthz": {
            "get": {"summary": "Whether a current result is shown", "responses": health},
        },
    }


def document(version: str) -> dict[str, Any]:
    """The description as OpenAPI 3.1.

    Args:
        version: of edgeseg.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgeseg live",
            "version": version,
            "description": "A running session. Not a medical device. Pictures come over the "
            "WebSocket at /ws: JSON text {type: view|ack|ping} in, JSON text {type: "
            "hello|status|pong|error} and binary pictures out. A binary message is 4 bytes (big "
            "endian: length of the header), a JSON header, and a JPEG; the next one comes after "
            "{type: ack, number: N}.",
        },
        "security": [{"bearer": []}, {"cookie": []}, {}],
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "edgeseg_PORT",
                    "description": "Set by /?token=TOKEN. No token is needed on a loopback "
                    "address that was started without one.",
                },
            },
        },
    }
