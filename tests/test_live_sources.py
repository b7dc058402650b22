"""Live sources, with real files, pipes, processes and servers."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import logging
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from video_files import cut, decode_all, number_of, numbered_frame, write_video

from edgeseg.errors import (
    DataError,
    EdgesegError,
    EndOfStreamError,
    SourceLostError,
    TruncatedVideoError,
    UsageError,
)
from edgeseg.live.base import Captured, LiveSource
from edgeseg.live.sources import SourceOptions, open_live_source
from edgeseg.live.sources import generated as generated_module
from edgeseg.live.sources import played as played_module
from edgeseg.live.sources import stream as stream_module
from edgeseg.live.sources.clock import StreamClock
from edgeseg.live.sources.device import DeviceSource, descriptor_of, driver_time
from edgeseg.live.sources.fetcher import Fetcher
from edgeseg.live.sources.gate import DamageGate
from edgeseg.live.sources.h264_gaps import H264Gaps, between_start_codes
from edgeseg.live.sources.rtsp import RtspSource
from edgeseg.live.sources.standard_input import RawSource
from edgeseg.live.sources.stream import StreamSource

FAST = SourceOptions(pace="none")
HANG_S = 60.0
"""Whatever takes longer hangs; on a busy machine everything else may take long."""


def read_all(source: LiveSource) -> tuple[list[Captured], EdgesegError]:
    """Everything up to the error that ends it."""
    frames: list[Captured] = []
    given_up_s = time.monotonic() + HANG_S
    while time.monotonic() < given_up_s:
        try:
            captured = source.read(0.25)
        except EdgesegError as error:
            return frames, error
        if captured is not None:
            check(captured)
            frames.append(captured)
    raise AssertionError(f"{source.name} never ended")


def next_frame(source: LiveSource) -> Captured:
    given_up_s = time.monotonic() + HANG_S
    while time.monotonic() < given_up_s:
        captured = source.read(0.25)
        if captured is not None:
            check(captured)
            return captured
    raise AssertionError(f"{source.name} gave no frame")


def check(captured: Captured) -> None:
    assert captured.image.dtype == np.uint8
    assert captured.image.ndim == 3 and captured.image.shape[2] == 3
    assert captured.image.flags.c_contiguous
    assert captured.captured_s <= time.monotonic()


def play(text: str, options: SourceOptions) -> tuple[list[Captured], EdgesegError, LiveSource]:
    with open_live_source(text, options) as source:
        source.open()
        frames, error = read_all(source)
    return frames, error, source


def decode_all_untimed(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="bgr24") for f in container.decode(video=0)]


def check_clean(frames: list[Captured], expected: list[np.ndarray]) -> None:
    """Each frame is one of the expected ones, undamaged; some may be missing."""
    numbers = [number_of(frame.image) for frame in frames]
    assert numbers == sorted(set(numbers))
    for number, frame in zip(numbers, frames, strict=True):
        np.testing.assert_allclose(frame.image, expected[number], atol=8)


# Files


def test_a_file_is_read_as_fast_as_it_is_taken(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", frames=30)
    with open_live_source(str(path), FAST) as source:
        source.open()
        assert (source.size, source.rate, source.is_live) == ((160, 96), 25, False)
        frames, error = read_all(source)
        with pytest.raises(EndOfStreamError):
            source.read(0.1)
    assert isinstance(error, EndOfStreamError)
    assert [number_of(f.image) for f in frames] == list(range(30))
    assert [f.media_s for f in frames] == pytest.approx([i / 25 for i in range(30)], abs=1e-3)
    dates = [f.captured_s for f in frames]
    assert dates == sorted(set(dates))


def test_a_paced_file_keeps_its_time_stamps(tmp_path: Path) -> None:
    steps = [0, 30, 40, 50, 150, 155, 160, 300, 310, 500, 520, 540, 560, 580, 600, 700, 800, 900]
    times = [Fraction(step, 1000) for step in steps]
    path = write_video(tmp_path / "clip.mkv", frames=len(steps), times_s=times)
    started_s = time.monotonic()
    frames, error, source = play(str(path), SourceOptions())
    assert isinstance(error, EndOfStreamError)
    assert source.is_live
    assert len(frames) == len(steps)
    assert time.monotonic() - started_s >= 0.9
    # Never early, and late by the moment's hurry alone: that does not add up.
    late = [
        f.captured_s - frames[0].captured_s - float(t) for f, t in zip(frames, times, strict=True)
    ]
    assert min(late) > -2e-3
    assert min(late[-5:]) < 10e-3


def test_reading_a_paced_file_returns_in_time(tmp_path: Path) -> None:
    times = [Fraction(0), Fraction(1), Fraction(2)]
    path = write_video(tmp_path / "clip.mkv", frames=3, times_s=times)
    with open_live_source(str(path)) as source:
        source.open()
        first = next_frame(source)
        started_s = time.monotonic()
        assert source.read(0.05) is None
        assert time.monotonic() - started_s < 2.0
        second = next_frame(source)
        assert second.captured_s - first.captured_s == pytest.approx(1.0, abs=0.9)


def test_nobody_waits_for_a_long_gap(tmp_path: Path) -> None:
    times = [Fraction(i, 25) + (3600 if i >= 5 else 0) for i in range(10)]
    path = write_video(tmp_path / "clip.mkv", frames=10, times_s=times)
    frames, error, _ = play(str(path), SourceOptions())
    assert isinstance(error, EndOfStreamError)
    assert [f.media_s for f in frames] == pytest.approx([float(t) for t in times], abs=1e-3)


def test_who_fell_behind_does_not_hurry_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(played_module, "_FARTHEST_BEHIND_S", 0.2)
    path = write_video(tmp_path / "clip.mkv", frames=20)
    with open_live_source(str(path)) as source:
        source.open()
        next_frame(source)
        next_frame(source)
        time.sleep(0.5)  # a machine that slept
        late = next_frame(source)
        following = [next_frame(source) for _ in range(6)]
    # All six would be there at once if they were hurried after.
    assert following[-1].captured_s - late.captured_s > 0.15


@pytest.mark.parametrize("name", ["clip.ts", "clip.mkv", "clip.mp4", "front.mp4"])
@pytest.mark.parametrize("share", [0.001, 0.555, 0.983])
def test_a_cut_file_ends_with_an_error_after_its_good_frames(
    tmp_path: Path, name: str, share: float
) -> None:
    front = {"movflags": "+faststart"} if name == "front.mp4" else None
    whole = write_video(tmp_path / name, container_options=front)
    short = cut(whole, share)
    expected, _ = decode_all(whole)
    source = open_live_source(str(short), FAST)
    try:
        with source:
            source.open()
            frames, error = read_all(source)
    except DataError as refused:  # too short for a frame
        frames, error = [], refused
    assert isinstance(error, DataError) and not isinstance(
        error, EndOfStreamError | SourceLostError
    )
    if frames:
        assert isinstance(error, TruncatedVideoError)
    assert "\n" not in str(error) and str(short) in str(error)
    check_clean(frames, expected)


@pytest.mark.parametrize("seed", range(6))
def test_what_was_made_from_damage_is_not_shown(tmp_path: Path, seed: int) -> None:
    options = {"crf": "20", "g": "10", "bf": "0" if seed % 2 else "2"}
    whole = write_video(tmp_path / "clip.ts", frames=60, codec_options=options)
    expected, _ = decode_all(whole)
    packets = [whole.read_bytes()[i : i + 188] for i in range(0, whole.stat().st_size, 188)]
    start = len(packets) // 3 + 3 * seed
    whole.write_bytes(b"".join(packets[:start] + packets[start + 10 :]))
    frames, error, source = play(str(whole), FAST)
    assert isinstance(error, TruncatedVideoError)
    assert getattr(source, "faults") > 0  # noqa: B009
    assert 30 <= len(frames) < 60
    check_clean(frames, expected)


def test_the_size_may_change_midway(tmp_path: Path) -> None:
    first = write_video(tmp_path / "a.ts", frames=8)
    second = write_video(tmp_path / "b.ts", frames=9, width=320, height=240)
    third = write_video(tmp_path / "c.ts", frames=7, width=128, height=64)
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(p.read_bytes() for p in (first, second, third)))
    frames, error, source = play(str(both), SourceOptions())
    assert isinstance(error, EndOfStreamError), error
    sizes = [(f.image.shape[1], f.image.shape[0]) for f in frames]
    assert sizes == [(160, 96)] * 8 + [(320, 240)] * 9 + [(128, 64)] * 7
    assert source.size == (160, 96)
    numbers = [number_of(f.image) for f in frames]
    assert numbers == [*range(8), *range(9), *range(7)]
    stamps = [f.media_s for f in frames]
    assert all(a is not None and b is not None and a < b for a, b in itertools.pairwise(stamps))


@pytest.mark.parametrize("pace", ["source", "none"])
def test_a_file_plays_again(tmp_path: Path, pace: Any) -> None:
    path = write_video(tmp_path / "clip.mkv", frames=5)
    with open_live_source(str(path), SourceOptions(pace=pace, loop=True)) as source:
        source.open()
        frames = [next_frame(source) for _ in range(13)]
    assert [number_of(f.image) for f in frames] == [i % 5 for i in range(13)]
    assert [f.media_s for f in frames] == pytest.approx([i % 5 / 25 for i in range(13)], abs=1e-3)
    dates = [f.captured_s for f in frames]
    assert dates == sorted(set(dates))
    if pace == "source":
        assert dates[-1] - dates[0] > 11 / 25


def test_a_file_can_be_opened_again(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", frames=4)
    source = open_live_source(str(path), FAST)
    for _ in range(2):
        source.open()
        with pytest.raises(UsageError):
            source.open()
        assert number_of(next_frame(source).image) == 0
        source.close()
        source.close()
    with pytest.raises(UsageError):
        source.read(0.1)


def test_a_text_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("nothing to see here\n" * 100)
    with pytest.raises(DataError, match=r"notes\.mp4"):
        open_live_source(str(path)).open()


def test_a_pipe_with_a_name_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        open_live_source(str(path))


def test_threads_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", frames=30)
    before = threading.active_count()
    for _ in range(5):
        with open_live_source(str(path)) as source:
            source.open()
            next_frame(source)
    assert threading.active_count() <= before


# Pictures


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        cv2.imwrite(str(folder / f"frame{i}.png"), numbered_frame(i, 160, 96))
    return folder


def test_a_folder_plays_at_its_rate(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 12)
    frames, error, source = play(str(folder), SourceOptions(rate=Fraction(40)))
    assert isinstance(error, EndOfStreamError)
    assert (source.rate, source.size, source.is_live) == (40, (160, 96), True)
    assert [number_of(f.image) for f in frames] == list(range(12))
    assert frames[-1].captured_s - frames[0].captured_s >= 11 / 40 - 1e-3
    assert frames[-1].media_s == pytest.approx(11 / 40)


def test_a_folder_without_pace_and_rate(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 3)
    frames, _, source = play(str(folder), FAST)
    assert [f.media_s for f in frames] == [None] * 3
    assert source.rate is None
    frames, _, source = play(str(folder), replace(FAST, rate=Fraction(10)))
    assert [f.media_s for f in frames] == pytest.approx([0.0, 0.1, 0.2])
    assert source.rate == 10


def test_a_damaged_picture_is_named_at_the_end(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 4)
    data = (folder / "frame1.png").read_bytes()
    (folder / "frame1.png").write_bytes(data[: len(data) // 2])
    frames, error, _ = play(str(folder), FAST)
    assert [number_of(f.image) for f in frames] == [0, 2, 3]
    assert isinstance(error, DataError) and not isinstance(error, EndOfStreamError)
    assert "frame1.png" in str(error)


def test_one_picture_again_and_again(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 1)
    options = SourceOptions(loop=True, rate=Fraction(200))
    with open_live_source(str(folder / "frame0.png"), options) as source:
        source.open()
        dates = [next_frame(source).captured_s for _ in range(5)]
    assert dates == sorted(set(dates))


# Generated frames


def test_generated_frames_move_and_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated_module, "_FRAMES", 8)
    with open_live_source("test://64x48@50", FAST) as source:
        source.open()
        assert (source.size, source.rate) == ((64, 48), 50)
        frames = [next_frame(source) for _ in range(20)]
    assert all(f.image.shape == (48, 64, 3) for f in frames)
    assert [f.media_s for f in frames] == pytest.approx([i / 50 for i in range(20)])
    for one, other in itertools.pairwise(frames):
        assert np.any(one.image != other.image)
    for forwards, backwards in ((6, 8), (0, 14)):
        np.testing.assert_array_equal(frames[forwards].image, frames[backwards].image)


def test_large_generated_frames() -> None:
    with open_live_source("test://1000x700@5", FAST) as source:
        source.open()
        assert next_frame(source).image.shape == (700, 1000, 3)


# Raw frames


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, Any]]:
    receiving, sending = os.pipe()
    writer = os.fdopen(sending, "wb", buffering=0)
    try:
        yield receiving, writer
    finally:
        os.close(receiving)
        with contextlib.suppress(OSError):
            writer.close()


def raw(descriptor: int, **given: Any) -> RawSource:
    options = SourceOptions(**{"width_px": 160, "height_px": 96, **given})
    return RawSource(options, name="standard input", descriptor=descriptor)


def test_raw_frames_from_a_slow_writer() -> None:
    frames = [numbered_frame(i, 160, 96) for i in range(6)]
    data = b"".join(f.tobytes() for f in frames)
    go_on = threading.Event()
    with pipe() as (receiving, writer):

        def write() -> None:
            half = len(frames[0].tobytes()) // 2
            writer.write(data[:half])
            go_on.wait(HANG_S)
            view = memoryview(data)[half:]
            while view:
                view = view[writer.write(view[:7919]) :]
            writer.close()

        thread = threading.Thread(target=write)
        thread.start()
        source = raw(receiving, rate=Fraction(50))
        source.open()
        started_s = time.monotonic()
        assert source.read(0.1) is None  # half a frame is no frame
        assert 0.09 < time.monotonic() - started_s < 5.0
        source.close()
        source.open()  # in the middle of a frame
        go_on.set()
        got, error = read_all(source)
        thread.join()
    assert isinstance(error, EndOfStreamError)
    assert len(got) == 6
    for i, (frame, wanted) in enumerate(zip(got, frames, strict=True)):
        np.testing.assert_array_equal(frame.image, wanted)
        assert frame.media_s == pytest.approx(i / 50)


@pytest.mark.parametrize("missing", [1, 160 * 96 * 3 - 1, 4000])
def test_a_partial_last_frame(missing: int) -> None:
    data = numbered_frame(1, 160, 96).tobytes() * 2
    with pipe() as (receiving, writer):
        thread = threading.Thread(target=lambda: (writer.write(data[:-missing]), writer.close()))
        thread.start()
        source = raw(receiving)
        source.open()
        frames, error = read_all(source)
        thread.join()
    assert len(frames) == 1
    assert type(error) is DataError
    assert f"{160 * 96 * 3 - missing} of {160 * 96 * 3} bytes" in str(error)


def test_no_frame_at_all() -> None:
    with pipe() as (receiving, writer):
        writer.close()
        source = raw(receiving)
        source.open()
        with pytest.raises(DataError, match="before the first frame") as caught:
            source.read(1.0)
    assert not isinstance(caught.value, EndOfStreamError)


@pytest.mark.parametrize("pixel_format", ["bgr24", "rgb24", "gray", "yuv420p", "nv12"])
def test_pixel_formats(tmp_path: Path, pixel_format: str) -> None:
    image = np.zeros((96, 160, 3), np.uint8)
    image[:, :80] = (30, 60, 200)
    image[:, 80:] = (180, 90, 20)
    converted = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=pixel_format)
    data = converted.to_ndarray().tobytes()
    path = tmp_path / "frames.raw"
    path.write_bytes(data * 2)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        source = raw(descriptor, codec=pixel_format)
        source.open()
        frames, error = read_all(source)
    finally:
        os.close(descriptor)
    assert isinstance(error, EndOfStreamError)
    wanted = image
    if pixel_format == "gray":
        wanted = np.repeat(converted.to_ndarray()[..., None], 3, axis=2)
    assert len(frames) == 2
    for frame in frames:
        difference = np.abs(frame.image.astype(int) - wanted)[:, [10, 60, 100, 150]]
        assert difference.max() <= 4
    assert frames[0].image is not frames[1].image


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"width_px": None, "height_px": None}, "size"),
        ({"codec": "yuyv422"}, "nv12"),
        ({"codec": "nv12", "width_px": 161}, "even"),
    ],
)
def test_impossible_raw_frames(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        raw(0, **given)


def test_a_terminal_holds_no_frames() -> None:
    leader, follower = pty.openpty()
    try:
        with pytest.raises(DataError, match="terminal"):
            raw(follower).open()
    finally:
        os.close(leader)
        os.close(follower)


def test_a_closed_standard_input() -> None:
    receiving, sending = os.pipe()
    os.close(receiving)
    os.close(sending)
    with pytest.raises(DataError, match="closed"):
        raw(receiving).open()


def test_standard_input_itself() -> None:
    code = (
        "from edgeseg.live.sources import SourceOptions, open_live_source\n"
        "source = open_live_source('-', SourceOptions(width_px=16, height_px=8))\n"
        "source.open()\n"
        "for _ in range(3): print(source.read(30.0).image.mean())\n"
    )
    data = b"".join(bytes([value]) * (16 * 8 * 3) for value in (5, 6, 7))
    done = subprocess.run(
        [sys.executable, "-c", code], input=data, capture_output=True, timeout=HANG_S, check=True
    )
    assert done.stdout.split() == [b"5.0", b"6.0", b"7.0"]


# The thread behind the sources


def test_the_newest_frame_wins_where_nobody_waits() -> None:
    filled = threading.Event()

    def fetch(fetcher: Fetcher) -> None:
        fetcher.ready()
        for i in range(5):
            fetcher.put(Captured(np.full((1, 1, 3), i, np.uint8), float(i)))
        filled.set()
        raise SourceLostError("gone")

    fetcher = Fetcher(fetch, name="x", waits=False)
    fetcher.start(HANG_S)
    assert filled.wait(HANG_S)
    taken = fetcher.take(HANG_S)
    assert taken is not None and taken.captured_s == 4.0
    assert fetcher.skipped == 4
    for _ in range(2):
        with pytest.raises(SourceLostError, match="gone"):
            fetcher.take(HANG_S)
    assert fetcher.stop(HANG_S)


def test_a_library_that_blocks_is_left_behind() -> None:
    let_go = threading.Event()
    entered = threading.Event()

    def fetch(fetcher: Fetcher) -> None:
        fetcher.ready()
        entered.set()
        let_go.wait(HANG_S)

    fetcher = Fetcher(fetch, name="x", waits=False)
    fetcher.start(HANG_S)
    assert entered.wait(HANG_S)
    assert fetcher.take(0.05) is None
    assert not fetcher.stop(0.05)
    let_go.set()
    assert fetcher.join(HANG_S)


def test_opening_does_not_wait_for_ever() -> None:
    let_go = threading.Event()
    fetcher = Fetcher(lambda fetcher: let_go.wait(HANG_S) and None, name="x", waits=False)
    with pytest.raises(SourceLostError, match="did not open within"):
        fetcher.start(0.05)
    let_go.set()
    assert fetcher.stop(HANG_S)


# The dates of a stream


def test_frames_that_waited_in_a_queue_are_dated_as_old() -> None:
    clock = StreamClock(name="x", one_late=False)
    for i in range(100):
        clock.arrived(i / 25, 1000.0 + i / 25)
        assert clock.captured_s(i / 25, 1000.0 + i / 25) == pytest.approx(1000.0 + i / 25)
    # Two seconds of nothing, then everything at once.
    stall_s = 1000.0 + 150 / 25
    for i in range(100, 150):
        clock.arrived(i / 25, stall_s)
        age_s = stall_s - clock.captured_s(i / 25, stall_s)
        assert age_s == pytest.approx((150 - i) / 25, abs=0.02)


def test_clocks_that_run_unlike_are_followed() -> None:
    clock = StreamClock(name="x", one_late=False)
    for i in range(25 * 3600):
        now_s = 1000.0 + i / 25 * 1.0005
        clock.arrived(i / 25, now_s)
        assert -1e-6 <= now_s - clock.captured_s(i / 25, now_s) < 0.01


def test_a_clock_that_goes_back_starts_anew() -> None:
    clock = StreamClock(name="x", one_late=False)
    clock.arrived(500.0, 1000.0)
    clock.arrived(0.0, 1000.04)
    assert clock.captured_s(0.0, 1000.04) == pytest.approx(1000.04)
    clock.arrived(0.04, 1000.08)
    assert clock.captured_s(0.04, 1000.08) == pytest.approx(1000.08, abs=1e-3)


def test_a_packet_that_comes_with_the_next_one() -> None:
    clock = StreamClock(name="x", one_late=True)
    for i in range(10):
        clock.arrived(i / 10, 1000.0 + (i + 1) / 10)
    assert clock.captured_s(0.9, 1001.0) == pytest.approx(1000.9, abs=1e-3)


def test_frames_without_stamps_are_dated_by_their_arrival() -> None:
    clock = StreamClock(name="x", one_late=False)
    clock.arrived(None, 5.0)
    assert clock.captured_s(None, 5.0) == 5.0
    assert clock.captured_s(1.0, 5.0) == 5.0


def test_a_stream_that_falls_ever_farther_behind_is_lost() -> None:
    source = RtspSource("rtsp://h/x", SourceOptions(timeout_s=1.0), name="rtsp://h/x")
    source._start_clock("mjpeg")
    for i in range(100):
        now_s = 50.0 + i / 25 * 1.2
        source._note_packet(i / 25, now_s)
        age_s = now_s - source._captured_s(i / 25, now_s)
        assert age_s == pytest.approx(0.2 * i / 25, abs=0.02)
    source._note_packet(10.0, 65.0)
    with pytest.raises(SourceLostError, match="late by the stream's own clock"):
        source._captured_s(10.0, 65.0)


# Cameras


def opened_device(device: Path, **given: Any) -> EdgesegError:
    source = open_live_source(f"v4l2://{device}", SourceOptions(**given))
    with pytest.raises(EdgesegError) as caught, source:
        source.open()
    assert "\n" not in str(caught.value)
    assert str(device) in str(caught.value)
    return caught.value


def test_a_camera_that_is_not_there() -> None:
    error = opened_device(Path("/dev/video97"))
    assert isinstance(error, DataError) and not isinstance(error, SourceLostError)
    assert "there is no /dev/video97" in str(error)


def test_a_file_and_another_device_are_no_cameras(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"x" * 100)
    assert "no camera" in str(opened_device(path))
    assert "no camera" in str(opened_device(tmp_path))
    assert "not a video device" in str(opened_device(Path("/dev/null")))


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A video device's node without a device."""
    path = tmp_path / "video200"
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(81, 250))
    except OSError:
        pytest.skip("no permission to make a device's node")
    return path


