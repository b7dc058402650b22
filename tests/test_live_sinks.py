"""Recordings that survive, raw frames, and sinks by their names."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown_pictures import shown
from video_files import decode_all, number_of, numbered_frame

from edgeseg.errors import InputError, OutputError, UsageError
from edgeseg.live.outlets import Outlets
from edgeseg.live.sinks import SinkOptions, open_live_sink, open_live_sinks
from edgeseg.live.sinks.growing_file import GrowingFile
from edgeseg.live.sinks.masks import MaskFolderSink, MaskLinesSink, read_masks
from edgeseg.live.sinks.raw import RawSink, letterbox
from edgeseg.live.sinks.recording import RecordingSink, Timeline, new_recording

REPOSITORY = Path(__file__).resolve().parents[1]
PATIENCE_S = 60.0
SUFFIXES = (".mp4", ".mov", ".mkv", ".ts")
START_S = 5000.0


def played(path: Path) -> tuple[list[int], list[float], list[tuple[int, int]]]:
    """Numbers, times in seconds and sizes of the pictures up to where the file breaks off."""
    numbers, times, sizes = [], [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        with contextlib.suppress(av.error.InvalidDataError):
            for frame in container.decode(stream):
                image = frame.to_ndarray(format="bgr24")
                numbers.append(number_of(image))
                times.append(float(frame.pts * stream.time_base))
                sizes.append(image.shape[1::-1])
    return numbers, times, sizes


def boxes(path: Path) -> list[bytes]:
    """Kinds of the boxes of an MP4 file, which must end with the last one."""
    data, place, kinds = path.read_bytes(), 0, []
    while place < len(data):
        kinds.append(data[place + 4 : place + 8])
        place += int.from_bytes(data[place : place + 4], "big")
    assert place == len(data)
    return kinds


def irregular(count: int) -> list[float]:
    """Times at which frames are captured, 10 to 90 ms apart."""
    rng = np.random.default_rng(3)
    return [START_S + t for t in np.cumsum(rng.uniform(0.01, 0.09, count)).round(4).tolist()]


# Recordings: what is in them


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_recording_plays_with_the_times_of_capture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    captured = irregular(80)
    with RecordingSink(path, rate=Fraction(20)) as sink:
        for number, at_s in enumerate(captured):
            sink.write(shown(number, at_s))
    images, times = decode_all(path)
    assert [number_of(image) for image in images] == list(range(80))
    error = np.abs(np.array(times, float) - float(times[0]) - np.array(captured) + captured[0])
    assert error.max() <= (0.0006 if suffix == ".mkv" else 0.00002)
    # The picture is what was shown, to what H.264 makes of it.
    difference = np.abs(images[40].astype(int) - numbered_frame(40, 160, 96))
    assert difference.mean() < 12
    with av.open(str(path)) as container:
        duration_s = container.duration / 1e6
        assert container.streams.video[0].codec_context.name == "h264"
    assert captured[-1] - captured[0] <= duration_s < captured[-1] - captured[0] + 0.5


def test_a_finished_mp4_has_one_index(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with RecordingSink(path) as sink:
        for number in range(60):
            sink.write(shown(number, number / 25))
    assert boxes(path).count(b"moov") == 1
    assert b"moof" not in boxes(path)


def test_key_frames_come_every_two_seconds_whatever_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with RecordingSink(path, rate=Fraction(60)) as sink:
        for number in range(50):
            sink.write(shown(number, number / 5))  # ten seconds
    with av.open(str(path)) as container:
        keys = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.is_keyframe]
    assert len(keys) >= 5
    assert max(np.diff(keys)) <= 2.2 + 1e-6


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_other_encoders_have_the_same_colours(codec: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    image = np.full((48, 64, 3), (30, 200, 90), np.uint8)
    picture = shown(0, width=64, height=48)
    object.__setattr__(picture, "picture", image)
    with RecordingSink(path, codec=codec) as sink:
        assert sink.encoder == codec
        sink.write(picture)
    images, _ = decode_all(path)
    assert len(images) == 1
    assert np.abs(images[0].astype(int) - image).max() <= 6


@pytest.mark.parametrize("codec", [None, "mjpeg"])
def test_odd_sizes_are_made_even(codec: str | None, tmp_path: Path) -> None:
    with RecordingSink(tmp_path / "a.mp4", codec=codec) as sink:
        sink.write(shown(5, width=161, height=97))
    assert played(tmp_path / "a.mp4") == ([5], [0.0], [(162, 98)])


@pytest.mark.parametrize("force", [False, True])
def test_another_size_begins_another_part(
    force: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a-2.mp4").write_text("of yesterday")
    sizes = [(160, 96)] * 5 + [(192, 112)] * 6 + [(160, 96)] * 7
    with caplog.at_level(logging.INFO), RecordingSink(tmp_path / "a.mp4", force=force) as sink:
        for number, (width, height) in enumerate(sizes):
            sink.write(shown(number, number / 10, width=width, height=height))
        assert [path.name for path in sink.parts] == ["a.mp4", "a-3.mp4", "a-4.mp4"]
    assert (tmp_path / "a-2.mp4").read_text() == "of yesterday"
    for path, first, count in zip(sink.parts, (0, 5, 11), (5, 6, 7), strict=True):
        numbers, times, found = played(path)
        assert numbers == list(range(first, first + count))
        assert times == pytest.approx([i / 10 for i in range(count)], abs=1e-4)
        assert set(found) == {sizes[first]}
    assert "a-3.mp4: pictures are 192x112 after 160x96" in caplog.text


def test_a_part_ends_before_file_systems_do(tmp_path: Path) -> None:
    with RecordingSink(tmp_path / "a.mkv", part_bytes=100_000, codec="mjpeg") as sink:
        for number in range(60):
            sink.write(shown(number, number / 10))
    assert len(sink.parts) > 1
    assert [n for path in sink.parts for n in played(path)[0]] == list(range(60))
    for path in sink.parts:
        assert path.stat().st_size < 200_000


def test_one_picture_is_a_video_and_none_is_no_file(tmp_path: Path) -> None:
    with RecordingSink(tmp_path / "one.mp4") as sink:
        sink.write(shown(9))
    assert played(tmp_path / "one.mp4")[0] == [9]
    with RecordingSink(tmp_path / "none.mp4"):
        assert (tmp_path / "none.mp4").exists(), "the name is taken at once"
    assert not (tmp_path / "none.mp4").exists()


def test_a_recording_begins_with_the_first_frame(tmp_path: Path) -> None:
    with RecordingSink(tmp_path / "a.mp4") as sink:
        for number in range(5):
            sink.write(shown(number, 0.0, index=-1, width=64, height=48, shown_s=700.0 + number))
        for number in range(5, 10):
            sink.write(shown(number, 700.0 + number / 10, index=number - 5))
    assert sink.parts == (tmp_path / "a.mp4",)
    numbers, times, _ = played(tmp_path / "a.mp4")
    assert numbers == [5, 6, 7, 8, 9]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=1e-4)


def test_closing_twice_and_writing_afterwards(tmp_path: Path) -> None:
    sink = RecordingSink(tmp_path / "a.mp4")
    sink.write(shown(0))
    sink.close()
    sink.close()
    with pytest.raises(OutputError, match="closed"):
        sink.write(shown(1))
    assert played(tmp_path / "a.mp4")[0] == [0]


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    picture = shown(0)
    object.__setattr__(picture, "picture", np.zeros((4, 4), np.uint8))
    with RecordingSink(tmp_path / "a.mp4") as sink, pytest.raises(InputError, match="uint8"):
        sink.write(picture)


# Recordings: what happens to them


CHILD = """
import sys
from pathlib import Path
from shown_pictures import shown
from edgeseg.live.sinks.recording import RecordingSink

