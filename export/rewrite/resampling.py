"""Bilinear resampling along one axis as a matrix, and the shifts of a convolution beside it.

As products the matrices stand in modules of their own, which their owners name ``resample_x`` and
``resample_y``: later steps tell by those names that the constant is no layer's weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AlongX", "AlongY", "BilinearProducts", "bilinear_matrix", "shifted_rows"]


def bilinear_matrix(size_in: int, size_out: int, *, align_corners: bool) -> Tensor:
    """What ``F.interpolate(mode="bilinear")`` does along one axis, float64 (size_out, size_in).

    Output i lies at ``i * (size_in - 1) / (size_out - 1)`` with ``align_corners``, else at
    ``(i + 0.5) * size_in / size_out - 0.5``, not below 0; it is the mean of its two neighbours,
    weighted by nearness, and the last sample repeats beyond the end. No antialiasing.
    """
    outputs = torch.arange(size_out, dtype=torch.float64)
    if align_corners:
        places = outputs * ((size_in - 1) / (size_out - 1) if size_out > 1 else 0.0)
    else:
        places = ((outputs + 0.5) * (size_in / size_out) - 0.5).clamp(min=0.0)
    below = places.floor().long().clamp(max=size_in - 1)
    above = (below + 1).clamp(max=size_in - 1)
    share = (places - below).clamp(max=1.0)
    matrix = torch.zeros(size_out, size_in, dtype=torch.float64)
    rows = torch.arange(size_out)
    matrix.index_put_((rows, below), 1.0 - share, accumulate=True)
    matrix.index_put_((rows, above), share, accumulate=True)
    return matrix


def shifted_rows(matrix: Tensor, offset: int) -> Tensor:
    """Row i of the result is row ``i + offset``, or zeros beyond the ends.

    That is what a tap of a zero-padded convolution reads of a signal that ``matrix`` makes.
    """
    moved = torch.zeros_like(matrix)
    size = matrix.shape[0]
    first, last = max(0, -offset), min(size, size - offset)
    if first < last:
        moved[first:last] = matrix[first + offset : last + offset]
    return moved


class AlongX(nn.Module):
    """Resamples the last axis by a matrix (size_out, size_in): a product with its transpose."""

    def __init__(self, matrix: Tensor, like: Tensor) -> None:
        """``like`` gives dtype and device."""
        super().__init__()
        self.register_buffer("matrix", matrix.T.to(like).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(..., rows, size_in) to (..., rows, size_out)."""
        mixed: Tensor = x @ self.matrix
        return mixed


class AlongY(nn.Module):
    """Resamples the last axis but one by a matrix (size_out, size_in)."""

    def __init__(self, matrix: Tensor, like: Tensor) -> None:
        """``like`` gives dtype and device."""
        super().__init__()
        self.register_buffer("matrix", matrix.to(like).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(..., size_in, columns) to (..., size_out, columns)."""
        mixed: Tensor = self.matrix @ x
        return mixed


class BilinearProducts(nn.Module):
    """Bilinear resampling of (N, C, rows, columns) as two products.

    For few channels that is several times as fast on a CPU as the kernels for resampling.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        target: tuple[int, int],
        like: Tensor,
        *,
        align_corners: bool,
    ) -> None:
        """From ``grid`` to ``target``, each (rows, columns); ``like`` gives dtype and device."""
        super().__init__()
        along_y, along_x = (
            bilinear_matrix(size, wanted, align_corners=align_corners)
            for size, wanted in zip(grid, target, strict=True)
        )
        self.resample_y, self.resample_x = AlongY(along_y, like), AlongX(along_x, like)
        rows, columns = grid
        wanted_rows, wanted_columns = target
        self.y_first = rows * wanted_columns * (columns + wanted_rows) >= (
            wanted_rows * columns * (rows + wanted_columns)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, rows, columns) of the grid to that of the target."""
        if self.y_first:
            resized: Tensor = self.resample_x(self.resample_y(maps))
        else:
            resized = self.resample_y(self.resample_x(maps))
        return resized
