"""The one definition of preprocessing, for run time, calibration, evaluation and self-tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg import kernels
from edgeseg.errors import BundleError, InputError
from edgeseg.region import region_in_frame
from edgeseg.spec import Flip, PreprocessSpec, RoiSpec, TensorSpec, ViewSpec

__all__ = ["Preprocessor", "as_picture", "check_frame", "takes_pictures"]

_CV2_FLIPS: dict[Flip, int] = {"h": 1, "v": 0, "hv": -1}

Array = npt.NDArray[Any]


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


def as_picture(planes: TensorSpec) -> TensorSpec:
    """The input of the same name that takes the resized picture: uint8 NHWC, BGR.

    Args:
        planes: an input of shape (N, 3, height, width) that takes normalised planes.
    """
    batch, colours, height_px, width_px = planes.shape
    return dataclasses.replace(
        planes, dtype="uint8", shape=(batch, height_px, width_px, colours), layout="NHWC"
    )


def takes_pictures(inputs: Sequence[TensorSpec]) -> bool:
    """Whether inputs take resized pictures (uint8) instead of normalised planes (float32).

    Raises:
        BundleError: they are of another type, or of both.
    """
    dtypes = {spec.dtype for spec in inputs}
    if dtypes not in ({"float32"}, {"uint8"}):
        raise BundleError(
            f"inputs are all float32 or all uint8, got {', '.join(sorted(dtypes)) or 'none'}"
        )
    return dtypes == {"uint8"}


class Preprocessor:
    """Turns frames into the network's input by one ``PreprocessSpec``.

    It equals, in the authors' code, PIL's ``convert("RGB")`` and antialiased ``resize``, then
    torchvision's ``ToTensor`` and ``Normalize``. For a graph that contains the normalisation
    (``calib.picture``) it stops after the resize, whose 8-bit values are the same.
    """

    def __init__(self, spec: PreprocessSpec, threads: int = 1, *, pictures: bool = False) -> None:
        """Make nothing yet.

        Args:
            spec: what to do.
            threads: 1 to 64, for each frame.
            pictures: make resized pictures, uint8 (N, height, width, 3) BGR, instead of normalised
                planes, float32 (N, 3, height, width) RGB; ``takes_pictures`` says which a graph
                wants.
        """
        self.spec = spec
        self.threads = threads
        self.pictures = pictures

    def __call__(
        self,
        frame: npt.NDArray[np.uint8],
        out: Array | None = None,
        *,
        region: RoiSpec | None = None,
    ) -> Array:
        """Preprocess one frame.

        Args:
            frame: uint8 (H, W, 3), BGR, any size that holds the region of interest.
            out: optional array of what is returned to write into, C-contiguous.
            region: of interest in this frame; None for the specification's, if it has one.

        Returns:
            float32 (1, 3, height_px, width_px), RGB, normalised, or the picture, uint8 (1,
            height_px, width_px, 3), BGR; ``out`` if it was given.

        Raises:
            InputError: the frame is of another shape or dtype, or smaller than the region; ``out``
                does not fit.
        """
        roi = self._region(frame, region)
        spec = self.spec
        if self.pictures:
            view = ViewSpec(spec.height_px, spec.width_px)
            return self._pictures(frame, roi, (view,), None if out is None else (out,))[0]
        return kernels.resize_normalize(
            frame,
            spec.height_px,
            spec.width_px,
            resample=spec.resample,
            scale=spec.scale,
            mean=spec.mean,
            std=spec.std,
            roi=roi,
            out=out,
            threads=self.threads,
        )

    def tensors(
        self,
        frame: npt.NDArray[np.uint8],
        out: Sequence[Array] | None = None,
        *,
        region: RoiSpec | None = None,
    ) -> tuple[Array, ...]:
        """The inputs of the network for one frame, in their order.

        Args:
            frame: as for ``__call__``.
            out: arrays of the shapes that are returned to write into, C-contiguous, such as
                ``Binding.inputs``; None for new ones.
            region: as for ``__call__``.

        Returns:
            Without views one array, as ``__call__``; else for each view one of the view's size with
            a copy for each of its flips: (len(flips), 3, height, width), float32, RGB, normalised,
            or (len(flips), height, width, 3), uint8, BGR. Those of ``out`` if it was given.

        Raises:
            InputError: as ``__call__``, or ``out`` does not fit.
        """
        spec = self.spec
        if not spec.views:
            if out is None:
                return (self(frame, region=region),)
            if len(out) != 1:
                raise InputError(f"the network has one input, got {len(out)} arrays to write into")
            return (self(frame, out[0], region=region),)
        roi = self._region(frame, region)
        if self.pictures:
            return self._pictures(frame, roi, spec.views, out)
        return kernels.resize_normalize_views(
            frame,
            spec.views,
            resample=spec.resample,
            scale=spec.scale,
            mean=spec.mean,
            std=spec.std,
            roi=roi,
            out=out,
            threads=self.threads,
        )

    def _region(self, frame: npt.NDArray[np.uint8], region: RoiSpec | None) -> RoiSpec:
        """What of the frame is looked at, both being checked."""
        check_frame(frame)
        return region_in_frame(region or self.spec.roi, frame.shape[:2])

    def _pictures(
        self,
        frame: npt.NDArray[np.uint8],
        roi: RoiSpec,
        views: Sequence[ViewSpec],
        out: Sequence[Array] | None,
    ) -> tuple[Array, ...]:
        """The picture at each size, with its mirrored copies."""
        shapes = [(len(view.flips), view.height_px, view.width_px, 3) for view in views]
        if out is None:
            out = [np.empty(shape, np.uint8) for shape in shapes]
        _check_pictures(out, shapes)
        for view, copies in zip(views, out, strict=True):
            kernels.resize_u8(
                frame,
                view.height_px,
                view.width_px,
                resample=self.spec.resample,
                roi=roi,
                out=copies[0],
                threads=self.threads,
            )
            for copy, flip in zip(copies[1:], view.flips[1:], strict=True):
                cv2.flip(copies[0], _CV2_FLIPS[flip], dst=copy)
        return tuple(out)


def _check_pictures(out: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse, before anything is written, what pictures cannot be written into.

    Raises:
        InputError: saying what does not fit.
    """
    if len(out) != len(shapes):
        raise InputError(f"the network has {len(shapes)} input(s), got {len(out)} to write into")
    for array, shape in zip(out, shapes, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.shape != shape:
            found = getattr(array, "dtype", type(array).__name__), getattr(array, "shape", "")
            raise InputError(f"pictures are written into uint8 {shape}, got {found[0]} {found[1]}")
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise InputError("what pictures are written into must be C-contiguous and writeable")
