"""``demo``: the main job end to end, on generated endoscopy and the embedded checkpoint."""

from __future__ import annotations

import dataclasses
import importlib.resources
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg import model as models
from edgeseg._files import atomic_directory, check_output
from edgeseg._progress import Progress, silent
from edgeseg.bundle import REPORT_FILE
from edgeseg.errors import OutputError, UsageError
from edgeseg.overlay import Overlay, default_colours
from edgeseg.synthetic import Scene, generate_dataset
from edgeseg.video import Frame, SinkSpec, open_sink
from edgeseg.workflows._case_pictures import encode_png
from edgeseg.workflows.build import BuildReport, build
from edgeseg.workflows.evaluate import EvaluationReport, evaluate
from edgeseg.workflows.run import RunReport, run

__all__ = ["CHECKPOINT", "DemoReport", "demo"]

CHECKPOINT = "segdino_v2_demo.pth"
"""In ``edgeseg/assets``; made by ``python -m edgeseg.export.train_demo``."""

_CALIBRATION = Path("data", "calibration")
_VALIDATION = Path("data", "validation")
_BUNDLE = "segdino_v2_demo.edgeseg"
_EVALUATION = "evaluation"
_CLIP = "clip.mp4"
_OVERLAY = "clip-overlay.mp4"
_FRAME = "frame.png"
_STILL = "still.png"
_ENTRIES = frozenset({"data", _BUNDLE, _EVALUATION, _CLIP, _OVERLAY, _FRAME, _STILL})

# None of them is a seed of the checkpoint's training.
_CALIBRATION_SEED = 31
_VALIDATION_SEED = 32
_CLIP_SEED = 127
_CLIP_WIDTH_PX, _CLIP_HEIGHT_PX = 640, 480
_CLIP_FPS = 25
_WORST_CASES = 4

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DemoReport:
    """Where everything lies, and what the three steps found.

    Attributes:
        output: the folder that holds all of the following.
        bundle: the INT8 bundle.
        report: its report for people.
        metrics: Dice, IoU and HD95 of each validation frame.
        clip: the generated video.
        overlay: the video with the masks drawn on it.
        frame: one frame of the clip.
        still: that frame, and beside it the same with its mask.
        build: what was measured when the bundle was built.
        evaluation: its scores on the validation frames.
        run: frames and rates of the overlay video.
    """

    output: Path
    bundle: Path
    report: Path
    metrics: Path
    clip: Path
    overlay: Path
    frame: Path
    still: Path
    build: BuildReport
    evaluation: EvaluationReport
    run: RunReport

    def __str__(self) -> str:
        mean = self.evaluation.mean
        return "\n".join(
            (
                f"{self.evaluation.variant} on {self.evaluation.backend}: Dice {mean.dice:.4f}, "
                f"IoU {mean.iou:.4f} on {len(self.evaluation.results)} generated frames",
                f"{self.run.frames} frames of {_CLIP_WIDTH_PX}x{_CLIP_HEIGHT_PX} at "
                f"{self.run.pipeline.fps:.1f} frames/s, decoding to encoding",
                f"overlay video  {self.overlay}",
                f"still          {self.still}",
                f"report         {self.report}",
                f"metrics        {self.metrics}",
                f"bundle         {self.bundle}",
            )
        )


