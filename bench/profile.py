"""Where the time of a frame goes: the layers of an engine and the stages around it, by block.

Every library times its own layers (``Engine.profile``); ``edgeseg.bench.blocks`` says to which part
of the model each belongs. Times of single layers carry what it costs to take them, so their sum is
set beside the time of a whole run that was not profiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.backends.base import LayerTime
from edgeseg.bench.blocks import BLOCKS, POSTPROCESSING, PREPROCESSING, block_of
from edgeseg.model import Model

__all__ = ["BlockTable", "BlockTime", "merge", "profile_model"]

_STAGE = "stage"
_SHOWN, _RECORDED = 3, 5
_NAME_CHARACTERS = 76


@dataclass(frozen=True)
class BlockTime:
    """One block of the table."""

    name: str
    """One of ``edgeseg.bench.blocks.BLOCKS``."""
    ms: float
    """Sum of the medians of its layers."""
    share: float
    """Of all blocks, 0 to 1."""
    layers: tuple[LayerTime, ...]
    """The slowest first. Stages of the frame outside the engine are of the kind ``stage``."""


@dataclass(frozen=True)
class BlockTable:
    """A frame's time by block.

    Attributes:
        blocks: those that take time, in the order of the data.
        layers_ms: sum of the engine's layers, profiled.
        inference_ms: median of the engine's run, not profiled.
    """

    blocks: tuple[BlockTime, ...]
    layers_ms: float
    inference_ms: float

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows for people: each block, and under it its slowest layers."""
        rows: list[tuple[str, ...]] = []
        for block in self.blocks:
            rows.append((block.name, f"{block.ms:.2f}", f"{block.share:.1%}", str(_count(block))))
            for layer in block.layers[:_SHOWN]:
                label = f"{layer.name} ({layer.kind})" if layer.kind else layer.name
                rows.append((f"  {_cut(label)}", f"{layer.median_ms:.2f}", "", ""))
        return ("block, and its slowest layers", "ms", "share", "layers"), rows

    def remarks(self) -> list[str]:
        """How the profiled sum and the real run compare."""
        return [
            f"engine: its layers sum to {self.layers_ms:.2f} ms profiled, a run takes "
            f"{self.inference_ms:.2f} ms unprofiled: {self._relation}"
        ]

    @property
    def _relation(self) -> str:
        if self.layers_ms >= self.inference_ms:
            return "timing each layer costs time of its own, so shares count rather than sums"
        return "what passes between layers is in none of them"

    def record(self) -> dict[str, Any]:
        """As JSON types; of each block the five slowest layers."""
        return {
            "sum_of_profiled_layers_ms": self.layers_ms,
            "unprofiled_inference_ms": self.inference_ms,
            "note": f"{self._relation}; shares are of the profiled sum with the frame's stages",
            "blocks": [
                {
                    "block": block.name,
                    "ms": block.ms,
                    "share": block.share,
                    "layers": _count(block),
                    "slowest": [
                        {"name": layer.name, "kind": layer.kind, "ms": layer.median_ms}
                        for layer in block.layers[:_RECORDED]
                    ],
                }
                for block in self.blocks
            ],
        }


def profile_model(
    model: Model,
    frame: npt.NDArray[np.uint8],
    *,
    preprocess_ms: float,
    inference_ms: float,
    readout_ms: float,
    rounds: int = 20,
) -> BlockTable:
    """Profile an opened model on one frame.

    Args:
        model: opened with ``profile=True``.
        frame: uint8 (H, W, 3), BGR.
        preprocess_ms, inference_ms, readout_ms: medians of the stages of a frame, not profiled.
        rounds: the medians of layers are over so many runs.

    Raises:
        BackendUnavailableError: the library tells no times of layers.
        UsageError: the model was opened without ``profile``.
    """
    layers = model.engine.profile(model.preprocess(frame), rounds=rounds)
    return merge(
        layers,
        outputs=[port.name for port in model.engine.outputs],
        preprocess_ms=preprocess_ms,
        inference_ms=inference_ms,
        readout_ms=readout_ms,
    )


def merge(
    layers: Sequence[LayerTime],
    *,
    outputs: Sequence[str],
    preprocess_ms: float,
    inference_ms: float,
    readout_ms: float,
) -> BlockTable:
    """Sort layers and the stages of the frame into blocks.

    Args:
        layers: of an engine.
        outputs: names of the graph's outputs.
        preprocess_ms, inference_ms, readout_ms: as for ``profile_model``.
    """
    found: dict[str, list[LayerTime]] = {name: [] for name in BLOCKS}
    for layer in layers:
        found[block_of(layer.name, layer.kind, outputs)].append(layer)
    found[PREPROCESSING].append(LayerTime("frame to tensors", _STAGE, preprocess_ms))
    found[POSTPROCESSING].append(
        LayerTime("fusion of views, read-out, resize to the frame", _STAGE, readout_ms)
    )
    sums = {name: sum(layer.median_ms for layer in found[name]) for name in BLOCKS}
    total = sum(sums.values())
    return BlockTable(
        blocks=tuple(
            BlockTime(
                name,
                sums[name],
                sums[name] / total if total else 0.0,
                tuple(sorted(found[name], key=lambda layer: -layer.median_ms)),
            )
            for name in BLOCKS
            if found[name]
        ),
        layers_ms=sum(layer.median_ms for layer in layers),
        inference_ms=inference_ms,
    )


def _count(block: BlockTime) -> int:
    return sum(layer.kind != _STAGE for layer in block.layers)


def _cut(text: str) -> str:
    return text if len(text) <= _NAME_CHARACTERS else f"{text[: _NAME_CHARACTERS - 3]}..."
