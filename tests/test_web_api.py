"""The REST interface of the live page, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import time
from importlib import resources

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")
pytest.importorskip("uvicorn", reason="the extra web is not installed")

from web_session import CARD, CELL_PX, MAX_AGE_MS, Client, StandInBoard, shown

import edgeseg
from edgeseg.web import LivePage
from edgeseg.web.guard import SECURITY_HEADERS
from edgeseg.web.openapi import document, schemas
from edgeseg.web.schema import complaint

TOKEN = "0123456789abcdef-secret"
ROUTES = [
    ("GET", "/"),
    ("GET", "/page.css"),
    ("GET", "/page.js"),
    ("GET", "/icon.svg"),
    ("GET", "/api/status"),
    ("GET", "/api/model"),
    ("GET", "/api/controls"),
    ("PATCH", "/api/controls"),
    ("POST", "/api/recording"),
    ("GET", "/api/snapshot"),
    ("GET", "/openapi.json"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/nothing"),
]


@pytest.fixture(scope="module")
def served():
    with LivePage("0", StandInBoard(), token=None) as page:
        yield page


@pytest.fixture(scope="module")
def locked():
    with LivePage("0", StandInBoard(), token=TOKEN) as page:
        yield page


@pytest.fixture
def board(served):
    """The board of the page, as at its beginning."""
    board = served._viewers._session._board
    board.__init__()
    served._clear()
    return board


@pytest.fixture
def ask(served, board):
    return Client(served)


def fits(value, path, method="get", code="200"):
    """Whether a value is what the description promises, compared by its schema."""
    promised = document("1")["paths"][path][method]["responses"][code]["content"]
    wrong = complaint(value, promised["application/json"]["schema"], schemas, path)
    assert wrong == ""
    return True


def test_status(ask, board):
    code, _, status = ask("GET", "/api/status")
    assert code == 200
    assert fits(status, "/api/status")
    assert status["dropped"] == {"no room": 15, "too old": 5}
    assert status["region"] == {"x_px": 8, "y_px": 0, "width_px": 300, "height_px": 180}
    assert status["viewers"] == 0
    board.changes = {
        "region": None,
        "frame_size_px": None,
        "age_ms": None,
        "engine_ms": float("nan"),
    }
    code, _, status = ask("GET", "/api/status")
    assert (code, status["region"], status["engine_ms"]) == (200, None, None)


def test_model(ask):
    code, _, card = ask("GET", "/api/model")
    assert (code, card) == (200, CARD)
    assert fits(card, "/api/model")


def test_controls_are_read_and_changed(ask, board):
    assert ask("GET", "/api/controls")[2] == {"opacity": 0.4, "threshold": 0.5}
    code, _, now = ask("PATCH", "/api/controls", {"opacity": 0.25})
    assert (code, now) == (200, {"opacity": 0.25, "threshold": 0.5})
    code, _, now = ask("PATCH", "/api/controls", {"opacity": 1, "threshold": 0.75})
    assert (code, now) == (200, {"opacity": 1.0, "threshold": 0.75})
    assert (board.controls.opacity, board.controls.threshold) == (1.0, 0.75)
    assert fits(now, "/api/controls", "patch")


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ('{"opacity": 1.1}', 422, "opacity must be at most 1"),
        ('{"opacity": -0.1}', 422, "opacity must be at least 0"),
        ('{"opacity": "1"}', 422, "opacity must be number"),
        ('{"opacity": true}', 422, "opacity must be number"),
        ('{"opacity": null}', 422, "opacity must be number"),
        ('{"opacity": 1e999}', 422, "opacity must be number"),
        ('{"threshold": 0}', 422, "threshold must be more than 0"),
        ('{"threshold": 1}', 422, "threshold must be less than 1"),
        ('{"threshold": null}', 422, "threshold must be number"),
        ('{"opacity": 0.9, "threshold": 2}', 422, "threshold must be less than 1"),
        ("{}", 422, "the body must hold one of opacity, threshold"),
        ('{"colour": 1}', 422, "'colour', which is none of opacity, threshold"),
        ("[]", 422, "the body must be object"),
        ('{"opacity": NaN}', 400, "the body is no JSON"),
        ('{"opacity": 0.5', 400, "the body is no JSON"),
        ("", 400, "the body is no JSON"),
        (b"\xff\xfe\xff", 400, "the body is no JSON"),
        ("[" * 4000, 400, "the body is no JSON"),
        ('{"opacity": 1' + "0" * 4000 + "}", 422, "opacity must be at most 1"),
        ('{"\\ud800": 1}', 422, "which is none of opacity, threshold"),
        (" " * 5000, 413, "larger than 4096 bytes"),
    ],
)
def test_malformed_changes_change_nothing(ask, board, body, code, text):
    got, _, value = ask("PATCH", "/api/controls", body, Content_Type="application/json")
    assert got == code
    assert text in value["error"]
    assert fits(value, "/api/controls", "patch", str(code))
    assert (board.controls.opacity, board.controls.threshold) == (0.4, 0.5)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_taken(ask, board, kind):
    code, _, value = ask("PATCH", "/api/controls", '{"opacity": 1}', Content_Type=kind)
    assert (code, value["error"]) == (415, "the body must be application/json")
    assert board.controls.opacity == 0.4


def test_a_model_of_several_classes_takes_no_threshold():
    with LivePage("0", StandInBoard(threshold=None), token=None) as page:
        ask = Client(page)
        assert ask("GET", "/api/controls")[2] == {"opacity": 0.4, "threshold": None}
        code, _, value = ask("PATCH", "/api/controls", {"opacity": 0.9, "threshold": 0.4})
        assert code == 409
        assert "has no threshold" in value["error"]
        assert ask("GET", "/api/controls")[2]["opacity"] == 0.4


def test_recording(ask, board):
    start, stop = {"action": "start"}, {"action": "stop"}
    file = "/recordings/session-1.mp4"
    assert ask("POST", "/api/recording", start)[2] == {"recording": True, "file": file}
    assert ask("GET", "/api/status")[2]["recording"] == file
    code, _, value = ask("POST", "/api/recording", start)
    assert (code, value["error"]) == (409, f"it records to {file} already")
    done = ask("POST", "/api/recording", stop)[2]
    assert fits(done, "/api/recording", "post")
    assert done == {"recording": False, "file": file}
    assert ask("POST", "/api/recording", stop)[2] == {"recording": False, "file": None}
    board.refuse_recording = "cannot write:\n the disk is full"
    code, _, value = ask("POST", "/api/recording", start)
    assert (code, value["error"]) == (500, "cannot write: the disk is full")
    for wrong in ({}, {"action": "pause"}, {"action": "start", "file": "/etc/passwd"}):
        assert ask("POST", "/api/recording", wrong)[0] == 422


def decoded(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def test_snapshots_are_the_newest_picture_in_full_size(ask, served):
    picture = shown(3, size_px=(2000, 180))
    served.sink.write(picture)
    code, headers, png = ask("GET", "/api/snapshot")
    assert (code, headers["Content-Type"]) == (200, "image/png")
    assert headers["X-Edgeseg-Frame"] == headers["X-Edgeseg-Mask-Frame"] == "103"
    assert headers["X-Edgeseg-State"] == "current"
    assert (headers["X-Edgeseg-Age-Ms"], headers["X-Edgeseg-Frame-Age-Ms"]) == ("40.0", "40.0")
    assert np.array_equal(decoded(png), picture.picture)
    png = ask("GET", "/api/snapshot?view=original")[2]
    assert np.array_equal(decoded(png), picture.frame.image)
    png = ask("GET", "/api/snapshot?view=mask")[2]
    assert png[25] == 3, "a palette"
    assert tuple(decoded(png)[90, 3 * CELL_PX + 5]) == (233, 180, 86), "in the colour of its class"
    # Class indices are what is stored.
    grey = bytearray(png)
    grey[25] = 0
    start = grey.index(b"PLTE") - 4
    del grey[start : start + 12 + int.from_bytes(grey[start : start + 4], "big")]
    grey[29:33] = __import__("zlib").crc32(bytes(grey[12:29])).to_bytes(4, "big")
    values = cv2.imdecode(np.frombuffer(bytes(grey), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(values, picture.mask)


def test_without_a_mask_snapshots_show_the_sign(ask, served):
    picture = shown(3, reason="no signal")
    served.sink.write(picture)
    for view in ("overlay", "original"):
        code, headers, png = ask("GET", f"/api/snapshot?view={view}")
        assert (code, headers["X-Edgeseg-State"]) == (200, "none")
        assert headers["X-Edgeseg-Reason"] == "no signal"
        assert "X-Edgeseg-Age-Ms" not in headers
        assert np.array_equal(decoded(png), picture.picture)
    code, _, value = ask("GET", "/api/snapshot?view=mask")
    assert (code, value["error"]) == (503, "there is no mask now: no signal")


def test_an_old_picture_is_no_snapshot(ask, served, board):
    assert ask("GET", "/api/snapshot")[2]["error"] == "there is no picture yet"
    old = shown(1)
    object.__setattr__(old, "shown_s", time.monotonic() - 9.0)
    served.sink.write(old)
    code, _, value = ask("GET", "/api/snapshot")
    assert code == 503
    assert re.fullmatch(r"there is no current picture: the last one is 9\.\d s old", value["error"])
    assert ask("GET", "/healthz")[0] == 503


@pytest.mark.parametrize("query", ["view=both", "view=", "view=mask&view=mask"])
def test_unknown_views(ask, query):
    code, _, value = ask("GET", f"/api/snapshot?{query}")
    if query == "view=":
        assert code == 400
    assert (code, value["error"]) == (400, "the view must be one of overlay, original, mask")


def test_health(ask, served, board):
    code, _, health = ask("GET", "/healthz")
    assert (code, health["healthy"], health["reason"]) == (503, False, "no picture has come yet")
    served.sink.write(shown(1))
    code, _, health = ask("GET", "/healthz")
    assert (code, health) == (200, {"healthy": True, "state": "current", "reason": None})
    assert fits(health, "/healthz")
    board.changes = {"state": "none", "reason": "engine stalled", "detail": "for 2.0 s"}
    code, _, health = ask("GET", "/healthz")
    assert (code, health["reason"]) == (503, "engine stalled: for 2.0 s")
    assert fits(health, "/healthz", code="503")


def test_a_session_that_does_not_answer_is_said(ask, board):
    board.hang.set()
    try:
        code, _, health = ask("GET", "/healthz")
        assert (code, health["healthy"]) == (503, False)
        assert health["reason"] == "the session did not answer within 2 s"
        assert board.hung.is_set()
        # What needs no answer of the session is not held up by it.
        assert ask("GET", "/api/controls")[0] == 200
    finally:
        board.hang.clear()


SAMPLE = re.compile(
    r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (\+Inf|NaN|-?[0-9.e+-]+)'
)


def test_metrics(ask, served):
    for number, age_ms in enumerate((25.0, 45.0, 45.0, 5000.0)):
        served.sink.write(shown(number, age_ms=age_ms))
    code, headers, text = ask("GET", "/metrics")
    assert (code, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    kinds, values = {}, {}
    for line in text.decode().splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kinds[name] = line.split()
        elif not line.startswith("#"):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert (name, labels) not in values
            family = re.sub("_(bucket|sum|count)$", "", name) if name not in kinds else name
            assert family in kinds, line
            assert kinds[family] != "counter" or name.endswith("_total")
            values[name, labels] = float(value)
    assert kinds["edgeseg_mask_age_seconds"] == "histogram"
    assert values["edgeseg_frames_captured_total", None] == 1000
    assert values["edgeseg_frames_dropped_total", 'cause="too old"'] == 5
    assert values["edgeseg_sink_up", r'sink="rtsp://server/\"live\""'] == 0
    assert values["edgeseg_state", 'state="current"'] == 1
    assert values["edgeseg_state", 'state="none"'] == 0
    assert values["edgeseg_max_age_seconds", None] == MAX_AGE_MS / 1e3
    assert values["edgeseg_build_info", f'version="{edgeseg.__version__}"'] == 1
    buckets = [
        count for (name, _), count in values.items() if name == "edgeseg_mask_age_seconds_bucket"
    ]
    assert buckets == sorted(buckets)
    at_most = {bound: values["edgeseg_mask_age_seconds_bucket", f'le="{bound}"'] for bound in (
        "0.02", "0.03", "0.05", "+Inf")}  # fmt: skip
    base = at_most["0.02"]
    assert at_most["0.03"] - base >= 1
    assert at_most["0.05"] - at_most["0.03"] >= 2
    assert at_most["+Inf"] == values["edgeseg_mask_age_seconds_count", None] >= 4


def test_the_description_describes_what_is_there(ask, served):
    code, _, described = ask("GET", "/openapi.json")
    assert code == 200
    assert described["openapi"] == "3.1.0"
    assert described["info"]["version"] == edgeseg.__version__
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            got, _, _ = ask(method.upper(), path)
            assert str(got) in operation["responses"], (method, path, got)
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(described)))
    assert named <= set(described["components"]["schemas"])
    described_routes = {
        (method.upper(), path) for path, some in described["paths"].items() for method in some
    }
    assert described_routes == {
        one for one in ROUTES if one[1].startswith(("/api", "/openapi", "/metrics", "/healthz"))
    }


def test_words_of_a_schema_that_are_not_checked_are_an_error():
    with pytest.raises(ValueError, match="pattern"):
        complaint("x", {"type": "string", "pattern": "y"}, {})
    assert complaint([1, "x"], {"items": {"type": "integer"}}, {}, "list") == (
        "list[1] must be integer"
    )


def test_unknown_addresses_and_methods(ask):
    code, _, value = ask("GET", "/nothing")
    assert (code, list(value)) == (404, ["error"])
    assert ask("GET", "/page/../../openapi.py")[0] == 404
    assert ask("GET", "/..%2f..%2fetc/passwd")[0] == 404
    code, headers, value = ask("DELETE", "/api/controls")
    assert (code, list(value)) == (405, ["error"])
    assert "PATCH" in headers["Allow"]
    assert ask("HEAD", "/api/status")[0] == 200


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_answer_forbids_what_a_browser_need_not_do(ask, method, path):
    _, headers, _ = ask(method, path)
    for name, value in SECURITY_HEADERS.items():
        assert headers.get_all(name) == [value]
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


def test_the_page_asks_for_nothing_from_elsewhere(ask):
    page = ask("GET", "/")[2].decode()
    assert "Not a medical device" in page
    assert "<style" not in page
    assert not re.search(r"\son\w+=|style=", page), "nothing inline"
    for path in ("/", "/page.css", "/page.js", "/icon.svg"):
        text = ask("GET", path)[2].decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.", text), path
        assert "innerHTML" not in text


def test_the_files_of_the_page_are_in_the_package():
    folder = resources.files("edgeseg.web").joinpath("page")
    assert {file.name for file in folder.iterdir()} == {
        "index.html",
        "page.css",
        "page.js",
        "icon.svg",
    }


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "192.0.2.7",
        "",
        "a b",
        "@",
        "[::2]",
    ],
)
def test_other_names_are_refused(served, host):
    code, _, value = Client(served)("GET", "/api/status", Host=host)
    assert code in (400, 421)
    if code == 421:
        assert "not served under the name" in value["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1", "[::1]:1"])
def test_its_own_names_are_not(served, host):
    # The port is another one behind a tunnel.
    assert Client(served)("GET", "/api/controls", Host=host)[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://[", "file://127.0.0.1"]
)
@pytest.mark.parametrize(
    ("method", "path"), [("PATCH", "/api/controls"), ("POST", "/api/recording")]
)
def test_other_sites_change_nothing(ask, board, method, path, origin):
    body = {"opacity": 1.0} if method == "PATCH" else {"action": "start"}
    code, _, value = ask(method, path, body, Origin=origin)
    assert (code, value["error"]) == (403, "another site's page may not do this")
    assert (board.controls.opacity, board.recording) == (0.4, None)


def test_the_page_itself_may_change_things(ask, served, board):
    for host in ("127.0.0.1", "localhost"):
        origin = f"http://{host}:{served.port}"
        code, _, _ = ask(
            "PATCH",
            "/api/controls",
            {"opacity": 0.9},
            Origin=origin,
            Host=f"{host}:{served.port}",
        )
        assert code == 200


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_the_token_opens_everything_and_nothing_else_does(locked, method, path):
    ask = Client(locked)
    body = {"action": "stop"} if path == "/api/recording" else None
    body = {"opacity": 0.5} if method == "PATCH" else body
    wrong = [
        {},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Cookie": f"edgeseg_{locked.port}={TOKEN}"},
        {"Cookie": f"edgeseg_{locked.port}="},
    ]
    for headers in wrong:
        code, got, _ = ask(method, path, body, **headers)
        assert (code, got["WWW-Authenticate"]) == (401, 'Bearer realm="edgeseg"'), headers
    if path != "/":
        assert ask(method, f"{path}?token={TOKEN}", body)[0] == 401
    assert ask(method, path, body, Authorization=f"Bearer {TOKEN}")[0] in (200, 404, 503)


def test_the_token_in_the_address_becomes_a_cookie(locked, caplog):
    caplog.set_level(logging.DEBUG)
    ask = Client(locked)
    code, headers, page = ask("GET", f"/?token={TOKEN}")
    assert code == 200
    assert TOKEN not in page.decode() + str(headers)
    cookie = headers["Set-Cookie"]
    assert cookie.endswith("; HttpOnly; SameSite=Strict; Path=/")
    name_and_value = cookie.partition(";")[0]
    assert name_and_value.startswith(f"edgeseg_{locked.port}=")
    code, _, page = ask("GET", "/", Cookie=f"other=1; {name_and_value}")
    assert code == 200
    assert b"page.js" in page
    assert ask("PATCH", "/api/controls", {"opacity": 0.1}, Cookie=name_and_value)[0] == 200
    for query in (
        f"token={TOKEN}x",
        "token=",
        f"token={TOKEN}&token={TOKEN}",
        "token=" + "x" * 2000,
    ):
        code, headers, page = ask("GET", f"/?{query}")
        assert code in (401, 414)
        assert "Set-Cookie" not in headers
        assert b"page.js" not in page
    assert b'name="token"' in ask("GET", "/")[2], "a person is asked for it"
    assert TOKEN not in caplog.text


def test_clients_that_ask_too_often_are_told_to_wait(monkeypatch):
    from edgeseg.web import live_page

    monkeypatch.setattr(live_page, "_REQUESTS_PER_S", 0.01)
    monkeypatch.setattr(live_page, "_REQUESTS_AT_ONCE", 3.0)
    with LivePage("0", StandInBoard(), token=TOKEN) as page:
        hasty, other = Client(page), Client(page)
        # Guesses of the token are counted as well.
        assert [hasty("GET", "/")[0] for _ in range(3)] == [401, 401, 401]
        code, headers, value = hasty("GET", "/api/status", Authorization=f"Bearer {TOKEN}")
        assert (code, headers["Retry-After"]) == (429, "1")
        assert value["error"] == "too many requests: ask less often"
        assert other("GET", "/api/status", Authorization=f"Bearer {TOKEN}")[0] == 200


def sent(served, data):
    """Everything that is answered to raw bytes until the other end closes."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
        return answer


