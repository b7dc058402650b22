"""``python -m edgeseg.bench.pipeline``: what overlapping the stages of ``edgeseg run`` yields.

Every stage is measured alone: its rate, and the CPU time per frame of the whole process, which
includes the threads of codecs and of the inference library. No pipeline can be faster than its
slowest stage, nor than the cores divided by the summed CPU time per frame; the smaller of the two
is the bound that the pipeline's rate is compared with. With ``--stand-in`` the engine sleeps
instead of computing, as one on another device would; choose a sleep long enough to make it the
slowest stage.

Measurements alternate (all stages alone, then the pipeline) and medians of the rounds are shown.
They mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeseg import model as models
from edgeseg._files import atomic_file
from edgeseg.model import Model
from edgeseg.overlay import Overlay, default_colours
from edgeseg.spec import RoiSpec
from edgeseg.temporal import Memory
from edgeseg.video import SinkSpec, Stage, open_sink, open_source, run_pipeline
from edgeseg.video.stages import Picture, Segmenter, frame_stages

__all__ = ["Measurement", "StageAlone", "main", "measure"]

_KEPT_RESULTS = 24
"""Results hold the resized logits, so drawing is measured on these few again and again."""


@dataclass(frozen=True)
class StageAlone:
    """One stage with nothing beside it."""

    name: str
    fps: float
    cpu_ms: float
    """CPU time of the process per frame."""


@dataclass(frozen=True)
class Measurement:
    """One round."""

    frames: int
    cores: int
    stages: tuple[StageAlone, ...]
    pipeline_fps: float
    pipeline_cpu_ms: float

    @property
    def slowest(self) -> StageAlone:
        """The stage with the lowest rate."""
        return min(self.stages, key=lambda stage: stage.fps)

    @property
    def cores_fps(self) -> float:
        """Rate at which the stages' CPU time fills all cores."""
        return 1e3 * self.cores / sum(stage.cpu_ms for stage in self.stages)

    @property
    def bound_fps(self) -> float:
        """What no pipeline of these stages can exceed on this machine."""
        return min(self.slowest.fps, self.cores_fps)

    @property
    def share(self) -> float:
        """The pipeline's rate as a share of the bound."""
        return self.pipeline_fps / self.bound_fps


