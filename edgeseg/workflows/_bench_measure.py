"""The steps of a benchmark, on candidates that are open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt

from edgeseg._progress import Progress
from edgeseg.backends.base import StreamEngine
from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.concurrency import measure_concurrency, request_counts
from edgeseg.bench.energy import EnergyMeter
from edgeseg.bench.engine_candidate import EngineCandidate
from edgeseg.bench.frame_rate import FrameRate, measure_frame_rate
from edgeseg.bench.result import ConcurrencyRecord, EnergyRecord
from edgeseg.bench.rounds import Rounds, measure_rounds
from edgeseg.bench.stats import summary_ms
from edgeseg.frame_path import model_unavailable_reason, open_frame_path
from edgeseg.model import Model
from edgeseg.overlay import Overlay, default_colours
from edgeseg.workflows._bench_inputs import Fed

__all__ = [
    "Effort",
    "frame_path_rate",
    "measure_calls",
    "measure_energy",
    "measure_latencies",
    "measure_stages",
    "measure_throughput",
]

THROUGHPUT_S = 3.0
"""For each number of requests in flight."""
ENERGY_TURNS = 3
ENERGY_S = 1.0
"""For each turn of each candidate, where the machine reports energy."""
_WARM_UP = 3
_BLOCK = 5
_SMALL_BLOCK = 2
_WANTED_ROUNDS = 10
STAGE_ROUNDS = 20

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Effort:
    """How long to measure latencies; one of both is set."""

    rounds: int | None
    duration_s: float | None

    @property
    def stage_rounds(self) -> int:
        """Rounds for the stages around the engine, and runs of a profile."""
        return self.rounds or STAGE_ROUNDS

    def __str__(self) -> str:
        return f"--rounds {self.rounds}" if self.rounds else f"--duration {self.duration_s:g}"


def measure_latencies(
    candidates: Sequence[Candidate],
    inputs: Fed,
    effort: Effort,
    progress: Progress,
) -> dict[str, Rounds]:
    """Time all candidates in turn on the same frame; by name.

    For a duration the calls in a row become fewer where candidates are slow, so that there are
    enough rounds to tell what is noise.
    """
    return measure_calls(
        {one.name: partial(one.infer, inputs(one)) for one in candidates}, effort, progress
    )


def measure_calls(
    calls: Mapping[str, Callable[[], object]], effort: Effort, progress: Progress
) -> dict[str, Rounds]:
    """The same of any calls; by name."""
    for call in calls.values():
        for _ in range(_WARM_UP):
            call()
    block = _BLOCK
    if effort.duration_s is not None:
        start = perf_counter()
        for call in calls.values():
            call()
        once_s = perf_counter() - start
        fits = effort.duration_s / once_s >= _WANTED_ROUNDS * (_BLOCK + 1)
        block = _BLOCK if fits else _SMALL_BLOCK
    return measure_rounds(
        calls,
        rounds=effort.rounds,
        duration_s=effort.duration_s,
        block=block,
        warmup=0,
        progress=progress,
        stage="latency",
    )


def measure_throughput(
    alone: Candidate, several: Candidate, tensors: Mapping[str, Array]
) -> tuple[ConcurrencyRecord, ...]:
    """Frames a second of the network with 1, 2, 4... requests in flight.

    Args:
        alone: takes the single request: what the latency was measured of.
        several: takes the others, up to its ``parallel``: the same opened for several at once.
        tensors: inputs.
    """
    return tuple(
        measure_concurrency(
            partial((alone if count == 1 else several).infer, tensors),
            requests=count,
            seconds=THROUGHPUT_S,
        )
        for count in request_counts(several.parallel)
    )


def measure_stages(
    candidate: EngineCandidate,
    frame: Frame,
    inference: Rounds,
    effort: Effort,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """Summaries of the stages of a frame; ``inference`` was measured with the candidates."""
    model = candidate.model
    outputs = model.infer(model.preprocess(frame))
    found = measure_rounds(
        {
            "preprocess": lambda: model.preprocess(frame),
            "readout": lambda: model.read_out(outputs, frame.shape[:2]),
            "total": lambda: model(frame),
        },
        rounds=effort.stage_rounds,
        progress=progress,
        stage="stages",
    )
    found["inference"] = inference
    order = ("preprocess", "inference", "readout", "total")
    return {name: summary_ms(found[name]) for name in order}


def frame_path_rate(model: Model, frame: Frame) -> tuple[FrameRate | None, str | None]:
    """What the frame path on a GPU reaches, or why an engine on a GPU has none."""
    if not isinstance(model.engine, StreamEngine):
        return None, None
    reason = model_unavailable_reason(model)
    if reason is not None:
        return None, reason
    overlay = Overlay(default_colours(model.foreground_classes))
    with open_frame_path(model, frame.shape[:2], overlay=overlay) as path:
        rate = measure_frame_rate(path, frame, time_constant_ms=model.readout.time_constant_ms)
    return rate, None


def measure_energy(
    candidates: Sequence[Candidate], inputs: Fed, meter: EnergyMeter
) -> dict[str, EnergyRecord]:
    """Energy of each candidate while it answers one request after the other, in turn; by name."""
    tallies = {one.name: meter.tally() for one in candidates}
    frames = dict.fromkeys(tallies, 0)
    for _ in range(ENERGY_TURNS):
        for one in candidates:
            tensors = inputs(one)
            one.infer(tensors)
            with tallies[one.name]:
                end = perf_counter() + ENERGY_S
                while perf_counter() < end:
                    one.infer(tensors)
                    frames[one.name] += 1
    found = {name: tally.record(frames[name]) for name, tally in tallies.items()}
    return {name: record for name, record in found.items() if record is not None}
