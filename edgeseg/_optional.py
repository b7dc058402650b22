"""Import of heavy or optional libraries, with the line that installs a missing one."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgeseg.errors import MissingDependencyError

__all__ = ["require"]


def require(module: str, extra: str | None = None) -> ModuleType:
    """Import and return ``module``.

    Args:
        module: dotted name.
        extra: the extra of edgeseg that provides it; None if edgeseg itself depends on it.

    Raises:
        MissingDependencyError: it is not installed, or fails to import; the message holds the
            ``pip install`` line.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        target = f"edgeseg[{extra}]" if extra else "edgeseg"
        raise MissingDependencyError(
            f"{module!r} could not be imported ({error}): run  pip install '{target}'"
        ) from error
