"""What may be changed while a live session runs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from edgeseg.errors import UsageError

__all__ = ["Controls"]


class Controls:
    """Opacity and threshold of what is shown, for all who look. Several threads may use it."""

    def __init__(
        self,
        *,
        opacity: float,
        threshold: float | None,
        on_change: Callable[[str, float], None] | None = None,
    ) -> None:
        """Start with these.

        Args:
            opacity: of the fill, 0 to 1.
            threshold: between 0 and 1; None for models of several classes, which have none.
            on_change: is told name and value of what was changed, by the thread that changes it.

        Raises:
            UsageError: out of range.
        """
        self._lock = threading.Lock()
        self._takes_threshold = threshold is not None
        self._on_change = on_change
        self._opacity = _opacity(opacity)
        self._threshold = None if threshold is None else _threshold(threshold)

    @property
    def opacity(self) -> float:
        """Opacity of the fill, 0 (outlines alone, or nothing) to 1."""
        with self._lock:
            return self._opacity

    @property
    def threshold(self) -> float | None:
        """Probability from which on a pixel is foreground; None for models of several classes."""
        with self._lock:
            return self._threshold

    def set_opacity(self, value: float) -> None:
        """Change the opacity.

        Raises:
            UsageError: not between 0 and 1.
        """
        checked = _opacity(value)
        with self._lock:
            changed, self._opacity = self._opacity != checked, checked
        if changed:
            self._tell("opacity", checked)

    def set_threshold(self, value: float) -> None:
        """Change the threshold.

        Raises:
            UsageError: not between 0 and 1 (both excluded), or the model has none.
        """
        if not self._takes_threshold:
            raise UsageError("a model of several classes has no threshold: its classes compete")
        checked = _threshold(value)
        with self._lock:
            changed, self._threshold = self._threshold != checked, checked
        if changed:
            self._tell("threshold", checked)

    def _tell(self, name: str, value: float) -> None:
        if self._on_change is not None:
            self._on_change(name, value)


def _opacity(value: float) -> float:
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise UsageError(f"the opacity must lie between 0 and 1, got {value}")
    return float(value)


def _threshold(value: float) -> float:
    if not (math.isfinite(value) and 0.0 < value < 1.0):
        raise UsageError(f"the threshold must lie between 0 and 1, got {value}")
    return float(value)
