"""What all layouts of SegDINO share: DINOv3 backbone, head on four taps, logits at input size."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Literal, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.errors import UsageError
from edgeseg.export.backbone import Dinov3Backbone, meta_state_dict
from edgeseg.export.backbone_config import (
    PATCH_PX,
    BackboneConfig,
    Spelling,
    backbone_shapes,
    optional_keys,
    read_backbone_config,
    spelling_of,
)
from edgeseg.export.family import Exportable, Family, InputSize
from edgeseg.export.shapes import Shapes, check_shapes, with_prefix
from edgeseg.spec import PreprocessSpec, ReadoutSpec, TensorSpec

__all__ = ["Norm", "SegDinoFamily", "SegDinoModel", "make_norm", "norm_kind", "resize"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Norm = Literal["group", "batch"]
_MAX_GROUPS = 32


class _Config(Protocol):
    @property
    def backbone(self) -> BackboneConfig: ...

    @property
    def classes(self) -> int: ...


C = TypeVar("C", bound=_Config)


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear resampling of (N, C, H, W) to ``size`` (rows, columns), without antialiasing."""
    if tuple(x.shape[-2:]) == size:
        # Both conventions are the identity then; the graph is spared a node.
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """GroupNorm with the authors' number of groups, or BatchNorm2d."""
    if kind == "group":
        return nn.GroupNorm(min(_MAX_GROUPS, channels), channels)
    return nn.BatchNorm2d(channels)


def norm_kind(shapes: Shapes, prefix: str) -> Norm:
    """Which norm stands at ``prefix``: only BatchNorm2d keeps running statistics."""
    return "batch" if prefix + "running_mean" in shapes else "group"


class SegDinoModel(nn.Module):
    """Backbone, head and the last resize.

    ``head`` takes the four (N, D, h, w) feature maps and returns (N, classes, h', w').
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, head_name: str, *, align_corners: bool
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head_name = head_name
        self.align_corners = align_corners
        self.add_module(head_name, head)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of normalised RGB (N, 3, H, W), H and W multiples of 16."""
        logits = self.get_submodule(self.head_name)(self.backbone(image))
        height_px, width_px = image.shape[-2:]
        return resize(logits, (height_px, width_px), align_corners=self.align_corners)


