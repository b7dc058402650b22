"""A bundle, opened: frames in, masks out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg import tuning
from edgeseg._closing import Closing
from edgeseg.backends import (
    BackendChoice,
    EngineOptions,
    Hint,
    choose_backend,
    open_engine,
    resolve_device,
)
from edgeseg.backends.base import Array, Engine, placement_for
from edgeseg.bound import BoundStages
from edgeseg.bundle import Bundle, read_bundle
from edgeseg.errors import BackendError, MissingDependencyError, UsageError
from edgeseg.golden import GoldenFigures, check_golden
from edgeseg.plans import Plan, find_plan, has_plans, open_plan, this_machine
from edgeseg.preprocess import Preprocessor, takes_pictures
from edgeseg.reader import Reader, Reading
from edgeseg.region import region_in_frame
from edgeseg.settings import Settings
from edgeseg.spec import Precision, PreprocessSpec, ReadoutSpec, RoiSpec, Variant
from edgeseg.temporal import Memory

__all__ = ["Model", "Result", "open"]

_log = logging.getLogger(__name__)

Frame = npt.NDArray[np.uint8]
_AS_BUILT = Settings()


class Result:
    """What the model says about one frame.

    Attributes:
        mask: uint8 (H, W) of the frame's size; 0 background, else the index of the class.
        region: what the model looked at, in pixels of the frame; outside is background.
        timings_ms: milliseconds of each stage: ``preprocess``, ``inference``, ``readout``.
    """

    def __init__(self, reading: Reading, frame_hw_px: tuple[int, int], region: RoiSpec) -> None:
        """Lay what was read from the region of interest into the frame, which holds it."""
        self.timings_ms: dict[str, float] = {}
        self.region = region
        self._reading = reading
        if reading.mask.shape == frame_hw_px:
            self.mask = reading.mask
        else:
            self.mask = np.zeros(frame_hw_px, np.uint8)
            self.mask[_window(region)] = reading.mask

    @cached_property
    def probability(self) -> npt.NDArray[np.float32]:
        """Probabilities, computed on first access: float32 (H, W), or (C, H, W) for C classes.

        Outside a region of interest the background is certain.
        """
        inside = self._reading.probability()
        if inside.shape[-2:] == self.mask.shape:
            return inside
        full = np.zeros((*inside.shape[:-2], *self.mask.shape), np.float32)
        if full.ndim == 3:
            full[0] = 1.0
        rows, columns = _window(self.region)
        full[..., rows, columns] = inside
        return full

    @cached_property
    def contours(self) -> Mapping[int, tuple[npt.NDArray[np.int32], ...]]:
        """Outlines, outer and inner, of each class index present: int32 (N, 2) of (x, y) pixels."""
        found: dict[int, tuple[npt.NDArray[np.int32], ...]] = {}
        for index in range(1, int(self.mask.max(initial=0)) + 1):
            region = (self.mask == index).view(np.uint8)
            lines, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            if lines:
                found[index] = tuple(line.reshape(-1, 2).astype(np.int32) for line in lines)
        return found

    @property
    def area_px(self) -> int:
        """Number of foreground pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def area_fraction(self) -> float:
        """Foreground as a share of the frame, 0 to 1."""
        return self.area_px / self.mask.size


