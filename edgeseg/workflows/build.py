"""``build``: a checkpoint (or a bundle) becomes a bundle of engines, checked and measured."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeseg import __version__, synthetic
from edgeseg._files import check_output
from edgeseg._machine import machine_name
from edgeseg._progress import Progress, silent
from edgeseg.backends import (
    BackendChoice,
    EngineOptions,
    available_backends,
    choose_backend,
    resolve_device,
)
from edgeseg.bundle import (
    LICENCE_NOTICE,
    REPORT_FILE,
    SUFFIX,
    Bundle,
    is_bundle,
    new_bundle,
    read_bundle,
    seal,
    write_golden,
)
from edgeseg.errors import CalibrationError, OutputError, UsageError
from edgeseg.model import Model
from edgeseg.plans import this_machine
from edgeseg.report import render_report
from edgeseg.settings import Settings
from edgeseg.spec import (
    BACKENDS,
    SCHEMA_VERSION,
    Decision,
    LatencyRecord,
    Manifest,
    Precision,
    Provenance,
    RoiSpec,
    ScoreRecord,
)
from edgeseg.workflows._bfloat16 import with_bfloat16
from edgeseg.workflows._selftest import (
    GOLDEN_COUNT,
    golden_answers,
    golden_size,
    with_limits,
)
from edgeseg.workflows._source import BundleSource, CheckpointSource, Source
from edgeseg.workflows._validate import Validation, measure_latencies, score_models
from edgeseg.workflows._variants import Made, fp16_variants, fp32_variant, int8_variants
from edgeseg.workflows.evaluate import score_cases, worst_case_pictures

if TYPE_CHECKING:
    from edgeseg.backends._tensorrt import CompileOptions
    from edgeseg.workflows.compile import CompileReport

__all__ = ["BuildReport", "build"]

_AS_TRAINED = Settings()
LATENCY_FRAME_HW_PX = (720, 1280)

WORST_CASES = 8
DICE_DROP_LIMIT = 0.005
"""Loss against FP32 above which the closing table warns."""

_TOOLS = (
    "torch",
    "timm",
    "onnx",
    "onnxscript",
    "nvidia-modelopt",
    "openvino",
    "onnxruntime",
    "numpy",
)


@dataclass(frozen=True)
class BuildReport:
    """Where the bundle lies, and all that was measured."""

    path: Path
    manifest: Manifest
    sizes_bytes: dict[str, int]
    """Size of each variant's file by the variant's name."""
    built: bool = True
    """Whether the bundle was written; False where one was compiled as it lay."""
    plans: CompileReport | None = None
    """Of TensorRT, where that was the backend."""

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows of the closing table: one row for each variant and backend."""
        columns = ("variant", "backend", "MB", "Dice", "IoU", "Dice to FP32", "ms", "times FP32")
        rows: list[tuple[str, ...]] = [
            (
                variant.name,
                backend,
                f"{self.sizes_bytes[variant.name] / 1e6:.1f}",
                *self._scores(variant.name, backend),
                *self._latency(variant.name, backend),
            )
            for variant in self.manifest.variants
            for backend in variant.backends
        ]
        return columns, rows

    def _scores(self, variant: str, backend: str) -> tuple[str, str, str]:
        records = {
            s.against: s
            for s in self.manifest.scores
            if (s.variant, s.backend) == (variant, backend)
        }
        labels, fp32 = records.get("labels"), records.get("fp32")
        return (
            f"{labels.dice:.4f}" if labels else "-",
            f"{labels.iou:.4f}" if labels else "-",
            f"{fp32.dice:.4f}" if fp32 else "-",
        )

    def _latency(self, variant: str, backend: str) -> tuple[str, str]:
        times = {(r.variant, r.backend): r.median_ms for r in self.manifest.latencies}
        own = times.get((variant, backend))
        base = next((r.median_ms for r in self.manifest.latencies if r.variant == "fp32"), None)
        if own is None or base is None:
            return "-", "-"
        return f"{own:.1f}", f"{base / own:.2f}"

    def remarks(self) -> list[str]:
        """Decisions of the build, and what the user should know of the figures."""
        names = ", ".join(rewrite.name for rewrite in self.manifest.rewrites)
        lines = [f"exact rewrites: {names or 'none'}"]
        lines += [f"{d.what}: {d.why}" for d in self.manifest.decisions]
        measured = {(r.variant, r.backend) for r in self.manifest.latencies}
        for backend in BACKENDS:
            idle = [
                v.name
                for v in self.manifest.variants
                if backend in v.backends and (v.name, backend) not in measured
            ]
            if idle:
                lines.append(f"{backend}: not measured on this machine: {', '.join(idle)}")
        if not self.manifest.scores:
            lines.append("accuracy: not measured: pass --val with held-out images")
        parity = self.manifest.parity
        lines.append(
            f"parity of the FP32 graph with torch: {parity.relative:.1e} of the logits' range "
            f"({parity.runtime})"
        )
        return lines


