"""The log of a session: what is in it, what happens when it cannot be written, who can read it."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import DataError, OutputError
from edgeseg.live import events
from edgeseg.live.events import MAX_LINE_BYTES, Event, EventLog, log_files, read_events
from edgeseg.live.status import AgeFigures, Events, LiveStatus, SinkStatus
from edgeseg.spec import RoiSpec, to_json

LINE = '{"time":"2026-11-21T20:25:19.123Z","s":1.5,"number":0,"kind":"state","data":{}}\n'


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def written(path: Path) -> list[Event]:
    return list(read_events(path))


def test_a_session_reads_back_as_it_was(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "new" / "events.jsonl"
    status = LiveStatus(
        "none",
        "no signal",
        "for 2 s",
        "camera",
        False,
        12.0,
        frame_size_px=(640, 480),
        dropped={"busy": 3},
        ages=AgeFigures(5, 10.0, 20.0, 30.0, 40.0),
        sinks=(SinkStatus("a", 1, 2),),
        region=RoiSpec(1, 2, 3, 4),
    )
    with EventLog(path, clock=clock) as log:
        note: Events = log
        note("start", bundle="a.edgeseg", settings={"rate": Fraction(25, 2)})
        clock.now_s += 1.25
        note("statistics", **to_json(status))
        note("statistics", status=status)
        clock.now_s += 1
        note("end", why="end of stream")
    found = written(path)
    assert [event.kind for event in found] == ["start", "statistics", "statistics", "end"]
    assert [event.number for event in found] == [0, 1, 2, 3]
    assert [event.since_start_s for event in found] == [0.0, 1.25, 1.25, 2.25]
    assert [event.line for event in found] == [1, 2, 3, 4]
    assert found[0].data["schema"] == 1 and found[0].data["settings"] == {"rate": 12.5}
    assert found[1].data == to_json(status) == found[2].data["status"]
    assert found[3].time_utc.utcoffset().total_seconds() == 0.0
    for line in path.read_text("ascii").splitlines():
        assert json.loads(line)["time"].endswith("Z")


def test_what_json_cannot_hold_is_null_or_named_and_never_pixels(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log(
            "fault",
            nan=math.nan,
            inf=[math.inf, np.float32("-inf")],
            number=np.int64(7),
            picture=np.full((40, 40, 3), 173, np.uint8),
            bytes=b"\xad" * 100,
            many=[173] * 10_000,
            path=Path("/a/b"),
            error=ValueError("bad"),
            half="\udcff\ud800",
        )
    (event,) = written(path)
    data = event.data
    assert data["nan"] is None and data["inf"] == [None, None] and data["number"] == 7
    assert data["picture"] == "<ndarray>" and data["bytes"] == "<bytes>"
    assert len(data["many"]) == 201 and data["many"][-1] == "10000 in all"
    assert data["path"] == "/a/b" and data["error"] == "ValueError: bad" and data["half"] == "??"


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


class BadError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_nothing_that_is_handed_over_raises(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    ring: list[object] = []
    ring.append(ring)
    log = EventLog(path)
    log("ring", ring=ring)
    log("odd", error=BadError(), thing=Unprintable())
    log("keys", **{"a\nb": {1: 2, (3,): 4}})
    log("long", text="x" * 10**6, number=1 << 80)
    log("huge", **{f"k{i}": "y" * 2000 for i in range(150)})
    log("after")
    log.close()
    log("closed")
    log.close()
    found = {event.kind: event.data for event in written(path)}
    assert set(found) == {"ring", "keys", "long", "huge", "after"}
    assert found["keys"]["a\nb"] == {"1": 2, "(3,)": 4}
    assert len(found["long"]["text"]) < 2100 and found["long"]["number"] == "<int>"
    assert "left_out" in found["huge"]
    assert log.lost == 1


def test_many_threads_write_whole_lines_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        threads = [
            threading.Thread(target=lambda k=k: [log("n", thread=k, i=i) for i in range(200)])
            for k in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.flush(60)
        found = written(path)
    assert [event.number for event in found] == list(range(1600))
    assert all(a.since_start_s <= b.since_start_s for a, b in itertools.pairwise(found))
    for k in range(8):
        assert [e.data["i"] for e in found if e.data["thread"] == k] == list(range(200))


def test_sessions_are_appended_and_count_from_their_own_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    clock = Clock()
    with EventLog(path, clock=clock) as log:
        log("start")
        log("end")
    before = path.read_bytes()
    clock.now_s += 50
    with EventLog(path, clock=clock) as log:
        assert path.read_bytes() == before
        clock.now_s += 3
        log("start")
        log("end")
    assert path.read_bytes().startswith(before)
    assert [(e.kind, e.number, e.since_start_s) for e in written(path)] == [
        ("start", 0, 0.0),
        ("end", 1, 0.0),
    ] * 2


def test_a_log_cut_anywhere_is_read_up_to_there_and_can_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log("start", name="one")
        log("state", state="none", reason="starting")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kinds = [event.kind for event in read_events(path)]
        # A line is whole with its last brace; the end of the line may be missing.
        assert kinds == ["start", "state"][: (size >= first - 1) + (size >= len(whole) - 1)]
        if size % 7 == 0 or size in (1, first, first + 1):
            with EventLog(path) as log:
                log("start", name="two")
            with EventLog(path) as log:
                log("start", name="three")
            torn = ["torn"] if size >= len('{"time":') and size != first else []
            assert [e.kind for e in read_events(path)] == [*kinds, *torn, "start", "start"]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for bad in ("oops\n", "\n", "[]\n", LINE.replace("1.5", "NaN"), LINE.replace("1.5", "-1")):
        for text in (LINE + bad + LINE, LINE + bad):
            path.write_text(text)
            with pytest.raises(DataError, match=r"events\.jsonl, line 2: "):
                list(read_events(path))
    path.write_text(LINE + "a" * (MAX_LINE_BYTES + 5))
    with pytest.raises(DataError, match="line 2: longer than 65536 bytes"):
        list(read_events(path))
    path.write_text(LINE + "bad\n" + LINE + "tor")
    with pytest.raises(DataError, match="line 2"):
        list(read_events(path))


@pytest.mark.parametrize("make", ["missing", "folder", "pipe"])
def test_what_is_no_file_cannot_be_read(tmp_path: Path, make: str) -> None:
    path = tmp_path / "events.jsonl"
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    with pytest.raises(DataError, match=r"not a file|not there"):
        list(read_events(path))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_line_is_an_event_or_a_data_error(data, tmp_path_factory) -> None:
    record = json.loads(LINE)
    for key in data.draw(st.sets(st.sampled_from([*record, "more"]))):
        record[key] = data.draw(VALUES)
    line = json.dumps(record).encode() if data.draw(st.booleans()) else data.draw(st.binary())
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(LINE.encode() + line + b"\n" + LINE.encode())
    try:
        found = list(read_events(path))
    except DataError as error:
        assert "line" in str(error) and "\n" not in str(error)
    else:
        assert all(0 <= event.since_start_s <= 1e9 for event in found)


def test_numbers_beyond_all_bounds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for value in ("1e400", "1" + "0" * 500, "1" * 5000, "[" * 5000):
        path.write_text(LINE.replace("1.5", value))
        with pytest.raises(DataError, match="line 1"):
            list(read_events(path))


SECRETS = st.text("abcXYZ019!$%*+~/:@", min_size=6, max_size=12).filter(
    lambda text: not set("XYZ") & set(text[:1])
)


@settings(max_examples=60, deadline=None)
@given(secret=SECRETS, user=st.sampled_from(["bob", ""]))
def test_credentials_never_reach_the_file(secret, user, tmp_path_factory) -> None:
    marked = f"Q7{secret}7Q"
    path = tmp_path_factory.mktemp("secret") / "events.jsonl"
    with EventLog(path) as log:
        log("a", uri=f"rtsp://{user}:{marked}@host/x", list=[f"see rtsp://{user}:{marked}@host ."])
        log("b", error=OSError(f"cannot open rtsp://{user}:{marked}@host:554/path"))
        log("c", token=marked, nested={"password": marked, f"http://u:{marked}@h": 1})
        word = marked.replace("&", "").replace("#", "")
        log("d", text=f"http://host/x?token={word}&y=1", header=f"password = '{word}'")
    text = path.read_text()
    assert "Q7" not in text and "7Q" not in text
    assert "rtsp://***@host/x" in text and "token=***&y=1" in text


def test_what_is_no_secret_stays(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    kept = ["http://127.0.0.1:8080/", "/dev/video0", "udp://host:5000", "token expired", "a@b.c"]
    kept += ["test://640x480@15"]
    with EventLog(path) as log:
        log("a", values=kept, token=None)
    (event,) = written(path)
    assert event.data == {"values": kept, "token": None}


@pytest.fixture
def small_files() -> Iterator[list]:
    """Sets the largest size that a file may have, which fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)


