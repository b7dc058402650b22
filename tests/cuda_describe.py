"""Prints the interface of ``cuda.bindings.runtime`` as JSON; run in a process of its own.

    python -I cuda_describe.py FOLDER

The package is the one in FOLDER; what it needs beside it is the interpreter's.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any


def results(function: Any) -> list[str]:
    """The types of what follows the status, as the docstring tells: a class, or another word."""
    head = re.search(r"^( *)Returns\n\1-+\n", function.__doc__ or "", re.MULTILINE)
    if head is None:
        return []
    told = head.string[head.end() :].partition(f"\n{head[1]}See Also\n")[0]
    entries = re.findall(rf"^{head[1]}(\S.*)$", told, re.MULTILINE)
    kinds = [entry.rpartition(" : ")[2] for entry in entries[1:]]
    return [re.sub(r"^:py:obj:`~\.(\w+)`$", r"\1", kind) for kind in kinds]


def describe(module: Any) -> dict[str, Any]:
    """Functions with their parameters and results, enums, structures and numbers."""
    functions: dict[str, Any] = {}
    members: dict[str, list[str]] = {}
    structures: dict[str, list[str]] = {}
    numbers: list[str] = []
    for name, value in vars(module).items():
        if not name.startswith("cuda"):
            continue
        if hasattr(value, "__members__"):
            members[name] = list(value.__members__)
        elif isinstance(value, type):
            structures[name] = [one for one in dir(value) if not one.startswith("_")]
        elif callable(value):
            parameters = list(inspect.signature(value).parameters)
            functions[name] = {"parameters": parameters, "results": results(value)}
        elif isinstance(value, int):
            numbers.append(name)
    return {
        "file": module.__file__,
        "functions": functions,
        "enums": members,
        "structures": structures,
        "numbers": numbers,
    }


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    json.dump(describe(importlib.import_module("cuda.bindings.runtime")), sys.stdout)
