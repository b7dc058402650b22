"""Timing that survives a noisy machine: candidates in turn, percentiles instead of means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg._progress import Progress, silent
from edgeseg.bench.rounds import measure_rounds

__all__ = ["Timing", "interleave"]

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
    """``measure_rounds`` where rounds do not matter: all calls of each candidate in one list."""
    measured = measure_rounds(
        candidates, rounds=rounds, block=block, warmup=warmup, progress=progress, stage=stage
    )
    return {name: Timing(np.concatenate(found)) for name, found in measured.items()}