def test_a_full_disk_is_survived_counted_and_said(tmp_path, small_files, caplog) -> None:
    path = tmp_path / "events.jsonl"
    clock = Clock()
    with EventLog(path, clock=clock) as log:
        log("start")
        clock.now_s += 1
        log("state", state="current")
        assert log.flush()
        before = path.read_bytes()
        with caplog.at_level(logging.WARNING):
            small_files(len(before) + 40)  # in the middle of the next line
            for _ in range(5):
                clock.now_s += 1
                log("statistics", text="x" * 300)
            log("fault", where="engine")
            assert log.flush()
            assert path.read_bytes() == before, "half a line was left"
            assert log.lost == 6
            warnings = [r for r in caplog.records if "cannot be written" in r.getMessage()]
            assert len(warnings) == 1
            small_files(None)
            clock.now_s += 1
            log("state", state="none")
            assert log.flush()
        assert "6 events are missing" in caplog.text
        log("end")
    found = written(path)
    assert [event.kind for event in found] == ["start", "state", "gap", "state", "end"]
    gap = found[2]
    assert gap.number is None and gap.since_start_s == 7.0
    assert gap.data["since_s"] == 2.0 and gap.data["lost"] == {"statistics": 5, "fault": 1}
    assert gap.data["error"]
    assert [event.number for event in found if event.number is not None] == [0, 1, 8, 9]


