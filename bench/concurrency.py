"""Throughput with one, two and more requests in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from edgeseg.bench.result import ConcurrencyRecord
from edgeseg.errors import UsageError

__all__ = ["measure_concurrency", "request_counts"]


def request_counts(parallel: int) -> tuple[int, ...]:
    """1, 2, 4... and ``parallel`` itself.

    Raises:
        UsageError: ``parallel`` is not positive.
    """
    if parallel < 1:
        raise UsageError(f"at least one request must be in flight, got {parallel}")
    counts = [1]
    while counts[-1] < parallel:
        counts.append(min(2 * counts[-1], parallel))
    return tuple(counts)


def measure_concurrency(
    call: Callable[[], object], *, requests: int, seconds: float
) -> ConcurrencyRecord:
    """Let ``requests`` threads call as fast as they can for ``seconds``.

    A call that is under way at the end is waited for, and counts. Each thread makes at least one.

    Args:
        call: may be made from so many threads at once.
        requests: number of threads.
        seconds: positive.

    Raises:
        UsageError: ``requests`` is not positive.
        Exception: what a call raised, in any thread; it ends the measurement.
    """
    if requests < 1:
        raise UsageError(f"at least one request must be in flight, got {requests}")
    samples: list[list[float]] = [[] for _ in range(requests)]
    errors: list[BaseException] = []
    call()
    start = time.perf_counter()
    end = start + seconds

    def work(own: list[float]) -> None:
        try:
            begun = time.perf_counter()
            while (begun < end or not own) and not errors:
                call()
                now = time.perf_counter()
                own.append(1e3 * (now - begun))
                begun = now
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(own,), daemon=True) for own in samples]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    elapsed_s = time.perf_counter() - start
    values = [value for own in samples for value in own]
    return ConcurrencyRecord(requests, len(values) / elapsed_s, float(np.median(values)))
