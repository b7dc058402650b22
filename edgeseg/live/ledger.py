"""What became of every captured frame: each is counted once, and none is lost."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Literal

__all__ = ["Displayed", "Ledger", "Totals"]

Displayed = Literal["unmasked", "predicted", "shown"]
"""How a frame was displayed, the better way last."""

_RANKS: dict[str, int] = {"unmasked": 1, "predicted": 2, "shown": 3}
_KEPT = 1024
"""Settled frames that are remembered, since a frame may be displayed once more, and better."""


@dataclass(frozen=True)
class Totals:
    """``captured == shown + predicted + unmasked + sum(dropped.values()) + in_flight``."""

    captured: int
    shown: int
    predicted: int
    unmasked: int
    dropped: dict[str, int]
    in_flight: int


class Ledger:
    """The books of one session. Several threads may write them.

    A frame that is displayed twice, first with a sign and then with its mask, counts as what it was
    at best. Memory does not grow: settled frames are forgotten after a while.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._captured = 0
        self._displayed: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._in_flight: set[int] = set()
        self._settled: dict[int, str] = {}

    def capture(self, index: int) -> None:
        """A frame was captured; indices are given once."""
        with self._lock:
            self._captured += 1
            self._in_flight.add(index)

    def display(self, index: int, how: Displayed) -> None:
        """The frame was displayed; of frames that nobody captured (-1) nothing is kept."""
        with self._lock:
            if index in self._in_flight:
                self._in_flight.remove(index)
            elif index in self._settled:
                before = self._settled[index]
                if _RANKS.get(before, 0) >= _RANKS[how]:
                    return
                if before in _RANKS:
                    self._displayed[before] -= 1
                else:
                    self._dropped[before] -= 1
            else:
                return
            self._displayed[how] += 1
            self._settle(index, how)

    def drop(self, index: int, cause: str) -> None:
        """The frame will not be displayed any more, unless it has been already."""
        with self._lock:
            if index in self._in_flight:
                self._in_flight.remove(index)
                self._dropped[cause] += 1
                self._settle(index, cause)

    def drop_rest(self, cause: str) -> None:
        """Close the books: nothing is in flight any more."""
        with self._lock:
            self._dropped[cause] += len(self._in_flight)
            self._in_flight.clear()

    def totals(self) -> Totals:
        """The sums at this moment."""
        with self._lock:
            return Totals(
                captured=self._captured,
                shown=self._displayed["shown"],
                predicted=self._displayed["predicted"],
                unmasked=self._displayed["unmasked"],
                dropped={cause: n for cause, n in sorted(self._dropped.items()) if n},
                in_flight=len(self._in_flight),
            )

    def _settle(self, index: int, what: str) -> None:
        self._settled[index] = what
        while len(self._settled) > _KEPT:
            # In the order of settling: the oldest goes.
            del self._settled[next(iter(self._settled))]