def test_a_camera_that_was_unplugged(node: Path) -> None:
    try:
        os.close(os.open(node, os.O_RDWR))
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENODEV):
            pytest.skip(f"device nodes do not work here: {error}")
    error = opened_device(node)
    assert isinstance(error, SourceLostError)
    assert "no camera is connected" in str(error)


def test_no_permission_for_a_camera(node: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from edgeseg.live.sources import SourceOptions\n"
        "from edgeseg.live.sources.device import DeviceSource\n"
        "source = DeviceSource(Path(sys.argv[1]), SourceOptions(), name='camera')\n"
        "os.setuid(65534)\n"
        "try: source.open()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    for folder in node.parents:  # reachable, so that the node itself is what is refused
        if folder.is_relative_to(Path("/tmp")) and folder != Path("/tmp"):
            folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, str(node)],
        capture_output=True, text=True, timeout=HANG_S, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("DataError camera: no permission"), done.stdout + done.stderr
    assert "usermod" in done.stdout


def fake_camera(monkeypatch: pytest.MonkeyPatch, graph: str) -> dict[str, Any]:
    """Lets a filter graph of FFmpeg take the place of a device; returns what was asked for."""
    asked: dict[str, Any] = {}
    really_open = av.open

    def open_graph(file: str, **given: Any) -> Any:
        asked.update(given, file=file)
        return really_open(graph, format="lavfi")

    monkeypatch.setattr(DeviceSource, "_look_at", lambda self: None)
    monkeypatch.setattr(av, "open", open_graph)
    return asked


