"""Untrained models for the tables of latencies: what may be asked for, and their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeseg.errors import UsageError

__all__ = ["check_models", "check_once", "names_of", "sizes_of", "untrained_checkpoint"]


def check_models(family: str, backbones: Sequence[str], sizes_px: Sequence[int]) -> None:
    """Refuse what there is no model of, before minutes are spent.

    Args:
        family: identifier.
        backbones: of ``edgeseg.export.random_checkpoint.BACKBONES``.
        sizes_px: heights, and widths, of the network's input.

    Raises:
        UnknownFamilyError: no such family; lists those that are.
        UsageError: an unknown or repeated backbone or size, none, or one that the family cannot
            take.
        MissingDependencyError: torch is not installed.
    """
    from edgeseg import export
    from edgeseg.export.random_checkpoint import BACKBONES
    from edgeseg.export.registry import family_named

    known = family_named(family)
    check_once("backbone", backbones)
    check_once("size", sizes_px)
    if not backbones or not sizes_px:
        raise UsageError("a table needs at least one backbone and one size")
    configs: dict[str, Any] = {str(name): config for name, config in BACKBONES.items()}
    for backbone in backbones:
        if backbone not in configs:
            raise UsageError(f"unknown backbone {backbone!r}: choose among {', '.join(configs)}")
        config = known.config_type(configs[backbone])
        for size_px in sizes_px:
            known.check_size(config, export.InputSize(size_px, size_px))


def check_once(what: str, names: Sequence[object]) -> None:
    """Refuse what is named twice.

    Raises:
        UsageError: and says what.
    """
    if len(set(names)) != len(names):
        raise UsageError(f"a {what} is named twice: {', '.join(map(str, names))}")


def untrained_checkpoint(folder: Path, family: str, backbone: Any) -> Path:
    """Write a checkpoint with random weights into ``folder``; returns its path.

    Raises:
        OutputError: it cannot be written.
    """
    from edgeseg.export.random_checkpoint import write_random_checkpoint

    path = folder / "random.pth"
    write_random_checkpoint(path, family, backbone)
    return path


def names_of(text: str) -> tuple[str, ...]:
    """The words of ``A,B``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def sizes_of(text: str) -> tuple[int, ...]:
    """The numbers of ``192,256``.

    Raises:
        UsageError: one is no whole number.
    """
    try:
        return tuple(int(part) for part in names_of(text))
    except ValueError as error:
        raise UsageError(f"sizes are whole numbers of pixels, got {text!r}") from error
