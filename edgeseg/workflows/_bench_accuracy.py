"""Accuracy of what is compared: every candidate through the same preprocessing and read-out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg._progress import Progress, silent
from edgeseg.bench.candidate import Candidate
from edgeseg.bench.result import AccuracyRecord
from edgeseg.errors import BackendError, DataError, UsageError
from edgeseg.metrics import CaseScore, evaluate_mask, mean_score, resize_mask
from edgeseg.model import Model
from edgeseg.workflows._bench_inputs import FrameInputs
from edgeseg.workflows._validate import Validation
from edgeseg.workflows.evaluate import crop_to_roi

__all__ = ["score_candidates"]

Mask = npt.NDArray[Any]


def score_candidates(
    candidates: Sequence[Candidate],
    model: Model,
    validation: Validation,
    fp32: Candidate | None,
    progress: Progress = silent,
) -> dict[str, AccuracyRecord]:
    """Score candidates side by side at the model's resolution, as a build does.

    Args:
        candidates: the very ones that were timed.
        model: whose preprocessing and read-out serve all.
        validation: with masks for all pictures, or for none.
        fp32: whose masks are the truth where there are no labels; may be one of ``candidates``;
            None where there are labels.
        progress: called with (stage, done, total).

    Returns:
        By the candidate's name. Without labels ``fp32`` has no record of itself.

    Raises:
        DataError: a picture, mask or video cannot be read, or there are none.
        BackendError: a candidate's logits are not finite.
    """
    classes = len(model.manifest.classes)
    judged = [c for c in candidates if validation.labelled or c is not fp32]
    ids: list[str] = []
    scores: dict[str, list[CaseScore]] = {candidate.name: [] for candidate in judged}
    total = len(validation)
    for done, (case_id, image, labels) in enumerate(validation.read(classes)):
        progress("accuracy", done, total)
        inputs = FrameInputs(model, image)
        truth = _truth(labels, fp32, model, inputs)
        ids.append(case_id)
        for candidate in judged:
            mask = _mask(candidate, model, inputs)
            scores[candidate.name].append(
                evaluate_mask(mask, resize_mask(truth, *mask.shape), classes)
            )
    progress("accuracy", total, total)
    if not ids:
        raise DataError("the validation data holds no pictures and no frames")
    against = "labels" if validation.labelled else "fp32"
    return {name: _record(ids, found, against) for name, found in scores.items()}


def _record(ids: Sequence[str], scores: Sequence[CaseScore], against: str) -> AccuracyRecord:
    mean = mean_score(scores)
    worst_dice, worst = min((score.dice, i) for i, score in enumerate(scores))
    return AccuracyRecord(
        cases=len(scores),
        against=against,
        dice=mean.dice,
        iou=mean.iou,
        hd95_px=None if math.isinf(mean.hd95) else mean.hd95,
        worst_case=ids[worst],
        worst_dice=worst_dice,
    )


def _truth(labels: Mask | None, fp32: Candidate | None, model: Model, inputs: FrameInputs) -> Mask:
    if labels is not None:
        return crop_to_roi(labels, model.manifest)
    if fp32 is None:
        raise UsageError("pictures without masks are scored against FP32, which is not open")
    return _mask(fp32, model, inputs)


def _mask(candidate: Candidate, model: Model, inputs: FrameInputs) -> Mask:
    outputs = candidate.infer(inputs.of(candidate))
    if not all(np.isfinite(output).all() for output in outputs.values()):
        raise BackendError(
            f"{candidate.name}: its logits are not finite, so no mask of it means anything"
        )
    return model.read_grid(outputs).mask
