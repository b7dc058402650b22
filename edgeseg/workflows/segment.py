"""``segment``: a bundle's labels for a volume."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg._files import atomic_file, check_output
from edgeseg._progress import Progress, silent
from edgeseg.errors import DataError, OutputError, UsageError
from edgeseg.metrics import CaseScore
from edgeseg.model import Model
from edgeseg.settings import Settings
from edgeseg.spec import Precision, VolumeSpec
from edgeseg.volume.intensity import DEFAULT_VOLUME, normalize_volume, parse_normalization
from edgeseg.volume.montage import montage as draw_montage
from edgeseg.volume.nifti import (
    Geometry,
    check_nifti_suffix,
    nifti_stem,
    read_labels,
    read_scan,
    write_labels,
)
from edgeseg.volume.scores import score_volume
from edgeseg.volume.segmenting import segment_slices
from edgeseg.volume.slices import Axis, check_axis, slice_order
from edgeseg.volume.zsmooth import sigma_in_slices
from edgeseg.workflows._opening import open_for_job

__all__ = ["SegmentReport", "segment"]

_AS_BUILT = Settings()

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentReport:
    """What ``segment`` did.

    Attributes:
        output: the label map written.
        montage: the picture written, if it was asked for.
        slices: how many, and of how many rows and columns.
        axis: along which they are stacked.
        spacing_mm: between slices, rows and columns.
        normalize: how scanner values became grey.
        normalize_from: who said so: the caller, the bundle, or nobody (``default``).
        sigma_slices: standard deviation of the smoothing across slices; 0 for none.
        sigma_mm: the same in millimetres.
        volume_ml: of each foreground class by name.
        score: against the labels that were given; HD95 in millimetres.
        scored_slices: the range that it is of.
        orientation_known: whether the scan's file states an orientation.
        seconds: from the first slice to the last mask.
        backend: library that ran the bundle.
        variant: name of the variant that was run.
    """

    output: Path
    montage: Path | None
    slices: tuple[int, int, int]
    axis: Axis
    spacing_mm: tuple[float, float, float]
    normalize: str
    normalize_from: Literal["caller", "bundle", "default"]
    sigma_slices: float
    sigma_mm: float
    volume_ml: dict[str, float]
    score: CaseScore | None
    scored_slices: tuple[int, int]
    orientation_known: bool
    seconds: float
    backend: str
    variant: str

    @property
    def slices_per_s(self) -> float:
        """Slices per second, without reading and writing files."""
        return self.slices[0] / self.seconds if self.seconds > 0.0 else 0.0

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Column names and rows for a person: each class, and the mean of several."""
        if self.score is None:
            return ("class", "volume ml"), [(n, f"{v:.2f}") for n, v in self.volume_ml.items()]
        rows: list[tuple[str, ...]] = [
            (name, f"{volume:.2f}", f"{s.dice:.4f}", f"{s.iou:.4f}", f"{s.hd95:.2f}")
            for (name, volume), s in zip(self.volume_ml.items(), self.score.per_class, strict=True)
        ]
        if len(rows) > 1:
            mean = self.score
            rows.append(("mean", "", f"{mean.dice:.4f}", f"{mean.iou:.4f}", f"{mean.hd95:.2f}"))
        return ("class", "volume ml", "Dice", "IoU", "HD95 mm"), rows

    def remarks(self) -> list[str]:
        """What else to say: what was done and how, and where the files are."""
        count, height, width = self.slices
        whose = {
            "caller": "as asked for",
            "bundle": "as the bundle says",
            "default": "the default, since the bundle names none",
        }[self.normalize_from]
        smoothing = (
            f"sigma {self.sigma_slices:.3g} slices ({self.sigma_mm:.3g} mm)"
            if self.sigma_slices
            else "none"
        )
        lines = [
            f"{count} {self.axis} slices of {height}x{width}, {self.slices_per_s:.1f} slices/s "
            f"({self.variant} on {self.backend})",
            f"normalisation: {self.normalize} ({whose}); smoothing across slices: {smoothing}",
            f"labels: {self.output}",
        ]
        if self.score is not None and self.scored_slices != (0, count):
            lines.insert(
                1, f"scored: slices {self.scored_slices[0]} to {self.scored_slices[1] - 1}"
            )
        if not self.orientation_known:
            lines.insert(
                0,
                "the scan states no orientation (sform and qform codes are 0): it was taken as "
                "left, anterior, superior; left and right may be exchanged",
            )
        if self.score is not None and math.isinf(self.score.hd95):
            lines.append("HD95 is infinite where truth or prediction is empty")
        if self.montage is not None:
            lines.append(f"montage: {self.montage}")
        return lines


