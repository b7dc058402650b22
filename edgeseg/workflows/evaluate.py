"""``evaluate``: Dice, IoU and HD95 of a bundle on labelled pictures."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgeseg._files import atomic_directory, check_output
from edgeseg._progress import Progress, silent
from edgeseg.bundle import SUFFIX
from edgeseg.dataset import Case, DataFolder
from edgeseg.errors import BackendError, DataError, OutputError, UsageError
from edgeseg.metrics import CaseScore, Score, evaluate_mask, mean_score, resize_mask
from edgeseg.model import Result
from edgeseg.reader import Reading
from edgeseg.settings import Settings
from edgeseg.spec import Manifest, Precision, to_json
from edgeseg.video.pipeline import Stage, run_pipeline
from edgeseg.workflows._case_pictures import case_picture, encode_png
from edgeseg.workflows._opening import open_for_job

__all__ = [
    "CaseResult",
    "EvaluationReport",
    "Segmenter",
    "crop_to_roi",
    "evaluate",
    "finite_outputs",
    "mask_at_model_size",
    "read_labelled",
    "score_cases",
    "worst_case_pictures",
]

_AS_BUILT = Settings()
METRICS_FILE = "metrics.csv"
RECORD_FILE = "evaluation.json"

Array = npt.NDArray[Any]
Image = npt.NDArray[np.uint8]
Resolution = Literal["model", "native"]


class Segmenter(Protocol):
    """What is needed of ``edgeseg.model.Model`` here."""

    @property
    def manifest(self) -> Manifest:
        """Preprocessing, read-out and classes."""

    def preprocess(self, frame: Image, /) -> Mapping[str, Array]:
        """The engine's inputs for a frame."""

    def infer(self, tensors: Mapping[str, Array], /) -> Mapping[str, Array]:
        """The engine's outputs."""

    def read_grid(
        self, outputs: Mapping[str, Array], /, *, threshold: float | None = None
    ) -> Reading:
        """The mask before it is carried to the frame."""

    def read_out(
        self,
        outputs: Mapping[str, Array],
        frame_hw_px: tuple[int, ...],
        /,
        *,
        threshold: float | None = None,
    ) -> Result:
        """The mask at the frame's size."""


@dataclass(frozen=True)
class CaseResult:
    """A case and its scores."""

    case: Case
    score: CaseScore


