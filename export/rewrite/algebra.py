"""Affine maps folded into the linear maps beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["affine_of", "linear", "scaled_outputs", "with_affine_before"]


def linear(weight: Tensor, bias: Tensor | None, like: Tensor) -> nn.Linear:
    """A Linear of these values.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,), or None.
        like: gives dtype and device.
    """
    made = nn.Linear(
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        dtype=like.dtype,
        device=like.device,
    )
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made.requires_grad_(False)


def affine_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift of a LayerNorm, float64 (width,)."""
    return norm.weight.detach().double(), norm.bias.detach().double()


def with_affine_before(
    weight: Tensor, bias: Tensor | None, affine: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the map that reads ``x`` where the given one reads ``g * x + b``.

    W (g * x + b) + c = (W diag(g)) x + (W b + c).

    Args:
        weight: (outputs, inputs).
        bias: (outputs,), or None for zeros.
        affine: g and b, each (inputs,).

    Returns:
        float64 weight and bias.
    """
    scale, shift = affine
    wide = weight.detach().double()
    folded = wide @ shift
    if bias is not None:
        folded = folded + bias.detach().double()
    return wide * scale, folded


def scaled_outputs(
    weight: Tensor, bias: Tensor | None, gamma: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of ``gamma * (W x + c)``: (diag(gamma) W) x + gamma * c.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,), or None.
        gamma: (outputs,) or a single number.

    Returns:
        float64 weight and bias.
    """
    factor = gamma.detach().double()
    wide = weight.detach().double() * factor.reshape(-1, 1)
    return wide, None if bias is None else bias.detach().double() * factor
