"""SegDINO v1 with the "fine-grained" decoder: RefineNet fusion of four taps, as in DPT.

DPT: arXiv 2103.13413.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.export.backbone_config import BackboneConfig
from edgeseg.export.families._segdino import SegDinoFamily, resize
from edgeseg.export.family import Exportable
from edgeseg.export.shapes import Shapes, dimensions

__all__ = ["FAMILY", "SegDinoV1Fine", "SegDinoV1FineConfig"]


@dataclass(frozen=True)
class SegDinoV1FineConfig:
    """Hyper-parameters of a fine-grained SegDINO v1 model."""

    backbone: BackboneConfig
    projects: tuple[int, ...] = (96, 192, 384, 768)
    """Channels to which each tap is projected."""
    features: int = 128
    classes: int = 1
    batch_norm: bool = False
    """Whether the residual units hold BatchNorm2d."""


class _ResidualUnit(nn.Module):
    """``x + conv2(relu(conv1(relu(x))))``, each convolution followed by its norm, if any."""

    def __init__(self, features: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.has_norm = batch_norm
        if batch_norm:
            self.bn1 = nn.BatchNorm2d(features)
            self.bn2 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(x))
        if self.has_norm:
            out = self.bn1(out)
        out = self.conv2(F.relu(out))
        if self.has_norm:
            out = self.bn2(out)
        return out + x


class _Fusion(nn.Module):
    """Add the refined skip to the coarser path, refine, resample to ``size``, mix channels.

    The coarsest level has no path to add to: its ``resConfUnit1`` is saved but never used.
    """

    def __init__(self, features: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.resConfUnit1 = _ResidualUnit(features, batch_norm=batch_norm)
        self.resConfUnit2 = _ResidualUnit(features, batch_norm=batch_norm)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, path: Tensor | None, level: Tensor, size: tuple[int, int]) -> Tensor:
        fused = level if path is None else path + self.resConfUnit1(level)
        return self.out_conv(resize(self.resConfUnit2(fused), size, align_corners=True))


class _Scratch(nn.Module):
    def __init__(self, config: SegDinoV1FineConfig) -> None:
        super().__init__()
        features = config.features
        for level, channels in enumerate(config.projects, start=1):
            rn = nn.Conv2d(channels, features, 3, padding=1, bias=False)
            self.add_module(f"layer{level}_rn", rn)
            self.add_module(f"refinenet{level}", _Fusion(features, batch_norm=config.batch_norm))
        self.output_conv = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, config.classes, 1),
        )


class _Head(nn.Module):
    def __init__(self, config: SegDinoV1FineConfig) -> None:
        super().__init__()
        width, (one, two, _, four) = config.backbone.width, config.projects
        self.projects = nn.ModuleList(nn.Conv2d(width, channels, 1) for channels in config.projects)
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(one, one, 4, stride=4),
                nn.ConvTranspose2d(two, two, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(four, four, 3, stride=2, padding=1),
            )
        )
        self.scratch = _Scratch(config)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        levels = {}
        stages = zip(self.projects, self.resize_layers, features, strict=True)
        for level, (project, rescale, feature) in enumerate(stages, start=1):
            rn = self.scratch.get_submodule(f"layer{level}_rn")
            levels[level] = rn(rescale(project(feature)))
        path = None
        for level in (4, 3, 2, 1):
            rows, columns = levels[max(level - 1, 1)].shape[-2:]
            # Each block resamples to the next finer level; the finest doubles its own size.
            size = (rows, columns) if level > 1 else (2 * rows, 2 * columns)
            path = self.scratch.get_submodule(f"refinenet{level}")(path, levels[level], size)
        return self.scratch.output_conv(path)


class SegDinoV1Fine(SegDinoFamily[SegDinoV1FineConfig]):
    """The fine-grained layout."""

    name = "segdino_v1_fine"
    config_type = SegDinoV1FineConfig
    title = "SegDINO v1, fine-grained decoder"
    reference = "arXiv 2509.00833; github.com/script-Yang/segdino/tree/main/fine_grained_decoder"
    head_name = "head"
    align_corners = True
    resample = "bicubic"

    def matches(self, shapes: Shapes) -> bool:
        """RefineNet blocks under ``head.scratch``."""
        return any(key.startswith("head.scratch.refinenet1.") for key in shapes)

    def read_head(self, backbone: BackboneConfig, shapes: Shapes) -> SegDinoV1FineConfig:
        """Widths from the projections and the last convolutions."""
        projects = tuple(
            dimensions(shapes, f"head.projects.{level}.weight", (None, backbone.width, 1, 1))[0]
            for level in range(4)
        )
        features, *_ = dimensions(
            shapes, "head.scratch.layer1_rn.weight", (None, projects[0], 3, 3)
        )
        last = "head.scratch.output_conv.2.weight"
        classes, *_ = dimensions(shapes, last, (None, features, 1, 1))
        batch_norm = "head.scratch.refinenet1.resConfUnit1.bn1.weight" in shapes
        return SegDinoV1FineConfig(backbone, projects, features, classes, batch_norm)

    def build_head(self, config: SegDinoV1FineConfig) -> nn.Module:
        """The head, its parameters named as in the checkpoint."""
        return _Head(config)

    def rewrite_head(
        self,
        head: nn.Module,
        config: SegDinoV1FineConfig,
        norm: nn.Module,
        grid: tuple[int, int],
        size_px: tuple[int, int],
    ) -> Exportable:
        """Linear layers before the RefineNet blocks composed, channels mixed at fewer pixels."""
        from edgeseg.export.rewrite.segdino_v1_fine import rewrite_fine_head

        return rewrite_fine_head(head, norm, grid, size_px)


FAMILY = SegDinoV1Fine()
