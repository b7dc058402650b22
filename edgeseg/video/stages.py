"""What happens to a frame between decoding and encoding, cut into steps that can overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeseg.region import region_in_frame
from edgeseg.spec import RoiSpec
from edgeseg.temporal import Memory, TemporalSmoother
from edgeseg.video.base import Frame
from edgeseg.video.pipeline import Stage

__all__ = [
    "Draw",
    "FrameQueue",
    "Picture",
    "Regions",
    "Segmenter",
    "device_stages",
    "frame_stages",
]

Picture = npt.NDArray[np.uint8]
Draw = Callable[[Frame, Any], Picture]
"""Makes the picture to write from a frame and the result of ``Segmenter.read_out`` or
``FrameQueue.collect``."""


Regions = Callable[[Frame], RoiSpec | None]
"""The region of interest of a frame, None for all of it; called once for every frame, in order."""


class Segmenter(Protocol):
    """The stages of ``edgeseg.Model``, or of something that stands in for it."""

    def preprocess(self, frame: Picture, *, region: RoiSpec | None = None) -> Mapping[str, Any]:
        """The engine's inputs for a frame; None for the model's own region."""

    def infer(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """The engine's outputs for its inputs."""

    def read_out(
        self,
        outputs: Mapping[str, Any],
        frame_hw_px: tuple[int, ...],
        *,
        threshold: float | None = None,
        memory: Memory | None = None,
        region: RoiSpec | None = None,
    ) -> Any:
        """The result for a frame of that height and width; it has ``mask`` and ``area_px``."""


class FrameQueue(Protocol):
    """``edgeseg.frame_path.FramePath``, or something that stands in for it."""

    def submit(self, frame: Picture, *, memory: Memory | None = None) -> None:
        """Start the work on a frame."""

    def collect(self) -> Any:
        """The result of the oldest frame; it has ``mask`` and ``area_px``."""


def frame_stages(
    model: Segmenter,
    draw: Draw,
    *,
    threshold: float | None = None,
    parallel: int = 1,
    smoother: TemporalSmoother | None = None,
    regions: Regions | None = None,
) -> tuple[Stage, ...]:
    """Stages from a ``Frame`` to (frame, picture, whether there is foreground).

    Preprocessing and read-out have threads of their own, so the engine waits for neither.

    Args:
        model: its methods may be called from several threads at once.
        draw: makes the picture; may draw on the frame's own pixels.
        threshold: for ``read_out``.
        parallel: how many frames the engine takes at once (``Engine.parallel``).
        smoother: smooths over the frames, which then need a time; None: each for itself.
        regions: of interest, instead of the model's own; None for that.
    """

    def preprocess(frame: Frame) -> Any:
        # The only worker of its stage: frames come in order, as whoever follows regions needs them.
        region = None
        if regions is not None:
            region = region_in_frame(regions(frame), frame.image.shape)
        return frame, region, model.preprocess(frame.image, region=region)

    def infer(item: Any) -> Any:
        frame, region, tensors = item
        return frame, region, model.infer(tensors)

    def read_out(item: Any) -> Any:
        # The only worker of its stage: frames come in order, as the smoother needs them.
        frame, region, outputs = item
        result = model.read_out(
            outputs,
            frame.image.shape[:2],
            threshold=threshold,
            memory=_step(smoother, frame, region),
            region=region,
        )
        return frame, result

    def draw_result(item: Any) -> Any:
        frame, result = item
        return frame, draw(frame, result), result.area_px > 0

    return (
        Stage("preprocess", preprocess),
        Stage("inference", infer, workers=parallel),
        Stage("read-out", read_out),
        Stage("draw", draw_result),
    )


def device_stages(
    path: FrameQueue, draw: Draw, *, smoother: TemporalSmoother | None = None
) -> tuple[Stage, ...]:
    """Stages from a ``Frame`` to (frame, picture, whether there is foreground), on a device.

    While one frame is waited for, the next ones are already on their way.

    Args:
        path: for frames of the video's size.
        draw: makes the picture from what was collected.
        smoother: smooths over the frames, which then need a time; None: each for itself.
    """

    def submit(frame: Frame) -> Frame:
        # The only worker of its stage: frames come in order, as the smoother needs them.
        path.submit(frame.image, memory=_step(smoother, frame))
        return frame

    def collect(frame: Frame) -> Any:
        result = path.collect()
        return frame, draw(frame, result), result.area_px > 0

    return (Stage("submit", submit), Stage("collect", collect))


def _step(
    smoother: TemporalSmoother | None, frame: Frame, region: RoiSpec | None = None
) -> Memory | None:
    if smoother is None:
        return None
    return smoother.step(frame.image, 1e3 * (frame.time_s or 0.0), region=region)
