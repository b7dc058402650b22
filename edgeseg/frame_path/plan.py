"""Which kernels run for a frame, in which order, and on which memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from edgeseg.backends.base import StreamEngine
from edgeseg.errors import BackendError, BackendUnavailableError, InputError
from edgeseg.frame_path.buffers import BufferSet, Region, pack_parameters
from edgeseg.gpu import Gpu
from edgeseg.kernels import cuda
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.kernels.cuda import DeviceArray, DevicePointer, DeviceView
from edgeseg.overlay import Overlay
from edgeseg.reader import ONE_VIEW
from edgeseg.readout import chosen_threshold, logit
from edgeseg.region import region_in_frame
from edgeseg.spec import (
    Flip,
    PreprocessSpec,
    ReadoutSpec,
    RegularizeSpec,
    TensorSpec,
    ViewSpec,
)

__all__ = ["Plan", "Step", "unavailable_reason"]


@dataclass(frozen=True)
class Step:
    """One piece of the work on a frame."""

    name: str
    """``preprocess``, ``inference``, ``fuse``, ``decide`` or ``draw``."""
    enqueue: Callable[[int], None]
    """Called with a ``cudaStream_t``."""


def unavailable_reason(
    readout: ReadoutSpec, preprocess: PreprocessSpec, outputs: Sequence[TensorSpec]
) -> str | None:
    """Why the frame path does not serve a model; None if it does.

    Args:
        readout: how the outputs are read.
        preprocess: how frames become inputs.
        outputs: of the engine.
    """
    if readout.regularize != RegularizeSpec():
        return "spatial regularisation (blur, holes, components) runs on the CPU only"
    grid_px = (preprocess.height_px, preprocess.width_px)
    if (
        readout.align_corners
        and not preprocess.views
        and _reads_on_grid(readout)
        and outputs[0].shape[-2:] != grid_px
    ):
        return (
            "smoothing over time of a model whose logits are aligned by their corners runs on the "
            "CPU only"
        )
    return None


def _reads_on_grid(readout: ReadoutSpec) -> bool:
    """As ``reader.Reader`` does: what needs probabilities needs them on the model's own grid."""
    return readout.fusion is not None or readout.time_constant_ms > 0.0


