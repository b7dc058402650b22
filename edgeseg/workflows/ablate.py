"""``ablate``: what each part of a multi-view read-out brings, and what it costs."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgeseg import model as models
from edgeseg._files import atomic_directory, check_output
from edgeseg._progress import Progress, silent
from edgeseg.bench.timing import interleave
from edgeseg.bundle import read_bundle
from edgeseg.dataset import Case, DataFolder
from edgeseg.errors import UsageError
from edgeseg.metrics import CaseScore, evaluate_mask, mean_score, resize_mask
from edgeseg.model import Model
from edgeseg.settings import Settings
from edgeseg.spec import (
    FusionSpec,
    Manifest,
    Precision,
    PreprocessSpec,
    ReadoutSpec,
    RegularizeSpec,
    to_json,
)
from edgeseg.workflows.evaluate import crop_to_roi, finite_outputs, read_labelled

__all__ = ["AblationReport", "AblationRow", "ablate"]

CSV_FILE = "ablation.csv"
RECORD_FILE = "ablation.json"

DEFAULT_BLUR_SIGMA_PX = 2.0
DEFAULT_COMPONENT_SHARE = 0.002
"""Of the grid: the regularisation that is tried where the bundle has none."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class AblationRow:
    """One configuration, its means over the cases and its median time."""

    name: str
    views: int
    dice: float
    iou: float
    hd95_px: float
    median_ms: float
    """From frame to mask on the model's grid, preprocessing included."""


