"""SegDINO v1's fine-grained head: composed stems, and channels mixed before they are resampled.

The RefineNet blocks are activated, so only what stands before them composes: projection, rescaling
and 3x3 convolution of a level are up to three linear layers in a row. Which of them are multiplied
into one is decided by counting operations. The transposed convolutions are the ones that pay: with
the 3x3 convolution behind them they are one transposed convolution with overlapping kernels, at a
quarter of the operations for tiles of four.

Behind a block's bilinear resampling stands a 1x1 convolution with a bias. Each resampled value is a
mean of values with weights that sum to one, so the two commute, bias and all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.export.family import Exportable
from edgeseg.export.rewrite.algebra import affine_of, linear
from edgeseg.export.rewrite.convolutions import (
    Convolution,
    cheapest_grouping,
    composed_all,
    convolution_of,
)
from edgeseg.export.rewrite.resampling import BilinearProducts
from edgeseg.spec import AppliedRewrite

__all__ = ["FineHead", "Stem", "level_layers", "rewrite_fine_head"]

Grid = tuple[int, int]
Grouping = tuple[tuple[int, ...], ...]


class Stem(nn.Module):
    """Tokens of one tap, before the norm's affine part, to its level's map.

    Args:
        layers: the authors' layers in their order, by name; the first is a 1x1 convolution.
        grouping: positions of the layers that are one product each, as `cheapest_grouping` says.
        affine: scale and shift of the norm, float64 (D,).
        grid: rows and columns of patches.
    """

    def __init__(
        self,
        layers: Sequence[tuple[str, nn.Module]],
        grouping: Grouping,
        affine: tuple[Tensor, Tensor],
        grid: Grid,
    ) -> None:
        super().__init__()
        scale, shift = affine
        self.patches = grid
        self.steps: list[str] = []
        like = layers[0][1].weight.detach()
        # What a group gives for zeros: its biases, less what zero padding takes from them.
        zeros = shift.reshape(1, -1, 1, 1).expand(1, -1, *grid)
        for group in grouping:
            members = [layers[position] for position in group]
            whole = composed_all([convolution_of(layer) for _, layer in members])
            if whole is None:
                raise ValueError(f"the layers {group} are not one convolution")
            if 0 in group:
                scaled = whole.weight * scale.reshape(1, -1, 1, 1)
                whole = Convolution(scaled, whole.stride, whole.padding, whole.transposed)
            constant = _answer((layer for _, layer in members), zeros)
            self._add("_".join(name for name, _ in members), whole, constant, like)
            zeros = torch.zeros_like(constant)

    def _add(self, name: str, whole: Convolution, constant: Tensor, like: Tensor) -> None:
        first = constant[:, :, :1, :1]
        even = torch.allclose(constant, first.expand_as(constant), rtol=0.0, atol=1e-12)
        bias = first.flatten() if even and first.any() else None
        pointwise = not self.steps and whole.is_pointwise
        self.add_module(
            name,
            linear(whole.weight[:, :, 0, 0], bias, like) if pointwise else whole.module(bias, like),
        )
        self.register_buffer(f"{name}_constant", None if even else constant.to(like))
        self.steps.append(name)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, features, rows', columns') of (N, rows * columns, D)."""
        steps = list(self.steps)
        if isinstance(self.get_submodule(steps[0]), nn.Linear):
            tokens = self.get_submodule(steps.pop(0))(tokens)
        maps = tokens.transpose(1, 2).unflatten(2, self.patches)
        for name in steps:
            maps = self.get_submodule(name)(maps)
            constant = self.get_buffer(f"{name}_constant")
            if constant is not None:
                maps = maps + constant
        return maps


def _answer(layers: Iterable[nn.Module], maps: Tensor) -> Tensor:
    with torch.no_grad():
        for layer in layers:
            maps = copy.deepcopy(layer).double()(maps)
    return maps


class _Fusion(nn.Module):
    """A RefineNet block that mixes channels before it resamples."""

    def __init__(self, block: nn.Module, *, coarsest: bool) -> None:
        super().__init__()
        if not coarsest:
            self.resConfUnit1 = block.resConfUnit1
        self.resConfUnit2 = block.resConfUnit2
        self.out_conv = block.out_conv

    def forward(self, path: Tensor | None, level: Tensor, size: Grid) -> Tensor:
        fused = level if path is None else path + self.resConfUnit1(level)
        mixed: Tensor = self.out_conv(self.resConfUnit2(fused))
        if tuple(mixed.shape[-2:]) == size:
            return mixed
        return F.interpolate(mixed, size=size, mode="bilinear", align_corners=True)


