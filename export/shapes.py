"""Reading hyper-parameters off the names and shapes of a state dict, and checking them all."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgeseg.errors import CheckpointShapeError

__all__ = [
    "Shapes",
    "check_shapes",
    "count_children",
    "dimensions",
    "with_prefix",
]

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name to shape: all that recognition needs."""

_LISTED = 4


def dimensions(shapes: Shapes, key: str, pattern: tuple[int | None, ...]) -> tuple[int, ...]:
    """The shape of ``key``, which must fit ``pattern`` (None: any size from 1).

    Raises:
        CheckpointShapeError: the key is missing, or its shape does not fit.
    """
    if key not in shapes:
        raise CheckpointShapeError(f"the checkpoint has no {key!r}, which its other keys call for")
    found = shapes[key]
    fits = len(found) == len(pattern) and all(
        size >= 1 and want in (None, size) for size, want in zip(found, pattern, strict=True)
    )
    if not fits:
        raise CheckpointShapeError(
            f"{key!r} should have shape {_text(pattern)}, found {_text(found)}"
        )
    return found


def count_children(shapes: Shapes, prefix: str) -> int:
    """How many consecutive numbers 0, 1, ... follow ``prefix`` (such as ``blocks.``).

    Raises:
        CheckpointShapeError: there are none, or a number is left out.
    """
    numbers = (key[len(prefix) :].split(".", 1)[0] for key in shapes if key.startswith(prefix))
    found = {int(number) for number in numbers if number.isdecimal()}
    missing = sorted(set(range(len(found))) - found)
    if not found or missing:
        first = missing[0] if missing else 0
        raise CheckpointShapeError(
            f"the checkpoint has no '{prefix}{first}.*'; found numbers {sorted(found)}"
        )
    return len(found)


def check_shapes(found: Shapes, expected: Shapes, *, optional: Collection[str], what: str) -> None:
    """Compare a state dict with the one its hyper-parameters lead to.

    Args:
        found: what the checkpoint holds.
        expected: what it must hold; keys of ``optional`` may be missing.
        optional: keys of ``expected`` that do not change the result, or have a known default.
        what: the family, for messages.

    Raises:
        CheckpointShapeError: a key is missing, is not known (and would be ignored silently), or has
            another shape; names the keys, and the expected and the found shape.
    """
    wrong = [key for key in expected if key in found and found[key] != expected[key]]
    if wrong:
        key = wrong[0]
        more = f" ({len(wrong) - 1} more keys do not fit either)" if len(wrong) > 1 else ""
        raise CheckpointShapeError(
            f"{what}: {key!r} should have shape {_text(expected[key])}, found {_text(found[key])}"
            f"{more}"
        )
    missing = [key for key in expected if key not in found and key not in optional]
    if missing:
        raise CheckpointShapeError(f"{what}: the checkpoint lacks {_list(missing)}")
    unknown = [key for key in found if key not in expected]
    if unknown:
        raise CheckpointShapeError(
            f"{what}: the checkpoint also holds {_list(unknown)}, which this family does not use. "
            "It was probably saved by a modified model, whose masks edgeseg would not reproduce"
        )


def with_prefix(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The same shapes with ``prefix`` put before every name."""
    return {prefix + key: shape for key, shape in shapes.items()}


def _text(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def _list(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(repr(key) for key in keys[:_LISTED]) + more
