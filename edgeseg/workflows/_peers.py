"""What the benchmark compares with, made from a checkpoint for each library."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeseg import synthetic
from edgeseg._progress import Progress, silent
from edgeseg.bench.candidate import Candidate
from edgeseg.bench.peers import PEERS, CandidateSpec, PeerKind, open_peer, require_library
from edgeseg.errors import BackendError, CalibrationError, InputError, UsageError
from edgeseg.preprocess import Preprocessor
from edgeseg.spec import PreprocessSpec, ReadoutSpec, TensorSpec
from edgeseg.workflows._selftest import golden_size

if TYPE_CHECKING:
    from edgeseg.calib import CalibrationFrames
    from edgeseg.dataset import DataFolder
    from edgeseg.export import InputSize, LoadedCheckpoint

__all__ = ["FP32_TOLERANCE", "deviation", "open_candidate", "peer_specs"]

FP32_TOLERANCE = 1e-3
"""Share of the logits' range by which a peer in float32 may differ from torch."""

_ONNX = "plain.onnx"
_NNCF = "nncf"
_WARM = (
    "torch-compile: its load time is that with the compiler's cache on disk filled; the first time "
    "takes longer"
)
_TORCH = ("torch", "torch-compile")

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]


def open_candidate(spec: CandidateSpec) -> Candidate:
    """Open any peer; torch's modules come from the checkpoint, which is read safely.

    Raises:
        MissingDependencyError: its library is not installed.
        BackendError: the library cannot load the file, or could not make it.
        CheckpointError: the checkpoint cannot be read.
    """

    def load(path: Path) -> Any:
        from edgeseg import export

        return export.load(path).model

    return open_peer(spec, load_module=load)


def peer_specs(
    checkpoint: str | Path,
    names: Sequence[str],
    *,
    folder: Path,
    preprocess: PreprocessSpec,
    readout: ReadoutSpec | None = None,
    sha256: str | None = None,
    data: Path | str | DataFolder | None = None,
    calibration_frames: int | None = None,
    validation: Path | str | DataFolder | None = None,
    threads: int | None = None,
    fusion: bool = False,
    progress: Progress = silent,
) -> list[CandidateSpec]:
    """Make what each peer opens, and compare its answers with torch's.

    What a library refuses or computes differently is said in the result (``unavailable``,
    ``notes``), so that the others can still be measured.

    Args:
        checkpoint: the one that edgeseg's bundle was built from.
        names: of ``edgeseg.bench.peers.PEERS``.
        folder: existing; the ONNX file and NNCF's files are written there.
        preprocess: of the bundle: input size and views.
        readout: of the bundle; needed for ``fusion``.
        sha256: that the checkpoint must have; None to take any.
        data: calibration pictures for NNCF, chosen as for edgeseg's INT8.
        calibration_frames: at most that many; None for the default of a build, or the 300 that
            NNCF looks at if those are fewer.
        validation: whose files must not be among the calibration files.
        threads: CPU threads of each peer; None: all that this process may use.
        fusion: models with many views: peers also read them out, with OpenCV and numpy.
        progress: called with (stage, done, total).

    Returns:
        One for each of ``names``, in their order; `open_candidate` opens them.

    Raises:
        UsageError: an unknown or repeated name, another checkpoint than the bundle's, or a size or
            views that it cannot take; fusion of a model with one view.
        MissingDependencyError: a library is not installed; names the line that installs it.
        CheckpointError: the checkpoint cannot be read.
        CalibrationError: NNCF is asked for without ``data``, or these cannot be used.
        ExportError: the plain export failed.
    """
    kinds = _kinds(names)
    if "nncf" in kinds and data is None:
        raise CalibrationError(
            "nncf needs calibration images: pass --data with a folder of pictures or videos like "
            "those the model will see"
        )
    if fusion and (readout is None or not preprocess.views):
        raise UsageError("fusion by OpenCV needs a model with several views, and its read-out")
    for kind in kinds:
        require_library(kind)
    if not kinds:
        return []
    from edgeseg import export

    progress("load checkpoint", 0, 1)
    loaded = _with_views(export.load(Path(checkpoint)), preprocess)
    if sha256 is not None and loaded.sha256 != sha256:
        raise UsageError(
            f"{checkpoint} is not the checkpoint that the bundle was built from (its SHA-256 "
            "differs): name that one, or build the bundle again"
        )
    frames = None
    if "nncf" in kinds and data is not None:
        frames = _frames(data, preprocess, calibration_frames, validation)
    size = export.InputSize(preprocess.height_px, preprocess.width_px)
    loaded.family.check_size(loaded.config, size)
    progress("load checkpoint", 1, 1)
    torch_spec = CandidateSpec(
        kind="torch",
        files=(str(loaded.path.absolute()),),
        threads=threads or len(os.sched_getaffinity(0)),
        inputs=loaded.family.inputs(loaded.config, size),
        outputs=loaded.family.outputs(loaded.config, size),
        fusion="opencv" if fusion else None,
        preprocess=preprocess,
        readout=readout,
    )
    specs = []
    onnx_files: tuple[str, ...] = ()
    if any(kind not in _TORCH for kind in kinds):
        onnx_files = _export(loaded, folder.absolute() / _ONNX, size, progress)
    for kind in kinds:
        spec = dataclasses.replace(torch_spec, kind=kind)
        if kind not in _TORCH:
            spec = dataclasses.replace(spec, files=onnx_files)
        if kind == "nncf" and frames is not None:
            spec = _quantized(spec, frames, folder.absolute(), progress)
        specs.append(spec)
    return _checked(torch_spec, specs, loaded, preprocess, progress)


