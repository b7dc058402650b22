"""The one definition of preprocessing, for run time, calibration, evaluation and self-tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeseg import kernels
from edgeseg.errors import InputError
from edgeseg.spec import PreprocessSpec

__all__ = ["Preprocessor", "check_frame"]


def check_frame(frame: npt.NDArray[np.uint8]) -> None:
    """Refuse anything that is not a non-empty uint8 (H, W, 3) array.

    Raises:
        InputError: saying what was found instead.
    """
    if not isinstance(frame, np.ndarray):
        raise InputError(
            f"a frame is a numpy array (H, W, 3) of uint8 BGR, got {type(frame).__name__}"
        )
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise InputError(
            "a frame is a non-empty uint8 array (H, W, 3) in BGR order, "
            f"got {frame.dtype} {frame.shape}"
        )


class Preprocessor:
    """Turns frames into the network's input by one ``PreprocessSpec``.

    It equals, in the authors' code, PIL's ``convert("RGB")`` and antialiased ``resize``, then
    torchvision's ``ToTensor`` and ``Normalize``.
    """

    def __init__(self, spec: PreprocessSpec, threads: int = 1) -> None:
        self.spec = spec
        self.threads = threads

    def __call__(
        self,
        frame: npt.NDArray[np.uint8],
        out: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Preprocess one frame.

        Args:
            frame: uint8 (H, W, 3), BGR, any size that holds the region of interest.
            out: optional float32 (1, 3, height_px, width_px) to write into.

        Returns:
            float32 (1, 3, height_px, width_px), RGB, normalised; ``out`` if it was given.

        Raises:
            InputError: the frame is of another shape or dtype, or smaller than the region.
        """
        check_frame(frame)
        spec = self.spec
        return kernels.resize_normalize(
            frame,
            spec.height_px,
            spec.width_px,
            resample=spec.resample,
            scale=spec.scale,
            mean=spec.mean,
            std=spec.std,
            roi=spec.roi,
            out=out,
            threads=self.threads,
        )

    def tensors(
        self,
        frame: npt.NDArray[np.uint8],
        out: Sequence[npt.NDArray[np.float32]] | None = None,
    ) -> tuple[npt.NDArray[np.float32], ...]:
        """The inputs of the network for one frame, in their order.

        Args:
            frame: as for ``__call__``.
            out: arrays of the shapes that are returned to write into, C-contiguous, such as
                ``Binding.inputs``; None for new ones.

        Returns:
            Without views one array, as ``__call__``; else one (len(flips), 3, height, width) for
            each view, float32, RGB, normalised. Those of ``out`` if it was given.

        Raises:
            InputError: as ``__call__``, or ``out`` does not fit.
        """
        spec = self.spec
        if not spec.views:
            if out is None:
                return (self(frame),)
            if len(out) != 1:
                raise InputError(f"the network has one input, got {len(out)} arrays to write into")
            return (self(frame, out[0]),)
        check_frame(frame)
        return kernels.resize_normalize_views(
            frame,
            spec.views,
            resample=spec.resample,
            scale=spec.scale,
            mean=spec.mean,
            std=spec.std,
            roi=spec.roi,
            out=out,
            threads=self.threads,
        )
