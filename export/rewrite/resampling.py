"""Bilinear resampling along one axis as a matrix, and the shifts of a convolution beside it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bilinear_matrix", "shifted_rows"]


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
