"""What a model family tells edgeseg about itself."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from edgeseg.errors import UsageError
from edgeseg.export.backbone_config import Spelling
from edgeseg.export.shapes import Shapes
from edgeseg.spec import (
    AppliedRewrite,
    Flip,
    PreprocessSpec,
    ReadoutSpec,
    TensorSpec,
    to_json,
)

__all__ = ["Exportable", "Family", "InputSize"]

C = TypeVar("C")


@dataclass(frozen=True)
class InputSize:
    """The fixed size that a graph is made for; what else inputs need is in a family's config."""

    height_px: int = 256
    width_px: int = 256
    batch: int = 1


@dataclass(frozen=True)
class Exportable:
    """A module in the form that makes the best graph, and what was rewritten to get there."""

    module: nn.Module
    rewrites: tuple[AppliedRewrite, ...] = ()


class Family(abc.ABC, Generic[C]):
    """Detection, hyper-parameters and formulation of one family; ``C`` is its config dataclass.

    Methods that take ``shapes`` see the whole state dict's names and shapes, never its values, so
    that a checkpoint can be recognised without building its model. Nothing here assumes one input,
    one output or two dimensions: the module of `build` takes one tensor for each of `inputs`, in
    that order, and returns a tensor, or a tuple with one for each of `outputs`.
    """

    name: str
    """Identifier, as in a manifest: ``segdino_v2``."""
    config_type: type[C]
    """The dataclass; built from a backbone alone it has the authors' other hyper-parameters."""
    title: str
    """For people: name and layout."""
    reference: str
    """Paper, and the code that defines the formulation."""
    default_size: InputSize = InputSize()
    has_settings: bool = False
    """Whether checkpoints say something besides their tensors that `apply_settings` takes; what
    lies beside other checkpoints is not looked at."""
    free_batch: bool = False
    """Whether a runtime may reshape the graph to a smaller batch than it was exported for."""

    @abc.abstractmethod
    def matches(self, shapes: Shapes) -> bool:
        """Whether the keys are of this family (no other family may say so too)."""

    @abc.abstractmethod
    def read_config(self, shapes: Shapes) -> C:
        """Read the hyper-parameters off the shapes, and check every key against them.

        Raises:
            CheckpointShapeError: a key is missing or unknown, or a shape contradicts the others.
        """

    def apply_settings(self, config: C, settings: Mapping[str, Any]) -> C:
        """Take what the checkpoint says besides its tensors (`StateDict.settings`) into the config.

        A family without settings of its own leaves the config as it is: training code saves all
        kinds of things beside its weights.

        Raises:
            CheckpointError: a setting of this family has a value that it cannot have.
        """
        return config

    def with_views(
        self,
        config: C,
        sizes_px: Sequence[tuple[int, int]] | None,
        flips: Sequence[Flip] | None,
    ) -> C:
        """The config with other views; None keeps what it has.

        Args:
            config: the family's.
            sizes_px: (height, width) of each view.
            flips: mirrorings besides the identity, the same for every view.

        Raises:
            UsageError: the family reads one view, or cannot take these.
        """
        if sizes_px is not None or flips is not None:
            raise UsageError(f"{self.title} reads a frame once: --views and --flips do not apply")
        return config

    def default_input(self, config: C) -> InputSize:
        """The input size unless the user gives another."""
        return self.default_size

    def class_names(self, config: C) -> tuple[str, ...] | None:
        """Names of the classes, background first if there are several; None if it knows none."""
        return None

    def settings(self, config: C) -> dict[str, Any]:
        """What a checkpoint of this config says besides its tensors, in JSON's types.

        `apply_settings` takes it back; empty for a family without settings.
        """
        return {}

    @abc.abstractmethod
    def spelling(self, shapes: Shapes) -> Spelling:
        """Whose names the backbone's keys are."""

    @abc.abstractmethod
    def build(self, config: C) -> nn.Module:
        """The torch formulation with freshly initialised weights."""

    @abc.abstractmethod
    def load_weights(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Copy a checkpoint's weights, whose shapes `read_config` has accepted, into ``model``."""

    @abc.abstractmethod
    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's weights named as the authors' training code saves them."""

    @abc.abstractmethod
    def exportable(
        self, model: nn.Module, config: C, size: InputSize, *, rewrite: bool = True
    ) -> Exportable:
        """The same function for one input size, in the form that makes the best graph.

        With ``rewrite`` its algebra is changed as well (``edgeseg.export.rewrite``), which stays
        equal in exact arithmetic; without, every product is the authors' own. Every difference
        from ``model`` is judged by the parity check.
        """

    @abc.abstractmethod
    def check_size(self, config: C, size: InputSize) -> None:
        """Refuse a size that the model cannot take.

        Raises:
            UsageError: names the nearest sizes that it can.
        """

    @abc.abstractmethod
    def inputs(self, config: C, size: InputSize) -> tuple[TensorSpec, ...]:
        """Named inputs, in the order of the module's arguments."""

    @abc.abstractmethod
    def outputs(self, config: C, size: InputSize) -> tuple[TensorSpec, ...]:
        """Named outputs, in the order in which the module returns them."""

    @abc.abstractmethod
    def preprocess(self, config: C, size: InputSize) -> PreprocessSpec:
        """How the authors' code makes the input from a frame."""

    @abc.abstractmethod
    def readout(self, config: C) -> ReadoutSpec:
        """How the authors' code makes a mask from the logits."""

    @abc.abstractmethod
    def classes(self, config: C) -> int:
        """Channels of the logits; 1 means foreground against background."""

    def hyperparameters(self, config: C) -> dict[str, Any]:
        """The config as nested JSON types, for the manifest and for ``edgeseg inspect``."""
        values: dict[str, Any] = to_json(config)
        return values
