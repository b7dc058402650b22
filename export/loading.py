"""From a checkpoint file to a model, or to what can be said about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeseg.errors import CheckpointError
from edgeseg.export.checkpoint import StateDict, read_state_dict
from edgeseg.export.family import Family, InputSize
from edgeseg.export.registry import detect

__all__ = ["CheckpointInfo", "LoadedCheckpoint", "inspect", "load"]


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A recognised checkpoint with its weights in the torch formulation."""

    family: Family[Any]
    config: Any
    """The family's frozen config dataclass; other views of the same weights are
    ``dataclasses.replace(loaded, config=loaded.family.with_views(...))``."""
    model: nn.Module
    """In eval mode, float32, on the CPU."""
    path: Path
    sha256: str
    keys: int

    @property
    def classes(self) -> int:
        """Channels of the logits; 1 means foreground against background."""
        return self.family.classes(self.config)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The config as nested JSON types."""
        return self.family.hyperparameters(self.config)


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint is, read off its keys and shapes."""

    path: Path
    family: str
    title: str
    reference: str
    hyperparameters: Mapping[str, Any]
    parameters: int
    """Numbers in all floating-point tensors of the file."""
    keys: int
    classes: int
    input_size: InputSize
    """The size that the authors trained at, and the default of a build."""
    spelling: str
    """Whose names the backbone's keys are: ``meta`` or ``timm``."""
    nested_under: str | None
    dtypes: Mapping[str, int]
    """Tensors of each dtype."""
    size_bytes: int
    sha256: str


def load(path: Path) -> LoadedCheckpoint:
    """Recognise a checkpoint and load it into its family's torch formulation.

    Raises:
        CheckpointError: the file cannot be read safely, or a setting has no meaning.
        UnknownFamilyError: no family recognises its keys.
        CheckpointShapeError: its shapes contradict the family or each other.
    """
    state = read_state_dict(Path(path))
    family, config = _recognise(state)
    model = family.build(config).eval()
    family.load_weights(model, state.tensors)
    return LoadedCheckpoint(family, config, model, state.path, state.sha256, len(state.tensors))


def inspect(path: Path) -> CheckpointInfo:
    """Say what a checkpoint is, without building its model.

    Raises:
        CheckpointError: and its subclasses, as `load`.
    """
    state = read_state_dict(Path(path))
    family, config = _recognise(state)
    floating = [value for value in state.tensors.values() if value.is_floating_point()]
    return CheckpointInfo(
        path=state.path,
        family=family.name,
        title=family.title,
        reference=family.reference,
        hyperparameters=family.hyperparameters(config),
        parameters=sum(value.numel() for value in floating),
        keys=len(state.tensors),
        classes=family.classes(config),
        input_size=family.default_input(config),
        spelling=family.spelling(state.shapes),
        nested_under=state.nested_under,
        dtypes=Counter(str(value.dtype).removeprefix("torch.") for value in state.tensors.values()),
        size_bytes=state.size_bytes,
        sha256=state.sha256,
    )


def _recognise(state: StateDict) -> tuple[Family[Any], Any]:
    try:
        family = detect(state.shapes)
        config = family.read_config(state.shapes)
        if family.has_settings:
            config = family.apply_settings(config, state.settings)
        return family, config
    except CheckpointError as error:
        raise type(error)(f"{state.path}: {error}") from error
