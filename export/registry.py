"""Which family a state dict belongs to.

A family is one module in `edgeseg.export.families` that defines ``FAMILY``; adding the file adds
the family.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections import Counter
from typing import Any

from edgeseg.errors import CheckpointError, UnknownFamilyError
from edgeseg.export import families
from edgeseg.export.family import Family
from edgeseg.export.shapes import Shapes

__all__ = ["detect", "family_named", "known_families"]

_SHOWN_KEYS = 6


@functools.cache
def known_families() -> tuple[Family[Any], ...]:
    """All families, in the order of their names."""
    found = []
    for info in pkgutil.iter_modules(families.__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{families.__name__}.{info.name}")
            found.append(module.FAMILY)
    return tuple(sorted(found, key=lambda family: family.name))


def family_named(name: str) -> Family[Any]:
    """The family with that identifier.

    Raises:
        UnknownFamilyError: there is none; lists those that exist.
    """
    for family in known_families():
        if family.name == name:
            return family
    raise UnknownFamilyError(f"no family is named {name!r}; known are {_known()}")


def detect(shapes: Shapes) -> Family[Any]:
    """The one family whose keys these are.

    Raises:
        UnknownFamilyError: none recognises them; shows what the keys look like, and what is known.
        CheckpointError: several do, which is a mistake in their detection.
    """
    matching = [family for family in known_families() if family.matches(shapes)]
    if len(matching) > 1:
        names = " and ".join(family.name for family in matching)
        raise CheckpointError(
            f"the keys fit {names}: their detection must be made to exclude each other"
        )
    if matching:
        return matching[0]
    raise UnknownFamilyError(
        f"the checkpoint is of no known family. Its {len(shapes)} keys: {_prefixes(shapes)}; for "
        f"example {_examples(shapes)}. Known families: {_known()}"
    )


def _prefixes(shapes: Shapes) -> str:
    """Top-level names with how many keys each has, most first."""
    counts = Counter(key.split(".", 1)[0] for key in shapes)
    shown = [f"{name}.* ({count})" for name, count in counts.most_common(_SHOWN_KEYS)]
    return ", ".join(shown) + (", ..." if len(counts) > _SHOWN_KEYS else "")


def _examples(shapes: Shapes) -> str:
    """A few keys with shapes, spread over the whole state dict."""
    keys = list(shapes)
    step = max(1, len(keys) // _SHOWN_KEYS)
    return ", ".join(f"{key} {shapes[key]}" for key in keys[::step][:_SHOWN_KEYS])


def _known() -> str:
    return ", ".join(f"{family.name} ({family.title})" for family in known_families())
