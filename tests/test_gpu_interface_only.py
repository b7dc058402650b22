"""What ``edgeseg.gpu`` calls against the interface of cuda-bindings: names and parameters, no more.

Nothing runs on a GPU here. Functions, numbers of arguments, members of enums and fields of
structures are collected from the source, and looked up in the bindings that are installed and in
the wheels of other versions. So is what the tests' stand-in offers.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cuda_double import FakeRuntime
from trt_interface.wheels import wheel

PACKAGE = Path(__file__).resolve().parents[1] / "edgeseg" / "gpu"
OTHER_VERSIONS = ("12.8.0", "12.9.4", "13.0.3")
"""The oldest wheels of CUDA 12, the bindings of JetPack 6 and the oldest of JetPack 7."""

STRUCTURES = {
    "cudaGetDeviceProperties": "cudaDeviceProp",
    "cudaPointerGetAttributes": "cudaPointerAttributes",
}
"""Functions that give a structure, whose fields are read by the name it is bound to."""

LOOK_UP = """
import json, sys
if len(sys.argv) > 1:
    sys.path.insert(0, sys.argv[1])
from cuda.bindings import runtime
asked = json.load(sys.stdin)
def fields(name):
    return [f for f in dir(getattr(runtime, name)()) if not f.startswith("_")]
print(json.dumps({
    "file": runtime.__file__,
    "functions": {n: (getattr(runtime, n, None).__doc__ or "").partition("\\n")[0]
                  for n in asked["functions"] if hasattr(runtime, n)},
    "constants": {n: getattr(runtime, n) for n in asked["constants"] if hasattr(runtime, n)},
    "members": {n: {m: int(v) for m, v in getattr(runtime, n).__members__.items()}
                for n in asked["members"] if hasattr(runtime, n)},
    "fields": {n: fields(n) for n in asked["fields"] if hasattr(runtime, n)},
}))
"""


@dataclass
class Used:
    """What source code takes from ``cuda.bindings.runtime``."""

    functions: dict[str, set[int]] = field(default_factory=dict)
    """With the numbers of arguments they are called with."""
    constants: set[str] = field(default_factory=set)
    members: dict[str, set[str]] = field(default_factory=dict)
    fields: dict[str, set[str]] = field(default_factory=dict)

    def merge(self, other: Used) -> None:
        self.constants |= other.constants
        for mine, theirs in (
            (self.functions, other.functions),
            (self.members, other.members),
            (self.fields, other.fields),
        ):
            for name, found in theirs.items():
                mine.setdefault(name, set()).update(found)  # type: ignore[attr-defined]


def is_cuda(name: str) -> bool:
    return re.fullmatch(r"cuda[A-Z]\w*", name) is not None


def collect(source: str) -> Used:
    """What a module uses.

    Functions are called by name, ``cuda("cudaFree", address)``, or as attributes of ``module``;
    enums may be bound to a name first, within one function.
    """
    used = Used()
    tree = ast.parse(source)
    called = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = None
            arguments = node.args
            if isinstance(node.func, ast.Attribute) and is_cuda(node.func.attr):
                name = node.func.attr
                called.add(id(node.func))
            elif arguments and isinstance(arguments[0], ast.Constant):
                name, arguments = arguments[0].value, arguments[1:]
            if isinstance(name, str) and is_cuda(name):
                assert not node.keywords, f"line {node.lineno}: give the arguments by position"
                assert not any(isinstance(a, ast.Starred) for a in arguments), node.lineno
                used.functions.setdefault(name, set()).add(len(arguments))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            used.merge(_members(function, called))
    return used


def _members(function: ast.FunctionDef, called: set[int]) -> Used:
    used = Used()
    enums: dict[str, str] = {}
    structures: dict[str, str] = {}
    for node in ast.walk(function):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        target, value = node.targets[0].id, node.value
        if isinstance(value, ast.Attribute) and value.attr in _ENUMS:
            enums[target] = value.attr
        elif isinstance(value, ast.Call) and value.args:
            called_name = getattr(value.args[0], "value", None)
            if called_name in STRUCTURES:
                structures[target] = STRUCTURES[called_name]
    for node in ast.walk(function):
        if not isinstance(node, ast.Attribute) or id(node) in called:
            continue
        holder = node.value
        if isinstance(holder, ast.Name) and holder.id in structures:
            used.fields.setdefault(structures[holder.id], set()).add(node.attr)
        elif not is_cuda(node.attr):
            continue
        elif isinstance(holder, ast.Attribute) and is_cuda(holder.attr):
            used.members.setdefault(holder.attr, set()).add(node.attr)
        elif isinstance(holder, ast.Name) and holder.id in enums:
            used.members.setdefault(enums[holder.id], set()).add(node.attr)
        elif isinstance(holder, ast.Attribute) and holder.attr == "module":
            if node.attr in _ENUMS:
                used.members.setdefault(node.attr, set())
            else:
                used.constants.add(node.attr)
        else:
            raise AssertionError(f"line {node.lineno}: what {ast.unparse(node)} is cannot be told")
    return used


_ENUMS = (
    "cudaError_t",
    "cudaMemcpyKind",
    "cudaStreamCaptureMode",
    "cudaDeviceAttr",
    "cudaMemoryType",
)


@cache
def collected() -> Used:
    used = Used()
    for path in sorted(PACKAGE.glob("*.py")):
        used.merge(collect(path.read_text(encoding="utf-8")))
    return used


def look_up(used: Used, folder: Path | None = None) -> dict[str, Any]:
    """What the bindings in ``folder``, or the installed ones, say about the names."""
    asked = {
        "functions": sorted(used.functions),
        "constants": sorted(used.constants),
        "members": sorted(used.members),
        "fields": sorted(used.fields),
    }
    command = [sys.executable, "-c", LOOK_UP, *([] if folder is None else [str(folder)])]
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    if folder is not None:
        assert Path(answer["file"]).is_relative_to(folder)
    return answer


def parameters(signature: str) -> list[str]:
    """Names in ``cudaMemcpyAsync(dst, src, size_t count, kind: cudaMemcpyKind, stream)``."""
    inside = signature.partition("(")[2].rpartition(")")[0]
    return [part.partition(":")[0].split()[-1] for part in inside.split(",") if part.strip()]


def wrong(used: Used, found: dict[str, Any]) -> list[str]:
    """What the bindings do not have, or have differently."""
    problems = []
    for name, counts in used.functions.items():
        if name not in found["functions"]:
            problems.append(f"no function {name}")
            continue
        signature = found["functions"][name]
        problems += [
            f"{signature} called with {count} arguments"
            for count in counts
            if count != len(parameters(signature))
        ]
    problems += [f"no constant {name}" for name in used.constants - set(found["constants"])]
    for kind, table in (("members", "member"), ("fields", "field")):
        for name, wanted in getattr(used, kind).items():
            absent = wanted - set(found[kind].get(name, ()))
            problems += [f"no {table} {member} of {name}" for member in absent]
    return sorted(problems)


def test_the_collector_sees_what_the_package_uses() -> None:
    used = collected()
    assert used.functions["cudaMemcpy2DAsync"] == {8}
    assert used.functions["cudaMalloc"] == {1}
    assert used.functions["cudaGetErrorString"] == {1}
    assert len(used.functions) > 30
    assert "cudaErrorMemoryAllocation" in used.members["cudaError_t"]
    assert "cudaStreamCaptureModeThreadLocal" in used.members["cudaStreamCaptureMode"]
    assert used.constants >= {"cudaStreamNonBlocking", "cudaHostAllocMapped"}
    assert used.fields == {
        "cudaDeviceProp": {"name", "totalGlobalMem"},
        "cudaPointerAttributes": {"type", "device"},
    }


def test_the_collector_finds_what_is_wrong() -> None:
    source = """