class Plan:
    """The work on a frame between its upload and its download.

    It computes what ``preprocess.Preprocessor`` and ``reader.Reader`` compute on the CPU. One view
    without smoothing is decided from its logits, at the size of the frame. Otherwise the views
    become probabilities on the model's grid, where the state of the smoothing is kept, and those
    are decided.

    The network's inputs and outputs, the probabilities and the intermediate rows of the resampling
    exist once: everything here runs on one stream, one frame after the other.
    """

    def __init__(
        self,
        gpu: Gpu,
        engine: StreamEngine,
        preprocess: PreprocessSpec,
        readout: ReadoutSpec,
        frame_hw_px: tuple[int, int],
        *,
        rows: Sequence[Sequence[int]] | None,
        overlay: Overlay | None,
        native: CudaLibrary | None,
        hold: ExitStack,
    ) -> None:
        """Allocate what does not depend on the frame; arguments as for ``FramePath``."""
        reason = unavailable_reason(readout, preprocess, engine.outputs)
        if reason is not None:
            raise BackendUnavailableError(f"the frame path on a GPU does not serve this: {reason}")
        views = preprocess.views or (ViewSpec(preprocess.height_px, preprocess.width_px),)
        self._rows = rows or [range(len(view.flips)) for view in views]
        self.channels = _check_ports(engine, views, self._rows, readout)
        self.smooths = readout.time_constant_ms > 0.0
        """Whether frames are smoothed over time."""
        self.region = region_in_frame(preprocess.roi, frame_hw_px)
        self._engine = engine
        self._views = views
        self._readout = readout
        self._roi = preprocess.roi
        self._frame_hw_px = frame_hw_px
        self._overlay = overlay
        if overlay is not None and self.channels - 1 > len(overlay.colours):
            raise InputError(
                f"the model has {self.channels - 1} classes, but there are "
                f"{len(overlay.colours)} colour(s)"
            )
        self._native = native
        ports = (*engine.inputs, *engine.outputs)
        self._tensors: dict[str, DeviceArray] = {
            port.name: hold.enter_context(gpu.empty(port.shape, port.dtype)) for port in ports
        }
        self._grid_px = (preprocess.height_px, preprocess.width_px)
        self._on_grid = _reads_on_grid(readout)
        self._probability: DeviceArray | None = (
            hold.enter_context(gpu.zeros((self.channels, *self._grid_px), np.float32))
            if self._on_grid
            else None
        )
        self._resize = hold.enter_context(
            cuda.resize_plan(
                (self.region.height_px, self.region.width_px),
                views,
                [self._tensors[port.name] for port in engine.inputs],
                resample=preprocess.resample,
                scale=preprocess.scale,
                mean=preprocess.mean,
                std=preprocess.std,
                native=native,
            )
        )

    def parameters(
        self, threshold: float | None, *, keep: float = 0.0, reset: bool = True
    ) -> npt.NDArray[np.uint8]:
        """What may change from frame to frame (``pack_parameters``).

        Args:
            threshold: for one class, instead of the specification's.
            keep: weight of the previous probabilities.
            reset: whether to forget them.

        Raises:
            InputError: the threshold lies outside (0, 1), or was given for several classes; or
                ``keep`` lies outside [0, 1).
        """
        limit = chosen_threshold(self._readout, threshold)
        fusion = self._readout.fusion or ONE_VIEW
        settings = cuda.fusion_settings(
            weighting=fusion.weighting,
            temperature=fusion.temperature,
            threshold=limit,
            keep=keep,
            reset=reset,
        )
        return pack_parameters(settings, limit if self._on_grid else logit(limit))

    def steps(self, buffers: BufferSet) -> tuple[Step, ...]:
        """The work on the frame that lies in ``buffers``, in order."""
        region = buffers.frame if self._roi is None else Region(buffers.frame, self._roi)
        steps = [
            Step("preprocess", lambda stream: self._resize.run(region, stream=stream)),
            Step("inference", partial(self._engine.enqueue, self._tensors)),
        ]
        if self._on_grid:
            steps.append(Step("fuse", partial(self._fuse, buffers)))
        steps.append(Step("decide", partial(self._decide, buffers)))
        if self._overlay is not None:
            steps.append(Step("draw", partial(self._draw, self._overlay, buffers)))
        return tuple(steps)

    def _fuse(self, buffers: BufferSet, stream: int) -> None:
        views = [
            self._view(port, row, flips[row])
            for port, (flips, rows) in zip(
                self._engine.outputs,
                zip((view.flips for view in self._views), self._rows, strict=True),
                strict=True,
            )
            for row in rows
        ]
        cuda.fuse_views(
            views,
            *self._grid_px,
            settings=buffers.settings,
            # The state is what is decided: smoothed probabilities need no memory beside it.
            state=self._probability if self.smooths else None,
            probability=None if self.smooths else self._probability,
            stream=stream,
            native=self._native,
        )

    def _decide(self, buffers: BufferSet, stream: int) -> None:
        region = self.region
        first = self._engine.outputs[0]
        cuda.decide_mask(
            self._view(first, 0).logits if self._probability is None else self._probability,
            buffers.mask,
            level=buffers.level if self.channels == 1 else None,
            window_px=(region.x_px, region.y_px, region.width_px, region.height_px),
            align_corners=self._readout.align_corners and not self._on_grid,
            counts=buffers.counts,
            stream=stream,
            native=self._native,
        )

    def _draw(self, overlay: Overlay, buffers: BufferSet, stream: int) -> None:
        cuda.blend_overlay(
            buffers.frame,
            buffers.mask,
            overlay.colours_bgr,
            alpha=overlay.alpha,
            outline_px=overlay.outline_px(self._frame_hw_px),
            stream=stream,
            native=self._native,
        )

    def _view(self, port: TensorSpec, row: int, flip: Flip = "none") -> DeviceView:
        """One copy of a view within an output's batch."""
        address, _ = self._tensors[port.name].__cuda_array_interface__["data"]
        shape = port.shape[1:]
        offset = row * int(np.prod(shape)) * np.dtype(port.dtype).itemsize
        return DeviceView(DevicePointer(address + offset, shape, port.dtype), flip)


def _check_ports(
    engine: StreamEngine,
    views: Sequence[ViewSpec],
    rows: Sequence[Sequence[int]],
    readout: ReadoutSpec,
) -> int:
    """The number of channels of an engine whose inputs and outputs are those of the views."""
    if not len(engine.inputs) == len(engine.outputs) == len(views) == len(rows):
        raise BackendError(
            f"the engine has {len(engine.inputs)} input(s) and {len(engine.outputs)} output(s), "
            f"the frame path needs one of each for {len(views)} view(s)"
        )
    channels = engine.outputs[0].shape[1] if len(engine.outputs[0].shape) == 4 else 0
    for given, answer, view, chosen in zip(engine.inputs, engine.outputs, views, rows, strict=True):
        batch = len(view.flips)
        shape = (batch, 3, view.height_px, view.width_px)
        if given.dtype != "float32" or given.shape != shape:
            raise BackendError(
                f"the engine's input {given.name} is {given.dtype} {given.shape}, the frame path "
                f"makes float32 {shape}"
            )
        if (
            answer.dtype not in ("float32", "float16")
            or len(answer.shape) != 4
            or answer.shape[:2] != (batch, channels)
        ):
            raise BackendError(
                f"the engine's output {answer.name} is {answer.dtype} {answer.shape}, the frame "
                f"path reads float32 or float16 ({batch}, {channels or 'C'}, h, w)"
            )
        if not chosen or not all(0 <= row < batch for row in chosen):
            raise BackendError(f"rows {list(chosen)} are not in the batch of output {answer.name}")
    if (channels == 1) != (readout.activation == "sigmoid"):
        raise InputError(f"{readout.activation} read-out does not fit {channels} channel(s)")
    return channels
