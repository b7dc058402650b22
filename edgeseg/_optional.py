"""Import of optional libraries, with the line that installs a missing one."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgeseg.errors import MissingDependencyError

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Import and return ``module``, which the extra ``extra`` of edgeseg provides.

    Raises:
        MissingDependencyError: it is not installed, or fails to import; the message holds the
            ``pip install`` line.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module!r} could not be imported ({error}): run  pip install 'edgeseg[{extra}]'"
        ) from error
