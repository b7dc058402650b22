"""From a frame to its mask, in the two steps that overlap: the engine's, and the read-out."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg._closing import Closing
from edgeseg.frame_path import FramePath, Wanted, model_unavailable_reason, open_frame_path
from edgeseg.live.base import LiveFrame
from edgeseg.model import Model
from edgeseg.spec import RoiSpec
from edgeseg.temporal import Memory, TemporalSmoother

__all__ = ["Computation", "DeviceComputation", "HostComputation", "Job", "Mask", "computation_for"]

Mask = npt.NDArray[np.uint8]
"""uint8 (H, W): 0 background, else the index of the class."""


@dataclass(frozen=True)
class Job:
    """One frame and how it is to be looked at."""

    frame: LiveFrame
    region: RoiSpec | None = None
    """Region of interest; None for the bundle's, or the whole frame."""
    threshold: float | None = None
    """None for the bundle's, and for models of several classes."""


class Computation(Closing):
    """What a session needs of an engine. Frames come in order; some never reach ``read``."""

    views: str = ""
    """Views in use of a model of many, in words."""

    @abc.abstractmethod
    def compute(self, job: Job) -> Any:
        """Preprocess and infer: what the engine's thread does."""

    @abc.abstractmethod
    def read(self, job: Job, computed: Any) -> Mask:
        """The mask, uint8 (H, W) of the frame's size; called by the display's thread."""


class HostComputation(Computation):
    """Through the host's memory, with the stages of ``Model.bound_stages``."""

    def __init__(self, model: Model, *, close_model: bool = True) -> None:
        """Use a model.

        Args:
            model: nobody else's, if it is to be closed.
            close_model: close it with this.
        """
        self._model = model
        self._close_model = close_model
        self._stages = model.bound_stages()
        self._smoothing = _Smoothing(model.readout.time_constant_ms)

    def compute(self, job: Job) -> Any:
        """See ``Computation``."""
        tensors = self._stages.preprocess(job.frame.image, region=job.region)
        return self._stages.infer(tensors)

    def read(self, job: Job, computed: Any) -> Mask:
        """See ``Computation``."""
        result = self._stages.read_out(
            computed,
            job.frame.image.shape[:2],
            threshold=job.threshold,
            memory=self._smoothing.memory(job),
            region=job.region,
        )
        return result.mask

    def close(self) -> None:
        """Free the model, if it is this one's."""
        if self._close_model:
            self._model.close()


class DeviceComputation(Computation):
    """Through the GPU: a frame goes up once, its mask comes down once."""

    def __init__(self, model: Model, *, close_model: bool = True) -> None:
        """Use a model whose engine works on the device (``model_unavailable_reason`` is None)."""
        self._model = model
        self._close_model = close_model
        self._smoothing = _Smoothing(model.readout.time_constant_ms)
        self._path: FramePath | None = None
        self._path_is_for: tuple[Any, ...] = ()

    def compute(self, job: Job) -> Any:
        """See ``Computation``. Another frame size or region opens the frame path anew."""
        height, width = job.frame.image.shape[:2]
        wanted = ((height, width), job.region)
        if self._path is None or self._path_is_for != wanted:
            self._close_path()
            self._path = open_frame_path(
                self._model,
                (height, width),
                wanted=Wanted(overlay=False, mask=True, statistics=False),
                region=job.region,
            )
            self._path_is_for = wanted
        memory = self._smoothing.memory(job)
        self._path.submit(job.frame.image, memory=memory, threshold=job.threshold)
        return self._path.collect().mask

    def read(self, job: Job, computed: Any) -> Mask:
        """See ``Computation``: the device has read it already."""
        mask: Mask = computed
        return mask

    def close(self) -> None:
        """Free the frame path, and the model if it is this one's."""
        try:
            self._close_path()
        finally:
            if self._close_model:
                self._model.close()

    def _close_path(self) -> None:
        path, self._path = self._path, None
        if path is not None:
            path.close()


def computation_for(model: Model, *, close_model: bool = True) -> Computation:
    """The way that frames take for this model: over the GPU where its engine works there."""
    if model_unavailable_reason(model) is None:
        return DeviceComputation(model, close_model=close_model)
    return HostComputation(model, close_model=close_model)


class _Smoothing:
    """The smoother of one session; it forgets where nothing may be carried over."""

    def __init__(self, time_constant_ms: float) -> None:
        self._time_constant_ms = time_constant_ms
        self._smoother: TemporalSmoother | None = None
        self._is_for: tuple[Any, ...] = ()

    def memory(self, job: Job) -> Memory | None:
        """The memory for this frame; None without smoothing."""
        if self._time_constant_ms <= 0.0:
            return None
        frame = job.frame
        kind = (frame.segment, frame.image.shape, job.region)
        if self._smoother is None or kind != self._is_for:
            self._smoother = TemporalSmoother(self._time_constant_ms)
            self._is_for = kind
        return self._smoother.step(frame.image, 1e3 * frame.captured_s)
