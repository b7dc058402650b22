"""The page of a session's log: its figures against the log, its drawings, and hostile input."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import Page

import edgeseg
from edgeseg.cli import main
from edgeseg.errors import DataError, OutputError
from edgeseg.live.events import EventLog, read_events
from edgeseg.live.status import AgeFigures, LiveStatus, SinkStatus
from edgeseg.spec import to_json
from edgeseg.workflows import _event_sessions
from edgeseg.workflows._event_drawings import clock_words
from edgeseg.workflows._event_sessions import read_sessions
from edgeseg.workflows.event_report import EventReport, report_events


class Session:
    """Writes the log of a session whose clock is set by hand."""

    def __init__(self, log: EventLog, clock: list[float]) -> None:
        self.log = log
        self.clock = clock
        self.start_s = 0.0
        self.status = LiveStatus("none", "starting", "", "camera", True, 0.0, max_age_ms=300.0)

    def start(self, **more: Any) -> Session:
        self.start_s = self.clock[0]
        self.log(
            "start", source="v4l2:///dev/video0", sinks=["display://"], max_age_ms=300.0, **more
        )
        self.log("model", bundle="polyp.edgeseg", bundle_sha256="ab" * 32, family="segdino_v2")
        return self

    def at(self, time_s: float) -> Session:
        self.clock[0] = self.start_s + time_s
        assert self.log.flush(60)
        return self

    def state(self, state: str, reason: str | None = None, detail: str = "") -> Session:
        self.status = dataclasses.replace(self.status, state=state, reason=reason)
        self.log("state", state=state, reason=reason, detail=detail)
        return self

    def statistics(self, kind: str = "statistics", **values: Any) -> Session:
        self.status = dataclasses.replace(self.status, **values)
        more = {"why": "stopped"} if kind == "end" else {}
        self.log(kind, **to_json(self.status), **more)
        return self


@pytest.fixture
def clock() -> list[float]:
    return [500.0]


@pytest.fixture
def log(tmp_path: Path, clock: list[float]):
    with EventLog(tmp_path / "events.jsonl", clock=lambda: clock[0]) as log:
        yield log


def counted(captured: int, **dropped: int) -> dict[str, Any]:
    """Frames of which two were moved, three had the sign, one is in flight."""
    rest = captured - sum(dropped.values()) - 6
    return {
        "captured": captured,
        "shown": rest,
        "predicted": 2,
        "unmasked": 3,
        "in_flight": 1,
        "dropped": dropped,
    }


def short_session(log: EventLog, clock: list[float]) -> None:
    """Ten seconds: 1 s starting, 5 s current, 0.5 s moved, 2 s without signal, 1.5 s current."""
    session = Session(log, clock).start(policy="drop-oldest")
    session.at(1).state("current")
    session.at(4).statistics(
        **counted(100, busy=8),
        captured_fps=25.0,
        mask_fps=20.0,
        shown_fps=24.0,
        engine_ms=33.0,
        engine_busy=0.8,
        age_ms=60.0,
        ages=AgeFigures(80, 55.0, 70.0, 90.0, 120.0),
    )
    session.at(5).log("setting", name="opacity", value=0.25)
    session.at(6).state("predicted")
    session.at(6.5).state("none", "no signal", "for 0.5 s")
    log("source_lost", error="connection refused")
    session.at(8.5).state("current")
    log("source_back")
    log("fault", where="engine", error="out of <b>luck</b>")
    log("fault", where="engine", error="out of <b>luck</b>")
    log("sink", name="rtsp://host/x", error="gone")
    session.at(9).log("sink", name="rtsp://host/x", error=None)
    log("recording", file="a.mp4", error=None)
    log("views", views="2 of 6 views", why="frames take 50 ms, budget 40 ms")
    log("region", x_px=1, y_px=2, width_px=300, height_px=200, why="black borders")
    log("format", width_px=640, height_px=480)
    session.at(10).statistics(
        "end",
        **counted(200, busy=20, stopped=1),
        sinks=(SinkStatus("rtsp://host/x", 150, 20, "gone"),),
        reconnections=1,
        ages=AgeFigures(150, 56.0, 71.0, 95.0, 130.0),
    )
    assert log.flush(60)


@pytest.fixture
def report(log: EventLog, clock: list[float], tmp_path: Path) -> EventReport:
    short_session(log, clock)
    return report_events(tmp_path / "events.jsonl")


def page_of(report: EventReport) -> Page:
    return Page(report.output.read_text("utf-8"))


def test_the_summary_is_what_the_log_says(report: EventReport, tmp_path: Path) -> None:
    (one,) = report.sessions
    assert report.output == tmp_path / "events.html"
    assert (one.number, one.bundle, one.bundle_sha256) == (1, "polyp.edgeseg", "ab" * 32)
    assert one.lasted_s == 10.0 and one.complete and one.notes == ()
    assert one.current_share == pytest.approx(0.65, abs=1e-9)
    assert one.predicted_share == pytest.approx(0.05, abs=1e-9)
    # The moved mask is no current result.
    assert (one.longest_gap_s, one.longest_gap_at_s) == (2.5, 6.0)
    assert one.longest_unmasked_s == 2.0
    assert (one.captured, one.unaccounted) == (200, 0)
    columns, (row,) = report.table()
    assert len(columns) == len(row)
    assert row[2:] == ("10.0 s", "65.0 %", "2.50 s", "200", "all", "polyp.edgeseg")
    assert report.remarks() == [f"page: {report.output}"]


def test_the_page_says_it_all(report: EventReport) -> None:
    page = page_of(report)
    for fact in (
        "polyp.edgeseg",
        "ab" * 32,
        "v4l2:///dev/video0",
        "with a current result 65.0 %",
        "longest without one 2.50 s from 0:06 on; without any mask, moved ones included, 2.00 s",
        "age of masks, median 56 ms p99 95 ms, longest 130 ms, limit 300 ms",
        "frames 200 all accounted for",
        "current 6.50 s 65.0 %",
        "predicted 0.50 s 5.0 %",
        "no signal 2.00 s 20.0 %",
        "starting 1.00 s 10.0 %",
        "All 200 frames are accounted for",
        "dropped: busy 20 10.0 %",
        "together 200",
        "engine out of <b>luck</b> 2 8.5 s 8.5 s",
        "rtsp://host/x 150 20 gone",
        "source lost connection refused",
        "setting opacity = 0.25",
        "views 2 of 6 views: frames take 50 ms, budget 40 ms",
        "region 300x200 at 1, 2: black borders",
        "format 640x480 pixels",
        "recording a.mp4",
        "policy drop-oldest",
        "family segdino_v2",
        "limit 300 ms",
        "Not a medical device",
    ):
        assert fact in page.text, fact
    assert len(page.attributes("svg")) == 7


def test_the_page_needs_nothing_else(report: EventReport) -> None:
    html = report.output.read_text("utf-8")
    page = Page(html)
    assert not {"script", "link", "iframe", "img", "object"} & {name for name, _ in page.tags}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in html and "@import" not in html


def boxes(svg: str, colour: str) -> list[tuple[float, float, float, float]]:
    """x, y, width and height of the boxes of one colour."""
    found = re.findall(rf'<path style="fill:var\({colour}\)[^"]*" d="([^"]*)"', svg)
    return [
        tuple(float(number) for number in box)
        for path in found
        for box in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)", path)
    ]


def test_the_band_is_drawn_to_scale(report: EventReport) -> None:
    band = re.search(r"<svg.*?</svg>", report.output.read_text("utf-8"), re.DOTALL).group()
    # 1000 units are 10 s; the plot begins at 64. The upper band is the one that is higher up.
    lost = [box for box in boxes(band, "--series-1") if box[1] < 50]
    assert min(x for x, *_ in lost) == pytest.approx(64 + 650, abs=6)
    assert max(x + width for x, _, width, _ in lost) == pytest.approx(64 + 850, abs=6)
    current = [box for box in boxes(band, "--series-0") if box[1] < 50]
    area = sum(width * height for _, _, width, height in current)
    assert area / (1000 * 64) == pytest.approx(0.65, abs=0.03)


def test_a_moment_of_many_hours_can_be_seen(log: EventLog, clock: list[float], tmp_path) -> None:
    session = Session(log, clock).start()
    session.state("current")
    session.at(7 * 3600).state("none", "engine failed")
    session.at(7 * 3600 + 0.04).state("current")
    session.at(8 * 3600).statistics("end")
    assert log.flush(60)
    report = report_events(tmp_path / "events.jsonl")
    band = re.search(r"<svg.*?</svg>", report.output.read_text("utf-8"), re.DOTALL).group()
    (low,) = [box for box in boxes(band, "--series-5") if box[1] > 80]
    assert low[0] == pytest.approx(64 + 875, abs=3) and low[2] >= 1.0 and low[3] == 16
    assert report.sessions[0].longest_gap_s == pytest.approx(0.04, abs=1e-5)
    assert report.table()[1][0][3] == "99.99 %", "rounded up to all of the time"


def test_frames_that_are_not_accounted_for_are_said_loudly(log, clock, tmp_path) -> None:
    session = Session(log, clock).start()
    session.at(1).statistics(**counted(50))
    session.at(2).statistics("end", **{**counted(100), "captured": 103})
    assert log.flush(60)
    report = report_events(tmp_path / "events.jsonl")
    assert report.sessions[0].unaccounted == 3
    assert report.table()[1][0][6] == "NO: +3"
    assert "FRAMES ARE NOT ACCOUNTED FOR" in report.remarks()[0]
    page = page_of(report)
    assert page.text.count("FRAMES ARE NOT ACCOUNTED FOR") == 2
    assert "NOT ALL ACCOUNTED FOR" in page.text and "+3 at 2.0 s" in page.text
    warnings = [a for a in page.attributes("p") if a.get("class") == "warning"]
    assert len(warnings) == 3, "one of them is on every page"


def test_an_imbalance_in_the_middle_is_not_forgotten(log, clock, tmp_path) -> None:
    session = Session(log, clock).start()
    session.at(1).statistics(**{**counted(50), "shown": 1})
    session.at(2).statistics("end", **counted(100))
    assert log.flush(60)
    report = report_events(tmp_path / "events.jsonl")
    assert report.sessions[0].unaccounted == 0
    assert "+43 at 1.0 s" in report.remarks()[0]


def test_several_sessions_have_a_section_each(log, clock, tmp_path) -> None:
    for _ in range(3):
        short_session(log, clock)
        clock[0] += 60
    Session(log, clock).start().at(2).state("current").at(5).statistics(**counted(60))
    assert log.flush(60)
    report = report_events(tmp_path / "events.jsonl")
    assert [one.number for one in report.sessions] == [1, 2, 3, 4]
    assert [one.lasted_s for one in report.sessions] == [10.0, 10.0, 10.0, 5.0]
    assert [one.complete for one in report.sessions] == [True, True, True, False]
    assert report.remarks()[0].startswith("session 4: the log ends without an end")
    page = page_of(report)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert {f"session-{i}" for i in range(1, 5)} <= set(ids)
    assert len(ids) == len(set(ids))
    assert len(page.attributes("svg")) == 7 * 3 + 4


def test_events_that_were_lost_leave_the_state_unknown(log, clock, tmp_path) -> None:
    session = Session(log, clock).start()
    session.state("current").at(2)
    path = tmp_path / "events.jsonl"
    session.at(10).statistics(state="none", reason="no signal")
    session.at(12).statistics("end")
    assert log.flush(60)
    lines = path.read_text().splitlines()
    gap = {**json.loads(lines[2]), "number": None, "kind": "gap", "s": 10.0}
    gap["data"] = {"since_s": 4.0, "lost": {"state": 2, "fault": 1}, "error": "no space left"}
    later = [json.loads(line) for line in lines[3:]]
    for record in later:
        record["number"] += 3
    path.write_text("\n".join([*lines[:3], json.dumps(gap), *map(json.dumps, later)]) + "\n")
    report = report_events(path, force=True)
    (one,) = report.sessions
    assert one.current_share == pytest.approx(4 / 12)
    assert not one.complete and "3 events could not be written" in one.notes[0]
    assert (one.longest_gap_s, one.longest_gap_at_s) == (8.0, 4.0)
    page = page_of(report)
    assert "not recorded 6.00 s 50.0 %" in page.text
    assert "1 fault, 2 state not written: no space left" in page.text


def test_lines_that_were_removed_are_missed(log, clock, tmp_path) -> None:
    short_session(log, clock)
    path = tmp_path / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    (cut,) = [i for i, line in enumerate(lines) if '"no signal"' in line and '"state"' in line][:1]
    path.write_text("".join(lines[:cut] + lines[cut + 2 :]))
    (one,) = report_events(path).sessions
    assert not one.complete
    assert "2 events are missing from the log without a word" in one.notes[0]
    assert one.current_share == pytest.approx(0.65)
    (session,) = read_sessions(read_events(path))
    assert session.state_s["not recorded"] == pytest.approx(2.5)


def test_a_log_that_was_set_aside_is_one_session(tmp_path, clock) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, clock=lambda: clock[0], max_bytes=1 << 16) as log:
        session = Session(log, clock).start()
        session.state("current")
        for i in range(1, 80):
            session.at(i).statistics(**counted(10 * i), detail="x" * 300)
        session.at(80).statistics("end")
    assert (tmp_path / "events.jsonl.1").is_file()
    (one,) = report_events(path).sessions
    assert one.complete and one.lasted_s == 80.0 and one.current_share == 1.0
    (tmp_path / "events.jsonl.1").unlink()
    (late,) = report_events(path, force=True).sessions
    assert not late.complete and late.bundle == "polyp.edgeseg"
    assert "does not hold the beginning" in late.notes[0]
    assert late.lasted_s == 80.0 and late.current_share == 1.0


def test_a_session_that_still_runs_can_be_looked_at(log, clock, tmp_path) -> None:
    Session(log, clock).start()
    assert log.flush(60)
    report = report_events(tmp_path / "events.jsonl")
    assert report.sessions[0].lasted_s == 0.0
    assert "killed" in report.remarks()[0]
    page_of(report)


def test_hours_of_restlessness_stay_small_and_exact(tmp_path: Path) -> None:
    rng = random.Random(0)
    reasons = ["no signal", "result too old", "engine failed", None]
    path = tmp_path / "events.jsonl"
    time_s, state, number, shares = 0.0, "starting", 1, {}
    with path.open("w") as stream:

        def note(kind: str, number: int, **data: Any) -> None:
            record = {"time": "2026-11-21T20:25:19.123Z", "s": time_s, "number": number}
            stream.write(json.dumps({**record, "kind": kind, "data": data}) + "\n")

        note("start", 0)
        while time_s < 2 * 3600:
            step_s = rng.expovariate(2.0)
            shares[state] = shares.get(state, 0.0) + step_s
            time_s += step_s
            reason = rng.choice(reasons)
            state = reason or "current"
            note("state", number, state="none" if reason else "current", reason=reason)
            number += 1
            if number % 7 == 0:
                note("fault", number, where="engine", error=f"error {number}")
                number += 1
        note("end", number, why="stopped")
    report = report_events(path)
    (one,) = report.sessions
    assert one.current_share == pytest.approx(shares["current"] / time_s, rel=1e-6)
    assert report.output.stat().st_size < 1_000_000
    (session,) = read_sessions(read_events(path))
    assert 500 <= len(session.line.columns) <= 1000
    drawn = {}
    for column in session.line.columns:
        for name, seconds in column.states.items():
            drawn[name] = drawn.get(name, 0.0) + seconds
    assert drawn == pytest.approx(shares, rel=1e-6)
    assert len(session.all_marks) + session.left_out_marks == session.mark_count > 1500
    page = page_of(report)
    assert "events are left out" in page.text and "other kinds are left out" in page.text


def test_drops_keep_their_sum_whatever_the_columns(log, clock, tmp_path) -> None:
    session = Session(log, clock).start()
    for i in range(1, 31):
        session.at(10.0 * i).statistics(**counted(1000 * i, busy=7 * i, old=max(0, i - 5)))
    assert log.flush(60)
    (found,) = read_sessions(read_events(tmp_path / "events.jsonl"))
    sums: dict[str, float] = {}
    for column in found.line.columns:
        for cause, count in column.drops.items():
            sums[cause] = sums.get(cause, 0.0) + count
    assert sums == pytest.approx({"busy": 210.0, "old": 25.0})


HOSTILE = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(1)>&\ud800\x00\n"


def test_everything_of_the_log_is_escaped(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "events.jsonl"
    kinds = ["state", "fault", "setting", "region", "views", "sink", "recording", "source_lost"]
    kinds += ["format", "engine_restarted", "gap", "continued", "model", "end", HOSTILE]
    fields = ["state", "reason", "detail", "where", "error", "name", "value", "x_px", "y_px"]
    fields += ["width_px", "height_px", "why", "views", "file", "bundle", "bundle_sha256", "source"]
    record = {"time": "2026-11-21T20:25:19.123Z", "s": 1.0, "number": None}
    data = {**dict.fromkeys(fields, HOSTILE), HOSTILE: HOSTILE, "dropped": {HOSTILE: 3}}
    data.update(captured=3, shown=0, predicted=0, unmasked=0, in_flight=0)
    data["sinks"] = [{"name": HOSTILE, "written": HOSTILE, "dropped": {}, "error": HOSTILE}]
    lines = [{**record, "kind": kind, "data": data} for kind in ["start", *kinds]]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    page = page_of(report_events(path))
    names = {name for name, _ in page.tags}
    assert not {"script", "img"} & names
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "\x00" not in page.text


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
STATUS = to_json(LiveStatus("none", None, "", "", True, 0.0))
KINDS = "start model state statistics end fault source_lost source_back sink recording gap format"


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_values_make_a_page(data, tmp_path_factory) -> None:
    lines = []
    for _ in range(data.draw(st.integers(1, 8))):
        values = {
            name: data.draw(JUNK)
            for name in data.draw(st.sets(st.sampled_from([*STATUS, "why", "error", "since_s"])))
        }
        values["lost"] = data.draw(JUNK)
        lines.append(
            {
                "time": "2026-11-21T20:25:19Z",
                "s": data.draw(st.floats(0, 1e9) | st.floats(0, 100)),
                "number": data.draw(st.none() | st.integers(-5, 1 << 70)),
                "kind": data.draw(st.sampled_from(KINDS.split()) | st.text(max_size=5)),
                "data": {**STATUS, **values} if data.draw(st.booleans()) else values,
            }
        )
    path = tmp_path_factory.getbasetemp() / "junk.jsonl"
    path.write_text("\n".join(json.dumps(line, allow_nan=True) for line in lines) + "\n")
    try:
        report = report_events(path, force=True)
    except DataError as error:
        assert "NaN" in path.read_text() or "Infinity" in path.read_text(), error
    else:
        page_of(report)
        assert all(0.0 <= one.current_share <= 1.0 for one in report.sessions)
        assert "nan" not in report.output.read_text().lower().replace("nance", "")


def test_bad_input_is_one_clear_line(tmp_path: Path, log: EventLog, clock: list[float]) -> None:
    path = tmp_path / "events.jsonl"
    with pytest.raises(DataError, match="holds no events"):
        report_events(path)
    with pytest.raises(DataError, match=r"nothing\.jsonl is not there"):
        report_events(tmp_path / "nothing.jsonl")
    short_session(log, clock)
    report_events(path)
    with pytest.raises(OutputError, match="exists already"):
        report_events(path)
    with pytest.raises(DataError, match="the log itself"):
        report_events(path, path, force=True)
    before = path.with_suffix(".html").read_bytes()
    with path.open("ab") as stream:
        stream.write(b"nonsense\n")
    with pytest.raises(DataError, match="line"):
        report_events(path, force=True)
    assert path.with_suffix(".html").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.html", "events.jsonl"]


def test_the_verb_prints_the_summary_and_the_page(log, clock, tmp_path, capsys) -> None:
    short_session(log, clock)
    path, page = tmp_path / "events.jsonl", tmp_path / "out" / "page.html"
    assert main(["report", str(path), "-o", str(page)]) == 0
    shown = capsys.readouterr().out
    for words in ("polyp.edgeseg", "65.0 %", "2.50 s", "all", f"page: {page}"):
        assert words in shown
    assert main(["report", str(path), "-o", str(page)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["report", str(path), "-o", str(page), "--force", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["report", str(tmp_path / "no.jsonl")]) == 1


def test_it_is_part_of_the_interface() -> None:
    assert edgeseg.report_events is report_events


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0:00"), (0.25, "0.25 s"), (59, "0:59"), (61.4, "1:01"), (3725, "1:02:05")],
)
def test_times_since_the_start(seconds: float, words: str) -> None:
    assert clock_words(seconds) == words


def test_a_browser_draws_it(report: EventReport, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium to draw the page with")
    picture = tmp_path / "page.png"
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    arguments += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,2400"]
    arguments += ["--disable-background-networking", "--hide-scrollbars"]
    subprocess.run(
        [browser, *arguments, f"--screenshot={picture}", report.output.as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    drawn = cv2.imread(str(picture))
    blue, orange = (0x8A, 0x5C, 0x0B), (0x0C, 0x41, 0xC2)  # BGR of current, and of no signal
    for colour in (blue, orange):
        assert (abs(drawn.astype(int) - colour).max(axis=2) <= 3).sum() > 5000, colour


def test_what_is_read_are_fields_of_a_status() -> None:
    fields = set(STATUS)
    assert {*_event_sessions._RATES, *_event_sessions._COUNTS} <= fields
    assert {"state", "reason", "dropped", "ages", "engine_busy", "sinks"} <= fields
    assert {"reconnections", "max_age_ms"} <= fields
    assert set(_event_sessions._AGES) <= {field.name for field in dataclasses.fields(AgeFigures)}


def test_times_are_those_of_the_start(report: EventReport) -> None:
    (one,) = report.sessions
    assert abs((datetime.now(timezone.utc) - one.began_utc).total_seconds()) < 3600
