"""What a benchmark starts from: a bundle, or a checkpoint that is made into one first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg._files import sha256_file
from edgeseg._progress import Progress
from edgeseg.bench.peers import require_library
from edgeseg.bundle import SUFFIX, Bundle, is_bundle, read_bundle
from edgeseg.errors import CalibrationError, UsageError
from edgeseg.spec import Precision
from edgeseg.workflows._validate import Validation

__all__ = ["Subject", "check_arguments", "open_subject"]

_SHOWN = 5


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    name: str
    """File name of the bundle or checkpoint, without folders."""
    bundle: Bundle
    checkpoint: Path | None
    """Of which the bundle was made, where peers need it."""
    notes: tuple[str, ...]


def check_arguments(
    source: Path,
    *,
    vs: Sequence[str],
    checkpoint: Path | None,
    data: Path | None,
    backend: str,
    device: str,
    precisions: Sequence[Precision],
) -> None:
    """Refuse what cannot be meant, before any work.

    Raises:
        UsageError: and says what to change.
        CalibrationError: something is to be calibrated, and there is no data for it.
        MissingDependencyError: the library of a peer is not installed.
    """
    repeated = [name for name in (*vs, *precisions) if (*vs, *precisions).count(name) > 1]
    if repeated:
        raise UsageError(f"{repeated[0]!r} is named twice: each candidate is measured once")
    if vs and device.upper() not in ("AUTO", "CPU"):
        raise UsageError(f"--vs compares on the CPU, so it cannot be used with --device {device}")
    if vs and backend == "tensorrt":
        raise UsageError("--vs compares on the CPU, so it cannot be used with --backend tensorrt")
    if _names_bundle(source):
        if vs and checkpoint is None:
            raise UsageError(
                f"--vs builds its peers from the checkpoint: pass --checkpoint with the file that "
                f"{source.name} was built from"
            )
        if checkpoint is not None and not vs:
            raise UsageError("--checkpoint only means something for the peers that --vs names")
        if data is not None and "nncf" not in vs:
            raise UsageError(
                f"{source.name} is calibrated: --data only means something for --vs nncf, or when "
                "a checkpoint is measured"
            )
    else:
        if checkpoint is not None:
            raise UsageError("--checkpoint only means something for a bundle")
        if backend == "tensorrt":
            raise UsageError(
                "a checkpoint is not measured with TensorRT: compile it first, with  edgeseg "
                "build CHECKPOINT --backend tensorrt"
            )
        if "int8" in precisions and data is None:
            raise CalibrationError(
                "INT8 needs --data, a folder of pictures or videos to calibrate on"
            )
        if data is not None and precisions and not ("int8" in precisions or "nncf" in vs):
            raise UsageError(
                "--data only means something for INT8 or --vs nncf: add --precision int8"
            )
    if "nncf" in vs and data is None:
        raise CalibrationError(
            "--vs nncf needs --data, a folder of pictures or videos to calibrate on"
        )
    for name in vs:
        require_library(name)


def open_subject(
    source: Path,
    folder: Path,
    *,
    checkpoint: Path | None,
    data: Path | None,
    val: Path | None,
    precisions: Sequence[Precision],
    threads: int | None,
    progress: Progress,
) -> Subject:
    """The bundle to measure.

    Args:
        source: a bundle, or a checkpoint, which is built into ``folder``: with INT8 if there is
            ``data`` and no other precision is asked for, with FP16 if that is among ``precisions``.
        folder: for temporary files.
        checkpoint: that a bundle was made of.
        data: calibration data.
        val: validation data, none of which may have served for calibration.
        precisions: wanted.
        threads: for the build's own measurements.
        progress: called with (stage, done, total).

    Raises:
        CalibrationError: validation pictures were calibrated on.
        EdgesegError: as ``build`` and ``read_bundle`` raise.
    """
    if data is not None and val is not None:
        from edgeseg.calib.frames import check_apart

        check_apart(data, val)
    if _names_bundle(source):
        bundle = read_bundle(source)
        if val is not None:
            _check_unseen(bundle, val)
        return Subject(source.absolute().name, bundle, checkpoint, ())
    from edgeseg.workflows.build import build

    report = build(
        source,
        output=folder / f"{source.stem}{SUFFIX}",
        int8=data is not None and (not precisions or "int8" in precisions),
        fp16=any(name.startswith("fp16") for name in precisions),
        data=data,
        threads=threads,
        progress=progress,
    )
    note = f"{source.name} was built into a bundle for this measurement"
    return Subject(source.name, read_bundle(report.path), source, (note,))


def _names_bundle(source: Path) -> bool:
    """Whether a bundle is meant, be it there or not."""
    return is_bundle(source) or source.is_dir() or source.name.endswith(SUFFIX)


def _check_unseen(bundle: Bundle, val: Path) -> None:
    calibration = bundle.manifest.calibration
    if calibration is None:
        return
    seen = set(calibration.sha256)
    shared = [file.name for file in Validation.open(val).files() if sha256_file(file) in seen]
    if shared:
        raise CalibrationError(
            f"{len(shared)} file(s) of {val} calibrated {bundle.path.name}, among them "
            f"{', '.join(shared[:_SHOWN])}: its accuracy would be judged on frames that its ranges "
            "were fitted to; take them out"
        )
