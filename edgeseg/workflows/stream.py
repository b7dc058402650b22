"""``edgeseg.stream``: a live source as a series of results."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeseg._closing import Closing
from edgeseg.errors import UsageError
from edgeseg.live.base import LiveSink, LiveSource, Shown
from edgeseg.live.session import LiveOptions, LiveReport, LiveSession
from edgeseg.live.sources import SourceOptions, open_live_source
from edgeseg.live.status import Events, LiveStatus, silent_events
from edgeseg.live.uri import parse_source
from edgeseg.model import Model
from edgeseg.settings import Settings
from edgeseg.workflows._live_model import EngineChoice
from edgeseg.workflows._live_session import Look, open_session

__all__ = ["Stream", "stream"]

_ROOM = 1
"""Results that wait for the caller: the newest is the one that counts."""


class _Hand(LiveSink):
    """Hands results to the thread that iterates."""

    name = "the caller"

    def __init__(self, waits: bool) -> None:
        self.policy = "wait" if waits else "drop-oldest"
        self._waits = waits
        self._changed = threading.Condition()
        self._results: deque[Shown] = deque()
        self._closed = False

    def write(self, shown: Shown) -> None:
        with self._changed:
            if self._waits:
                self._changed.wait_for(lambda: self._closed or len(self._results) < _ROOM)
            while not self._waits and len(self._results) >= _ROOM:
                self._results.popleft()
            self._results.append(shown)
            self._changed.notify_all()

    def take(self) -> Shown | None:
        """The next result; None after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._results or self._closed)
            if not self._results:
                return None
            shown = self._results.popleft()
            self._changed.notify_all()
            return shown

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Stream(Closing):
    """Results of a live session that runs in the background; made by ``edgeseg.stream``.

    Iterating takes the newest result of a live source, and every result of a source that waits.
    Close it, or use it as a context manager, to stop early; a loop that runs to the end closes it.
    """

    def __init__(self, opened: contextlib.ExitStack, session: LiveSession, hand: _Hand) -> None:
        self._opened = opened
        self._session = session
        self._hand = hand
        self._error: BaseException | None = None
        self._report: LiveReport | None = None
        self._thread = threading.Thread(target=self._run, name="edgeseg session", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Shown]:
        """Results in order, until the source ends.

        A result with a mask is never older than the session's limit at the moment at which it is
        handed over; one that grew too old is handed over without its mask.

        Raises:
            EdgesegError: the session could not begin or go on, or the source broke off; after the
                last result.
        """
        try:
            while (shown := self._hand.take()) is not None:
                yield self._checked(shown)
                # The caller's loop holds its own.
                del shown
            self._thread.join()
        finally:
            self.close()
        if self._error is not None:
            raise self._error
        if self._report is not None and self._report.ended_by is not None:
            raise self._report.ended_by

    @property
    def status(self) -> LiveStatus:
        """Counts, rates and ages at this moment."""
        return self._session.status()

    @property
    def report(self) -> LiveReport | None:
        """What the session did, once it is over."""
        return self._report

    def close(self) -> None:
        """Stop the session and free source and engine. Closing twice does nothing."""
        self._session.stop()
        self._hand.close()
        self._thread.join()
        self._opened.close()

    def _run(self) -> None:
        try:
            self._report = self._session.run()
        except BaseException as error:
            self._error = error
        finally:
            self._hand.close()

    def _checked(self, shown: Shown) -> Shown:
        limit_ms = self._session.max_age_ms
        age_ms = shown.age_now_ms()
        if age_ms is None or limit_ms is None or age_ms <= limit_ms:
            return shown
        return dataclasses.replace(
            shown,
            picture=shown.frame.image,
            mask=None,
            state="none",
            reason="result too old",
            detail=f"{age_ms:.0f} ms old, allowed are {limit_ms:.0f}",
            mask_index=None,
            age_ms=None,
        )


def stream(
    model: str | Path | Model,
    source: str | LiveSource,
    *,
    options: LiveOptions | None = None,
    source_options: SourceOptions | None = None,
    look: Look | None = None,
    settings: Settings | None = None,
    events: Events = silent_events,
    **engine: Any,
) -> Stream:
    """Segment a live source; iterate over the results.

        for result in edgeseg.stream("polyp.edgeseg", "rtsp://camera/main"):
            result.mask, result.age_ms, result.state, result.reason, result.frame.image

    Args:
        model: a bundle, or a model that ``edgeseg.open`` gave, which stays open.
        source: a URI as for ``edgeseg run``, or a source of your own. Files are read as fast as
            the results are taken, unless ``source_options`` says ``pace="source"``.
        options: buffer, age limit, and what happens when parts fail.
        source_options: size, rate, codec, pace of the source.
        look: threshold and region of interest; opacity and colours of ``result.picture``.
        settings: views and read-out other than the bundle's; not with an open model.
        events: is told what happens, as the log of ``edgeseg run --log``.
        engine: ``backend``, ``device``, ``precision`` and ``threads`` as for ``edgeseg.open``; not
            with an open model.

    Raises:
        UsageError: the source means nothing, or options contradict each other. Other errors come
            from the iteration.
    """
    if isinstance(source, str):
        chosen = source_options or SourceOptions()
        if chosen.pace is None and parse_source(source).kind == "file":
            chosen = dataclasses.replace(chosen, pace="none")
        frames = open_live_source(source, chosen)
    else:
        frames = source
    if isinstance(model, Model):
        if settings is not None or engine:
            raise UsageError(
                "settings and engine options belong to a bundle; this model is open already"
            )
        choice: EngineChoice | Model = model
    else:
        choice = EngineChoice(Path(model), settings=settings or Settings(), **engine)
    options = options or LiveOptions()
    waits = (options.policy or ("drop-oldest" if frames.is_live else "wait")) == "wait"
    hand = _Hand(waits)
    with contextlib.ExitStack() as stack:
        stack.callback(frames.close)
        ready = stack.enter_context(
            open_session(choice, frames, [hand], options, look=look, events=events)
        )
        return Stream(stack.pop_all(), ready.session, hand)
