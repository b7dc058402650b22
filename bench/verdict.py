"""What a ratio of latencies means, in words, and which candidates of a result have latencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeseg.bench.result import BenchResult, CandidateRecord
from edgeseg.bench.stats import Ratio, Rounds, ratio

__all__ = ["Verdict", "is_own", "judge", "measured", "own_with", "peers", "reference"]

_OWN = "edgeseg"
_FEWEST_ROUNDS = 3
"""With fewer, resampling rounds tells nothing of how much they vary."""


@dataclass(frozen=True)
class Verdict:
    """How a candidate compares with a baseline.

    Attributes:
        ratio: median of the baseline over that of the candidate, with its interval.
        enough_rounds: whether the interval can be believed.
    """

    ratio: Ratio
    enough_rounds: bool

    @property
    def faster(self) -> bool:
        """Whether the candidate is faster than the baseline, beyond noise."""
        return self.enough_rounds and self.ratio.low > 1.0

    @property
    def slower(self) -> bool:
        """Whether it is slower, beyond noise."""
        return self.enough_rounds and self.ratio.high < 1.0

    @property
    def figures(self) -> str:
        """``1.31 (1.27 to 1.35)``."""
        return _figures(self.ratio.value, self.ratio.low, self.ratio.high)

    @property
    def words(self) -> str:
        """The same as a statement about the candidate, and whether it is beyond noise."""
        value, low, high = self.ratio.value, self.ratio.low, self.ratio.high
        if not self.enough_rounds:
            places = _places(value)
            return f"{value:.{places}f} times as fast, of too few rounds to tell it from noise"
        if self.slower:
            return f"takes {_figures(1 / value, 1 / high, 1 / low, 'times as long')}"
        if self.faster:
            return _figures(value, low, high, "times as fast")
        places = _places(value)
        return f"no difference beyond noise ({low:.{places}f} to {high:.{places}f})"


def judge(baseline: Rounds, candidate: Rounds, *, paired: bool) -> Verdict:
    """Compare a candidate with a baseline.

    Args:
        baseline: latencies in milliseconds, by round.
        candidate: the same of the candidate.
        paired: whether the same rounds ran next to each other, as within one file. Lists of
            different lengths are compared unpaired.

    Raises:
        UsageError: one has no latencies.
    """
    rounds = min(len(baseline), len(candidate))
    together = paired and len(baseline) == len(candidate)
    return Verdict(ratio(baseline, candidate, paired=together), rounds >= _FEWEST_ROUNDS)


def measured(result: BenchResult) -> list[CandidateRecord]:
    """The candidates that have latencies, in the order of the file."""
    return [one for one in result.candidates if one.samples_ms and one.unavailable is None]


def is_own(candidate: CandidateRecord) -> bool:
    """Whether it is edgeseg rather than a peer."""
    return candidate.name == _OWN or candidate.name.startswith(f"{_OWN} ")


def own_with(result: BenchResult, precision: str) -> CandidateRecord | None:
    """The first measured candidate of edgeseg whose variant begins with ``precision``."""
    return next(
        (
            one
            for one in measured(result)
            if is_own(one) and one.name[len(_OWN) :].strip().startswith(precision)
        ),
        None,
    )


def reference(result: BenchResult) -> CandidateRecord | None:
    """What the others are compared with: edgeseg's INT8, or else its first candidate."""
    return own_with(result, "int8") or own_with(result, "")


def peers(result: BenchResult) -> Sequence[CandidateRecord]:
    """The measured candidates that are not edgeseg."""
    return [one for one in measured(result) if not is_own(one)]


def _figures(value: float, low: float, high: float, unit: str = "") -> str:
    places = _places(value)
    joined = f" {unit}" if unit else ""
    return f"{value:.{places}f}{joined} ({low:.{places}f} to {high:.{places}f})"


def _places(value: float) -> int:
    """Decimals: enough to tell a ratio near 1 from it."""
    if abs(value - 1.0) < 0.05:
        return 3
    return 2 if value < 10.0 else 1
