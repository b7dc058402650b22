"""Candidates in turn: A B A B, so that what the machine does meanwhile happens to all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from edgeseg._progress import Progress, silent
from edgeseg.errors import UsageError

__all__ = ["MIN_ROUNDS", "Rounds", "measure_rounds"]

MIN_ROUNDS = 3
"""Of a measurement for a time: an interval over fewer rounds would say nothing."""

Rounds = tuple[tuple[float, ...], ...]
"""Milliseconds of each call by round, in the order in which they were made."""


def measure_rounds(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int | None = None,
    duration_s: float | None = None,
    block: int = 5,
    warmup: int = 3,
    progress: Progress = silent,
    stage: str = "measure",
) -> dict[str, Rounds]:
    """Time callables in turn: in each round a block of calls of each, in the order given.

    Each block opens with one call that is not counted: it brings the caches back and lets another
    candidate's spinning threads come to rest.

    Args:
        candidates: by name.
        rounds: how many.
        duration_s: instead of ``rounds``: until this many seconds have passed since the first
            round began, and at least ``MIN_ROUNDS`` rounds.
        block: counted calls of each candidate in a round.
        warmup: calls of each candidate before the first round.
        progress: called with (``stage``, done, total); for a duration in whole seconds.
        stage: its name there.

    Returns:
        For each candidate as many rounds as for every other, of ``block`` samples each.

    Raises:
        UsageError: neither or both of ``rounds`` and ``duration_s``, or one that is not positive.
    """
    if (rounds is None) == (duration_s is None):
        raise UsageError("a measurement needs a number of rounds or a duration, and not both")
    if rounds is not None and rounds < 1:
        raise UsageError(f"rounds must be at least 1, got {rounds}")
    if duration_s is not None and not 0.0 < duration_s < float("inf"):
        raise UsageError(f"the duration must be a positive number of seconds, got {duration_s}")
    samples: dict[str, list[tuple[float, ...]]] = {name: [] for name in candidates}
    for call in candidates.values():
        for _ in range(warmup):
            call()
    start = time.perf_counter()
    done = 0
    while True:
        for name, call in candidates.items():
            samples[name].append(_block(call, block))
        done += 1
        passed_s = time.perf_counter() - start
        if duration_s is None:
            progress(stage, done, rounds or 0)
            over = done == rounds
        else:
            over = done >= MIN_ROUNDS and passed_s >= duration_s
            total = max(1, round(duration_s))
            progress(stage, total if over else min(int(passed_s), total - 1), total)
        if over:
            return {name: tuple(found) for name, found in samples.items()}


def _block(call: Callable[[], object], count: int) -> tuple[float, ...]:
    call()
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - start))
    return tuple(found)