def use(cuda):
    errors = cuda.module.cudaError_t
    cuda("cudaMalloc", 1, 2)
    cuda("cudaNoSuchThing")
    properties = cuda("cudaGetDeviceProperties", 0)
    return errors.cudaErrorOfMine, cuda.module.cudaNoConstant, properties.fame
"""
    used = collect(source)
    assert wrong(used, look_up(used)) == [
        "cudaMalloc(size_t size) called with 2 arguments",
        "no constant cudaNoConstant",
        "no field fame of cudaDeviceProp",
        "no function cudaNoSuchThing",
        "no member cudaErrorOfMine of cudaError_t",
    ]


def test_the_installed_bindings_have_what_is_used() -> None:
    assert wrong(collected(), look_up(collected())) == []


@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_the_bindings_of_other_versions_have_what_is_used(version: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel("cuda-bindings", version, "cuda/bindings/")) as archive:
        archive.extractall(tmp_path)
    found = look_up(collected(), tmp_path)
    assert wrong(collected(), found) == []
    # Flags and enums are passed as numbers by callers of other libraries.
    here = look_up(collected())
    assert found["constants"] == here["constants"]
    for name, members in collected().members.items():
        for member in members:
            assert found["members"][name][member] == here["members"][name][member], member


def test_the_stand_in_has_the_interface_of_the_bindings() -> None:
    """All that is used, with the names of the parameters, and nothing that there is not."""
    offered = {
        name: list(inspect.signature(getattr(FakeRuntime, name)).parameters)[1:]
        for name in dir(FakeRuntime)
        if is_cuda(name)
    }
    assert set(collected().functions) <= set(offered)
    found = look_up(Used(functions={name: set() for name in offered}))["functions"]
    for name, names in offered.items():
        assert name in found, f"the bindings have no {name}"
        assert names == parameters(found[name]), name
    with pytest.raises(AttributeError, match="has no cudaMallocManaged"):
        _ = FakeRuntime().cudaMallocManaged
