"""The transformer: scales folded into the products beside them, tokens that nobody reads dropped."""

from __future__ import annotations

from torch import nn

from edgeseg.export.rewrite.algebra import affine_of, linear, scaled_outputs, with_affine_before
from edgeseg.export.static_backbone import Block, StaticTransformer
from edgeseg.spec import AppliedRewrite

__all__ = ["fold_layer_scale", "fold_norms", "fold_query_scale", "rewrite_transformer"]


def rewrite_transformer(transformer: StaticTransformer) -> tuple[AppliedRewrite, ...]:
    """Apply every rewrite of this module, in place; the checkpoint's own modules stay as they are.

    The final norm loses its affine part: whoever reads the taps folds it in.
    """
    for block in transformer.blocks:
        fold_layer_scale(block)
        fold_norms(block)
    fold_query_scale(transformer)
    drop_unread_tokens(transformer)
    transformer.norm = nn.LayerNorm(
        transformer.width, eps=transformer.norm.eps, elementwise_affine=False
    )
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
