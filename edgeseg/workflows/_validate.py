"""What a build measures about itself, through the engines as they will be shipped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeseg._progress import Progress
from edgeseg.bench.timing import interleave
from edgeseg.dataset import Case, DataFolder, read_image
from edgeseg.metrics import CaseScore, evaluate_mask, mean_score, resize_mask
from edgeseg.model import Model
from edgeseg.spec import LatencyRecord, ScoreRecord
from edgeseg.video import open_source
from edgeseg.workflows.evaluate import crop_to_roi, mask_at_model_size

__all__ = ["Validation", "measure_latencies", "score_models"]

VIDEO_FRAMES = 64
"""Frames taken from each validation video, evenly spaced."""
LATENCY_ROUNDS = 8
LATENCY_BLOCK = 5
LATENCY_BUDGET_S = 20.0
"""Slow models are called less often: a build is no benchmark."""

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Validation:
    """Held-out pictures, with masks for all of them or for none, and videos without."""

    cases: tuple[Case, ...]
    videos: tuple[Path, ...]

    @classmethod
    def open(cls, path: Path) -> Validation:
        """Find the validation data at ``path``.

        Raises:
            DataError: nothing is there, or masks and pictures do not pair.
        """
        folder = DataFolder.open(path, masks="optional")
        return cls(folder.cases, folder.videos)

    @property
    def labelled(self) -> bool:
        """Whether scores are taken against labels (else against FP32)."""
        return bool(self.cases) and all(case.mask is not None for case in self.cases)

    def files(self) -> tuple[Path, ...]:
        """The pictures and videos, which calibration must not have seen."""
        return (*(case.image for case in self.cases), *self.videos)

    def __len__(self) -> int:
        """Pictures, plus what will be taken of each video (an upper bound)."""
        return len(self.cases) + VIDEO_FRAMES * (0 if self.labelled else len(self.videos))

    def read(self, classes: int) -> Iterator[tuple[str, Image, Image | None]]:
        """(id, picture, mask or None), one after the other."""
        for case in self.cases:
            if self.labelled:
                yield case.id, *case.read(classes)
            else:
                yield case.id, read_image(case.image), None
        if not self.labelled:
            for video in self.videos:
                yield from _sampled(video)


def _sampled(video: Path) -> Iterator[tuple[str, Image, None]]:
    """Evenly spaced frames of a video (the first ones where its length is unknown)."""
    with open_source(video) as source:
        step = max(1, (source.frame_count or 0) // VIDEO_FRAMES)
        taken = 0
        for frame in source:
            if frame.index % step == 0:
                yield frame.name, frame.image, None
                taken += 1
            if taken == VIDEO_FRAMES:
                return


@dataclass
class _Tally:
    """Scores of one engine against one truth, a case at a time."""

    variant: str
    backend: str
    against: Literal["labels", "fp32"]
    ids: list[str]
    scores: list[CaseScore]

    def record(self) -> ScoreRecord:
        mean = mean_score(self.scores)
        dice, worst = min((score.dice, i) for i, score in enumerate(self.scores))
        return ScoreRecord(
            variant=self.variant,
            backend=self.backend,
            cases=len(self.scores),
            against=self.against,
            dice=mean.dice,
            iou=mean.iou,
            worst_case=self.ids[worst],
            worst_dice=dice,
        )


def score_models(
    models: Sequence[Model], validation: Validation, progress: Progress
) -> tuple[ScoreRecord, ...]:
    """Score engines of one bundle side by side, at the model's resolution.

    Args:
        models: the engines; the first is FP32, whose masks the others are compared with.
        validation: the cases.
        progress: called with (stage, done, total).

    Returns:
        A record of each engine against the labels, where there are labels, and of each engine but
        the first against FP32.

    Raises:
        DataError: a picture, mask or video cannot be read.
    """
    manifest = models[0].manifest
    classes = len(manifest.classes)
    labels = [_tally(model, "labels") for model in models if validation.labelled]
    fp32 = [_tally(model, "fp32") for model in models[1:]]
    total = len(validation)
    for done, (case_id, image, truth) in enumerate(validation.read(classes)):
        progress("validate", done, total)
        masks = [mask_at_model_size(model, image) for model in models]
        if truth is not None:
            small = resize_mask(crop_to_roi(truth, manifest), *masks[0].shape)
            for tally, mask in zip(labels, masks, strict=True):
                tally.ids.append(case_id)
                tally.scores.append(evaluate_mask(mask, small, classes))
        for tally, mask in zip(fp32, masks[1:], strict=True):
            tally.ids.append(case_id)
            tally.scores.append(evaluate_mask(mask, masks[0], classes))
    progress("validate", total, total)
    return tuple(tally.record() for tally in (*labels, *fp32) if tally.scores)


def _tally(model: Model, against: Literal["labels", "fp32"]) -> _Tally:
    return _Tally(model.variant.name, model.choice.name, against, [], [])


def measure_latencies(
    models: Sequence[Model], frame: Image, progress: Progress
) -> tuple[LatencyRecord, ...]:
    """Median inference time of engines in turn, in one process, on one frame."""
    calls = {f"{i}": partial(m.infer, m.preprocess(frame)) for i, m in enumerate(models)}
    start = time.perf_counter()
    for call in calls.values():
        call()
    once_s = time.perf_counter() - start
    # Each round opens with a call that is not counted.
    turns = LATENCY_BUDGET_S / once_s
    block = LATENCY_BLOCK if turns >= LATENCY_ROUNDS * (LATENCY_BLOCK + 1) else 1
    timings = interleave(
        calls,
        rounds=min(LATENCY_ROUNDS, max(3, int(turns / (block + 1)))),
        block=block,
        warmup=0,
        progress=progress,
        stage="measure latency",
    )
    return tuple(
        LatencyRecord(
            variant=model.variant.name,
            backend=model.choice.name,
            device=model.engine.info.device_name,
            threads=model.engine.info.threads,
            median_ms=timing.median_ms,
            repeats=len(timing.samples_ms),
        )
        for model, timing in zip(models, timings.values(), strict=True)
    )
