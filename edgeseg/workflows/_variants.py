"""The variants of a build: how each file is made, and what the manifest says of it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeseg._progress import Progress
from edgeseg.errors import MissingDependencyError, UsageError
from edgeseg.preprocess import as_picture
from edgeseg.spec import (
    BACKENDS,
    CalibrationRecord,
    Decision,
    GoldenLimits,
    Precision,
    Variant,
)
from edgeseg.workflows._source import FP32_FILE, Source

if TYPE_CHECKING:
    from edgeseg.calib import CalibrationFrames, QuantizedGraph

__all__ = ["Made", "fp16_variants", "fp32_variant", "int8_variants"]

_HALF_FRAMES = 4
"""Calibration frames on which the range of FP16 is tried."""


@dataclass(frozen=True)
class Made:
    """Variants written into a bundle, and what was decided on the way."""

    variants: tuple[Variant, ...]
    decisions: tuple[Decision, ...]
    calibration: CalibrationRecord | None = None


def fp32_variant(source: Source) -> Variant:
    """The exported graph itself, which serves every backend."""
    return _variant(
        source,
        name="fp32",
        file=FP32_FILE,
        precision="fp32",
        products="fp32",
        rest="fp32",
        placement="none: the exported graph",
        backends=BACKENDS,
    )


def int8_variants(
    folder: Path,
    source: Source,
    frames: CalibrationFrames,
    *,
    method: str | None,
    quantizer: Literal["edgeseg", "modelopt"],
    exclude: Sequence[str],
    threads: int | None,
    progress: Progress,
) -> Made:
    """Calibrate once and write an INT8 graph for every backend.

    Raises:
        UsageError: the quantiser knows no such method, or an exclusion matches nothing.
        CalibrationError: a frame cannot be read, or the model fails on it.
    """
    from edgeseg import calib

    fp32 = folder / FP32_FILE
    paths = {backend: folder / f"int8-{backend}.onnx" for backend in BACKENDS}
    total = len(frames)

    def on_frame(done: int) -> None:
        progress("calibrate", done, total)

    hints: tuple[Decision, ...] = ()
    progress("calibrate", 0, total)
    if quantizer == "modelopt":
        used = method or calib.DEFAULT_MODELOPT_METHOD
        graphs = calib.quantize_with_modelopt(
            fp32, frames, paths, method=used, exclude=exclude, on_frame=on_frame
        )
    else:
        used = method or calib.DEFAULT_METHOD
        if used not in calib.METHODS:
            raise UsageError(
                f"unknown calibration method {used!r}: choose {', '.join(calib.METHODS)}"
            )
        ranges = calib.collect_ranges(fp32, frames, threads=threads, on_frame=on_frame)
        thresholds = ranges.thresholds(used)
        progress("quantise", 0, 1)
        written = [
            _within_half(
                functools.partial(
                    calib.quantize,
                    fp32,
                    thresholds,
                    backend,
                    path,
                    exclude,
                    preprocess=source.preprocess,
                ),
                source,
                frames,
            )
            for backend, path in paths.items()
        ]
        graphs = tuple(graph for graph, _ in written)
        hints = tuple(hint for _, found in written for hint in found)
        progress("quantise", 1, 1)
    variants = tuple(
        _variant(
            source,
            name=graph.path.stem,
            file=graph.path.name,
            precision="int8",
            products="int8",
            rest=graph.rest,
            placement=graph.placement,
            backends=graph.backends,
            pictures=graph.takes_pictures,
        )
        for graph in graphs
    )
    decisions = [*frames.warnings, *hints]
    for graph in graphs:
        decisions += [d for d in graph.decisions if d not in decisions]
    return Made(variants, tuple(decisions), frames.record(quantizer, used))


def _within_half(
    write: Callable[..., QuantizedGraph], source: Source, frames: CalibrationFrames
) -> tuple[QuantizedGraph, tuple[Decision, ...]]:
    """Write an INT8 file; if its FP16 rest overflows, again with attention scores in FP32.

    It is judged on calibration frames, where ONNX Runtime is installed.
    """
    from edgeseg import calib

    graph = write()
    if graph.rest != "fp16":
        return graph, ()
    names = [spec.name for spec in source.inputs]
    some = itertools.islice(frames, _HALF_FRAMES)
    feeds = (dict(zip(names, tensors, strict=True)) for tensors in some)
    try:
        report = calib.half_report(graph.path, feeds)
    except MissingDependencyError:
        return graph, ()
    if not report.overflowed:
        return graph, ()
    decision = Decision(
        f"{graph.path.stem}: attention scores and softmax stay in FP32",
        f"{report.worst} reaches {report.magnitude:.4g} on a calibration frame, beyond FP16",
    )
    return write(rest_mode="fp16-safe"), (decision,)


def fp16_variants(folder: Path, source: Source, progress: Progress) -> Made:
    """Write both FP16 graphs; they serve every backend."""
    from edgeseg import calib

    variants, decisions = [], []
    for done, mode in enumerate(calib.FP16_MODES):
        progress("convert to FP16", done, len(calib.FP16_MODES))
        graph = calib.to_fp16(folder / FP32_FILE, folder / f"{mode}.onnx", mode)
        variants.append(
            _variant(
                source,
                name=mode,
                file=graph.path.name,
                precision=mode,
                products="fp16",
                rest="fp16",
                placement=graph.placement,
                backends=BACKENDS,
            )
        )
        decisions += [d for d in graph.decisions if d not in decisions]
    progress("convert to FP16", len(calib.FP16_MODES), len(calib.FP16_MODES))
    return Made(tuple(variants), tuple(decisions))


def _variant(
    source: Source,
    *,
    name: str,
    file: str,
    precision: Precision,
    products: Literal["fp32", "fp16", "int8"],
    rest: Literal["fp32", "fp16"],
    placement: str,
    backends: tuple[Any, ...],
    pictures: bool = False,
) -> Variant:
    # Filled in by the self-test: infinite until then, which JSON refuses to store.
    unmeasured = dict.fromkeys(backends, GoldenLimits(math.inf, -math.inf, -math.inf))
    return Variant(
        name=name,
        file=file,
        precision=precision,
        products=products,
        rest=rest,
        placement=placement,
        backends=backends,
        batch=source.inputs[0].shape[0],
        inputs=tuple(map(as_picture, source.inputs)) if pictures else source.inputs,
        outputs=source.outputs,
        golden_limits=unmeasured,
    )
