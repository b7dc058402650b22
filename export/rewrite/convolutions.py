"""Convolutions without bias as values, and two of them as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Convolution", "cheapest_grouping", "composed", "composed_all", "convolution_of"]

Grid = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """The linear part of a square convolution, or of one transposed, with zero padding."""

    weight: Tensor
    """float64 (outputs, inputs, k, k), for both kinds."""
    stride: int = 1
    padding: int = 0
    transposed: bool = False

    @property
    def kernel(self) -> int:
        """Side of the kernel."""
        return int(self.weight.shape[-1])

    @property
    def is_pointwise(self) -> bool:
        """Whether it mixes channels and nothing else."""
        return self.kernel == 1 and self.stride == 1 and self.padding == 0

    def grid(self, grid: Grid) -> Grid:
        """Rows and columns that it makes of a map of ``grid``."""
        rows, columns = (
            (size - 1) * self.stride + self.kernel - 2 * self.padding
            if self.transposed
            else (size + 2 * self.padding - self.kernel) // self.stride + 1
            for size in grid
        )
        return rows, columns

    def macs(self, grid: Grid) -> int:
        """Multiply-accumulates for one map of ``grid``, products with padding included."""
        return int(self.weight.numel()) * math.prod(grid if self.transposed else self.grid(grid))

    def module(self, bias: Tensor | None, like: Tensor) -> nn.Module:
        """As a layer, with a bias (outputs,) if given; ``like`` gives dtype and device."""
        outputs, inputs = self.weight.shape[:2]
        kind = nn.ConvTranspose2d if self.transposed else nn.Conv2d
        made = kind(
            inputs,
            outputs,
            self.kernel,
            stride=self.stride,
            padding=self.padding,
            bias=bias is not None,
            dtype=like.dtype,
            device=like.device,
        ).requires_grad_(False)
        made.weight.copy_(self.weight.transpose(0, 1) if self.transposed else self.weight)
        if bias is not None:
            made.bias.copy_(bias)
        return made


def convolution_of(layer: nn.Module) -> Convolution:
    """The linear part of a ``Conv2d`` or ``ConvTranspose2d`` with a square kernel."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    weight = layer.weight.detach().double()
    return Convolution(
        weight.transpose(0, 1) if transposed else weight,
        int(layer.stride[0]),
        int(layer.padding[0]),
        transposed,
    )


def composed(first: Convolution, second: Convolution) -> Convolution | None:
    """One convolution that does what both do in turn, or None where none does.

    A pointwise one folds into the input channels of whatever follows. Tiles (a transposed
    convolution whose stride is its kernel k) under a padded convolution of stride 1 are one
    transposed convolution with overlapping kernels: beyond the map there are zeros either way. A
    padded convolution under another is none, since what the first would give beyond the map is
    replaced by zeros.
    """
    if first.is_pointwise and not first.transposed:
        weight = first.weight[:, :, 0, 0]
        folded = (second.weight.movedim(1, -1) @ weight).movedim(-1, 1)
        return Convolution(folded, second.stride, second.padding, second.transposed)
    tiles = first.transposed and first.stride == first.kernel and first.padding == 0
    around = second.kernel == 2 * second.padding + 1
    if not (tiles and around and second.stride == 1 and not second.transposed):
        return None
    # What a tap reads further on, a pixel gives further back: hence the mirrored kernel.
    kernel = F.conv_transpose2d(
        first.weight.transpose(0, 1), second.weight.flip(-2, -1).transpose(0, 1)
    )
    return Convolution(kernel.transpose(0, 1), first.stride, second.padding, transposed=True)


def cheapest_grouping(chain: Sequence[Convolution], grid: Grid) -> tuple[tuple[int, ...], ...]:
    """Which neighbours of a chain to compose, as groups of positions.

    The fewest multiply-accumulates; of groupings that differ by less than an eighth the one with
    fewer layers, each of which writes and reads a map.
    """
    costs: dict[tuple[tuple[int, ...], ...], int] = {}
    for cuts in range(2 ** (len(chain) - 1)):
        groups: list[list[int]] = [[0]]
        for position in range(1, len(chain)):
            if cuts >> (position - 1) & 1:
                groups.append([position])
            else:
                groups[-1].append(position)
        cost, size = 0, grid
        for group in groups:
            whole = composed_all([chain[position] for position in group])
            if whole is None:
                break
            cost += whole.macs(size)
            size = whole.grid(size)
        else:
            costs[tuple(map(tuple, groups))] = cost
    near = [groups for groups, cost in costs.items() if cost * 8 < min(costs.values()) * 9]
    return min(near, key=lambda groups: (len(groups), costs[groups]))


def composed_all(chain: Sequence[Convolution]) -> Convolution | None:
    """`composed`, over a chain of one or more."""
    whole: Convolution | None = chain[0]
    for following in chain[1:]:
        if whole is None:
            return None
        whole = composed(whole, following)
    return whole
