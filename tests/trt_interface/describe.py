"""Prints the interface of the TensorRT bindings in a folder as JSON; run in a process of its own.

    python -I describe.py FOLDER

Signatures stay as pybind11 wrote them into the docstrings; ``bindings.py`` reads them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from typing import Any

Described = dict[str, Any]


def signature_text(name: str, function: Any) -> str:
    """The docstring of a compiled function, the signature of one written in Python."""
    if inspect.isfunction(function):
        return f"{name}{inspect.signature(function)}"
    return str(getattr(function, "__doc__", None) or "")


def describe_class(cls: type) -> Described:
    """Every attribute of a class, inherited ones included, by what it is."""
    found: Described = {
        "bases": [base.__qualname__ for base in cls.__mro__[1:] if is_bound(base)],
        "enum": hasattr(cls, "__members__"),
        "numbers": {name: int(one) for name, one in getattr(cls, "__members__", {}).items()},
        "methods": {},
        "properties": {},
        "values": {},
        "doc": str(cls.__doc__ or ""),
    }
    attributes = {
        name: value
        for base in reversed([cls, *(base for base in cls.__mro__[1:] if is_bound(base))])
        for name, value in vars(base).items()
    }
    for name, value in attributes.items():
        if isinstance(value, property):
            accessors = {"get": value.fget, "set": value.fset}
            found["properties"][name] = {
                kind: signature_text(kind, function)
                for kind, function in accessors.items()
                if function is not None
            }
        elif isinstance(value, type):
            continue
        elif is_bound(type(value)):
            found["values"][name] = type(value).__qualname__
        elif callable(value) or isinstance(value, staticmethod):
            # A slot wrapper of ``object`` says that the class cannot be constructed.
            if name == "__init__" and type(value).__name__ == "wrapper_descriptor":
                continue
            static = isinstance(value, staticmethod)
            function = value.__func__ if isinstance(value, staticmethod) else value
            found["methods"][name] = {"text": signature_text(name, function), "static": static}
    return found


def is_bound(cls: type) -> bool:
    """Whether pybind11 made the class for TensorRT."""
    return cls.__module__.startswith("tensorrt_bindings")


def describe(library: Any) -> Described:
    """The public names of the module, and the classes nested in its classes."""
    classes: dict[str, Described] = {}
    functions: dict[str, str] = {}
    values: dict[str, str] = {}
    aliases: dict[str, str] = {}

    def add(path: str, cls: type) -> None:
        if cls.__qualname__ != path:
            aliases[path] = cls.__qualname__
        if cls.__qualname__ not in classes:
            classes[cls.__qualname__] = describe_class(cls)
        for name, value in vars(cls).items():
            if isinstance(value, type) and is_bound(value):
                add(f"{path}.{name}", value)

    for name, value in vars(library).items():
        if name.startswith("_") and name != "__version__":
            continue
        if isinstance(value, type):
            if is_bound(value):
                add(name, value)
        elif inspect.ismodule(value):
            continue
        elif callable(value):
            functions[name] = signature_text(name, value)
        else:
            values[name] = type(value).__qualname__ if is_bound(type(value)) else ""
    return {
        "version": library.__version__,
        "classes": classes,
        "functions": functions,
        "values": values,
        "aliases": aliases,
    }


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    json.dump(describe(importlib.import_module("tensorrt_bindings")), sys.stdout)
