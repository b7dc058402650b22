"""Import of heavy or optional libraries, with the line that installs a missing one."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgeseg._jetson import is_jetson
from edgeseg.errors import MissingDependencyError

__all__ = ["require"]


def require(module: str, extra: str | None = None) -> ModuleType:
    """Import and return ``module``.

    Args:
        module: dotted name.
        extra: the extra of edgeseg that provides it; None if edgeseg itself depends on it.

    Raises:
        MissingDependencyError: it is not installed, or fails to import; the message holds the
            line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module!r} could not be imported ({error}): {_mend(module, extra)}"
        ) from error


def _mend(module: str, extra: str | None) -> str:
    # On a Jetson TensorRT is JetPack's, and what is newest may be too new for its driver.
    if extra == "tensorrt" and is_jetson():
        if module == "tensorrt":
            return (
                "run  sudo apt-get install python3-libnvinfer  and use an environment made with "
                "--system-site-packages"
            )
        return (
            "run  pip install 'cuda-bindings>=12.8,<13'  on JetPack 6,  pip install "
            "'cuda-bindings>=13,<14'  on JetPack 7"
        )
    target = f"edgeseg[{extra}]" if extra else "edgeseg"
    return f"run  pip install '{target}'"
