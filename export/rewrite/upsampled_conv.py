"""A 3x3 convolution of an upsampled map, computed from the tokens that were upsampled."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeseg.export.rewrite.algebra import linear, with_affine_before
from edgeseg.export.rewrite.resampling import AlongY, bilinear_matrix, shifted_rows

__all__ = ["UpsampledConv", "strip_rows", "tap_matrix", "upsampled_conv"]

_OFFSETS = (-1, 0, 1)
_MIN_STRIP_ROWS = 8
"""Of tokens; thinner strips multiply less, but there are more and smaller products."""


class UpsampledConv(nn.Module):
    """``conv3x3(upsample(projection(tokens)))`` with channels mixed on the tokens' grid.

    A convolution is a sum over its taps (i, j) of shifted copies of its input, each through a
    matrix W_ij over channels. Upsampling U works on positions, W_ij on channels, so they commute::

        conv(U t) = sum_ij shift_ij(U (W_ij t)) = sum_ij (S_i U_y) (W_ij t) (S_j U_x)^T

    The nine W_ij are products on tokens. S_i U_y is the bilinear matrix with its rows shifted by
    the tap and zeros where the tap reads the zero padding; what it needs of the three i side by
    side is one constant matrix along rows, and likewise along columns (`tap_matrix`). Biases before
    the upsampling need no thought: they are part of t, and the padding is in the matrices.

    With r x c tokens and scale k, that takes 9 C^2 rc + 9 k C rc^2 + 3 k^2 C r^2 c multiplications
    instead of 9 k^2 C^2 rc. The matrices along rows are banded (a row of the result reads at most
    three rows of tokens), so that tall grids are done in strips (`strip_rows`).

    Args:
        project: what stands before ``taps``, or None.
        taps: for each row of the kernel, a Linear to (3, C): its three taps, C channels each.
        grid: rows and columns of tokens.
        scale: of the upsampling.
    """

    def __init__(
        self,
        project: nn.Linear | None,
        taps: Sequence[nn.Linear],
        grid: tuple[int, int],
        scale: int,
    ) -> None:
        super().__init__()
        self.project = project if project is not None else nn.Identity()
        self.above, self.level, self.below = taps
        self.channels = self.level.out_features // 3
        self.grid, self.scale = grid, scale
        rows, columns = grid
        like = self.level.weight
        # (output, column, tap): as the taps' results lie in memory.
        across = tap_matrix(columns, scale).transpose(1, 2).reshape(columns * scale, -1)
        self.resample_x = AlongY(across, like)
        down = tap_matrix(rows, scale)
        self.resample_y = nn.ModuleList()
        self.reads: list[tuple[int, int]] = []
        for made, (above, below) in strip_rows(grid, scale):
            part = down[made[0] * scale : made[1] * scale, :, above:below]
            self.resample_y.append(AlongY(part.flatten(1), like))
            self.reads.append((above, below))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, rows * scale, columns * scale, C) of tokens (N, rows * columns, width)."""
        batch = tokens.shape[0]
        rows, columns = self.grid
        mixed = self.project(tokens)
        taps = [
            tap(mixed).reshape(batch, rows, columns * 3, self.channels)
            for tap in (self.above, self.level, self.below)
        ]
        strips = []
        for (first, last), resample_y in zip(self.reads, self.resample_y, strict=True):
            read = torch.cat([tap[:, first:last] for tap in taps], dim=1)
            strips.append(resample_y(self.resample_x(read).flatten(2)))
        whole = strips[0] if len(strips) == 1 else torch.cat(strips, dim=1)
        return whole.reshape(batch, rows * self.scale, columns * self.scale, self.channels)


def tap_matrix(size: int, scale: int) -> Tensor:
    """What each tap of a zero-padded 3-tap filter reads of a line that is upsampled bilinearly.

    Float64 (size * scale, 3, size), with half-pixel centres: entry [o, t, i] is the share of sample
    i in what tap t reads at output o, which is sample o + t - 1 of the upsampled line, or zero
    beyond its ends. Its numbers are multiples of 1 / (2 * scale).
    """
    line = bilinear_matrix(size, size * scale, align_corners=False)
    return torch.stack([shifted_rows(line, offset) for offset in _OFFSETS], dim=1)


def strip_rows(grid: tuple[int, int], scale: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Strips of token rows, top to bottom: which each makes, and which it reads, both [a, b).

    A strip reads one row more on either side, since taps and interpolation reach no farther. As
    many strips are taken as multiply least, each of `_MIN_STRIP_ROWS` or more.
    """
    rows, columns = grid

    def cut(count: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        edges = [rows * index // count for index in range(count + 1)]
        return [
            ((first, last), (max(first - 1, 0), min(last + 1, rows)))
            for first, last in itertools.pairwise(edges)
        ]

    def multiplications(count: int) -> int:
        """For one channel."""
        total = 0
        for (first, last), (above, below) in cut(count):
            read = 3 * (below - above) * columns * scale
            total += read * 3 * columns + read * (last - first) * scale
        return total

    return cut(min(range(1, max(rows // _MIN_STRIP_ROWS, 1) + 1), key=multiplications))


def upsampled_conv(
    projection: Tensor,
    kernel: Tensor,
    affine: tuple[Tensor, Tensor],
    grid: tuple[int, int],
    scale: int,
) -> UpsampledConv:
    """The module for a 1x1 projection, bilinear upsampling and a 3x3 convolution without bias.

    The projection is folded into the taps where that multiplies less: one product of 9 D C against
    D C + 9 C^2 for each token.

    Args:
        projection: (C, D) or (C, D, 1, 1).
        kernel: (outputs, C, 3, 3), padded with one zero on each side.
        affine: scale and shift of what comes before the projection, each (D,).
        grid: rows and columns of tokens.
        scale: whole factor of the upsampling, with half-pixel centres.
    """
    weight, bias = with_affine_before(projection.flatten(1), None, affine)
    inner, width = weight.shape
    outputs = kernel.shape[0]
    # (row of the kernel, column, output, input): three Linears, whose outputs are (column, output).
    wide = kernel.detach().double().permute(2, 3, 0, 1).reshape(3, 3 * outputs, inner)
    if 9 * width * outputs <= width * inner + 9 * inner * outputs:
        taps = [linear(row @ weight, row @ bias, kernel) for row in wide]
        return UpsampledConv(None, taps, grid, scale)
    taps = [linear(row, None, kernel) for row in wide]
    return UpsampledConv(linear(weight, bias, kernel), taps, grid, scale)
