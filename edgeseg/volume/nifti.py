"""NIfTI-1 and NIfTI-2 files: one 3-D scan in, one 3-D label map out.

Headers are read and written by nibabel. The voxels are read here, since a header must be judged
before memory is allocated for what it claims, and a compressed file must be read to its end for its
checksum to be verified.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeseg._files import atomic_file
from edgeseg._optional import require
from edgeseg.errors import DataError, InputError, UsageError

__all__ = [
    "MAX_SIDE",
    "MAX_VOXELS",
    "SUFFIXES",
    "Geometry",
    "Scan",
    "check_nifti_suffix",
    "is_nifti",
    "nifti_stem",
    "niftis",
    "read_geometry",
    "read_labels",
    "read_scan",
    "write_labels",
]

MAX_VOXELS = 1 << 31
"""More than 1024 slices of 1024x1024; as float32 they take 8 GiB."""
MAX_SIDE = 65535

SUFFIXES = (".nii", ".nii.gz")

_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_MAX_RATIO = 1032
"""Deflate spends at least 2 bits on 258 bytes (zlib's technical notes)."""
_HEADER_BYTES = {348: "Nifti1Header", 540: "Nifti2Header"}
_READ_BYTES = 1 << 22
_UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
"""Millimetres in the units of length by their codes: unknown, metre, millimetre, micrometre."""
_UNIT_BITS = 7
_LARGEST_XFORM_CODE = 5
_SMALLEST_DETERMINANT = 1e-6
"""Of the directions of the axes; 1 for perpendicular ones."""
_SAME_GRID_VOXELS = 0.05
"""Grids are the same if no corner lies further from its counterpart, in voxels."""
_INTEGER_TOLERANCE = 1e-3
"""Labels stored with a slope come back as 0.99999997."""
_MAX_LABEL = 65535

_GEOMETRY_FIELDS = (
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "dim_info",
)


class _Stream(Protocol):
    """What is needed of an open file, compressed or not."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""

    def seek(self, offset: int, /) -> int:
        """Go to a byte."""


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a file lie.

    Attributes:
        shape: voxels along the file's axes i, j and k.
        affine: float64 (4, 4), from (i, j, k, 1) to millimetres towards right, anterior, superior.
        known: whether the file states an orientation; else nibabel's assumption stands (left,
            anterior, superior, as Analyze files), and left and right may be exchanged.
        header: nibabel's header, of which only the geometry is carried over to outputs.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    known: bool
    header: Any

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels' centres along i, j and k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def same_grid(self, other: Geometry) -> bool:
        """Whether both have the same voxels in the same places, up to a twentieth of a voxel."""
        if self.shape != other.shape:
            return False
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.shape) - 1)
        points = np.c_[corners, np.ones(8)]
        apart = np.linalg.norm((points @ (self.affine - other.affine).T)[:, :3], axis=1)
        return bool(apart.max() <= _SAME_GRID_VOXELS * min(self.spacing_mm))


@dataclass(frozen=True)
class Scan:
    """A scan as its file stores it.

    Attributes:
        path: the file.
        voxels: float32 (i, j, k), finite and not constant, in the file's units (slope applied).
        geometry: where they lie.
    """

    path: Path
    voxels: npt.NDArray[np.float32]
    geometry: Geometry


def read_scan(path: Path) -> Scan:
    """Read a scan.

    A trailing dimension of one is dropped. The file's slope and intercept are applied in float64.

    Raises:
        MissingDependencyError: nibabel is not installed.
        DataError: no NIfTI file, a damaged one, several volumes, colours or complex numbers, no
            voxels or too many, an affine that makes no sense, voxels that are not finite, or all
            the same.
    """
    with _open(path) as (stream, file_bytes):
        header, geometry = _read_header(stream, path, file_bytes)
        voxels = _scaled(_read_voxels(stream, header, geometry.shape, path), header, path)
    low, high = _range_of_finite(voxels, path)
    if low == high:
        raise DataError(f"{path}: every voxel is {low:g}: there is nothing to segment")
    return Scan(path, voxels, geometry)


def read_geometry(path: Path) -> Geometry:
    """Where a file's voxels lie, from its header alone.

    Raises:
        MissingDependencyError: nibabel is not installed.
        DataError: as ``read_scan``, as far as a header tells.
    """
    with _open(path) as (stream, file_bytes):
        return _read_header(stream, path, file_bytes)[1]


def read_labels(path: Path, scan: Geometry) -> npt.NDArray[np.uint16]:
    """Read the labels of a scan.

    Returns:
        uint16 (i, j, k), as the file stores them.

    Raises:
        MissingDependencyError: nibabel is not installed.
        DataError: as ``read_scan``, or another grid than the scan's, or values that are no labels
            (integers from 0 to 65535). Labels may be all the same.
    """
    with _open(path) as (stream, file_bytes):
        header, geometry = _read_header(stream, path, file_bytes)
        if geometry.shape != scan.shape:
            raise DataError(
                f"{path}: labels of {_times(geometry.shape)} voxels do not belong to a scan of "
                f"{_times(scan.shape)}: give the labels of this very scan"
            )
        if not geometry.same_grid(scan):
            raise DataError(
                f"{path}: the labels' voxels lie elsewhere than the scan's (their affines differ): "
                "resample the labels onto the scan's grid"
            )
        voxels = _scaled(_read_voxels(stream, header, geometry.shape, path), header, path)
    _range_of_finite(voxels, path)
    labels = np.empty(voxels.shape, np.uint16, order="F")
    for k in range(voxels.shape[2]):
        plane = voxels[..., k]
        whole = np.rint(plane)
        wrong = (np.abs(plane - whole) > _INTEGER_TOLERANCE) | (whole < 0) | (whole > _MAX_LABEL)
        if wrong.any():
            raise DataError(
                f"{path}: {float(plane[wrong][0]):g} is no label: labels are integers from 0 on"
            )
        labels[..., k] = whole
    return labels


def write_labels(path: Path, labels: npt.NDArray[np.uint8], geometry: Geometry) -> None:
    """Write class indices on a scan's grid, whole or not at all.

    The file has the scan's affines with their codes and its unit of length. Nothing else is carried
    over, since descriptions and extensions of a scan may name the patient.

    Args:
        path: ending in ``.nii`` or ``.nii.gz``; an existing file is replaced.
        labels: uint8 (i, j, k), in the file order of ``geometry``.
        geometry: of the scan.

    Raises:
        UsageError: the name ends otherwise.
        InputError: the labels are of another shape or dtype.
        OutputError: the file cannot be written.
    """
    check_nifti_suffix(path)
    if labels.dtype != np.uint8 or labels.shape != geometry.shape:
        raise InputError(
            f"labels on this grid are uint8 {geometry.shape}, got {labels.dtype} {labels.shape}"
        )
    nibabel = require("nibabel", "volumes")
    single = type(geometry.header) is nibabel.Nifti1Header
    header = (nibabel.Nifti1Header if single else nibabel.Nifti2Header)()
    header.set_data_shape(labels.shape)
    header.set_data_dtype(np.uint8)
    header.set_intent("label")
    header["pixdim"][:4] = geometry.header["pixdim"][:4]
    for field in _GEOMETRY_FIELDS:
        header[field] = geometry.header[field]
    header["xyzt_units"] = int(geometry.header["xyzt_units"]) & _UNIT_BITS
    image = (nibabel.Nifti1Image if single else nibabel.Nifti2Image)(labels, None, header)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            # Neither name nor time inside: the same labels give the same bytes.
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(file)


def check_nifti_suffix(path: Path) -> None:
    """Refuse a name that is not of a single NIfTI file.

    Raises:
        UsageError: with the suffixes that are.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise UsageError(f"{path}: a segmentation is written to {' or '.join(SUFFIXES)}")


def is_nifti(path: Path) -> bool:
    """Whether it is a file whose name ends like a NIfTI file's."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def niftis(folder: Path) -> list[Path]:
    """The NIfTI files in a folder by name, hidden ones left out; none if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if is_nifti(p) and not p.name.startswith("."))


