"""The golden frames of a bundle under construction, and the limits that engines must keep to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg._progress import Progress
from edgeseg.backends import (
    BackendChoice,
    Engine,
    EngineOptions,
    available_backends,
    open_engine,
)
from edgeseg.backends.base import Array
from edgeseg.bundle import Golden
from edgeseg.errors import CalibrationError
from edgeseg.golden import Answer, GoldenFigures, golden_figures
from edgeseg.preprocess import Preprocessor, takes_pictures
from edgeseg.spec import (
    BackendName,
    GoldenLimits,
    Manifest,
    PreprocessSpec,
    RoiSpec,
    TensorSpec,
    Variant,
)
from edgeseg.workflows._half_check import HalfCheck, check_half, half_decisions
from edgeseg.workflows._source import FP32_FILE, Source

__all__ = ["GOLDEN_COUNT", "answering", "feeder", "golden_answers", "golden_size", "with_limits"]

GOLDEN_COUNT = 2
GOLDEN_HW_PX = (240, 320)

Frame = npt.NDArray[np.uint8]
Feed = Callable[[Frame], dict[str, Array]]
"""From a frame to a graph's named inputs."""

_FLOORS = {
    "fp32": GoldenLimits(1e-3, 0.9999, 0.995),
    "fp16": GoldenLimits(1e-2, 0.999, 0.98),
    "fp16-safe": GoldenLimits(1e-2, 0.999, 0.98),
    "int8": GoldenLimits(2e-2, 0.99, 0.95),
}
"""What every engine may differ by: other processors add in another order."""
_UNSEEN_ERROR = {"fp32": 1e-3, "fp16": 5e-2, "fp16-safe": 5e-2, "int8": 1e-1}
"""Relative error allowed to a library that is not on the build machine, whose kernels fuse and
round elsewhere; its cosine and its masks must agree like any other's."""
_OF_MEASURED = 2.0
"""Limits lie so many times as far from perfect as what was measured."""
_LARGEST_ERROR = 1.0
"""A golden error as large as the contrast of the answer means that something else is computed."""


def golden_size(roi: RoiSpec | None) -> tuple[int, int]:
    """Height and width of the golden frames, large enough to hold the region of interest."""
    if roi is None:
        return GOLDEN_HW_PX
    return (
        max(GOLDEN_HW_PX[0], roi.y_px + roi.height_px),
        max(GOLDEN_HW_PX[1], roi.x_px + roi.width_px),
    )


def golden_answers(
    folder: Path,
    frames: Sequence[Frame],
    preprocess: PreprocessSpec,
    choice: BackendChoice,
    source: Source,
) -> Golden:
    """The FP32 graph's answers, which parity has tied to the torch formulation."""
    feed = feeder(preprocess, source.inputs)
    with open_engine(folder / FP32_FILE, choice.name) as engine:
        answers = [engine.infer(feed(frame)) for frame in frames]
    outputs = {
        spec.name: np.stack([answer[spec.name] for answer in answers]) for spec in source.outputs
    }
    return Golden(np.stack(frames), outputs)


def with_limits(folder: Path, manifest: Manifest, golden: Golden, progress: Progress) -> Manifest:
    """Measure each variant on each installed backend and set its limits.

    A backend that is not installed here (TensorRT) gets the limits of the file itself, since its
    arithmetic is written in the graph: FP16 tensors are really rounded for that
    (``_half_check``), FP32 files are run by the backend at hand. What cannot be measured so, or
    overflows FP16, gets the floors, and is judged on the device.

    Raises:
        CalibrationError: a variant computes something else than FP32.
    """
    installed = available_backends()
    variants, checks = [], {}
    for done, variant in enumerate(manifest.variants):
        progress("self-test", done, len(manifest.variants))
        feed = feeder(manifest.preprocess, variant.inputs)
        check = check_half(folder, variant, (feed(frame) for frame in golden.frames))
        if check is not None:
            checks[variant.name] = check
        found: dict[BackendName | None, GoldenFigures | None] = {None: None}
        if check is not None and check.survives:
            rounded = golden_figures(_recalling(check), golden, manifest.readout)
            found[None] = _sensible(rounded, variant, "rounded to FP16")
        limits = {}
        for backend in variant.backends:
            runner = _runner(variant, backend, installed)
            if runner not in found and runner is not None:
                options = EngineOptions(bfloat16=runner in variant.bfloat16)
                with open_engine(folder / variant.file, runner, options) as engine:
                    figures = golden_figures(answering(engine, feed), golden, manifest.readout)
                found[runner] = _sensible(figures, variant, f"on {runner}")
            limits[backend] = _limits(variant, found[runner], seen=backend in installed)
        variants.append(dataclasses.replace(variant, golden_limits=limits))
    progress("self-test", len(manifest.variants), len(manifest.variants))
    return dataclasses.replace(
        manifest,
        variants=tuple(variants),
        decisions=(*manifest.decisions, *half_decisions(variants, checks)),
    )


def _runner(variant: Variant, backend: str, installed: Sequence[BackendName]) -> BackendName | None:
    """The library that stands for a backend; None where FP16 has to be rounded instead."""
    for name in installed:
        if name == backend:
            return name
    return None if variant.rest == "fp16" else installed[0]


def _sensible(figures: GoldenFigures, variant: Variant, how: str) -> GoldenFigures:
    """The figures, unless something else than FP32 is computed.

    Raises:
        CalibrationError: it is.
    """
    if not figures.relative_error <= _LARGEST_ERROR:
        raise CalibrationError(
            f"{variant.name} {how} answers generated frames with a relative error of "
            f"{figures.relative_error:.3g}: it computes something else than FP32. Try another "
            "--method, or keep layers in float with --exclude"
        )
    return figures


def _recalling(check: HalfCheck) -> Answer:
    """The answers that a check has found, frame after frame."""
    answers = iter(check.answers)
    return lambda frame: next(answers)


def answering(engine: Engine, feed: Feed) -> Answer:
    """From a frame to the engine's outputs."""
    return lambda frame: engine.infer(feed(frame))


def _limits(variant: Variant, found: GoldenFigures | None, *, seen: bool) -> GoldenLimits:
    floor = _FLOORS[variant.precision]
    error = floor.relative_error if seen else _UNSEEN_ERROR[variant.precision]
    if found is None:
        return dataclasses.replace(floor, relative_error=error)
    return GoldenLimits(
        relative_error=max(error, _OF_MEASURED * found.relative_error),
        cosine=min(floor.cosine, 1.0 - _OF_MEASURED * (1.0 - found.cosine)),
        mask_agreement=min(
            floor.mask_agreement, max(0.0, 1.0 - _OF_MEASURED * (1.0 - found.mask_agreement))
        ),
    )


def feeder(preprocess: PreprocessSpec, inputs: Sequence[TensorSpec]) -> Feed:
    """From a frame to a graph's named inputs, of the kind that they ask for."""
    preprocessor = Preprocessor(preprocess, pictures=takes_pictures(inputs))

    def feed(frame: Frame) -> dict[str, Array]:
        tensors = preprocessor.tensors(frame)
        return {spec.name: tensor for spec, tensor in zip(inputs, tensors, strict=True)}

    return feed
