"""The seam between the benchmark and what it compares: anything that answers the same inputs."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from edgeseg._closing import Closing

__all__ = ["Array", "Candidate"]

Array = npt.NDArray[Any]


class Candidate(Closing, abc.ABC):
    """A checkpoint, loaded by some library and ready to run. Use it as a context manager.

    Inputs and outputs are those of the bundle's FP32 graph, by name: ``image`` to ``logits``, or
    one of each for every view; variants of the bundle may take resized pictures under the same
    names (``workflows/_bench_inputs.py`` makes what each takes). What the library wants instead
    (torch tensors, other layouts) is made inside `infer` and counts, unless it costs nothing to its
    own users.

    Attributes:
        name: ``torch``, ``onnxruntime``...; ``edgeseg int8``.
        version: of the library.
        how: its use in one sentence, for the report.
        precision: the arithmetic that runs.
        threads: CPU threads that it uses.
        parallel: how many threads may call `infer` at once.
    """

    name: str
    version: str
    how: str
    precision: str
    threads: int
    parallel: int = 1

    @abc.abstractmethod
    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Answer one frame.

        Args:
            tensors: by name, float32, preprocessed as the authors do; for edgeseg's own engines
                what ``Model.preprocess`` makes.

        Returns:
            float32 arrays by name.

        Raises:
            BackendError: the library failed.
        """
