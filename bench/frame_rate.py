"""What a model's frame path on a GPU reaches, from host memory to host memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.frame_path import FramePath
from edgeseg.temporal import TemporalSmoother

__all__ = ["FrameRate", "measure_frame_rate"]

_IN_FLIGHT = 2
_FRAME_INTERVAL_MS = 40.0
_WARM_UP = 5


@dataclass(frozen=True)
class FrameRate:
    """Frames a second with two in flight, overlay drawn, and where the device's time goes.

    Attributes:
        how: of the path: with graphs or without, mapped or copied.
        frames_per_s: of the whole way.
        copies_ms: medians of ``copy_in`` and ``copy_out``, which overlap with the work.
        steps_ms: medians of the pieces of the work, each by itself and without graphs.
    """

    how: str
    frames_per_s: float
    copies_ms: Mapping[str, float]
    steps_ms: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return {
            "how": self.how,
            "frames_per_s": self.frames_per_s,
            "copies_ms": dict(self.copies_ms),
            "steps_ms": dict(self.steps_ms),
        }

    def __str__(self) -> str:
        steps = ", ".join(f"{name} {ms:.2f}" for name, ms in self.steps_ms.items())
        copies = ", ".join(f"{name} {ms:.2f}" for name, ms in self.copies_ms.items())
        return f"{self.frames_per_s:.1f} frames/s {self.how} (device ms: {steps}; beside: {copies})"


def measure_frame_rate(
    path: FramePath,
    frame: npt.NDArray[np.uint8],
    *,
    time_constant_ms: float = 0.0,
    seconds: float = 3.0,
) -> FrameRate:
    """Send one frame through ``path`` again and again.

    Args:
        path: at rest.
        frame: of its size.
        time_constant_ms: of the model's read-out; 0 if it does not smooth over time.
        seconds: for how long to send, after a few frames that do not count.
    """
    smoother = TemporalSmoother(time_constant_ms) if time_constant_ms > 0.0 else None
    copies: dict[str, list[float]] = {"copy_in": [], "copy_out": []}
    sent = done = 0

    def submit() -> None:
        nonlocal sent
        memory = smoother.step(frame, sent * _FRAME_INTERVAL_MS) if smoother else None
        path.submit(frame, memory=memory)
        sent += 1

    def collect() -> None:
        nonlocal done
        timings = path.collect().timings_ms
        for name, samples in copies.items():
            samples.append(timings[name])
        done += 1

    for _ in range(_WARM_UP):
        submit()
        collect()
    start, counted_from = time.perf_counter(), done
    while time.perf_counter() - start < seconds:
        submit()
        if sent - done == _IN_FLIGHT:
            collect()
    while done < sent:
        collect()
    elapsed_s = time.perf_counter() - start
    return FrameRate(
        path.describe(),
        (done - counted_from) / elapsed_s,
        {name: float(np.median(samples)) for name, samples in copies.items()},
        path.steps_ms(),
    )
