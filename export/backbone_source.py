"""The DINOv3 backbone inside any checkpoint that has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from edgeseg.errors import CheckpointError, CheckpointShapeError
from edgeseg.export.backbone_config import (
    BackboneConfig,
    Spelling,
    backbone_shapes,
    optional_keys,
    read_backbone_config,
    spelling_of,
)
from edgeseg.export.checkpoint import read_state_dict
from edgeseg.export.shapes import Shapes, check_shapes, with_prefix

__all__ = ["BackboneSource", "find_prefix", "read_backbone"]

_MARK = "patch_embed.proj.weight"
"""In both spellings, and in no head."""

_WITHOUT_EFFECT = ("cls_norm.", "local_cls_norm.", "head.")
"""Norms of the class token alone (larger DINOv3 models have them) and a classifier behind it."""


@dataclass(frozen=True)
class BackboneSource:
    """A backbone that was found in a checkpoint."""

    config: BackboneConfig
    weights: Mapping[str, Tensor]
    """Without prefix, in the file's own spelling, for ``Dinov3Backbone.load_checkpoint``."""
    prefix: str
    """What stood before every name: ``backbone.``; empty for a bare backbone."""
    spelling: Spelling
    path: Path
    sha256: str
    """Of the file."""

    def __str__(self) -> str:
        config = self.config
        where = f"{self.prefix}* of {self.path.name}" if self.prefix else self.path.name
        return (
            f"{where}: DINOv3 ViT of width {config.width}, {config.depth} blocks, {config.heads} "
            f"heads, {'gated ' if config.mlp == 'swiglu' else ''}MLP of {config.mlp_width} "
            f"({self.spelling} spelling)"
        )


def read_backbone(path: Path) -> BackboneSource:
    """Find the backbone in a checkpoint: bare, or inside a segmentation model of any kind.

    Meta's and timm's spelling are known. The place is found by the keys alone, so that SegDINO
    (``backbone.``), DINO-Med3D's first stage (``backbone.model.``), DINO-MVR and training states
    (``teacher``) need not be told apart.

    Args:
        path: the checkpoint.

    Raises:
        CheckpointError: it cannot be read safely; it has no DINOv3 backbone, or several; or the
            backbone carries LoRA weights that were not merged.
        CheckpointShapeError: the backbone's keys or shapes contradict each other.
    """
    state = read_state_dict(Path(path))
    try:
        prefix = find_prefix(state.shapes)
        inside = {
            key: shape
            for key, shape in state.shapes.items()
            if key.startswith(prefix) and not key[len(prefix) :].startswith(_WITHOUT_EFFECT)
        }
        config = read_backbone_config(inside, prefix)
        spelling = spelling_of(inside, prefix)
        expected = backbone_shapes(config, spelling)
        check_shapes(
            inside,
            with_prefix(expected, prefix),
            optional={prefix + key for key in optional_keys(expected)},
            what="the backbone",
        )
    except CheckpointError as error:
        raise type(error)(f"{state.path}: {error}") from error
    weights = {key[len(prefix) :]: state.tensors[key] for key in inside}
    return BackboneSource(config, weights, prefix, spelling, state.path, state.sha256)


def find_prefix(shapes: Shapes) -> str:
    """What stands before the names of the one backbone among these keys.

    Raises:
        CheckpointError: there is none, there are several, or its weights are not merged.
    """
    prefixes = [key[: -len(_MARK)] for key in shapes if key == _MARK or key.endswith(f".{_MARK}")]
    if not prefixes:
        examples = ", ".join(list(shapes)[:4])
        raise CheckpointError(
            f"no vision transformer is in it: no key ends in {_MARK!r} (its keys begin with "
            f"{examples}); give a DINOv3 backbone in Meta's or timm's spelling, or a segmentation "
            "checkpoint that contains one"
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{len(prefixes)} vision transformers are in it: "
            f"{', '.join(f'{prefix}*' for prefix in prefixes)}; save the one that is meant to a "
            "file of its own"
        )
    (prefix,) = prefixes
    lora = [k for k in shapes if k.startswith(prefix) and (".lora_" in k or ".base_layer." in k)]
    if lora:
        raise CheckpointShapeError(
            f"its backbone carries LoRA weights ({lora[0]!r}): merge them in the training code "
            "(merge_and_unload) and save it again"
        )
    return prefix