def test_a_head_that_is_too_large_or_no_http_is_refused(served):
    assert sent(served, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 70000)[:12] in (
        b"HTTP/1.1 400",
        b"HTTP/1.1 431",
        b"",
    )
    assert sent(served, b"\x16\x03\x01 no http\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_slow_heads_and_bodies_are_given_up(monkeypatch):
    from edgeseg.web import routes, server

    monkeypatch.setattr(server, "_HEAD_S", 0.3)
    monkeypatch.setattr(routes, "_BODY_S", 0.3)
    with LivePage("0", StandInBoard(), token=None) as page:
        assert sent(page, b"") == b""
        assert sent(page, b"GET / HTTP/1.1\r\nHost: 127") == b""
        answer = sent(
            page,
            b"PATCH /api/controls HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{",
        )
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not come within" in answer


def test_connections_beyond_a_number_are_cut(monkeypatch):
    from edgeseg.web import server

    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 3)
    with LivePage("0", StandInBoard(), token=None) as page, contextlib.ExitStack() as open_ones:
        for _ in range(3):
            kept = socket.create_connection(("127.0.0.1", page.port), timeout=30)
            open_ones.enter_context(kept)
        assert sent(page, b"") == b""


def test_errors_of_the_session_are_one_line_and_logged(ask, board, monkeypatch, caplog):
    def fail():
        raise ZeroDivisionError("in the session")

    monkeypatch.setattr(board, "card", fail)
    code, _, value = ask("GET", "/api/model")
    assert code == 500
    assert value["error"].startswith("it failed (ZeroDivisionError)")
    assert "in the session" in caplog.text
