"""A window on a real, invisible screen."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from live_children import gone, nothing_left, quarters, shown

from edgeseg.errors import MissingDependencyError, OutputError, SinkLostError, UsageError
from edgeseg.live.process import Child
from edgeseg.live.sinks import display, highgui
from edgeseg.live.sinks.display import DisplaySink, WindowClosedError

SCREEN_PX = (640, 480)
TITLE = "edgeseg: a 'test' of windows"

needs_screen = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("Xvfb", "ffplay", "ffmpeg", "xdotool")),
    reason="not installed: Xvfb, ffplay, ffmpeg or xdotool",
)


@pytest.fixture(scope="module")
def screen():
    """Name of a screen that nobody sees."""
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", f"{SCREEN_PX[0]}x{SCREEN_PX[1]}x24"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with server, os.fdopen(reading) as told:
        number = told.readline().strip()
        if not number:
            pytest.skip("Xvfb does not start")
        yield f":{number}"
        server.terminate()


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    with nothing_left():
        yield


def screenshot(screen: str) -> np.ndarray:
    width, height = SCREEN_PX
    command = f"ffmpeg -v error -f x11grab -video_size {width}x{height} -i {screen} -frames:v 1"
    raw = subprocess.run(
        [*command.split(), "-f", "rawvideo", "-pix_fmt", "bgr24", "pipe:1"],
        check=True,
        timeout=60,
        stdout=subprocess.PIPE,
    ).stdout
    return np.frombuffer(raw, np.uint8).reshape(height, width, 3)


def windows(screen: str) -> list[int]:
    """Windows with the title, the newest last."""
    found = subprocess.run(
        ["xdotool", "search", "--name", "^edgeseg: a "],
        env={**os.environ, "DISPLAY": screen},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return [int(number) for number in found.stdout.split()]


def press(screen: str, key: str) -> None:
    subprocess.run(
        ["xdotool", "mousemove", "320", "240", "key", key],
        env={**os.environ, "DISPLAY": screen},
        timeout=60,
        check=True,
    )


def write_until(sink: DisplaySink, picture: np.ndarray, condition, within_s: float = 40.0) -> None:
    """Write 30 pictures a second until it comes true; on a busy machine a window may be lost."""
    until_s = time.monotonic() + within_s
    number = 0
    while not condition():
        assert time.monotonic() < until_s, "never"
        for _ in range(5):
            try:
                sink.write(shown(picture, number))
            except SinkLostError:
                sink.reopen()
            number += 1
            time.sleep(1 / 30)


def visible(screen: str, picture: np.ndarray) -> bool:
    """Whether the picture stands in the middle of the screen, pixel by pixel."""
    height, width = picture.shape[:2]
    shot = screenshot(screen)
    top, left = (SCREEN_PX[1] - height) // 2, (SCREEN_PX[0] - width) // 2
    part = shot[top : top + height, left : left + width]
    return bool(np.array_equal(part, picture))


@needs_screen
def test_the_window_shows_the_picture(screen):
    picture = quarters(302, 200)
    with DisplaySink(screen, name="display://", title=TITLE) as sink:
        assert sink.program == "ffplay" and sink.why
        write_until(sink, picture, lambda: visible(screen, picture))
        assert len(windows(screen)) == 1
        title = subprocess.run(
            ["xdotool", "getwindowname", str(windows(screen)[0])],
            env={**os.environ, "DISPLAY": screen},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.strip()
        assert title == TITLE
        # Another size: another window.
        larger = quarters(400, 300)[::-1].copy()
        write_until(sink, larger, lambda: visible(screen, larger))
        pid = sink._child.pid
    assert gone(pid) and not windows(screen)
    assert not sink.closed_by_user
    sink.close()


class _ClientMessage(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("rest", ctypes.c_long * 16),
    )


def click_on_the_cross(screen: str) -> None:
    """Ask the window to close, as window managers do."""
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        pytest.skip("not installed: libX11")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    x11.XInternAtom.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    x11.XSendEvent.argtypes = [
        *(ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
    ]
    x11.XSync.argtypes = [ctypes.c_void_p, ctypes.c_int]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    connection = x11.XOpenDisplay(screen.encode())
    window = windows(screen)[-1]
    protocols = x11.XInternAtom(connection, b"WM_PROTOCOLS", 0)
    delete = x11.XInternAtom(connection, b"WM_DELETE_WINDOW", 0)
    data = (ctypes.c_long * 5)(delete)
    client_message = 33
    event = _ClientMessage(client_message, 0, 1, connection, window, protocols, 32, data)
    assert x11.XSendEvent(connection, window, 0, 0, ctypes.byref(event))
    x11.XSync(connection, 0)
    x11.XCloseDisplay(connection)


@needs_screen
def test_a_window_that_is_closed_is_an_end(screen):
    picture = quarters(302, 200)
    with DisplaySink(screen, name="display://", title=TITLE) as sink:
        write_until(sink, picture, lambda: visible(screen, picture))
        click_on_the_cross(screen)
        with pytest.raises(WindowClosedError, match="display://: the window was closed"):
            write_until(sink, picture, lambda: False)
        assert sink.closed_by_user
    assert not isinstance(WindowClosedError(), SinkLostError)


@needs_screen
def test_a_window_that_stands_still_is_taken_away(screen):
    picture = quarters(302, 200)
    with DisplaySink(screen, name="display://", title=TITLE) as sink:
        write_until(sink, picture, lambda: visible(screen, picture))
        pid = sink._child.pid
        press(screen, "p")
        with pytest.raises(SinkLostError, match="does not go on"):
            while True:
                sink.write(shown(picture))
                time.sleep(1 / 30)
        assert gone(pid) and not sink.closed_by_user
        assert not windows(screen)


@needs_screen
def test_a_window_program_that_hangs_or_dies(screen):
    picture = quarters(302, 200)
    with DisplaySink(screen, name="display://", title=TITLE) as sink:
        write_until(sink, picture, lambda: visible(screen, picture))
        os.kill(sink._child.pid, signal.SIGSTOP)
        before_s = time.monotonic()
        with pytest.raises(SinkLostError):
            for number in range(10_000):
                sink.write(shown(picture, number))
        assert time.monotonic() - before_s < 20
        sink.reopen()
        other = picture[:, ::-1].copy()
        write_until(sink, other, lambda: sink._child is not None and visible(screen, other))
        os.kill(sink._child.pid, signal.SIGKILL)
        with pytest.raises(SinkLostError, match="killed by signal 9"):
            for _ in range(10_000):
                sink.write(shown(picture))
        assert not sink.closed_by_user


@needs_screen
def test_a_screen_that_does_not_answer():
    with (
        DisplaySink(":2047", name="display://", title=TITLE) as sink,
        pytest.raises(OutputError, match="SDL") as caught,
    ):
        for _ in range(2000):
            sink.write(shown(quarters(64, 48)))
            time.sleep(0.01)
    assert not isinstance(caught.value, SinkLostError) and not sink.closed_by_user
    assert "\n" not in str(caught.value)


def test_no_screen_and_wrong_ones(monkeypatch):
    with pytest.raises(OutputError, match=r"no screen.*--serve") as caught:
        DisplaySink("", name="display://", title=TITLE)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="display://0"):
        DisplaySink("the left one", name="display://the left one", title=TITLE)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependencyError, match=r"sudo apt install ffmpeg.*--serve"):
        DisplaySink("0", name="display://0", title=TITLE)


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("0", {"DISPLAY": ":0", "WAYLAND_DISPLAY": "", "SDL_VIDEODRIVER": "x11"}),
        (":1.0", {"DISPLAY": ":1.0", "WAYLAND_DISPLAY": "", "SDL_VIDEODRIVER": "x11"}),
        ("wayland-1", {"WAYLAND_DISPLAY": "wayland-1", "SDL_VIDEODRIVER": "wayland"}),
    ],
)
def test_names_of_screens(target, wanted):
    found = display._screen(target, "display://")
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="not installed: GStreamer")
@pytest.mark.parametrize("width", [64, 61, 63])
def test_what_a_window_of_gstreamer_is_sent(tmp_path, width):
    """Here with a file where the window would be."""
    launcher = shutil.which("gst-launch-1.0")
    kept = tmp_path / "kept"
    words = display._GstreamerWindow(launcher, "filesink").words(width, 35, TITLE)
    assert words[-3:] == ["!", "filesink", "sync=false"]
    words[-2:] = ["video/x-raw,format=GRAY8", "!", "filesink", f"location={kept}"]
    # A file must get all of them.
    words[words.index("max-size-buffers=1")] = "max-size-buffers=9"
    rng = np.random.default_rng(0)
    pictures = [
        np.repeat(rng.integers(0, 256, (35, width, 1), np.uint8), 3, axis=2) for _ in range(3)
    ]
    window = display._GstreamerWindow(launcher, "filesink")
    data = b"".join(window.laid_out(picture).tobytes() for picture in pictures)
    done = subprocess.run(words, input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    padded = -(-width // 4) * 4
    rows = np.fromfile(kept, np.uint8).reshape(3, 35, padded)[:, :, :width].astype(int)
    assert np.abs(rows - 16 - np.stack(pictures)[..., 0] * (219 / 255)).max() <= 3 or (
        np.abs(rows - np.stack(pictures)[..., 0]).max() <= 3
    )


def test_gstreamer_shows_where_ffplay_is_missing(tmp_path, monkeypatch):
    for name, code in [("gst-launch-1.0", "exit 0"), ("gst-inspect-1.0", '[ "$2" = ximagesink ]')]:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{code}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    sink = DisplaySink(":0", name="display://", title=TITLE)
    assert sink.program == "GStreamer" and "ximagesink" in sink.why
    with pytest.raises(MissingDependencyError):
        DisplaySink("wayland-0", name="display://", title=TITLE)


def test_gstreamer_says_that_its_window_was_closed():
    element = "/GstPipeline:pipeline0/GstXImageSink:ximagesink0"
    line = f"ERROR: from element {element}: Output window was closed"
    code = f"import sys; print({line!r}); sys.exit(1)"
    with Child([sys.executable, "-c", code]) as child:
        assert child.ended(20) == 1
        assert display._GstreamerWindow("gst-launch-1.0", "ximagesink").was_closed(child)


FAKE_CV2 = """
import sys
WINDOW_NORMAL = WINDOW_KEEPRATIO = WINDOW_GUI_NORMAL = WND_PROP_VISIBLE = 0
shown = []
def getBuildInformation(): return "  GUI:  GTK3\\n"
def namedWindow(title, flags): pass
def resizeWindow(title, width, height): pass
def waitKey(ms): pass
def imshow(title, picture):
    shown.append((title, picture.shape, int(picture[0, 0, 0])))
    sys.stderr.write(f"shown {shown[-1]}\\n")
