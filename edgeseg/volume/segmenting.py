"""Grey slices through a model, and optionally a Gaussian across them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg._progress import Progress, silent
from edgeseg.errors import BackendError
from edgeseg.video.pipeline import PipelineReport, Stage, run_pipeline
from edgeseg.volume.zsmooth import SlabSmoother

__all__ = ["SliceSegmenter", "segment_slices"]


class SliceSegmenter(Protocol):
    """The stages of ``edgeseg.Model``, or of something that stands in for it."""

    def preprocess(self, frame: npt.NDArray[np.uint8], /) -> Mapping[str, Any]:
        """The engine's inputs for a frame: uint8 (H, W, 3), BGR."""

    def infer(self, tensors: Mapping[str, Any], /) -> Mapping[str, Any]:
        """The engine's outputs for its inputs."""

    def read_out(
        self,
        outputs: Mapping[str, Any],
        frame_hw_px: tuple[int, ...],
        /,
        *,
        threshold: float | None = None,
    ) -> Any:
        """The result for a frame of that size; it has ``mask`` and ``probability``."""


def segment_slices(
    model: SliceSegmenter,
    slices: npt.NDArray[np.uint8],
    *,
    sigma_slices: float = 0.0,
    threshold: float | None = None,
    smoothed_threshold: float | None = None,
    parallel: int = 1,
    progress: Progress = silent,
) -> tuple[npt.NDArray[np.uint8], PipelineReport]:
    """Segment each slice.

    Slices are prepared, inferred (several at once) and read in overlapping threads. Memory beyond
    ``slices`` and the masks does not grow with their number.

    Args:
        model: its methods may be called from several threads at once.
        slices: uint8 (slice, row, column).
        sigma_slices: standard deviation of the Gaussian across slices; 0: each for itself.
        threshold: for ``read_out``.
        smoothed_threshold: above which a smoothed probability of one class is foreground; None for
            several classes.
        parallel: how many slices the engine takes at once (``Engine.parallel``).
        progress: called with ("segment", slices done, slices in all).

    Returns:
        uint8 (slice, row, column) class indices, and what the stages took.

    Raises:
        BackendError: the engine failed, or its answers are not finite.
    """
    masks = np.empty(slices.shape, np.uint8)
    smoother = (
        SlabSmoother(len(slices), sigma_slices, threshold=smoothed_threshold)
        if sigma_slices > 0.0
        else None
    )
    done = 0

    def preprocess(grey: npt.NDArray[np.uint8]) -> Any:
        return model.preprocess(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))

    def read_out(outputs: Any) -> Any:
        # A threshold would turn NaN into background, the fusion would leave it out, and a broken
        # engine would make a healthy patient.
        if not all(np.isfinite(output).all() for output in outputs.values()):
            raise BackendError(
                "the engine's logits are not finite: its arithmetic overflows; use the fp16-safe "
                "or fp32 precision"
            )
        result = model.read_out(outputs, slices.shape[1:], threshold=threshold)
        return result.mask if smoother is None else result.probability

    def collect(value: Any) -> None:
        nonlocal done
        if smoother is None:
            masks[done] = value
        else:
            ready = smoother.push(value)
            if ready is not None:
                first, smoothed = ready
                masks[first : first + len(smoothed)] = smoothed
        done += 1
        progress("segment", done, len(slices))

    report = run_pipeline(
        iter(slices),
        (
            Stage("preprocess", preprocess),
            Stage("inference", model.infer, workers=parallel),
            Stage("read-out", read_out),
        ),
        collect,
        read_name="slice",
        write_name="smooth",
    )
    return masks, report