def deviation(candidate: Candidate, cases: Sequence[Tensors], expected: Sequence[Tensors]) -> float:
    """Largest difference of a candidate's logits, as a share of the range of the expected ones.

    Of several outputs the worst counts; NaN where an answer is not a number.

    Args:
        candidate: opened.
        cases: inputs by name, a mapping for each frame.
        expected: the answers to them, float32 by name; not constant.

    Raises:
        InputError: the expected answers are constant, so that nothing can be compared.
        BackendError: the candidate failed, or its answers have other names or shapes.
    """
    found = [candidate.infer(case) for case in cases]
    shares = []
    for name in expected[0]:
        want = np.stack([answer[name] for answer in expected]).astype(np.float64)
        for answer in found:
            if name not in answer or answer[name].shape != want.shape[1:]:
                shapes = {key: value.shape for key, value in answer.items()}
                raise BackendError(
                    f"{candidate.name} gave {shapes}, expected {name!r} of shape {want.shape[1:]}"
                )
        got = np.stack([answer[name] for answer in found]).astype(np.float64)
        span = float(want.max() - want.min())
        if not span > 0.0:
            raise InputError(f"the model's {name} are the same everywhere: nothing to compare")
        shares.append(float(np.abs(got - want).max()) / span)
    return float(np.max(shares))


class _Inputs:
    """Calibration frames as NNCF wants them: the inputs by name."""

    def __init__(self, frames: CalibrationFrames, names: Sequence[str]) -> None:
        self._frames = frames
        self._names = tuple(names)

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Tensors]:
        for tensors in self._frames:
            yield dict(zip(self._names, tensors, strict=True))


def _kinds(names: Sequence[str]) -> tuple[PeerKind, ...]:
    kinds = tuple(kind for name in names for kind in PEERS if kind == name)
    if len(kinds) != len(names):
        unknown = [name for name in names if name not in PEERS]
        raise UsageError(
            f"unknown peer {', '.join(map(repr, unknown))}: choose among {', '.join(PEERS)}"
        )
    if len(set(kinds)) != len(kinds):
        raise UsageError(f"a peer is named twice: {', '.join(kinds)}")
    return kinds


def _with_views(loaded: LoadedCheckpoint, preprocess: PreprocessSpec) -> LoadedCheckpoint:
    """The checkpoint with the views of the bundle, which may not be those it was saved with."""
    views = preprocess.views
    if not views:
        return loaded
    config = loaded.family.with_views(
        loaded.config,
        [(view.height_px, view.width_px) for view in views],
        [flip for flip in views[0].flips if flip != "none"],
    )
    return dataclasses.replace(loaded, config=config)


