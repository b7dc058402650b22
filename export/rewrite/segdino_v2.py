"""SegDINO v2's decoder: Token Pyramid Adaptation on tokens, Scale-Aware Decoding channels last."""

from __future__ import annotations

from torch import nn

from edgeseg.export.family import Exportable
from edgeseg.export.rewrite.algebra import affine_of
from edgeseg.export.rewrite.pyramid import Names, assemble
from edgeseg.export.rewrite.upsampled_conv import upsampled_conv
from edgeseg.spec import AppliedRewrite

__all__ = ["rewrite_decoder"]

_LEVELS = (1, 2, 3, 4)
_NAMES = Names("decoder", "sad_intra_", "sad_inter_", "depthwise", "pointwise")


def rewrite_decoder(
    decoder: nn.Module, norm: nn.Module, grid: tuple[int, int], size_px: tuple[int, int]
) -> Exportable:
    """The decoder with every rewrite, for one grid of patches; the given modules stay as they are.

    Args:
        decoder: `edgeseg.export.families.segdino_v2`'s, in evaluation mode.
        norm: the backbone's final LayerNorm, whose affine part the tokens lack.
        grid: rows and columns of patches.
        size_px: (height, width) of the logits.
    """
    affine = affine_of(norm)
    levels = {}
    for level, projection in zip(_LEVELS, decoder.token_projections, strict=True):
        name = f"tpa_branch_{level}"
        source = decoder.get_submodule(name)
        levels[name] = upsampled_conv(
            projection.weight, source.conv.weight, affine, grid, source.scale
        )
    rewrites = (
        AppliedRewrite(
            "conv-after-upsampling",
            tuple(f"decoder.{name}" for name in levels),
            "channels are mixed on the tokens, then two constant matrices upsample and shift",
        ),
        AppliedRewrite(
            "norm-shift-into-projections",
            ("backbone.norm", "decoder.token_projections"),
            "the shift of the final LayerNorm becomes part of what reads the tokens",
        ),
    )
    pyramid, more = assemble(levels, decoder, _NAMES, size_px, align_corners=False)
    return Exportable(pyramid.eval(), (*rewrites, *more))