def demo(
    output_dir: str | Path,
    *,
    calibration_frames: int = 64,
    validation_frames: int = 48,
    clip_s: float = 5.0,
    force: bool = False,
    progress: Progress = silent,
) -> DemoReport:
    """Build INT8 from the embedded checkpoint, evaluate it and run it on a clip.

    Calibration frames, validation frames and the clip are generated: other scenes for each, none of
    which the checkpoint was trained on. Nothing is read but the checkpoint. The figures show that
    the path works; they say nothing about real endoscopy.

    Args:
        output_dir: folder to write; it appears when everything is done.
        calibration_frames: generated frames to take the INT8 ranges from.
        validation_frames: generated frames with masks to score on.
        clip_s: length of the clip in seconds, at 25 frames a second.
        force: replace the folder of an earlier demonstration.
        progress: called with (stage, done, total).

    Raises:
        UsageError: a number of frames or the length is not positive.
        OutputError: the folder exists (without ``force``), holds something that no demonstration
            wrote, or cannot be written.
        MissingDependencyError: the extra ``export`` is not installed.
    """
    clip_frames = round(clip_s * _CLIP_FPS) if 0 < clip_s < 3600 else 0
    if calibration_frames < 1 or validation_frames < 1 or clip_frames < 1:
        raise UsageError(
            "a demonstration needs at least one calibration frame, one validation frame and a clip "
            f"of {1 / _CLIP_FPS} s to an hour; got {calibration_frames}, {validation_frames} and "
            f"{clip_s} s"
        )
    output = Path(output_dir)
    check_output(output, force=force)
    _check_replaceable(output)
    asset = importlib.resources.files("edgeseg") / "assets" / CHECKPOINT
    with (
        importlib.resources.as_file(asset) as checkpoint,
        atomic_directory(output, force=force) as folder,
    ):
        for place, count, seed, stage in (
            (_CALIBRATION, calibration_frames, _CALIBRATION_SEED, "calibration frames"),
            (_VALIDATION, validation_frames, _VALIDATION_SEED, "validation frames"),
        ):
            generate_dataset(folder / place, count, seed=seed, progress=_renamed(stage, progress))
        scene = Scene(_CLIP_SEED, _CLIP_HEIGHT_PX, _CLIP_WIDTH_PX, polyps=2)
        _write_clip(folder / _CLIP, scene, clip_frames, progress)
        built = build(
            checkpoint,
            output=folder / _BUNDLE,
            int8=True,
            data=folder / _CALIBRATION,
            val=folder / _VALIDATION,
            classes=("polyp",),
            with_pictures=True,
            progress=progress,
        )
        scores = evaluate(
            built.path,
            folder / _VALIDATION,
            output=folder / _EVALUATION,
            with_pictures=True,
            worst=_WORST_CASES,
            progress=progress,
        )
        ran = run(built.path, folder / _CLIP, folder / _OVERLAY, contours=True, progress=progress)
        frame, _ = scene.render((clip_frames // 2) / _CLIP_FPS)
        (folder / _FRAME).write_bytes(encode_png(frame))
        (folder / _STILL).write_bytes(encode_png(_still(built.path, frame)))
    # Until now everything lay under a temporary name.
    evaluation = output / _EVALUATION
    return DemoReport(
        output=output,
        bundle=output / _BUNDLE,
        report=output / _BUNDLE / REPORT_FILE,
        metrics=evaluation / scores.metrics.name,
        clip=output / _CLIP,
        overlay=output / _OVERLAY,
        frame=output / _FRAME,
        still=output / _STILL,
        build=dataclasses.replace(built, path=output / _BUNDLE),
        evaluation=dataclasses.replace(
            scores,
            output=evaluation,
            metrics=evaluation / scores.metrics.name,
            pictures=tuple(evaluation / path.name for path in scores.pictures),
        ),
        run=dataclasses.replace(ran, output=output / _OVERLAY),
    )


def _check_replaceable(output: Path) -> None:
    """Never replace a folder that somebody keeps other things in."""
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output} is a file: name a folder")
    foreign = sorted(entry.name for entry in output.iterdir() if entry.name not in _ENTRIES)
    if foreign:
        raise OutputError(
            f"{output} holds {foreign[0]!r}, which no demonstration wrote, and is not replaced: "
            "choose another folder"
        )


def _renamed(stage: str, progress: Progress) -> Progress:
    return lambda _, done, total: progress(stage, done, total)


def _write_clip(path: Path, scene: Scene, frames: int, progress: Progress) -> None:
    spec = SinkSpec(
        "video",
        size=(scene.width_px, scene.height_px),
        rate=Fraction(_CLIP_FPS),
        time_base=Fraction(1, _CLIP_FPS * 512),
    )
    with open_sink(path, spec) as sink:
        for index in range(frames):
            time_s = index / _CLIP_FPS
            image, _ = scene.render(time_s)
            name = f"{path.stem}-{index:05d}"
            sink.write(Frame(index, image, name, time_s, 1 / _CLIP_FPS), image)
            progress("clip", index + 1, frames)


def _still(bundle: Path, frame: Picture) -> Picture:
    """The frame, and beside it the same with its mask."""
    with models.open(bundle) as model:
        mask = model(frame).mask
        drawn = Overlay(default_colours(len(model.classes)), contours=True)(frame, mask)
    return np.concatenate([frame, drawn], axis=1)