def test_what_is_asked_of_a_camera(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = fake_camera(monkeypatch, "color=c=blue:size=64x48:rate=50,realtime")
    device = tmp_path / "video0"
    device.touch()
    options = SourceOptions(width_px=128, height_px=96, rate=Fraction(30000, 1001), codec="mjpeg")
    with caplog.at_level(logging.INFO), open_live_source(f"v4l2://{device}", options) as source:
        source.open()
        frames = [next_frame(source) for _ in range(3)]
    assert asked["file"] == str(device)
    assert asked["format"] == "v4l2"
    assert asked["options"] == {
        "video_size": "128x96", "framerate": "30000/1001", "input_format": "mjpeg",
    }  # fmt: skip
    assert source.is_live
    assert frames[0].image.shape == (48, 64, 3)
    assert np.abs(frames[0].image.astype(int) - (255, 0, 0)).max() < 8
    assert "gives 64x48 instead of 128x96" in caplog.text
    assert "gives 50 frames per second instead of 29.97" in caplog.text
    assert "dated by their arrival" in caplog.text


def test_drivers_stamps() -> None:
    assert driver_time(99.96, 100.0, 5e9) == pytest.approx(99.96)
    assert driver_time(5e9 - 0.25, 100.0, 5e9) == pytest.approx(99.75)
    assert driver_time(100.5, 100.0, 5e9) is None
    assert driver_time(3.0, 100.0, 5e9) is None


def test_the_descriptor_of_a_path(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    assert descriptor_of(path) is None
    with path.open() as stream:
        assert descriptor_of(path) == stream.fileno()


def test_a_camera_that_stops_sending() -> None:
    options = SourceOptions(timeout_s=0.3)
    source = DeviceSource(Path("/dev/video0"), options, name="camera")
    fetcher = Fetcher(lambda fetcher: None, name="camera", waits=False)
    with pipe() as (receiving, writer):
        source._descriptor = receiving
        writer.write(b"x")
        source._await_data(fetcher)
        os.read(receiving, 1)
        with pytest.raises(SourceLostError, match="no frame for"):
            source._await_data(fetcher)


def test_what_a_driver_emptied_is_a_fault_and_no_end() -> None:
    source = DeviceSource(Path("/dev/video0"), SourceOptions(), name="camera")
    empty = av.Packet(0)
    empty.pts, empty.time_base = 50, Fraction(1, 100)
    assert source._next_packet(iter([empty])) is empty
    gate = DamageGate()
    assert source._decode(None, empty, gate) == []
    assert source.faults == 1
    assert not gate.passes(damaged=False, key=False, stamp_s=0.54)
    assert gate.passes(damaged=False, key=True, stamp_s=0.58)
    with pytest.raises(SourceLostError, match="ended"):
        source._next_packet(iter([av.Packet(0)]))
    with pytest.raises(SourceLostError, match="ended"):
        source._next_packet(iter([]))


def test_an_old_key_frame_opens_no_gate() -> None:
    gate = DamageGate()
    assert gate.passes(damaged=False, key=False, stamp_s=1.0)
    gate.damage(1.2)
    assert not gate.passes(damaged=False, key=True, stamp_s=1.1)
    assert not gate.passes(damaged=False, key=False, stamp_s=1.3)
    assert gate.passes(damaged=False, key=True, stamp_s=1.4)
    gate.damage(9.0)
    assert gate.passes(damaged=False, key=True, stamp_s=0.0)  # the clock started anew
    assert not gate.passes(damaged=True, key=True, stamp_s=0.1)


# Streams


class Recorded(StreamSource):
    """A file in the place of a stream."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="stream", timeout_s=HANG_S)
        self._path = path

    def _connect(self) -> Any:
        return av.open(str(self._path))

    def _start_clock(self, codec: str) -> None:
        return

    def _note_packet(self, stamp_s: float | None, now_s: float) -> None:
        time.sleep(5e-3)  # time for the test to take the frame before

    def _captured_s(self, stamp_s: float | None, now_s: float) -> float:
        return now_s


def read_recorded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Captured], EdgesegError, StreamSource]:
    monkeypatch.setattr(stream_module, "_LONGEST_QUEUE_S", 0.0)
    with Recorded(path) as source:
        source.open()
        frames, error = read_all(source)
    return frames, error, source


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mjpeg"])
def test_a_stream_loses_packets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    options = {"g": "15", "bf": "0"}
    if codec == "libx265":
        options = {"x265-params": "keyint=15:bframes=0:log-level=none"}
    whole = write_video(
        tmp_path / "a.mkv", frames=60, codec=codec, codec_options=options,
        pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p",
    )  # fmt: skip
    expected, _ = decode_all(whole)
    torn = tmp_path / "torn.mkv"
    with av.open(str(whole)) as given, av.open(str(torn), "w") as target:
        stream = given.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for number, packet in enumerate(given.demux(stream)):
            if packet.size == 0 or number == 20:
                continue
            packet.stream = copy
            target.mux(packet)
    frames, error, source = read_recorded(torn, monkeypatch)
    assert isinstance(error, SourceLostError)
    assert len(frames) >= 20
    assert source.skipped < 40
    check_clean(frames, expected)
    numbers = {number_of(frame.image) for frame in frames}
    if codec == "libx264":
        # From the loss to the next key frame nothing is shown, and everything after it again.
        assert not numbers & set(range(20, 30))
        assert source.faults >= 9
    assert numbers & set(range(45, 60))


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_key_frames_that_are_torn_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slices: int
) -> None:
    """Parameter sets before every slice of a key frame, as GStreamer's servers send them."""
    parameters = f"slices={slices}:keyint=12:bframes=0:scenecut=0:repeat-headers=1:aud=1"
    options = {"preset": "ultrafast", "x264-params": parameters}
    whole = write_video(tmp_path / "whole.h264", frames=60, codec_options=options)
    expected = decode_all_untimed(whole)
    sets = b""
    pieces = []
    for unit in between_start_codes(whole.read_bytes()):
        kind = unit[0] & 31
        if kind == 7:
            sets = b""
        if kind in (7, 8):
            sets += b"\0\0\0\1" + unit
        elif kind == 5 and not unit[1] & 0x80:
            pieces.append(sets)
        pieces.append(b"\0\0\0\1" + unit)
    torn = tmp_path / "torn.h264"
    torn.write_bytes(b"".join(pieces))
    frames, error, source = read_recorded(torn, monkeypatch)
    assert isinstance(error, SourceLostError)
    assert source.faults == 0
    assert len(frames) + source.skipped >= 59
    check_clean(frames, expected)


@pytest.mark.parametrize(
    "parameters",
    [
        "bframes=3:b-pyramid=normal:ref=5:keyint=12",
        "bframes=3:open-gop=1:keyint=10:scenecut=0",
        "bframes=2:interlaced=1:keyint=12",
        "slices=4:keyint=500:intra-refresh=1",
        "keyint=1",
        "keyint=200:ref=16:cqm=jvt",
    ],
)
@pytest.mark.parametrize("name", ["clip.ts", "clip.mkv"])
def test_whole_streams_have_no_gaps(tmp_path: Path, parameters: str, name: str) -> None:
    options = {"preset": "veryfast", "x264-params": parameters}
    path = write_video(tmp_path / name, frames=60, codec_options=options)
    expected, _ = decode_all(path)
    frames, error, source = play(str(path), FAST)
    assert isinstance(error, EndOfStreamError), error
    assert len(frames) == len(expected) == 60
    assert getattr(source, "faults") == 0  # noqa: B009


def test_real_clips_have_no_gaps(real_data: Path) -> None:
    clips = sorted((real_data / "clips").glob("*.mp4"))
    tried = 0
    for clip in clips:
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            gaps = H264Gaps(stream.codec_context.extradata)
            packets = [bytes(p) for p in container.demux(stream) if p.size]
        if stream.codec_context.name != "h264":
            continue
        tried += 1
        assert not any(gaps.missing(packet) for packet in packets)
        # The same with a reference frame left out.
        gaps = H264Gaps(stream.codec_context.extradata)
        references = [i for i, p in enumerate(packets) if is_reference(p)]
        lost = references[len(references) // 2]
        noticed = [gaps.missing(p) for i, p in enumerate(packets) if i != lost]
        assert any(noticed[lost : lost + 8])
        assert not any(noticed[:lost])
    assert tried


def is_reference(packet: bytes) -> bool:
    """Whether an H.264 packet of MP4 holds a frame that others refer to, and no key frame."""
    position = 0
    while position < len(packet):
        length = int.from_bytes(packet[position : position + 4], "big")
        kind = packet[position + 4]
        if kind & 31 in (1, 5):
            return bool(kind >> 5 & 3) and kind & 31 == 1
        position += 4 + length
    return False


@pytest.mark.parametrize("seed", range(20))
def test_anything_may_stand_in_a_packet(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gaps = H264Gaps(rng.bytes(40) if seed % 3 else b"\x01" + rng.bytes(40))
    for kind in (7, 8, 5, 1, 1):
        gaps.missing(b"\0\0\1" + bytes([0x60 | kind]) + rng.bytes(int(rng.integers(0, 80))))
        gaps.missing(rng.bytes(int(rng.integers(0, 80))))


# RTSP

SYSTEM_PYTHON = "/usr/bin/python3"
SECRET = "Zq7-hidden"


@functools.cache
def why_no_server() -> str | None:
    """Why no RTSP server can run here; None if one can."""
    code = (
        "import gi\n"
        "gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gst, GstRtspServer\n"
        "Gst.init(None)\n"
        "assert Gst.ElementFactory.find('x264enc'), 'no x264enc'\n"
    )
    try:
        done = subprocess.run(
            [SYSTEM_PYTHON, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False
        )
    except OSError as error:
        return str(error)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


class Server:
    """An RTSP server in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        reason = why_no_server()
        if reason is not None:
            pytest.skip(f"no RTSP server of GStreamer: {reason}")
        script = Path(__file__).with_name("rtsp_server.py")
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, str(script), *arguments], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        assert ready.startswith("ready "), ready
        self.url = ready.split()[1]
        self.port = int(self.url.split(":")[2].split("/")[0])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(HANG_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def serve(*arguments: str) -> Iterator[Server]:
    server = Server(*arguments)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


PATIENT = SourceOptions(timeout_s=30.0)


def lost(source: LiveSource) -> SourceLostError:
    """Read until the source says that it is lost."""
    _, error = read_all(source)
    assert isinstance(error, SourceLostError), error
    return error


def refused(url: str, **given: Any) -> EdgesegError:
    source = open_live_source(url, SourceOptions(**{"timeout_s": 20.0, **given}))
    with pytest.raises(EdgesegError) as caught, source:
        source.open()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_an_rtsp_stream(server: Server, transport: Any) -> None:
    with open_live_source(server.url, replace(PATIENT, transport=transport)) as source:
        source.open()
        assert (source.size, source.rate, source.is_live) == ((320, 240), 25, True)
        frames = [next_frame(source) for _ in range(20)]
    dates = [f.captured_s for f in frames]
    assert dates == sorted(set(dates))
    stamps = [f.media_s for f in frames]
    assert stamps == sorted(set(stamps))
    assert 0.0 <= stamps[0] < 5.0
    # The colour bars: white, yellow, cyan, green, magenta, red, blue.
    for frame in frames:
        bars = frame.image[40, [22, 68, 114, 160, 206, 252, 297]].astype(int)
        high = [[255] * 3, [0, 255, 255], [255, 255, 0], [0, 255, 0], [255, 0, 255]]
        wanted = np.array([*high, [0, 0, 255], [255, 0, 0]])
        assert np.abs(np.where(wanted > 0, 191, 0) - bars).max() < 80


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_frames_are_whole(codec: str) -> None:
    """The picture changes between black and white, and never is half and half."""
    arguments = ("--pattern", "blink", "--keyint", "5", "--fps", "20", "--codec", codec)
    with serve(*arguments) as server, open_live_source(server.url, PATIENT) as source:
        source.open()
        frames = [next_frame(source).image for _ in range(25)]
    means = [frame.mean() for frame in frames]
    assert max(means) - min(means) > 150
    for frame, mean in zip(frames, means, strict=True):
        assert np.abs(frame - mean).mean() < 8


def test_only_the_newest_frame_waits(server: Server) -> None:
    with open_live_source(server.url, PATIENT) as source:
        source.open()
        first = next_frame(source)
        before = getattr(source, "skipped")  # noqa: B009
        given_up_s = time.monotonic() + HANG_S
        while getattr(source, "skipped") < before + 10:  # noqa: B009
            assert time.monotonic() < given_up_s
            time.sleep(0.02)
        newest = next_frame(source)
        assert newest.media_s is not None and first.media_s is not None
        assert newest.media_s - first.media_s > 10 / 25
        assert newest.captured_s - first.captured_s > 0.3


@pytest.mark.parametrize("codec", ["h265", "mjpeg"])
def test_other_codecs(codec: str) -> None:
    with serve("--codec", codec) as server, open_live_source(server.url, PATIENT) as source:
        source.open()
        assert next_frame(source).image.shape == (240, 320, 3)


def test_a_server_that_stops_and_comes_back() -> None:
    with serve() as server:
        source = open_live_source(server.url, PATIENT)
        source.open()
        next_frame(source)
        server.stop()
        lost(source)
        source.close()
        with pytest.raises(SourceLostError, match="nothing listens"):
            source.open()
        source.close()
        with serve("--port", str(server.port), "--size", "160x120"):
            source.open()
            assert source.size == (160, 120)
            frame = next_frame(source)
            assert frame.image.shape == (120, 160, 3)
            assert frame.media_s is not None and 0.0 <= frame.media_s < 5.0
            source.close()


def test_a_stream_that_is_joined_in_the_middle() -> None:
    """The first frame is a whole one, although key frames come every two seconds only."""
    with serve("--keyint", "50") as server, open_live_source(server.url, PATIENT) as first:
        first.open()
        for _ in range(10):
            next_frame(first)
        with open_live_source(server.url, PATIENT) as second:
            second.open()
            assert second.size == (320, 240)
            other = next_frame(second)
        frame = next_frame(first)
        difference = np.abs(other.image[:150].astype(int) - frame.image[:150])
        assert np.percentile(difference, 95) < 30
        assert getattr(second, "faults") == 0  # noqa: B009


def test_a_server_that_ends_the_stream() -> None:
    with serve("--frames", "40") as server, open_live_source(server.url, PATIENT) as source:
        source.open()
        lost(source)


def test_a_server_that_falls_silent() -> None:
    with serve() as server, open_live_source(server.url, replace(PATIENT, timeout_s=2.0)) as source:
        source.open()
        next_frame(source)
        os.kill(server.process.pid, signal.SIGSTOP)
        given_up_s = time.monotonic() + HANG_S
        while (started_s := time.monotonic()) < given_up_s and source.read(0.1) is not None:
            pass
        assert time.monotonic() - started_s < 2.0
        lost(source)


def test_what_a_server_refuses(server: Server) -> None:
    error = refused(server.url.replace("/live", "/elsewhere"))
    assert isinstance(error, DataError) and not isinstance(error, SourceLostError)
    assert "404" in str(error)


def test_a_port_where_nothing_listens() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # taken, but not listened at
        error = refused(f"rtsp://me:{SECRET}@127.0.0.1:{holder.getsockname()[1]}/live")
    assert isinstance(error, SourceLostError)
    assert "nothing listens" in str(error) and SECRET not in str(error)


def test_a_host_that_nobody_knows() -> None:
    error = refused(f"rtsp://me:{SECRET}@camera.invalid/live")
    assert isinstance(error, SourceLostError)
    assert "camera.invalid" in str(error) and SECRET not in str(error)


def test_a_port_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started_s = time.monotonic()
        port = listener.getsockname()[1]
        error = refused(f"rtsp://127.0.0.1:{port}/live", timeout_s=1.0)
    assert isinstance(error, SourceLostError)
    assert "no answer within 1 s" in str(error)
    assert time.monotonic() - started_s < 20.0


def test_a_port_that_speaks_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"220 mail.example.org ESMTP\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        error = refused(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live", timeout_s=5.0)
        thread.join()
    assert isinstance(error, DataError)


def test_user_names_and_passwords(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serve("--login", f"me:{SECRET}@/") as server:
        bare = server.url.removeprefix("rtsp://")
        none = refused(server.url)
        wrong = refused(f"rtsp://me:{SECRET}x@{bare}")
        for error in (none, wrong):
            assert type(error) is DataError
            assert "401" in str(error)
        assert "USER:PASSWORD" in str(none)
        source = open_live_source(f"rtsp://me:{SECRET}%40%2F@{bare}", PATIENT)
        source.open()
        next_frame(source)
        server.stop()
        gone = lost(source)
        source.close()
        with pytest.raises(SourceLostError) as again:
            source.open()
    said = [source.name, caplog.text]
    for error in (none, wrong, gone, again.value):
        said += traceback.format_exception(error)
    assert SECRET not in "".join(said)


def test_frames_that_the_network_held_back_are_dated_as_old(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy holds everything back for a while: what comes then was captured before."""
    arrived: list[tuple[float, float]] = []
    really_put = Fetcher.put

    def put(self: Fetcher, captured: Captured) -> None:
        arrived.append((captured.captured_s, time.monotonic()))
        really_put(self, captured)

    monkeypatch.setattr(Fetcher, "put", put)
    held = threading.Event()
    let_go = threading.Event()
    done = threading.Event()

    def pump(source: socket.socket, target: socket.socket, may_hold: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if may_hold and held.is_set() and not let_go.is_set():
                    let_go.wait(HANG_S)
                target.sendall(data)

    def run(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", server.port))
            with near, far:
                threading.Thread(target=pump, args=(near, far, False), daemon=True).start()
                threading.Thread(target=pump, args=(far, near, True), daemon=True).start()
                done.wait(HANG_S)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=run, args=(listener,), daemon=True).start()
        url = f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live"
        with open_live_source(url, PATIENT) as source:
            source.open()
            for _ in range(25):
                next_frame(source)
            held.set()
            while source.read(0.2) is not None:
                pass
            time.sleep(1.5)
            count = len(arrived)
            let_go.set()
            given_up_s = time.monotonic() + HANG_S
            # New ones follow, and are dated as new.
            while len(arrived) == count or arrived[-1][1] - arrived[-1][0] > 0.5:
                assert time.monotonic() < given_up_s
                next_frame(source)
        done.set()
    dates = [date for date, _ in arrived]
    assert dates == sorted(set(dates))
    ages = [now_s - date for date, now_s in arrived[count:]]
    # The first ones stood in the network for a second and a half.
    assert max(ages[:5]) > 1.0