def segment(
    bundle: str | Path,
    scan: str | Path,
    output: str | Path | None = None,
    *,
    axis: Axis | None = None,
    normalize: str | None = None,
    labels: str | Path | None = None,
    score_slices: tuple[int, int] | None = None,
    montage: str | Path | Literal[True] | None = None,
    threshold: float | None = None,
    settings: Settings = _AS_BUILT,
    force: bool = False,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> SegmentReport:
    """Segment a volume slice by slice and write its labels on the scan's own grid.

    Slices are shown to the network in one anatomical orientation (``edgeseg.volume.slices``),
    whatever the order of the file, as grey pictures (``edgeseg.volume.intensity``). With smoothing
    across slices (``settings.z_smoothing``, else the bundle's) their probabilities are smoothed
    before the mask is decided; each slice stands for itself otherwise.

    Besides the scan as grey slices and the labels (a byte a voxel each), memory does not grow with
    the number of slices.

    Args:
        bundle: the folder ``NAME.edgeseg``.
        scan: a NIfTI file, ``.nii`` or ``.nii.gz``, of one 3-D volume.
        output: the same; None for the scan's name with ``-seg`` in the current folder.
        axis: along which slices are stacked: ``axial``, ``coronal`` or ``sagittal``; None for what
            the bundle says, or axial.
        normalize: ``zscore``, ``minmax``, ``window=LEVEL,WIDTH`` or ``none``; None for what the
            bundle says, or ``zscore``.
        labels: a NIfTI file on the scan's grid to score against. For a one-class model every label
            above 0 is foreground.
        score_slices: (first, end) of the slices to score, end excluded, counted along ``axis`` as
            ``fit`` counts them; None for all. For volumes of which other slices were learned from.
        montage: PNG file of slices with what was found; True for the output's name with ``.png``.
        threshold: for one-class models, instead of the bundle's; between 0 and 1.
        settings: fewer views, or another read-out, than the bundle's.
        force: replace existing outputs.
        backend: as for ``edgeseg.open``, like ``device``, ``precision`` and ``threads``.
        device: see ``backend``.
        precision: see ``backend``.
        threads: see ``backend``.
        progress: called with ("segment", slices done, slices in all).

    Raises:
        UsageError: arguments that have no meaning, or contradict each other or the bundle; a sigma
            larger than the volume.
        OutputError: an output exists, or cannot be written.
        MissingDependencyError: nibabel is not installed.
        DataError: scan or labels cannot be used (``edgeseg.volume.nifti``), or normalised.
        BundleError, BackendError: as ``edgeseg.open``.
    """
    scan_path = Path(scan)
    labels_path = None if labels is None else Path(labels)
    target = Path(output) if output is not None else Path(f"{nifti_stem(scan_path)}-seg.nii.gz")
    picture = _picture_path(montage, target)
    _check_arguments(axis, normalize, settings)
    if score_slices is not None and labels is None:
        raise UsageError("--score-slices chooses what to score: pass --labels as well")
    check_nifti_suffix(target)
    _check_outputs(target, picture, [p for p in (scan_path, labels_path) if p], force=force)
    source = read_scan(scan_path)
    geometry = source.geometry
    stored_truth = None if labels_path is None else read_labels(labels_path, geometry)
    with open_for_job(
        bundle,
        min(geometry.shape),  # along which axis is known with the model
        backend=backend,
        device=device,
        precision=precision,
        threads=threads,
        hint="throughput",
        settings=settings,
        progress=progress,
    ) as model:
        model.check_threshold(threshold)
        spec, spoken_by = _volume_spec(model, axis, normalize)
        order = slice_order(geometry, spec.axis)
        truth = None
        if stored_truth is not None:
            truth = order.to_slices(_known_classes(stored_truth, model, labels_path))
            del stored_truth
        first, end = _scored(score_slices, geometry.shape[order.axes[0]])
        grey = normalize_volume(source, spec)
        del source  # four bytes a voxel
        sigma = sigma_in_slices(model.readout.z_smoothing, len(grey), order.spacing_mm[0])
        start = time.perf_counter()
        masks = _masks(model, grey, sigma, threshold, progress)
        seconds = time.perf_counter() - start
        classes, engine, variant = model.classes, model.engine.info, model.variant.name
    names = classes if len(classes) == 1 else classes[1:]
    score = None
    if truth is not None:
        parts = masks[first:end], truth[first:end]
        score = score_volume(*parts, len(classes), order.spacing_mm)
    write_labels(target, np.asfortranarray(order.to_file(masks)), geometry)
    if picture is not None:
        caption = f"{spec.axis}, {spec.normalize}"
        if score is not None:
            caption += f", Dice {score.dice:.4f}, HD95 {score.hd95:.1f} mm"
        drawn = draw_montage(
            grey, masks, order.spacing_mm, truth=truth, names=names, caption=caption
        )
        _write_png(picture, drawn)
    return SegmentReport(
        output=target,
        montage=picture,
        slices=(grey.shape[0], grey.shape[1], grey.shape[2]),
        axis=spec.axis,
        spacing_mm=order.spacing_mm,
        normalize=spec.normalize,
        normalize_from=spoken_by,
        sigma_slices=sigma,
        sigma_mm=sigma * order.spacing_mm[0],
        volume_ml=_volumes_ml(masks, names, geometry),
        score=score,
        scored_slices=(first, end),
        orientation_known=geometry.known,
        seconds=seconds,
        backend=engine.backend,
        variant=variant,
    )


def _masks(
    model: Model, grey: Labels, sigma: float, threshold: float | None, progress: Progress
) -> Labels:
    one_class = model.readout.activation == "sigmoid"
    limit = model.readout.threshold if threshold is None else threshold
    masks, _ = segment_slices(
        model.bound_stages(),
        grey,
        sigma_slices=sigma,
        threshold=threshold,
        smoothed_threshold=limit if one_class else None,
        parallel=model.engine.parallel,
        progress=progress,
    )
    return masks


def _check_arguments(axis: str | None, normalize: str | None, settings: Settings) -> None:
    if axis is not None:
        check_axis(axis)
    if normalize is not None:
        parse_normalization(normalize)
    if settings.time_constant_ms:
        raise UsageError("smoothing over time is for videos; a volume is smoothed by --z-sigma")


def _scored(wanted: tuple[int, int] | None, count: int) -> tuple[int, int]:
    """The range of slices to score."""
    first, end = wanted or (0, count)
    if not 0 <= first < end <= count:
        raise UsageError(
            f"slices {first}:{end} to score are no range of the scan's {count}, which are 0:{count}"
        )
    return first, end


def _check_outputs(target: Path, picture: Path | None, inputs: list[Path], *, force: bool) -> None:
    for path in inputs:
        if target.exists() and path.exists() and target.samefile(path):
            raise UsageError(f"{target} is an input itself: choose another output")
    for written in (target, picture):
        if written is None:
            continue
        if written.is_dir():
            raise OutputError(f"{written} is a folder: name a file")
        check_output(written, force=force)


def _picture_path(montage: str | Path | bool | None, target: Path) -> Path | None:
    if montage is None or montage is False:
        return None
    path = target.with_name(f"{nifti_stem(target)}.png") if montage is True else Path(montage)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: a montage is a .png file")
    return path


def _volume_spec(
    model: Model, axis: Axis | None, normalize: str | None
) -> tuple[VolumeSpec, Literal["caller", "bundle", "default"]]:
    """What to do, and who said how to normalise."""
    stated = model.manifest.preprocess.volume
    base = stated or DEFAULT_VOLUME
    spec = VolumeSpec(normalize or base.normalize, axis or base.axis)
    if normalize is not None:
        return spec, "caller"
    return spec, "default" if stated is None else "bundle"


def _known_classes(labels: npt.NDArray[np.uint16], model: Model, path: Path | None) -> Labels:
    """Labels as class indices of the model, in the order of their file."""
    count = len(model.classes)
    if count == 1:
        foreground: Labels = (labels != 0).view(np.uint8)
        return foreground
    largest = int(labels.max())
    if largest >= count:
        raise DataError(
            f"{path}: label {largest} is none of the model's classes 0 to {count - 1} "
            f"({', '.join(model.classes)}): map the labels onto them"
        )
    return labels.astype(np.uint8)


def _volumes_ml(masks: Labels, names: tuple[str, ...], geometry: Geometry) -> dict[str, float]:
    counts = np.zeros(256, np.int64)
    for mask in masks:
        counts += np.bincount(mask.ravel(), minlength=256)
    return {
        name: int(counts[index]) * geometry.voxel_ml for index, name in enumerate(names, start=1)
    }


def _write_png(path: Path, picture: Labels) -> None:
    done, data = cv2.imencode(".png", picture)
    if not done:
        raise OutputError(f"{path}: a picture of {picture.shape} cannot be encoded as PNG")
    with atomic_file(path) as temporary:
        temporary.write_bytes(bytes(data))