def build(
    checkpoint: str | Path,
    *,
    output: str | Path | None = None,
    int8: bool = False,
    fp16: bool = False,
    data: str | Path | None = None,
    val: str | Path | None = None,
    imgsz: tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    roi: RoiSpec | None = None,
    settings: Settings = _AS_TRAINED,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    method: str | None = None,
    quantizer: Literal["edgeseg", "modelopt"] = "edgeseg",
    rewrite: bool = True,
    calibration_frames: int | None = None,
    exclude: Sequence[str] = (),
    with_pictures: bool = False,
    force: bool = False,
    precision: Precision | None = None,
    plan_options: CompileOptions | None = None,
    rebuild: bool = False,
    progress: Progress = silent,
) -> BuildReport:
    """Build a bundle, and with ``backend="tensorrt"`` compile it for this machine's GPU.

    A bundle that is given with nothing else than what TensorRT needs is compiled as it is, and not
    written to (``edgeseg.workflows.compile``).

    Args:
        checkpoint: a checkpoint of a known family, or a bundle, whose FP32 graph is taken.
        output: the folder to write; None for the checkpoint's name with ``.edgeseg``, here.
        int8: write INT8 variants for OpenVINO, ONNX Runtime and TensorRT. Needs ``data``.
        fp16: write FP16 variants.
        data: calibration images, videos or scans, without masks.
        val: held-out images; with masks the variants are scored against them, without against FP32.
        imgsz: (height, width) of the network's input in pixels; None for the family's.
        classes: names; one for a one-class model, else one a channel, or all but the background.
        roi: region of interest of the source frames.
        settings: views and read-out to build in, instead of what the checkpoint says.
        backend: with which to score and time: a name, or ``auto``. ``tensorrt`` compiles plans;
            scores and times of the bundle then come from what ``auto`` chooses on the CPU.
        device: on which.
        threads: CPU threads when timing; None: all.
        method: ``max``, ``entropy``, ``percentile`` or ``mse``; None for the quantiser's default.
        quantizer: ``edgeseg`` or ``modelopt``.
        rewrite: change the graph's algebra exactly (``edgeseg.export.rewrite``); a bundle that is
            built from a bundle has the graph of that one.
        calibration_frames: at most so many, evenly sampled; None for the default, which is fewer
            for models of many views.
        exclude: regular expressions; a Linear or Conv whose whole name matches is not quantised.
        with_pictures: put the worst validation cases into the report.
        force: replace an existing output.
        precision: of the only plan to compile; None: the fastest that computes rightly.
        plan_options: for TensorRT's compiler.
        rebuild: compile plans again that were compiled, or rejected, before.
        progress: called with (stage, done, total).

    Raises:
        UsageError: arguments that contradict each other.
        CheckpointError: and its subclasses: the checkpoint cannot be used.
        CalibrationError: no data, too little, or frames that are also in ``val``.
        ExportError: the graph does not equal the torch formulation.
        OutputError: the output exists (without ``force``) or cannot be written.
        BackendError: and its subclasses: the backend is not there, or no plan passes.
    """
    checkpoint = Path(checkpoint)
    _check_arguments(
        int8=int8,
        data=data,
        val=val,
        only_int8={
            "--method": method is not None,
            "--quantizer": quantizer != "edgeseg",
            "--calibration-frames": calibration_frames is not None,
            "--exclude": bool(exclude),
        },
        with_pictures=with_pictures,
    )
    tensorrt = backend == "tensorrt"
    _check_plan_arguments(
        tensorrt=tensorrt,
        only_plans={
            "--precision": precision is not None,
            "the compiler's options": plan_options is not None,
            "--rebuild": rebuild,
        },
    )
    compiler = partial(
        _compile,
        device=device,
        precision=precision,
        options=plan_options,
        rebuild=rebuild,
        progress=progress,
    )
    if tensorrt:
        # Before minutes are spent on the bundle: is there a GPU to compile for at all?
        this_machine(resolve_device(backend, device))
        untouched = (
            settings == _AS_TRAINED
            and rewrite
            and not any((output, val, imgsz, classes, roi, int8, fp16))
        )
        if untouched and is_bundle(checkpoint):
            if force or threads is not None:
                raise UsageError(
                    f"{checkpoint.name} is compiled as it is, so --force and --threads have no "
                    "meaning: to compile its plans again pass --rebuild"
                )
            return compiler(read_bundle(checkpoint), built=False)
        backend = device = "auto"
    path = Path(output) if output is not None else Path(f"{checkpoint.stem}{SUFFIX}")
    check_output(path, force=force)
    if path.exists() and not is_bundle(path):
        raise OutputError(f"{path} exists and is no bundle: --force replaces bundles only")
    validation = Validation.open(Path(val)) if val is not None else None
    if with_pictures and validation is not None and not validation.labelled:
        raise UsageError("--with-pictures needs masks in --val: without them no case is the worst")
    choice = choose_backend(backend, device, ("openvino", "onnxruntime"), "the FP32 graph")
    if is_bundle(checkpoint) and not rewrite:
        raise UsageError(
            f"{checkpoint.name} holds a graph that is exported already: for one without rewrites "
            "build from the checkpoint"
        )
    source: Source = (
        BundleSource(checkpoint, imgsz, settings)
        if is_bundle(checkpoint)
        else CheckpointSource(checkpoint, imgsz, settings, progress, rewrite=rewrite)
    )
    names = _class_names(classes, source)
    preprocess = dataclasses.replace(source.preprocess, roi=roi) if roi else source.preprocess
    calibration = None
    if int8 and data is not None:
        from edgeseg import calib

        calibration = calib.CalibrationFrames.open(
            data,
            preprocess,
            limit=calibration_frames,
            validation=val,
        )
    golden_input = synthetic.golden_frames(GOLDEN_COUNT, *golden_size(roi))
    with new_bundle(path, force=force) as folder:
        parity = source.write_fp32(folder, golden_input, progress)
        made = [Made((fp32_variant(source),), ())]
        if calibration is not None:
            made.append(
                int8_variants(
                    folder,
                    source,
                    calibration,
                    method=method,
                    quantizer=quantizer,
                    exclude=exclude,
                    threads=threads,
                    progress=progress,
                )
            )
        if fp16:
            made.append(fp16_variants(folder, source, progress))
        variants = tuple(variant for part in made for variant in part.variants)
        decisions = tuple(decision for part in made for decision in part.decisions)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            edgeseg_version=__version__,
            name=path.name.removesuffix(SUFFIX),
            family=source.family,
            hyperparameters=source.hyperparameters,
            classes=names,
            precision=_built_precision(int8=int8, fp16=fp16),
            preprocess=preprocess,
            readout=source.readout,
            variants=variants,
            files={},
            provenance=_provenance(source),
            licence_notice=LICENCE_NOTICE,
            parity=parity,
            calibration=next((part.calibration for part in made if part.calibration), None),
            decisions=(Decision("backend for the measurements", choice.why), *decisions),
            rewrites=source.rewrites,
        )
        golden = golden_answers(folder, golden_input, preprocess, choice, source)
        write_golden(folder, golden)
        manifest = with_bfloat16(folder, manifest, golden, progress)
        manifest = with_limits(folder, manifest, golden, progress)
        # Sealed once so that the measurements go through the very code that will load it.
        seal(folder, manifest)
        provisional = read_bundle(folder)
        scores, latencies = _measure(
            provisional, choice, EngineOptions(choice.device, threads), validation, progress
        )
        manifest = dataclasses.replace(
            manifest,
            scores=scores,
            latencies=latencies,
            decisions=(*manifest.decisions, *_warnings(scores)),
        )
        pictures = (
            _pictures(provisional, choice, validation) if with_pictures and validation else ()
        )
        (folder / REPORT_FILE).write_text(
            render_report(manifest, pictures, folder=folder), encoding="utf-8"
        )
        seal(folder, manifest)
    finished = read_bundle(path)
    return compiler(finished, built=True) if tensorrt else _report(finished)