def nifti_stem(path: Path) -> str:
    """The file's name without ``.nii`` or ``.nii.gz``."""
    name = path.name
    for suffix in reversed(SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[_Stream, int]]:
    """The uncompressed bytes of a file, and the most that there can be."""
    try:
        with path.open("rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not compressed:
                yield raw, size
                return
            with gzip.GzipFile(fileobj=raw) as stream:
                yield stream, size * _DEFLATE_MAX_RATIO
                # The checksum is compared when the end is reached.
                while stream.read(_READ_BYTES):
                    pass
    except EOFError as error:
        raise DataError(f"{path}: the file breaks off (truncated): copy it again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the compressed data are damaged ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_header(stream: _Stream, path: Path, most_bytes: int) -> tuple[Any, Geometry]:
    """The header, judged; the stream stands behind it."""
    nibabel = require("nibabel", "volumes")
    block = stream.read(max(_HEADER_BYTES))
    stated = {int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")}
    size = next((n for n in _HEADER_BYTES if n in stated and len(block) >= n), 0)
    if not size:
        raise DataError(
            f"{path} is no NIfTI file (.nii or .nii.gz); DICOM series are converted by dcm2niix"
        )
    # Not nibabel's own check, which repairs and goes on.
    header = getattr(nibabel, _HEADER_BYTES[size])(block[:size], check=False)
    if bytes(header["magic"])[:2] != b"n+":
        raise DataError(
            f"{path} is no single NIfTI file (a pair of .hdr and .img, or Analyze): convert it"
        )
    shape = _shape(header, path)
    try:
        dtype = header.get_data_dtype()
        header.get_slope_inter()
        offset = header.get_data_offset()
    except (nibabel.spatialimages.HeaderDataError, ValueError, OverflowError, KeyError) as error:
        raise DataError(f"{path}: the header makes no sense: {error}") from error
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise DataError(
            f"{path}: voxels of type {dtype} are no scan: it takes integers, float32 or float64"
        )
    if offset < size or offset + math.prod(shape) * dtype.itemsize > most_bytes:
        raise DataError(
            f"{path}: the header announces {_times(shape)} voxels of {dtype}, more than the file "
            "can hold: it is truncated, or its header is damaged"
        )
    return header, _geometry(header, shape, path)


def _shape(header: Any, path: Path) -> tuple[int, int, int]:
    rank = int(header["dim"][0])
    if not 1 <= rank <= 7:
        raise DataError(f"{path}: the header states {rank} dimensions: it is damaged")
    sizes = [int(n) for n in header["dim"][1 : rank + 1]]
    if min(sizes) < 1:
        raise DataError(f"{path}: the volume is empty ({_times(sizes)} voxels)")
    volumes = math.prod(sizes[3:])
    if volumes > 1:
        raise DataError(
            f"{path} is {rank}-D ({_times(sizes)}) and holds {volumes} volumes; one is segmented "
            "at a time: save one first, for example with nibabel "
            "img.slicer[" + ", ".join([":", ":", ":", *["0"] * (rank - 3)]) + "] for the first"
        )
    if rank < 3:
        raise DataError(
            f"{path} is {rank}-D ({_times(sizes)}): a volume has three dimensions; pictures go "
            "to  edgeseg run"
        )
    if max(sizes) > MAX_SIDE or math.prod(sizes) > MAX_VOXELS:
        raise DataError(
            f"{path}: {_times(sizes[:3])} voxels are more than are taken (at most {MAX_VOXELS} in "
            f"all and {MAX_SIDE} along an axis): crop or resample the scan"
        )
    return sizes[0], sizes[1], sizes[2]


def _geometry(header: Any, shape: tuple[int, int, int], path: Path) -> Geometry:
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1  # the standard: qfac 0 means 1
    codes = int(header["sform_code"]), int(header["qform_code"])
    unit = int(header["xyzt_units"]) & _UNIT_BITS
    if min(codes) < 0 or max(codes) > _LARGEST_XFORM_CODE or unit not in _UNIT_MM:
        raise DataError(
            f"{path}: the header states orientation codes {codes[0]} and {codes[1]} and the unit "
            f"of length {unit}, which NIfTI does not know: it is damaged"
        )
    with np.errstate(all="ignore"):  # what overflows is not finite, and refused
        try:
            affine = np.array(header.get_best_affine(), np.float64)
        except Exception as error:  # nibabel raises several kinds here
            raise DataError(f"{path}: the header's orientation makes no sense: {error}") from error
        affine[:3] *= _UNIT_MM[unit]
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        sound = (
            bool(np.isfinite(affine).all() and np.isfinite(lengths).all())
            and lengths.min() > 0.0
            and abs(np.linalg.det(affine[:3, :3] / lengths)) > _SMALLEST_DETERMINANT
        )
    if not sound:
        raise DataError(
            f"{path}: the affine is not finite or singular: voxel sizes or orientation are missing "
            "from the header; set them (for example with nibabel's Nifti1Image(data, affine))"
        )
    return Geometry(shape, affine, any(codes), header)


def _read_voxels(
    stream: _Stream, header: Any, shape: tuple[int, int, int], path: Path
) -> npt.NDArray[Any]:
    """The voxels as stored: (i, j, k), i fastest."""
    stream.seek(header.get_data_offset())
    flat = np.empty(math.prod(shape), header.get_data_dtype())
    target = flat.view(np.uint8)
    done = 0
    while done < len(target):
        part = stream.read(min(_READ_BYTES, len(target) - done))
        if not part:
            raise DataError(
                f"{path}: the file breaks off (truncated) after {done // flat.itemsize} of "
                f"{flat.size} voxels: copy it again"
            )
        target[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    return flat.reshape(shape, order="F")


def _scaled(stored: npt.NDArray[Any], header: Any, path: Path) -> npt.NDArray[np.float32]:
    slope, inter = header.get_slope_inter()
    plain = slope is None or (slope == 1.0 and inter == 0.0)
    if plain and stored.dtype == np.float32:
        same: npt.NDArray[np.float32] = stored.astype(np.float32, copy=False)
        return same
    voxels = np.empty(stored.shape, np.float32, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported later
        for k in range(stored.shape[2]):
            plane = stored[..., k].astype(np.float64)
            voxels[..., k] = plane if plain else plane * slope + inter
    return voxels


def _range_of_finite(voxels: npt.NDArray[np.float32], path: Path) -> tuple[float, float]:
    """Smallest and largest value, all being finite."""
    low, high = math.inf, -math.inf
    count, first = 0, (0, 0, 0)
    for k in range(voxels.shape[2]):
        plane = voxels[..., k]
        finite = np.isfinite(plane)
        if finite.all():
            low, high = min(low, float(plane.min())), max(high, float(plane.max()))
            continue
        if not count:
            i, j = np.argwhere(~finite)[0]
            first = (int(i), int(j), k)
        count += int(np.count_nonzero(~finite))
    if count:
        raise DataError(
            f"{path}: {count} voxel(s) are not finite, the first at [i, j, k] = {list(first)}: "
            "replace them, for example by the value of air"
        )
    return low, high


def _times(sizes: tuple[int, ...] | list[int]) -> str:
    return "x".join(map(str, sizes))
