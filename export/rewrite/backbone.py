"""The transformer: scales folded into the products beside them, unread tokens dropped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg.export.rewrite.algebra import linear, scaled_outputs
from edgeseg.export.static_backbone import Block, StaticTransformer
from edgeseg.spec import AppliedRewrite

__all__ = [
    "drop_unread_tokens",
    "fold_layer_scale",
    "fold_query_scale",
    "rewrite_transformer",
    "shift_of",
    "without_shift",
]


def rewrite_transformer(transformer: StaticTransformer) -> tuple[AppliedRewrite, ...]:
    """Apply every rewrite of this module, in place; the checkpoint's own modules stay as they are.

    The final norm loses its shift: whoever reads the taps folds `shift_of` it in.
    """
    for block in transformer.blocks:
        fold_layer_scale(block)
    fold_query_scale(transformer)
    transformer.norm = without_shift(transformer.norm)
    applied = (
        AppliedRewrite(
            "layer-scale-into-products",
            ("backbone.blocks.*.attn.proj", "backbone.blocks.*.mlp"),
            "LayerScale multiplies rows of the weights of the product before it",
        ),
        AppliedRewrite(
            "query-scale-into-weights",
            ("backbone.blocks.*.attn.qkv",),
            "the scale of attention is in the query's weights, so queries and keys share tables",
        ),
    )
    if not drop_unread_tokens(transformer):
        return applied
    return (
        *applied,
        AppliedRewrite(
            "unread-tokens-dropped",
            (f"backbone.blocks.{len(transformer.blocks) - 1}",),
            "the last block computes queries, projection and MLP for patch tokens alone",
        ),
    )


def fold_layer_scale(block: Block) -> None:
    """LayerScale into the weights before it: g * (W x + b) = (diag(g) W) x + g * b."""
    proj = block.attn.proj
    block.attn.proj = linear(*scaled_outputs(proj.weight, proj.bias, block.gamma_1), proj.weight)
    mlp = _own_mlp(block)
    last = mlp.fc2
    mlp.fc2 = linear(*scaled_outputs(last.weight, last.bias, block.gamma_2), last.weight)
    block.gamma_1 = block.gamma_2 = None


def fold_query_scale(transformer: StaticTransformer) -> None:
    """The scale of attention into the rows of the query: rotations are linear, s R q = R (s q)."""
    width = transformer.width
    for block in transformer.blocks:
        qkv = block.attn.qkv
        scale = torch.ones(3 * width, dtype=torch.float64)
        scale[:width] = transformer.query_scale
        block.attn.qkv = linear(*scaled_outputs(qkv.weight, qkv.bias, scale), qkv.weight)
    transformer.share_tables()


def drop_unread_tokens(transformer: StaticTransformer) -> bool:
    """Class and register tokens of the last block: as keys and values they are read, no further.

    Returns:
        Whether the last block is tapped, so that this is so.
    """
    tapped = transformer.taps[-1] == len(transformer.blocks) - 1
    if tapped:
        transformer.blocks[-1].skipped = transformer.prefix_tokens
    return bool(tapped)


def without_shift(norm: nn.LayerNorm) -> nn.LayerNorm:
    """The LayerNorm with its scale alone; what reads it folds the shift in (`shift_of`).

    The scale could be folded as well, but does not cost anything where it is, and INT8 needs it
    there: trained scales damp the few channels in which DINOv3's tokens are hundreds of times as
    large as in all others, and without it those alone would set the step of all codes (error 0.14
    instead of 0.02 of the logits' contrast with an outlier of 300 planted in a small v2).
    """
    kept = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, bias=False, dtype=norm.weight.dtype)
    kept.weight = norm.weight
    return kept


def shift_of(norm: nn.LayerNorm) -> nn.LayerNorm:
    """What `without_shift` leaves to the readers: an affine part with scale 1 and the shift."""
    left = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, dtype=norm.weight.dtype)
    left.bias = norm.bias
    return left.requires_grad_(False)


def _own_mlp(block: Block) -> _Mlp:
    """The block's MLP as one whose products may be replaced."""
    if not isinstance(block.mlp, _Mlp):
        block.mlp = _Mlp(block.mlp)
    return block.mlp


class _Mlp(nn.Module):
    """The MLP over its own Linears, so that they can be replaced and the checkpoint's stay."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.gated = hasattr(source, "fc1_g")
        self.first = ("fc1_g", "fc1_x") if self.gated else ("fc1",)
        """Names of the products that read the norm."""
        for name in (*self.first, "fc2"):
            self.add_module(name, getattr(source, name))
        self.act = source.act

    def forward(self, tokens: Tensor) -> Tensor:
        if self.gated:
            return self.fc2(self.act(self.fc1_g(tokens)) * self.fc1_x(tokens))
        return self.fc2(self.act(self.fc1(tokens)))
