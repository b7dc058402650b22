"""The head of SegDINO v2's first layout: levels from tokens by products, blocks as in v2."""

from __future__ import annotations

from torch import nn

from edgeseg.export.family import Exportable
from edgeseg.export.rewrite.algebra import affine_of
from edgeseg.export.rewrite.pyramid import Names, assemble
from edgeseg.export.rewrite.token_maps import token_conv, token_map, token_tiles
from edgeseg.spec import AppliedRewrite

__all__ = ["rewrite_head"]

_NAMES = Names("head", "intra_r", "inter_r", "dw", "pw")


def rewrite_head(
    head: nn.Module, norm: nn.Module, grid: tuple[int, int], size_px: tuple[int, int]
) -> Exportable:
    """The head with every rewrite, for one grid of patches; the given modules stay as they are.

    Args:
        head: `edgeseg.export.families.segdino_v2_first`'s, in evaluation mode.
        norm: the backbone's final LayerNorm, whose affine part the tokens lack.
        grid: rows and columns of patches.
        size_px: (height, width) of the logits.
    """
    affine = affine_of(norm)
    one, two, three, four = (projection.weight for projection in head.proj)
    levels = {
        "rsz1": token_tiles(one, head.rsz1.weight, affine, grid),
        "rsz2": token_tiles(two, head.rsz2.weight, affine, grid),
        "rsz3": token_map(three, affine, grid),
        "rsz4": token_conv(four, head.rsz4.weight, affine, grid, 2),
    }
    rewrites = (
        AppliedRewrite(
            "transposed-conv-as-product",
            ("head.proj.0", "head.rsz1", "head.proj.1", "head.rsz2"),
            "projection and transposed convolution are one product, whose results are rearranged",
        ),
        AppliedRewrite(
            "projection-into-conv",
            ("head.proj.3", "head.rsz4"),
            "projection and convolution are one convolution",
        ),
        AppliedRewrite(
            "norm-shift-into-projections",
            ("backbone.norm", "head.proj.0", "head.proj.1", "head.proj.2"),
            "the shift of the final LayerNorm becomes part of what reads the tokens",
        ),
    )
    pyramid, more = assemble(levels, head, _NAMES, size_px, align_corners=True)
    return Exportable(pyramid.eval(), (*rewrites, *more))
