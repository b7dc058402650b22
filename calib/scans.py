"""Slices of NIfTI scans as calibration frames, made grey as ``edgeseg segment`` makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import CalibrationError, DataError
from edgeseg.spec import PreprocessSpec
from edgeseg.volume.intensity import DEFAULT_VOLUME, normalize_volume
from edgeseg.volume.nifti import is_nifti, niftis, read_geometry, read_scan
from edgeseg.volume.slices import slice_order

__all__ = ["find_scans", "slice_count", "slice_frames"]


def find_scans(data: Path) -> tuple[Path, ...]:
    """The scan that ``data`` is, or those in the folder ``data`` or its ``image/``, by name."""
    if is_nifti(data):
        return (data,)
    return tuple(niftis(data) or niftis(data / "image"))


def slice_count(path: Path, spec: PreprocessSpec) -> int:
    """How many slices a scan has along the model's axis.

    Raises:
        CalibrationError: it cannot be read.
    """
    try:
        geometry = read_geometry(path)
    except DataError as error:
        raise CalibrationError(f"a calibration scan cannot be used: {error}") from error
    volume = spec.volume or DEFAULT_VOLUME
    return geometry.shape[slice_order(geometry, volume.axis).axes[0]]


def slice_frames(
    path: Path, spec: PreprocessSpec, indices: Sequence[int]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield those slices as uint8 (H, W, 3).

    Raises:
        DataError: the scan cannot be read, or normalised.
    """
    grey = normalize_volume(read_scan(path), spec.volume or DEFAULT_VOLUME)
    for index in indices:
        yield cv2.cvtColor(np.ascontiguousarray(grey[index]), cv2.COLOR_GRAY2BGR)
