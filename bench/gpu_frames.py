"""Whole frames on a GPU: the frame path beside eager torch with OpenCV around it.

The engine is a seam (``backends.StreamEngine``), so everything but TensorRT can be checked and
timed on any NVIDIA GPU: a torch module stands in for the plan, and is captured in the same graph.
``edgeseg.workflows.gpu_frames`` brings the models and is the command.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.backends.base import StreamEngine
from edgeseg.bench.gpu_eager import FILL, EagerFrames, FrameCase
from edgeseg.bench.gpu_stand_in import Answer, TorchEngine, empty_outputs
from edgeseg.frame_path import FramePath, FrameResult, Wanted
from edgeseg.gpu import Gpu
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.overlay import Overlay, default_colours
from edgeseg.preprocess import Preprocessor
from edgeseg.reader import Reader
from edgeseg.spec import ReadoutSpec
from edgeseg.temporal import TemporalSmoother

__all__ = ["FrameCheck", "FrameFigures", "check", "measure"]

Frame = npt.NDArray[np.uint8]

AGREEMENT = 0.999
"""Share of pixels whose class must be that of the CPU path."""
_FRAME_INTERVAL_MS = 40.0
_IN_FLIGHT = 2
_RESIDENT = Wanted(overlay=False, mask=False, statistics=True)


@dataclass(frozen=True)
class FrameCheck:
    """The frame path beside the CPU path, from the same engine's logits."""

    case: str
    frames: int
    graphs: bool
    mask_agreement: float
    """Smallest over the frames, 0 to 1."""
    overlay_wrong_bytes: int
    """Of the frames drawn on the GPU, against the CPU's drawing of the GPU's mask."""
    counts_wrong: int
    """Frames whose statistics are not those of their mask."""

    @property
    def passed(self) -> bool:
        """Whether the path computes what the CPU does; NaN does not pass."""
        return (
            self.mask_agreement >= AGREEMENT
            and self.overlay_wrong_bytes == 0
            and self.counts_wrong == 0
        )


@dataclass(frozen=True)
class FrameFigures:
    """Medians of one case over interleaved rounds."""

    case: str
    frames_per_s: Mapping[str, float]
    """Of ``edgeseg`` (host to host, overlay and statistics), ``edgeseg resident`` (frames on the
    device, statistics alone) and the eager baselines."""
    times_as_fast: Mapping[str, float]
    """edgeseg host to host against each baseline: median over the rounds of the ratios."""
    stages_ms: Mapping[str, float]
    """Device time of ``copy_in``, ``compute`` and ``copy_out``, and of the ``engine`` alone."""
    around_engine_share: float
    """Share of ``compute`` that is not the engine: pre- and post-processing."""
    gap_share: float
    """Share of the resident run's time in which no graph was running."""


def check(
    gpu: Gpu,
    engine: StreamEngine,
    answer: Answer,
    case: FrameCase,
    frames: Sequence[Frame],
    *,
    graphs: bool = True,
    native: CudaLibrary | None = None,
) -> FrameCheck:
    """Compare the frame path with the CPU path, both with the logits of one engine.

    Two frames are in flight at any time, so that what is compared is what overlaps.

    Args:
        gpu: the device.
        engine: of the frame path.
        answer: from the CPU's input tensors to the same engine's outputs, by name.
        case: how frames become inputs and outputs masks.
        frames: of one size.
        graphs: whether the path must use graphs, or none.
        native: the kernels to use instead of this installation's.

    Raises:
        BackendError: the path cannot be made, captured or run.
    """
    overlay = Overlay(default_colours(1), alpha=FILL, contours=True)
    ours, theirs = (_smoother(case.readout) for _ in range(2))
    results: list[FrameResult] = []
    with FramePath(
        gpu,
        engine,
        case.preprocess,
        case.readout,
        frames[0].shape[:2],
        wanted=Wanted(overlay=True, mask=True, statistics=True),
        overlay=overlay,
        graphs="require" if graphs else False,
        native=native,
    ) as path:
        for index, frame in enumerate(frames):
            if index >= _IN_FLIGHT:
                results.append(path.collect())
            memory = ours.step(frame, index * _FRAME_INTERVAL_MS) if ours else None
            path.submit(frame, memory=memory)
        results += [path.collect() for _ in range(min(_IN_FLIGHT, len(frames)))]
    preprocess, reader = Preprocessor(case.preprocess), Reader(case.preprocess, case.readout)
    agreement, wrong_bytes, wrong_counts = [], 0, 0
    for index, (frame, result) in enumerate(zip(frames, results, strict=True)):
        names = (port.name for port in engine.inputs)
        outputs = answer(dict(zip(names, preprocess.tensors(frame), strict=True)))
        reading = reader.read(
            [outputs[port.name] for port in engine.outputs],
            (frame.shape[0], frame.shape[1]),
            memory=theirs.step(frame, index * _FRAME_INTERVAL_MS) if theirs else None,
        )
        assert result.mask is not None and result.overlay is not None and result.counts is not None
        agreement.append(float(np.mean(result.mask == reading.mask)))
        wrong_bytes += int(np.count_nonzero(overlay(frame, result.mask) != result.overlay))
        found = np.bincount(result.mask.ravel(), minlength=len(result.counts))
        wrong_counts += tuple(found.tolist()) != tuple(result.counts)
    return FrameCheck(
        case.name, len(frames), graphs, float(np.min(agreement)), wrong_bytes, wrong_counts
    )


