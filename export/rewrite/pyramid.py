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
from edgeseg.export.rewrite.algebra import linear, scaled_outputs
from edgeseg.export.rewrite.residual import Branch, branch, is_identity
from edgeseg.spec import AppliedRewrite

__all__ = ["Block", "LastBlock", "Names", "Pyramid", "assemble"]

_LEVELS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Names:
    """What a layout calls its modules; ``intra`` and ``inter`` are followed by the level."""

    head: str
    intra: str
    inter: str
    depthwise: str
    pointwise: str


class Block(nn.Module):
    """``x + gamma * branch(x)`` of (N, rows, columns, C)."""

    def __init__(self, inner: Branch, gamma: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("gamma", gamma.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x + self.gamma * self.inner(x)


class LastBlock(nn.Module):
    """``out_conv(x + gamma * branch(x))``, without making that sum.

    A 1x1 convolution is linear: out_conv(x) + (gamma * W)(branch(x)). Each product reads its map
    once and writes as many channels as there are classes.
    """

    def __init__(self, inner: Branch | None, gamma: Tensor, out_conv: nn.Conv2d) -> None:
        super().__init__()
        weight = out_conv.weight.flatten(1)
        self.of_map = linear(weight.double(), out_conv.bias, weight)
        self.inner = inner
        if inner is not None:
            scaled, _ = scaled_outputs(weight, None, gamma.expand(len(weight)))
            self.of_branch = linear(scaled, None, weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, classes, rows, columns) of (N, rows, columns, C)."""
        logits: Tensor = self.of_map(x)
        if self.inner is not None:
            logits = logits + self.of_branch(self.inner(x))
        return logits.permute(0, 3, 1, 2)


class Pyramid(nn.Module):
    """Four levels from tokens, each refined, joined from the coarsest to the finest.

    Args:
        levels: by name, the finest first: modules from (N, patches, width) to (N, h, w, C).
        intra: by name, in the same order: blocks of one level.
        inter: by name, in the same order: blocks after a coarser level was added; a `LastBlock`
            comes first.
        size_px: (height, width) of the logits.
        align_corners: of the last resize.
    """

    def __init__(
        self,
        levels: Mapping[str, nn.Module],
        intra: Mapping[str, nn.Module],
        inter: Mapping[str, nn.Module],
        size_px: tuple[int, int],
        *,
        align_corners: bool,
    ) -> None:
        super().__init__()
        for name, module in (*levels.items(), *intra.items(), *inter.items()):
            self.add_module(name, module)
        self.names = tuple(zip(levels, intra, inter, strict=True))
        self.size_px, self.align_corners = size_px, align_corners

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """Logits (N, classes, height, width) of one (N, patches, width) for each tap."""
        x: Tensor | None = None
        for taken, (level, intra, inter) in reversed(list(zip(tokens, self.names, strict=True))):
            here = self.get_submodule(intra)(self.get_submodule(level)(taken))
            x = here if x is None else _resized(x, here) + here
            x = self.get_submodule(inter)(x)
        assert x is not None
        return resize(x, self.size_px, align_corners=self.align_corners)


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
    inner: dict[str, Branch | None] = {}
    for kind in (names.intra, names.inter):
        for level in _LEVELS:
            block = source.get_submodule(f"{kind}{level}")
            parts = (getattr(block, names.depthwise), getattr(block, names.pointwise), block.norm)
            inner[f"{kind}{level}"] = None if is_identity(block.gamma) else branch(*parts)
    last = f"{names.inter}1"
    blocks = {
        name: nn.Identity() if made is None else Block(made, source.get_submodule(name).gamma)
        for name, made in inner.items()
        if name != last
    }
    blocks[last] = LastBlock(inner[last], source.get_submodule(last).gamma, source.out_conv)
    pyramid = Pyramid(
        levels,
        {name: blocks[name] for name in inner if name.startswith(names.intra)},
        {name: blocks[name] for name in inner if name.startswith(names.inter)},
        size_px,
        align_corners=align_corners,
    )
    return pyramid, tuple(_block_rewrites(source, names, inner))


def _block_rewrites(
    source: nn.Module, names: Names, inner: Mapping[str, Branch | None]
) -> Iterator[AppliedRewrite]:
    dropped = tuple(f"{names.head}.{name}" for name, made in inner.items() if made is None)
    kept = tuple(f"{names.head}.{name}.norm" for name, made in inner.items() if made is not None)
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
    if inner[f"{names.inter}1"] is not None:
        yield AppliedRewrite(
            "out-conv-before-sum",
            (f"{names.head}.{names.inter}1", f"{names.head}.out_conv"),
            "classes replace channels before the last residual sum",
        )


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, half-pixel centres, to the rows and columns of ``like``; channels last."""
    size = (like.shape[1], like.shape[2])
    return resize(x.permute(0, 3, 1, 2), size, align_corners=False).permute(0, 2, 3, 1)