class Model(Closing):
    """An engine with the preprocessing and the read-out of its bundle. Made by ``edgeseg.open``.

    Calling it does one frame; ``preprocess``, ``infer`` and ``read_out`` are its stages, for those
    who overlap them. It keeps no state between frames and may be used by several threads.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        choice: BackendChoice,
        options: EngineOptions,
        settings: Settings = _AS_BUILT,
        *,
        plan: Plan | None = None,
    ):
        """Open an engine for one variant.

        Args:
            bundle: verified.
            precision: of the variant.
            choice: the backend.
            options: for it.
            settings: fewer views, or another read-out.
            plan: verified; what was compiled from the variant, for a backend that runs plans.

        Raises:
            BackendError: the engine cannot be opened, or computes something else.
        """
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.classes = bundle.manifest.classes
        self.choice = choice
        self.variant = bundle.variant(precision, placement_for(choice.name, options.device))
        self.preprocess_spec = settings.preprocess(bundle.manifest.preprocess)
        """With the views in use, which may be fewer than the bundle's."""
        self.readout = settings.readout(bundle.manifest.readout)
        """The read-out in use."""
        self.roi = self.preprocess_spec.roi
        """The bundle's region of interest, for frames that are given without one of their own."""
        self.fed_spec: PreprocessSpec
        """What the engine takes, whose views may have more flips than are in use."""
        self.output_rows: list[list[int]] | None
        """For each view the rows of its output that are in use; None for all."""
        self._ports = _Ports(bundle.manifest.preprocess, self.preprocess_spec, self.variant)
        asked = dataclasses.replace(
            self._ports.options(options),
            products=self.variant.products,
            rest=self.variant.rest,
            bfloat16=choice.name in self.variant.bfloat16,
        )
        self.tuning_subject: tuning.Subject | None = None
        """What ``tuning.tune`` takes; None where the caller laid the threads down, and off the
        CPU."""
        if plan is None:
            asked = self._tuned(asked)
            self.engine = open_engine(bundle.file(self.variant.file), choice.name, asked)
        else:
            self.engine = open_plan(plan, self.variant, asked)
        try:
            self.fed_spec, self.output_rows, golden_rows = self._ports.fit(self.engine)
            self._preprocessor = Preprocessor(
                self.fed_spec, pictures=takes_pictures(self.engine.inputs)
            )
            self._reader = Reader(self.preprocess_spec, self.readout, rows=self.output_rows)
            self._stages = self.bound_stages()
            self.golden_figures = self._check_golden(golden_rows)
        except BaseException:
            self.engine.close()
            raise
        _log.info(
            "%s: %s on %s %s, golden frames: error %.2g, masks %.4f",
            bundle.path.name,
            self.variant.name,
            choice.name,
            self.engine.info.version,
            self.golden_figures.relative_error,
            self.golden_figures.mask_agreement,
        )

    @property
    def foreground_classes(self) -> int:
        """How many classes can be drawn: a single one, or all but the background."""
        return max(1, len(self.classes) - 1)

    def __call__(
        self, frame: Frame, *, threshold: float | None = None, region: RoiSpec | None = None
    ) -> Result:
        """Segment one frame.

        Args:
            frame: uint8 (H, W, 3), BGR, any size.
            threshold: for one-class models, instead of the bundle's; between 0 and 1.
            region: to look at in this frame, in its pixels; the result is that of the frame cut to
                it, laid back into the frame. None for the bundle's, or without one the frame.

        Raises:
            InputError: the frame, the threshold or the region does not fit.
            BackendError: the engine failed.
        """
        stages = self._stages
        start = time.perf_counter()
        tensors = stages.preprocess(frame, region=region)
        preprocessed = time.perf_counter()
        outputs = stages.infer(tensors)
        inferred = time.perf_counter()
        result = stages.read_out(outputs, frame.shape[:2], threshold=threshold, region=region)
        result.timings_ms = {
            "preprocess": 1e3 * (preprocessed - start),
            "inference": 1e3 * (inferred - preprocessed),
            "readout": 1e3 * (time.perf_counter() - inferred),
        }
        return result

    def preprocess(self, frame: Frame, *, region: RoiSpec | None = None) -> dict[str, Array]:
        """The engine's inputs for a frame, or for a region of it.

        Args:
            frame: uint8 (H, W, 3), BGR, any size that holds the region.
            region: as for calling the model; give the same to ``read_out``.

        Raises:
            InputError: the frame or the region does not fit.
        """
        tensors = self._preprocessor.tensors(frame, region=region)
        return {port.name: value for port, value in zip(self.engine.inputs, tensors, strict=True)}

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The engine's outputs for its inputs."""
        return self.engine.infer(tensors)

    def read_out(
        self,
        outputs: Mapping[str, Array],
        frame_hw_px: tuple[int, ...],
        *,
        threshold: float | None = None,
        memory: Memory | None = None,
        region: RoiSpec | None = None,
    ) -> Result:
        """Turn the engine's outputs into a result of the frame's size (height, width).

        With a ``memory`` (``TemporalSmoother.step``) probabilities are smoothed over the frames of
        a video, which then must come in order. It is reset where the region is another one than for
        the last frame, since its grid lies on the region.

        Args:
            outputs: of ``infer``.
            frame_hw_px: of the frame.
            threshold: as for calling the model.
            memory: see above.
            region: what ``preprocess`` got for this frame.

        Raises:
            InputError: the threshold does not fit, or the region leaves the frame.
        """
        height, width = frame_hw_px[0], frame_hw_px[1]
        where = region_in_frame(region or self.roi, (height, width))
        if memory is not None:
            memory.lie_on(where)
        reading = self._reader.read(
            self._in_order(outputs),
            (where.height_px, where.width_px),
            threshold=threshold,
            memory=memory,
        )
        return Result(reading, (height, width), where)

    def bound_stages(self) -> BoundStages[Result]:
        """The three stages on memory that the engine reads in place, for pipelines of frames.

        Unlike those of the model they hand their arrays on: each frame goes through each of them
        once. Results are the same bit for bit, and the caller's.
        """
        return BoundStages(self.engine, self._preprocessor, self.read_out)

    def _tuned(self, options: EngineOptions) -> EngineOptions:
        """The options with what an earlier calibration found for them, if there was one."""
        file, hashes = self.variant.file, self.manifest.files
        sha256 = tuple(hashes[name] for name in (file, f"{file}.data") if name in hashes)
        subject = tuning.subject(self.bundle.file(file), sha256, self.choice.name, options)
        self.tuning_subject = subject
        found = None if subject is None else tuning.kept(subject)
        if found is None:
            return options
        _log.info("threads as an earlier calibration chose: %s", found.why)
        return found.placing.applied(options)

    def _check_golden(self, rows: dict[str, list[int]] | None) -> GoldenFigures:
        """Judge the way that frames take."""
        with self.engine.bind() as binding:

            def answer(frame: Frame) -> Mapping[str, Array]:
                # Compared before the next one overwrites it.
                self._preprocessor.tensors(frame, out=tuple(binding.inputs.values()))
                return binding.run()

            return check_golden(
                answer,
                self.bundle.golden(),
                self.manifest.readout,
                self.variant,
                self.engine.info,
                rows=rows,
            )

    def check_threshold(self, threshold: float | None) -> None:
        """Refuse, before any work, a threshold that the read-out would refuse.

        Raises:
            UsageError: the model has several classes, or the threshold lies outside (0, 1).
        """
        if threshold is None:
            return
        if self.readout.activation != "sigmoid":
            raise UsageError("--threshold has no meaning for several classes, which compete")
        if not 0.0 < threshold < 1.0:
            raise UsageError(f"--threshold must lie between 0 and 1, got {threshold}")

    def read_grid(
        self,
        outputs: Mapping[str, Array],
        *,
        threshold: float | None = None,
        readout: ReadoutSpec | None = None,
    ) -> Reading:
        """Mask and probabilities on the model's own grid, of the region of interest alone.

        Args:
            outputs: the engine's.
            threshold: as for calling the model.
            readout: read them so instead of as ``self.readout`` says.
        """
        reader = self._reader if readout is None else self._reader.reading_as(readout)
        return reader.read(self._in_order(outputs), threshold=threshold)

    def _in_order(self, outputs: Mapping[str, Array]) -> list[Array]:
        return [outputs[port.name] for port in self.engine.outputs]

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