@dataclass(frozen=True)
class EvaluationReport:
    """What ``evaluate`` found, and where it wrote it.

    Attributes:
        output: the folder written.
        metrics: ``metrics.csv`` in it: one row a case, and the means in the last row ``MEAN``.
        pictures: the worst cases, worst first; empty unless they were asked for.
        variant: name of the variant that was run.
        backend: library that ran it.
        at: resolution of the comparison.
        results: each case with its scores, in the order of the data folder.
        mean: means over the cases; an infinite HD95 is left out of its mean.
        mean_per_class: the same for each foreground class by name.
    """

    output: Path
    metrics: Path
    pictures: tuple[Path, ...]
    variant: str
    backend: str
    at: Resolution
    results: tuple[CaseResult, ...]
    mean: Score
    mean_per_class: dict[str, Score]

    @property
    def without_distance(self) -> int:
        """Number of cases whose HD95 is infinite: one of the two masks is empty."""
        return sum(math.isinf(result.score.hd95) for result in self.results)

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Column names and rows for a person: each class, and the mean of several."""
        rows = [
            (name, *_figures(score, digits=4))
            for name, score in (*self.mean_per_class.items(), ("mean", self.mean))
            if name != "mean" or len(self.mean_per_class) > 1
        ]
        return ("class", "Dice", "IoU", "HD95 px"), rows

    def remarks(self) -> list[str]:
        """What else to say: how it was measured, the worst case, and where the files are."""
        worst = min(self.results, key=lambda result: result.score.dice)
        where = "the model's resolution" if self.at == "model" else "the images' own resolution"
        lines = [
            f"{len(self.results)} cases at {where}, {self.variant} on {self.backend}",
            f"worst case: {worst.case.id} (Dice {worst.score.dice:.4f})",
            f"metrics: {self.metrics}",
        ]
        if self.without_distance:
            lines.insert(
                1,
                f"without HD95, since truth or prediction is empty: {self.without_distance} of "
                f"{len(self.results)}",
            )
        if self.pictures:
            lines.append(f"worst cases: {self.pictures[0].parent}")
        return lines


def evaluate(
    bundle: str | Path,
    data: str | Path,
    *,
    output: str | Path | None = None,
    at: Resolution = "model",
    with_pictures: bool = False,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    threshold: float | None = None,
    settings: Settings = _AS_BUILT,
    worst: int = 8,
    force: bool = False,
    progress: Progress = silent,
) -> EvaluationReport:
    """Score a bundle against masks and write ``metrics.csv``.

    ``metrics.csv`` has the columns id, dice, iou, hd95 (pixels), a row a case with 6 decimals
    (``inf`` for a distance to an empty mask) and a last row MEAN, which leaves infinite distances
    out. ``evaluation.json`` beside it says what was measured and how.

    Args:
        bundle: the folder ``NAME.edgeseg``.
        data: a folder of ``image/`` and ``mask/``.
        output: folder to write; None for ``NAME-eval`` in the current folder.
        at: ``model``: logits at the model's input size, masks resized to it (nearest), as SegDINO
            v2's test script does; ``native``: full read-out at each image's own size.
        with_pictures: write the worst cases as PNG. They are patients' pictures.
        backend: as for ``edgeseg.open``.
        device: as for ``edgeseg.open``.
        precision: as for ``edgeseg.open``.
        threads: as for ``edgeseg.open``.
        threshold: for one-class models, instead of the bundle's; between 0 and 1.
        settings: fewer views, or another read-out, than the bundle's.
        worst: how many cases to draw, lowest Dice first.
        force: replace an existing output folder.
        progress: called with (stage, done, total).

    Raises:
        DataError: no pictures, unpaired or unreadable files, a mask of another size or with
            unknown classes.
        OutputError: the output exists (without ``force``), is something else than an earlier
            evaluation, or cannot be written.
        UsageError: ``worst`` or ``at`` has no meaning.
        BackendError: the engine failed or gave logits that are not finite.
    """
    if at not in ("model", "native"):
        raise UsageError(f"at is 'model' or 'native', got {at!r}")
    if worst < 1:
        raise UsageError(f"worst must be at least 1, got {worst}")
    folder = Path(output) if output is not None else _default_output(Path(bundle))
    cases = DataFolder.open(data, masks="required").cases
    check_output(folder, force=force)
    _check_replaceable(folder)
    with open_for_job(
        bundle,
        len(cases),
        backend=backend,
        device=device,
        precision=precision,
        threads=threads,
        hint="throughput",
        settings=settings,
        progress=progress,
    ) as model:
        results = score_cases(
            model,
            cases,
            at=at,
            threshold=threshold,
            parallel=model.engine.parallel,
            progress=progress,
        )
        drawn = (
            worst_case_pictures(model, results, worst, threshold=threshold, progress=progress)
            if with_pictures
            else ()
        )
        digest, engine, variant = model.bundle.digest, model.engine.info, model.variant.name
        manifest = model.manifest
        used = {"preprocess": to_json(model.preprocess_spec), "readout": to_json(model.readout)}
    mean = mean_score([result.score for result in results])
    per_class = _mean_per_class(results, manifest.classes)
    with atomic_directory(folder, force=force) as temporary:
        _write_metrics(temporary / METRICS_FILE, results, mean)
        names = []
        for rank, (result, png) in enumerate(drawn, start=1):
            names.append(f"worst-{rank:02d}-{result.case.id}.png")
            (temporary / names[-1]).write_bytes(png)
        record = {
            "bundle": manifest.name,
            "bundle_sha256": digest,
            "variant": variant,
            "backend": engine.backend,
            "backend_version": engine.version,
            "device": engine.device_name,
            "at": at,
            **used,
            "threshold": threshold if threshold is not None else manifest.readout.threshold,
            "cases": len(results),
            "mean": _json_score(mean),
            "mean_per_class": {name: _json_score(score) for name, score in per_class.items()},
        }
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (temporary / RECORD_FILE).write_text(text, encoding="utf-8")
    return EvaluationReport(
        output=folder,
        metrics=folder / METRICS_FILE,
        pictures=tuple(folder / name for name in names),
        variant=variant,
        backend=f"{engine.backend} {engine.version}",
        at=at,
        results=results,
        mean=mean,
        mean_per_class=per_class,
    )


def score_cases(
    model: Segmenter,
    cases: Sequence[Case],
    *,
    at: Resolution = "model",
    threshold: float | None = None,
    parallel: int = 1,
    progress: Progress = silent,
    stage: str = "evaluate",
) -> tuple[CaseResult, ...]:
    """Score each case; all must have a mask.

    Files are read, prepared, inferred and scored in overlapping threads.

    Args:
        model: its methods may be called from several threads at once.
        cases: to score.
        at: as for ``evaluate``, like ``threshold``.
        threshold: see ``at``.
        parallel: how many cases the engine takes at once (``Engine.parallel``).
        progress: called with (``stage``, cases done, cases in all).
        stage: for ``progress``.

    Returns:
        A result for each case, in their order.

    Raises:
        DataError: a case has no mask, or a file cannot be used; the message names it.
        BackendError: logits that are not finite.
    """
    classes = len(model.manifest.classes)
    results: list[CaseResult] = []

    def read() -> Iterator[tuple[Case, Image, Image]]:
        for case in cases:
            yield case, *read_labelled(case, classes)

    def preprocess(item: tuple[Case, Image, Image]) -> Any:
        return *item, model.preprocess(item[1])

    def infer(item: Any) -> Any:
        *known, tensors = item
        return *known, model.infer(tensors)

    def score(item: Any) -> CaseResult:
        case, image, truth, outputs = item
        _check_finite(model, outputs)
        if at == "model":
            prediction = model.read_grid(outputs, threshold=threshold).mask
            truth = resize_mask(crop_to_roi(truth, model.manifest), *prediction.shape)
        else:
            prediction = model.read_out(outputs, image.shape[:2], threshold=threshold).mask
        return CaseResult(case, evaluate_mask(prediction, truth, classes))

    def collect(result: CaseResult) -> None:
        results.append(result)
        progress(stage, len(results), len(cases))

    progress(stage, 0, len(cases))
    report = run_pipeline(
        read(),
        (
            Stage("preprocess", preprocess),
            Stage("inference", infer, workers=parallel),
            # A distance between masks may take longer than the network.
            Stage("score", score, workers=parallel),
        ),
        collect,
        read_name="read",
        write_name="collect",
    )
    if report.ended_by is not None:
        raise report.ended_by
    return tuple(results)


def mask_at_model_size(model: Segmenter, image: Image, threshold: float | None = None) -> Image:
    """The prediction before it is carried to the frame: uint8, on the model's own grid.

    Raises:
        BackendError: the logits are not finite.
    """
    return model.read_grid(finite_outputs(model, image), threshold=threshold).mask


def finite_outputs(model: Segmenter, image: Image) -> Mapping[str, Array]:
    """What the engine answers to a picture.

    Raises:
        BackendError: not all of it is finite. A threshold would turn NaN into background and the
            fusion would leave it out, and a broken engine would get a plausible score.
    """
    outputs = model.infer(model.preprocess(image))
    _check_finite(model, outputs)
    return outputs


def _check_finite(model: Segmenter, outputs: Mapping[str, Array]) -> None:
    if not all(np.isfinite(output).all() for output in outputs.values()):
        raise BackendError(
            f"{model.manifest.name}: the engine's logits are not finite: its arithmetic overflows; "
            "use the fp16-safe or fp32 precision"
        )


def worst_case_pictures(
    model: Segmenter,
    results: Sequence[CaseResult],
    count: int,
    *,
    threshold: float | None = None,
    progress: Progress = silent,
) -> tuple[tuple[CaseResult, bytes], ...]:
    """PNG pictures (image, truth, prediction at the image's size) of the cases of lowest Dice."""
    chosen = sorted(results, key=lambda result: result.score.dice)[:count]
    pictures = []
    for done, result in enumerate(chosen):
        progress("pictures", done, len(chosen))
        image, truth = read_labelled(result.case, len(model.manifest.classes))
        prediction = _mask_at_native_size(model, image, threshold)
        picture = case_picture(result.case.id, image, truth, prediction, result.score)
        pictures.append((result, encode_png(picture)))
    progress("pictures", len(chosen), len(chosen))
    return tuple(pictures)


def _mask_at_native_size(model: Segmenter, image: Image, threshold: float | None) -> Image:
    outputs = finite_outputs(model, image)
    return model.read_out(outputs, image.shape[:2], threshold=threshold).mask


def read_labelled(case: Case, classes: int) -> tuple[Image, Image]:
    """A case's picture and mask.

    Raises:
        DataError: it has no mask, or a file cannot be read.
    """
    image, truth = case.read(classes)
    if truth is None:
        raise DataError(f"{case.image} has no mask, so it cannot be scored")
    return image, truth


def crop_to_roi(mask: Image, manifest: Manifest) -> Image:
    """The part of a mask of the frame's size that the model sees."""
    roi = manifest.preprocess.roi
    if roi is None:
        return mask
    return mask[roi.y_px : roi.y_px + roi.height_px, roi.x_px : roi.x_px + roi.width_px]


def _mean_per_class(results: Sequence[CaseResult], classes: Sequence[str]) -> dict[str, Score]:
    names = classes if len(classes) == 1 else classes[1:]
    return {
        name: mean_score([result.score.per_class[index] for result in results])
        for index, name in enumerate(names)
    }


def _write_metrics(path: Path, results: Sequence[CaseResult], mean: Score) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("id", "dice", "iou", "hd95"))
        for result in results:
            writer.writerow((result.case.id, *_figures(result.score)))
        writer.writerow(("MEAN", *_figures(mean)))


def _figures(score: Score, digits: int = 6) -> tuple[str, ...]:
    return tuple(f"{value:.{digits}f}" for value in (score.dice, score.iou, score.hd95))


def _json_score(score: Score) -> dict[str, float | None]:
    """JSON knows no infinity: a distance to an empty mask is null."""
    distance = None if math.isinf(score.hd95) else score.hd95
    return {"dice": score.dice, "iou": score.iou, "hd95_px": distance}


def _check_replaceable(folder: Path) -> None:
    """Refuse to delete, even with ``force``, a folder that is something else than an evaluation."""
    if not folder.exists() or (folder / RECORD_FILE).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise OutputError(
            f"{folder} is no earlier evaluation (it holds no {RECORD_FILE}), so it is not "
            "replaced: choose another output"
        )


def _default_output(bundle: Path) -> Path:
    return Path(f"{bundle.absolute().name.removesuffix(SUFFIX)}-eval")
