"""The log of a live session: what happened and when, one JSON object a line, never a pixel.

A line says when by the wall clock and by a clock that nobody sets, what, and the details::

    {"time":"2026-11-21T20:25:19.123Z","s":12.345678,"number":7,"kind":"state","data":{...}}

``s`` counts from the ``start`` of the session and ``number`` counts the session's events, lost ones
included, so that missing lines can be told. A file may hold several sessions, each from its
``start`` on. The log adds records of its own, which have no number:

- ``gap`` (since_s, lost, error): events that could not be written, by kind, and why;
- ``torn``: the line before it is cut off, since the process that wrote it was killed;
- ``continued`` (the fields of ``start``, before): the file reached its size and was set aside as
  ``NAME.1``; this one goes on. One such file is kept, so a log never takes more than twice
  ``max_bytes``; what an earlier ``NAME.1`` held is gone then.

``start`` and ``model`` may say whatever describes a session; the report (``edgeseg report``) looks
for ``bundle``, ``bundle_sha256``, ``source`` and ``max_age_ms`` in them, and lists everything else;
``continued`` repeats both. User names, passwords and tokens in addresses are replaced by ``***``
before anything is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import fcntl
import itertools
import json
import logging
import math
import os
import re
import stat
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeGuard

from edgeseg import __version__
from edgeseg._closing import Closing
from edgeseg.errors import DataError, OutputError

__all__ = ["DEFAULT_MAX_BYTES", "MAX_LINE_BYTES", "Event", "EventLog", "log_files", "read_events"]

_log = logging.getLogger(__name__)

SCHEMA = 1
DEFAULT_MAX_BYTES = 128 << 20
"""Weeks of a session that notes its figures every ten seconds."""
MAX_LINE_BYTES = 1 << 16
"""Of one line: longer ones are neither written nor read."""
MAX_TIME_S = 1e9
"""Of the time since the start that is believed when a log is read."""

_HEAD = b'{"time":'
"""What every line begins with."""
_WAITING = 4096
_CLOSE_TIMEOUT_S = 5.0
_MAX_TEXT = 2000
_MAX_ITEMS = 200
_MAX_DEPTH = 8
_MAX_INTEGER = 1 << 63

# Also a password with a slash or a sign of its own in it, which is no valid address and still a
# password: what follows a user name goes up to the last @ of the word.
# Not test://WIDTHxHEIGHT@RATE, which names nobody.
_IN_ADDRESS = re.compile(
    r"(?i)\b((?!test:)[a-z][a-z0-9+.-]*://)(?:[^\s/?#@:]*:[^\s]*@|[^\s/?#]*@)",
)
_SECRET = r"(?:access[_-]?token|api[_-]?key|auth|passw(?:or)?d|pwd|secret|token|user-pw)"
_ASSIGNED = re.compile(rf"(?i)\b({_SECRET})(\s*(?:=|%3d)\s*)(\"[^\"]*\"|'[^']*'|[^\s&;#,\"']+)")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]+")
_SECRET_KEY = re.compile(rf"(?i)(?:{_SECRET}|authorization)")


@dataclass(frozen=True)
class Event:
    """One line of a log, as it was read; its content is nobody's but the log's."""

    time_utc: datetime
    """By the wall clock, which may have been set in between."""
    since_start_s: float
    """Since the start of its session, by the clock that nobody sets."""
    number: int | None
    """Of the event in its session, from 0 on; None for records of the log itself."""
    kind: str
    data: Mapping[str, Any]
    line: int
    """Where it stands in its file, from 1 on."""


@dataclass(frozen=True)
class _Entry:
    """An event on its way to the file."""

    time_utc: datetime
    since_start_s: float
    number: int | None
    kind: str
    data: dict[str, Any]


@dataclass
class _Gap:
    """What could not be written, and since when."""

    since_s: float
    error: str
    lost: Counter[str] = dataclasses.field(default_factory=Counter)


class EventLog(Closing):
    """Writes events as JSON lines; an ``Events`` (``edgeseg.live.status``) for a session.

    Callers never wait for the disk: a thread writes, and each line is in the hands of the system
    before the next one is looked at (``end`` and ``close`` also wait, in that thread, until it is
    on the disk). A full disk, a folder that was removed and the like end nothing: one warning is
    logged, what is lost is counted, every later event tries again, and the first line that can be
    written is preceded by a ``gap`` that says what is missing.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        """Open the log; what it holds already stays, and new sessions are appended.

        Args:
            path: of the file; its folder is made.
            clock: seconds, which never run backwards.
            max_bytes: size at which the file is set aside as ``NAME.1``, at least 64 KiB.

        Raises:
            OutputError: it cannot be written, is something else than a log, or another session
                writes to it.
        """
        self.path = Path(path)
        self.lost: int = 0
        """Events that could not be written so far."""
        self._clock = clock
        self._max_bytes = max(max_bytes, MAX_LINE_BYTES)
        self._limit = self._max_bytes
        self._start_s = clock()
        self._number = 0
        self._start_data: dict[str, Any] = {}
        self._gap: _Gap | None = None
        self._warned = False
        self._closed = False
        self._busy = False
        self._waiting: deque[_Entry] = deque()
        self._changed = threading.Condition()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: int | None = self._open()
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"cannot write the event log {self.path}: {error.strerror or error}"
            ) from error
        self._thread = threading.Thread(target=self._write, name="event log", daemon=True)
        self._thread.start()

    def __call__(self, kind: str, /, **data: Any) -> None:
        """Note one event; returns at once, and never raises."""
        try:
            plain = _plain_mapping(data, 0)
            with self._changed:
                self._note(kind, plain)
        except Exception as error:
            # Whatever was handed over, the session goes on without this line.
            with contextlib.suppress(Exception):
                _log.warning("an event of kind %r could not be noted: %s", kind, error)

    def flush(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> bool:
        """Wait until everything noted so far was written or lost; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self) -> None:
        """Write what is left and close the file; a disk that hangs is left behind after 5 s."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            _log.warning("the event log %s could not be completed: the disk hangs", self.path)

    def _note(self, kind: str, data: dict[str, Any]) -> None:
        now_s = self._clock()
        if kind == "start":
            self._start_s, self._number = now_s, 0
            data = {"schema": SCHEMA, "edgeseg_version": __version__, **data}
        since_s = max(0.0, now_s - self._start_s)
        entry = _Entry(datetime.now(timezone.utc), since_s, self._number, kind, data)
        self._number += 1
        if self._closed:
            self.lost += 1
        elif len(self._waiting) >= _WAITING:
            self._lose(entry, "the disk does not keep up")
        else:
            self._waiting.append(entry)
            self._changed.notify_all()

    def _lose(self, entry: _Entry, error: str) -> None:
        """Count an event that is not in the file; called with the lock held."""
        if self._gap is None:
            self._gap = _Gap(entry.since_start_s, error)
        elif entry.kind == "start":
            # What is said of a session counts from its own start.
            self._gap.since_s = 0.0
        self._gap.lost[entry.kind] += 1
        self.lost += 1
        if not self._warned:
            self._warned = True
            _log.warning("the event log %s cannot be written: %s; trying on", self.path, error)

    def _write(self) -> None:
        """The thread: one event after the other."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    break
                entry = self._waiting.popleft()
                self._busy = True
            self._put(entry)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        self._finish()

    def _put(self, entry: _Entry) -> None:
        if entry.kind == "start":
            self._start_data = entry.data
        elif entry.kind == "model":
            self._start_data = {**self._start_data, "model": entry.data}
        with self._changed:
            gap, self._gap = self._gap, None
        try:
            before = b"" if gap is None else _line(self._gap_entry(gap, entry))
            line = _line(entry)
            self._make_room(entry, len(before) + len(line))
            self._append(before + line)
        except (OSError, ValueError) as error:
            with self._changed:
                self._take_back(gap)
                self._lose(entry, getattr(error, "strerror", None) or str(error))
            return
        if gap is not None:
            self._warned = False
            _log.warning(
                "the event log %s can be written again; %d events are missing",
                self.path,
                gap.lost.total(),
            )
        if entry.kind == "end":
            self._sync()

    def _take_back(self, gap: _Gap | None) -> None:
        """A gap that could not be noted goes on, with what was lost meanwhile."""
        if gap is not None:
            if self._gap is not None:
                gap.lost.update(self._gap.lost)
            self._gap = gap

    @staticmethod
    def _gap_entry(gap: _Gap, after: _Entry) -> _Entry:
        data = {"since_s": gap.since_s, "lost": dict(gap.lost), "error": gap.error}
        # Before a start it still belongs to the session before, on whose clock it began.
        now_s = gap.since_s if after.kind == "start" else after.since_start_s
        return _Entry(after.time_utc, now_s, None, "gap", data)

    def _finish(self) -> None:
        with self._changed:
            gap, self._gap = self._gap, None
            since_s = max(0.0, self._clock() - self._start_s)
        if gap is not None:
            now = _Entry(datetime.now(timezone.utc), since_s, None, "gap", {})
            try:
                self._append(_line(self._gap_entry(gap, now)))
            except OSError:
                _log.warning(
                    "the event log %s lacks its last %d events: %s",
                    self.path,
                    gap.lost.total(),
                    gap.error,
                )
        self._sync()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _sync(self) -> None:
        if self._file is not None:
            try:
                os.fsync(self._file)
            except OSError as error:
                _log.warning("the event log %s may not be on the disk: %s", self.path, error)

    def _append(self, data: bytes) -> None:
        """Write whole lines, or nothing.

        Raises:
            OSError: nothing was written.
        """
        if self._file is not None and os.fstat(self._file).st_nlink == 0:
            # Somebody removed the file: what goes into it now is seen by nobody.
            os.close(self._file)
            self._file = None
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        size = os.fstat(self._file).st_size
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            try:
                os.ftruncate(self._file, size)
            except OSError:
                # The next attempt opens the file again, and marks the torn line.
                os.close(self._file)
                self._file = None
            raise

    def _make_room(self, entry: _Entry, more: int) -> None:
        """Set a file aside that has reached its size."""
        if self._file is None:
            return
        size = os.fstat(self._file).st_size
        if size == 0 or size + more <= self._limit:
            return
        aside = _aside(self.path)
        try:
            self._sync()
            self.path.replace(aside)
        except OSError as error:
            # To lose nothing counts more than the size; tried again when as much has come again.
            self._limit = size + self._max_bytes
            _log.warning("the event log %s grows on: %s", self.path, error.strerror or error)
            return
        os.close(self._file)
        self._file = None
        self._limit = self._max_bytes
        if entry.kind != "start":
            data = {**self._start_data, "before": aside.name}
            self._append(
                _line(_Entry(entry.time_utc, entry.since_start_s, None, "continued", data))
            )

    def _open(self) -> int:
        """Open for appending; marks a line that a killed process left.

        Raises:
            OSError: by the system.
            OutputError: it is no log, or another session's.
        """
        # A pipe without a reader would be waited for; it is refused below.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        file = os.open(self.path, flags, 0o644)
        try:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode):
                raise OutputError(f"the event log {self.path} is not a file: choose another name")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another session writes the event log {self.path}: choose another name"
                ) from None
            if facts.st_size:
                self._check_log(file)
                if facts.st_size < len(_HEAD):
                    # A first line of which nothing can be read; later it would be no log's.
                    os.ftruncate(file, 0)
                elif os.pread(file, 1, facts.st_size - 1) != b"\n":
                    now = datetime.now(timezone.utc)
                    os.write(file, b"\n" + _line(_Entry(now, 0.0, None, "torn", {})))
        except BaseException:
            os.close(file)
            raise
        return file

    def _check_log(self, file: int) -> None:
        """Never append to something else, such as a video that was named by mistake."""
        head = os.pread(file, len(_HEAD), 0)
        if not _HEAD.startswith(head):
            raise OutputError(f"{self.path} exists and is no event log: choose another name")


def log_files(path: str | Path) -> tuple[Path, ...]:
    """The files of a log, oldest first: what was set aside as ``NAME.1``, if any, and ``path``."""
    path = Path(path)
    aside = _aside(path)
    return (aside, path) if aside.is_file() else (path,)


def read_events(path: str | Path) -> Iterator[Event]:
    """Read one file of a log, in order; memory does not grow with it.

    A last line that is cut off, as a killed process or a session at work leaves it, is left out,
    and so is one that the log itself marked as torn.

    Args:
        path: of the file.

    Yields:
        Each event, as it was written: its values may be anything that JSON can hold.

    Raises:
        DataError: the file cannot be read, or a line is no event; names the line.
    """
    path = Path(path)
    number = 0
    damaged = ""
    try:
        if not path.is_file():
            raise DataError(f"{path} is {'not a file' if path.exists() else 'not there'}")
        with path.open("rb") as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                try:
                    event = _parse(line, number)
                except ValueError as error:
                    if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
                        break
                    if damaged:
                        break
                    damaged = f"{path}, line {number}: {error}"
                    if len(line) > MAX_LINE_BYTES:
                        break
                    continue
                if damaged and event.kind != "torn":
                    break
                damaged = ""
                yield event
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if damaged:
        raise DataError(f"{damaged}; it is no event log of edgeseg, or was changed")


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _line(entry: _Entry) -> bytes:
    """One line, ASCII, with its end."""
    moment = entry.time_utc.strftime("%Y-%m-%dT%H:%M:%S.")
    record = {
        "time": f"{moment}{entry.time_utc.microsecond // 1000:03d}Z",
        "s": round(entry.since_start_s, 6),
        "number": entry.number,
        "kind": entry.kind[:_MAX_TEXT],
        "data": entry.data,
    }
    text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    if len(text) >= MAX_LINE_BYTES:
        # What is left says at least that there was something.
        record["data"] = {"left_out": f"{len(text)} bytes are more than a line may have"}
        text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii") + b"\n"


def _parse(line: bytes, number: int) -> Event:
    """One line.

    Raises:
        ValueError: it is no event; says why.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({type(error).__name__})") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    moment, since_s = record.get("time"), record.get("s")
    counted, kind, data = record.get("number"), record.get("kind"), record.get("data")
    if not isinstance(moment, str):
        raise ValueError("'time' is missing")
    time_utc = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    if time_utc.tzinfo is None:
        raise ValueError("'time' is not in UTC")
    if not _is_number(since_s) or not 0 <= since_s <= MAX_TIME_S:
        raise ValueError("'s' is not a time since the start")
    if counted is not None and not (_is_number(counted) and isinstance(counted, int)):
        raise ValueError("'number' is not a whole number")
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise ValueError("'kind' or 'data' is missing")
    try:
        return Event(time_utc.astimezone(timezone.utc), float(since_s), counted, kind, data, number)
    except OverflowError as error:
        raise ValueError("'time' is out of range") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _plain_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for count, (key, item) in enumerate(value.items()):
        if count == _MAX_ITEMS:
            plain["..."] = f"{len(value) - count} more"
            break
        name = _scrubbed(str(key))
        secret = _SECRET_KEY.fullmatch(name) and item is not None
        plain[name] = "***" if secret else _plain(item, depth + 1)
    return plain


def _plain(value: Any, depth: int) -> Any:
    """The value as bounded JSON; what JSON cannot hold is named by its type, never written."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value, depth)
    if isinstance(value, (str, os.PathLike)):
        return _scrubbed(os.fsdecode(value))
    if isinstance(value, BaseException):
        return _scrubbed(f"{type(value).__name__}: {value}")
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # a number of numpy's
    if isinstance(value, int):
        return int(value) if abs(value) < _MAX_INTEGER else "<int>"
    if isinstance(value, (float, Fraction)):
        number = float(value)
        return number if math.isfinite(number) else None
    if depth < _MAX_DEPTH:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [field.name for field in dataclasses.fields(value)]
            return {name: _plain(getattr(value, name), depth + 1) for name in fields}
        if isinstance(value, Mapping):
            return _plain_mapping(value, depth)
        if isinstance(value, (list, tuple, Set)):
            items = [_plain(item, depth + 1) for item in itertools.islice(value, _MAX_ITEMS)]
            return items if len(value) <= _MAX_ITEMS else [*items, f"{len(value)} in all"]
    return f"<{type(value).__name__}>"


def _scrubbed(text: str) -> str:
    """The text without credentials, and not longer than it may be."""
    # Half a character of a file name cannot be printed.
    text = text[: 4 * _MAX_TEXT].encode("utf-8", "replace").decode("utf-8")
    text = _IN_ADDRESS.sub(r"\1***@", text)
    text = _ASSIGNED.sub(r"\1\2***", text)
    text = _BEARER.sub(r"\1 ***", text)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
