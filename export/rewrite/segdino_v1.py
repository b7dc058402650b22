"""SegDINO v1's head: one linear map from tokens to logits, associated from the cheap end.

Nothing in the head is activated, so its 1x1 projections, 3x3 convolutions, transposed convolution,
1x1 output convolution and both resamplings commute and compose. A level of the head is

    logits = sum over taps (dy, dx) of shift_(dy, dx)(K_(dy, dx) t),  K = T R_(dy, dx) P

with P the projection, R the 3x3 convolution and T the level's columns of the output convolution,
behind the transposed convolution's tiles where there is one. K has as many outputs as there are
classes (16 times as many with tiles), so the 3x3 convolution becomes one Linear on tokens to
9 or 144 channels a class. Shifts, tiles and resampling then act on those few channels, apart along
y and x, as products with constant matrices. What zero tokens give, which holds every bias and what
zero padding makes of it, is one constant map.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeseg.export.family import Exportable
from edgeseg.export.rewrite.algebra import affine_of, linear
from edgeseg.export.rewrite.resampling import (
    AlongX,
    AlongY,
    BilinearProducts,
    bilinear_matrix,
    shifted_rows,
)
from edgeseg.spec import AppliedRewrite

__all__ = [
    "CollapsedHead",
    "Level",
    "Plan",
    "choose_plan",
    "collapse_head",
    "read_levels",
    "shift_and_shuffle",
    "zero_token_logits",
]

_TAPS = 3
"""Of a side of the head's convolutions."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class Level:
    """One level's three maps, float64, in the order in which they are applied to a feature map."""

    projection: Tensor
    """(P, D): the 1x1 projection, with the final norm's scale."""
    convolution: Tensor
    """(F, P, 3, 3): the zero-padded convolution."""
    output: Tensor
    """(s, C, s, F): what a pixel gives to rows i and columns j of its tile, for each class."""

    @property
    def scale(self) -> int:
        """Side of the tile that a patch becomes."""
        return int(self.output.shape[0])


@dataclass(frozen=True)
class Plan:
    """Which neighbours of a level's maps are multiplied into one."""

    project_apart: bool
    """The projection stays a product of its own."""
    convolve: bool
    """The convolution stays one, and the output map follows it; else both are one Linear."""

    def macs(self, level: Level, grid: Grid) -> int:
        """Multiply-accumulates for one image up to the tiles on the level's finer grid."""
        projected, width = map(int, level.projection.shape)
        scale, classes, _, features = map(int, level.output.shape)
        outputs = scale * scale * classes
        middle = _TAPS**2 * (features if self.convolve else outputs)
        patch = middle * (projected if self.project_apart else width)
        patch += width * projected if self.project_apart else 0
        patch += features * outputs if self.convolve else 0
        rows, columns = grid
        inner = scale if self.convolve else scale * _TAPS
        fine_rows, fine_columns = rows * scale, columns * scale
        shuffled = classes * rows * inner * fine_columns * (columns * inner + fine_rows)
        return rows * columns * patch + shuffled


def read_levels(head: nn.Module, norm: nn.Module) -> tuple[Level, ...]:
    """The maps of each level of a v1 head, which reads what ``norm`` gives; without the biases."""
    scale, _ = affine_of(norm)
    output = head.scratch.output_conv.weight.detach().double()[:, :, 0, 0]
    levels = []
    parts = output.chunk(len(head.projects), dim=1)
    for number, (project, part) in enumerate(zip(head.projects, parts, strict=True), start=1):
        convolution = head.scratch.get_submodule(f"layer{number}_rn").weight.detach().double()
        projection = project.weight.detach().double()[:, :, 0, 0] * scale
        if number == 1 and isinstance(head.proj, nn.ConvTranspose2d):
            tiles = head.proj.weight.detach().double()
            behind = torch.einsum("cg,fgij->icjf", part, tiles)
        else:
            behind = part[None, :, None, :]
        levels.append(Level(projection, convolution, behind))
    return tuple(levels)


def choose_plan(level: Level, grid: Grid) -> Plan:
    """The cheapest plan: few classes collapse, many keep the convolution.

    Of plans that differ by less than an eighth the one with fewer products is taken: each more is a
    tensor to write, read and quantise.
    """
    plans = [Plan(apart, convolve) for convolve in (False, True) for apart in (False, True)]
    macs = {plan: plan.macs(level, grid) for plan in plans}
    near = [plan for plan in plans if macs[plan] * 8 < min(macs.values()) * 9]
    return min(near, key=lambda plan: (plan.project_apart + plan.convolve, macs[plan]))