def getWindowProperty(title, what): return 0 if len(shown) > 3 else 1
"""


def test_a_window_of_opencv_shows_what_it_is_sent_until_it_is_closed(tmp_path):
    (tmp_path / "cv2.py").write_text(FAKE_CV2.replace("\\\\", "\\"))
    pictures = [np.full((4, 6, 3), number, np.uint8) for number in range(8)]
    done = subprocess.run(
        [sys.executable, "-m", "edgeseg.live.sinks.highgui", "6", "4", "a title"],
        input=b"".join(picture.tobytes() for picture in pictures) + b"torn",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = done.stderr.decode().splitlines()
    assert done.returncode == 0, said
    shown = [line for line in said if line.startswith("shown")]
    # The fourth picture found the window closed.
    assert shown == [f"shown ('a title', (4, 6, 3), {number})" for number in range(4)]
    assert highgui.ALIVE in said


def test_opencv_is_taken_where_nothing_else_shows_windows(monkeypatch):
    monkeypatch.setattr(display.shutil, "which", lambda name: None)
    monkeypatch.setenv("DISPLAY", ":77")
    monkeypatch.setattr(highgui, "has_windows", lambda: True)
    sink = DisplaySink("", name="display://", title=TITLE)
    assert sink.program == "OpenCV"
    assert "neither ffplay nor GStreamer" in sink.how
    words = sink._window.words(640, 480, TITLE)
    assert words[0] == sys.executable and words[-3:] == ["640", "480", TITLE]
    sink.close()
    monkeypatch.setattr(highgui, "has_windows", lambda: False)
    with pytest.raises(MissingDependencyError, match="ffplay"):
        DisplaySink("", name="display://", title=TITLE)


def test_the_build_of_opencv_says_whether_it_has_windows(monkeypatch):
    for text, expected in (("  GUI:   NONE\n", False), ("  GUI:   QT5\n", True), ("x\n", False)):
        monkeypatch.setattr(highgui.cv2, "getBuildInformation", lambda text=text: text)
        assert highgui.has_windows() is expected
