"""Reading what a benchmark wrote: JSON of a dataclass, which says its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from edgeseg.errors import BundleError, InputError
from edgeseg.spec import from_json

__all__ = ["read_record"]

T = TypeVar("T")


def read_record(
    kind: type[T], path: Path, *, schema_version: int, max_bytes: int, what: str, remedy: str
) -> T:
    """Read a file whose ``schema_version`` must be this one.

    Args:
        kind: the dataclass.
        path: the file.
        schema_version: the only one that is read.
        max_bytes: no such file is larger.
        what: the file in words: ``benchmark result``.
        remedy: what to do about another schema.

    Raises:
        InputError: it is missing, too large, no JSON, of another schema, or incomplete.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise InputError(f"{path} is larger than any {what}: is it one?")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no {what}: {error}") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != schema_version:
        raise InputError(
            f"{path} has schema {version!r}, this edgeseg reads {schema_version}: {remedy}"
        )
    try:
        return from_json(kind, value, where=path.name)
    except BundleError as error:
        raise InputError(f"{path} is no complete {what}: {error}") from error
