"""Slices of labelled volumes as samples to fit probes to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg._progress import Progress, silent
from edgeseg.dataset import IMAGE_SUFFIXES
from edgeseg.errors import DataError, UsageError
from edgeseg.export.fitting.samples import Image, Sample, refuse_duplicates
from edgeseg.spec import VolumeSpec
from edgeseg.volume.intensity import normalize_volume
from edgeseg.volume.nifti import is_nifti, nifti_stem, niftis, read_labels, read_scan
from edgeseg.volume.slices import slice_order

__all__ = ["VolumeCase", "is_volume_data", "volume_cases", "volume_samples"]

VolumeCase = tuple[Path, Path]
"""A scan and its labels."""


def is_volume_data(data: Path) -> bool:
    """Whether ``data`` is a NIfTI file, or a folder with one in ``image/``."""
    return is_nifti(data) or bool(niftis(data / "image"))


def volume_cases(data: Path, labels: Path | None) -> tuple[VolumeCase, ...]:
    """Pair scans and labels.

    Args:
        data: one scan, or a folder of ``image/`` and ``mask/`` that pair by name.
        labels: of the one scan; None for a folder.

    Raises:
        UsageError: a scan without ``labels``, or a folder with them.
        DataError: an image without mask or the reverse, pictures among the volumes, or two equal
            scans.
    """
    if is_nifti(data):
        if labels is None:
            raise UsageError(f"{data} is one scan: name its labels as well (--labels FILE)")
        return ((data, labels),)
    if labels is not None:
        raise UsageError(f"{data} is a folder: its labels lie in mask/, not in a file of their own")
    folders = (data / "image", data / "mask")
    pictures = [p.name for p in folders[0].iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    if pictures:
        raise DataError(
            f"{folders[0]} holds volumes and pictures ({pictures[0]}): fit to one kind at a time"
        )
    scans, masks = ({nifti_stem(path): path for path in niftis(f)} for f in folders)
    for found, others, here, there in ((scans, masks, *folders), (masks, scans, *folders[::-1])):
        lonely = sorted(set(found) - set(others))
        if lonely:
            raise DataError(f"{here}: nothing of the same name in {there} for {', '.join(lonely)}")
    refuse_duplicates(list(scans.values()))
    return tuple((scan, masks[stem]) for stem, scan in scans.items())


def volume_samples(
    cases: Sequence[VolumeCase], spec: VolumeSpec, classes: int, *, progress: Progress = silent
) -> tuple[Sample, ...]:
    """All slices of the volumes, along one axis, as grey pictures.

    Every volume is read here, which finds those that cannot be used, and again when its first slice
    is; one at a time is held in memory.

    Args:
        cases: from ``volume_cases``.
        spec: normalisation and slicing direction.
        classes: 1: every label but 0 is foreground; else the number with the background.
        progress: called with ("volumes", done, total).

    Returns:
        Samples named ``STEM:SLICE``, a group a volume.

    Raises:
        MissingDependencyError: nibabel is not installed.
        DataError: a scan or labels cannot be used, or a label is beyond the classes.
        UsageError: ``spec`` says something unknown.
    """
    reader = _Reader(spec, classes)
    samples = []
    for done, case in enumerate(cases):
        progress("volumes", done, len(cases))
        stem = nifti_stem(case[0])
        count = len(reader.volume(case)[0])
        samples += [
            Sample(f"{stem}:{place}", stem, place, partial(reader.slice, case, place))
            for place in range(count)
        ]
    progress("volumes", len(cases), len(cases))
    return tuple(samples)


class _Reader:
    """Slices of the volume that was read last."""

    def __init__(self, spec: VolumeSpec, classes: int) -> None:
        self._spec = spec
        self._classes = classes
        self._held: tuple[VolumeCase, tuple[Image, Image]] | None = None

    def volume(self, case: VolumeCase) -> tuple[Image, Image]:
        """Grey slices and class indices, uint8 (slice, row, column) each."""
        if self._held is None or self._held[0] != case:
            self._held = None
            self._held = (case, self._read(*case))
        return self._held[1]

    def slice(self, case: VolumeCase, place: int) -> tuple[Image, Image]:
        """As ``Sample.read``."""
        grey, labels = self.volume(case)
        return cv2.cvtColor(grey[place], cv2.COLOR_GRAY2BGR), labels[place]

    def _read(self, scan_path: Path, labels_path: Path) -> tuple[Image, Image]:
        scan = read_scan(scan_path)
        stored: npt.NDArray[np.uint16] = read_labels(labels_path, scan.geometry)
        largest = int(stored.max())
        if self._classes > 1 and largest >= self._classes:
            raise DataError(
                f"{labels_path}: the label {largest} is beyond the {self._classes} classes that "
                "are named, with the background: name all of them"
            )
        labels = (stored != 0).view(np.uint8) if self._classes == 1 else stored.astype(np.uint8)
        along = slice_order(scan.geometry, self._spec.axis).to_slices(labels)
        return normalize_volume(scan, self._spec), np.ascontiguousarray(along)