class SleepingEngine:
    """A segmenter whose engine sleeps: the rest is the model's own work."""

    def __init__(self, model: Model, sleep_ms: float, frame: Picture) -> None:
        """Keep one real answer of the engine to give for every frame."""
        self._model = model
        self._sleep_s = sleep_ms / 1e3
        self._outputs = model.infer(model.preprocess(frame))

    def preprocess(self, frame: Picture, *, region: RoiSpec | None = None) -> Mapping[str, Any]:
        """The model's."""
        return self._model.preprocess(frame, region=region)

    def infer(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Sleep, then give the kept answer."""
        time.sleep(self._sleep_s)
        return self._outputs

    def read_out(
        self,
        outputs: Mapping[str, Any],
        frame_hw_px: tuple[int, ...],
        *,
        threshold: float | None = None,
        memory: Memory | None = None,
        region: RoiSpec | None = None,
    ) -> Any:
        """The model's."""
        return self._model.read_out(
            outputs, frame_hw_px, threshold=threshold, memory=memory, region=region
        )


def measure(
    segmenter: Segmenter, video: Path, *, parallel: int, classes: int, frames: int
) -> Measurement:
    """One round: every stage alone, then all of them in the pipeline.

    Args:
        segmenter: a model, or what stands in for it.
        video: its first ``frames`` frames are used, and held in memory.
        parallel: frames that the engine takes at once.
        classes: number of foreground classes.
        frames: how many.
    """
    overlay = Overlay(default_colours(classes))
    stages = frame_stages(
        segmenter,
        lambda frame, result: overlay(frame.image, result.mask, in_place=True),
        parallel=parallel,
    )
    preprocess, inference, read_out, draw = stages
    with open_source(video) as source:
        spec = SinkSpec.like(source)
        pictures: list[Any] = []
        decode_s, decode_cpu_s = _cost(lambda: pictures.extend(islice(source, frames)))
    count = len(pictures)
    alone = [StageAlone("decode", count / decode_s, 1e3 * decode_cpu_s / count)]
    tensors: list[Any] = []
    alone.append(_stage_alone(preprocess, pictures, tensors.append))
    outputs: list[Any] = []
    alone.append(_stage_alone(inference, tensors, outputs.append))
    del tensors
    alone.append(_stage_alone(read_out, outputs, lambda item: None))
    few = [read_out.work(item) for item in outputs[:: -(-count // _KEPT_RESULTS)]]
    copies = [(replace(frame, image=frame.image.copy()), result) for frame, result in few]
    again = [copies[i % len(copies)] for i in range(count)]
    alone.append(_stage_alone(draw, again, lambda item: None))
    del few, copies, again
    for item in outputs:
        draw.work(read_out.work(item))
    del outputs
    with tempfile.TemporaryDirectory() as folder:

        def encode() -> None:
            with open_sink(Path(folder) / "alone.mp4", spec) as sink:
                for frame in pictures:
                    sink.write(frame, frame.image)

        encode_s, encode_cpu_s = _cost(encode)
        alone.append(StageAlone("encode", count / encode_s, 1e3 * encode_cpu_s / count))
        pictures.clear()
        with open_source(video) as source:

            def together() -> None:
                with open_sink(Path(folder) / "together.mp4", spec) as sink:
                    run_pipeline(
                        islice(source, frames), stages, lambda item: sink.write(item[0], item[1])
                    )

            wall_s, cpu_s = _cost(together)
    return Measurement(
        frames=count,
        cores=_available_cores(),
        stages=tuple(alone),
        pipeline_fps=count / wall_s,
        pipeline_cpu_ms=1e3 * cpu_s / count,
    )


def _stage_alone(stage: Stage, items: Sequence[Any], take: Callable[[Any], object]) -> StageAlone:
    """A stage with as many threads as it has in the pipeline, fed from memory."""
    wall_s, cpu_s = _cost(lambda: run_pipeline(items, [stage], take))
    return StageAlone(stage.name, len(items) / wall_s, 1e3 * cpu_s / len(items))


def _cost(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time and CPU time of the whole process, in seconds."""
    start, start_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - start_cpu


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _table(rounds: Sequence[Measurement]) -> Table:
    median = statistics.median
    table = Table(title="Stages alone, and the pipeline", title_justify="left", title_style="bold")
    table.add_column("stage")
    table.add_column("frames/s", justify="right")
    table.add_column("CPU ms a frame", justify="right")
    for stages in zip(*(r.stages for r in rounds), strict=True):
        rate, cpu = median(s.fps for s in stages), median(s.cpu_ms for s in stages)
        table.add_row(stages[0].name, f"{rate:.1f}", f"{cpu:.2f}")
    cores = median(r.cores_fps for r in rounds)
    table.add_section()
    table.add_row(f"{rounds[0].cores} cores / summed CPU time", f"{cores:.1f}", "")
    table.add_row("bound", f"{median(r.bound_fps for r in rounds):.1f}", "")
    table.add_row(
        "pipeline",
        f"{median(r.pipeline_fps for r in rounds):.1f}",
        f"{median(r.pipeline_cpu_ms for r in rounds):.2f}",
    )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.bench.pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--stand-in", type=float, metavar="MS", help="sleep instead of inferring")
    parser.add_argument("--frames", type=int, default=200, help="of the video (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads of the engine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args(arguments)

    with models.open(
        options.bundle, backend=options.backend, threads=options.threads, hint="throughput"
    ) as model:
        segmenter: Segmenter = model
        parallel = model.engine.parallel
        if options.stand_in is not None:
            with open_source(options.video) as source:
                frame = next(iter(source)).image
            segmenter, parallel = SleepingEngine(model, options.stand_in, frame), 1
        rounds = [
            measure(
                segmenter,
                options.video,
                parallel=parallel,
                classes=model.foreground_classes,
                frames=options.frames,
            )
            for _ in range(options.rounds)
        ]
        info = model.engine.info
    console = Console(highlight=False)
    console.print(_table(rounds))
    shares = [r.share for r in rounds]
    engine = f"a sleep of {options.stand_in} ms" if options.stand_in else f"{info.backend}"
    console.print(
        f"{statistics.median(shares):.1%} of the bound (rounds: "
        f"{', '.join(f'{share:.1%}' for share in shares)}); slowest stage alone: "
        f"{rounds[-1].slowest.name}; engine: {engine}, {parallel} at once"
    )
    if options.json is not None:
        with atomic_file(options.json) as path:
            path.write_text(
                json.dumps([asdict(r) | {"share": r.share} for r in rounds], indent=2) + "\n"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
