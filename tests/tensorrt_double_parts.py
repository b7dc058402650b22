"""What both halves of the TensorRT stand-in rest on: objects that are counted, and logging."""

from __future__ import annotations

import json
import weakref
from typing import Any

MAGIC = b"a plan of the stand-in\n"


class Part:
    """An object of the library; ``complaints`` gets what is freed before what came out of it."""

    __slots__ = ("_children", "_logger")
    _lib: Any

    def _begin(self, logger: Any, parent: Part | None = None) -> None:
        self._logger = logger
        self._children: list[Any] = []
        self._lib._objects.add(self)
        if parent is not None:
            parent._children.append(weakref.ref(self))

    def _say(self, severity: str, text: str) -> None:
        log(self._lib, self._logger, severity, text)

    def __del__(self) -> None:
        for child in getattr(self, "_children", ()):
            left = child()
            if left is not None:
                self._lib.complaints.append(
                    f"{type(self).__name__} was freed before its {type(left).__name__}"
                )


def log(lib: Any, logger: Any, severity: str, text: str) -> None:
    """Call the logger as the library does: what it raises would end the process."""
    callback(lib, lambda: logger.log(lib.ILogger.Severity[severity], text))


def callback(lib: Any, call: Any) -> Any:
    """The answer of a callback; an exception out of it is a complaint."""
    try:
        return call()
    except BaseException as error:
        lib.complaints.append(f"an exception left a callback: {error!r}")
        return None


class Interface:
    """Base of the classes that callers derive from; its ``__init__`` must have run."""

    __slots__ = ("_made",)
    _lib: Any

    def __init__(self) -> None:
        self._made = True


def check_interface(one: Any, cls: type) -> None:
    """Refuse, as pybind11 does, what is no instance or was not constructed."""
    if not isinstance(one, cls) or not getattr(one, "_made", False):
        raise TypeError(f"incompatible function arguments: {one!r} is no {cls.__name__}")


def write_plan(header: dict[str, Any]) -> bytes:
    """A plan's bytes."""
    return MAGIC + json.dumps(header).encode()


def read_plan(data: bytes) -> dict[str, Any] | None:
    """What ``write_plan`` was given, or None for anything else."""
    if not data.startswith(MAGIC):
        return None
    try:
        header = json.loads(data[len(MAGIC) :])
    except ValueError:
        return None
    return header if isinstance(header, dict) else None