def _report(bundle: Bundle) -> BuildReport:
    sizes = {v.name: _size_bytes(bundle.path, v.file) for v in bundle.manifest.variants}
    return BuildReport(bundle.path, bundle.manifest, sizes)


def _compile(
    bundle: Bundle,
    *,
    built: bool,
    device: str,
    precision: Precision | None,
    options: CompileOptions | None,
    rebuild: bool,
    progress: Progress,
) -> BuildReport:
    """The report of a bundle with its plans."""
    from edgeseg.workflows.compile import compile_plans

    plans = compile_plans(
        bundle,
        device=device,
        precision=precision,
        options=options,
        rebuild=rebuild,
        progress=progress,
    )
    return dataclasses.replace(_report(bundle), built=built, plans=plans)


def _check_plan_arguments(*, tensorrt: bool, only_plans: dict[str, bool]) -> None:
    for name, given in only_plans.items():
        if given and not tensorrt:
            raise UsageError(f"{name} only means something for plans: add --backend tensorrt")


def _check_arguments(
    *,
    int8: bool,
    data: object,
    val: object,
    only_int8: dict[str, bool],
    with_pictures: bool,
) -> None:
    if int8 and data is None:
        raise CalibrationError(
            "INT8 needs calibration images: pass --data with a folder of pictures or videos like "
            "those the model will see (edgeseg never calibrates on random data)"
        )
    if not int8:
        for name, given in {"--data": data is not None, **only_int8}.items():
            if given:
                raise UsageError(f"{name} only means something for INT8: add --int8")
    if with_pictures and val is None:
        raise UsageError("--with-pictures draws validation cases: pass --val")


