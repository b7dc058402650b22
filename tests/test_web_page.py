"""The live page in a headless Chromium."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time

import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")
pytest.importorskip("uvicorn", reason="the extra web is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

import cv2
import numpy as np
from page_browser import chromium, element, set_slider, until
from web_session import CELL_PX, COLUMNS, StandInBoard, feeding, shown

from edgeseg.web import LivePage

TOKEN = "0123456789abcdef-secret"
NOTHING = "\u2013"
PATIENT_MS = 20000.0
"""A limit of age that a machine with much else to do keeps."""


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def browser(profile):
    with chromium(profile) as browser:
        yield browser


@pytest.fixture(scope="module")
def session():
    """A page and pictures for it, which several tests share."""
    board = StandInBoard()
    with LivePage("0", board, token=None) as page, feeding(page.sink, per_s=15.0) as feed:
        yield board, page, feed


@pytest.fixture
def board():
    board = StandInBoard()
    board.changes = {"max_age_ms": PATIENT_MS}
    return board


@pytest.fixture
def page(board):
    with LivePage("0", board, token=None) as page:
        yield page


@pytest.fixture
def strict():
    """A page with a limit of age that is waited for."""
    board = StandInBoard()
    board.changes = {"max_age_ms": 2000.0}
    with LivePage("0", board, token=None) as page:
        yield page


@pytest.fixture
def look(browser, session):
    """The shared page in the browser, with a picture on it, and the session behind it as new."""
    board, page, feed = session
    board.__init__()
    board.changes = {"max_age_ms": PATIENT_MS}
    feed.reason = None
    if browser.current_url != page.url:
        browser.get(page.url)
    uncovered(browser)
    return feed


@pytest.fixture
def behind(look, session):
    """The board behind the shared page."""
    return session[0]


def is_covered(browser):
    return element(browser, "cover").is_displayed()


def uncovered(browser):
    until(browser, lambda: not is_covered(browser), "the picture")


def covered(browser, why):
    until(browser, lambda: is_covered(browser) and why in cover(browser), f"the cover: {why}")
    assert element(browser, "state").text == "No current result"
    assert element(browser, "age").text == NOTHING


def listen(browser):
    """From now on keep what the cover says, however short."""
    browser.execute_script(
        "window.said = []; const why = document.getElementById('cover-why');"
        "new MutationObserver(() => said.push(why.textContent)).observe(why, {childList: true});"
    )


def said(browser):
    return "; ".join(browser.execute_script("return said"))


def cover(browser):
    return element(browser, "cover").text


def pixels(browser, identity, area="0, 0, it.width, it.height"):
    """The pixels of a canvas as bytes, RGBA."""
    return browser.execute_script(
        "const it = document.getElementById(arguments[0]);"
        f"return Array.from(it.getContext('2d').getImageData({area}).data);",
        identity,
    )


def drawn(browser):
    """Number that the page says it shows, and the column of the square on its canvas."""
    number, row = browser.execute_script(
        "const it = document.getElementById('picture');"
        "return [Number(it.dataset.number),"
        " Array.from(it.getContext('2d').getImageData(0, 90, it.width, 1).data)];"
    )
    brightness = np.array(row).reshape(COLUMNS, CELL_PX, 4)[..., :3].sum(axis=(1, 2))
    return number, int(brightness.argmax())


def test_the_picture_moves(browser, look):
    seen = {}

    def moved():
        number, column = drawn(browser)
        seen[number] = column
        return len(seen) >= 4

    until(browser, moved, "four pictures")
    # What is on the canvas is the picture that the page says it shows.
    assert seen == {number: number % COLUMNS for number in seen}
    assert element(browser, "state").text == "Current"
    age = element(browser, "age")
    until(browser, lambda: re.fullmatch(r"\d+", age.text), "the age")
    # It counts from the capture on, on the server's clock: never younger than when it was shown.
    assert 40 <= int(element(browser, "age").text) < PATIENT_MS
    assert element(browser, "source").text == "rtsp://camera/live 320\u00d7180"
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_figures_and_the_card_are_shown(browser, look):
    until(browser, lambda: "0.9123" in element(browser, "accuracy").text, "the accuracy")
    frames = element(browser, "frames").text
    assert "Dropped: too old\n5" in frames
    assert "Fault: engine\n1" in frames
    assert "server went away" in element(browser, "sinks").text
    model = element(browser, "model").text
    assert "Family\nsegdino_v2" in model
    assert "Precision\nint8" in model
    assert (element(browser, "mask-fps").text, element(browser, "engine").text) == ("24.5", "29")
    assert "Not a medical device" in browser.find_element("tag name", "header").text


def test_the_chart_draws(browser, look):
    def painted():
        data = np.array(pixels(browser, "chart")).reshape(-1, 4)
        blue = (np.abs(data[:, :3] - (86, 180, 233)).max(axis=1) < 40) & (data[:, 3] > 100)
        amber = (np.abs(data[:, :3] - (230, 180, 80)).max(axis=1) < 40) & (data[:, 3] > 100)
        return blue.sum() >= 4 and amber.sum() >= 20

    until(browser, painted, "the line of ages and the one of the limit")


def test_controls_act(browser, behind):
    set_slider(browser, "opacity", 0.85)
    until(browser, lambda: behind.controls.opacity == 0.85, "the opacity")
    set_slider(browser, "threshold", 0.3)
    until(browser, lambda: behind.controls.threshold == 0.3, "the threshold")
    # What another page sets is shown here.
    time.sleep(1.0)
    behind.controls.set_opacity(0.1)
    value = element(browser, "opacity-value")
    until(browser, lambda: value.text == "0.10", "the other's value")
    assert element(browser, "opacity").get_property("value") == "0.1"


def test_a_refused_control_is_said(browser, behind):
    behind.controls._takes_threshold = False
    set_slider(browser, "threshold", 0.3)
    until(browser, lambda: "no threshold" in element(browser, "notice").text, "the reason")
    assert behind.controls.threshold == 0.5


def test_a_model_of_several_classes_has_no_threshold_to_move(browser, behind):
    slider = element(browser, "threshold")
    until(browser, slider.is_enabled, "a threshold")
    behind.changes = {**behind.changes, "threshold": None}
    until(browser, lambda: not slider.is_enabled(), "no threshold")
    assert element(browser, "threshold-value").text == "none"
    assert element(browser, "opacity").is_enabled()


def test_views(browser, look):
    def colours(background, square):
        at, aside = browser.execute_script(
            "const it = document.getElementById('picture');"
            "const column = Number(it.dataset.number) % arguments[0], pen = it.getContext('2d');"
            "const at = (x, y) => Array.from(pen.getImageData(x, y, 1, 1).data).slice(0, 3);"
            "return [at((column + 0.5) * arguments[1], 90), at(300, 150)];",
            COLUMNS,
            CELL_PX,
        )
        return np.abs(np.subtract(at, square)).max() < 15 and (
            np.abs(np.subtract(aside, background)).max() < 15
        )

    blue, white = (86, 180, 233), (255, 255, 255)
    wanted = {"mask": ((0, 0, 0), blue), "original": ((90, 50, 40), white)}
    for view, (background, square) in {**wanted, "overlay": ((90, 50, 40), blue)}.items():
        choice = browser.find_element("css selector", f"input[value={view}]")
        browser.execute_script("arguments[0].focus()", choice)
        choice.send_keys(" ")
        until(browser, lambda b=background, s=square: colours(b, s), view)
        assert element(browser, "picture").get_dom_attribute("data-view") == view


def test_recording_and_snapshot(browser, behind, profile):
    element(browser, "record").click()
    until(browser, lambda: behind.recording, "the recording")
    until(browser, lambda: element(browser, "record-text").text == "Stop recording", "the button")
    assert "session-1.mp4" in element(browser, "notice").text
    until(browser, lambda: element(browser, "record").is_enabled(), "the button again")
    element(browser, "record").click()
    until(browser, lambda: behind.recording is None, "the end of the recording")
    behind.refuse_recording = "the disk is full"
    until(browser, lambda: element(browser, "record").is_enabled(), "the button again")
    element(browser, "record").click()
    until(browser, lambda: element(browser, "notice").text == "the disk is full", "the reason")

    element(browser, "snapshot").click()
    folder = profile / "downloads"
    until(browser, lambda: list(folder.glob("edgeseg-*-overlay.png")), "the file")
    (file,) = folder.glob("edgeseg-*-overlay.png")
    picture = cv2.imread(str(file))
    number = int(file.stem.split("-")[1]) - 100
    assert np.array_equal(picture, shown(number).picture)


def test_a_reload_recovers(browser, look, session):
    before, _ = drawn(browser)
    browser.refresh()
    uncovered(browser)
    until(browser, lambda: drawn(browser)[0] > before, "a new picture")
    until(browser, lambda: session[1].viewers == 1, "the old socket is gone")


def test_a_picture_that_stays_is_covered_and_a_new_one_uncovers(browser, strict):
    strict.sink.write(shown(0))
    browser.get(strict.url)
    covered(browser, "no new picture for")
    with feeding(strict.sink, per_s=15.0):
        uncovered(browser)
        assert element(browser, "state").text == "Current"
    covered(browser, "no new picture for")


def test_a_mask_that_is_too_old_here_is_covered(browser, strict):
    with feeding(strict.sink, per_s=15.0) as feed:
        feed.age_ms = 2001.0
        browser.get(strict.url)
        covered(browser, "old here, the limit is 2000 ms")
        feed.age_ms = 40.0
        uncovered(browser)


def test_a_picture_with_its_sign_is_shown_at_once(browser, strict):
    strict.sink.write(shown(0, age_ms=2001.0))
    browser.get(strict.url)
    covered(browser, "NO CURRENT RESULT")
    # One is enough where three good ones with masks would be needed.
    strict.sink.write(shown(1, reason="engine stalled"))
    state = element(browser, "state")
    until(browser, lambda: state.text == "No current result: engine stalled", "the sign")
    assert drawn(browser)[0] == 1


def test_the_sign_is_shown_as_it_comes(browser, look):
    look.reason = "no signal"
    state = element(browser, "state")
    until(browser, lambda: state.text == "No current result: no signal", "the state")
    assert not is_covered(browser)
    assert element(browser, "age").text == NOTHING
    look.reason, look.predicted = None, True
    until(browser, lambda: state.text == "Predicted", "the state of moved masks")
    look.predicted = False
    until(browser, lambda: state.text == "Current", "the state")


def test_a_stopped_server_covers_and_a_new_one_recovers(browser, page, board):
    with feeding(page.sink, per_s=15.0):
        browser.get(page.url)
        uncovered(browser)
        page.close()
        covered(browser, "connection lost")
    with (
        LivePage(str(page.port), board, token=None) as again,
        feeding(again.sink, per_s=15.0),
    ):
        uncovered(browser)
        assert element(browser, "state").text == "Current"


class Line:
    """Carries bytes to the page and back until it is cut, as a pulled plug does: nobody is told."""

    def __init__(self, port):
        self.cut = threading.Event()
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                while self.cut.is_set():
                    time.sleep(0.01)
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def close(self):
        self.cut.clear()
        self._listening.close()


def test_a_line_that_falls_silent_covers_and_comes_back(browser, strict):
    with contextlib.closing(Line(strict.port)) as line, feeding(strict.sink, per_s=15.0):
        browser.get(f"http://127.0.0.1:{line.port}/")
        uncovered(browser)
        listen(browser)
        line.cut.set()
        until(browser, lambda: "no new picture for" in said(browser), "the cover")
        # The socket is open all the time; that no message comes is enough.
        covered(browser, "connection lost")
        line.cut.clear()
        uncovered(browser)


def test_a_clock_that_jumped_is_learned_anew(browser, look):
    listen(browser)
    browser.execute_script("const real = Date.now.bind(Date); Date.now = () => real() + 3600000;")
    until(browser, lambda: "the clock of this machine jumped" in said(browser), "the cover")
    uncovered(browser)


def test_the_token_is_asked_for_and_then_kept(browser, board):
    with LivePage("0", board, token=TOKEN) as page, feeding(page.sink, per_s=15.0):
        browser.get(page.url)
        field = browser.find_element("name", "token")
        field.send_keys(TOKEN)
        field.submit()
        until(browser, lambda: browser.find_elements("id", "cover"), "the page")
        uncovered(browser)
        assert browser.current_url == page.url, "the token stays in no address"
        assert not browser.execute_script("return document.cookie"), "nor can a script read it"
        port = page.port
    # Another token: the page says that the one it knows is not taken any more.
    with LivePage(str(port), board, token=TOKEN + "-other"):
        covered(browser, "the token has changed")


def test_it_fits_a_phone(browser, look):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        wide, high = browser.execute_script(
            "const it = document.scrollingElement; return [it.scrollWidth, it.scrollHeight];"
        )
        assert wide <= 390
        assert high > 844
        box = element(browser, "picture").rect
        assert box["width"] > 350
    finally:
        metrics = {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wide, high = browser.execute_script(
        "const it = document.scrollingElement; return [it.scrollWidth, it.scrollHeight];"
    )
    assert (wide, high) == (1280, 720), "beside the picture nothing scrolls but the figures"


def test_every_control_has_a_name(browser, look):
    for control in browser.find_elements("css selector", "button, input, canvas"):
        assert control.accessible_name.strip(), control.get_dom_attribute("id")
    assert element(browser, "state").get_dom_attribute("aria-live") == "polite"
