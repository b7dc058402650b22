"""A peer that reads its views out as one would without edgeseg."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.opencv_fusion import fuse_with_opencv
from edgeseg.bench.peers.spec import CandidateSpec
from edgeseg.errors import UsageError

__all__ = ["FusingPeer"]


class FusingPeer(Candidate):
    """Another peer, with the fusion of its views by OpenCV and numpy.

    ``read_out(infer(tensors), frame_hw_px)`` is what compares with the inference and the read-out
    of edgeseg together. While it is open, OpenCV has the peer's number of threads in the whole
    process, so that both sides have the same.
    """

    def __init__(self, inner: Candidate, spec: CandidateSpec) -> None:
        if spec.preprocess is None or spec.readout is None or not spec.preprocess.views:
            raise UsageError(
                f"{spec.kind}: there is nothing to fuse in a model that reads one view"
            )
        self._inner = inner
        self._preprocess, self._readout = spec.preprocess, spec.readout
        self._names = tuple(output.name for output in spec.outputs)
        self.name, self.version = inner.name, inner.version
        self.precision, self.threads = inner.precision, inner.threads
        self.parallel = inner.parallel
        self.how = (
            f"{inner.how}; its views are turned back and resized with OpenCV, weighted and "
            "averaged with numpy"
        )
        self._threads_before: int | None = cv2.getNumThreads()
        cv2.setNumThreads(spec.threads)

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The inner peer's logits; see ``Candidate.infer``."""
        return self._inner.infer(tensors)

    def read_out(
        self, outputs: Mapping[str, Array], frame_hw_px: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        """The mask of a frame: uint8 (height, width), 0 background, else the class.

        Args:
            outputs: what `infer` gave.
            frame_hw_px: (height, width) of the frame.
        """
        logits = [outputs[name] for name in self._names]
        return fuse_with_opencv(logits, self._preprocess, self._readout, frame_hw_px)

    def close(self) -> None:
        """Close the inner peer, and give OpenCV its threads back."""
        if self._threads_before is not None:
            cv2.setNumThreads(self._threads_before)
            self._threads_before = None
        self._inner.close()