def _export(
    loaded: LoadedCheckpoint, path: Path, size: InputSize, progress: Progress
) -> tuple[str, ...]:
    """Write the plain ONNX file, with its weights beside it where it is large."""
    from edgeseg import export

    graph = export.export_onnx(
        loaded,
        path,
        height_px=size.height_px,
        width_px=size.width_px,
        rewrite=False,
        progress=lambda done, total: progress("export plain ONNX", done, total),
    )
    return tuple(str(file) for file in (graph.path, graph.data_path) if file is not None)


def _frames(
    data: Path | str | DataFolder,
    preprocess: PreprocessSpec,
    limit: int | None,
    validation: Path | str | DataFolder | None,
) -> CalibrationFrames:
    """At most as many as NNCF looks at, which would take the first of more."""
    from edgeseg import calib
    from edgeseg.bench.peers.nncf import MAX_FRAMES
    from edgeseg.calib.frames import default_limit

    limit = min(default_limit(preprocess) if limit is None else limit, MAX_FRAMES)
    return calib.CalibrationFrames.open(data, preprocess, limit=limit, validation=validation)


def _quantized(
    spec: CandidateSpec,
    frames: CalibrationFrames,
    folder: Path,
    progress: Progress,
) -> CandidateSpec:
    """The plain export's spec with NNCF's files, or with what NNCF has against the model."""
    from edgeseg.bench.peers.nncf import quantize_with_nncf

    used = len(frames)
    progress("quantise with NNCF", 0, 0)
    try:
        files = quantize_with_nncf(
            spec.file,
            folder / _NNCF,
            _Inputs(frames, [tensor.name for tensor in spec.inputs]),
            # How often it goes over the frames is its own affair: no total.
            on_pass=lambda done: progress("quantise with NNCF", done, 0),
        )
    except BackendError as error:
        return dataclasses.replace(spec, frames=used, unavailable=str(error))
    progress("quantise with NNCF", 1, 1)
    return dataclasses.replace(spec, frames=used, files=tuple(map(str, files)))


def _checked(
    torch_spec: CandidateSpec,
    specs: Sequence[CandidateSpec],
    loaded: LoadedCheckpoint,
    preprocess: PreprocessSpec,
    progress: Progress,
) -> list[CandidateSpec]:
    """The specs with what there is to say of their answers to noise and a generated frame."""
    cases = _cases(torch_spec.inputs, preprocess)
    with open_peer(torch_spec, load_module=lambda _: loaded.model) as reference:
        expected = [reference.infer(case) for case in cases]
    checked = []
    for done, spec in enumerate(specs):
        progress("compare peers with torch", done, len(specs))
        found = spec
        if spec.kind != "torch" and spec.unavailable is None:
            found = _compared(spec, loaded, cases, expected)
        checked.append(found)
    progress("compare peers with torch", len(specs), len(specs))
    return checked


def _compared(
    spec: CandidateSpec,
    loaded: LoadedCheckpoint,
    cases: Sequence[Tensors],
    expected: Sequence[Tensors],
) -> CandidateSpec:
    try:
        with open_peer(spec, load_module=lambda _: loaded.model) as candidate:
            share = deviation(candidate, cases, expected)
            precision = candidate.precision
    except BackendError as error:
        return dataclasses.replace(spec, unavailable=str(error))
    if spec.kind == "torch-compile":
        spec = dataclasses.replace(spec, notes=(*spec.notes, _WARM))
    if precision == "float32" and share <= FP32_TOLERANCE:
        return spec
    note = (
        f"{spec.kind} ({precision}): its logits differ from torch's by up to {share:.2g} of their "
        "range"
    )
    if precision == "float32":
        note += f", more than the {FP32_TOLERANCE:g} that float32 explains"
    return dataclasses.replace(spec, notes=(*spec.notes, note))


def _cases(inputs: Sequence[TensorSpec], preprocess: PreprocessSpec) -> list[dict[str, Array]]:
    """Standard normal noise, and a generated frame."""
    generator = np.random.default_rng(0)
    noise = {spec.name: generator.standard_normal(spec.shape, dtype=np.float32) for spec in inputs}
    frame = synthetic.golden_frames(1, *golden_size(preprocess.roi))[0]
    tensors = Preprocessor(preprocess).tensors(frame)
    return [noise, {s.name: tensor for s, tensor in zip(inputs, tensors, strict=True)}]
