"""``report``: the page of a live session's log (``edgeseg.live.events``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from edgeseg import __version__
from edgeseg._files import atomic_file, check_output
from edgeseg._html import code, document, facts, figures, table, text
from edgeseg.errors import DataError
from edgeseg.live.events import Event, log_files, read_events
from edgeseg.workflows import _event_drawings as drawings
from edgeseg.workflows._event_drawings import Series, clock_words, order_of_states
from edgeseg.workflows._event_sessions import CURRENT, PREDICTED, Mark, SessionLog, read_sessions

__all__ = ["EventReport", "SessionSummary", "report_events"]

_DRAWN = 20
"""Sessions that are drawn, the last ones; of the others there is a row each."""
_MAX_ROWS = 500
_NONE = "-"
_COLUMNS = (
    "session",
    "began (UTC)",
    "lasted",
    "current",
    "longest without",
    "frames",
    "accounted for",
    "bundle",
)


@dataclass(frozen=True)
class SessionSummary:
    """What can be said of one session in a row."""

    number: int
    """Its place in the log, from 1 on."""
    began_utc: datetime
    bundle: str
    """"" if the log does not say."""
    bundle_sha256: str
    lasted_s: float
    current_share: float
    """Part of the time during which a current result was shown, 0 to 1."""
    predicted_share: float
    """Part of the time with a mask that was moved to a newer picture, 0 to 1."""
    longest_gap_s: float
    """The longest time without a current result; a moved mask is none."""
    longest_gap_at_s: float
    """When it began, since the start."""
    longest_unmasked_s: float
    """The longest time without any mask, moved ones included."""
    captured: int | None
    """Frames; None if the log does not say."""
    unaccounted: int | None
    """Captured frames minus those of which it is known what became of them; 0 is right."""
    complete: bool
    """The log holds its beginning and its end, and every event in between."""
    notes: tuple[str, ...]
    """What to know before believing the figures, in words."""


@dataclass(frozen=True)
class EventReport:
    """What ``report_events`` found."""

    sessions: tuple[SessionSummary, ...]
    """In the order of the log."""
    output: Path

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows for a person: a row a session, the last ones if there are very many."""
        return _COLUMNS, [_row(one) for one in self.sessions[-_MAX_ROWS:]]

    def remarks(self) -> list[str]:
        """What to know before believing the figures, and where the page is."""
        several = len(self.sessions) > 1
        lines = [
            f"{f'session {one.number}: ' if several else ''}{note}"
            for one in self.sessions[-_DRAWN:]
            for note in one.notes
        ]
        return [*lines, f"page: {self.output}"]


