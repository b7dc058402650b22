"""Timing that survives a noisy machine: candidates in turn, percentiles instead of means."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg._progress import Progress, silent

__all__ = ["Timing", "interleave", "throughput_fps"]

_PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of repeated calls, in the order they were made."""

    samples_ms: npt.NDArray[np.float64]

    @property
    def median_ms(self) -> float:
        """The figure to quote."""
        return float(np.median(self.samples_ms))

    def summary_ms(self) -> dict[str, float]:
        """min, mean, p50, p90, p95, p99 and max."""
        values = dict(
            zip(
                (f"p{p}" for p in _PERCENTILES),
                (float(v) for v in np.percentile(self.samples_ms, _PERCENTILES)),
                strict=True,
            )
        )
        return {
            "min": float(self.samples_ms.min()),
            "mean": float(self.samples_ms.mean()),
            **values,
            "max": float(self.samples_ms.max()),
        }


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    block: int = 5,
    warmup: int = 3,
    progress: Progress = silent,
    stage: str = "measure",
) -> dict[str, Timing]:
    """Time several callables in turn, ``rounds`` times ``block`` calls each.

    Each block opens with one call that is not counted: it brings the caches back and lets the
    other candidate's spinning threads come to rest.
    """
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        for _ in range(warmup):
            call()
    for done in range(rounds):
        for name, call in candidates.items():
            call()
            for _ in range(block):
                start = time.perf_counter()
                call()
                samples[name].append(1e3 * (time.perf_counter() - start))
        progress(stage, done + 1, rounds)
    return {name: Timing(np.array(values)) for name, values in samples.items()}


def throughput_fps(call: Callable[[], object], *, parallel: int, seconds: float = 3.0) -> float:
    """Calls a second when ``parallel`` threads call as fast as they can for ``seconds``.

    An exception in any thread ends the measurement and is raised.
    """
    counts = [0] * parallel
    errors: list[BaseException] = []
    call()
    start = time.perf_counter()
    end = start + seconds

    def work(index: int) -> None:
        try:
            while time.perf_counter() < end and not errors:
                call()
                counts[index] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - start)
