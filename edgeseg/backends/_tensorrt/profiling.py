"""Times of layers, as TensorRT's profiler reports them."""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeseg.backends._tensorrt.layers import LayerDetail
from edgeseg.backends.base import LayerTime

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["LayerTimes", "make_profiler"]


class LayerTimes:
    """Milliseconds by layer, over several runs."""

    def __init__(self) -> None:
        self._rounds: dict[str, list[float]] = {}
        self._now: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, layer: str, ms: float) -> None:
        """One layer of the run at hand; a name that comes twice counts as one layer."""
        with self._lock:
            self._now[layer] = self._now.get(layer, 0.0) + float(ms)

    def end_round(self, *, keep: bool = True) -> None:
        """The run is over; ``keep`` False forgets it."""
        with self._lock:
            for layer, ms in self._now.items() if keep else ():
                self._rounds.setdefault(layer, []).append(ms)
            self._now = {}

    def take(self, details: Mapping[str, LayerDetail]) -> tuple[LayerTime, ...]:
        """Medians in the order of the layers, and forget them.

        Args:
            details: of layers by name, as far as they are known.
        """
        with self._lock:
            rounds, self._rounds = self._rounds, {}
        times = []
        for name, values in rounds.items():
            known = details.get(name, LayerDetail(name, "", ()))
            times.append(LayerTime(known.label, known.kind, statistics.median(values)))
        return tuple(times)


def make_profiler(lib: Any, times: LayerTimes) -> trt.IProfiler:
    """TensorRT's profiler that tells ``times``. Keep it as long as the context that has it."""

    class Profiler(lib.IProfiler):
        def __init__(self) -> None:
            lib.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            # An exception that leaves a callback of TensorRT ends the process.
            with contextlib.suppress(Exception):
                times.add(layer_name, ms)

    return Profiler()
