"""Work that is enqueued, captured and, when something waits for it, run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Operation:
    """Something enqueued."""

    run: Callable[[], None]
    lane: object
    """What is served together: a stream, or something of its own in a graph."""
    after: tuple[Operation, ...]
    done: bool = False

    @property
    def ready(self) -> bool:
        return all(before.done for before in self.after)


@dataclass(eq=False)
class Node:
    """An operation of a graph."""

    run: Callable[[], None]
    after: tuple[Node, ...]


@dataclass(eq=False)
class Executable:
    """A graph that can be launched."""

    nodes: tuple[Node, ...]
    last: Operation | None = None
    """The end of the launch before."""


@dataclass(eq=False)
class Stream:
    handle: int
    blocking: bool
    """Ordered with the default stream."""
    tail: Operation | None = None
    capture: Capture | None = None
    nodes: tuple[Node, ...] = ()
    """While capturing: what the next node comes after."""
    destroyed: bool = False


@dataclass(eq=False)
class Event:
    timing: bool
    record: Operation | None = None
    time_ms: float | None = None
    captured: tuple[Capture, tuple[Node, ...]] | None = None
    """Set where it was last recorded in a capture."""


@dataclass(eq=False)
class Capture:
    origin: Stream
    thread: int
    global_mode: bool
    nodes: list[Node] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    invalid: bool = False


def nothing() -> None:
    """Work that only has a place in the order."""


def ancestors(last: Iterable[Any]) -> set[Any]:
    """``last`` and all that comes before."""
    found: set[Any] = set()
    stack = list(last)
    while stack:
        item = stack.pop()
        if item not in found:
            found.add(item)
            stack.extend(item.after)
    return found


class Scheduler:
    """Runs what is enqueued, as late and in as odd an order as is allowed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.pending: list[Operation] = []
        self.clock_ms = 0.0

    def add(self, operation: Operation) -> Operation:
        self.pending.append(operation)
        return operation

    def complete(self, wanted: Sequence[Operation]) -> None:
        """Run until ``wanted`` are done; perhaps nothing else, perhaps a lot.

        Lanes are served by a random rank, which puts whole streams behind others; a fair choice
        at every step would hide that the order of two long rows of work is open.
        """
        mood = self._random.choice(("only what is needed", "the best ranks", "and some more"))
        needed = ancestors(wanted)
        ranks: dict[object, float] = {}
        while not all(operation.done for operation in wanted):
            ready = self._ready()
            if mood == "only what is needed":
                ready = [operation for operation in ready if operation in needed]
            elif self._random.random() < 0.1:
                ranks = {}
            for operation in ready:
                ranks.setdefault(operation.lane, self._random.random())
            self._run(max(ready, key=lambda operation: ranks[operation.lane]))
        if mood == "and some more":
            self.progress(len(self.pending))

    def progress(self, most: int) -> None:
        """Run a few things that nobody waits for."""
        for _ in range(self._random.randint(0, most)):
            ready = self._ready()
            if ready:
                self._run(self._random.choice(ready))

    def _ready(self) -> list[Operation]:
        return [operation for operation in self.pending if operation.ready]

    def _run(self, operation: Operation) -> None:
        self.pending.remove(operation)
        operation.done = True
        operation.after = ()
        self.clock_ms += self._random.uniform(0.001, 0.1)
        operation.run()