class _TokenModel(nn.Module):
    """A rewritten backbone, and a rewritten head on its tokens."""

    def __init__(self, backbone: nn.Module, head: nn.Module, head_name: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.head_name = head_name
        self.add_module(head_name, head)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.get_submodule(self.head_name)(self.backbone(image))
        return logits


class SegDinoFamily(Family[C], abc.ABC):
    """A SegDINO layout: subclasses give the head, how to read its config, and the filters."""

    head_name: Literal["head", "decoder"]
    align_corners: bool
    """Of the last resize."""
    resample: Literal["bilinear", "bicubic"]

    @abc.abstractmethod
    def read_head(self, backbone: BackboneConfig, shapes: Shapes) -> C:
        """The config from the head's own keys."""

    @abc.abstractmethod
    def build_head(self, config: C) -> nn.Module:
        """The head, its parameters named as in the checkpoint."""

    def read_config(self, shapes: Shapes) -> C:
        """Backbone, then head; every key is checked against the config they give."""
        backbone = read_backbone_config(shapes)
        config = self.read_head(backbone, shapes)
        tower = backbone_shapes(backbone, self.spelling(shapes))
        with torch.device("meta"):
            head = {
                key: tuple(value.shape)
                for key, value in self.build_head(config).state_dict().items()
            }
        counters = {
            f"{self.head_name}.{key}" for key in head if key.endswith("num_batches_tracked")
        }
        check_shapes(
            shapes,
            with_prefix(tower, "backbone.") | with_prefix(head, f"{self.head_name}."),
            optional={f"backbone.{key}" for key in optional_keys(tower)} | counters,
            what=self.title,
        )
        return config

    def spelling(self, shapes: Shapes) -> Spelling:
        """Whose names the backbone's keys are."""
        return spelling_of(shapes)

    def build(self, config: C) -> SegDinoModel:
        """Backbone, head and last resize with fresh weights."""
        return SegDinoModel(
            Dinov3Backbone(config.backbone),
            self.build_head(config),
            self.head_name,
            align_corners=self.align_corners,
        )

    def load_weights(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Copy a checkpoint's weights into the model."""
        model.backbone.load_checkpoint(_cut(state, "backbone."))
        head = model.get_submodule(self.head_name)
        counters = {k: v for k, v in head.state_dict().items() if k.endswith("num_batches_tracked")}
        head.load_state_dict(counters | _cut(state, f"{self.head_name}."), strict=True)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights as the authors' training scripts save them."""
        saved = {f"backbone.{key}": value for key, value in meta_state_dict(model.backbone).items()}
        head = model.get_submodule(self.head_name).state_dict()
        return saved | {
            f"{self.head_name}.{key}": value.detach().cpu() for key, value in head.items()
        }

    def exportable(
        self, model: nn.Module, config: C, size: InputSize, *, rewrite: bool = True
    ) -> Exportable:
        """The static form of the backbone under the same head, or both rewritten."""
        from edgeseg.export.rewrite.backbone import rewrite_transformer, shift_of
        from edgeseg.export.static_backbone import StaticBackbone, StaticTokens

        grid = (size.height_px // PATCH_PX, size.width_px // PATCH_PX)
        head = model.get_submodule(self.head_name)
        if not rewrite:
            static = StaticBackbone(model.backbone, grid, size.batch)
            plain = SegDinoModel(static, head, self.head_name, align_corners=self.align_corners)
            return Exportable(plain.eval())
        tokens = StaticTokens(model.backbone, grid)
        applied = rewrite_transformer(tokens)
        decoder = self.rewrite_head(
            head,
            config,
            shift_of(model.backbone.norm),
            grid,
            (size.height_px, size.width_px),
        )
        rewritten = _TokenModel(tokens, decoder.module, self.head_name)
        return Exportable(rewritten.eval(), (*applied, *decoder.rewrites))

    @abc.abstractmethod
    def rewrite_head(
        self,
        head: nn.Module,
        config: C,
        norm: nn.Module,
        grid: tuple[int, int],
        size_px: tuple[int, int],
    ) -> Exportable:
        """The head with the last resize, for one patch grid, in its cheapest exact form.

        Args:
            head: as built by `build_head`, with the checkpoint's weights, in any float type; it is
                not changed.
            config: the family's.
            norm: the backbone's final LayerNorm, of whose affine part the head has to do what the
                tokens lack.
            grid: rows and columns of patches.
            size_px: (height, width) of the logits.

        Returns:
            A module that takes one (N, rows * columns, width) of normalised tokens for each tap,
            before the norm's affine part, and returns logits (N, classes, height, width).
        """

    def check_size(self, config: C, size: InputSize) -> None:
        """Both sides must be multiples of the patch size."""
        if size.batch < 1:
            raise UsageError(f"a batch of {size.batch} holds nothing: it must be at least 1")
        for name, value_px in (("height", size.height_px), ("width", size.width_px)):
            if value_px >= PATCH_PX and value_px % PATCH_PX == 0:
                continue
            below = max(value_px // PATCH_PX, 1) * PATCH_PX
            near = f"{below} or {below + PATCH_PX}" if value_px > PATCH_PX else f"{PATCH_PX}"
            raise UsageError(
                f"the input {name} must be a multiple of {PATCH_PX}, got {value_px}: take {near}"
            )

    def inputs(self, config: C, size: InputSize) -> tuple[TensorSpec, ...]:
        """One normalised RGB image batch."""
        return (
            TensorSpec("image", "float32", (size.batch, 3, size.height_px, size.width_px), "NCHW"),
        )

    def outputs(self, config: C, size: InputSize) -> tuple[TensorSpec, ...]:
        """Logits at the input's size."""
        shape = (size.batch, config.classes, size.height_px, size.width_px)
        return (TensorSpec("logits", "float32", shape, "NCHW"),)

    def preprocess(self, config: C, size: InputSize) -> PreprocessSpec:
        """PIL resize without keeping the aspect ratio, ImageNet mean and standard deviation."""
        return PreprocessSpec(
            size.height_px, size.width_px, self.resample, IMAGENET_MEAN, IMAGENET_STD
        )

    def readout(self, config: C) -> ReadoutSpec:
        """Sigmoid for one class, argmax for several."""
        return ReadoutSpec("sigmoid" if config.classes == 1 else "softmax")

    def classes(self, config: C) -> int:
        """Channels of the logits."""
        return config.classes


def _cut(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