def report_events(
    path: str | Path, output: str | Path | None = None, *, force: bool = False
) -> EventReport:
    """Write the page of a live session's log.

    The page is one file without scripts: state, age, rates, drops and what happened over time, and
    whether every frame is accounted for. A log of many hours gives a page of the same size. What
    was set aside as ``NAME.1`` is read first.

    Args:
        path: the log, of a session that ended or still runs.
        output: the page; None for the log's name with the suffix ``.html``.
        force: replace an existing page.

    Raises:
        DataError: the log cannot be read, or has no events; names the line.
        OutputError: the page exists already, or cannot be written.
    """
    path = Path(path)
    output = path.with_suffix(".html") if output is None else Path(output)
    if output.absolute() == path.absolute():
        raise DataError(f"{path} is the log itself: choose another name for the page")
    check_output(output, force=force)
    summaries: list[SessionSummary] = []
    drawn: deque[SessionLog] = deque(maxlen=_DRAWN)
    for session in read_sessions(_events(path)):
        summaries.append(_summary(session))
        drawn.append(session)
    if not summaries:
        raise DataError(f"{path} holds no events: has a session been logged there?")
    page = _page(path.name, summaries, tuple(drawn))
    with atomic_file(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return EventReport(tuple(summaries), output)


def _events(path: Path) -> Iterator[Event]:
    for file in log_files(path):
        yield from read_events(file)


def _summary(session: SessionLog) -> SessionSummary:
    notes = list(session.notes)
    if session.balance is None:
        notes.append("the log does not say how many frames there were")
    elif session.balance or session.unbalanced_count:
        notes.append(_unbalanced(session))
    return SessionSummary(
        number=session.number,
        began_utc=session.start_utc,
        bundle=session.bundle,
        bundle_sha256=session.bundle_sha256,
        lasted_s=session.lasted_s,
        current_share=session.share(CURRENT),
        predicted_share=session.share(PREDICTED),
        longest_gap_s=session.without_current.longest_s,
        longest_gap_at_s=session.without_current.longest_at_s,
        longest_unmasked_s=session.without_mask.longest_s,
        captured=session.counts.get("captured"),
        unaccounted=session.balance,
        complete=session.ended and not (session.begins_late or session.lost or session.missing),
        notes=tuple(notes),
    )


def _unbalanced(session: SessionLog) -> str:
    moments = ", ".join(session.unbalanced)
    more = session.unbalanced_count - len(session.unbalanced)
    return (
        f"FRAMES ARE NOT ACCOUNTED FOR: captured less all that is known of them is {moments}"
        f"{f' and {more} times more' if more else ''}; this is a defect of edgeseg"
    )


def _row(one: SessionSummary) -> tuple[str, ...]:
    accounted = _NONE
    if one.unaccounted is not None:
        accounted = "all" if one.unaccounted == 0 else f"NO: {one.unaccounted:+d}"
    return (
        str(one.number),
        f"{one.began_utc:%Y-%m-%d %H:%M:%S}",
        _duration(one.lasted_s),
        _percent(one.current_share),
        _duration(one.longest_gap_s),
        _NONE if one.captured is None else f"{one.captured:,}",
        accounted,
        one.bundle or _NONE,
    )


def _page(name: str, summaries: Sequence[SessionSummary], drawn: Sequence[SessionLog]) -> str:
    if len(summaries) == 1:
        sections = [("glance", "At a glance", _glance(drawn[0])), *_parts(drawn[0])]
    else:
        rows = [[text(cell) for cell in _row(one)] for one in summaries[-_MAX_ROWS:]]
        caption = "Sessions in this log"
        if len(summaries) > len(rows):
            caption += f"; {len(summaries) - len(rows)} earlier ones are left out"
        if len(summaries) > len(drawn):
            caption += f"; the last {len(drawn)} are drawn below"
        overview = table(caption, _COLUMNS, rows, frozenset(range(2, 7)))
        sections = [("glance", "Sessions", overview)]
        for session in drawn:
            parts = "".join(
                f'<h3 id="{key}-{session.number}">{text(title)}</h3>{body}'
                for key, title, body in _parts(session)
                if body
            )
            heading = f"Session {session.number}, {session.start_utc:%Y-%m-%d %H:%M}"
            sections.append((f"session-{session.number}", heading, _glance(session) + parts))
    count = f"{len(summaries)} sessions, the last" if len(summaries) > 1 else "session"
    last = summaries[-1]
    return document(
        title="Live session report",
        lead=(
            f"{name}: {count} of {last.began_utc:%Y-%m-%d %H:%M:%S} UTC, {_duration(last.lasted_s)}"
        ),
        version=__version__,
        sections=sections,
        footer=(
            f"Written by edgeseg {text(__version__)} from {code(name)}, which holds every event "
            "and is what counts. Times are those of a clock that nobody sets."
        ),
    )


def _parts(session: SessionLog) -> list[tuple[str, str, str]]:
    """Key, title and HTML of each part of a session's report."""
    return [
        ("timeline", "State and events", _timeline(session)),
        ("age", "Age of the masks", _age(session)),
        ("rates", "Rates and engine", _rates(session)),
        ("frames", "What became of the frames", _frames(session)),
        ("faults", "Faults", _faults(session)),
        ("sinks", "Sinks", _sinks(session)),
        ("events", "Events", _event_list(session)),
        ("about", "Session", _session(session)),
    ]


def _glance(session: SessionLog) -> str:
    gap = session.without_current
    boxes = [
        ("lasted", _duration(session.lasted_s), f"from {session.start_utc:%H:%M:%S} UTC"),
        (
            "with a current result",
            _percent(session.share(CURRENT)),
            f"of the time; moved masks {_percent(session.share(PREDICTED))}",
        ),
        (
            "longest without one",
            _duration(gap.longest_s),
            f"from {clock_words(gap.longest_at_s)} on; without any mask, moved ones included, "
            f"{_duration(session.without_mask.longest_s)}"
            if gap.longest_s > 0.0
            else "there was always one",
        ),
    ]
    if session.ages:
        limit = "" if session.max_age_ms is None else f", limit {session.max_age_ms:.0f} ms"
        worst = f"p99 {_ms(session.ages.get('p99_ms'))}, longest {_ms(session.ages.get('max_ms'))}"
        boxes.append(("age of masks, median", _ms(session.ages.get("p50_ms")), worst + limit))
    if session.balance is not None:
        verdict = "all accounted for" if not session.balance else "NOT ALL ACCOUNTED FOR"
        boxes.append(("frames", f"{session.counts['captured']:,}", verdict))
    warnings = "".join(
        f'<p class="warning">{text(note[0].upper() + note[1:])}.</p>'
        for note in _summary(session).notes
    )
    about = [
        ("bundle", text(session.bundle or _NONE)),
        ("SHA-256 of the bundle", code(session.bundle_sha256 or _NONE)),
        ("source", text(session.source or _NONE)),
    ]
    return warnings + figures(boxes) + facts(about)


def _timeline(session: SessionLog) -> str:
    band = _figure(
        drawings.states(session),
        "State of the mask. Above, how much of the time of each column it had; below, whatever was "
        f"worst in it, so that nothing short is lost. A column is {_duration(_column_s(session))} "
        f"wide; times count from {session.start_utc:%Y-%m-%d %H:%M:%S} UTC.",
    )
    happened = drawings.lanes(session)
    if happened:
        happened = _figure(
            happened,
            "What happened. Bars: how long the source was lost, a sink took no pictures, or a "
            "recording was made. Point at a mark for its text; all are listed under Events.",
        )
    rows = [
        [text(state), _duration(session.state_s[state]), _percent(session.share(state))]
        for state in order_of_states(session.state_s)
    ]
    times = table("Time in each state", ("state", "time", "share"), rows, frozenset({1, 2}))
    return band + happened + times


def _age(session: SessionLog) -> str:
    limit = session.max_age_ms
    drawing = drawings.lines(
        session,
        "Age of the masks",
        "ms",
        [
            Series("last mask, lowest to highest", "age_ms", 7, band=True),
            Series("p50 so far", "ages.p50_ms", 0),
            Series("p99 so far", "ages.p99_ms", 1),
        ],
        limit=None if limit is None else (f"limit {limit:.0f} ms", limit),
    )
    if not drawing:
        return ""
    shown = _figure(
        drawing,
        "How old the frame behind a mask was when the mask was shown. p50 and p99 are those of all "
        "masks from the start up to then.",
    )
    names = [name for name in _AGE_NAMES if name in session.ages]
    cells = [f"{session.ages[name]:.1f}" for name in names]
    columns = ("masks", *(_AGE_NAMES[name] for name in names))
    row = [f"{session.masks:,}", *cells]
    return shown + table("Age of all masks, ms", columns, [row], frozenset(range(1, len(row))))


_AGE_NAMES = {"p50_ms": "p50", "p90_ms": "p90", "p99_ms": "p99", "max_ms": "longest"}


def _rates(session: SessionLog) -> str:
    rates = drawings.lines(
        session,
        "Frame rates",
        "/s",
        [
            Series("captured", "captured_fps", 7),
            Series("pictures shown", "shown_fps", 6, dashed=True),
            Series("new masks", "mask_fps", 0),
        ],
    )
    engine = drawings.lines(
        session,
        "Time of the engine",
        "ms",
        [Series("engine with preprocessing, median of the last frames", "engine_ms", 3)],
        height=100.0,
    )
    busy = drawings.lines(
        session,
        "Load of the engine",
        "%",
        [Series("share of the time that the engine was at work", "busy_percent", 4)],
        limit=("always", 100.0),
        height=70.0,
    )
    captions = (
        (rates, "Frames a second."),
        (engine, "What one frame takes."),
        (busy, "How busy the engine was."),
    )
    return "".join(_figure(drawing, caption) for drawing, caption in captions if drawing)


def _frames(session: SessionLog) -> str:
    if session.balance is None:
        return ""
    captured = session.counts["captured"]
    fates = [
        ("shown with the mask computed on them", session.counts["shown"]),
        ("shown with a mask moved to them", session.counts["predicted"]),
        ("shown with the sign that there is no current result", session.counts["unmasked"]),
        *((f"dropped: {cause}", count) for cause, count in session.dropped.items()),
        ("still in flight", session.counts["in_flight"]),
    ]
    rows = [
        [text(name), f"{count:,}", _percent(count / captured) if captured else _NONE]
        for name, count in fates
    ]
    known = captured - session.balance
    rows.append(["<strong>together</strong>", f"<strong>{known:,}</strong>", ""])
    at_s = session.counted_at_s or 0.0
    listed = table(
        f"{captured:,} frames were captured up to {clock_words(at_s)}; each counts as what came "
        "of it",
        ("frames", "number", "share"),
        rows,
        frozenset({1, 2}),
    )
    verdict = (
        f'<p class="warning">{text(_unbalanced(session))}.</p>'
        if session.balance or session.unbalanced_count
        else f"<p>All {captured:,} frames are accounted for, and they were in every count of the "
        "log.</p>"
    )
    dropped = drawings.drops(session)
    if dropped:
        dropped = _figure(dropped, "Frames that were never displayed, a second, by cause.")
    return verdict + dropped + listed


def _faults(session: SessionLog) -> str:
    rows = [
        [
            text(fault.where or _NONE),
            text(fault.error or _NONE),
            f"{fault.count:,}",
            clock_words(fault.first_s),
            clock_words(fault.last_s),
        ]
        for fault in sorted(session.faults.values(), key=lambda fault: -fault.count)
    ]
    if not rows:
        return "<p>None was noted.</p>"
    caption = "Errors that were survived, the most frequent first"
    if session.more_faults:
        caption += f"; {session.more_faults:,} of still other kinds are left out"
    return table(caption, ("where", "error", "times", "first", "last"), rows, frozenset({2, 3, 4}))


def _sinks(session: SessionLog) -> str:
    rows = [
        [text(name), text(written), text(dropped), text(error or "takes pictures")]
        for name, written, dropped, error in session.sinks
    ]
    if not rows:
        return ""
    columns = ("sink", "written", "dropped", "at the end")
    return table("Where the pictures went", columns, rows, frozenset({1, 2}))


def _event_list(session: SessionLog) -> str:
    if not session.mark_count:
        return "<p>Nothing but frames.</p>"
    rows = [_mark_row(mark) for mark in session.marks]
    if session.left_out_marks:
        rows.append([_NONE, "", "", f"<em>{session.left_out_marks:,} events are left out</em>"])
    rows += [_mark_row(mark) for mark in session.later_marks]
    listed = table("What happened", ("time", "UTC", "what", "details"), rows)
    if len(rows) <= 30:
        return listed
    return f"<details><summary>{session.mark_count:,} events</summary>{listed}</details>"


def _mark_row(mark: Mark) -> list[str]:
    return [
        clock_words(mark.since_start_s),
        f"{mark.time_utc:%H:%M:%S}",
        text(mark.what),
        text(mark.words or _NONE),
    ]


def _session(session: SessionLog) -> str:
    ended = f"{_utc(session.start_utc, session.lasted_s):%Y-%m-%d %H:%M:%S} UTC"
    why = f"{ended}: {session.why or 'it is not said why'}" if session.ended else "not noted"
    rows = [
        ("began", text(f"{session.start_utc:%Y-%m-%d %H:%M:%S} UTC")),
        ("ended", text(why)),
        ("connected anew", text(f"{session.reconnections} times")),
    ]
    if session.engine_ms is not None:
        rows.append(("engine at the end", text(f"{session.engine_ms:.1f} ms")))
    rows += [(name, text(value or _NONE)) for name, value in session.facts.items()]
    return facts(rows)


def _figure(drawing: str, caption: str) -> str:
    region = 'class="scroll" role="region" aria-label="Drawing" tabindex="0"'
    return f"<figure><div {region}>{drawing}</div><figcaption>{text(caption)}</figcaption></figure>"


def _utc(start: datetime, seconds: float) -> datetime:
    try:
        return start + timedelta(seconds=seconds)
    except OverflowError:
        return start


def _column_s(session: SessionLog) -> float:
    return min(session.line.width_s, session.lasted_s)


def _duration(seconds: float) -> str:
    """``0.35 s``, ``12.3 s``, ``3 min 05 s``, ``2 h 03 min``."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _percent(share: float) -> str:
    """Never rounded up to all, nor down to nothing."""
    if share >= 1.0 or share <= 0.0:
        return f"{100.0 * share:.0f} %"
    places = 2 if share > 0.99 or share < 0.01 else 1
    return f"{min(max(100.0 * share, 0.01), 99.99):.{places}f} %"


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:.0f} ms"
