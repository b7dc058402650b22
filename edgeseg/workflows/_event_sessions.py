"""A live session as its log tells it: totals that are exact, and a time line of 1000 columns.

Memory does not grow with the length of a log: columns become twice as wide when time runs out of
them, and of everything that is listed there is a first and a last part. What stands in a log is
taken for what it says and no more: values of the wrong type count as absent.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, get_args

from edgeseg.live.base import Reason
from edgeseg.live.events import Event

__all__ = [
    "CURRENT",
    "LANES",
    "PREDICTED",
    "UNKNOWN",
    "Column",
    "Fault",
    "Mark",
    "SessionLog",
    "in_words",
    "read_sessions",
]

CURRENT, PREDICTED, UNKNOWN = "current", "predicted", "not recorded"
_OTHER = "other"
_REASONS: tuple[str, ...] = get_args(Reason)
LANES = ("source", "engine", "sinks", "recording", "settings")

_COLUMNS = 1000
_FIRST_WIDTH_S = 0.05
_LISTED = 250
_MAX_KINDS = 12
_MAX_FAULTS = 100
_MAX_FACTS = 60
_MAX_TEXT = 300
_MAX_NUMBER = 1e12
_RATES = ("captured_fps", "mask_fps", "shown_fps", "engine_ms", "age_ms")
_AGES = ("p50_ms", "p90_ms", "p99_ms", "max_ms")
_COUNTS = ("captured", "shown", "predicted", "unmasked", "in_flight")


@dataclass
class Spread:
    """Values of one figure within a column."""

    total: float = 0.0
    count: int = 0
    low: float = math.inf
    high: float = -math.inf

    def add(self, value: float) -> None:
        """One more value."""
        self.merge(Spread(value, 1, value, value))

    def merge(self, other: Spread) -> None:
        """The values of another one."""
        self.total += other.total
        self.count += other.count
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    @property
    def mean(self) -> float:
        """Of at least one value."""
        return self.total / self.count


@dataclass
class Lane:
    """What happened to one part of the session within a column."""

    held_s: float = 0.0
    """How long it was out of order (recording: how long one was made)."""
    hits: int = 0
    first: str = ""


@dataclass
class Column:
    """A piece of the time line."""

    states: dict[str, float] = field(default_factory=dict)
    """Seconds of each: "current", "predicted", "not recorded", or the reason for no mask."""
    figures: dict[str, Spread] = field(default_factory=dict)
    drops: dict[str, float] = field(default_factory=dict)
    """Frames by cause."""
    lanes: dict[str, Lane] = field(default_factory=dict)

    def merge(self, other: Column) -> None:
        """Take in the column behind this one."""
        for key, value in other.states.items():
            self.states[key] = self.states.get(key, 0.0) + value
        for key, value in other.drops.items():
            self.drops[key] = self.drops.get(key, 0.0) + value
        for key, spread in other.figures.items():
            self.figures.setdefault(key, Spread()).merge(spread)
        for key, lane in other.lanes.items():
            mine = self.lanes.setdefault(key, Lane())
            mine.held_s += lane.held_s
            mine.hits += lane.hits
            mine.first = mine.first or lane.first


@dataclass(frozen=True)
class Mark:
    """Something that happened."""

    since_start_s: float
    time_utc: datetime
    what: str
    words: str


@dataclass
class Fault:
    """Errors of one kind from one place."""

    where: str
    error: str
    count: int
    first_s: float
    last_s: float


class Absence:
    """The longest time without something that is not there at first."""

    def __init__(self, now_s: float) -> None:
        self.longest_s = 0.0
        self.longest_at_s = 0.0
        self._since_s: float | None = now_s

    def step(self, now_s: float, *, absent: bool) -> None:
        """From now on it is absent, or there."""
        if absent:
            self._since_s = now_s if self._since_s is None else self._since_s
        elif self._since_s is not None:
            if now_s - self._since_s > self.longest_s:
                self.longest_s, self.longest_at_s = now_s - self._since_s, self._since_s
            self._since_s = None


class TimeLine:
    """At most 1000 columns of equal width, as wide as they must be."""

    def __init__(self) -> None:
        self.width_s = _FIRST_WIDTH_S
        self.columns: list[Column] = []

    def at(self, time_s: float) -> Column:
        """The column of a moment."""
        while time_s >= self.width_s * _COLUMNS:
            pairs = self.columns[::2]
            for first, second in zip(pairs, self.columns[1::2], strict=False):
                first.merge(second)
            self.columns = pairs
            self.width_s *= 2.0
        index = int(time_s / self.width_s)
        while len(self.columns) <= index:
            self.columns.append(Column())
        return self.columns[index]

    def end(self, time_s: float) -> None:
        """Nothing is behind this moment: what happened in it goes to the column before it."""
        self.at(time_s)
        if len(self.columns) > 1 and (len(self.columns) - 1) * self.width_s >= time_s:
            last = self.columns.pop()
            self.columns[-1].merge(last)

    def over(self, start_s: float, end_s: float) -> Iterator[tuple[Column, float]]:
        """The columns of a span, and how many seconds of it lie in each."""
        self.at(end_s)
        now_s = start_s
        while now_s < end_s:
            # Rounding must not hold it where it is.
            index = int(now_s / self.width_s)
            edge_s = (index + 1) * self.width_s
            if edge_s <= now_s:
                index, edge_s = index + 1, edge_s + self.width_s
            until_s = min(edge_s, end_s)
            yield self.columns[min(index, len(self.columns) - 1)], until_s - now_s
            now_s = until_s


class SessionLog:
    """One session. ``take`` is called for each event in order, then ``finish``."""

    def __init__(self, number: int, first: Event) -> None:
        """Begin with the first event of the session, which ``take`` is still to be called for."""
        self.number = number
        self.start_utc: datetime = _before(first.time_utc, first.since_start_s)
        self.begins_late = first.kind != "start"
        self.bundle = self.bundle_sha256 = self.source = ""
        self.facts: dict[str, str] = {}
        self.max_age_ms: float | None = None
        self.line = TimeLine()
        self.lasted_s = 0.0
        self.state_s: dict[str, float] = {}
        self.ended = False
        self.why = ""
        self.counts: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self.counted_at_s: float | None = None
        self.unbalanced: list[str] = []
        """Moments at which the frames were not accounted for; the first few, in words."""
        self.unbalanced_count = 0
        self.ages: dict[str, float] = {}
        self.masks = 0
        self.engine_ms: float | None = None
        self.reconnections = 0
        self.sinks: list[tuple[str, str, str, str]] = []
        self.faults: dict[tuple[str, str], Fault] = {}
        self.more_faults = 0
        self.marks: list[Mark] = []
        self.later_marks: deque[Mark] = deque(maxlen=_LISTED)
        self.mark_count = 0
        self.lost = 0
        self.missing = 0
        self.notes: list[str] = []
        self._state = "starting" if first.kind == "start" else UNKNOWN
        self.begins_s = self._now_s = first.since_start_s if self.begins_late else 0.0
        self.without_current = Absence(self.begins_s)
        self.without_mask = Absence(self.begins_s)
        for column, part_s in self.line.over(0.0, self.begins_s):
            column.states[UNKNOWN] = part_s
        self._held: dict[str, set[str]] = {}
        self._next_number: int | None = None
        self._declared = 0
        self._drops_at_s = self._now_s

    # What was found

    def share(self, state: str) -> float:
        """Part of the time that the log covers in a state, 0 to 1; 0 of nothing."""
        covered_s = self.lasted_s - self.begins_s
        return self.state_s.get(state, 0.0) / covered_s if covered_s > 0.0 else 0.0

    def goes_on_with(self, event: Event) -> bool:
        """Whether an event can be of this session: numbers only grow."""
        if event.kind == "start":
            return False
        if event.number is None or self._next_number is None:
            return True
        return event.number >= self._next_number

    @property
    def balance(self) -> int | None:
        """Captured frames minus all that is known of them; 0 is right, None if not counted."""
        if any(name not in self.counts for name in _COUNTS):
            return None
        known = sum(self.counts[name] for name in _COUNTS[1:]) + sum(self.dropped.values())
        return self.counts["captured"] - known

    @property
    def all_marks(self) -> list[Mark]:
        """The first and the last ones."""
        return [*self.marks, *self.later_marks]

    @property
    def left_out_marks(self) -> int:
        """How many there are between these."""
        return self.mark_count - len(self.marks) - len(self.later_marks)

    # Reading

    def take(self, event: Event) -> None:
        """Take in the next event."""
        self._check_number(event)
        until_s = max(event.since_start_s, self._now_s)
        if event.kind == "gap":
            self._take_gap(event, until_s)
            return
        self._advance(until_s)
        taker = _TAKERS.get(event.kind)
        if taker is not None:
            taker(self, event.data, event)
        elif event.kind != "torn":
            self._mark(event, "settings", event.kind, in_words(event.data))

    def finish(self) -> None:
        """There are no more events."""
        for absence in (self.without_current, self.without_mask):
            absence.step(self._now_s, absent=False)
        self.lasted_s = self._now_s
        self.line.end(self._now_s)
        if self.begins_late:
            self.notes.append("the log does not hold the beginning of this session")
        if not self.ended:
            self.notes.append(
                "the log ends without an end of the session: it still runs, was killed, or the "
                "machine lost power"
            )
        if self.lost:
            self.notes.append(f"{self.lost} events could not be written when they happened")
        if self.missing:
            self.notes.append(
                f"{self.missing} events are missing from the log without a word: it was changed, "
                "or parts of it were removed"
            )

    def _advance(self, until_s: float) -> None:
        """The state lasts up to a moment."""
        start_s, self._now_s = self._now_s, until_s
        if until_s <= start_s:
            return
        self.state_s[self._state] = self.state_s.get(self._state, 0.0) + until_s - start_s
        for column, part_s in self.line.over(start_s, until_s):
            column.states[self._state] = column.states.get(self._state, 0.0) + part_s
            for lane, names in self._held.items():
                if names:
                    column.lanes.setdefault(lane, Lane()).held_s += part_s

    def _set_state(self, state: str) -> None:
        self.without_current.step(self._now_s, absent=state != CURRENT)
        self.without_mask.step(self._now_s, absent=state not in (CURRENT, PREDICTED))
        self._state = state

    def _check_number(self, event: Event) -> None:
        if event.number is None:
            return
        if self._next_number is not None:
            missing = event.number - self._next_number - self._declared
            if missing > 0:
                self.missing += missing
                self._set_state(UNKNOWN)
        elif not self.begins_late and event.number > self._declared:
            self.missing += event.number - self._declared
        self._next_number, self._declared = event.number + 1, 0

    def _take_gap(self, event: Event, until_s: float) -> None:
        lost = _counts(event.data.get("lost"))
        count = sum(lost.values())
        self.lost += count
        self._declared += count
        since_s = _number(event.data.get("since_s"))
        start_s = until_s if since_s is None else min(max(since_s, self._now_s), until_s)
        self._advance(start_s)
        if "state" in lost:
            self._set_state(UNKNOWN)
        self._advance(until_s)
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(lost.items()))
        words = f"{kinds or 'events'} not written: {in_words(event.data.get('error', ''))}"
        self._mark(event, "settings", "gap in the log", words)

    def _take_start(self, data: Mapping[str, Any], event: Event) -> None:
        model = data.get("model")
        self._describe(data)
        if isinstance(model, Mapping):
            self._describe(model)

    def _take_model(self, data: Mapping[str, Any], event: Event) -> None:
        self._describe(data)

    def _take_continued(self, data: Mapping[str, Any], event: Event) -> None:
        if self.begins_late:
            self._take_start(data, event)

    def _describe(self, data: Mapping[str, Any]) -> None:
        self.bundle = in_words(data.get("bundle") or self.bundle)
        self.bundle_sha256 = in_words(data.get("bundle_sha256") or self.bundle_sha256)
        self.source = in_words(data.get("source") or self.source)
        self._note_max_age(data)
        shown_elsewhere = ("bundle", "bundle_sha256", "source", "schema", "before", "model")
        for key, value in _flat({k: v for k, v in data.items() if k not in shown_elsewhere}):
            if len(self.facts) < _MAX_FACTS:
                self.facts[key] = value

    def _note_max_age(self, data: Mapping[str, Any]) -> None:
        max_age_ms = _number(data.get("max_age_ms"))
        if max_age_ms:
            self.max_age_ms = max_age_ms

    def _take_state(self, data: Mapping[str, Any], event: Event) -> None:
        self._set_state(self._state_of(data) or UNKNOWN)

    def _state_of(self, data: Mapping[str, Any]) -> str | None:
        state, reason = data.get("state"), data.get("reason")
        if state in (CURRENT, PREDICTED):
            return str(state)
        if state == "none":
            return str(reason) if reason in _REASONS else _OTHER
        return None

    def _take_statistics(self, data: Mapping[str, Any], event: Event) -> None:
        state = self._state_of(data)
        if state is not None:
            self._set_state(state)
        self._note_max_age(data)
        column = self.line.at(self._now_s)
        for name in _RATES:
            value = _number(data.get(name))
            if value is not None:
                column.figures.setdefault(name, Spread()).add(value)
        busy = _number(data.get("engine_busy"))
        if busy is not None:
            column.figures.setdefault("busy_percent", Spread()).add(100.0 * busy)
        ages = data.get("ages")
        if isinstance(ages, Mapping) and _number(ages.get("count")):
            self.masks = int(_number(ages.get("count")) or 0)
            for name in _AGES:
                value = _number(ages.get(name))
                if value is not None:
                    self.ages[name] = value
                    column.figures.setdefault(f"ages.{name}", Spread()).add(value)
        engine_ms = _number(data.get("engine_ms"))
        self.engine_ms = engine_ms if engine_ms else self.engine_ms
        self.reconnections = int(_number(data.get("reconnections")) or self.reconnections)
        self._take_counts(data)
        self._take_sinks(data.get("sinks"))

    def _take_counts(self, data: Mapping[str, Any]) -> None:
        found = {name: _number(data.get(name)) for name in _COUNTS}
        if any(value is None for value in found.values()):
            return
        self.counts = {name: int(value) for name, value in found.items() if value is not None}
        before, self.dropped = self.dropped, _counts(data.get("dropped"))
        self.counted_at_s = self._now_s
        balance = self.balance
        if balance:
            self.unbalanced_count += 1
            if len(self.unbalanced) < 3:
                self.unbalanced.append(f"{balance:+d} at {self._now_s:.1f} s")
        since_s, self._drops_at_s = self._drops_at_s, self._now_s
        more = {
            cause: self.dropped.get(cause, 0) - before.get(cause, 0)
            for cause in (*before, *(cause for cause in self.dropped if cause not in before))
        }
        more = {cause: count for cause, count in more.items() if count > 0}
        span_s = self._now_s - since_s
        if more and span_s > 0.0:
            for column, part_s in self.line.over(since_s, self._now_s):
                for cause, count in more.items():
                    frames = count * part_s / span_s
                    column.drops[cause] = column.drops.get(cause, 0.0) + frames

    def _take_sinks(self, sinks: Any) -> None:
        if isinstance(sinks, list):
            self.sinks = [
                (
                    in_words(sink.get("name", "")),
                    in_words(sink.get("written", "")),
                    in_words(sink.get("dropped", "")),
                    in_words(sink.get("error", "")),
                )
                for sink in sinks[:_MAX_KINDS]
                if isinstance(sink, Mapping)
            ]

    def _take_end(self, data: Mapping[str, Any], event: Event) -> None:
        self._take_statistics(data, event)
        self.ended = True
        self.why = in_words(data.get("why", ""))

    def _take_fault(self, data: Mapping[str, Any], event: Event) -> None:
        where, error = in_words(data.get("where", "")), in_words(data.get("error", ""))
        fault = self.faults.get((where, error))
        if fault is not None:
            fault.count += 1
            fault.last_s = self._now_s
        elif len(self.faults) < _MAX_FAULTS:
            self.faults[where, error] = Fault(where, error, 1, self._now_s, self._now_s)
        else:
            self.more_faults += 1
        self._mark(event, "engine", f"fault, {where}" if where else "fault", error)

    def _take_engine_restarted(self, data: Mapping[str, Any], event: Event) -> None:
        self._mark(event, "engine", "engine restarted", in_words(data.get("why", "")))

    def _take_source_lost(self, data: Mapping[str, Any], event: Event) -> None:
        self._mark(event, "source", "source lost", in_words(data.get("error", "")))
        self._held.setdefault("source", set()).add("source")

    def _take_source_back(self, data: Mapping[str, Any], event: Event) -> None:
        self._held.pop("source", None)
        self._mark(event, "source", "source back", "")

    def _take_source_ended(self, data: Mapping[str, Any], event: Event) -> None:
        self._held.pop("source", None)
        self._mark(event, "source", "source ended", in_words(data))

    def _take_sink(self, data: Mapping[str, Any], event: Event) -> None:
        name, error = in_words(data.get("name", "")), data.get("error")
        broken = self._held.setdefault("sinks", set())
        if error:
            if len(broken) < _MAX_FAULTS:
                broken.add(name)
            self._mark(event, "sinks", f"sink {name}", in_words(error))
        else:
            broken.discard(name)
            self._mark(event, "sinks", f"sink {name}", "takes pictures")

    def _take_recording(self, data: Mapping[str, Any], event: Event) -> None:
        file, error = data.get("file"), data.get("error")
        if file:
            self._held["recording"] = {"recording"}
        else:
            self._held.pop("recording", None)
        words = in_words(file) if file else "stopped"
        self._mark(
            event, "recording", "recording", f"{words}: {in_words(error)}" if error else words
        )

    def _take_setting(self, data: Mapping[str, Any], event: Event) -> None:
        name, value = in_words(data.get("name", "")), in_words(data.get("value"))
        self._mark(event, "settings", "setting", f"{name} = {value}")

    def _take_views(self, data: Mapping[str, Any], event: Event) -> None:
        why = in_words(data.get("why", ""))
        self._mark(event, "settings", "views", f"{in_words(data.get('views', ''))}: {why}")

    def _take_region(self, data: Mapping[str, Any], event: Event) -> None:
        values = [data.get(f"{name}_px") for name in ("x", "y", "width", "height")]
        x, y, width, height = (in_words(value) for value in values)
        where = "whole frame" if None in values else f"{width}x{height} at {x}, {y}"
        self._mark(event, "settings", "region", f"{where}: {in_words(data.get('why', ''))}")

    def _take_format(self, data: Mapping[str, Any], event: Event) -> None:
        size = f"{in_words(data.get('width_px'))}x{in_words(data.get('height_px'))} pixels"
        self._mark(event, "settings", "format", size)

    def _mark(self, event: Event, lane: str, what: str, words: str) -> None:
        mark = Mark(self._now_s, event.time_utc, in_words(what), words)
        self.mark_count += 1
        if len(self.marks) < _LISTED:
            self.marks.append(mark)
        else:
            self.later_marks.append(mark)
        place = self.line.at(self._now_s).lanes.setdefault(lane, Lane())
        place.hits += 1
        place.first = place.first or (f"{mark.what}: {words}" if words else mark.what)


_TAKERS: dict[str, Callable[[SessionLog, Mapping[str, Any], Event], None]] = {
    "start": SessionLog._take_start,
    "model": SessionLog._take_model,
    "continued": SessionLog._take_continued,
    "state": SessionLog._take_state,
    "statistics": SessionLog._take_statistics,
    "end": SessionLog._take_end,
    "fault": SessionLog._take_fault,
    "engine_restarted": SessionLog._take_engine_restarted,
    "source_lost": SessionLog._take_source_lost,
    "source_back": SessionLog._take_source_back,
    "source_ended": SessionLog._take_source_ended,
    "sink": SessionLog._take_sink,
    "recording": SessionLog._take_recording,
    "setting": SessionLog._take_setting,
    "views": SessionLog._take_views,
    "region": SessionLog._take_region,
    "format": SessionLog._take_format,
}


def read_sessions(events: Iterable[Event]) -> Iterator[SessionLog]:
    """The sessions of a log, each finished."""
    session: SessionLog | None = None
    number = 0
    for event in events:
        if session is None or not session.goes_on_with(event):
            if session is not None:
                session.finish()
                yield session
            number += 1
            session = SessionLog(number, event)
        session.take(event)
    if session is not None:
        session.finish()
        yield session


def in_words(value: Any) -> str:
    """Anything that a log may hold as one short line of printable text."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, float) and math.isfinite(value):
        text = f"{value:g}"
    elif isinstance(value, Mapping):
        text = ", ".join(f"{key} {item}" for key, item in _flat(value))
    else:
        text = "-" if value is None else json.dumps(value)
    text = text[: 4 * _MAX_TEXT].encode("utf-8", "replace").decode("utf-8")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values in words; those of nested groups get the group's name before theirs."""
    for key, value in list(data.items())[:_MAX_FACTS]:
        name = f"{prefix}{in_words(key)}".replace("_", " ")
        if isinstance(value, Mapping) and len(prefix) < _MAX_TEXT:
            yield from _flat(value, f"{name} ")
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            yield name, in_words(", ".join(value))
        else:
            yield name, in_words(value)


def _number(value: Any) -> float | None:
    """A number from 0 on that can be drawn; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= _MAX_NUMBER else None


def _counts(value: Any) -> dict[str, int]:
    """Numbers by name; of very many names the last ones are one."""
    if not isinstance(value, Mapping):
        return {}
    found: dict[str, int] = {}
    for key, item in value.items():
        number = _number(item)
        if number is not None:
            name = in_words(key)
            if name not in found and len(found) >= _MAX_KINDS:
                name = _OTHER
            found[name] = found.get(name, 0) + int(number)
    return found


def _before(time_utc: datetime, seconds: float) -> datetime:
    try:
        return time_utc - timedelta(seconds=seconds)
    except OverflowError:
        return time_utc
