"""``benchmark``: latency by stage and throughput of a bundle, beside ONNX Runtime in FP32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeseg import model as models
from edgeseg import synthetic
from edgeseg._progress import Progress, silent
from edgeseg.backends import EngineInfo, EngineOptions, open_engine
from edgeseg.bench.timing import Timing, interleave, throughput_fps
from edgeseg.errors import UsageError
from edgeseg.spec import Precision

__all__ = ["BenchmarkReport", "benchmark"]

BASELINE = "onnxruntime fp32"


@dataclass(frozen=True)
class BenchmarkReport:
    """What ``benchmark`` measured.

    Attributes:
        engine: what served.
        variant: name of the measured variant.
        frame_hw_px: size of the frames that were fed.
        stages: timings of ``preprocess``, ``inference``, ``readout`` and ``total``.
        baseline: the plain FP32 graph on ONNX Runtime, same threads and process; None if left out.
        speedup: baseline's median inference over the engine's.
        throughput_fps: whole frames a second with the engine's throughput hint.
    """

    engine: EngineInfo
    variant: str
    frame_hw_px: tuple[int, int]
    stages: dict[str, Timing]
    baseline: Timing | None
    speedup: float | None
    throughput_fps: float


def benchmark(
    bundle: str | Path,
    *,
    backend: str = "auto",
    device: str = "CPU",
    precision: Precision | None = None,
    threads: int | None = None,
    frame_hw_px: tuple[int, int] = (720, 1280),
    rounds: int = 20,
    baseline: bool = True,
    progress: Progress = silent,
) -> BenchmarkReport:
    """Measure a bundle on this machine, on a generated frame.

    Args:
        bundle: the folder ``NAME.edgeseg``.
        backend: as for ``edgeseg.open``.
        device: as for ``edgeseg.open``.
        precision: as for ``edgeseg.open``.
        threads: CPU threads for the engine and for the baseline alike; None: all.
        frame_hw_px: height and width of the frame.
        rounds: how often engine and baseline take turns; five calls are timed each time.
        baseline: whether to run ONNX Runtime's FP32 beside it.
        progress: called with (stage, done, total).

    Raises:
        MissingDependencyError: the baseline is wanted and ONNX Runtime is not installed.
    """
    if rounds < 1:
        raise UsageError(f"rounds must be at least 1, got {rounds}")
    frame = synthetic.golden_frames(1, *frame_hw_px)[0]
    options = {"backend": backend, "device": device, "precision": precision, "threads": threads}
    with models.open(bundle, **options) as model:  # type: ignore[arg-type]
        tensors = model.preprocess(frame)
        candidates = {"engine": lambda: model.infer(tensors)}
        peer = None
        if baseline:
            fp32 = model.bundle.variant("fp32", "onnxruntime")
            used = model.engine.info.threads or threads
            peer = open_engine(
                model.bundle.file(fp32.file), "onnxruntime", EngineOptions("CPU", used or None)
            )
            candidates[BASELINE] = lambda: peer.infer(tensors)
        try:
            timings = interleave(candidates, rounds=rounds, progress=progress, stage="inference")
        finally:
            if peer is not None:
                peer.close()
        outputs = model.infer(tensors)
        stages = interleave(
            {
                "preprocess": lambda: model.preprocess(frame),
                "readout": lambda: model.read_out(outputs, frame.shape[:2]),
                "total": lambda: model(frame),
            },
            rounds=rounds,
            progress=progress,
            stage="stages",
        )
        engine, variant = model.engine.info, model.variant.name
    with models.open(bundle, **options, hint="throughput") as model:  # type: ignore[arg-type]
        progress("throughput", 0, 1)
        rate = throughput_fps(lambda: model(frame), parallel=model.engine.parallel)
        progress("throughput", 1, 1)
    reference = timings.get(BASELINE)
    return BenchmarkReport(
        engine=engine,
        variant=variant,
        frame_hw_px=frame_hw_px,
        stages={
            "preprocess": stages["preprocess"],
            "inference": timings["engine"],
            "readout": stages["readout"],
            "total": stages["total"],
        },
        baseline=reference,
        speedup=reference.median_ms / timings["engine"].median_ms if reference else None,
        throughput_fps=rate,
    )
