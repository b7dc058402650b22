"""How long work reports on itself: library code calls, the command line draws."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total): the stage's name, and how many of its steps are done.

``total`` is 0 while it is unknown. A stage is over when ``done == total``.
"""


def silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""
