"""The residual blocks of SegDINO v2's decoders on maps whose channels lie last."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.export.rewrite.algebra import linear, scaled_outputs

__all__ = ["Block", "GroupNormLast", "LastBlock", "block", "is_identity"]


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
        deviation = length * (rows * columns) ** -0.5
        offset = mean.reshape(batch, self.groups, -1)
        offset = offset - offset.mean(dim=2, keepdim=True)
        squares = deviation * deviation + offset * offset
        scale = torch.rsqrt(squares.mean(dim=2, keepdim=True) + self.eps)
        scale = scale * self.weight.reshape(self.groups, -1)
        shift = offset * scale + self.bias.reshape(self.groups, -1)
        flat = (batch, 1, 1, channels)
        return centred * scale.reshape(flat) + shift.reshape(flat)


class Block(nn.Module):
    """``x + gamma * GELU(norm(pointwise(depthwise(x))))`` of (N, rows, columns, C).

    Args:
        parts: the 3x3 convolution with one filter a channel, and the Linear over channels, each
            under the name of its checkpoint's module.
        norm: what follows them.
        gamma: (1,).
    """

    def __init__(self, parts: Mapping[str, nn.Module], norm: nn.Module, gamma: Tensor) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.names = tuple(parts)
        self.norm = norm
        self.register_buffer("gamma", gamma.detach().clone())

    def branch(self, x: Tensor) -> Tensor:
        """What gamma multiplies, of the same shape."""
        depthwise, pointwise = (self.get_submodule(name) for name in self.names)
        filtered = depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return F.gelu(self.norm(pointwise(filtered)))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x + self.gamma * self.branch(x)


class LastBlock(Block):
    """What the last block's branch adds to the logits.

    A 1x1 convolution W is linear: W(x + gamma * branch(x)) = W x + (gamma * W) branch(x). The sum
    of maps is never made; each product reads its map once and writes as many channels as there are
    classes.
    """

    def __init__(self, source: Block, out_conv: nn.Conv2d) -> None:
        parts = {name: source.get_submodule(name) for name in source.names}
        super().__init__(parts, source.norm, source.gamma)
        weight = out_conv.weight.flatten(1)
        scaled, _ = scaled_outputs(weight, None, source.gamma.expand(len(weight)))
        self.out_conv = linear(scaled, None, weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, rows, columns, classes) of (N, rows, columns, C), without W x and the bias."""
        return self.out_conv(self.branch(x))


def block(source: nn.Module, depthwise: str, pointwise: str) -> Block:
    """A decoder's residual block; BatchNorm becomes part of the pointwise product.

    BatchNorm in evaluation is (y - m) * s + b with s = weight / sqrt(variance + eps): s scales the
    rows of the product before it, and b - m * s is its bias.

    Args:
        source: the block as its authors wrote it.
        depthwise, pointwise: what it calls its convolutions.
    """
    weight, norm = source.get_submodule(pointwise).weight.flatten(1), source.norm
    if isinstance(norm, nn.GroupNorm):
        product, after = linear(weight.double(), None, weight), GroupNormLast(norm)
    else:
        scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
        rows, _ = scaled_outputs(weight, None, scale)
        shift = norm.bias.double() - norm.running_mean.double() * scale
        product, after = linear(rows, shift, weight), nn.Identity()
    parts = {depthwise: source.get_submodule(depthwise), pointwise: product}
    return Block(parts, after, source.gamma)


def is_identity(gamma: Tensor) -> bool:
    """Whether ``x + gamma * GELU(...)`` is x: training starts there, and some blocks stay."""
    return not bool(gamma.detach().any())
