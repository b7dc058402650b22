"""What one writes for a frame without edgeseg: OpenCV, eager torch, OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.bench.fuse import opencv_numpy
from edgeseg.kernels import View
from edgeseg.overlay import default_colours
from edgeseg.spec import PreprocessSpec, ReadoutSpec, TensorSpec

__all__ = ["FILL", "EagerFrames", "FrameCase"]

Frame = npt.NDArray[np.uint8]

FILL = 0.4
"""Opacity of the overlay."""


@dataclass(frozen=True)
class FrameCase:
    """A model, in the two forms that are compared, and how frames go in and masks come out."""

    name: str
    original: Any
    """The authors' formulation: a torch module from an image to logits."""
    exportable: Any
    """The same for fixed sizes, with one argument and one result for each view."""
    preprocess: PreprocessSpec
    readout: ReadoutSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class EagerFrames:
    """What one writes without edgeseg: OpenCV, the authors' module in eager torch, OpenCV.

    ``cv2.resize``, BGR to RGB and normalisation in float, the module, logits back to the host,
    ``cv2.resize`` to the frame, threshold (several views: sigmoid, entropy weights and mean in
    numpy), and the overlay by ``cv2.addWeighted``.
    """

    def __init__(
        self, torch: Any, case: FrameCase, *, half: bool = False, device: str = "cuda"
    ) -> None:
        self._torch = torch
        self._spec = case.preprocess
        self._readout = case.readout
        self._half = half
        self._device = device
        self._module = case.original
        mean, std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (case.preprocess.mean, case.preprocess.std)
        )
        self._mean, self._std = mean, std
        self._colour = np.array(default_colours(1)[0][::-1], np.uint8)

    def __call__(self, frame: Frame) -> tuple[Frame, npt.NDArray[np.uint8]]:
        """Overlay and mask of a frame."""
        mask = self._mask(frame)
        fill = frame.copy()
        fill[mask > 0] = self._colour
        return cv2.addWeighted(fill, FILL, frame, 1.0 - FILL, 0.0), mask

    def _mask(self, frame: Frame) -> npt.NDArray[np.uint8]:
        height, width = frame.shape[:2]
        if not self._spec.views:
            size = (self._spec.width_px, self._spec.height_px)
            logits = self._infer([cv2.resize(frame, size)])[0, 0]
            large = cv2.resize(logits, (width, height))
            above: npt.NDArray[np.uint8] = (large > 0.0).view(np.uint8)
            return above
        views = []
        for view in self._spec.views:
            small = cv2.resize(frame, (view.width_px, view.height_px))
            copies = [_flipped(small, flip) for flip in view.flips]
            for logits, flip in zip(self._infer(copies), view.flips, strict=True):
                views.append(View(logits, flip))
        fused = opencv_numpy(views, self._spec.height_px, self._spec.width_px)[0]
        large = cv2.resize(np.squeeze(fused), (width, height))
        mask: npt.NDArray[np.uint8] = (large > self._readout.threshold).view(np.uint8)
        return mask

    def _infer(self, images: Sequence[Frame]) -> npt.NDArray[np.float32]:
        torch = self._torch
        rgb = np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images])
        with (
            torch.inference_mode(),
            torch.autocast(self._device, torch.float16, enabled=self._half),
        ):
            batch = torch.from_numpy(rgb).to(self._device).permute(0, 3, 1, 2).float() / 255.0
            logits = self._module((batch - self._mean) / self._std)
            if isinstance(logits, tuple):
                (logits,) = logits
            answer: npt.NDArray[np.float32] = logits.float().cpu().numpy()
        return answer


def _flipped(image: Frame, flip: str) -> Frame:
    codes = {"h": 1, "v": 0, "hv": -1}
    return image if flip == "none" else cv2.flip(image, codes[flip])
