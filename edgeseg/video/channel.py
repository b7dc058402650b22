"""The slot between two stages: bounded, in order, and closed from either side."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

__all__ = ["AbandonedError", "Channel", "EndedError", "Switch"]

T = TypeVar("T")


class EndedError(Exception):
    """The channel was closed by its writer, and everything in it has been taken."""


class AbandonedError(Exception):
    """Another stage failed: nothing will come or be taken any more."""


class Switch:
    """What stops every stage: thrown once, with the first error."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.thrown = False
        self.error: BaseException | None = None

    def throw(self, error: BaseException | None = None) -> None:
        """Wake every stage and keep ``error`` if it is the first."""
        with self.changed:
            if not self.thrown:
                self.thrown = True
                self.error = error
            self.changed.notify_all()


class Channel(Generic[T]):
    """Passes numbered items on in the order of their numbers, whatever order they arrive in.

    Writers wait while their item is ``slots`` or more ahead of the next one to be taken, so at most
    ``slots`` items lie here. The writer that holds the next item never waits: several workers
    cannot block each other.
    """

    def __init__(self, slots: int, switch: Switch) -> None:
        # One condition for all channels of a pipeline: a frame takes milliseconds, waking a few
        # threads too many takes microseconds, and no thread can then wait for two locks.
        self._slots = slots
        self._switch = switch
        self._items: dict[int, T] = {}
        self._next = 0
        self._end: int | None = None

    def put(self, number: int, item: T) -> None:
        """Hand over item ``number``.

        Raises:
            AbandonedError: the pipeline stops.
        """
        with self._switch.changed:
            while number >= self._next + self._slots and not self._switch.thrown:
                self._switch.changed.wait()
            if self._switch.thrown:
                raise AbandonedError
            self._items[number] = item
            self._switch.changed.notify_all()

    def end(self, count: int) -> None:
        """Say that there are ``count`` items in all. May be said more than once."""
        with self._switch.changed:
            self._end = count
            self._switch.changed.notify_all()

    def get(self) -> tuple[int, T]:
        """Take the next item.

        Raises:
            EndedError: there are no more; its argument is their number.
            AbandonedError: the pipeline stops.
        """
        with self._switch.changed:
            while True:
                if self._switch.thrown:
                    raise AbandonedError
                if self._next in self._items:
                    number = self._next
                    self._next += 1
                    self._switch.changed.notify_all()
                    return number, self._items.pop(number)
                if self._next == self._end:
                    raise EndedError(self._end)
                self._switch.changed.wait()
