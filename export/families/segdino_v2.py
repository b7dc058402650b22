"""SegDINO v2 (arXiv 2606.17972): Token Pyramid Adaptation and Scale-Aware Decoding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.export.backbone_config import BackboneConfig
from edgeseg.export.families._segdino import Norm, SegDinoFamily, make_norm, norm_kind, resize
from edgeseg.export.family import Exportable
from edgeseg.export.shapes import Shapes, dimensions

__all__ = ["FAMILY", "SegDinoV2", "SegDinoV2Config"]

_LEVELS = (1, 2, 3, 4)


@dataclass(frozen=True)
class SegDinoV2Config:
    """Hyper-parameters of a SegDINO v2 model."""

    backbone: BackboneConfig
    decoder_channels: int = 256
    classes: int = 1
    norm: Norm = "group"


class _TpaBranch(nn.Module):
    """One branch of Token Pyramid Adaptation: upsample by ``scale``, then a 3x3 convolution."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        return self.conv(resize(x, (rows * self.scale, columns * self.scale), align_corners=False))


class _SadBlock(nn.Module):
    """``x + gamma * GELU(norm(pointwise(depthwise(x))))``."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * F.gelu(self.norm(self.pointwise(self.depthwise(x))))


class _Decoder(nn.Module):
    def __init__(self, width: int, channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.token_projections = nn.ModuleList(
            nn.Conv2d(width, channels, 1, bias=False) for _ in _LEVELS
        )
        for level in _LEVELS:
            self.add_module(f"tpa_branch_{level}", _TpaBranch(channels, 2 ** (4 - level)))
            self.add_module(f"sad_intra_{level}", _SadBlock(channels, norm))
            self.add_module(f"sad_inter_{level}", _SadBlock(channels, norm))
        self.out_conv = nn.Conv2d(channels, classes, 1)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        levels = {}
        for level, project, feature in zip(_LEVELS, self.token_projections, features, strict=True):
            branch = self.get_submodule(f"tpa_branch_{level}")(project(feature))
            levels[level] = self.get_submodule(f"sad_intra_{level}")(branch)
        x = self.sad_inter_4(levels[4])
        for level in (3, 2, 1):
            rows, columns = levels[level].shape[-2:]
            up = resize(x, (rows, columns), align_corners=False)
            x = self.get_submodule(f"sad_inter_{level}")(up + levels[level])
        return self.out_conv(x)


class SegDinoV2(SegDinoFamily[SegDinoV2Config]):
    """The published layout, under ``decoder.``."""

    name = "segdino_v2"
    config_type = SegDinoV2Config
    title = "SegDINO v2"
    reference = "arXiv 2606.17972; github.com/script-Yang/segdino_v2"
    head_name = "decoder"
    align_corners = False
    resample = "bilinear"

    def matches(self, shapes: Shapes) -> bool:
        """The token pyramid's branches under ``decoder.``."""
        return any(key.startswith("decoder.tpa_branch_1.") for key in shapes)

    def read_head(self, backbone: BackboneConfig, shapes: Shapes) -> SegDinoV2Config:
        """Channels from the projections, classes from the last convolution."""
        channels, *_ = dimensions(
            shapes, "decoder.token_projections.0.weight", (None, backbone.width, 1, 1)
        )
        classes, *_ = dimensions(shapes, "decoder.out_conv.weight", (None, channels, 1, 1))
        return SegDinoV2Config(
            backbone, channels, classes, norm_kind(shapes, "decoder.sad_intra_1.norm.")
        )

    def build_head(self, config: SegDinoV2Config) -> nn.Module:
        """The decoder, its parameters named as in the checkpoint."""
        return _Decoder(config.backbone.width, config.decoder_channels, config.classes, config.norm)

    def rewrite_head(
        self,
        head: nn.Module,
        config: SegDinoV2Config,
        norm: nn.Module,
        grid: tuple[int, int],
        size_px: tuple[int, int],
    ) -> Exportable:
        """Channels mixed on the tokens; see ``edgeseg.export.rewrite.segdino_v2``."""
        from edgeseg.export.rewrite.segdino_v2 import rewrite_decoder

        return rewrite_decoder(head, norm, grid, size_px)


FAMILY = SegDinoV2()
