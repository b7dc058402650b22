"""The live page's WebSocket: pictures, acknowledgements, many viewers and slow ones."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")
pytest.importorskip("uvicorn", reason="the extra web is not installed")
pytest.importorskip("websockets", reason="the extra web is not installed")

from web_session import AGE_MS, CELL_PX, COLUMNS, StandInBoard, feeding, shown
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from edgeseg.errors import OutputError
from edgeseg.web import LivePage

TOKEN = "0123456789abcdef-secret"
PATIENCE_S = 60.0


@pytest.fixture
def board():
    return StandInBoard()


@pytest.fixture
def page(board):
    with LivePage("0", board, token=None) as page:
        yield page


class Viewer:
    """A viewer that acknowledges when it is told to."""

    def __init__(self, page, view="overlay", **options):
        self._stack = contextlib.ExitStack()
        self.socket = self._stack.enter_context(
            connect(
                f"ws://127.0.0.1:{page.port}/ws",
                max_size=2**24,
                open_timeout=PATIENCE_S,
                compression=None,
                proxy=None,
                **options,
            )
        )
        self.texts = []
        self.hello = self.text("hello")
        self.send(type="view", view=view)

    def send(self, **message):
        self.socket.send(json.dumps(message))

    def receive(self):
        return self.socket.recv(timeout=PATIENCE_S)

    def text(self, kind):
        """The next message of that type; pictures in between are lost."""
        while True:
            message = self.receive()
            if isinstance(message, str) and json.loads(message)["type"] == kind:
                return json.loads(message)

    def picture(self, *, acknowledge=True):
        """Header and decoded picture of the next one."""
        while True:
            message = self.receive()
            if isinstance(message, bytes):
                break
        (length,) = struct.unpack(">I", message[:4])
        header = json.loads(message[4 : 4 + length])
        picture = cv2.imdecode(np.frombuffer(message[4 + length :], np.uint8), cv2.IMREAD_COLOR)
        if acknowledge:
            self.acknowledge(header)
        return header, picture

    def acknowledge(self, header):
        self.send(type="ack", number=header["number"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()


def until(condition, what):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: it did not come"
        time.sleep(0.005)


def column(picture):
    """Which column the square of ``shown`` stands in."""
    brightness = picture[90].astype(int).sum(axis=1).reshape(COLUMNS, CELL_PX).mean(axis=1)
    return int(brightness.argmax())


def test_pictures_come_with_what_is_said_of_them(page):
    with Viewer(page) as viewer:
        before_ms = 1e3 * time.monotonic()
        page.sink.write(shown(5))
        header, picture = viewer.picture()
        after_ms = 1e3 * time.monotonic()
    assert column(picture) == 5
    assert (header["number"], header["frame"], header["mask_frame"]) == (5, 105, 105)
    assert (header["state"], header["reason"], header["detail"]) == ("current", None, "")
    assert (header["age_ms"], header["frame_age_ms"]) == (AGE_MS, AGE_MS)
    assert before_ms <= header["shown_ms"] <= header["sent_ms"] <= after_ms
    assert header["captured_ms"] == pytest.approx(header["shown_ms"] - AGE_MS)
    assert header["mask_captured_ms"] == pytest.approx(header["shown_ms"] - AGE_MS)
    assert (header["width_px"], header["height_px"]) == picture.shape[1::-1]


def test_views(page):
    page.sink.write(shown(2))
    at = (90, 2 * CELL_PX + CELL_PX // 2)
    colours = {"overlay": (233, 180, 86), "original": (255, 255, 255), "mask": (233, 180, 86)}
    background = {"overlay": (40, 50, 90), "original": (40, 50, 90), "mask": (0, 0, 0)}
    for view, colour in colours.items():
        with Viewer(page, view) as viewer:
            header, picture = viewer.picture()
            assert header["view"] == view
            np.testing.assert_allclose(picture[at], colour, atol=12)
            np.testing.assert_allclose(picture[150, 300], background[view], atol=12)
    assert page.encodes == {"overlay": 1, "original": 1, "mask": 1}


def test_the_view_can_be_changed_without_a_new_picture(page):
    with Viewer(page) as viewer:
        page.sink.write(shown(2))
        assert viewer.picture()[0]["view"] == "overlay"
        viewer.send(type="view", view="mask")
        assert viewer.picture()[0]["view"] == "mask"
        # None: a page that nobody sees gets and costs nothing.
        viewer.send(type="view", view=None)
        viewer.send(type="ping", sent_ms=1.0)
        viewer.text("pong")
        page.sink.write(shown(3))
        viewer.text("status")
        viewer.text("status")
    assert page.encodes == {"overlay": 1, "original": 0, "mask": 1}


def test_without_a_mask_every_view_is_the_sign_and_one_encode(page):
    with Viewer(page) as one, Viewer(page, "original") as two, Viewer(page, "mask") as three:
        until(lambda: page._encoder._wanted == {"overlay", "original", "mask"}, "all wait")
        page.sink.write(shown(2, reason="no signal"))
        for viewer in (one, two, three):
            header, picture = viewer.picture()
            assert (header["state"], header["reason"]) == ("none", "no signal")
            assert (header["age_ms"], header["mask_captured_ms"]) == (None, None)
            np.testing.assert_allclose(picture[150, 300], (70, 70, 70), atol=6)
    assert sum(page.encodes.values()) == 1


def test_many_viewers_cost_one_encode_a_picture(page):
    with contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(Viewer(page)) for _ in range(4)]
        for number in range(10):
            until(lambda: all(v.waits_for for v in page._viewers._viewers), "all wait")
            page.sink.write(shown(number))
            assert [viewer.picture()[0]["number"] for viewer in viewers] == [number] * 4
    assert page.encodes == {"overlay": 10, "original": 0, "mask": 0}


def test_a_picture_that_nobody_watches_is_not_encoded(page):
    with feeding(page.sink, per_s=200.0) as feed:
        until(lambda: feed.number > 20, "pictures")
    assert page.encodes == {"overlay": 0, "original": 0, "mask": 0}


def test_an_unacknowledged_picture_is_followed_by_the_newest_alone(page):
    with Viewer(page) as slow, Viewer(page) as fast:
        page.sink.write(shown(0))
        first, _ = slow.picture(acknowledge=False)
        fast.picture()
        for number in range(1, 6):
            until(lambda: any(v.waits_for for v in page._viewers._viewers), "the fast one waits")
            page.sink.write(shown(number))
            assert fast.picture()[0]["number"] == number
        before = page.encodes["overlay"]
        slow.send(type="ack", number=4711)  # of no picture: changes nothing
        slow.acknowledge(first)
        header, picture = slow.picture()
        assert header["number"] == 5
        assert column(picture) == 5
    assert page.encodes["overlay"] == before == 6, "what the other one got is not encoded again"


class SilentViewer:
    """A viewer that reads nothing, and claims to have seen everything: the worst it can do."""

    def __init__(self, page):
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE_S)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self.socket.connect(("127.0.0.1", page.port))
        self.socket.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade"
            b"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        until(lambda: page.viewers == 1, "the silent viewer")
        self.say(b'{"type":"view","view":"overlay"}')

    def say(self, text):
        # A masked frame whose mask is zero.
        self.socket.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)

    def acknowledge(self, page):
        """Acknowledge what is being sent to it, read or not."""
        sent = {viewer.unacknowledged for viewer in tuple(page._viewers._viewers)} - {None}
        with contextlib.suppress(OSError):
            for number in sent:
                self.say(b'{"type":"ack","number":%d}' % number)


NOISE = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)


def noisy(number):
    """A picture whose JPEG is large."""
    made = shown(number, size_px=(1280, 720))
    object.__setattr__(made, "picture", NOISE)
    return made


def test_a_viewer_that_never_reads_delays_nobody(page):
    silent = SilentViewer(page)
    with contextlib.closing(silent.socket), Viewer(page) as viewer:
        slowest_s = 0.0
        for number in range(20):
            made = noisy(number)
            before_s = time.monotonic()
            page.sink.write(made)
            slowest_s = max(slowest_s, time.monotonic() - before_s)
            assert viewer.picture()[0]["number"] == number
            silent.acknowledge(page)
        assert slowest_s < 3.0, "no more than a busy machine explains"
    until(lambda: page.viewers == 0, "both are gone")


def test_a_viewer_that_never_reads_is_cut(page, monkeypatch):
    from edgeseg.web import server

    monkeypatch.setattr(server, "_STUCK_S", 0.3)
    silent = SilentViewer(page)
    with contextlib.closing(silent.socket):
        number = 0
        while page.viewers:
            assert number < 1000, "never cut"
            page.sink.write(noisy(number))
            silent.acknowledge(page)
            number += 1
            time.sleep(0.02)
        connections = page._server._server.server_state.connections
        until(lambda: not connections, "nothing of it is left")


def test_viewers_that_stop_to_take_part_are_closed(page, monkeypatch):
    from edgeseg.web import viewers

    monkeypatch.setattr(viewers, "_PATIENCE_S", 0.3)
    with Viewer(page) as viewer:
        page.sink.write(shown(0))
        viewer.picture(acknowledge=False)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                viewer.receive()
    assert closed.value.rcvd.code == 1008
    assert "no picture was acknowledged" in closed.value.rcvd.reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("no json", "a message is no JSON"),
        ("[" * 1000, "a message is no JSON"),
        (b"\x00\x01", "messages are text"),
        ("[]", "a message's type must be one of view, ack, ping"),
        ('{"type": "go"}', "a message's type must be one of view, ack, ping"),
        ('{"type": ["ack"]}', "a message's type must be one of view, ack, ping"),
        ('{"type": "view"}', "view lacks view"),
        ('{"type": "view", "view": "all"}', "view must be one of overlay"),
        ('{"type": "ack", "number": "1"}', "number must be integer"),
        ('{"type": "ack", "number": 1.5}', "number must be integer"),
        ('{"type": "ping", "sent_ms": NaN}', "sent_ms must be number"),
        ('{"type": "ping", "sent_ms": 1, "more": 1}', "ping holds 'more'"),
        ('{"type": "ack", "number": 1, "' + "\U0001f600" * 40 + '": 1}', "ack holds"),
        ('{"type": "ack", "number": 1, "\\ud800": 1}', "ack holds"),
        ('{"type": "view", "view": 1' + "0" * 900 + "}", "view must be one of"),
        ("x" * 1100, ""),
    ],
)
def test_malformed_messages_close_the_socket_with_one_line(page, message, reason):
    with Viewer(page) as viewer:
        viewer.socket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                viewer.receive()
    assert closed.value.rcvd.code == (1009 if len(message) > 1024 else 1008)
    assert reason in closed.value.rcvd.reason


def test_too_many_messages_close_the_socket(page):
    with Viewer(page) as viewer, pytest.raises(ConnectionClosed) as closed:
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            for _ in range(200):
                viewer.send(type="ack", number=-1)
            with contextlib.suppress(TimeoutError):
                viewer.socket.recv(timeout=0)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "too many messages")


def test_pings_are_answered_with_the_servers_clock(page):
    with Viewer(page) as viewer:
        before_ms = 1e3 * time.monotonic()
        viewer.send(type="ping", sent_ms=12.5)
        pong = viewer.text("pong")
        assert pong["sent_ms"] == 12.5
        assert before_ms <= pong["server_ms"] <= 1e3 * time.monotonic()


def test_the_status_comes_by_itself_and_a_minute_of_it_at_first(page, board):
    with Viewer(page) as viewer:
        until(lambda: viewer.text("status")["viewers"] == 1, "the status of now")
        status = viewer.text("status")
        assert (status["state"], status["max_age_ms"]) == ("current", 400.0)
        board.changes = {"captured": 2000}
        until(lambda: viewer.text("status")["captured"] == 2000, "the new status")
    with Viewer(page) as viewer:
        assert len(viewer.hello["history"]) >= 2
        assert viewer.hello["history"][-1]["age_ms"] == AGE_MS


def test_a_session_that_does_not_answer_is_said_and_recovers(page, board):
    with Viewer(page) as viewer:
        board.hang.set()
        assert viewer.text("error")["error"] == "the session did not answer within 2 s"
        page.sink.write(shown(1))
        assert viewer.picture()[0]["number"] == 1, "pictures come nevertheless"
        board.hang.clear()
        viewer.text("status")


def test_beyond_eight_viewers_it_says_so(page):
    with contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(Viewer(page)) for _ in range(8)]
        with connect(f"ws://127.0.0.1:{page.port}/ws", proxy=None) as late:
            text = "8 viewers look already: close a page, then reload"
            assert json.loads(late.recv(timeout=PATIENCE_S)) == {"type": "error", "error": text}
            with pytest.raises(ConnectionClosed) as closed:
                late.recv(timeout=PATIENCE_S)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, text)
        viewers[0].socket.close()
        until(lambda: page.viewers == 7, "one went")
        stack.enter_context(Viewer(page))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 421),
    ],
)
def test_other_sites_open_no_socket(page, headers, code):
    request = {
        "Host": f"127.0.0.1:{page.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.items())
    with socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE_S) as raw:
        raw.sendall(f"GET /ws HTTP/1.1\r\n{lines}\r\n".encode())
        answer = b""
        while piece := raw.recv(4096):
            answer += piece
    assert answer.startswith(f"HTTP/1.1 {code}".encode())
    assert b'{"error": "' in answer
    assert page.viewers == 0


def test_the_page_opens_a_socket(page):
    with Viewer(page, origin=f"http://127.0.0.1:{page.port}"):
        assert page.viewers == 1


def test_a_socket_needs_the_token(board):
    with LivePage("0", board, token=TOKEN) as page:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            with pytest.raises(InvalidStatus) as refused:
                Viewer(page, additional_headers=headers)
            assert refused.value.response.status_code == 401
        with (
            pytest.raises(InvalidStatus),
            connect(f"ws://127.0.0.1:{page.port}/ws?token={TOKEN}", proxy=None),
        ):
            pass
        with Viewer(page, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as viewer:
            page.sink.write(shown(1))
            assert viewer.picture()[0]["number"] == 1


def test_large_pictures_are_made_smaller_for_viewers(board):
    with LivePage("0", board, token=None, max_width_px=160) as page, Viewer(page) as viewer:
        page.sink.write(shown(1, size_px=(320, 180)))
        header, picture = viewer.picture()
    assert picture.shape == (90, 160, 3)
    assert (header["width_px"], header["height_px"]) == (160, 90)


def test_a_picture_that_cannot_be_encoded_is_one_picture_less(page, caplog):
    with Viewer(page) as viewer:
        broken = shown(1)
        object.__setattr__(broken, "picture", np.empty((0, 0, 3), np.uint8))
        page.sink.write(broken)
        until(lambda: "picture 1 could not be encoded" in caplog.text, "the log")
        page.sink.write(shown(2))
        assert viewer.picture()[0]["number"] == 2


def test_closing_tells_viewers_and_ends_every_thread(board):
    before = set(threading.enumerate())
    page = LivePage("0", board, token=None)
    with Viewer(page) as viewer:
        page.sink.write(shown(1))
        viewer.picture()
        page.close()
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                viewer.receive()
        assert closed.value.rcvd.code == 1012
    until(lambda: set(threading.enumerate()) <= before, "threads end")
    with pytest.raises(OutputError, match="does not serve any more"):
        page.sink.write(shown(2))


def test_a_session_that_hangs_does_not_keep_the_page_from_closing(board):
    page = LivePage("0", board, token=None)
    board.hang.set()
    assert board.hung.wait(PATIENCE_S)
    before_s = time.monotonic()
    page.close()
    assert time.monotonic() - before_s < 20.0
    board.hang.clear()


def test_the_end_of_the_session_leaves_no_picture(page):
    page.sink.write(shown(1))
    page.sink.close()
    page.sink.close()
    assert page._encoder.newest is None
    assert (page.sink.name, page.sink.policy) == (f"page {page.url}", "drop-oldest")
