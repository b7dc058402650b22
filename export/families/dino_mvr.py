"""DINO-MVR (arXiv 2605.07221): perceptrons on the last blocks of a frozen DINOv3, many views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg.errors import CheckpointShapeError, UsageError
from edgeseg.export.backbone import meta_state_dict
from edgeseg.export.backbone_config import (
    PATCH_PX,
    Spelling,
    backbone_shapes,
    optional_keys,
    read_backbone_config,
    spelling_of,
)
from edgeseg.export.families._mvr_config import (
    PROBES,
    DinoMvrConfig,
    checkpoint_settings,
    read_settings,
    with_views,
)
from edgeseg.export.families._mvr_model import DinoMvrModel, Probes, probe_taps
from edgeseg.export.family import Exportable, Family, InputSize
from edgeseg.export.shapes import Shapes, check_shapes, dimensions, with_prefix
from edgeseg.spec import AppliedRewrite, Flip, PreprocessSpec, ReadoutSpec, TensorSpec

__all__ = ["FAMILY", "DinoMvr", "DinoMvrConfig", "DinoMvrModel", "Probes", "probe_taps"]

_MAX_CHANNELS = 255
"""``EDGESEG_MAX_CHANNELS``: masks hold class numbers in one byte."""


class _View(nn.Module):
    """Backbone and probes on one patch grid."""

    def __init__(self, backbone: nn.Module, probes: nn.Module, grid: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.probes = probes
        self.grid = grid

    def forward(self, image: Tensor) -> Tensor:
        logits = self.probes(self.backbone(image))
        channels = logits.shape[2]
        if channels == 1:
            # The same order of values; the graph is spared a transposition.
            return logits.reshape(len(logits), 1, *self.grid)
        return logits.transpose(1, 2).unflatten(2, self.grid)


class _Views(nn.Module):
    """One static graph for each resolution, over the same weights."""

    def __init__(self, views: Sequence[nn.Module]) -> None:
        super().__init__()
        self.views = nn.ModuleList(views)

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        return tuple(view(image) for view, image in zip(self.views, images, strict=True))


class DinoMvr(Family[DinoMvrConfig]):
    """Multi-view read-out of a frozen backbone."""

    name = "dino_mvr"
    config_type = DinoMvrConfig
    title = "DINO-MVR"
    reference = "arXiv 2605.07221; the checkpoint format is edgeseg's own (docs/checkpoints.md)"
    default_size = InputSize(512, 512)
    has_settings = True
    free_batch = True

    def matches(self, shapes: Shapes) -> bool:
        """Probes beside a backbone."""
        return any(key.startswith("probes.") for key in shapes)

    def read_config(self, shapes: Shapes) -> DinoMvrConfig:
        """Widths and channels off the tensors; every key is checked against the config they give.

        What shapes do not tell has its default, until `apply_settings`.
        """
        backbone = read_backbone_config(shapes)
        hidden = []
        channels = []
        for index in range(PROBES):
            inner, _ = dimensions(shapes, f"probes.{index}.0.weight", (None, backbone.width))
            outer, _ = dimensions(shapes, f"probes.{index}.2.weight", (None, inner))
            hidden.append(inner)
            channels.append(outer)
        if len(set(channels)) > 1:
            raise CheckpointShapeError(
                f"{self.title}: the probes give {', '.join(map(str, channels))} channels "
                "('probes.*.2.weight'), and their mean needs the same number of each"
            )
        if channels[0] > _MAX_CHANNELS:
            raise CheckpointShapeError(
                f"{self.title}: the probes give {channels[0]} channels; at most {_MAX_CHANNELS} "
                "classes fit a mask"
            )
        config = DinoMvrConfig(backbone, tuple(hidden), channels[0])
        tower = backbone_shapes(backbone, self.spelling(shapes))
        check_shapes(
            shapes,
            with_prefix(tower, "backbone.") | with_prefix(_probe_shapes(config), "probes."),
            optional={f"backbone.{key}" for key in optional_keys(tower)},
            what=self.title,
        )
        return config

    def apply_settings(self, config: DinoMvrConfig, settings: Mapping[str, Any]) -> DinoMvrConfig:
        """Views, fusion, regularisation and names (docs/checkpoints.md)."""
        return read_settings(config, settings)

    def settings(self, config: DinoMvrConfig) -> dict[str, Any]:
        """What `apply_settings` takes back."""
        return checkpoint_settings(config)

    def with_views(
        self,
        config: DinoMvrConfig,
        sizes_px: Sequence[tuple[int, int]] | None,
        flips: Sequence[Flip] | None,
    ) -> DinoMvrConfig:
        """The config with other resolutions (multiples of 16) or flips; None keeps what it has."""
        return with_views(config, sizes_px, flips)

    def default_input(self, config: DinoMvrConfig) -> InputSize:
        """The largest view, on whose grid the views are fused."""
        return InputSize(config.largest_view.height_px, config.largest_view.width_px)

    def class_names(self, config: DinoMvrConfig) -> tuple[str, ...] | None:
        """As the checkpoint's config names them."""
        return config.names or None

    def spelling(self, shapes: Shapes) -> Spelling:
        """Whose names the backbone's keys are."""
        return spelling_of(shapes)

    def build(self, config: DinoMvrConfig) -> DinoMvrModel:
        """Backbone and probes with fresh weights."""
        return DinoMvrModel(config)

    def load_weights(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Copy a checkpoint's weights into the model."""
        model.backbone.load_checkpoint(_cut(state, "backbone."))
        probes = {key: value.float() for key, value in _cut(state, "probes.").items()}
        model.probes.load_state_dict(probes, strict=True)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights in Meta's spelling, with the probes'."""
        saved = {f"backbone.{key}": value for key, value in meta_state_dict(model.backbone).items()}
        return saved | {
            f"probes.{key}": value.detach().cpu()
            for key, value in model.probes.state_dict().items()
        }

    def exportable(
        self, model: nn.Module, config: DinoMvrConfig, size: InputSize, *, rewrite: bool = True
    ) -> Exportable:
        """One static backbone for each resolution, over the same parameters.

        Weights are rewritten before the first is copied, so that they stay shared.
        """
        from edgeseg.export.rewrite.backbone import rewrite_transformer, shift_of
        from edgeseg.export.rewrite.dino_mvr import fold_probes
        from edgeseg.export.static_backbone import StaticTokens, twin

        grids = [(view.height_px // PATCH_PX, view.width_px // PATCH_PX) for view in config.views]
        first = StaticTokens(model.backbone, grids[0])
        probes = Exportable(model.probes)
        applied: tuple[AppliedRewrite, ...] = ()
        if rewrite:
            applied = rewrite_transformer(first)
            probes = fold_probes(model.probes, shift_of(model.backbone.norm))
        backbones = [first, *(first.for_grid(model.backbone, grid) for grid in grids[1:])]
        views = _Views(
            [
                _View(backbone, twin(probes.module), grid)
                for backbone, grid in zip(backbones, grids, strict=True)
            ]
        )
        return Exportable(views.eval(), (*applied, *probes.rewrites))

    def check_size(self, config: DinoMvrConfig, size: InputSize) -> None:
        """The size is that of the largest view; a frame is one call."""
        if size.batch != 1:
            raise UsageError(
                f"{self.title} reads one frame a call, and its mirrored copies as the batch: the "
                f"batch must be 1, got {size.batch}"
            )
        largest = config.largest_view
        if (size.height_px, size.width_px) != (largest.height_px, largest.width_px):
            sizes = ", ".join(view.name for view in config.views)
            raise UsageError(
                f"{self.title} reads a frame at {sizes} (height x width) and fuses on the largest, "
                f"not at {size.height_px}x{size.width_px}: choose the sizes with --views"
            )

    def inputs(self, config: DinoMvrConfig, size: InputSize) -> tuple[TensorSpec, ...]:
        """One normalised RGB batch of mirrored copies for each resolution."""
        return tuple(
            TensorSpec(
                f"image_{view.name}",
                "float32",
                (len(view.flips), 3, view.height_px, view.width_px),
                "NCHW",
            )
            for view in config.views
        )

    def outputs(self, config: DinoMvrConfig, size: InputSize) -> tuple[TensorSpec, ...]:
        """Logits on the patch grid of each resolution, as mirrored as its copies."""
        return tuple(
            TensorSpec(
                f"logits_{view.name}",
                "float32",
                (
                    len(view.flips),
                    config.classes,
                    view.height_px // PATCH_PX,
                    view.width_px // PATCH_PX,
                ),
                "NCHW",
            )
            for view in config.views
        )

    def preprocess(self, config: DinoMvrConfig, size: InputSize) -> PreprocessSpec:
        """Every view is resized from the frame without keeping the aspect ratio."""
        return PreprocessSpec(
            size.height_px,
            size.width_px,
            config.resample,
            config.mean,
            config.std,
            views=config.views,
            volume=config.volume,
        )

    def readout(self, config: DinoMvrConfig) -> ReadoutSpec:
        """Fusion on the grid of the largest view; sigmoid for one channel, softmax for several."""
        return ReadoutSpec(
            "sigmoid" if config.classes == 1 else "softmax",
            config.threshold,
            fusion=config.fusion,
            regularize=config.regularize,
            time_constant_ms=config.time_constant_ms,
            z_smoothing=config.z_smoothing,
        )

    def classes(self, config: DinoMvrConfig) -> int:
        """Channels of the logits."""
        return config.classes


def _probe_shapes(config: DinoMvrConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        probes = Probes(config.backbone.width, config.hidden, config.classes)
    return {key: tuple(value.shape) for key, value in probes.state_dict().items()}


def _cut(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


FAMILY = DinoMvr()
