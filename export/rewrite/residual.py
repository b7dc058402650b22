"""The residual blocks of SegDINO v2's decoders on maps whose channels lie last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.export.rewrite.algebra import linear, scaled_outputs

__all__ = ["Branch", "GroupNormLast", "branch", "is_identity"]


class GroupNormLast(nn.Module):
    """GroupNorm of (N, rows, columns, C), without bringing the channels to the front.

    A group's variance is the mean over its channels of each channel's variance about its own mean,
    plus the variance of those means. Sums over positions alone keep every channel in its place;
    what is left to do per group is done on (N, C) numbers, and becomes one scale and one shift per
    channel. Each channel is centred before its squares are summed, so that nothing is lost to a
    mean that is large beside the deviations.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, (N, rows, columns, C)."""
        batch, rows, columns, channels = x.shape
        mean = x.mean(dim=(1, 2), keepdim=True)
        centred = x - mean
        length = torch.linalg.vector_norm(centred, dim=(1, 2)).reshape(batch, self.groups, -1)
        offset = mean.reshape(batch, self.groups, -1)
        offset = offset - offset.mean(dim=2, keepdim=True)
        squares = length * length * (1.0 / (rows * columns)) + offset * offset
        scale = torch.rsqrt(squares.mean(dim=2, keepdim=True) + self.eps)
        scale = scale * self.weight.reshape(self.groups, -1)
        shift = offset * scale + self.bias.reshape(self.groups, -1)
        flat = (batch, 1, 1, channels)
        return centred * scale.reshape(flat) + shift.reshape(flat)


class Branch(nn.Module):
    """``GELU(norm(pointwise(depthwise(x))))`` of (N, rows, columns, C).

    Args:
        depthwise: 3x3, one filter a channel.
        pointwise: a Linear over channels.
        norm: what follows it.
    """

    def __init__(self, depthwise: nn.Conv2d, pointwise: nn.Linear, norm: nn.Module) -> None:
        super().__init__()
        self.depthwise, self.pointwise, self.norm = depthwise, pointwise, norm

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        filtered = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return F.gelu(self.norm(self.pointwise(filtered)))


def branch(depthwise: nn.Conv2d, pointwise: nn.Conv2d, norm: nn.Module) -> Branch:
    """The residual branch of a block; BatchNorm becomes part of the pointwise product.

    BatchNorm in evaluation is (y - m) * s + b with s = weight / sqrt(variance + eps): s scales the
    rows of the product before it, and b - m * s is its bias.
    """
    weight = pointwise.weight.flatten(1)
    if isinstance(norm, nn.GroupNorm):
        return Branch(depthwise, linear(weight.double(), None, weight), GroupNormLast(norm))
    scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    rows, _ = scaled_outputs(weight, None, scale)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return Branch(depthwise, linear(rows, shift, weight), nn.Identity())


def is_identity(gamma: Tensor) -> bool:
    """Whether ``x + gamma * GELU(...)`` is x: training starts there, and some blocks stay."""
    return not bool(gamma.detach().any())
