"""The part of JSON Schema that the page's description uses, and the check of values by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Schema", "complaint"]

Schema = Mapping[str, Any]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: (
        math.isfinite(value)
        if isinstance(value, float)
        else isinstance(value, int) and not isinstance(value, bool)
    ),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_LIMITS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "minimum": (lambda value, limit: value >= limit, "at least"),
    "maximum": (lambda value, limit: value <= limit, "at most"),
    "exclusiveMinimum": (lambda value, limit: value > limit, "more than"),
    "exclusiveMaximum": (lambda value, limit: value < limit, "less than"),
}
_CHECKED = {
    "$ref", "type", "enum", "const", "properties", "required", "additionalProperties",
    "minProperties", "items", "minItems", "maxItems", *_LIMITS,
}  # fmt: skip
_SAID = {"description", "title", "examples", "format"}


def complaint(value: Any, schema: Schema, named: Mapping[str, Schema], where: str = "it") -> str:
    """What is wrong with a value, in one line; "" if it fits.

    Args:
        value: as ``json.loads`` gives it.
        schema: what it should be.
        named: the schemas that ``$ref`` names by its last part.
        where: what to call the value.

    Raises:
        ValueError: the schema uses a word that is not checked here.
    """
    unknown = set(schema) - _CHECKED - _SAID
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))} of a schema is not checked")
    if "$ref" in schema:
        return complaint(value, named[schema["$ref"].rpartition("/")[2]], named, where)
    kinds = schema.get("type", list(_TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(_TYPES[kind](value) for kind in kinds):
        return f"{where} must be {' or '.join(kinds)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} must be one of {', '.join(str(one) for one in schema['enum'])}"
    if "const" in schema and value != schema["const"]:
        return f"{where} must be {schema['const']}"
    if isinstance(value, dict):
        return _object(value, schema, named, where)
    if isinstance(value, list):
        return _array(value, schema, named, where)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for word, (holds, text) in _LIMITS.items():
            if word in schema and not holds(value, schema[word]):
                return f"{where} must be {text} {schema[word]}"
    return ""


def _object(value: dict[str, Any], schema: Schema, named: Mapping[str, Schema], where: str) -> str:
    members = schema.get("properties", {})
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        return f"{where} lacks {', '.join(missing)}"
    if len(value) < schema.get("minProperties", 0):
        return f"{where} must hold one of {', '.join(members)}"
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        member = members.get(name, others)
        if member is False:
            return f"{where} holds {name[:40]!r}, which is none of {', '.join(members)}"
        if member is not True:
            wrong = complaint(item, member, named, name[:40])
            if wrong:
                return wrong
    return ""


def _array(value: list[Any], schema: Schema, named: Mapping[str, Schema], where: str) -> str:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return f"{where} has {len(value)} items"
    wrongs = (
        complaint(item, schema.get("items", {}), named, f"{where}[{index}]")
        for index, item in enumerate(value)
    )
    return next((wrong for wrong in wrongs if wrong), "")
