"""``benchmark``: latency by stage and by block of a bundle, beside ONNX Runtime in FP32."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg import __version__, synthetic
from edgeseg import model as models
from edgeseg._files import atomic_file, check_output
from edgeseg._progress import Progress, silent
from edgeseg.backends import EngineInfo, EngineOptions, open_engine
from edgeseg.backends.base import StreamEngine
from edgeseg.bench.frame_rate import FrameRate, measure_frame_rate
from edgeseg.bench.profile import BlockTable, profile_model
from edgeseg.bench.timing import Timing, interleave, throughput_fps
from edgeseg.errors import UsageError
from edgeseg.frame_path import model_unavailable_reason, open_frame_path
from edgeseg.overlay import Overlay, default_colours
from edgeseg.spec import Precision, to_json

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
        baseline_version: of ONNX Runtime.
        speedup: baseline's median inference over the engine's.
        throughput_fps: whole frames a second with the engine's throughput hint.
        blocks: the time of the frame by part of the model; None if not asked for.
        frame_path: what the frame path on a GPU reaches; None where the engine works on the host.
        no_frame_path: why an engine on a GPU has none; None otherwise.
    """

    engine: EngineInfo
    variant: str
    frame_hw_px: tuple[int, int]
    stages: dict[str, Timing]
    baseline: Timing | None
    baseline_version: str | None
    speedup: float | None
    throughput_fps: float
    blocks: BlockTable | None = None
    frame_path: FrameRate | None = None
    no_frame_path: str | None = None

    def record(self) -> dict[str, Any]:
        """The figures as JSON types, with the date, for ``bench/results/``."""
        now = datetime.datetime.now(datetime.timezone.utc)
        baseline = self.baseline.summary_ms() if self.baseline else None
        return {
            "date_utc": now.isoformat(timespec="seconds"),
            "edgeseg": __version__,
            "engine": to_json(self.engine),
            "variant": self.variant,
            "frame_hw_px": list(self.frame_hw_px),
            "stages_ms": {name: timing.summary_ms() for name, timing in self.stages.items()},
            "onnxruntime": self.baseline_version,
            "onnxruntime_fp32_ms": baseline,
            "times_as_fast_as_onnxruntime_fp32": self.speedup,
            "throughput_fps": self.throughput_fps,
            "blocks": self.blocks.record() if self.blocks else None,
            "frame_path": self.frame_path.record() if self.frame_path else None,
            "no_frame_path": self.no_frame_path,
        }


def benchmark(
    bundle: str | Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    frame_hw_px: tuple[int, int] = (720, 1280),
    rounds: int = 20,
    baseline: bool = True,
    profile: bool = False,
    json_file: str | Path | None = None,
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
        profile: time the layers of the engine as well, and sum them up by part of the model.
        json_file: write the figures there, replacing the file.
        progress: called with (stage, done, total).

    Raises:
        MissingDependencyError: the baseline is wanted and ONNX Runtime is not installed.
        BackendUnavailableError: the profile is wanted and the library tells no times of layers.
    """
    if rounds < 1:
        raise UsageError(f"rounds must be at least 1, got {rounds}")
    if json_file is not None:
        check_output(Path(json_file), force=True)
    frame = synthetic.golden_frames(1, *frame_hw_px)[0]
    open_model = partial(
        models.open,
        bundle,
        backend=backend,
        device=device,
        precision=precision,
        threads=threads,
    )
    with open_model() as model:
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
    with open_model(hint="throughput") as model:
        progress("throughput", 0, 1)
        rate = throughput_fps(lambda: model(frame), parallel=model.engine.parallel)
        frame_path, no_frame_path = _frame_path(model, frame)
        progress("throughput", 1, 1)
    blocks = None
    if profile:
        progress("profile", 0, 1)
        with open_model(profile=True) as model:
            blocks = profile_model(
                model,
                frame,
                preprocess_ms=stages["preprocess"].median_ms,
                inference_ms=timings["engine"].median_ms,
                readout_ms=stages["readout"].median_ms,
                rounds=rounds,
            )
        progress("profile", 1, 1)
    reference = timings.get(BASELINE)
    report = BenchmarkReport(
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
        baseline_version=peer.info.version if peer else None,
        speedup=reference.median_ms / timings["engine"].median_ms if reference else None,
        throughput_fps=rate,
        blocks=blocks,
        frame_path=frame_path,
        no_frame_path=no_frame_path,
    )
    if json_file is not None:
        with atomic_file(Path(json_file)) as temporary:
            temporary.write_text(json.dumps(report.record(), indent=2) + "\n", encoding="utf-8")
    return report


def _frame_path(
    model: models.Model, frame: npt.NDArray[np.uint8]
) -> tuple[FrameRate | None, str | None]:
    """What the frame path reaches, or why an engine on a GPU has none."""
    if not isinstance(model.engine, StreamEngine):
        return None, None
    reason = model_unavailable_reason(model)
    if reason is not None:
        return None, reason
    overlay = Overlay(default_colours(model.foreground_classes))
    with open_frame_path(model, frame.shape[:2], overlay=overlay) as path:
        rate = measure_frame_rate(path, frame, time_constant_ms=model.readout.time_constant_ms)
    return rate, None
