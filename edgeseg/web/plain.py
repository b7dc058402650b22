"""Values as JSON holds them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["dumps", "plain"]


def plain(value: Any) -> Any:
    """Dataclasses and mappings as dictionaries, sequences as lists; NaN and infinities as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"JSON holds no {type(value).__name__}")


def dumps(value: Any) -> str:
    """``value`` as JSON on one line."""
    return json.dumps(plain(value), allow_nan=False, separators=(",", ":"))
