"""What is said of a list of latencies, and of the ratio of two lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeseg.errors import UsageError

__all__ = ["PERCENTILES", "Ratio", "jitter_ms", "ratio", "summary_ms"]

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)

Rounds = Sequence[Sequence[float]]
"""Latencies in milliseconds, by round."""

_RESAMPLES = 4000


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one list is as another.

    Attributes:
        value: of the baseline over the candidate, of each the median over the rounds of the
            median of a round's calls.
        low, high: 95 % interval of the same, from resampling whole rounds.
    """

    value: float
    low: float
    high: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out 1: whether there is a difference at all."""
        return not self.low <= 1.0 <= self.high


def summary_ms(rounds: Rounds) -> dict[str, float]:
    """min, mean, p50, p90, p95, p99, p99.9, max and jitter of all calls.

    Raises:
        UsageError: there are no calls.
    """
    values = _flat(rounds)
    found = {"min": float(values.min()), "mean": float(values.mean())}
    for percentile, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True):
        found[f"p{percentile:g}"] = float(value)
    return found | {"max": float(values.max()), "jitter": jitter_ms(rounds)}


def jitter_ms(rounds: Rounds) -> float:
    """Mean absolute difference of calls that follow each other in a round (RFC 3550's idea)."""
    steps = [np.abs(np.diff(np.asarray(one, dtype=np.float64))) for one in rounds]
    joined = np.concatenate(steps) if steps else np.empty(0)
    return float(joined.mean()) if joined.size else 0.0


def ratio(baseline: Rounds, candidate: Rounds, *, paired: bool, seed: int = 0) -> Ratio:
    """Compare medians of rounds, with a bootstrap interval.

    Calls within a round share the state of the machine, so each round counts once, by its median,
    and rounds are what is resampled: the same rounds of both where they ran in turn (``paired``),
    else each by itself.

    Args:
        baseline: latencies, by round.
        candidate: latencies, by round; as many rounds where paired.
        paired: whether round i of both ran next to each other.
        seed: of the resampling.

    Raises:
        UsageError: no calls, or paired lists of different lengths.
    """
    _flat(baseline), _flat(candidate)  # refuses what has no median
    if paired and len(baseline) != len(candidate):
        raise UsageError("paired measurements need as many rounds of each")
    generator = np.random.default_rng(seed)
    base_medians = np.array([np.median(one) for one in baseline])
    medians = np.array([np.median(one) for one in candidate])
    chosen = generator.integers(0, len(medians), (_RESAMPLES, len(medians)))
    chosen_base = (
        chosen if paired else generator.integers(0, len(base_medians), (_RESAMPLES, len(baseline)))
    )
    ratios = np.median(base_medians[chosen_base], axis=1) / np.median(medians[chosen], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Ratio(float(np.median(base_medians) / np.median(medians)), float(low), float(high))


def _flat(rounds: Rounds) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = np.array([value for one in rounds for value in one], dtype=np.float64)
    if not values.size or not np.isfinite(values).all() or any(len(one) == 0 for one in rounds):
        raise UsageError("a measurement needs finite latencies in every round")
    return values