class _Ports:
    """Which of a variant's inputs and outputs the chosen views need.

    Views and the variant's inputs and outputs stand in the same order; a bundle without views has
    one of each.
    """

    def __init__(self, built: PreprocessSpec, chosen: PreprocessSpec, variant: Variant) -> None:
        self._chosen = chosen
        self._variant = variant
        sizes = [view.name for view in built.views]
        self._indices = [sizes.index(view.name) for view in chosen.views]
        self._built = [built.views[index] for index in self._indices]

    def options(self, options: EngineOptions) -> EngineOptions:
        """What to ask of the backend."""
        if not self._built or (
            len(self._built) == len(self._variant.inputs) and self._built == [*self._chosen.views]
        ):
            return options
        fewer = len(self._chosen.views[0].flips)
        return dataclasses.replace(
            options,
            inputs=tuple(self._variant.inputs[index].name for index in self._indices),
            outputs=tuple(self._variant.outputs[index].name for index in self._indices),
            batch=fewer if fewer < len(self._built[0].flips) else None,
        )

    def fit(
        self, engine: Engine
    ) -> tuple[PreprocessSpec, list[list[int]] | None, dict[str, list[int]] | None]:
        """What the engine really takes.

        Returns:
            The preprocessing of its inputs, the rows of each of its outputs that the chosen views
            are, and the rows of the recorded golden answers that it computes.

        Raises:
            BackendError: its inputs are not those of the manifest.
        """
        wanted = (
            [self._variant.inputs[index] for index in self._indices]
            if self._built
            else list(self._variant.inputs)
        )
        if [port.name for port in engine.inputs] != [spec.name for spec in wanted]:
            raise BackendError(
                f"{self._variant.file} takes {', '.join(port.name for port in engine.inputs)}, "
                f"the manifest says {', '.join(spec.name for spec in wanted)}"
            )
        for port, spec in zip(engine.inputs, wanted, strict=True):
            if port.dtype != spec.dtype:
                raise BackendError(
                    f"{self._variant.file} takes {port.name} of {port.dtype}, the manifest says "
                    f"{spec.dtype}"
                )
        if not self._built:
            self._check_shapes(engine, [spec.shape for spec in wanted])
            return self._chosen, None, None
        positions = [
            [built.flips.index(flip) for flip in view.flips]
            for built, view in zip(self._built, self._chosen.views, strict=True)
        ]
        if engine.inputs[0].shape[0] == len(self._chosen.views[0].flips):
            shapes = [
                (len(view.flips), *spec.shape[1:])
                for view, spec in zip(self._chosen.views, wanted, strict=True)
            ]
            self._check_shapes(engine, shapes)
            names = [port.name for port in engine.outputs]
            return self._chosen, None, dict(zip(names, positions, strict=True))
        # The library keeps the batch it was built for: all flips are computed, some are read.
        self._check_shapes(engine, [spec.shape for spec in wanted])
        return dataclasses.replace(self._chosen, views=tuple(self._built)), positions, None

    def _check_shapes(self, engine: Engine, shapes: Sequence[tuple[int, ...]]) -> None:
        for port, shape in zip(engine.inputs, shapes, strict=True):
            if port.shape != shape:
                raise BackendError(
                    f"{self._variant.file} takes {port.name} of {port.shape}, the manifest says "
                    f"{shape}"
                )


