"""SegDINO v1 (arXiv 2509.00833): a linear head on four taps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeseg.export.backbone_config import BackboneConfig
from edgeseg.export.families._segdino import SegDinoFamily, resize
from edgeseg.export.family import Exportable
from edgeseg.export.shapes import Shapes, dimensions

__all__ = ["FAMILY", "SegDinoV1", "SegDinoV1Config"]

_SCALE = 4


@dataclass(frozen=True)
class SegDinoV1Config:
    """Hyper-parameters of a SegDINO v1 model."""

    backbone: BackboneConfig
    projects: tuple[int, ...] = (96, 192, 384, 768)
    """Channels to which each tap is projected."""
    features: int = 128
    classes: int = 1
    upsampled: bool = True
    """Whether level 0 is brought to four times the patch grid (``head.proj``); checkpoints saved
    before 2025-12-29 stay on the patch grid."""


class _Scratch(nn.Module):
    def __init__(self, projects: tuple[int, ...], features: int, classes: int) -> None:
        super().__init__()
        for level, channels in enumerate(projects, start=1):
            self.add_module(
                f"layer{level}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False)
            )
        self.output_conv = nn.Conv2d(features * len(projects), classes, 1)


class _Head(nn.Module):
    def __init__(self, config: SegDinoV1Config) -> None:
        super().__init__()
        self.projects = nn.ModuleList(
            nn.Conv2d(config.backbone.width, channels, 1) for channels in config.projects
        )
        self.scratch = _Scratch(config.projects, config.features, config.classes)
        if config.upsampled:
            self.proj = nn.ConvTranspose2d(
                config.features, config.features, _SCALE, stride=_SCALE, bias=False
            )
        else:
            self.proj = nn.Identity()

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        levels = []
        for level, (project, feature) in enumerate(
            zip(self.projects, features, strict=True), start=1
        ):
            levels.append(self.scratch.get_submodule(f"layer{level}_rn")(project(feature)))
        levels[0] = self.proj(levels[0])
        rows, columns = levels[0].shape[-2:]
        levels[1:] = [resize(level, (rows, columns), align_corners=True) for level in levels[1:]]
        return self.scratch.output_conv(torch.cat(levels, dim=1))


class SegDinoV1(SegDinoFamily[SegDinoV1Config]):
    """The published layout and the one before ``head.proj`` was added."""

    name = "segdino_v1"
    config_type = SegDinoV1Config
    title = "SegDINO v1"
    reference = "arXiv 2509.00833; github.com/script-Yang/segdino"
    head_name = "head"
    align_corners = True
    resample = "bicubic"

    def matches(self, shapes: Shapes) -> bool:
        """A single last convolution under ``head.scratch``."""
        return "head.scratch.output_conv.weight" in shapes

    def read_head(self, backbone: BackboneConfig, shapes: Shapes) -> SegDinoV1Config:
        """Widths from the projections and the first level, classes from the last convolution."""
        projects = tuple(
            dimensions(shapes, f"head.projects.{level}.weight", (None, backbone.width, 1, 1))[0]
            for level in range(4)
        )
        features, *_ = dimensions(
            shapes, "head.scratch.layer1_rn.weight", (None, projects[0], 3, 3)
        )
        classes, *_ = dimensions(
            shapes, "head.scratch.output_conv.weight", (None, len(projects) * features, 1, 1)
        )
        upsampled = "head.proj.weight" in shapes
        return SegDinoV1Config(backbone, projects, features, classes, upsampled)

    def build_head(self, config: SegDinoV1Config) -> nn.Module:
        """The head, its parameters named as in the checkpoint."""
        return _Head(config)

    def rewrite_head(
        self,
        head: nn.Module,
        config: SegDinoV1Config,
        norm: nn.Module,
        grid: tuple[int, int],
        size_px: tuple[int, int],
    ) -> Exportable:
        """Collapsed: the head is one linear map."""
        from edgeseg.export.rewrite.segdino_v1 import collapse_head

        return collapse_head(head, norm, grid, size_px)


FAMILY = SegDinoV1()
