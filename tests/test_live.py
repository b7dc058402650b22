"""The live example of the documentation, against a stand-in for GStreamer's launcher."""

from __future__ import annotations

import importlib.util
import os
import signal
import stat
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from builders import tiny_bundle

import edgeseg
from edgeseg.overlay import Overlay, default_colours

SCRIPT = Path(__file__).parents[1] / "docs" / "jetson_live.py"

# Sends numbered noise, in pieces, on the descriptor that it is given, and prints as NVIDIA's
# elements do; as the sink it keeps what it gets. FRAMES is how many it sends before it ends.
LAUNCHER = """
import os, sys, time
import numpy as np
words = sys.argv[1:]
open(os.environ["LOG"], "a").write(" ".join(words) + "\\n")
print("GST_ARGUS: Creating output stream", flush=True)
if "fdsrc" in words:
    with open(os.environ["KEPT"], "ab", buffering=0) as kept:
        while data := os.read(0, 1 << 16):
            kept.write(data)
    sys.exit()
fd = int(words[-1].removeprefix("fd="))
for number in range(int(os.environ["FRAMES"])):
    data = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8).tobytes()
    for start in range(0, len(data), 1000):
        os.write(fd, data[start : start + 1000])
    time.sleep(float(os.environ["PAUSE"]))
if os.environ.get("HANG"):
    time.sleep(60)
os.write(fd, b"part of a frame")
"""


def load_script():
    spec = importlib.util.spec_from_file_location("jetson_live", SCRIPT)
    live = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(live)
    return live


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Start the script with the stand-in on the path."""
    tiny_bundle(tmp_path / "tiny.edgeseg")
    program = tmp_path / "bin" / "gst-launch-1.0"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{LAUNCHER}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))

    def start(source: str, *more: str, frames: int = 3, pause_s: float = 0.3, hang: bool = False):
        monkeypatch.setenv("FRAMES", str(frames))
        monkeypatch.setenv("PAUSE", str(pause_s))
        monkeypatch.setenv("HANG", "1" if hang else "")
        bundle = str(tmp_path / "tiny.edgeseg")
        command = [sys.executable, str(SCRIPT), bundle, source, "--size", "64x48", *more]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return start


def test_frames_come_out_with_their_own_masks(launch, tmp_path):
    process = launch("csi:1", "--fps", "30000/1001", "--alpha", "0.5")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "the source ended" in said
    kept = np.frombuffer((tmp_path / "kept").read_bytes(), np.uint8).reshape(-1, 48, 64, 3)
    with edgeseg.open(tmp_path / "tiny.edgeseg") as model:
        overlay = Overlay(default_colours(1), alpha=0.5, contours=True)
        wanted = []
        for number in range(3):
            rng = np.random.default_rng(number)
            frame = rng.integers(0, 256, (48, 64, 3), np.uint8)
            wanted.append(overlay(frame, model(frame).mask))
    assert not np.array_equal(wanted[0], wanted[1])
    # What the launcher prints, and the piece of a frame at the end, are no pictures.
    assert np.array_equal(kept, np.stack(wanted))
    source, sink = sorted(
        (tmp_path / "log").read_text().splitlines(), key=lambda line: "fdsrc" in line
    )
    assert "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12" in source
    assert "width=64,height=48,framerate=30000/1001" in source
    assert "rawvideoparse format=bgr width=64 height=48 framerate=30000/1001" in sink


def test_a_source_faster_than_the_engine_drops_frames(launch, tmp_path):
    process = launch("test", frames=400, pause_s=0.0)
    process.communicate(timeout=60)
    kept = (tmp_path / "kept").stat().st_size
    assert process.returncode == 1
    assert kept % (48 * 64 * 3) == 0 and 0 < kept < 400 * 48 * 64 * 3


def test_a_stalled_source_ends_with_an_error(launch):
    process = launch("test", "--timeout", "1", frames=1, hang=True)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "no frame for 1 s" in said


def test_it_stops_when_told_to(launch, tmp_path):
    process = launch("test", frames=1, hang=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "kept").exists() or not (tmp_path / "kept").stat().st_size:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("v4l2:/dev/video2", "v4l2src device=/dev/video2 ! video/x-raw,width=64"),
        ("mjpeg:/dev/video0", "image/jpeg,width=64,height=48,framerate=30/1 ! jpegdec"),
        ("rtsp://h/a?b=1", "location=rtsp://h/a?b=1 protocols=tcp"),
        ("h265+rtsp://h/a", "location=rtsp://h/a protocols=tcp latency=100 drop-on-latency=true"),
        ("h265+rtsp://h/a", "! rtph265depay ! h265parse ! nvv4l2decoder ! nvvidconv !"),
        ("gst:filesrc location='a b' ! decodebin", "filesrc location=a b ! decodebin"),
    ],
)
def test_pipelines(source, words):
    live = load_script()
    assert words in " ".join(live.source_words(source, 64, 48, Fraction(30)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("tape:1",), "unknown source"), (("test", "--size", "62x48"), "multiple of 4")],
)
def test_refusals(launch, arguments, words):
    process = launch(*arguments)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and words in said and "Traceback" not in said


def test_a_missing_bundle_is_one_line(launch, tmp_path):
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "none.edgeseg"), "test"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 1 and len(process.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("time_constant_ms", [0.0, 100.0])
def test_frames_that_stay_on_the_gpu_are_drawn_on_alike(
    tmp_path, monkeypatch, host, time_constant_ms
):
    pytest.importorskip("cuda.bindings.runtime")
    from cuda_double import FakeRuntime, fake_kernels
    from engine_double import StreamDouble

    from edgeseg.frame_path import open_frame_path
    from edgeseg.gpu import Gpu

    live = load_script()
    bundle = tiny_bundle(tmp_path / "tiny.edgeseg")
    settings = edgeseg.Settings(time_constant_ms=time_constant_ms or None)
    overlay = Overlay(default_colours(1), alpha=0.4, contours=True)
    rng = np.random.default_rng(4)
    frames = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(3)]
    pictures = {}
    runtime = FakeRuntime(3)
    for where in ("host", "device"):
        with edgeseg.open(bundle, settings=settings) as model:
            if where == "device":
                model.engine = StreamDouble(runtime, model.engine)
                monkeypatch.setattr(live, "model_unavailable_reason", lambda model: None)
                monkeypatch.setattr(
                    live,
                    "open_frame_path",
                    lambda *arguments, **options: open_frame_path(
                        *arguments,
                        gpu=Gpu.open(runtime=runtime),
                        native=fake_kernels(runtime, host),
                        **options,
                    ),
                )
            with live.drawing(model, overlay, (48, 64)) as draw:
                pictures[where] = [
                    draw(frame.copy(), 0.04 * number).copy() for number, frame in enumerate(frames)
                ]
    for one, other, frame in zip(pictures["host"], pictures["device"], frames, strict=True):
        assert np.mean(one != other) < 0.002
        assert np.any(one != frame)
