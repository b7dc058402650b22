"""A model's stages on memory that the engine reads and writes in place.

A frame is resampled straight into the engine's input, and its logits are read where the engine left
them: nothing is allocated or copied between the stages. Each frame on its way has a ``Binding`` of
its own, which it gets at ``preprocess`` and gives back at ``read_out``. There are as many as frames
were on their way at once, which whoever calls the stages bounds (``edgeseg.video.pipeline`` does).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edgeseg.backends.base import Array, Binding, Engine
from edgeseg.errors import UsageError
from edgeseg.preprocess import Preprocessor
from edgeseg.spec import RoiSpec
from edgeseg.temporal import Memory

__all__ = ["BoundStages", "Lent", "ReadOut"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class ReadOut(Protocol[R_co]):
    """``Model.read_out``; what it returns keeps no memory of the outputs."""

    def __call__(
        self,
        outputs: Mapping[str, Array],
        frame_hw_px: tuple[int, ...],
        *,
        threshold: float | None = None,
        memory: Memory | None = None,
        region: RoiSpec | None = None,
    ) -> R_co:
        """The result for a frame of that height and width."""


class Lent(dict[str, Array]):
    """Inputs or outputs by name that lie in a binding, until its frame is read."""

    def __init__(self, arrays: Mapping[str, Array], binding: Binding) -> None:
        super().__init__(arrays)
        self.binding: Binding | None = binding


class BoundStages(Generic[R]):
    """``preprocess``, ``infer`` and ``read_out`` of a model, without copies between them.

    They take the place of the methods of ``Model`` where each frame goes through all three, once:
    what one stage returns is handed to the next and to nothing else. Results belong to the caller.
    Several threads may call them.
    """

    def __init__(self, engine: Engine, preprocessor: Preprocessor, read_out: ReadOut[R]) -> None:
        """Make no binding yet.

        Args:
            engine: what is bound.
            preprocessor: fills its inputs, in their order.
            read_out: reads its outputs.
        """
        self._engine = engine
        self._preprocessor = preprocessor
        self._read_out = read_out
        self._idle: list[Binding] = []
        self._lock = threading.Lock()

    def preprocess(self, frame: npt.NDArray[np.uint8], *, region: RoiSpec | None = None) -> Lent:
        """The engine's inputs for a frame, uint8 (H, W, 3) BGR, in a binding of its own.

        Args:
            frame: any size that holds the region.
            region: as for ``Model.preprocess``; give it to ``read_out`` as well.

        Raises:
            InputError: the frame or the region does not fit.
            BackendError: the engine is closed, or refuses another binding.
        """
        with self._lock:
            # The one given back last, whose memory is still in the processor's cache.
            binding = self._idle.pop() if self._idle else None
        if binding is None:
            binding = self._engine.bind()
        try:
            self._preprocessor.tensors(frame, out=tuple(binding.inputs.values()), region=region)
        except BaseException:
            self._give_back(binding)
            raise
        return Lent(binding.inputs, binding)

    def infer(self, tensors: Mapping[str, Array]) -> Lent:
        """The engine's outputs for what ``preprocess`` returned.

        Raises:
            UsageError: they are something else, or went on already.
            BackendError: the engine failed.
        """
        # After a failure the binding is dropped: nobody knows what state its request is in.
        binding = _take(tensors)
        return Lent(binding.run(), binding)

    def read_out(
        self,
        outputs: Mapping[str, Array],
        frame_hw_px: tuple[int, ...],
        *,
        threshold: float | None = None,
        memory: Memory | None = None,
        region: RoiSpec | None = None,
    ) -> R:
        """The result of what ``infer`` returned, as ``Model.read_out`` gives it.

        Raises:
            UsageError: they are something else, or went on already.
            InputError: the threshold or the region does not fit.
        """
        arrays = dict(outputs)
        binding = _take(outputs)
        try:
            return self._read_out(
                arrays, frame_hw_px, threshold=threshold, memory=memory, region=region
            )
        finally:
            self._give_back(binding)

    def _give_back(self, binding: Binding) -> None:
        with self._lock:
            self._idle.append(binding)


def _take(arrays: Mapping[str, Array]) -> Binding:
    """The binding of lent arrays, which goes on to the next stage; they are empty afterwards.

    Raises:
        UsageError: they are nobody's, or it went on already: they are another frame's by now.
    """
    if not isinstance(arrays, Lent):
        raise UsageError("bound stages take what the stage before them returned")
    binding, arrays.binding = arrays.binding, None
    arrays.clear()
    if binding is None:
        raise UsageError("each frame goes through each stage once: these arrays went on already")
    return binding