def zero_token_logits(head: nn.Module, norm: nn.Module, grid: Grid) -> Tensor:
    """What the head answers to tokens of zeros before ``norm``'s affine part: every bias at once.

    The bias of a projection reaches fewer taps at the border, so this is a map, not a number.

    Returns:
        float64 (C, rows, columns) on the grid of the head's output.
    """
    _, shift = affine_of(norm)
    shifts = shift.reshape(1, -1, 1, 1).expand(1, -1, *grid)
    with torch.no_grad():
        answer: Tensor = copy.deepcopy(head).double()((shifts,) * len(head.projects))
    return answer[0]


def shift_and_shuffle(size: int, scale: int, *, taps: bool) -> Tensor:
    """Where the channels of a patch go along one axis, float64 (size * scale, size * channels).

    Channel ``i`` of a patch is pixel ``i`` of its tile. With ``taps`` channel ``3-tap index *
    scale + i`` is what tap ``d`` of a zero-padded convolution reads there for the patch ``1 - d``
    further on; what falls outside is dropped.
    """
    place = torch.eye(size, dtype=torch.float64)
    tile = torch.eye(scale, dtype=torch.float64)
    offsets = range(-(_TAPS // 2), _TAPS // 2 + 1) if taps else (0,)
    shifts = torch.stack([shifted_rows(place, offset) for offset in offsets])
    whole = torch.einsum("dyp,ij->yipdj", shifts, tile)
    return whole.reshape(size * scale, -1)


class _Readout(nn.Module):
    """Tokens (N, patches, D) to (N, patches, outputs) as a plan says."""

    def __init__(self, level: Level, plan: Plan, grid: Grid, like: Tensor) -> None:
        super().__init__()
        self.grid = grid
        convolution, output = level.convolution, level.output
        if not plan.project_apart:
            convolution = torch.einsum("fpuv,pd->fduv", convolution, level.projection)
        self.project = linear(level.projection, None, like) if plan.project_apart else None
        if plan.convolve:
            features, inputs = convolution.shape[:2]
            self.conv = nn.Conv2d(
                inputs, features, _TAPS, padding=1, bias=False, dtype=like.dtype, device=like.device
            ).requires_grad_(False)
            self.conv.weight.copy_(convolution)
            weight = output
        else:
            self.conv = None
            weight = torch.einsum("icjf,fpuv->uicvjp", output, convolution)
        self.out = linear(weight.reshape(-1, weight.shape[-1]), None, like)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.project is not None:
            tokens = self.project(tokens)
        if self.conv is not None:
            maps = tokens.transpose(1, 2).unflatten(2, self.grid)
            tokens = self.conv(maps).flatten(2).transpose(1, 2)
        read: Tensor = self.out(tokens)
        return read


class _Group(nn.Module):
    """Levels whose channels go the same way: summed, then shuffled and resampled along x.

    Channels of a patch are ordered (row's part, class, column's part), which leaves one small
    transposition.
    """

    def __init__(
        self, members: Sequence[int], readouts: Sequence[_Readout], classes: int, across: AlongX
    ) -> None:
        super().__init__()
        self.members = tuple(members)
        self.readouts = nn.ModuleList(readouts)
        self.classes = classes
        self.resample_x = across

    def forward(self, tokens: tuple[Tensor, ...]) -> Tensor:
        """(N, rows * row parts, classes * columns of the map)."""
        parts = [
            readout(tokens[level])
            for level, readout in zip(self.members, self.readouts, strict=True)
        ]
        summed = parts[0]
        for part in parts[1:]:
            summed = summed + part
        batch, _, channels = summed.shape
        rows, columns = self.readouts[0].grid
        inner = self.resample_x.matrix.shape[0] // columns
        lines = channels // inner
        apart = summed.reshape(batch * rows, columns, lines, inner).transpose(1, 2)
        mixed = self.resample_x(apart.reshape(batch, rows * lines, columns * inner))
        return mixed.reshape(batch, rows * lines // self.classes, -1)


class CollapsedHead(nn.Module):
    """Tokens of every tap (N, rows * columns, D) to logits (N, C, H, W).

    Args:
        levels: as `read_levels` gives them.
        plans: one for each level.
        constant: (C, rows, columns), the answer to zero tokens before the last resize.
        grid: rows and columns of patches.
        size_px: (height, width) of the logits.
        like: gives dtype and device.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        plans: Sequence[Plan],
        constant: Tensor,
        *,
        grid: Grid,
        size_px: tuple[int, int],
        like: Tensor,
    ) -> None:
        super().__init__()
        self.classes, *fine = constant.shape
        kinds: dict[tuple[int, bool], list[int]] = {}
        for index, (level, plan) in enumerate(zip(levels, plans, strict=True)):
            kinds.setdefault((level.scale, not plan.convolve), []).append(index)
        groups, down = [], []
        for (scale, taps), members in kinds.items():
            along_y, along_x = (
                bilinear_matrix(size * scale, target, align_corners=True)
                @ shift_and_shuffle(size, scale, taps=taps)
                for size, target in zip(grid, fine, strict=True)
            )
            readouts = [_Readout(levels[i], plans[i], grid, like) for i in members]
            groups.append(_Group(members, readouts, self.classes, AlongX(along_x, like)))
            down.append(along_y)
        self.groups = nn.ModuleList(groups)
        self.resample_y = AlongY(torch.cat(down, dim=1), like)
        # (rows, C * columns), the form in which the map appears.
        self.register_buffer("constant", constant.transpose(0, 1).flatten(1).to(like))
        self.last = BilinearProducts(tuple(fine), size_px, like, align_corners=True)

    def forward(self, tokens: tuple[Tensor, ...]) -> Tensor:
        """Logits of one (N, rows * columns, D) for each tap, normalised without affine part."""
        parts = [group(tokens) for group in self.groups]
        stacked = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        maps = self.resample_y(stacked) + self.constant
        batch, rows, _ = maps.shape
        if self.classes == 1:
            maps = maps.unsqueeze(1)
        else:
            maps = maps.reshape(batch, rows, self.classes, -1).transpose(1, 2)
        logits: Tensor = self.last(maps)
        return logits


def collapse_head(
    head: nn.Module, norm: nn.Module, grid: Grid, size_px: tuple[int, int]
) -> Exportable:
    """A v1 head with the last resize, collapsed as far as that saves operations.

    Args:
        head: a v1 head with its weights, of either layout; it is not changed.
        norm: the final LayerNorm, whose affine part is folded in.
        grid: rows and columns of patches.
        size_px: (height, width) of the logits.

    Returns:
        A `CollapsedHead` in the dtype of ``head``.
    """
    levels = read_levels(head, norm)
    plans = [choose_plan(level, grid) for level in levels]
    constant = zero_token_logits(head, norm, grid)
    like = head.scratch.output_conv.weight.detach()
    with torch.no_grad():
        module = CollapsedHead(levels, plans, constant, grid=grid, size_px=size_px, like=like)
    return Exportable(module.eval(), _records(levels, plans))


def _records(levels: Sequence[Level], plans: Sequence[Plan]) -> tuple[AppliedRewrite, ...]:
    collapsed: list[str] = []
    kept: list[str] = []
    for number, plan in enumerate(plans, start=1):
        names = [f"head.projects.{number - 1}", f"head.scratch.layer{number}_rn"]
        (kept if plan.convolve else collapsed).extend(names)
    records = []
    if collapsed:
        records.append(
            AppliedRewrite(
                "linear-head-collapsed",
                (*collapsed, "head.scratch.output_conv"),
                "projection, 3x3 convolution and output convolution are one product on tokens to "
                "9 channels a class, and 144 where tiles follow",
            )
        )
    if kept:
        records.append(
            AppliedRewrite(
                "classes-before-upsampling",
                (*kept, "head.scratch.output_conv"),
                "the output convolution stands on the patch grid, before tiles and resampling",
            )
        )
    if any(level.scale > 1 for level in levels):
        records.append(
            AppliedRewrite(
                "tiles-hold-classes",
                ("head.proj", "head.scratch.output_conv"),
                "the transposed convolution's tiles hold classes, not features",
            )
        )
    return (
        *records,
        AppliedRewrite(
            "resampling-as-products",
            ("head",),
            "shifts, tiles and bilinear resampling are constant matrices along y and along x",
        ),
        AppliedRewrite(
            "biases-as-one-map",
            ("backbone.norm", "head"),
            "the answer to zero tokens, with what zero padding takes from it, is added once",
        ),
    )