sink = RecordingSink(Path(sys.argv[1]))
number = 0
while True:
    sink.write(shown(number, 1000 + number / 25))
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_killed_recording_plays_up_to_its_last_second(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY / "tests",
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if int(line) >= 100:
                break
    finally:
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
        child.stdout.close()
        child.wait(PATIENCE_S)
    assert child.returncode == -signal.SIGKILL
    complete = [int(text) for text in rest.decode().split("\n")[:-1] if text]
    last = max([100, *complete])
    numbers, times, _ = played(path)
    assert numbers == [number % 256 for number in range(len(numbers))]
    assert len(numbers) >= last - 25, "at most a second is missing"
    assert times == pytest.approx([n / 25 for n in range(len(times))], abs=0.001)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_recording_plays_while_it_is_made_and_cut_anywhere(suffix: str, tmp_path: Path) -> None:
    path, copy = tmp_path / f"a{suffix}", tmp_path / f"copy{suffix}"
    lengths = []
    with RecordingSink(path) as sink:
        for number in range(90):
            sink.write(shown(number, number / 25))
            lengths.append(path.stat().st_size)
            if number in (20, 89):
                copy.write_bytes(path.read_bytes())
                numbers, _, _ = played(copy)
                assert numbers == list(range(len(numbers)))
                assert number - 15 <= len(numbers) <= number + 1
        data = path.read_bytes()
    rng = np.random.default_rng(1)
    for length in rng.integers(lengths[20], len(data), 12):
        copy.write_bytes(data[:length])
        numbers, _, _ = played(copy)
        written = sum(size <= length for size in lengths)
        assert written - 32 <= len(numbers) <= 90
        # The last picture may be torn; those before are what they were.
        assert numbers[:-1] == list(range(len(numbers) - 1))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except OSError as error:
        pytest.skip(f"cannot mount: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=60)


def noisy(number: int) -> Any:
    """A picture that does not compress, with its number."""
    picture = shown(number, number / 5, width=320, height=240)
    image = np.random.default_rng(number).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    image[:16, :128] = numbered_frame(number % 256, 320, 240)[:16, :128]
    object.__setattr__(picture, "picture", image)
    return picture


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_one_error_and_the_file_plays(suffix: str, small_disk: Path) -> None:
    path = small_disk / f"a{suffix}"
    sink = RecordingSink(path, keep_free_mb=0)
    offered = 0
    with pytest.raises(OutputError) as told:
        for offered in range(500):
            sink.write(noisy(offered))
    assert str(told.value).startswith(f"cannot write {path}: the disk is full: free some space")
    assert "\n" not in str(told.value)
    with pytest.raises(OutputError, match="closed"):
        sink.write(noisy(0))
    sink.close()
    numbers, _, _ = played(path)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= offered - 6
    assert len(numbers) > 6


def test_a_full_disk_ends_one_outlet_with_one_note(small_disk: Path, tmp_path: Path) -> None:
    notes: list[tuple[str, dict[str, Any]]] = []
    outlets = Outlets(wait=True, events=lambda kind, /, **data: notes.append((kind, data)))
    outlets.add(RecordingSink(small_disk / "a.mp4", keep_free_mb=0))
    outlets.add(RecordingSink(tmp_path / "b.mp4"))
    for number in range(40):
        outlets.offer(noisy(number))
    assert outlets.close(PATIENCE_S) == ()
    full, whole = outlets.status()
    assert full.error.startswith(f"cannot write {small_disk / 'a.mp4'}: the disk is full")
    assert 0 < full.written < 40
    assert full.written + full.dropped == 40
    assert (whole.error, whole.written) == ("", 40)
    assert notes == [("sink", {"name": str(small_disk / "a.mp4"), "error": full.error})]
    assert len(played(tmp_path / "b.mp4")[0]) == 40


def test_a_full_disk_tears_no_line_of_masks(small_disk: Path) -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (96, 160), dtype=np.uint8)
    sink = MaskLinesSink(small_disk / "m.jsonl", classes=("polyp",), keep_free_mb=0)
    with sink, pytest.raises(OutputError, match="the disk is full"):
        for number in range(1000):
            sink.write(shown(number, mask=mask))
    data = (small_disk / "m.jsonl").read_bytes()
    assert data.endswith(b"\n")
    assert len(list(read_masks(small_disk / "m.jsonl"))) == data.count(b"\n") > 10
    folder = MaskFolderSink(small_disk / "m", classes=("polyp",), keep_free_mb=0)
    (small_disk / "fill").write_bytes(b"")
    with contextlib.suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as fill:
        while True:
            fill.write(bytes(4096))
    with folder, pytest.raises(OutputError, match="the disk is full"):
        folder.write(shown(0, mask=mask))
    assert os.listdir(small_disk / "m") == []


def test_a_recording_stops_whole_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_mb = [100.0]

    class Disk:
        f_frsize = 4096

        def __init__(self, target: object) -> None:
            self.f_bavail = int(free_mb[0] * 1e6 / 4096)

    monkeypatch.setattr(os, "statvfs", Disk)
    sink = RecordingSink(tmp_path / "a.mp4")
    for number in range(20):
        sink.write(shown(number, number / 25))
    free_mb[0] = 63.0
    with pytest.raises(OutputError, match="63 MB are left on its disk, and 64 MB are kept free"):
        sink.write(shown(20, 20 / 25))
    assert played(tmp_path / "a.mp4")[0] == list(range(21))
    assert b"moof" not in boxes(tmp_path / "a.mp4"), "it has its index"
    with pytest.raises(OutputError, match="kept free"):
        RecordingSink(tmp_path / "b.mp4")
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.fixture
def largest_file() -> Iterator[int]:
    """No file of this process may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        yield 400_000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_may_not_grow_is_cut_back_to_whole_pieces(
    largest_file: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.mp4"
    sink = RecordingSink(path)
    with pytest.raises(OutputError, match="as large as its disk allows"):
        for number in range(200):
            sink.write(noisy(number))
    assert 0 < path.stat().st_size < largest_file
    images, _ = decode_all(path)  # to the very end, without an error
    assert [number_of(image) for image in images] == list(range(len(images)))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_whose_end_does_not_fit_plays_without_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    sink = RecordingSink(path)
    for number in range(60):
        sink.write(shown(number, number / 25))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OutputError, match=f"cannot write .*a{suffix}"):
            sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == size, "it ends with its last whole piece"
    images, _ = decode_all(path)  # to the very end, without an error
    assert [number_of(image) for image in images] == list(range(len(images)))
    assert len(images) >= 60 - 15


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_nothing_follows_a_piece_that_is_missing(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    sink = RecordingSink(path)
    for number in range(30):
        sink.write(shown(number, number / 25))
    size, append = path.stat().st_size, GrowingFile.append
    failures = [OutputError("the disk was full for a moment")]

    def append_later(self: GrowingFile, piece: bytes) -> None:
        if failures:
            raise failures.pop()
        append(self, piece)

    monkeypatch.setattr(GrowingFile, "append", append_later)
    with pytest.raises(OutputError, match="for a moment"):
        for number in range(30, 60):
            sink.write(shown(number, number / 25))
    assert not failures
    sink.close()
    assert path.stat().st_size == size
    images, _ = decode_all(path)
    assert [number_of(image) for image in images] == list(range(len(images)))


def test_a_deleted_file_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "day"
    sink = RecordingSink(folder / "a.mp4")
    for number in range(30):
        sink.write(shown(number, number / 25))
    (folder / "a.mp4").unlink()
    folder.rmdir()
    with pytest.raises(OutputError, match="deleted"):
        for number in range(30, 90):
            sink.write(shown(number, number / 25))
    sink.close()


def test_nothing_is_overwritten_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        RecordingSink(path)
    assert path.read_bytes() == b"precious"
    with path.open("rb") as reader, RecordingSink(path, force=True) as sink:
        sink.write(shown(1))
        assert reader.read() == b"precious", "whoever reads the old file keeps it"
    assert played(path)[0] == [1]
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises(OutputError, match="no file"):
        RecordingSink(tmp_path / "b.mp4", force=True)


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot write .*a\.mp4"):
        RecordingSink(tmp_path / "file" / "a.mp4")
    with RecordingSink(tmp_path / "new" / "folders" / "a.mp4") as sink:
        sink.write(shown(0))
    assert played(tmp_path / "new" / "folders" / "a.mp4")[0] == [0]
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody who may not write")
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(OutputError, match="choose a folder that you may write to") as told:
            GrowingFile(tmp_path / "denied.mp4", force=False)
    finally:
        os.seteuid(0)
    assert "\n" not in str(told.value)


def test_recordings_are_named_by_the_clock_and_never_collide(tmp_path: Path) -> None:
    now = time.mktime((2026, 11, 21, 20, 31, 14, 0, 0, -1))
    sinks = [new_recording(tmp_path / "day", now + 0.9 * part, rate=None) for part in (0, 1)]
    for number, sink in enumerate(sinks):
        sink.write(shown(number))
        sink.close()
    assert sorted(os.listdir(tmp_path / "day")) == [
        "recording_2026-11-21_20-31-14.2.mp4",
        "recording_2026-11-21_20-31-14.mp4",
    ]
    assert [played(sink.path)[0] for sink in sinks] == [[0], [1]]


# Encoders


def test_the_encoder_in_use_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), RecordingSink(tmp_path / "a.mp4") as sink:
        assert sink.encoder == "libx264"
    assert "H.264 (libx264)" in caplog.text
    caplog.clear()
    monkeypatch.setattr(av, "codecs_available", {"mpeg4", "mjpeg"})
    with caplog.at_level(logging.INFO), RecordingSink(tmp_path / "b.mp4") as sink:
        assert sink.encoder == "mpeg4"
        sink.write(shown(4))
    assert "libx264: this build of PyAV does not have it" in caplog.text
    assert played(tmp_path / "b.mp4")[0] == [4]
    with pytest.raises(OutputError, match="libx264: this build of PyAV does not have it"):
        RecordingSink(tmp_path / "c.mp4", codec="h264")
    assert not (tmp_path / "c.mp4").exists()


def test_an_encoder_that_does_not_work_here_is_an_error_before_the_file_is_made(
    tmp_path: Path,
) -> None:
    # No machine of ours has this one: it needs a V4L2 device that encodes.
    if any(Path("/dev").glob("video*")):
        pytest.skip("there are V4L2 devices, one of which may encode")
    with pytest.raises(OutputError, match="h264_v4l2m2m") as told:
        RecordingSink(tmp_path / "a.mp4", codec="h264_v4l2m2m")
    assert "\n" not in str(told.value)
    assert os.listdir(tmp_path) == []


def test_codecs_and_suffixes_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown codec 'divx'"):
        RecordingSink(tmp_path / "a.mp4", codec="divx")
    with pytest.raises(UsageError, match=r"\.mp4, \.mov"):
        RecordingSink(tmp_path / "a.avi")
    with pytest.raises(OutputError, match="MPEG-TS does not carry it"):
        RecordingSink(tmp_path / "a.ts", codec="mjpeg")
    assert os.listdir(tmp_path) == []


# Times


def test_a_frame_that_is_shown_again_moves_on_by_the_time_that_passed() -> None:
    line = Timeline()
    assert line.place(shown(0, 10.0)) == 0.0
    assert line.place(shown(1, 10.04)) == pytest.approx(0.04)
    # No signal: the last frame is shown again for two seconds, then there are new ones.
    for step in range(1, 21):
        again = shown(1 + step, 10.04, index=1, shown_s=10.09 + step / 10)
        assert line.place(again) == pytest.approx(0.04 + step / 10)
    assert line.place(shown(30, 12.5)) == pytest.approx(2.5)


def test_media_times_go_on_where_a_file_begins_again() -> None:
    line = Timeline(media_times=True, step_s=0.04)
    media = [0.0, 0.04, 0.08, 0.0, 0.04, 7.0]
    places = [
        line.place(shown(n, 100.0 + n / 1000, media_s=m, segment=n // 3))
        for n, m in enumerate(media)
    ]
    assert places == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16, 7.12])
    assert line.place(shown(6, 100.1)) == pytest.approx(7.16)  # one without a stamp
    assert line.place(shown(7, 100.2, media_s=7.2, segment=1)) == pytest.approx(7.2)


FRAMES = st.lists(
    st.tuples(
        st.floats(-1e4, 1e6),
        st.one_of(st.none(), st.floats(-1e4, 1e6)),
        st.integers(-1, 5),
        st.integers(0, 1),
        st.floats(0, 1e6),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(frames=FRAMES, media=st.booleans())
def test_time_never_runs_backwards(frames: list[Any], media: bool) -> None:
    line = Timeline(media_times=media)
    picture = shown(0)
    last_s = 0.0
    for captured_s, media_s, index, segment, shown_s in frames:
        frame = type(picture.frame)(index, picture.frame.image, captured_s, media_s, segment)
        at_s = line.place(
            type(picture)(
                0, frame, picture.picture, None, "none", "starting", "", None, None, 0.0, shown_s
            )
        )
        assert at_s >= last_s
        last_s = at_s


@settings(deadline=None)
@given(steps=st.lists(st.floats(0.001, 100.0), min_size=1, max_size=30), media=st.booleans())
def test_times_that_grow_are_kept(steps: list[float], media: bool) -> None:
    line = Timeline(media_times=media)
    at_s = 0.0
    assert line.place(shown(0, 50.0, media_s=3.0)) == 0.0
    for number, step in enumerate(steps, 1):
        at_s += step
        stamp = {"media_s": 3.0 + at_s} if media else {"media_s": None}
        captured_s = 50.0 if media else 50.0 + at_s
        assert line.place(shown(number, captured_s, **stamp)) == pytest.approx(at_s)


# Raw frames


RAW = """
import sys
from shown_pictures import shown
from edgeseg.errors import OutputError
from edgeseg.live.sinks.raw import RawSink

sink = RawSink()
print("printed by a library")
try:
    sink.write(shown(0, index=-1, width=64, height=48))
    for number in range(int(sys.argv[1])):
        sink.write(shown(number, width=320 if number == 2 else 160, height=96))
except OutputError as error:
    print(error)
sink.close()
print("printed afterwards")
"""


def raw_child(*arguments: str, **pipes: Any) -> subprocess.Popen[bytes]:
    pipes = {"stderr": subprocess.PIPE, **pipes}
    return subprocess.Popen(
        [sys.executable, "-c", RAW, *arguments],
        cwd=REPOSITORY / "tests",
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        **pipes,
    )


def test_raw_frames_have_standard_output_to_themselves() -> None:
    child = raw_child("4", stdout=subprocess.PIPE)
    out, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0
    assert err.decode().splitlines() == ["printed by a library", "printed afterwards"]
    frames = np.frombuffer(out, np.uint8).reshape(4, 96, 160, 3)
    for number in (0, 1, 3):
        np.testing.assert_array_equal(frames[number], numbered_frame(number, 160, 96))
    # The one that was twice as wide lies in the middle, on black.
    assert not frames[2][:24].any()
    assert not frames[2][72:].any()
    wide = numbered_frame(2, 320, 96).reshape(48, 2, 160, 2, 3).mean((1, 3))
    assert np.abs(frames[2][24:72] - wide).max() <= 0.51


def test_a_reader_that_goes_away_is_one_clear_line() -> None:
    child = raw_child("100000", stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    assert len(child.stdout.read(1000)) == 1000
    child.stdout.close()
    err = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(PATIENCE_S) == 0
    assert err.splitlines()[1] == (
        "standard output was closed by the program that read the raw frames: look there why"
    )


def test_raw_frames_are_no_use_on_a_terminal() -> None:
    leader, follower = pty.openpty()
    child = raw_child("1", stdout=follower)
    _, err = child.communicate(timeout=PATIENCE_S)
    os.close(follower)
    os.close(leader)
    assert "UsageError: raw frames on a terminal" in err.decode()


def test_raw_frames_and_messages_must_not_mix() -> None:
    child = raw_child("1", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = child.communicate(timeout=PATIENCE_S)
    assert "UsageError: raw frames and messages would mix" in out.decode()
    child = raw_child("3", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert child.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (400, 3), (1, 1), (160, 96)])
def test_letterboxed_pictures_keep_their_proportions(size: tuple[int, int]) -> None:
    white = np.full((96, 160, 3), 255, np.uint8)
    result = letterbox(white, size)
    assert result.shape == (size[1], size[0], 3)
    lit = result.any(2)
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    assert lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    scale = min(size[0] / 160, size[1] / 96)
    assert abs(len(columns) - 160 * scale) <= 1
    assert abs(len(rows) - 96 * scale) <= 1
    margins = rows[0], size[1] - 1 - rows[-1], columns[0], size[0] - 1 - columns[-1]
    assert abs(margins[0] - margins[1]) <= 1
    assert abs(margins[2] - margins[3]) <= 1


# By name


def test_sinks_are_opened_by_name(tmp_path: Path) -> None:
    options = SinkOptions(classes=("polyp",), rate=Fraction(30), force=True)
    texts = [
        str(tmp_path / "a.mp4"),
        f"file://{tmp_path}/b.mkv",
        f"mask://{tmp_path}/masks",
        f"mask://{tmp_path}/m.jsonl",
    ]
    sinks = open_live_sinks(texts, options)
    assert [type(sink) for sink in sinks] == [
        RecordingSink,
        RecordingSink,
        MaskFolderSink,
        MaskLinesSink,
    ]
    for sink in sinks:
        with sink:
            sink.write(shown(0, mask=np.ones((96, 160), np.uint8)))
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mkv", "m.jsonl", "masks"]
    with pytest.raises(OutputError, match="exists already"):
        open_live_sink(texts[0])


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("-", SinkOptions(codec="h264"), "'codec' means nothing for raw frames"),
        ("-", SinkOptions(force=True), "'force' means nothing for raw frames"),
        ("display://", SinkOptions(keep_free_mb=1), "'keep_free_mb' means nothing for a window"),
        ("mask://m", SinkOptions(codec="h264"), "'codec' means nothing for masks"),
        ("mask://m", SinkOptions(), "names of the model's classes"),
        ("a.mp4", SinkOptions(codec="divx"), "unknown codec"),
        ("a.avi", SinkOptions(), "sinks are"),
        ("rtsp://host/live", SinkOptions(force=True), "'force' means nothing for an RTSP stream"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    text: str, options: SinkOptions, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told):
        open_live_sink(text, options)
    assert os.listdir(tmp_path) == []


def test_options_in_common_must_fit_one_of_several_sinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = SinkOptions(codec="mpeg4", force=True, classes=("polyp",))
    recording, masks = open_live_sinks(["a.mp4", "mask://m.jsonl"], options)
    assert isinstance(recording, RecordingSink)
    assert recording.encoder == "mpeg4"
    recording.close()
    masks.close()
    with pytest.raises(UsageError, match="'codec' means nothing for masks"):
        open_live_sinks(["mask://m.jsonl"], options)
    for twin in ("file://a.mp4", "./a.mp4", str(tmp_path / "a.mp4")):
        with pytest.raises(UsageError, match="given twice"):
            open_live_sinks(["a.mp4", twin])
    # One that cannot be opened: those before leave nothing behind.
    (tmp_path / "b.mp4").write_text("x")
    with pytest.raises(OutputError, match="exists already"):
        open_live_sinks(["a.mp4", "b.mp4"])
    assert os.listdir(tmp_path) == ["b.mp4"]


def test_what_is_read_is_not_replaced_even_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "procedure.mp4"
    source.write_bytes(b"precious")
    (tmp_path / "link.mp4").symlink_to(source)
    options = SinkOptions(force=True, protected=(source,))
    for text in ("procedure.mp4", "./procedure.mp4", "file://procedure.mp4", "link.mp4"):
        with pytest.raises(UsageError, match="is what is read"):
            open_live_sink(text, options)
        with pytest.raises(UsageError, match="is what is read"):
            open_live_sinks(["other.mp4", text], options)
    assert source.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["link.mp4", "procedure.mp4"]


@pytest.mark.parametrize("options", [{"keep_free_mb": -1}, {"rate": Fraction(0)}])
def test_values_that_no_sink_can_have_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SinkOptions(**options)


def test_a_full_session_into_files_loses_nothing(tmp_path: Path) -> None:
    outlets = Outlets(wait=True)
    for sink in open_live_sinks(
        [str(tmp_path / "a.mp4"), f"mask://{tmp_path}/m.jsonl"], SinkOptions(classes=("polyp",))
    ):
        outlets.add(sink)
    mask = np.ones((96, 160), np.uint8)
    for number in range(60):
        outlets.offer(shown(number, number / 25, mask=mask if number % 3 else None))
    assert outlets.close(PATIENCE_S) == ()
    assert played(tmp_path / "a.mp4")[0] == list(range(60))
    lines = list(read_masks(tmp_path / "m.jsonl"))
    assert [line.number for line in lines] == list(range(60))
    assert [line.mask is not None for line in lines] == [bool(n % 3) for n in range(60)]


def test_standard_output_can_be_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    kept = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)
    try:
        with open_live_sink("-") as sink:
            assert isinstance(sink, RawSink)
            sink.write(shown(0, width=8, height=4))
            assert sink.size == (8, 4)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    with os.fdopen(reader, "rb") as stream:
        assert stream.read() == numbered_frame(0, 8, 4).tobytes()