@dataclass(frozen=True)
class AblationReport:
    """What ``ablate`` found."""

    rows: tuple[AblationRow, ...]
    cases: int
    variant: str
    backend: str
    threads: int
    regularize: RegularizeSpec
    """The regularisation of the last row."""
    output: Path | None

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows for a person."""
        columns = ("read-out", "views", "Dice", "IoU", "HD95 px", "ms")
        rows: list[tuple[str, ...]] = [
            (
                row.name,
                str(row.views),
                f"{row.dice:.4f}",
                f"{row.iou:.4f}",
                f"{row.hd95_px:.2f}",
                f"{row.median_ms:.1f}",
            )
            for row in self.rows
        ]
        return columns, rows

    def remarks(self) -> list[str]:
        """How it was measured."""
        spec = self.regularize
        lines = [
            f"{self.cases} cases at the model's resolution, {self.variant} on {self.backend}, "
            f"{self.threads} threads; ms are medians over whole frames, taken in turn",
            f"regularisation: blur {spec.blur_sigma_px:g} px, holes "
            f"{'filled' if spec.fill_holes else 'left'}, components under "
            f"{spec.min_component_px} px dropped",
        ]
        if self.output is not None:
            lines.append(f"figures: {self.output}")
        return lines


@dataclass(frozen=True)
class _Step:
    """One row of the table: which views, and how they are read."""

    name: str
    settings: Settings
    readout: ReadoutSpec


def ablate(
    bundle: str | Path,
    data: str | Path,
    *,
    output: str | Path | None = None,
    settings: Settings | None = None,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    threshold: float | None = None,
    rounds: int = 5,
    force: bool = False,
    progress: Progress = silent,
) -> AblationReport:
    """Score and time a multi-view bundle with one part of its read-out after the other.

    The rows: the largest view alone; all sizes, averaged; all sizes with flips, averaged; the same
    with entropy weights; with the bundle's other weights, if it has others; with regularisation
    (the bundle's, or a blur of 2 pixels, filled holes and components of at least 0.2 % of the
    grid).

    Args:
        bundle: the folder ``NAME.edgeseg``.
        data: a folder of ``image/`` and ``mask/``.
        output: folder for ``ablation.csv`` and ``ablation.json``; None writes nothing.
        settings: views and read-out to start from; None for the bundle's.
        backend: as for ``edgeseg.open``, like ``device``, ``precision`` and ``threads``.
        device: see ``backend``.
        precision: see ``backend``.
        threads: see ``backend``.
        threshold: for one-class models, instead of the bundle's; between 0 and 1.
        rounds: how often the configurations take turns when they are timed.
        force: replace an existing output.
        progress: called with (stage, done, total).

    Raises:
        UsageError: the bundle has one view, or the settings do not fit it.
        DataError, BackendError, OutputError: as ``evaluate``.
    """
    if rounds < 1:
        raise UsageError(f"rounds must be at least 1, got {rounds}")
    if output is not None:
        check_output(Path(output), force=force)
    manifest = read_bundle(Path(bundle)).manifest
    start = settings or Settings()
    views = start.preprocess(manifest.preprocess)
    readout = start.readout(manifest.readout)
    if readout.fusion is None or not views.views:
        raise UsageError(f"{manifest.name} reads a frame once: there is nothing to ablate")
    cases = DataFolder.open(data, masks="required").cases
    steps = _steps(views, readout, readout.fusion)
    tallies: dict[str, list[CaseScore]] = {step.name: [] for step in steps}
    timings: dict[str, float] = {}
    opened: dict[Settings, Model] = {}
    try:
        for step in steps:
            if step.settings not in opened:
                opened[step.settings] = models.open(
                    bundle,
                    backend=backend,
                    device=device,
                    precision=precision,
                    threads=threads,
                    settings=step.settings,
                )
        for done, case in enumerate(cases):
            progress("ablate", done, len(cases))
            _score(case, steps, opened, tallies, threshold)
        progress("ablate", len(cases), len(cases))
        image, _ = read_labelled(cases[0], len(manifest.classes))
        timings = {
            name: timing.median_ms
            for name, timing in interleave(
                {s.name: partial(_frame, opened[s.settings], image, s.readout) for s in steps},
                rounds=rounds,
                block=2,
                warmup=1,
                progress=progress,
                stage="measure",
            ).items()
        }
        first = opened[steps[0].settings]
        engine, variant = first.engine.info, first.variant.name
    finally:
        for model in opened.values():
            model.close()
    rows = []
    for step in steps:
        mean = mean_score(tallies[step.name])
        used = step.settings.preprocess(manifest.preprocess)
        count = sum(len(view.flips) for view in used.views)
        rows.append(
            AblationRow(step.name, count, mean.dice, mean.iou, mean.hd95, timings[step.name])
        )
    report = AblationReport(
        rows=tuple(rows),
        cases=len(cases),
        variant=variant,
        backend=f"{engine.backend} {engine.version}",
        threads=engine.threads,
        regularize=steps[-1].readout.regularize,
        output=None if output is None else Path(output),
    )
    if report.output is not None:
        _write(report, report.output, manifest, force=force)
    return report


def _steps(views: PreprocessSpec, readout: ReadoutSpec, fusion: FusionSpec) -> tuple[_Step, ...]:
    """The rows of the table, from the plainest on; what would repeat the row before is left out."""
    sizes = tuple((view.height_px, view.width_px) for view in views.views)
    flips = views.views[0].flips[1:]
    largest = ((views.height_px, views.width_px),)
    mean = dataclasses.replace(
        readout, fusion=FusionSpec("mean"), regularize=RegularizeSpec(), time_constant_ms=0.0
    )
    entropy = dataclasses.replace(mean, fusion=FusionSpec("entropy"))
    weighted = dataclasses.replace(mean, fusion=fusion)
    regularize = readout.regularize
    if regularize == RegularizeSpec():
        grid_px = views.height_px * views.width_px
        regularize = RegularizeSpec(
            DEFAULT_BLUR_SIGMA_PX, True, round(DEFAULT_COMPONENT_SHARE * grid_px)
        )
    all_views = Settings(views=sizes, flips=flips)
    steps = [_Step("single view", Settings(views=largest, flips=()), mean)]
    if len(sizes) > 1:
        steps.append(_Step("multi-resolution", Settings(views=sizes, flips=()), mean))
    if flips:
        steps.append(_Step("with flips", all_views, mean))
    steps.append(_Step("with entropy weights", all_views, entropy))
    if weighted not in (mean, entropy):
        name = f"with exp(-H/{fusion.temperature:g}) weights"
        steps.append(_Step(name, all_views, weighted))
    last = dataclasses.replace(weighted, regularize=regularize)
    steps.append(_Step("with regularisation", all_views, last))
    return tuple(steps)


def _score(
    case: Case,
    steps: Sequence[_Step],
    opened: dict[Settings, Model],
    tallies: dict[str, list[CaseScore]],
    threshold: float | None,
) -> None:
    """Infer once for each set of views, and read the outputs in every way that belongs to it."""
    manifest = next(iter(opened.values())).manifest
    image, truth = read_labelled(case, len(manifest.classes))
    truth = crop_to_roi(truth, manifest)
    for settings, model in opened.items():
        outputs = finite_outputs(model, image)
        for step in steps:
            if step.settings == settings:
                mask = model.read_grid(outputs, threshold=threshold, readout=step.readout).mask
                score = evaluate_mask(mask, resize_mask(truth, *mask.shape), len(manifest.classes))
                tallies[step.name].append(score)


def _frame(model: Model, image: Array, readout: ReadoutSpec) -> Array:
    return model.read_grid(model.infer(model.preprocess(image)), readout=readout).mask


def _write(report: AblationReport, folder: Path, manifest: Manifest, *, force: bool) -> None:
    with atomic_directory(folder, force=force) as temporary:
        with (temporary / CSV_FILE).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(field.name for field in dataclasses.fields(AblationRow))
            writer.writerows(dataclasses.astuple(row) for row in report.rows)
        record = {
            "bundle": manifest.name,
            "variant": report.variant,
            "backend": report.backend,
            "threads": report.threads,
            "cases": report.cases,
            "regularize": to_json(report.regularize),
            "rows": [_json_row(row) for row in report.rows],
        }
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (temporary / RECORD_FILE).write_text(text, encoding="utf-8")


def _json_row(row: AblationRow) -> dict[str, Any]:
    """JSON knows no infinity: a distance to an empty mask is null."""
    values: dict[str, Any] = to_json(row)
    return {**values, "hd95_px": None if math.isinf(row.hd95_px) else row.hd95_px}
