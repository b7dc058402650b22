"""SegDINO heads for the tests of their rewrites: as the authors write them, and as graphs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from checkpoints import make_state_dict
from reference import reference_head
from torch import Tensor, nn

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.export.families import segdino_v1, segdino_v1_fine

__all__ = ["Grid", "HeadCase", "make_head", "relative_difference", "run_graph", "to_graph"]

Grid = tuple[int, int]
Tokens = tuple[Tensor, ...]

_FAMILIES: dict[str, Any] = {
    "segdino_v1": segdino_v1.FAMILY,
    "segdino_v1_old": segdino_v1.FAMILY,
    "segdino_v1_fine": segdino_v1_fine.FAMILY,
}


@dataclass(frozen=True)
class HeadCase:
    """A head with random weights, in float64, and the norm before it."""

    layout: str
    family: Any
    config: Any
    state: dict[str, Tensor]
    head: nn.Module
    norm: nn.Module

    def tokens(self, grid: Grid, batch: int = 2, seed: int = 3) -> Tokens:
        """One (batch, patches, width) for each tap, standard normal as behind a LayerNorm."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, grid[0] * grid[1], self.config.backbone.width)
        return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4))

    def maps(self, tokens: Tokens, grid: Grid) -> list[Tensor]:
        """What the authors' head reads: the norm's affine part applied, channels first."""
        scale, shift = self.state["backbone.norm.weight"], self.state["backbone.norm.bias"]
        return [
            (taken * scale.double() + shift.double()).transpose(1, 2).unflatten(2, grid)
            for taken in tokens
        ]

    def authors(self, tokens: Tokens, grid: Grid) -> Tensor:
        """The authors' modules with the last resize, at 16 times the grid."""
        with torch.no_grad():
            logits = self.head(tuple(self.maps(tokens, grid)))
            size = (16 * grid[0], 16 * grid[1])
            return nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=True)

    def reference(self, tokens: Tokens, grid: Grid) -> Tensor:
        """The independent formulation, from the state dict alone."""
        weights = {key: value.double() for key, value in self.state.items()}
        size = torch.Size((16 * grid[0], 16 * grid[1]))
        return reference_head(self.layout, weights, self.maps(tokens, grid), size)

    def rewritten(self, grid: Grid, dtype: torch.dtype = torch.float64) -> Any:
        """What the family makes of the head for ``grid``."""
        head, norm = self.head, self.norm
        if dtype != torch.float64:
            head, norm = copy.deepcopy(head).to(dtype), copy.deepcopy(norm).to(dtype)
        size_px = (16 * grid[0], 16 * grid[1])
        return self.family.rewrite_head(head, self.config, norm, grid, size_px)


def make_head(layout: str, **hyper: Any) -> HeadCase:
    """Random weights as ``checkpoints.make_state_dict`` makes them, biases and affine included."""
    state = make_state_dict(layout, **hyper)
    family = _FAMILIES[layout]
    config = family.read_config({key: tuple(value.shape) for key, value in state.items()})
    head = family.build_head(config)
    head.load_state_dict(
        {key[len("head.") :]: value for key, value in state.items() if key.startswith("head.")}
    )
    norm = nn.LayerNorm(config.backbone.width)
    norm.load_state_dict({key: state[f"backbone.norm.{key}"] for key in ("weight", "bias")})
    return HeadCase(layout, family, config, state, head.eval().double(), norm.double())


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the expected range, NaN if either holds one.

    Where all values are one value, which a single patch gives, its magnitude is the range.
    """
    assert found.shape == expected.shape
    span = (expected.max() - expected.min()).item() or expected.abs().max().item()
    return (found.double() - expected).abs().max().item() / span


class _ByTap(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
        logits: Tensor = self.head((first, second, third, fourth))
        return logits


def to_graph(head: nn.Module, tokens: Tokens, path: Path) -> onnx.ModelProto:
    """Export a float32 head with an input for each tap, as edgeseg exports models."""
    from edgeseg.export.naming import rename
    from edgeseg.export.rewriting import share_weights

    program = torch.onnx.export(
        _ByTap(head).eval(),
        tuple(taken.float() for taken in tokens),
        dynamo=True,
        opset_version=20,
        input_names=["tap_0", "tap_1", "tap_2", "tap_3"],
        output_names=["logits"],
        verbose=False,
    )
    model = program.model_proto
    share_weights(model)
    rename(model)
    onnx.save_model(model, path)
    return model


def run_graph(path: Path, backend: Any, tokens: Tokens) -> Tensor:
    """Logits of a graph from `to_graph`, of one backend."""
    feed = {f"tap_{i}": taken.float().numpy() for i, taken in enumerate(tokens)}
    with open_engine(path, backend, EngineOptions(threads=1)) as engine:
        return torch.from_numpy(np.array(engine.infer(feed)["logits"]))
