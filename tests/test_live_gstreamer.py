"""Sources that are GStreamer pipelines and ffmpeg commands, with the real programs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_children import gone, nothing_left
from video_files import cut, decode_all, write_video

from edgeseg.errors import (
    DataError,
    EdgesegError,
    EndOfStreamError,
    MissingDependencyError,
    SourceLostError,
    UsageError,
)
from edgeseg.live.base import Captured, LiveSource
from edgeseg.live.sources import SourceOptions, open_live_source
from edgeseg.live.sources.framing import RawFrame, SizeChangedError, read_gdp, read_nut
from edgeseg.live.sources.gstreamer import csi_pipeline

OPTIONS = SourceOptions(timeout_s=30.0)


def needs(*programs: str):
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


gstreamer = needs("gst-launch-1.0")
ffmpeg = needs("ffmpeg")
either = pytest.mark.parametrize(
    "endless",
    [
        pytest.param(
            "gst:videotestsrc is-live=true pattern=red ! video/x-raw,width=64,height=48",
            marks=gstreamer,
        ),
        pytest.param("ffmpeg:-re -f lavfi -i color=red:size=64x48:rate=30", marks=ffmpeg),
    ],
)


@pytest.fixture(autouse=True)
def clean():
    with nothing_left():
        yield


def source_of(text: str, **options) -> LiveSource:
    return open_live_source(text, SourceOptions(**{"timeout_s": 30.0, **options}))


def frame_of(source: LiveSource) -> Captured:
    frame = source.read(20.0)
    assert frame is not None
    assert frame.captured_s <= time.monotonic()
    assert frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous
    assert (frame.image.shape[1], frame.image.shape[0]) == source.size
    return frame


def all_of(source: LiveSource) -> list[Captured]:
    frames = []
    with pytest.raises(EndOfStreamError):
        while True:
            frames.append(frame_of(source))
    return frames


def until_lost(source: LiveSource) -> SourceLostError:
    """Read what was on its way, up to the loss."""
    with pytest.raises(SourceLostError) as caught:
        for _ in range(1000):
            assert source.read(20.0) is not None
    return caught.value


def pid_of(source: LiveSource) -> int:
    return source._child.pid


@gstreamer
@pytest.mark.parametrize("width", [64, 61, 62])
def test_colours_of_a_pipeline_arrive_exactly(width):
    bgr = f"video/x-raw,format=BGR,width={width},height=35,framerate=24000/1001"
    text = f"gst:videotestsrc num-buffers=3 foreground-color=0xff204080 pattern=solid-color ! {bgr}"
    with source_of(text) as source:
        source.open()
        assert source.size == (width, 35) and source.rate == Fraction(24000, 1001)
        assert not source.is_live
        frames = all_of(source)
    assert len(frames) == 3
    for number, frame in enumerate(frames):
        assert np.array_equal(frame.image, np.full((35, width, 3), (0x80, 0x40, 0x20), np.uint8))
        assert abs(frame.media_s - number * 1001 / 24000) < 1e-6


@gstreamer
def test_a_picture_of_a_pipeline_arrives_where_it_belongs(tmp_path):
    pattern = "videotestsrc num-buffers=1 pattern=smpte ! video/x-raw,format=I420,width=320"
    pattern += ",height=240"
    raw = tmp_path / "frame.raw"
    subprocess.run(
        ["gst-launch-1.0", "-q", *pattern.split(), "!", "filesink", f"location={raw}"],
        check=True,
        timeout=60,
    )
    planes = np.fromfile(raw, np.uint8)
    y = planes[: 320 * 240].reshape(240, 320).astype(float)
    u, v = (
        part.reshape(120, 160).repeat(2, 0).repeat(2, 1).astype(float)
        for part in (planes[76800:96000], planes[96000:])
    )
    red = 1.164383 * (y - 16) + 1.596027 * (v - 128)
    green = 1.164383 * (y - 16) - 0.391762 * (u - 128) - 0.812968 * (v - 128)
    blue = 1.164383 * (y - 16) + 2.017232 * (u - 128)
    wanted = np.stack([blue, green, red], axis=-1).clip(0, 255)
    with source_of(f"gst:{pattern}") as source:
        source.open()
        image = frame_of(source).image
    # In the middle of the bars; between them chroma is interpolated. GStreamer computes in 8 bits.
    columns = [round((bar + 0.5) * 320 / 7) for bar in range(7)]
    difference = np.abs(image[10:150, columns].astype(float) - wanted[10:150, columns])
    assert difference.max() <= 6
    assert len(np.unique(image[80, columns], axis=0)) == 7


@gstreamer
def test_frames_that_change_their_size_go_on():
    parts = (
        "concat name=c "
        "videotestsrc num-buffers=3 pattern=red ! video/x-raw,width=64,height=48 ! c. "
        "videotestsrc num-buffers=2 pattern=blue ! video/x-raw,width=98,height=30 ! c. "
        "c. ! identity"
    )
    with source_of(f"gst:{parts}") as source:
        source.open()
        frames = all_of(source)
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 3 + [(30, 98, 3)] * 2
    assert frames[2].image[0, 0].tolist() == [0, 0, 255]
    assert frames[3].image[-1, -1].tolist() == [255, 0, 0]


@ffmpeg
def test_frames_of_ffmpeg_are_those_of_the_file(tmp_path):
    # Bursts that are faster than the rate which the file states.
    times_s = [Fraction(n, 1000) for n in (0, 8, 16, 24, 200, 207, 500, 1200)]
    path = write_video(
        tmp_path / "a b.mkv", frames=8, width=130, height=98, codec="ffv1", pix_fmt="bgr0",
        times_s=times_s,
    )  # fmt: skip
    wanted, _ = decode_all(path)
    with source_of(f"ffmpeg:-i '{path}'") as source:
        source.open()
        assert source.size == (130, 98) and not source.is_live
        frames = all_of(source)
    assert len(frames) == len(wanted)
    for frame, image, time_s in zip(frames, wanted, times_s, strict=True):
        assert np.array_equal(frame.image, image)
        assert abs(frame.media_s - float(time_s)) < 0.002


@ffmpeg
def test_a_rate_that_is_asked_of_ffmpeg_is_kept():
    text = "ffmpeg:-f lavfi -i testsrc=size=64x48:rate=50:duration=1 -r 10"
    with source_of(text) as source:
        source.open()
        frames = all_of(source)
    assert source.rate == 10
    # The last one may be rounded up.
    assert len(frames) in (10, 11)
    assert np.allclose([f.media_s for f in frames], np.arange(len(frames)) / 10, atol=0.002)


@ffmpeg
def test_colours_that_ffmpeg_has_to_guess_are_mentioned(tmp_path, caplog):
    green = (0x40, 0xA0, 0x30)
    path = tmp_path / "untagged.mkv"
    filters = "scale=out_color_matrix=bt709,format=yuv420p"
    command = "ffmpeg -v error -f lavfi -i color=0x30a040:size=1280x720 -frames:v 1 -c:v libx264"
    subprocess.run([*command.split(), "-vf", filters, str(path)], check=True, timeout=60)
    images = []
    for more in ("", " -vf scale=in_color_matrix=bt709"):
        caplog.clear()
        with source_of(f"ffmpeg:-i {path}{more}") as source:
            source.open()
            images.append(frame_of(source).image[100, 100].astype(int))
        warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert bool(warned) == (not more)
        assert all("add  -vf scale=in_color_matrix=bt709" in line for line in warned)
    # The remedy that is named is one.
    assert np.abs(images[0] - green).max() > 10
    assert np.abs(images[1] - green).max() <= 4


@either
def test_a_live_source_is_read_killed_and_opened_again(endless):
    with source_of(endless) as source:
        assert source.is_live
        source.open()
        first = frame_of(source)
        assert first.image.shape == (48, 64, 3)
        assert np.abs(first.image.astype(int) - (0, 0, 255)).max() <= 3
        assert abs(source.rate - 30) < 0.1
        second = frame_of(source)
        assert second.captured_s > first.captured_s and second.media_s > first.media_s
        pid = pid_of(source)
        os.kill(pid, signal.SIGKILL)
        assert "killed by signal 9" in str(until_lost(source))
        source.close()
        assert gone(pid)
        source.open()
        assert frame_of(source).media_s == 0.0
    source.close()
    with pytest.raises(SourceLostError, match="not open"):
        source.read(0.0)


@either
def test_a_program_that_hangs_is_noticed(endless):
    with source_of(endless, timeout_s=1.0) as source:
        # The machine may be too busy to start a program within a second, but not for long.
        for _ in range(30):
            try:
                source.open()
                break
            except SourceLostError:
                continue
        os.kill(pid_of(source), signal.SIGSTOP)
        before_s = time.monotonic()
        while source.read(0.0) is not None:
            assert time.monotonic() - before_s < 20
        before_s = time.monotonic()
        assert source.read(0.1) is None
        assert time.monotonic() - before_s < 5
        with pytest.raises(SourceLostError, match="nothing came for 1 s"):
            while source.read(0.2) is None:
                assert time.monotonic() - before_s < 20
        os.kill(pid_of(source), signal.SIGCONT)


@either
def test_one_may_close_while_another_reads(endless):
    source = source_of(endless)
    source.open()
    os.kill(pid_of(source), signal.SIGSTOP)
    raised = []

    def read():
        try:
            while True:
                source.read(60.0)
        except SourceLostError as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    os.kill(pid_of(source), signal.SIGCONT)
    source.close()
    thread.join(20)
    assert not thread.is_alive() and len(raised) == 1


@gstreamer
@pytest.mark.parametrize(
    ("pipeline", "kind", "words"),
    [
        ("videotestsrc ! nosuchelement", DataError, 'no element "nosuchelement"'),
        ("videotestsrc patern=red", DataError, 'no property "patern"'),
        ("videotestsrc !!", DataError, "syntax error"),
        ("audiotestsrc", DataError, "could not link"),
        ("nvnosuchsrc", DataError, "come with JetPack"),
        ("filesrc location=/nowhere/clip.mp4 ! decodebin", DataError, "/nowhere/clip.mp4"),
        ("v4l2src device=/dev/video97", SourceLostError, "/dev/video97"),
        ("videotestsrc num-buffers=0", DataError, "without a word"),
        ("videotestsrc !", UsageError, "ends with an element"),
        ("videotestsrc ! 'identity", UsageError, "No closing quotation"),
        ("--version", UsageError, "begins with an element"),
        ("rtspsrc location=rtsp://me:secret@127.0.0.1:9/x ! decodebin", SourceLostError, "rtspsrc"),
    ],
)
def test_pipelines_that_cannot_run_say_so_in_one_line(pipeline, kind, words):
    with pytest.raises(EdgesegError) as caught, source_of(f"gst:{pipeline}") as source:
        source.open()
    assert type(caught.value) is kind
    said = str(caught.value)
    assert words in said and "\n" not in said and "secret" not in said and said.startswith("gst:")


@ffmpeg
@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ("-i /nowhere/clip.mp4", DataError, "No such file"),
        ("-nosuchoption 1 -i x.mp4", DataError, "nosuchoption"),
        ("-f lavfi -i nosuchfilter", DataError, "nosuchfilter"),
        ("-f nosuchformat -i x", DataError, "nosuchformat"),
        ("-f lavfi -i anullsrc", DataError, "does not contain any stream"),
        ("-i rtsp://me:secret@127.0.0.1:9/x", SourceLostError, "refused"),
        ("clip.mp4", UsageError, "no input"),
        ("-i 'clip.mp4", UsageError, "No closing quotation"),
        (
            "-f lavfi -i color=red -f lavfi -i color=blue -map 0 -map 1",
            DataError,
            "2 video streams",
        ),
    ],
)
def test_arguments_that_make_no_sense_say_so_in_one_line(arguments, kind, words):
    with pytest.raises(EdgesegError) as caught, source_of(f"ffmpeg:{arguments}") as source:
        source.open()
    assert type(caught.value) is kind
    said = str(caught.value)
    assert words in said and "\n" not in said and "secret" not in said


@ffmpeg
def test_a_file_without_pictures_is_no_source(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("not a video\n" * 100)
    with source_of(f"ffmpeg:-i {path}") as source, pytest.raises(DataError, match=r"text\.mp4"):
        source.open()
    whole = write_video(tmp_path / "whole.mp4", frames=30)
    with (
        source_of(f"ffmpeg:-i {cut(whole, 0.5)}") as source,
        pytest.raises(DataError, match="cut_"),
    ):
        source.open()


@ffmpeg
def test_a_size_that_changes_has_to_be_asked_for_again(tmp_path):
    small = write_video(tmp_path / "small.ts", frames=5, width=64, height=48)
    large = write_video(tmp_path / "large.ts", frames=5, width=96, height=64)
    both = small.read_bytes() + large.read_bytes()
    stream = tmp_path / "stream"
    os.mkfifo(stream)

    def send(data: bytes) -> threading.Thread:
        thread = threading.Thread(target=lambda: stream.write_bytes(data))
        thread.start()
        return thread

    with source_of(f"ffmpeg:-f mpegts -i {stream}") as source:
        sending = send(both)
        source.open()
        frames = [frame_of(source).image.shape for _ in range(5)]
        with pytest.raises(SourceLostError, match="no longer 64x48"):
            frame_of(source)
        sending.join()
        assert frames == [(48, 64, 3)] * 5
        # The old program must not read what is meant for the next one.
        source.close()
        sending = send(large.read_bytes())
        source.open()
        sending.join()
        assert frame_of(source).image.shape == (64, 96, 3)
    whole = tmp_path / "both.ts"
    whole.write_bytes(both)
    with source_of(f"ffmpeg:-i {whole}") as source:
        source.open()
        # Opened again, a file would begin again, and so on for ever.
        with pytest.raises(DataError) as caught:
            for _ in range(11):
                frame_of(source)
        assert type(caught.value) is DataError


@pytest.mark.parametrize(
    ("text", "program"),
    [("gst:videotestsrc", "gst-launch-1.0"), ("ffmpeg:-f lavfi -i color", "ffmpeg")],
)
def test_a_missing_program_is_named(text, program, monkeypatch):
    source = source_of(text)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependencyError, match=f"{program}.*sudo apt install"):
        source.open()


@gstreamer
def test_a_missing_plugin_of_ours_is_not_the_users_mistake(tmp_path, monkeypatch):
    launcher = tmp_path / "gst-launch-1.0"
    launcher.write_text(
        "#!/bin/sh\necho 'WARNING: erroneous pipeline: no element \"gdppay\"'\nexit 1"
    )
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with (
        source_of("gst:videotestsrc") as source,
        pytest.raises(MissingDependencyError, match="apt install gstreamer1"),
    ):
        source.open()


@pytest.mark.parametrize(
    ("text", "finite", "live"),
    [
        ("gst:v4l2src device=/dev/video0", False, True),
        ("gst:filesrc location=a.mp4 ! decodebin", True, False),
        ("gst:filesrc location=a.mp4 ! decodebin ! clocksync", True, True),
        ("gst:uridecodebin uri=file:///a.mp4", True, False),
        ("gst:uridecodebin uri=rtsp://h/a", False, True),
        ("gst:videotestsrc num-buffers=-1", False, True),
        ("gst:videotestsrc is-live=true num-buffers=10", True, True),
        (f"ffmpeg:-i {__file__}", True, False),
        (f"ffmpeg:-re -i {__file__}", True, True),
        (f"ffmpeg:-stream_loop -1 -re -i {__file__}", False, True),
        (f"ffmpeg:-i {__file__} -i srt://h:1", False, True),
        ("ffmpeg:-f v4l2 -i /dev/null", False, True),
        ("ffmpeg:-f lavfi -i testsrc=duration=3", True, False),
        ("ffmpeg:-f lavfi -i testsrc", False, True),
        ("ffmpeg:-t 10 -i srt://h:1", True, False),
        (f"ffmpeg:-i {Path(__file__).parent}/%03d.png", True, False),
    ],
)
def test_whether_an_end_is_a_loss_is_read_off_the_words(text, finite, live):
    source = source_of(text)
    assert (source.is_finite, source.is_live) == (finite, live)


def test_pipeline_of_a_csi_camera():
    assert csi_pipeline(1, SourceOptions()) == (
        "nvarguscamerasrc sensor-id=1 '!' 'video/x-raw(memory:NVMM),format=NV12,width=1920,"
        "height=1080,framerate=30/1' '!' nvvidconv '!' video/x-raw,format=BGRx"
    )
    chosen = SourceOptions(width_px=1280, height_px=720, rate=Fraction(60000, 1001))
    assert "width=1280,height=720,framerate=60000/1001" in csi_pipeline(0, chosen)
    source = source_of("csi://0", width_px=640, height_px=480)
    assert source.is_live and not source.is_finite and source.name == "csi://0"


@gstreamer
def test_a_csi_camera_is_asked_for_and_its_frames_are_taken(tmp_path, monkeypatch):
    # A launcher that puts generated frames where there is no camera.
    real = shutil.which("gst-launch-1.0")
    log = tmp_path / "words"
    launcher = tmp_path / "gst-launch-1.0"
    launcher.write_text(
        "#!/usr/bin/python3\nimport os, sys\nwords = sys.argv[1:]\n"
        f"open({str(log)!r}, 'w').write(' '.join(words))\n"
        "print('GST_ARGUS: Creating output stream', flush=True)\n"
        "end = words.index('video/x-raw,format=BGRx')\n"
        "camera = ['videotestsrc', 'is-live=true', '!', words[4].replace('(memory:NVMM)', '')]\n"
        f"words = [words[0], *camera, '!', 'videoconvert', '!', *words[end:]]\n"
        f"os.execv({real!r}, [{real!r}, *words])\n"
    )
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with source_of("csi://0", width_px=64, height_px=48, rate=Fraction(20)) as source:
        source.open()
        assert frame_of(source).image.shape == (48, 64, 3) and source.rate == 20
    assert "-q nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM)" in log.read_text()
    assert "nvvidconv ! video/x-raw,format=BGRx ! queue leaky=downstream" in log.read_text()


def feed(reader, data: bytes) -> list[RawFrame]:
    """What a reader makes of these bytes, which end in the middle of something."""
    frames = []
    at = 0
    for step in reader:
        if isinstance(step, RawFrame):
            frames.append(step)
            continue
        if at + len(step) > len(data):
            break
        step[:] = data[at : at + len(step)]
        at += len(step)
    return frames


NUT_BEGINNING = b"nut/multimedia container\0"


@given(st.binary(max_size=400), st.sampled_from(["gdp", "nut"]))
def test_noise_is_refused(data, kind):
    reader, begin = (read_gdp(), b"") if kind == "gdp" else (read_nut(), NUT_BEGINNING)
    try:
        assert feed(reader, begin + data) == []
    except DataError as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def recordings() -> dict[str, bytes]:
    """Two frames of 30x20 as both programs send them."""
    if shutil.which("ffmpeg") is None or shutil.which("gst-launch-1.0") is None:
        pytest.skip("not installed: ffmpeg or gst-launch-1.0")
    lavfi = "-f lavfi -i testsrc=size=30x20:rate=25 -frames:v 2 -c:v rawvideo -pix_fmt bgr24"
    caps = "video/x-raw,format=BGR,width=30,height=20"
    pipeline = f"videotestsrc num-buffers=2 pattern=ball ! {caps} ! gdppay ! fdsink fd=1"
    commands = {
        "nut": ["ffmpeg", "-v", "error", *lavfi.split(), "-f", "nut", "pipe:1"],
        "gdp": ["gst-launch-1.0", "-q", *pipeline.split()],
    }
    return {
        kind: subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE).stdout
        for kind, command in commands.items()
    }


@given(data=st.data())
def test_damage_is_refused_or_stays_in_the_picture(data, recordings):
    kind = data.draw(st.sampled_from(["gdp", "nut"]))
    whole = recordings[kind]
    reader = read_gdp if kind == "gdp" else read_nut
    assert [frame.image.shape for frame in feed(reader(), whole)] == [(20, 30, 3)] * 2
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        frames = feed(reader(), bytes(damaged))
    except (DataError, SizeChangedError):
        return
    assert len(frames) <= 2