class FineHead(nn.Module):
    """Tokens of every tap (N, rows * columns, D) to logits (N, C, H, W)."""

    def __init__(
        self,
        head: nn.Module,
        stems: Sequence[Stem],
        finest: Grid,
        size_px: tuple[int, int],
    ) -> None:
        """``finest``: rows and columns of the first level's map."""
        super().__init__()
        self.stems = nn.ModuleList(stems)
        for level in range(1, 5):
            block = head.scratch.get_submodule(f"refinenet{level}")
            self.add_module(f"refinenet{level}", _Fusion(block, coarsest=level == 4))
        self.output_conv = head.scratch.output_conv
        self.doubled = (2 * finest[0], 2 * finest[1])
        like = self.output_conv[-1].weight.detach()
        self.last = BilinearProducts(self.doubled, size_px, like, align_corners=True)

    def forward(self, tokens: tuple[Tensor, ...]) -> Tensor:
        """Logits of one (N, rows * columns, D) for each tap, normalised without affine part."""
        levels = [stem(taken) for stem, taken in zip(self.stems, tokens, strict=True)]
        sizes = [self.doubled, *(tuple(level.shape[-2:]) for level in levels[:-1])]
        path = None
        for number in (4, 3, 2, 1):
            block = self.get_submodule(f"refinenet{number}")
            path = block(path, levels[number - 1], sizes[number - 1])
        logits: Tensor = self.last(self.output_conv(path))
        return logits


def level_layers(head: nn.Module, level: int) -> list[tuple[str, nn.Module]]:
    """The linear layers between tap ``level`` (0 to 3) and its RefineNet block, in their order."""
    layers = [
        ("project", head.projects[level]),
        ("rescale", head.resize_layers[level]),
        ("rn", head.scratch.get_submodule(f"layer{level + 1}_rn")),
    ]
    return [(name, layer) for name, layer in layers if not isinstance(layer, nn.Identity)]


def rewrite_fine_head(
    head: nn.Module, norm: nn.Module, grid: Grid, size_px: tuple[int, int]
) -> Exportable:
    """A fine-grained head with the last resize, in its cheapest exact form.

    Args:
        head: a fine-grained head with its weights; it is not changed, and layers that stay as they
            are belong to both.
        norm: the final LayerNorm, whose affine part is folded in.
        grid: rows and columns of patches.
        size_px: (height, width) of the logits.

    Returns:
        A `FineHead` in the dtype of ``head``.
    """
    affine = affine_of(norm)
    stems, groupings = [], []
    for level in range(4):
        layers = level_layers(head, level)
        grouping = cheapest_grouping([convolution_of(layer) for _, layer in layers], grid)
        with torch.no_grad():
            stems.append(Stem(layers, grouping, affine, grid))
        groupings.append((level, layers, grouping))
    finest = grid
    for _, layer in level_layers(head, 0):
        finest = convolution_of(layer).grid(finest)
    module = FineHead(head, stems, finest, size_px)
    return Exportable(module.eval(), _records(groupings))


def _records(
    groupings: Iterable[tuple[int, list[tuple[str, nn.Module]], Grouping]],
) -> tuple[AppliedRewrite, ...]:
    joined: list[str] = []
    for level, layers, grouping in groupings:
        full = {
            "project": f"head.projects.{level}",
            "rescale": f"head.resize_layers.{level}",
            "rn": f"head.scratch.layer{level + 1}_rn",
        }
        for group in grouping:
            if len(group) > 1:
                joined.extend(full[layers[position][0]] for position in group)
    records = [
        AppliedRewrite(
            "channels-mixed-before-resampling",
            tuple(f"head.scratch.refinenet{number}.out_conv" for number in range(1, 5)),
            "a 1x1 convolution behind bilinear resampling stands before it, on fewer pixels",
        ),
        AppliedRewrite(
            "resampling-as-products",
            ("head",),
            "the last resize is a constant matrix along y and one along x",
        ),
    ]
    if joined:
        records.insert(
            0,
            AppliedRewrite(
                "linear-layers-composed",
                tuple(joined),
                "linear layers in a row are one convolution where that saves operations",
            ),
        )
    return tuple(records)
