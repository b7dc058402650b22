"""SegDINO v2 as its repository first published it (before 2026-06), under ``head.``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.export.backbone_config import BackboneConfig
from edgeseg.export.families._segdino import Norm, SegDinoFamily, make_norm, norm_kind, resize
from edgeseg.export.family import Exportable
from edgeseg.export.shapes import Shapes, dimensions

__all__ = ["FAMILY", "SegDinoV2First", "SegDinoV2FirstConfig"]

_LEVELS = (1, 2, 3, 4)


@dataclass(frozen=True)
class SegDinoV2FirstConfig:
    """Hyper-parameters; the decoder is as wide as the backbone."""

    backbone: BackboneConfig
    classes: int = 1
    norm: Norm = "batch"


class _Residual(nn.Module):
    """``x + gamma * GELU(norm(pw(dw(x))))``, as in the later layout under other names."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.dw = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pw = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * F.gelu(self.norm(self.pw(self.dw(x))))


class _Head(nn.Module):
    def __init__(self, channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.proj = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in _LEVELS)
        self.rsz1 = nn.ConvTranspose2d(channels, channels, 4, stride=4, bias=False)
        self.rsz2 = nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False)
        self.rsz3 = nn.Identity()
        self.rsz4 = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        for level in _LEVELS:
            self.add_module(f"intra_r{level}", _Residual(channels, norm))
            self.add_module(f"inter_r{level}", _Residual(channels, norm))
        self.out_conv = nn.Conv2d(channels, classes, 1)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        levels = {}
        for level, project, feature in zip(_LEVELS, self.proj, features, strict=True):
            resized = self.get_submodule(f"rsz{level}")(project(feature))
            levels[level] = self.get_submodule(f"intra_r{level}")(resized)
        x = self.inter_r4(levels[4])
        for level in (3, 2, 1):
            rows, columns = levels[level].shape[-2:]
            up = resize(x, (rows, columns), align_corners=False)
            x = self.get_submodule(f"inter_r{level}")(up + levels[level])
        return self.out_conv(x)


class SegDinoV2First(SegDinoFamily[SegDinoV2FirstConfig]):
    """The first layout."""

    name = "segdino_v2_first"
    config_type = SegDinoV2FirstConfig
    title = "SegDINO v2, first layout"
    reference = "github.com/script-Yang/segdino_v2 before 2026-06"
    head_name = "head"
    align_corners = True
    resample = "bilinear"

    def matches(self, shapes: Shapes) -> bool:
        """Its residual blocks are named like no other's."""
        return any(key.startswith("head.intra_r1.") for key in shapes)

    def read_head(self, backbone: BackboneConfig, shapes: Shapes) -> SegDinoV2FirstConfig:
        """Classes from the last convolution, the norm's kind from its statistics."""
        classes, *_ = dimensions(shapes, "head.out_conv.weight", (None, backbone.width, 1, 1))
        return SegDinoV2FirstConfig(backbone, classes, norm_kind(shapes, "head.intra_r1.norm."))

    def build_head(self, config: SegDinoV2FirstConfig) -> nn.Module:
        """The decoder, as wide as the backbone."""
        return _Head(config.backbone.width, config.classes, config.norm)

    def rewrite_head(
        self,
        head: nn.Module,
        config: SegDinoV2FirstConfig,
        norm: nn.Module,
        grid: tuple[int, int],
        size_px: tuple[int, int],
    ) -> Exportable:
        """Transposed convolutions as products; see ``edgeseg.export.rewrite.segdino_v2_first``."""
        from edgeseg.export.rewrite.segdino_v2_first import rewrite_head

        return rewrite_head(head, norm, grid, size_px)


FAMILY = SegDinoV2First()
