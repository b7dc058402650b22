"""Calibration frames: which ones, from which files, through the one definition of preprocessing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeseg._files import sha256_file
from edgeseg.calib.scans import find_scans, slice_count, slice_frames
from edgeseg.dataset import DataFolder, read_image
from edgeseg.errors import CalibrationError, DataError, UsageError
from edgeseg.preprocess import Preprocessor
from edgeseg.spec import CalibrationRecord, Decision, PreprocessSpec
from edgeseg.video import open_source

__all__ = [
    "DEFAULT_FRAMES",
    "FEW_FRAMES",
    "MAX_ARRAY_BYTES",
    "CalibrationFrames",
    "check_apart",
    "default_limit",
]

DEFAULT_FRAMES = 512
"""Of a model that reads a frame once."""
FEW_FRAMES = 32
"""Below this, ranges depend on the luck of the draw, and the build says so."""
MAX_ARRAY_BYTES = 2 << 30
"""Of all that ``save_arrays`` writes: 2 GiB, 2730 frames of 256 x 256."""

_SHOWN = 5

_log = logging.getLogger(__name__)


def default_limit(spec: PreprocessSpec) -> int:
    """How many frames calibrate a model unless told otherwise: so many that it runs 512 images.

    Every mirrored copy of every view is an image; but never less than twice ``FEW_FRAMES``.
    """
    copies = sum(len(view.flips) for view in spec.views) or 1
    return max(DEFAULT_FRAMES // copies, 2 * FEW_FRAMES)


Kind = Literal["picture", "video", "scan"]


@dataclass(frozen=True)
class _Pick:
    """A file, and the frames of it that are used (a picture is frame 0, a slice its number)."""

    path: Path
    indices: tuple[int, ...]
    kind: Kind


class CalibrationFrames:
    """Frames sampled evenly over pictures and videos, or over the slices of scans.

    Iterate over it as often as needed.

    Each iteration decodes and preprocesses anew, one frame at a time, so memory does not grow with
    the number of frames.
    """

    def __init__(
        self, picks: tuple[_Pick, ...], spec: PreprocessSpec, sha256: tuple[str, ...], threads: int
    ) -> None:
        self._picks = picks
        self._preprocess = Preprocessor(spec, threads)
        self.spec = spec
        self.sources = tuple(pick.path.name for pick in picks)
        """Names of the files that frames are taken from, without folders."""
        self.sha256 = sha256
        """Hash of the content of each of them, in the same order."""

    @classmethod
    def open(
        cls,
        data: Path | str | DataFolder,
        spec: PreprocessSpec,
        *,
        limit: int | None = None,
        validation: Path | str | DataFolder | None = None,
        threads: int = 1,
    ) -> CalibrationFrames:
        """Choose frames; masks are not looked at, and no picture is decoded yet.

        Args:
            data: a folder of pictures and videos, or one of either; or a NIfTI scan, or a folder
                of them (without pictures: a model is of one kind).
            spec: the model's preprocessing.
            limit: at most that many frames, evenly spaced over all there are; None for
                ``default_limit``.
            validation: the set that the result will be judged on; none of its files may be among
                the calibration files (their content is compared, not their names).
            threads: for preprocessing.

        Raises:
            UsageError: ``limit`` is not positive.
            CalibrationError: nothing to calibrate on, a video that cannot be read, or an overlap,
                naming the files.
        """
        if limit is None:
            limit = default_limit(spec)
        if limit < 1:
            raise UsageError(f"the number of calibration frames must be positive, got {limit}")
        scans = () if isinstance(data, DataFolder) else find_scans(Path(data))
        if scans:
            # Scores are taken on pictures, so there can be no overlap.
            picks = _pick([(scan, slice_count(scan, spec), "scan") for scan in scans], limit)
        else:
            folder = _open(data, "calibration data")
            if validation is not None:
                _refuse_overlap(folder, _open(validation, "validation data"))
            picks = _pick(_frames_of(folder), limit)
        hashes = tuple(sha256_file(pick.path) for pick in picks)
        frames = cls(picks, spec, hashes, threads)
        for decision in frames.warnings:
            _log.warning("%s: %s", decision.what, decision.why)
        return frames

    def __len__(self) -> int:
        return sum(len(pick.indices) for pick in self._picks)

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.float32], ...]]:
        """Yield the network's inputs for each frame, as ``Preprocessor.tensors`` makes them.

        Raises:
            CalibrationError: a picture or video cannot be read, naming it.
        """
        try:
            for pick in self._picks:
                if pick.kind == "picture":
                    yield self._preprocess.tensors(read_image(pick.path))
                    continue
                frames = (
                    _video_frames(pick)
                    if pick.kind == "video"
                    else slice_frames(pick.path, self.spec, pick.indices)
                )
                yield from map(self._preprocess.tensors, frames)
        except DataError as error:
            raise CalibrationError(f"a calibration file cannot be used: {error}") from error

    @property
    def warnings(self) -> tuple[Decision, ...]:
        """What a reader of the bundle should know about the choice of frames."""
        if len(self) >= FEW_FRAMES:
            return ()
        return (
            Decision(
                f"calibrated on {len(self)} frame(s)",
                f"no more were given; at least {FEW_FRAMES}, and better some hundred, cover what a "
                "camera sees",
            ),
        )

    def record(self, quantizer: Literal["edgeseg", "modelopt"], method: str) -> CalibrationRecord:
        """What the manifest says about the calibration."""
        return CalibrationRecord(quantizer, method, self.sources, self.sha256, len(self))

    def save_arrays(
        self, paths: Sequence[Path], on_frame: Callable[[int], None] | None = None
    ) -> None:
        """Write all frames to ``.npy`` files, one for each input, one frame at a time.

        Each holds float32 (frames, 3, height_px, width_px), or with views
        (frames * len(flips), 3, height, width), the copies of a frame in a row.

        Args:
            paths: the files, in the order of the network's inputs.
            on_frame: called with the number of frames done, after each.

        Raises:
            CalibrationError: together they would be larger than ``MAX_ARRAY_BYTES``, or a file is
                unreadable.
        """
        spec = self.spec
        shapes = [(len(v.flips), 3, v.height_px, v.width_px) for v in spec.views]
        shapes = shapes or [(1, 3, spec.height_px, spec.width_px)]
        frame_bytes = 4 * sum(math.prod(shape) for shape in shapes)
        if len(self) * frame_bytes > MAX_ARRAY_BYTES:
            raise CalibrationError(
                f"{len(self)} frames make arrays of {len(self) * frame_bytes >> 20} MiB: use at "
                f"most {MAX_ARRAY_BYTES // frame_bytes} calibration frames"
            )
        arrays = [
            np.lib.format.open_memmap(
                path, mode="w+", dtype=np.float32, shape=(len(self) * shape[0], *shape[1:])
            )
            for path, shape in zip(paths, shapes, strict=True)
        ]
        for i, tensors in enumerate(self):
            for array, tensor in zip(arrays, tensors, strict=True):
                array[i * len(tensor) : (i + 1) * len(tensor)] = tensor
            if on_frame is not None:
                on_frame(i + 1)
        for array in arrays:
            array.flush()


def _open(data: Path | str | DataFolder, what: str) -> DataFolder:
    if isinstance(data, DataFolder):
        return data
    try:
        return DataFolder.open(data, masks="ignored")
    except DataError as error:
        raise CalibrationError(f"no {what}: {error}") from error


def check_apart(data: Path | str, validation: Path | str) -> None:
    """Refuse, before any work, calibration data of which a file is also in the validation set.

    Args:
        data: as for ``CalibrationFrames.open``.
        validation: as there.

    Raises:
        CalibrationError: an overlap, naming the files, or one of them holds no pictures.
    """
    if not find_scans(Path(data)):
        _refuse_overlap(_open(data, "calibration data"), _open(validation, "validation data"))


def _refuse_overlap(data: DataFolder, validation: DataFolder) -> None:
    """Compare content; only files of equal size are hashed."""
    theirs: dict[int, list[Path]] = {}
    for path in _files(validation):
        theirs.setdefault(path.stat().st_size, []).append(path)
    hashes: dict[Path, str] = {}

    def digest(path: Path) -> str:
        if path not in hashes:
            hashes[path] = sha256_file(path)
        return hashes[path]

    shared = [
        (mine, other)
        for mine in _files(data)
        for other in theirs.get(mine.stat().st_size, ())
        if digest(mine) == digest(other)
    ]
    if shared:
        shown = ", ".join(f"{mine} = {other}" for mine, other in shared[:_SHOWN])
        rest = len(shared) - _SHOWN
        raise CalibrationError(
            f"{len(shared)} calibration file(s) are also in the validation set: {shown}"
            + (f" and {rest} more" if rest > 0 else "")
            + ": accuracy would be judged on frames that the ranges were fitted to; "
            "take them out of one of the two"
        )


def _files(folder: DataFolder) -> list[Path]:
    return [*(case.image for case in folder.cases), *folder.videos]


def _frames_of(folder: DataFolder) -> list[tuple[Path, int, Kind]]:
    """Each file of the folder with how many frames it has."""
    counts: list[tuple[Path, int, Kind]] = [(case.image, 1, "picture") for case in folder.cases]
    counts += [(video, _frame_count(video), "video") for video in folder.videos]
    if not any(count for _, count, _ in counts):
        raise CalibrationError(f"{folder.root} holds no calibration frames")
    return counts


def _pick(counts: Sequence[tuple[Path, int, Kind]], limit: int) -> tuple[_Pick, ...]:
    total = sum(count for _, count, _ in counts)
    chosen = np.arange(total)
    if total > limit:
        chosen = ((np.arange(limit) + 0.5) * total / limit).astype(np.int64)
    picks = []
    start = 0
    for path, count, kind in counts:
        inside = chosen[(chosen >= start) & (chosen < start + count)] - start
        if inside.size:
            picks.append(_Pick(path, tuple(int(i) for i in inside), kind))
        start += count
    return tuple(picks)


def _frame_count(video: Path) -> int:
    """Frames that can be decoded. The container's number is an estimate, so they are counted."""
    try:
        with open_source(video) as source:
            return sum(1 for _ in source)
    except DataError as error:
        raise CalibrationError(f"a calibration video cannot be used: {error}") from error


def _video_frames(pick: _Pick) -> Iterator[npt.NDArray[np.uint8]]:
    wanted = set(pick.indices)
    last = pick.indices[-1]
    with open_source(pick.path) as source:
        for frame in source:
            if frame.index in wanted:
                yield frame.image
            if frame.index == last:
                return
