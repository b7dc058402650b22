"""A decoder as its authors wrote it, behind a rewritten transformer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PlainHead"]


class PlainHead(nn.Module):
    """Gives a head of feature maps its tokens, and resizes what it returns.

    Args:
        head: takes a tuple of (N, width, rows, columns), returns (N, classes, h, w).
        norm: the transformer's final LayerNorm, whose affine part has not been applied yet.
        grid: rows and columns of patches.
        size_px: (height, width) of the logits wanted.
        align_corners: of the last resize.
    """

    def __init__(
        self,
        head: nn.Module,
        norm: nn.Module,
        grid: tuple[int, int],
        size_px: tuple[int, int],
        *,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.head = head
        self.norm_weight, self.norm_bias = norm.weight, norm.bias
        self.grid, self.size_px, self.align_corners = grid, size_px, align_corners

    def forward(self, tokens: tuple[Tensor, ...]) -> Tensor:
        """Logits (N, classes, H, W) of one (N, patches, width) for each tap."""
        maps = tuple(
            (taken * self.norm_weight + self.norm_bias)
            .transpose(1, 2)
            .reshape(taken.shape[0], -1, *self.grid)
            for taken in tokens
        )
        logits = self.head(maps)
        if tuple(logits.shape[-2:]) == self.size_px:
            return logits
        return F.interpolate(
            logits, size=self.size_px, mode="bilinear", align_corners=self.align_corners
        )