def _window(roi: RoiSpec) -> tuple[slice, slice]:
    return (
        slice(roi.y_px, roi.y_px + roi.height_px),
        slice(roi.x_px, roi.x_px + roi.width_px),
    )


def open(
    path: str | Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    hint: Hint = "latency",
    settings: Settings = _AS_BUILT,
    profile: bool = False,
) -> Model:
    """Open a bundle: verify it, load its engine, run its self-test.

    Args:
        path: the folder ``NAME.edgeseg``.
        backend: ``openvino``, ``onnxruntime``, ``tensorrt`` or ``auto``; a named one is used or
            fails. ``tensorrt`` needs a plan, which  edgeseg build NAME.edgeseg --backend tensorrt
            compiles; where there is one for this machine, ``auto`` takes it.
        device: ``CPU``, or what the backend offers (``edgeseg doctor`` lists it); ``auto`` is the
            GPU for TensorRT and the CPU otherwise.
        precision: one that the bundle holds; None for what it was built for, with TensorRT for the
            fastest plan.
        threads: CPU threads of the engine; None for what ``edgeseg.tuning`` found for this machine
            earlier, else as the library chooses.
        hint: ``latency`` for one frame at a time, ``throughput`` for several at once.
        settings: fewer views, or another read-out, than the bundle's.
        profile: prepare ``model.engine.profile``, which times layers; the engine may be slower.

    Raises:
        BundleError, BundleIntegrityError: the folder is not a whole bundle.
        UsageError: it has no such precision, or the settings do not fit it.
        BackendUnavailableError: the backend or device is not on this machine.
        PlanError: there is no plan for this machine, or it was changed.
        GoldenMismatchError: the engine loads and computes something else.
    """
    bundle = read_bundle(Path(path))
    plan = _plan(bundle, backend, device, precision)
    wanted = precision or bundle.manifest.precision
    if plan is not None:
        wanted = bundle.named(plan.record.key.variant).precision
    choice = choose_backend(
        backend,
        device,
        bundle.backends(wanted),
        f"{bundle.path.name} ({wanted})",
        has_plan=plan is not None,
    )
    options = EngineOptions(choice.device, threads, hint, profile=profile)
    return Model(bundle, wanted, choice, options, settings, plan=plan)


def _plan(bundle: Bundle, backend: str, device: str, precision: Precision | None) -> Plan | None:
    """The plan that TensorRT would run; None where another backend is to serve.

    Raises:
        PlanError, BackendUnavailableError: TensorRT was asked for by name, and cannot serve.
    """
    gpu = resolve_device("tensorrt", device)
    if backend == "tensorrt":
        return find_plan(bundle, this_machine(gpu), precision)
    if backend != "auto" or not gpu.startswith("GPU") or not has_plans(bundle):
        return None
    try:
        return find_plan(bundle, this_machine(gpu), precision)
    except (BackendError, MissingDependencyError) as error:
        _log.warning("auto leaves TensorRT aside: %s", error)
        return None
