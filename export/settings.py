"""What a checkpoint says besides its tensors, read from a file that nobody vouches for."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseg.errors import CheckpointError

__all__ = ["MAX_JSON_BYTES", "read_settings"]

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 1 << 20
_MAX_DEPTH = 8
_MAX_VALUES = 10_000
_MAX_INTEGER = 2**63 - 1


def read_settings(path: Path, config: Any = None) -> dict[str, Any]:
    """The settings of the checkpoint ``path``.

    Args:
        path: the checkpoint; its settings may lie beside it, in the file whose name ends in
            ``.json`` instead.
        config: what the checkpoint itself holds under ``config``, which goes first; None: nothing.

    Returns:
        JSON's types alone: dictionaries with string keys, lists (tuples become lists), strings,
        finite numbers, booleans and None. Empty where there are no settings.

    Raises:
        CheckpointError: the config or the JSON is no dictionary of such values, is larger than any
            configuration, or cannot be read.
    """
    beside = path.with_suffix(".json")
    if config is not None:
        if beside.exists():
            logger.warning("%s holds its settings itself: %s is not read", path, beside.name)
        return _object(config, f"'config' in {path.name}")
    if not beside.exists():
        return {}
    return _object(_read_json(beside), str(beside))


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not a file: the settings of the checkpoint beside it would be one; "
            "rename it if it is something else"
        )
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > MAX_JSON_BYTES:
        raise CheckpointError(
            f"{path} is larger than {MAX_JSON_BYTES} bytes: it cannot be the settings of the "
            "checkpoint beside it; rename it if it is something else"
        )
    try:
        return json.loads(content, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}, the settings of the checkpoint beside it, is not valid JSON ({error}): "
            "correct it, or rename it if it is something else"
        ) from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two values for one setting, either could be meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return found


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"{where} holds a {type(value).__name__}; the settings of a checkpoint are a dictionary"
        )
    left = _MAX_VALUES

    def plain(item: Any, name: str, depth: int) -> Any:
        # A container may hold itself, or another one a thousand times over.
        nonlocal left
        left -= 1
        if left < 0 or depth > _MAX_DEPTH:
            raise CheckpointError(
                f"{where} is nested deeper than {_MAX_DEPTH} levels or holds more than "
                f"{_MAX_VALUES} values: it cannot be the settings of a checkpoint"
            )
        if item is None or isinstance(item, (str, bool)):
            return item
        if isinstance(item, int):
            if abs(item) > _MAX_INTEGER:
                raise CheckpointError(f"{where}: {name!r} is a number of more than 64 bits")
            return item
        if isinstance(item, float):
            if not math.isfinite(item):
                raise CheckpointError(f"{where}: {name!r} is {item}; expected a finite number")
            return item
        if isinstance(item, (list, tuple)):
            return [plain(entry, f"{name}[{i}]", depth + 1) for i, entry in enumerate(item)]
        if isinstance(item, Mapping):
            for key in item:
                if not isinstance(key, str):
                    raise CheckpointError(f"{where}: the key {key!r} in {name!r} is not a string")
            return {
                key: plain(entry, f"{name}.{key}" if name else key, depth + 1)
                for key, entry in item.items()
            }
        raise CheckpointError(
            f"{where}: {name!r} is of type {type(item).__name__}; settings are strings, numbers, "
            "booleans, None, and lists and dictionaries of them"
        )

    settings: dict[str, Any] = plain(value, "", 0)
    return settings
