"""The decoders of SegDINO v2, both layouts, on maps whose channels lie last.

Tokens come with their channels last, and so do the products that make most of the work want them.
Only depthwise convolutions and resizes are written with the channels first, between two
transpositions that a runtime with channels-last kernels drops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgeseg.export.families._segdino import resize
from edgeseg.export.rewrite.algebra import linear
from edgeseg.export.rewrite.residual import Block, LastBlock, block, is_identity
from edgeseg.spec import AppliedRewrite

__all__ = ["Names", "Pyramid", "assemble"]

_LEVELS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Names:
    """What a layout calls its modules; ``intra`` and ``inter`` are followed by the level."""

    head: str
    intra: str
    inter: str
    depthwise: str
    pointwise: str


class Pyramid(nn.Module):
    """Four levels from tokens, each refined, joined from the coarsest to the finest.

    Args:
        levels: by name, the finest first: modules from (N, patches, width) to (N, h, w, C).
        intra: by name, in the same order: blocks of one level.
        inter: by name, in the same order: blocks after a coarser level was added; the first gives
            its part of the logits, or is None.
        out_conv: Linear from C to classes.
        size_px: (height, width) of the logits.
        align_corners: of the last resize.
    """

    def __init__(
        self,
        levels: Mapping[str, nn.Module],
        intra: Mapping[str, nn.Module],
        inter: Mapping[str, nn.Module | None],
        out_conv: nn.Linear,
        size_px: tuple[int, int],
        *,
        align_corners: bool,
    ) -> None:
        super().__init__()
        for name, module in (*levels.items(), *intra.items(), *inter.items()):
            self.add_module(name, module)
        self.out_conv = out_conv
        self.names = tuple(zip(levels, intra, inter, strict=True))
        self.last = _LastResize(size_px, align_corners=align_corners)

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """Logits (N, classes, height, width) of one (N, patches, width) for each tap."""
        x = coarser = None
        for taken, (level, intra, inter) in reversed(list(zip(tokens, self.names, strict=True))):
            here = getattr(self, intra)(getattr(self, level)(taken))
            x = here if coarser is None else _resized(coarser(x), here) + here
            coarser = getattr(self, inter)
        logits = self.out_conv(x)
        if coarser is not None:
            logits = logits + coarser(x)
        resized: Tensor = self.last(logits.permute(0, 3, 1, 2))
        return resized


class _LastResize(nn.Module):
    """The resize to the size of the logits, under a name of its own."""

    def __init__(self, size_px: tuple[int, int], *, align_corners: bool) -> None:
        super().__init__()
        self.size_px, self.align_corners = size_px, align_corners

    def forward(self, logits: Tensor) -> Tensor:
        """Of maps (N, classes, rows, columns)."""
        return resize(logits, self.size_px, align_corners=self.align_corners)


def assemble(
    levels: Mapping[str, nn.Module],
    source: nn.Module,
    names: Names,
    size_px: tuple[int, int],
    *,
    align_corners: bool,
) -> tuple[Pyramid, tuple[AppliedRewrite, ...]]:
    """The decoder over these levels with the blocks of ``source``, and what changed in the blocks.

    Args:
        levels: by name, the finest first.
        source: the decoder as its authors wrote it, in evaluation mode.
        names: of its modules.
        size_px: (height, width) of the logits.
        align_corners: of the last resize.
    """
    made: dict[str, Block | None] = {}
    for kind in (names.intra, names.inter):
        for level in _LEVELS:
            part = source.get_submodule(f"{kind}{level}")
            same = is_identity(part.gamma)
            made[f"{kind}{level}"] = None if same else block(part, names.depthwise, names.pointwise)
    intra, inter = (
        {name: found or nn.Identity() for name, found in made.items() if name.startswith(kind)}
        for kind in (names.intra, names.inter)
    )
    last = made[f"{names.inter}1"]
    inter[f"{names.inter}1"] = None if last is None else LastBlock(last, source.out_conv)
    weight = source.out_conv.weight.flatten(1)
    out_conv = linear(weight.double(), source.out_conv.bias, weight)
    pyramid = Pyramid(levels, intra, inter, out_conv, size_px, align_corners=align_corners)
    return pyramid, tuple(_block_rewrites(source, names, made))


def _block_rewrites(
    source: nn.Module, names: Names, blocks: Mapping[str, Block | None]
) -> Iterator[AppliedRewrite]:
    dropped = tuple(f"{names.head}.{name}" for name, made in blocks.items() if made is None)
    kept = tuple(f"{names.head}.{name}.norm" for name, made in blocks.items() if made is not None)
    if dropped:
        yield AppliedRewrite(
            "identity-blocks-dropped", dropped, "their gamma is 0, so they return their input"
        )
    if kept and isinstance(source.get_submodule(f"{names.intra}1").norm, nn.GroupNorm):
        yield AppliedRewrite(
            "group-norm-by-channel",
            kept,
            "statistics are sums over positions, so that channels stay last in memory",
        )
    elif kept:
        yield AppliedRewrite(
            "batch-norm-into-products", kept, "it scales and shifts the pointwise product before it"
        )
    if blocks[f"{names.inter}1"] is not None:
        yield AppliedRewrite(
            "out-conv-before-sum",
            (f"{names.head}.{names.inter}1", f"{names.head}.out_conv"),
            "classes replace channels before the last residual sum",
        )


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, half-pixel centres, to the rows and columns of ``like``; channels last."""
    size = (like.shape[1], like.shape[2])
    return resize(x.permute(0, 3, 1, 2), size, align_corners=False).permute(0, 2, 3, 1)