def measure(
    torch: Any,
    gpu: Gpu,
    case: FrameCase,
    frames: Sequence[Frame],
    *,
    rounds: int = 10,
    block: int = 60,
) -> FrameFigures:
    """Time whole frames, edgeseg and the baselines in turn.

    Args:
        torch: the module.
        gpu: the device; torch must use the same.
        case: the model.
        frames: of one size; used again and again.
        rounds: how often all candidates are timed.
        block: frames of edgeseg in a round; the baselines do a third.
    """
    engine = TorchEngine(torch, case.exportable, case.inputs, case.outputs)
    overlay = Overlay(default_colours(1), alpha=FILL)
    hw_px = (frames[0].shape[0], frames[0].shape[1])
    eager = EagerFrames(torch, case)
    half = EagerFrames(torch, case, half=True)
    on_device = [torch.from_numpy(frame).cuda() for frame in frames]
    stages: list[Mapping[str, float]] = []
    resident: list[Mapping[str, float]] = []
    seconds: dict[str, list[float]] = {}
    with (
        FramePath(
            gpu,
            engine,
            case.preprocess,
            case.readout,
            hw_px,
            wanted=Wanted(),
            overlay=overlay,
            graphs="require",
        ) as path,
        FramePath(
            gpu,
            engine,
            case.preprocess,
            case.readout,
            hw_px,
            wanted=_RESIDENT,
            overlay=None,
            graphs="require",
        ) as device_path,
    ):
        works: dict[str, tuple[Callable[[], None], int]] = {
            "edgeseg": (lambda: _run(path, frames, block, stages), block),
            "edgeseg resident": (lambda: _run(device_path, on_device, block, resident), block),
            "torch eager": (lambda: _each(eager, frames, block // 3), block // 3),
            "torch eager, autocast to half": (lambda: _each(half, frames, block // 3), block // 3),
        }
        for work, _ in works.values():
            work()
        stages.clear()
        resident.clear()
        for _ in range(rounds):
            for name, (work, count) in works.items():
                torch.cuda.synchronize()
                start = time.perf_counter()
                work()
                seconds.setdefault(name, []).append((time.perf_counter() - start) / count)
    compute_ms = float(np.median([timing["compute"] for timing in stages]))
    engine_ms = _engine_ms(torch, gpu, engine)
    own = np.array(seconds["edgeseg"])
    busy_s = 1e-3 * sum(timing["compute"] for timing in resident)
    return FrameFigures(
        case=case.name,
        frames_per_s={name: 1.0 / float(np.median(times)) for name, times in seconds.items()},
        times_as_fast={
            name: float(np.median(np.array(times) / own))
            for name, times in seconds.items()
            if not name.startswith("edgeseg")
        },
        stages_ms={
            **{
                name: float(np.median([timing[name] for timing in stages]))
                for name in ("copy_in", "compute", "copy_out")
            },
            "engine": engine_ms,
        },
        around_engine_share=max(0.0, 1.0 - engine_ms / compute_ms),
        gap_share=max(0.0, 1.0 - busy_s / (block * sum(seconds["edgeseg resident"]))),
    )


def _engine_ms(torch: Any, gpu: Gpu, engine: StreamEngine, repeats: int = 20) -> float:
    """Device time of the engine alone, of one call among ``repeats`` in a graph."""
    tensors = {
        port.name: torch.zeros(port.shape, dtype=getattr(torch, port.dtype), device="cuda")
        for port in engine.inputs
    } | empty_outputs(torch, engine)
    torch.cuda.synchronize()
    with gpu.stream() as stream, contextlib.ExitStack() as held:
        begin, end = (held.enter_context(gpu.event(timing=True)) for _ in range(2))
        for _ in range(3):
            engine.enqueue(tensors, stream.handle)
        stream.synchronize()

        def work() -> None:
            for _ in range(repeats):
                engine.enqueue(tensors, stream.handle)

        graph = held.enter_context(gpu.capture(stream, work))
        samples = []
        for _ in range(10):
            begin.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
            samples.append(end.elapsed_ms(begin) / repeats)
    return float(np.median(samples))


def _run(
    path: FramePath, frames: Sequence[Any], count: int, timings: list[Mapping[str, float]]
) -> None:
    """``count`` frames, two in flight."""
    for index in range(count):
        if index >= _IN_FLIGHT:
            timings.append(path.collect().timings_ms)
        path.submit(frames[index % len(frames)])
    timings += [path.collect().timings_ms for _ in range(min(_IN_FLIGHT, count))]


def _each(work: Callable[[Frame], object], frames: Sequence[Frame], count: int) -> None:
    for index in range(count):
        work(frames[index % len(frames)])


def _smoother(readout: ReadoutSpec) -> TemporalSmoother | None:
    return TemporalSmoother(readout.time_constant_ms) if readout.time_constant_ms > 0.0 else None
