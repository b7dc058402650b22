"""Where capture, engine and display hand each other frames and results.

One condition guards everything: a frame takes milliseconds, waking a thread too many takes
microseconds, and no thread can then wait for two locks. Nothing in here computes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeseg.live.base import LiveFrame, Policy
from edgeseg.live.health import PictureVerdict
from edgeseg.live.ledger import Ledger
from edgeseg.spec import RoiSpec

__all__ = ["Computed", "EngineState", "Exchange", "News", "Seen"]

_SUPERSEDED = "engine busy"
_OUTDATED_RESULT = "display busy"


@dataclass
class Seen:
    """A frame with what was noticed about its picture."""

    frame: LiveFrame
    verdict: PictureVerdict | None = None
    """Why nothing that is computed on it is shown; None for a picture in order. It is that of the
    frame before until the capture's thread has looked at this one, which happens while the engine
    is at work on it."""


@dataclass(frozen=True)
class Computed:
    """What the engine made of a frame."""

    seen: Seen
    read: Callable[[], Any]
    """Makes the mask of it: uint8 (H, W)."""
    engine_ms: float
    region: RoiSpec | None = None
    failure: str = ""
    """Why there is no mask to read; "" if there is one."""


@dataclass(frozen=True)
class EngineState:
    """What the engine is about."""

    busy_since_s: float | None = None
    """When the call began that has not returned; None between calls."""
    failure: str = ""
    """The last call's error; "" after one that succeeded."""
    answered: bool = False
    """Whether it has ever answered."""


@dataclass(frozen=True)
class News:
    """What the display finds when it looks."""

    computed: Computed | None
    """A result, once."""
    newest: Seen | None
    """The newest captured frame."""
    finished: bool
    """Nothing more will come."""


class Exchange:
    """The slots between the threads of a session."""

    def __init__(self, policy: Policy, slots: int, ledger: Ledger) -> None:
        """Start empty.

        Args:
            policy: of the frames that wait for the engine.
            slots: how many may wait, at least 1.
            ledger: is told of those that are dropped.
        """
        self.changed = threading.Condition()
        self._policy = policy
        self._slots = max(1, slots)
        self._ledger = ledger
        self._waiting: deque[Seen] = deque()
        self._newest: Seen | None = None
        self._computed: Computed | None = None
        self._engine = EngineState()
        self._generation = 0
        self._in_engine: Seen | None = None
        self._ended = False
        self._stopped = False

    # Capture

    def deliver(self, seen: Seen, *, for_engine: bool = True) -> bool:
        """Hand over a captured frame; with the policy "wait" waits for room.

        Args:
            seen: newer than all before.
            for_engine: False for a frame that is only displayed.

        Returns:
            False once the session has stopped: the frame is nobody's then.
        """
        with self.changed:
            if for_engine and self._policy == "wait":
                self.changed.wait_for(
                    lambda: self._stopped or len(self._waiting) < self._slots,
                )
            if self._stopped:
                return False
            self._newest = seen
            if for_engine:
                self._queue(seen)
            self.changed.notify_all()
            return True

    def _queue(self, seen: Seen) -> None:
        if len(self._waiting) < self._slots:
            self._waiting.append(seen)
        elif self._policy == "drop-latest":
            self._ledger.drop(seen.frame.index, _SUPERSEDED)
        else:
            self._ledger.drop(self._waiting.popleft().frame.index, _SUPERSEDED)
            self._waiting.append(seen)

    def end(self) -> None:
        """No frame will be captured any more; those on their way still arrive."""
        with self.changed:
            self._ended = True
            self.changed.notify_all()

    def stop(self) -> None:
        """Everybody stops as soon as possible."""
        with self.changed:
            self._stopped = True
            self.changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait that long, or until everybody stops."""
        with self.changed:
            self.changed.wait_for(lambda: self._stopped, seconds)

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called."""
        with self.changed:
            return self._stopped

    # Engine

    @property
    def generation(self) -> int:
        """Number of times that an engine was given up."""
        with self.changed:
            return self._generation

    def take(self, generation: int, now: Callable[[], float]) -> Seen | None:
        """The next frame for the engine; None when there will be none for this generation."""
        with self.changed:
            self.changed.wait_for(
                lambda: (
                    self._waiting or self._ended or self._stopped or self._generation != generation
                )
            )
            if self._stopped or self._generation != generation or not self._waiting:
                return None
            seen = self._waiting.popleft()
            self._in_engine = seen
            self._engine = EngineState(now(), self._engine.failure, self._engine.answered)
            self.changed.notify_all()
            return seen

    def answer(self, generation: int, computed: Computed) -> bool:
        """Hand over a result; with the policy "wait" waits until the display took the last one.

        Returns:
            False if the engine was given up meanwhile, or the session stopped.
        """
        with self.changed:
            if self._generation != generation:
                return False
            # The engine is not at work any more, whoever it waits for.
            self._engine = EngineState(None, computed.failure, answered=True)
            self.changed.notify_all()
            if self._policy == "wait":
                self.changed.wait_for(
                    lambda: (
                        self._computed is None or self._stopped or self._generation != generation
                    )
                )
            if self._stopped or self._generation != generation:
                return False
            if self._computed is not None:
                self._ledger.drop(self._computed.seen.frame.index, _OUTDATED_RESULT)
            self._computed = computed
            self._in_engine = None
            self.changed.notify_all()
            return True

    def failed(self, generation: int, failure: str, cause: str) -> Seen | None:
        """The engine's call raised.

        Its frame is dropped for that ``cause``; with the policy "wait" every frame is displayed,
        and it is returned instead, to be answered with the failure.
        """
        with self.changed:
            if self._generation != generation:
                return None
            self._engine = EngineState(None, failure, self._engine.answered)
            seen = self._in_engine
            if seen is not None and self._policy != "wait":
                self._ledger.drop(seen.frame.index, cause)
                self._in_engine = seen = None
            self.changed.notify_all()
            return seen

    def give_up_engine(self, failure: str, cause: str) -> int:
        """Nothing of the present engine is taken any more; returns the next generation."""
        with self.changed:
            self._generation += 1
            self._engine = EngineState(None, failure, self._engine.answered)
            if self._in_engine is not None:
                self._ledger.drop(self._in_engine.frame.index, cause)
                self._in_engine = None
            self.changed.notify_all()
            return self._generation

    @property
    def engine(self) -> EngineState:
        """What the engine is about."""
        with self.changed:
            return self._engine

    # Display

    def look(self, *, newer_than: int | None, timeout_s: float | None) -> News:
        """Wait for a result, for a newer frame, or for the time to pass.

        Args:
            newer_than: index of the newest frame that is known; None where frames do not matter.
            timeout_s: None to wait for ever.
        """
        with self.changed:
            self.changed.wait_for(
                lambda: (
                    self._computed is not None
                    or self._stopped
                    or self._drained()
                    or (
                        newer_than is not None
                        and self._newest is not None
                        and self._newest.frame.index > newer_than
                    )
                ),
                timeout_s,
            )
            computed, self._computed = self._computed, None
            if computed is not None:
                self.changed.notify_all()
            finished = self._stopped or (computed is None and self._drained())
            return News(computed, self._newest, finished)

    def _drained(self) -> bool:
        return (
            self._ended and not self._waiting and self._in_engine is None and self._computed is None
        )
