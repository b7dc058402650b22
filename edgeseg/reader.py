"""From an engine's outputs to probabilities and a mask, for one view or many."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg import kernels
from edgeseg.readout import (
    activate,
    chosen_threshold,
    mask_from_logits,
    mask_from_probability,
    resize_logits,
)
from edgeseg.regularize import regularize
from edgeseg.spec import FusionSpec, PreprocessSpec, ReadoutSpec, RegularizeSpec
from edgeseg.temporal import Memory

__all__ = ["ONE_VIEW", "Reader", "Reading"]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]

ONE_VIEW = FusionSpec("mean")
"""How one view becomes probabilities where they are needed on the grid."""


class Reading:
    """Mask and probabilities at one size.

    Attributes:
        mask: uint8 (H, W), 0 background, else the index of the class.
    """

    def __init__(self, mask: npt.NDArray[np.uint8], probability: Callable[[], FloatArray]) -> None:
        self.mask = mask
        self.probability = probability
        """Computes float32 (H, W) of one class, or (C, H, W) of several."""


class Reader:
    """The read-out of one bundle.

    One view: logits are resized to the wanted size and activated there. Several views, and whatever
    needs probabilities on the model's own grid (regularisation, smoothing over time): the views are
    fused on that grid (``kernels.fuse_views``), regularised, and the probabilities are resized.
    """

    def __init__(
        self,
        preprocess: PreprocessSpec,
        spec: ReadoutSpec,
        *,
        rows: Sequence[Sequence[int]] | None = None,
        threads: int = 1,
    ) -> None:
        """Read what the network answers to inputs made by ``preprocess``.

        Args:
            preprocess: its views are those to fuse, in the order of the outputs.
            spec: the read-out.
            rows: for each view the rows of the output's batch that belong to its flips; None where
                the batch holds just them, in order.
            threads: of the fusion.
        """
        self.grid_px = (preprocess.height_px, preprocess.width_px)
        self.spec = spec
        self.threads = threads
        self._views = preprocess.views
        self._rows = rows or [range(len(view.flips)) for view in self._views]
        self._on_grid = _needs_grid(spec)

    def read(
        self,
        outputs: Sequence[Array],
        size_px: tuple[int, int] | None = None,
        *,
        threshold: float | None = None,
        memory: Memory | None = None,
    ) -> Reading:
        """Read the outputs of one frame.

        Args:
            outputs: the engine's outputs in order: (N, C, h, w) float32 or float16. The reading
                keeps none of their memory, which may be written to afterwards.
            size_px: (height, width) of the result; None for the model's own grid.
            threshold: for one class, instead of the specification's; between 0 and 1.
            memory: of the frames before this one; updated. None: each frame for itself.

        Raises:
            InputError: a threshold outside (0, 1), or for several classes.
        """
        size = size_px or self.grid_px
        if not self._on_grid and memory is None:
            logits = np.asarray(outputs[0][0], np.float32)
            resized = resize_logits(logits, *size, align_corners=self.spec.align_corners)
            if np.may_share_memory(resized, outputs[0]):
                # At the network's own size nothing was resized, and the reading, which looks at
                # the logits again when it is asked for probabilities, outlives the outputs.
                resized = resized.copy()
            mask = mask_from_logits(resized, self.spec, threshold)
            return Reading(mask, lambda: activate(resized, self.spec))
        limit = chosen_threshold(self.spec, threshold)
        probability = self.fuse(outputs, memory)
        probability = regularize(probability, self.spec.regularize, limit)
        planes = probability.reshape(-1, *self.grid_px)
        at_size = resize_logits(planes, *size)
        if probability.ndim == 2:
            at_size = at_size[0]
        return Reading(mask_from_probability(at_size, limit), lambda: at_size)

    def reading_as(self, spec: ReadoutSpec) -> Reader:
        """A reader of the same outputs by another specification."""
        other = copy.copy(self)
        other.spec = spec
        other._on_grid = _needs_grid(spec)
        return other

    def fuse(self, outputs: Sequence[Array], memory: Memory | None = None) -> FloatArray:
        """Fused, not yet regularised probabilities on the grid: float32 (H, W) or (C, H, W)."""
        fusion = self.spec.fusion or ONE_VIEW
        views = self._as_views(outputs)
        channels = views[0].logits.shape[0]
        shape = self.grid_px if channels == 1 else (channels, *self.grid_px)
        fused = kernels.fuse_views(
            views,
            *self.grid_px,
            weighting=fusion.weighting,
            temperature=fusion.temperature,
            threshold=self.spec.threshold,
            # The buffer first: a new one turns ``reset`` on.
            state=None if memory is None else memory.buffer(shape),
            keep=0.0 if memory is None else memory.keep,
            reset=False if memory is None else memory.reset,
            threads=self.threads,
        )
        probability: FloatArray = fused.probability
        return probability

    def _as_views(self, outputs: Sequence[Array]) -> list[kernels.View]:
        if not self._views:
            logits = outputs[0][0]
            if self.spec.align_corners:
                logits = resize_logits(
                    np.asarray(logits, np.float32), *self.grid_px, align_corners=True
                )
            return [kernels.View(logits)]
        return [
            kernels.View(output[row], flip)
            for output, view, rows in zip(outputs, self._views, self._rows, strict=True)
            for flip, row in zip(view.flips, rows, strict=True)
        ]


def _needs_grid(spec: ReadoutSpec) -> bool:
    return spec.fusion is not None or spec.regularize != RegularizeSpec()
