"""The transformer: scales folded into the products beside them, unread tokens dropped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg.export.rewrite.algebra import affine_of, linear, scaled_outputs, with_affine_before
from edgeseg.export.static_backbone import Block, StaticTransformer
from edgeseg.spec import AppliedRewrite

__all__ = [
    "drop_unread_tokens",
    "fold_layer_scale",
    "fold_norms",
    "fold_query_scale",
    "rewrite_transformer",
]


def rewrite_transformer(transformer: StaticTransformer) -> tuple[AppliedRewrite, ...]:
    """Apply every rewrite of this module, in place; the checkpoint's own modules stay as they are.

    The final norm loses its affine part: whoever reads the taps folds it in.
    """
    for block in transformer.blocks:
        fold_layer_scale(block)
        fold_norms(block)
    fold_query_scale(transformer)
    drop_unread_tokens(transformer)
    transformer.norm = without_affine(transformer.norm)
    return (
        AppliedRewrite(
            "layer-scale-into-products",
            ("backbone.blocks.*.attn.proj", "backbone.blocks.*.mlp"),
            "LayerScale multiplies rows of the weights of the product before it",
        ),
        AppliedRewrite(
            "norm-affine-into-readers",
            ("backbone.blocks.*.norm1", "backbone.blocks.*.norm2", "backbone.norm"),
            "scale and shift of each LayerNorm become part of the product that reads it",
        ),
        AppliedRewrite(
            "query-scale-into-weights",
            ("backbone.blocks.*.attn.qkv",),
            "the scale of attention is in the query's weights, so queries and keys share tables",
        ),
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


def fold_norms(block: Block) -> None:
    """The affine part of both norms into qkv and the first product of the MLP.

    W (g * n + s) + b = (W diag(g)) n + (W s + b), n being the normalised tokens.
    """
    qkv = block.attn.qkv
    block.attn.qkv = _behind(qkv, block.norm1)
    block.norm1 = without_affine(block.norm1)
    mlp = _own_mlp(block)
    for name in mlp.first:
        setattr(mlp, name, _behind(getattr(mlp, name), block.norm2))
    block.norm2 = without_affine(block.norm2)


def fold_query_scale(transformer: StaticTransformer) -> None:
    """The scale of attention into the rows of the query: rotations are linear, s R q = R (s q)."""
    width = transformer.width
    for block in transformer.blocks:
        qkv = block.attn.qkv
        scale = torch.ones(3 * width, dtype=torch.float64)
        scale[:width] = transformer.query_scale
        block.attn.qkv = linear(*scaled_outputs(qkv.weight, qkv.bias, scale), qkv.weight)
    transformer.share_tables()


def drop_unread_tokens(transformer: StaticTransformer) -> None:
    """Class and register tokens of the last block: as keys and values they are read, no further."""
    if transformer.taps[-1] == len(transformer.blocks) - 1:
        transformer.blocks[-1].skipped = transformer.prefix_tokens


def without_affine(norm: nn.Module) -> nn.Module:
    """The LayerNorm alone."""
    return nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)


def _behind(product: nn.Linear, norm: nn.Module) -> nn.Linear:
    folded = with_affine_before(product.weight, product.bias, affine_of(norm))
    return linear(*folded, product.weight)


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
