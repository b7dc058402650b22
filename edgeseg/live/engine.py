"""The engine's thread: takes the newest frame, computes, is replaced when it does not return."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from edgeseg.errors import InputError, StalledError
from edgeseg.live.base import LiveFrame
from edgeseg.live.computation import Computation, Job
from edgeseg.live.exchange import Computed, Exchange, Seen
from edgeseg.live.faults import describe_error
from edgeseg.live.figures import Figures
from edgeseg.live.status import Events
from edgeseg.spec import RoiSpec

__all__ = ["EngineRunner"]

_log = logging.getLogger(__name__)

FAILURES_BEFORE_REOPENING = 3
"""Calls that failed one after the other. One may be bad luck."""
_LONGEST_PAUSE_S = 10.0
_MOST_ABANDONED = 3
"""Threads that never came back. Each holds an engine; more would only fill the memory."""


class EngineRunner:
    """Computes frame after frame in a thread of its own.

    A call that raises costs its frame. After some failures in a row the engine is opened anew, and
    so it is when a call does not return for ``give_up_s``: that thread is left behind, and what it
    may still answer is not taken. Between two frames nothing waits: preprocessing is part of the
    thread, so that the frame that is computed is the newest one when the engine is free.
    """

    def __init__(
        self,
        exchange: Exchange,
        computation: Computation,
        reopen: Callable[[], Computation],
        *,
        threshold: Callable[[], float | None],
        regions: Callable[[LiveFrame], RoiSpec | None],
        figures: Figures,
        events: Events,
        give_up_s: float,
        attempts: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            exchange: where frames come from and results go.
            computation: the engine, open.
            reopen: makes another one.
            threshold: asked for each frame.
            regions: asked for each frame.
            figures: is told of times and faults.
            events: is told of faults and restarts.
            give_up_s: longest time that a call may take.
            attempts: how often to try to open it anew before that ends the session; None: for
                ever, as beside a camera.
            clock: seconds.
        """
        self._exchange = exchange
        self._computation: Computation | None = computation
        self._reopen = reopen
        self._threshold = threshold
        self._regions = regions
        self._figures = figures
        self._events = events
        self._give_up_s = give_up_s
        self._clock = clock
        self._attempts = attempts
        self._abandoned: list[threading.Thread] = []
        self._thread = self._new_thread(exchange.generation, computation)
        self.fatal: Exception | None = None
        """Why no engine is tried any more; the exchange has stopped then."""

    @property
    def views(self) -> str:
        """Views in use, in words."""
        computation = self._computation
        return "" if computation is None else computation.views

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def check(self) -> None:
        """Replace an engine that does not return; to be called every now and then.

        Raises:
            StalledError: too many of them hang; a new process is needed.
        """
        since = self._exchange.engine.busy_since_s
        if since is None or self._clock() - since < self._give_up_s:
            return
        what = f"the engine did not return for {self._give_up_s:g} s"
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        self._abandoned.append(self._thread)
        self._computation = None
        generation = self._exchange.give_up_engine(what, "engine stalled")
        self._figures.fault("engine stalled")
        if len(self._abandoned) > _MOST_ABANDONED:
            raise StalledError(
                f"{what}, and {_MOST_ABANDONED} engines opened since hang as well: restart "
                "edgeseg; if it comes again, look at the device (edgeseg doctor)"
            )
        _log.warning("%s: it is left behind and opened anew", what)
        self._events("engine_restarted", why=what)
        self._thread = self._new_thread(generation, None)
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread after the exchange has stopped; whether it has ended."""
        if self._thread.ident is None:
            if self._computation is not None:
                self._computation.close()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _new_thread(self, generation: int, computation: Computation | None) -> threading.Thread:
        return threading.Thread(
            target=partial(self._run, generation, computation),
            name=f"edgeseg engine {generation}",
            daemon=True,
        )

    def _run(self, generation: int, computation: Computation | None) -> None:
        failures = 0
        try:
            while True:
                if computation is None:
                    computation = self._opened(generation)
                    if computation is None:
                        return
                    failures = 0
                seen = self._exchange.take(generation, self._clock)
                if seen is None:
                    return
                failed = self._compute(generation, computation, seen)
                failures = failures + 1 if failed else 0
                if failures >= FAILURES_BEFORE_REOPENING:
                    _close(computation)
                    computation = self._computation = None
                    self._events("engine_restarted", why=f"{failures} calls failed in a row")
                # A frame must not be kept alive while the next one is waited for.
                del seen
        finally:
            if computation is not None:
                _close(computation)

    def _compute(self, generation: int, computation: Computation, seen: Seen) -> bool:
        """One frame; whether the engine failed (and not the frame)."""
        start = self._clock()
        try:
            region = self._regions(seen.frame)
            job = Job(seen.frame, region, self._threshold())
            outputs = computation.compute(job)
        except Exception as error:
            # Whatever it is: the picture goes on, and says that there is no result.
            text = describe_error(error)
            if self._exchange.generation != generation:
                return True
            self._figures.fault("engine")
            self._events("fault", where="engine", error=text)
            _log.warning("frame %d: %s", seen.frame.index, text)
            if self._exchange.failed(generation, text, "engine failed") is not None:
                failed = Computed(seen, _nothing, 0.0, failure=text)
                self._exchange.answer(generation, failed)
            return not isinstance(error, InputError)
        took_ms = 1e3 * (self._clock() - start)
        computed = Computed(seen, partial(computation.read, job, outputs), took_ms, region)
        if self._exchange.answer(generation, computed):
            self._figures.engine(took_ms)
        return False

    def _opened(self, generation: int) -> Computation | None:
        """Another engine, after as many attempts as it takes; None when nobody wants it."""
        pause_s, failures = 0.5, 0
        while self._exchange.generation == generation and not self._exchange.stopped:
            try:
                computation = self._reopen()
            except Exception as error:
                text = describe_error(error)
                self._exchange.failed(generation, text, "engine failed")
                self._events("fault", where="opening the engine", error=text)
                _log.warning("the engine cannot be opened: %s", text)
                failures += 1
                if failures == self._attempts:
                    self.fatal = error
                    self._exchange.stop()
                    return None
                self._exchange.pause(pause_s)
                pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)
                continue
            if self._exchange.generation != generation:
                _close(computation)
                return None
            self._computation = computation
            return computation
        return None


def _nothing() -> None:
    """What a call that failed has to read."""


def _close(computation: Computation) -> None:
    try:
        computation.close()
    except Exception as error:
        _log.warning("while closing the engine: %s", describe_error(error))
