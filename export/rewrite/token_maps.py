"""Maps with their channels last, made of tokens: one product, a convolution, a transposed one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeseg.export.rewrite.algebra import linear, with_affine_before

__all__ = ["TokenConv", "TokenMap", "TokenTiles", "token_conv", "token_map", "token_tiles"]

Affine = tuple[Tensor, Tensor]
"""Scale and shift of what the tokens lack, each (width,)."""
Grid = tuple[int, int]
"""Rows and columns of tokens."""


class TokenMap(nn.Module):
    """A 1x1 convolution."""

    def __init__(self, project: nn.Linear, grid: Grid) -> None:
        super().__init__()
        self.project, self.grid = project, grid

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, rows, columns, C) of (N, rows * columns, width)."""
        return self.project(tokens).reshape(tokens.shape[0], *self.grid, -1)


class TokenConv(nn.Conv2d):
    """A 3x3 convolution of tokens with scale and shift, which zero padding tells from their fold.

    A shift folded into the convolution would reach over the border, where the padding has none.
    """

    def __init__(self, weight: Tensor, affine: Affine, grid: Grid, stride: int) -> None:
        """The convolution (outputs, width, 3, 3) gives dtype and device too."""
        outputs, width = weight.shape[:2]
        super().__init__(width, outputs, 3, stride=stride, padding=1, bias=False)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.grid = grid
        self.register_buffer("scale", affine[0].to(weight))
        self.register_buffer("shift", affine[1].to(weight))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, h, w, C) of (N, rows * columns, width); smaller than the grid with a stride."""
        shifted = (tokens * self.scale + self.shift).reshape(tokens.shape[0], *self.grid, -1)
        return super().forward(shifted.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class TokenTiles(nn.Module):
    """A transposed convolution whose stride is its kernel: each token becomes a tile.

    Tiles do not overlap, so it is one product of a token with the kernel, and a rearrangement. With
    one Linear for each row of the tile, whose outputs are (column, channel), rows of the map lie
    whole in memory and only have to be put one below the other.
    """

    def __init__(self, rows: Sequence[nn.Linear], grid: Grid) -> None:
        super().__init__()
        self.rows, self.grid = nn.ModuleList(rows), grid

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, rows * scale, columns * scale, C) of (N, rows * columns, width)."""
        batch, scale = tokens.shape[0], len(self.rows)
        rows, columns = self.grid
        lines = [line(tokens).reshape(batch, rows, -1) for line in self.rows]
        return torch.cat(lines, dim=2).reshape(batch, rows * scale, columns * scale, -1)


def token_map(projection: Tensor, affine: Affine, grid: Grid) -> TokenMap:
    """A 1x1 projection (C, D, 1, 1) without bias."""
    weight, bias = with_affine_before(projection.flatten(1), None, affine)
    return TokenMap(linear(weight, bias, projection), grid)


def token_conv(
    projection: Tensor, kernel: Tensor, affine: Affine, grid: Grid, stride: int
) -> TokenConv:
    """A 1x1 projection (C, D, 1, 1) and a 3x3 convolution (outputs, C, 3, 3) without biases.

    Both are one convolution, K_ij W at tap (i, j): the padding of its input is that of W's output.
    With D = C the projection is saved whole.
    """
    narrow = projection.detach().double().flatten(1)
    composed = torch.einsum("ocij,cd->odij", kernel.detach().double(), narrow)
    return TokenConv(composed.to(kernel), affine, grid, stride)


def token_tiles(projection: Tensor, kernel: Tensor, affine: Affine, grid: Grid) -> TokenTiles:
    """A 1x1 projection (C, D, 1, 1) and a transposed convolution (C, outputs, k, k) of stride k.

    The projection is folded into the product: a decoder of the first layout is as wide as its
    backbone, so one product of D * k * k * D replaces that and another of D * D.
    """
    weight, bias = with_affine_before(projection.flatten(1), None, affine)
    # (row of the tile, column, output, input)
    wide = kernel.detach().double().permute(2, 3, 1, 0).flatten(1, 2)
    return TokenTiles([linear(row @ weight, row @ bias, kernel) for row in wide], grid)