def test_a_gap_at_the_end_is_noted_by_close(tmp_path, small_files) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log("start")
    assert log.flush()
    small_files(1)
    log("end", why="stopped")
    assert log.flush()
    small_files(None)
    log.close()
    assert [event.kind for event in written(path)] == ["start", "gap"]
    assert written(path)[1].data["lost"] == {"end": 1}


def test_a_removed_folder_is_made_again(tmp_path) -> None:
    path = tmp_path / "logs" / "events.jsonl"
    with EventLog(path) as log:
        log("start")
        assert log.flush()
        shutil.rmtree(path.parent)
        log("state", state="current")
        assert log.flush()
        assert [event.kind for event in read_events(path)] == ["state"]


def test_a_disk_that_hangs_does_not_hold_up_the_session(tmp_path, monkeypatch, caplog) -> None:
    free, entered, write = threading.Event(), threading.Event(), os.write

    def hanging(file: int, data: bytes) -> int:
        entered.set()
        assert free.wait(60)
        return write(file, data)

    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    monkeypatch.setattr(events.os, "write", hanging)
    monkeypatch.setattr(events, "_CLOSE_TIMEOUT_S", 0.05)
    try:
        log("start")
        assert entered.wait(60)
        for _ in range(events._WAITING + 10):
            log("n")
        assert log.lost == 10 and not log.flush(0.05)
        log.close()
        assert "the disk hangs" in caplog.text
    finally:
        free.set()
    log._thread.join(60)
    found = written(path)
    kinds = [event.kind for event in found]
    assert kinds.count("n") == events._WAITING and kinds.count("gap") == 1
    (gap,) = [event for event in found if event.kind == "gap"]
    assert gap.data["lost"] == {"n": 10} and "keep up" in gap.data["error"]


def test_a_killed_process_leaves_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    code = (
        "import sys\nfrom edgeseg.live.events import EventLog\nlog = EventLog(sys.argv[1])\n"
        "for i in range(50):\n    log('n', i=i)\nassert log.flush(60)\nprint('ready', flush=True)\n"
        "while True:\n    log('n', i=-1)\n    log.flush(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    with EventLog(path) as log:
        log("start")
    found = written(path)
    assert [event.data["i"] for event in found[:50]] == list(range(50))
    assert found[-1].kind == "start"


def test_a_log_that_reached_its_size_is_set_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.with_name("events.jsonl.1").write_text(LINE)
    limit = MAX_LINE_BYTES
    with EventLog(path, max_bytes=limit) as log:
        log("start", bundle="a.edgeseg")
        for i in range(100):
            log("n", i=i, text="x" * 1000)
    old, new = log_files(path)
    assert (old.name, new) == ("events.jsonl.1", path)
    assert old.stat().st_size <= limit and new.stat().st_size <= limit
    found = [event for file in (old, new) for event in read_events(file)]
    assert [event.data["i"] for event in found if event.kind == "n"] == list(range(100))
    (link,) = [event for event in found if event.kind == "continued"]
    assert link.line == 1 and link.data["bundle"] == "a.edgeseg"
    assert link.data["before"] == "events.jsonl.1"
    with EventLog(path, max_bytes=limit) as log:
        for i in range(200):
            log("n", i=i, text="x" * 1000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.jsonl", "events.jsonl.1"]


def test_a_log_alone_is_its_own_files(tmp_path: Path) -> None:
    assert log_files(tmp_path / "a.jsonl") == (tmp_path / "a.jsonl",)


def test_two_sessions_do_not_write_one_log(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path), pytest.raises(OutputError, match="another session writes"):
        EventLog(path)
    EventLog(path).close()


def test_what_is_no_log_is_left_alone(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(b"\0\0\0\x18ftyp" * 10)
    with pytest.raises(OutputError, match="is no event log"):
        EventLog(video)
    assert video.read_bytes() == b"\0\0\0\x18ftyp" * 10
    os.mkfifo(tmp_path / "pipe")
    for bad in (tmp_path, tmp_path / "pipe", video / "events.jsonl", Path("/dev/null")):
        with pytest.raises(OutputError):
            EventLog(bad)
