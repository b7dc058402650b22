"""Times of many frames in a memory that does not grow with their number."""

from __future__ import annotations

import math

__all__ = ["Spread"]

_SHORTEST_MS = 1e-3
_STEP = 1.01
_BINS = math.ceil(math.log(1e7 / _SHORTEST_MS) / math.log(_STEP))


class Spread:
    """Mean and percentiles of times, from a histogram with bins 1 % wide (1 us to 10 000 s)."""

    def __init__(self) -> None:
        self.count = 0
        self.total_ms = 0.0
        self._bins = [0] * (_BINS + 1)

    def add(self, value_ms: float) -> None:
        """Count one time in milliseconds."""
        self.count += 1
        self.total_ms += value_ms
        place = 0
        if value_ms > _SHORTEST_MS:
            place = min(int(math.log(value_ms / _SHORTEST_MS) / math.log(_STEP)) + 1, _BINS)
        self._bins[place] += 1

    @property
    def mean_ms(self) -> float:
        """Exact mean in milliseconds; 0 of nothing."""
        return self.total_ms / self.count if self.count else 0.0

    def percentile_ms(self, percent: float) -> float:
        """Smallest time that at least ``percent`` of the times do not exceed, within 0.5 %."""
        wanted = max(1, math.ceil(self.count * percent / 100.0))
        seen = 0
        for place, count in enumerate(self._bins):
            seen += count
            if seen >= wanted:
                return _SHORTEST_MS * _STEP ** (place - 0.5) if place else 0.0
        return 0.0
