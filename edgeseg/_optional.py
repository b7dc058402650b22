"""Import of heavy or optional libraries, with the line that installs a missing one."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from edgeseg._jetson import is_jetson
from edgeseg.errors import MissingDependencyError

__all__ = ["require"]

_REPORTING = ("nncf", "openvino")
_TELEMETRY = "openvino_telemetry"


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
        if module.partition(".")[0] in _REPORTING:
            with _without_telemetry():
                return importlib.import_module(module)
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module!r} could not be imported ({error}): {_mend(module, extra)}"
        ) from error


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide OpenVINO's telemetry from what is imported here.

    OpenVINO and NNCF send events over the network from their import on, and write into the home
    folder; where the package that does so is missing they do without. Beside an endoscope nothing
    is sent. What was imported before keeps it.
    """
    modules: dict[str, Any] = sys.modules
    before = modules.get(_TELEMETRY)
    modules[_TELEMETRY] = None
    try:
        yield
    finally:
        if before is None:
            del modules[_TELEMETRY]
        else:
            modules[_TELEMETRY] = before


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
