"""The work between upload and download: enqueued piece by piece, or launched as a graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Literal

import numpy as np

from edgeseg.errors import BackendError
from edgeseg.frame_path.buffers import BufferSet
from edgeseg.frame_path.plan import Step
from edgeseg.gpu import Gpu, Graph, Stream

__all__ = ["Compute", "Graphs"]

_log = logging.getLogger(__name__)

Graphs = bool | Literal["require"]
"""Whether to capture CUDA graphs; ``require`` makes it an error if that fails."""


class Compute:
    """The steps of every buffer set, on one stream, and a graph for each set once captured."""

    def __init__(
        self, gpu: Gpu, stream: Stream, steps: Mapping[BufferSet, tuple[Step, ...]]
    ) -> None:
        self._gpu = gpu
        self._stream = stream
        self._steps = dict(steps)
        self._graphs: dict[BufferSet, Graph] = {}
        self.why_no_graphs: str | None = "nothing was captured yet"
        """What kept the work from being captured; None if graphs run."""

    def enqueue(self, buffers: BufferSet) -> None:
        """Enqueue the work on what lies in ``buffers``."""
        graph = self._graphs.get(buffers)
        if graph is None:
            _enqueue(self._steps[buffers], self._stream)
        else:
            graph.launch(self._stream)

    def capture(self, capturable: bool, graphs: Graphs, hold: ExitStack) -> None:
        """Capture the work on every set, each of which has run once.

        Args:
            capturable: whether the engine's part can be.
            graphs: whether to.
            hold: frees the graphs.

        Raises:
            BackendError: it failed, and ``graphs`` is ``require``.
        """
        if graphs is False:
            self.why_no_graphs = "they were not asked for"
            return
        captured: dict[BufferSet, Graph] = {}
        try:
            if not capturable:
                raise BackendError("the engine's work cannot be captured")
            for buffers, steps in self._steps.items():
                work = partial(_enqueue, steps, self._stream)
                captured[buffers] = hold.enter_context(self._gpu.capture(self._stream, work))
        except BackendError as error:
            for graph in captured.values():
                graph.close()
            if graphs == "require":
                raise
            self.why_no_graphs = str(error)
            _log.warning("frames are processed without CUDA graphs: %s", error)
            return
        self._graphs = captured
        self.why_no_graphs = None

    def steps_ms(self, buffers: BufferSet, rounds: int) -> dict[str, float]:
        """Median milliseconds of each step on the device, enqueued piece by piece."""
        steps = self._steps[buffers]
        times: dict[str, list[float]] = {step.name: [] for step in steps}
        with ExitStack() as hold:
            marks = [hold.enter_context(self._gpu.event(timing=True)) for _ in (None, *steps)]
            for _ in range(rounds):
                marks[0].record(self._stream)
                for step, mark in zip(steps, marks[1:], strict=True):
                    step.enqueue(self._stream.handle)
                    mark.record(self._stream)
                self._stream.synchronize()
                for step, start, end in zip(steps, marks[:-1], marks[1:], strict=True):
                    times[step.name].append(end.elapsed_ms(start))
        return {name: float(np.median(values)) for name, values in times.items()}


def _enqueue(steps: Sequence[Step], stream: Stream) -> None:
    for step in steps:
        step.enqueue(stream.handle)
