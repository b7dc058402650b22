"""What candidates are fed: one frame, in the form that each of them takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.engine_candidate import EngineCandidate
from edgeseg.model import Model
from edgeseg.preprocess import Preprocessor

__all__ = ["Fed", "FrameInputs"]

Fed = Callable[[Candidate], Mapping[str, Array]]
"""The inputs of a candidate, for a frame that is the same for all."""


class FrameInputs:
    """A frame, preprocessed for whoever is to answer it.

    A variant of the bundle may take the resized picture; everything else takes the planes that the
    FP32 graph and its checkpoint take.
    """

    def __init__(self, model: Model, frame: npt.NDArray[np.uint8]) -> None:
        """Preprocess a frame.

        Args:
            model: whose preprocessing serves all.
            frame: uint8 (H, W, 3), BGR.
        """
        self._frame = frame
        planes = Preprocessor(model.fed_spec).tensors(frame)
        names = [port.name for port in model.engine.inputs]
        self._planes = dict(zip(names, planes, strict=True))

    def of(self, candidate: Candidate) -> Mapping[str, Array]:
        """The tensors for ``Candidate.infer``."""
        if isinstance(candidate, EngineCandidate):
            return candidate.model.preprocess(self._frame)
        return self._planes
