"""edgeseg's own candidate: a variant of the bundle, behind the seam that its peers have too."""

from __future__ import annotations

from collections.abc import Mapping

from edgeseg.bench.candidate import Array, Candidate
from edgeseg.model import Model
from edgeseg.spec import Variant

__all__ = ["EngineCandidate", "arithmetic"]

_WORDS = {"fp32": "float32", "fp16": "float16", "int8": "INT8"}


class EngineCandidate(Candidate):
    """An opened model of the bundle, whose preprocessing and read-out all candidates share.

    Attributes:
        model: closed with the candidate.
        backend: the library.
    """

    def __init__(self, model: Model) -> None:
        info = model.engine.info
        self.model = model
        self.name = f"edgeseg {model.variant.precision}"
        self.backend = info.backend
        self.version = f"{info.backend} {info.version}"
        self.how = (
            f"edgeseg.open: {model.variant.file} of the bundle on {info.backend}, "
            f"{info.device_name}"
        )
        self.precision = arithmetic(model.variant, info.precision)
        self.threads = info.threads
        self.parallel = model.engine.parallel

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The engine's outputs; see ``Candidate.infer``."""
        return self.model.infer(tensors)

    def close(self) -> None:
        """Free the engine."""
        self.model.close()


def arithmetic(variant: Variant, engine_precision: str) -> str:
    """``INT8 products, rest float32``; ``float32`` where products and rest are the same.

    Args:
        variant: what its graph says.
        engine_precision: of ``EngineInfo``: ``bf16`` where FP32 is really computed so.
    """
    words = _WORDS | ({"fp32": "bfloat16"} if engine_precision == "bf16" else {})
    products, rest = words[variant.products], words[variant.rest]
    return products if products == rest else f"{products} products, rest {rest}"
