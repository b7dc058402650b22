"""What happens to a frame between decoding and encoding, cut into steps that can overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeseg.temporal import Memory, TemporalSmoother
from edgeseg.video.base import Frame
from edgeseg.video.pipeline import Stage

__all__ = ["Draw", "Picture", "Segmenter", "frame_stages"]

Picture = npt.NDArray[np.uint8]
Draw = Callable[[Frame, Any], Picture]
"""Makes the picture to write from a frame and the result of ``Segmenter.read_out``."""


class Segmenter(Protocol):
    """The stages of ``edgeseg.Model``, or of something that stands in for it."""

    def preprocess(self, frame: Picture) -> Mapping[str, Any]:
        """The engine's inputs for a frame."""

    def infer(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """The engine's outputs for its inputs."""

    def read_out(
        self,
        outputs: Mapping[str, Any],
        frame_hw_px: tuple[int, ...],
        *,
        threshold: float | None = None,
        memory: Memory | None = None,
    ) -> Any:
        """The result for a frame of that height and width; it has ``mask`` and ``area_px``."""


def frame_stages(
    model: Segmenter,
    draw: Draw,
    *,
    threshold: float | None = None,
    parallel: int = 1,
    smoother: TemporalSmoother | None = None,
) -> tuple[Stage, ...]:
    """Stages from a ``Frame`` to (frame, picture, whether there is foreground).

    Preprocessing and read-out have threads of their own, so the engine waits for neither.

    Args:
        model: its methods may be called from several threads at once.
        draw: makes the picture; may draw on the frame's own pixels.
        threshold: for ``read_out``.
        parallel: how many frames the engine takes at once (``Engine.parallel``).
        smoother: smooths over the frames, which then need a time; None: each for itself.
    """

    def preprocess(frame: Frame) -> Any:
        return frame, model.preprocess(frame.image)

    def infer(item: Any) -> Any:
        frame, tensors = item
        return frame, model.infer(tensors)

    def read_out(item: Any) -> Any:
        # The only worker of its stage: frames come in order, as the smoother needs them.
        frame, outputs = item
        memory = None
        if smoother is not None:
            memory = smoother.step(frame.image, 1e3 * (frame.time_s or 0.0))
        size = frame.image.shape[:2]
        return frame, model.read_out(outputs, size, threshold=threshold, memory=memory)

    def draw_result(item: Any) -> Any:
        frame, result = item
        return frame, draw(frame, result), result.area_px > 0

    return (
        Stage("preprocess", preprocess),
        Stage("inference", infer, workers=parallel),
        Stage("read-out", read_out),
        Stage("draw", draw_result),
    )