def _class_names(classes: Sequence[str] | None, source: Source) -> tuple[str, ...]:
    if classes is None:
        return source.classes
    names = tuple(classes)
    if source.channels > 1 and len(names) == source.channels - 1:
        names = ("background", *names)
    if len(names) != source.channels:
        wanted = (
            "one name"
            if source.channels == 1
            else f"{source.channels} names, or {source.channels - 1} without the background"
        )
        raise UsageError(f"the model has {source.channels} channel(s): give {wanted}")
    if len(set(names)) != len(names):
        raise UsageError(f"class names repeat: {', '.join(names)}")
    return names


def _built_precision(*, int8: bool, fp16: bool) -> Precision:
    if int8:
        return "int8"
    return "fp16" if fp16 else "fp32"


def _provenance(source: Source) -> Provenance:
    tools = {"python": platform.python_version()}
    for name in _TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            tools[name] = importlib.metadata.version(name)
    now = datetime.datetime.now(datetime.timezone.utc)
    return Provenance(
        checkpoint=source.checkpoint,
        checkpoint_sha256=source.checkpoint_sha256,
        created_utc=now.isoformat(timespec="seconds"),
        tools=tools,
        machine=machine_name(),
    )


def _measure(
    bundle: Bundle,
    choice: BackendChoice,
    options: EngineOptions,
    validation: Validation | None,
    progress: Progress,
) -> tuple[tuple[ScoreRecord, ...], tuple[LatencyRecord, ...]]:
    """Accuracy and latency of all engines that run here, FP32 on the chosen backend first."""
    others = [b for b in available_backends() if b != choice.name and options.device == "CPU"]
    with contextlib.ExitStack() as stack:
        models = []
        for backend in (choice.name, *others):
            served = [v for v in bundle.manifest.variants if backend in v.backends]
            for variant in served:
                picked = BackendChoice(backend, choice.why)
                model = Model(bundle, variant.precision, picked, options)
                models.append(stack.enter_context(model))
        scores = score_models(models, validation, progress) if validation else ()
        frame = synthetic.golden_frames(1, *_latency_size(bundle.manifest.preprocess.roi))[0]
        return scores, measure_latencies(models, frame, progress)


def _latency_size(roi: RoiSpec | None) -> tuple[int, int]:
    golden = golden_size(roi)
    return max(LATENCY_FRAME_HW_PX[0], golden[0]), max(LATENCY_FRAME_HW_PX[1], golden[1])


def _warnings(scores: Sequence[ScoreRecord]) -> list[Decision]:
    """Say where a variant lost more than it may against FP32 on the same labels."""
    labels = [score for score in scores if score.against == "labels"]
    if not labels:
        return []
    fp32 = labels[0].dice
    return [
        Decision(
            f"warning: {score.variant} on {score.backend} loses accuracy",
            f"Dice {score.dice:.4f} against {fp32:.4f} in FP32, a drop of more than "
            f"{DICE_DROP_LIMIT}: try another --method, more calibration images, or --exclude",
        )
        for score in labels[1:]
        if not fp32 - score.dice <= DICE_DROP_LIMIT
    ]


def _pictures(
    bundle: Bundle, choice: BackendChoice, validation: Validation
) -> list[tuple[str, bytes]]:
    """The worst validation cases of the built precision, as PNG with captions."""
    with Model(bundle, bundle.manifest.precision, choice, EngineOptions(choice.device)) as model:
        results = score_cases(model, validation.cases)
        drawn = worst_case_pictures(model, results, WORST_CASES)
    return [(f"{r.case.id}: Dice {r.score.dice:.4f}", png) for r, png in drawn]


def _size_bytes(folder: Path, file: str) -> int:
    """Of a graph with its weights file, if it has one."""
    return sum(p.stat().st_size for p in (folder / file, folder / f"{file}.data") if p.is_file())
