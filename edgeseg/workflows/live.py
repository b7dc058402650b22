"""``run`` on what is live: a camera, a stream, a file at its own pace; or to several sinks."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from edgeseg.bundle import read_manifest
from edgeseg.errors import EdgesegError, UsageError
from edgeseg.live.events import EventLog
from edgeseg.live.session import LiveOptions, LiveReport, LiveSession
from edgeseg.live.sinks import SinkOptions, open_live_sinks
from edgeseg.live.sources import SourceOptions, open_live_source
from edgeseg.live.status import Events, LiveStatus, silent_events
from edgeseg.live.uri import parse_sink, parse_source
from edgeseg.settings import Settings
from edgeseg.spec import Precision
from edgeseg.workflows._live_model import EngineChoice
from edgeseg.workflows._live_session import Look, PageChoice, open_session

__all__ = ["LiveRunReport", "run_live"]

_log = logging.getLogger(__name__)

_VIEWERS = frozenset({"display", "rtsp", "udp", "v4l2"})
"""Sinks that somebody looks at while the session runs."""


@dataclass(frozen=True)
class LiveRunReport:
    """What a live run did."""

    report: LiveReport
    source: str

    def __str__(self) -> str:
        status, ages = self.report.status, self.report.status.ages
        dropped = ", ".join(f"{count} {cause}" for cause, count in status.dropped.items())
        text = (
            f"{self.source}: {status.captured} frames captured: {status.shown} shown with their "
            f"mask, {status.predicted} with a moved mask, {status.unmasked} without, "
            f"{sum(status.dropped.values())} dropped{f' ({dropped})' if dropped else ''}"
        )
        if ages.count:
            text += (
                f"; age of masks when shown: {ages.p50_ms:.1f} ms (p50), {ages.p99_ms:.1f} (p99), "
                f"{ages.max_ms:.1f} (max)"
            )
        if status.reconnections:
            text += f"; the source came back {status.reconnections} times"
        faults = ", ".join(f"{count} of {where}" for where, count in status.faults.items())
        return f"{text}; faults: {faults}" if faults else text

    @property
    def failure(self) -> EdgesegError | None:
        """Why the run is no success; None if it is one."""
        return self.report.ended_by


def run_live(
    bundle: str | Path,
    source: str,
    sinks: Sequence[str] = (),
    *,
    options: LiveOptions | None = None,
    source_options: SourceOptions | None = None,
    sink_options: SinkOptions | None = None,
    look: Look | None = None,
    serve: str | None = None,
    token: str | None = None,
    serve_names: Sequence[str] = (),
    recordings: Path | None = None,
    log: Path | None = None,
    budget_ms: float | None = None,
    settings: Settings | None = None,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    stop_on_signals: bool = False,
    on_start: Callable[[str], None] | None = None,
    on_tick: Callable[[LiveStatus], None] | None = None,
) -> LiveRunReport:
    """Draw masks on a source's frames as they come, and never one that is older than it may be.

    Args:
        bundle: the folder ``NAME.edgeseg``.
        source: see ``edgeseg.live.uri.parse_source``.
        sinks: see ``edgeseg.live.uri.parse_sink``; none is needed where a page is served.
        options: buffer, age, and what happens when parts fail.
        source_options: size, rate, codec, pace of the source. A file is played at its own pace if
            somebody looks on (a window, a stream, the page), else as fast as it goes.
        sink_options: of all sinks.
        look: opacity, colours, threshold, region of interest.
        serve: ``[HOST:]PORT`` of the live page.
        token: opens the page; needed beyond loopback.
        serve_names: further names by which clients may ask for the page, such as a proxy's.
        recordings: folder for recordings that are started on the page.
        log: file for the events, one JSON object a line.
        budget_ms: use as many of the model's views as fit into this time for a frame.
        settings: views and read-out other than the bundle's.
        backend: as for ``edgeseg.open``, like ``device``, ``precision`` and ``threads``.
        device: see ``backend``.
        precision: see ``backend``.
        threads: see ``backend``.
        stop_on_signals: SIGINT and SIGTERM end the run regularly (in the main thread alone).
        on_start: is told in words what was chosen, a line at a time.
        on_tick: is told the status about ten times a second.

    Raises:
        UsageError: a URI that means nothing, nowhere to show pictures, or options that contradict
            each other.
        DataError: the source cannot be opened.
        OutputError: a sink or the page's port cannot be opened.
        BundleError, BackendError: as ``edgeseg.open``.
        StalledError: the engine hangs again and again.
    """
    say = on_start or _log.info
    if not sinks and serve is None:
        raise UsageError(
            "there is nothing to show the pictures on: name an output (display://, a file, "
            "rtsp://...), or serve the page with --serve PORT"
        )
    options = options or LiveOptions()
    source_options = _paced(source, sinks, serve, source_options or SourceOptions(), say)
    choice = EngineChoice(Path(bundle), backend, device, precision, threads, settings or Settings())
    # Before anything is opened or made: the name of the bundle may be wrong.
    classes = read_manifest(choice.bundle).classes
    with contextlib.ExitStack() as stack:
        events: Events = silent_events
        if log is not None:
            opened_log = EventLog(log)
            stack.callback(opened_log.close)
            events = opened_log
        frames = open_live_source(source, source_options)
        stack.callback(frames.close)
        given = sink_options or SinkOptions()
        given = dataclasses.replace(
            given,
            rate=given.rate or frames.rate,
            media_times=not frames.is_live,
            classes=classes,
            title=f"edgeseg: {frames.name}",
            protected=_read_by(source),
        )
        outputs = open_live_sinks(sinks, given)
        for sink in outputs:
            stack.callback(sink.close)
            say(f"output: {sink.name}" + (f", {sink.how}" if sink.how else ""))
        ready = stack.enter_context(
            open_session(
                choice,
                frames,
                outputs,
                options,
                look=look,
                page=None if serve is None else PageChoice(serve, token, tuple(serve_names)),
                recordings=recordings,
                events=events,
                budget_ms=budget_ms,
            )
        )
        events(
            "start",
            source=frames.name,
            is_live=frames.is_live,
            sinks=[sink.name for sink in outputs],
            page=ready.page_url,
            bundle=choice.bundle.name,
            policy=ready.session.policy,
            slots=options.slots,
            max_age_ms=ready.session.max_age_ms,
            latest_frame=options.latest_frame,
            opacity=ready.session.controls.opacity,
            threshold=ready.session.controls.threshold,
            region=(look or Look()).roi,
            budget_ms=budget_ms,
            settings={
                name: value
                for name, value in dataclasses.asdict(choice.settings).items()
                if value is not None
            },
        )
        if ready.page_url is not None:
            say(f"page: {ready.page_url}")
        with _stopped_by_signals(ready.session) if stop_on_signals else contextlib.nullcontext():
            report = ready.session.run(on_tick)
    return LiveRunReport(report, frames.name)


def _read_by(source: str) -> tuple[Path, ...]:
    """Files that a source reads, which no output may replace."""
    uri = parse_source(source)
    return (Path(uri.target),) if uri.kind == "file" else ()


def _paced(
    source: str,
    sinks: Sequence[str],
    serve: str | None,
    options: SourceOptions,
    say: Callable[[str], None],
) -> SourceOptions:
    """A file's pace, where nobody has said it."""
    if options.pace is not None or parse_source(source).kind != "file":
        return options
    watched = [text for text in sinks if parse_sink(text).kind in _VIEWERS]
    if serve is None and not watched:
        return dataclasses.replace(options, pace="none")
    say("pace: the file's own, since somebody may look on (--pace none: as fast as it goes)")
    return dataclasses.replace(options, pace="source")


@contextlib.contextmanager
def _stopped_by_signals(session: LiveSession) -> Iterator[None]:
    """SIGINT and SIGTERM stop the session; a second one goes where it went before."""
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("signals arrive in the main thread alone: stop the session by its stop()")
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.getsignal(name) for name in names}

    def stop(number: int, frame: FrameType | None) -> None:
        session.stop()
        for name in names:
            signal.signal(name, before[name])

    for name in names:
        signal.signal(name, stop)
    try:
        yield
    finally:
        for name in names:
            signal.signal(name, before[name])
