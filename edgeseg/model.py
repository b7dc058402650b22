"""A bundle, opened: frames in, masks out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg._closing import Closing
from edgeseg.backends import BackendChoice, EngineOptions, Hint, choose_backend, open_engine
from edgeseg.backends.base import Array
from edgeseg.bundle import Bundle, read_bundle
from edgeseg.errors import BackendError
from edgeseg.golden import check_golden
from edgeseg.preprocess import Preprocessor, check_frame
from edgeseg.readout import activate, mask_from_logits, resize_logits
from edgeseg.spec import Precision, ReadoutSpec, RoiSpec

__all__ = ["Model", "Result", "open"]

_log = logging.getLogger(__name__)

Frame = npt.NDArray[np.uint8]


class Result:
    """What the model says about one frame.

    Attributes:
        mask: uint8 (H, W) of the frame's size; 0 background, else the index of the class.
        timings_ms: milliseconds of each stage: ``preprocess``, ``inference``, ``readout``.
    """

    def __init__(
        self,
        mask: npt.NDArray[np.uint8],
        logits: npt.NDArray[np.float32],
        spec: ReadoutSpec,
        roi: RoiSpec | None,
        timings_ms: Mapping[str, float],
    ) -> None:
        self.mask = mask
        self.timings_ms = dict(timings_ms)
        self._logits = logits
        self._spec = spec
        self._roi = roi

    @cached_property
    def probability(self) -> npt.NDArray[np.float32]:
        """Probabilities, computed on first access: float32 (H, W), or (C, H, W) for C classes.

        Outside a region of interest the background is certain.
        """
        inside = activate(self._logits, self._spec)
        if self._roi is None:
            return inside
        full = np.zeros((*inside.shape[:-2], *self.mask.shape), np.float32)
        if full.ndim == 3:
            full[0] = 1.0
        rows, columns = _window(self._roi)
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
        self, bundle: Bundle, precision: str, choice: BackendChoice, options: EngineOptions
    ):
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.classes = bundle.manifest.classes
        self.choice = choice
        self.variant = bundle.variant(precision, choice.name)
        self.roi = bundle.manifest.preprocess.roi
        self._preprocessor = Preprocessor(bundle.manifest.preprocess)
        self.engine = open_engine(bundle.file(self.variant.file), choice.name, options)
        try:
            if self.engine.inputs[0].shape != self.variant.inputs[0].shape:
                raise BackendError(
                    f"{self.variant.file} takes {self.engine.inputs[0].shape}, "
                    f"the manifest says {self.variant.inputs[0].shape}"
                )
            self.golden_error = check_golden(
                self.engine, bundle.golden(), self.preprocess, self.variant, choice.name
            )
        except BaseException:
            self.engine.close()
            raise
        _log.info(
            "%s: %s on %s %s, golden error %.2g",
            bundle.path.name,
            self.variant.name,
            choice.name,
            self.engine.info.version,
            self.golden_error,
        )

    def __call__(self, frame: Frame, *, threshold: float | None = None) -> Result:
        """Segment one frame.

        Args:
            frame: uint8 (H, W, 3), BGR, any size.
            threshold: for one-class models, instead of the bundle's; between 0 and 1.

        Raises:
            InputError: the frame or the threshold does not fit.
            BackendError: the engine failed.
        """
        start = time.perf_counter()
        tensors = self.preprocess(frame)
        preprocessed = time.perf_counter()
        outputs = self.infer(tensors)
        inferred = time.perf_counter()
        result = self.read_out(outputs, frame.shape[:2], threshold=threshold)
        result.timings_ms = {
            "preprocess": 1e3 * (preprocessed - start),
            "inference": 1e3 * (inferred - preprocessed),
            "readout": 1e3 * (time.perf_counter() - inferred),
        }
        return result

    def preprocess(self, frame: Frame) -> dict[str, Array]:
        """The engine's inputs for a frame."""
        return {self.engine.inputs[0].name: self._preprocessor(frame)}

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The engine's outputs for its inputs."""
        return self.engine.infer(tensors)

    def logits(self, frame: Frame) -> npt.NDArray[np.float32]:
        """Logits at the network's own output size: float32 (C, h, w)."""
        check_frame(frame)
        return self._logits(self.infer(self.preprocess(frame)))

    def read_out(
        self,
        outputs: Mapping[str, Array],
        frame_hw_px: tuple[int, ...],
        *,
        threshold: float | None = None,
    ) -> Result:
        """Turn the engine's outputs into a result of the frame's size (height, width)."""
        height, width = frame_hw_px[0], frame_hw_px[1]
        spec, roi = self.manifest.readout, self.roi
        target = (height, width) if roi is None else (roi.height_px, roi.width_px)
        resized = resize_logits(self._logits(outputs), *target, align_corners=spec.align_corners)
        mask = mask_from_logits(resized, spec, threshold)
        if roi is not None:
            inside, mask = mask, np.zeros((height, width), np.uint8)
            mask[_window(roi)] = inside
        return Result(mask, resized, spec, roi, {})

    def _logits(self, outputs: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = outputs[self.engine.outputs[0].name][0]
        return logits

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


def _window(roi: RoiSpec) -> tuple[slice, slice]:
    return (
        slice(roi.y_px, roi.y_px + roi.height_px),
        slice(roi.x_px, roi.x_px + roi.width_px),
    )


def open(
    path: str | Path,
    *,
    backend: str = "auto",
    device: str = "CPU",
    precision: Precision | None = None,
    threads: int | None = None,
    hint: Hint = "latency",
) -> Model:
    """Open a bundle: verify it, load its engine, run its self-test.

    Args:
        path: the folder ``NAME.edgeseg``.
        backend: ``openvino``, ``onnxruntime`` or ``auto``; a named one is used or fails.
        device: ``CPU``, or what the backend offers (``edgeseg doctor`` lists it).
        precision: one that the bundle holds; None for what it was built for.
        threads: CPU threads of the engine; None lets the library choose.
        hint: ``latency`` for one frame at a time, ``throughput`` for several at once.

    Raises:
        BundleError, BundleIntegrityError: the folder is not a whole bundle.
        UsageError: it has no such precision.
        BackendUnavailableError: the backend or device is not on this machine.
        GoldenMismatchError: the engine loads and computes something else.
    """
    bundle = read_bundle(Path(path))
    wanted = precision or bundle.manifest.precision
    served = bundle.backends(wanted)
    choice = choose_backend(backend, device, served, f"{bundle.path.name} ({wanted})")
    return Model(bundle, wanted, choice, EngineOptions(device, threads, hint))
