"""RTSP, UDP and loopback sinks, with ffmpeg and a real server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from live_children import corners, gone, nothing_left, quarters, shown

from edgeseg.errors import MissingDependencyError, OutputError, SinkLostError, UsageError
from edgeseg.live.base import LiveSink
from edgeseg.live.sinks import piped
from edgeseg.live.sinks.loopback import LoopbackSink
from edgeseg.live.sinks.network import NetworkSink

SERVER = Path(__file__).with_name("rtsp_record_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="not installed: ffmpeg")


@pytest.fixture(autouse=True)
def clean():
    with nothing_left():
        yield


@contextmanager
def server(kept: Path, port: str = "0") -> Iterator[tuple[str, subprocess.Popen]]:
    """URL of a server that writes what is published into ``kept``."""
    process = subprocess.Popen(
        [SYSTEM_PYTHON, str(SERVER), str(kept), "--port", port],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        first = process.stdout.readline().split()
        if not first:
            pytest.skip(f"no RTSP server can be run: {process.stderr.read().splitlines()[-1:]}")
        try:
            yield first[1], process
        finally:
            process.kill()


def network_sink(target: str, **options) -> NetworkSink:
    return NetworkSink(target, name="sink", **{"rate": None, "codec": None, **options})


def write_until(sink: LiveSink, picture: np.ndarray, condition: Callable[[], object]) -> None:
    """Write 30 pictures a second until it comes true."""
    until_s = time.monotonic() + 40
    number = 0
    while not condition():
        assert time.monotonic() < until_s, "never"
        sink.write(shown(picture, number))
        number += 1
        time.sleep(1 / 30)


def until_error(sink: LiveSink, picture: np.ndarray, kind: type[OutputError]) -> str:
    """Write until it fails as expected; its message."""
    with pytest.raises(OutputError) as caught:
        write_until(sink, picture, lambda: False)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def frames_of(path: Path) -> list[av.VideoFrame]:
    """What can be decoded of a file that somebody may still write."""
    try:
        with av.open(str(path)) as container:
            return list(container.decode(video=0))
    except (av.FFmpegError, IndexError):
        return []


def holds(path: Path, count: int, size: tuple[int, int]) -> bool:
    frames = [f for f in frames_of(path) if (f.width, f.height) == size] if path.exists() else []
    return len(frames) >= count


@needs_ffmpeg
def test_what_is_published_can_be_watched(tmp_path):
    kept = tmp_path / "kept.ts"
    with server(kept) as (url, _), network_sink(url) as sink:
        # Odd sizes get one more column and row.
        picture = quarters(161, 121)
        write_until(sink, picture, lambda: holds(kept, 10, (162, 122)))
        assert sink.encoder == "libx264"
        pid = sink._child.pid
        sink.close()
        assert gone(pid)
        sink.close()
    frame = frames_of(kept)[-1]
    assert np.abs(corners(frame.to_ndarray(format="bgr24")) - corners(picture)).max() <= 6


@needs_ffmpeg
def test_high_definition_says_its_colours(tmp_path):
    kept = tmp_path / "kept.ts"
    with server(kept) as (url, _), network_sink(url, codec="h264", rate=Fraction(10)) as sink:
        picture = quarters(1280, 720)
        write_until(sink, picture, lambda: holds(kept, 2, (1280, 720)))
    frame = frames_of(kept)[0]
    assert (frame.colorspace, frame.color_range) == (1, 1)


@needs_ffmpeg
def test_pictures_that_come_irregularly_keep_their_times(tmp_path):
    kept = tmp_path / "kept.ts"
    with server(kept) as (url, process), network_sink(url) as sink:
        picture = quarters(64, 48)
        recording = threading.Event()
        listener = threading.Thread(
            target=lambda: [recording.set() for line in process.stdout if "recording" in line]
        )
        listener.start()
        write_until(sink, picture, recording.is_set)
        write_until(sink, picture, lambda: holds(kept, 5, (64, 48)))
        written_s = []
        for _ in range(4):
            for _ in range(3):
                sink.write(shown(picture))
                written_s.append(time.monotonic())
                time.sleep(0.05)
            time.sleep(0.5)
        total = len(frames_of(kept))
        write_until(sink, picture, lambda: len(frames_of(kept)) > total)
        process.kill()
        listener.join()
    times_s = [float(f.pts * f.time_base) for f in frames_of(kept) if f.pts is not None]
    steps_s = np.diff(times_s)
    # Three pauses lie between the four bursts: neither filled up nor left out.
    assert np.sum(steps_s > 0.45) >= 3
    assert np.all(steps_s[steps_s > 0.45] < 5)


@needs_ffmpeg
def test_a_server_that_goes_away_and_comes_back(tmp_path):
    first, second = tmp_path / "first.ts", tmp_path / "second.ts"
    picture = quarters(96, 64)
    with server(first) as (url, process):
        sink = network_sink(url)
        write_until(sink, picture, lambda: holds(first, 3, (96, 64)))
        process.kill()
        process.wait()
        until_error(sink, picture, SinkLostError)
        with pytest.raises(SinkLostError, match="does not answer"):
            sink.reopen()
    port = url.rpartition(":")[2].partition("/")[0]
    with server(second, port) as (again, _):
        assert again == url
        sink.reopen()
        write_until(sink, picture, lambda: holds(second, 3, (96, 64)))
        sink.close()


@needs_ffmpeg
def test_an_encoder_that_is_killed_starts_again(tmp_path):
    kept = tmp_path / "kept.ts"
    picture = quarters(96, 64)
    with server(kept) as (url, _), network_sink(url) as sink:
        write_until(sink, picture, lambda: holds(kept, 3, (96, 64)))
        pid = sink._child.pid
        os.kill(pid, signal.SIGKILL)
        assert "killed by signal 9" in until_error(sink, picture, SinkLostError)
        assert gone(pid)
        sink.reopen()
        before = len(frames_of(kept))
        write_until(sink, picture, lambda: len(frames_of(kept)) > before or sink._proven)
        assert sink._child.ended() is None


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@needs_ffmpeg
def test_udp_is_heard_and_changes_its_size():
    port = free_port()
    sizes: list[tuple[int, int]] = []
    colours: list[np.ndarray] = []

    def listen() -> None:
        with av.open(f"udp://127.0.0.1:{port}?fifo_size=100000", timeout=30) as container:
            for frame in container.decode(video=0):
                sizes.append((frame.width, frame.height))
                colours.append(corners(frame.to_ndarray(format="bgr24")))
                if sizes[-1] == (128, 80):
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    with network_sink(f"udp://127.0.0.1:{port}") as sink:
        small = quarters(96, 64)
        write_until(sink, small, lambda: len(sizes) >= 3 or not listener.is_alive())
        first = sink._child.pid
        write_until(sink, quarters(128, 80), lambda: not listener.is_alive())
        assert gone(first) and sink._child.pid != first
        # Nobody listens any more, which UDP cannot know.
        for _ in range(5):
            sink.write(shown(small))
    listener.join()
    assert sizes[0] == (96, 64) and sizes[-1] == (128, 80)
    assert np.abs(colours[0] - corners(small)).max() <= 6


@needs_ffmpeg
def test_a_server_that_never_answers_does_not_hold_the_sink(monkeypatch):
    monkeypatch.setattr(piped, "_STARTED_S", 1.5)
    monkeypatch.setattr(piped, "_TAKEN_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"rtsp://me:secret@127.0.0.1:{mute.getsockname()[1]}/live"
        with network_sink(url) as sink:
            before_s = time.monotonic()
            said = until_error(sink, quarters(640, 480), SinkLostError)
            assert time.monotonic() - before_s < 20
            assert "takes no pictures" in said and "secret" not in said
            sink.reopen()


@needs_ffmpeg
@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("live", {"codec": "nosuchencoder"}, "nosuchencoder"),
        ("elsewhere", {}, "404"),
    ],
)
def test_what_can_never_work_is_an_end(tmp_path, path, options, words):
    with (
        server(tmp_path / "kept.ts") as (url, _),
        network_sink(url.replace("/live", f"/{path}"), **options) as sink,
    ):
        assert words in until_error(sink, quarters(64, 48), OutputError)


@needs_ffmpeg
def test_nothing_listens():
    with network_sink(f"rtsp://127.0.0.1:{free_port()}/live") as sink:
        assert "refused" in until_error(sink, quarters(64, 48), SinkLostError)


def test_other_targets_and_a_missing_program(monkeypatch):
    with pytest.raises(UsageError, match="udp://HOST:PORT"):
        network_sink("http://127.0.0.1:1/live")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependencyError, match="sudo apt install ffmpeg"):
        network_sink("rtsp://127.0.0.1:1/live")


@needs_ffmpeg
def test_what_is_no_loopback_device(tmp_path):
    file = tmp_path / "video0"
    file.write_bytes(b"precious")
    for device, words in [
        ("/dev/video97", "there is no /dev/video97"),
        (str(file), "is not a device"),
        ("/dev/null", "is not a video device"),
    ]:
        with pytest.raises(OutputError, match=words) as caught:
            LoopbackSink(device, name=f"v4l2://{device}")
        assert "sudo modprobe v4l2loopback" in str(caught.value)
        assert type(caught.value) is OutputError
    assert file.read_bytes() == b"precious"


CAPTURE, OUTPUT, STREAMING, HAS_DEVICE_CAPS = 0x1, 0x2, 0x04000000, 0x80000000


@needs_ffmpeg
@pytest.mark.parametrize(
    ("capabilities", "of_device", "takes"),
    [
        (CAPTURE | STREAMING, 0, False),
        (OUTPUT | STREAMING, 0, True),
        (CAPTURE | OUTPUT | HAS_DEVICE_CAPS, CAPTURE, False),
        (CAPTURE | OUTPUT | HAS_DEVICE_CAPS, OUTPUT, True),
    ],
)
def test_what_a_device_says_of_itself(monkeypatch, capabilities, of_device, takes):
    from edgeseg.live.sinks import loopback

    def answer(descriptor: int, request: int, data: bytes) -> bytes:
        assert request == 0x80685600 and len(data) == 104
        fields = (b"v4l2 loopback", b"Dummy", b"platform", 0x050F00, capabilities, of_device)
        return loopback._CAPABILITY.pack(*fields, 0, 0, 0)

    monkeypatch.setattr(loopback.fcntl, "ioctl", answer)
    if takes:
        LoopbackSink("/dev/null", name="v4l2:///dev/null").close()
        return
    with pytest.raises(OutputError, match="is a camera"):
        LoopbackSink("/dev/null", name="v4l2:///dev/null")


@needs_ffmpeg
def test_a_loopback_device_that_is_none_after_all_ends_the_sink(monkeypatch):
    from edgeseg.live.sinks import loopback

    monkeypatch.setattr(loopback, "_check_output", lambda device, name: None)
    with LoopbackSink("/dev/null", name="v4l2:///dev/null") as sink:
        assert "ioctl" in until_error(sink, quarters(64, 48), OutputError)
