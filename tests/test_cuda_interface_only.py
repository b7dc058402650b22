"""``edgeseg.gpu`` against the interface of NVIDIA's CUDA bindings: names and signatures, no more.

No CUDA function runs here. Functions with their numbers of arguments and results, enum members and
structures that the source names are looked up in ``cuda.bindings.runtime`` of several versions, and
so are the functions of the tests' double.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from trt_interface.wheels import wheel

PACKAGE = Path(__file__).resolve().parents[1] / "edgeseg" / "gpu"
DESCRIBE = Path(__file__).with_name("cuda_describe.py")
VERSIONS = ("12.8.0", "12.9.10", "13.5.0")
NAME = re.compile(r"cuda[A-Z]\w*")

Described = dict[str, Any]
Interfaces = Callable[[str], Described]


@pytest.fixture(scope="module")
def interfaces(tmp_path_factory: pytest.TempPathFactory) -> Interfaces:
    """What ``cuda_describe.py`` prints for a version; skips when its wheel cannot be had."""
    pytest.importorskip("cuda.pathfinder", reason="what the CUDA bindings need is not installed")

    @cache
    def interface(version: str) -> Described:
        folder = tmp_path_factory.mktemp("cuda-bindings")
        with zipfile.ZipFile(wheel("cuda-bindings", version, "cuda/bindings/runtime")) as archive:
            names = archive.namelist()
            archive.extractall(folder, [one for one in names if one.startswith("cuda/bindings/")])
        command = [sys.executable, "-I", str(DESCRIBE), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        described: Described = json.loads(done.stdout)
        assert described["file"].startswith(str(folder))
        return described

    return interface


@dataclass
class Call:
    """A call of a CUDA function."""

    where: str
    name: str
    arguments: int
    results: int | None = None
    """How many the caller takes apart, without the status; None if that is not to be seen."""
    attributes: set[str] = field(default_factory=set)
    """What is read from the one result."""


@dataclass
class Uses:
    """What a module's source names."""

    calls: list[Call] = field(default_factory=list)
    members: set[tuple[str, str, str]] = field(default_factory=set)
    """(place, enum, member)"""
    names: set[tuple[str, str]] = field(default_factory=set)
    """(place, name)"""


def called(node: ast.AST) -> tuple[str, int, int] | None:
    """Name, number of arguments, and values before the results of a call of a CUDA function."""
    if not isinstance(node, ast.Call):
        return None
    if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
        name = node.args[0].value
        return (name, len(node.args) - 1, 0) if NAME.fullmatch(name) else None
    if isinstance(node.func, ast.Attribute) and NAME.fullmatch(node.func.attr):
        return node.func.attr, len(node.args), 1
    return None


def collect(text: str, file: str) -> Uses:
    """Every CUDA name in a module's source."""
    tree = ast.parse(text)
    uses = Uses()
    calls: dict[ast.AST, Call] = {}
    for node in ast.walk(tree):
        if (found := called(node)) is not None:
            assert isinstance(node, ast.Call)
            where = f"{file}:{node.lineno}"
            assert not node.keywords, where
            assert not any(isinstance(one, ast.Starred) for one in node.args), where
            calls[node] = Call(where, *found[:2])
    uses.calls = list(calls.values())
    for scope in scopes(tree):
        read_scope(scope, file, uses, calls)
    return uses


def scopes(tree: ast.Module) -> Iterator[list[ast.AST]]:
    """The nodes of each function, and those outside of functions."""
    functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]
    inside = {part for one in functions for part in ast.walk(one)}
    yield [one for one in ast.walk(tree) if one not in inside]
    for function in functions:
        yield list(ast.walk(function))


def read_scope(scope: list[ast.AST], file: str, uses: Uses, calls: dict[ast.AST, Call]) -> None:
    """Members of enums, and what is done with the results of calls."""
    enums: dict[str, str] = {}
    holders: dict[str, Call] = {}
    for node in scope:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Name) and isinstance(value, ast.Attribute):
                enums[target.id] = value.attr
            if value in calls and isinstance(target, ast.Name):
                holders[target.id] = calls[value]
            if value in calls and isinstance(target, ast.Tuple):
                found = called(value)
                assert found is not None
                calls[value].results = len(target.elts) - found[2]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("int", "float"):
            for one in calls.keys() & set(node.args):
                calls[one].results = 1
    for node in scope:
        if isinstance(node, ast.Constant) and NAME.fullmatch(str(node.value)):
            uses.names.add((f"{file}:{node.lineno}", str(node.value)))
        if not isinstance(node, ast.Attribute):
            continue
        where, base = f"{file}:{node.lineno}", node.value
        holder = base.id if isinstance(base, ast.Name) else None
        if NAME.fullmatch(node.attr):
            of = base.attr if isinstance(base, ast.Attribute) else enums.get(holder or "", "")
            if NAME.fullmatch(of):
                uses.members.add((where, of, node.attr))
            else:
                uses.names.add((where, node.attr))
        elif holder in holders:
            holders[holder].results = 1
            holders[holder].attributes.add(node.attr)


def complaints(uses: Uses, interface: Described) -> list[str]:
    """What the bindings have not, or take or give otherwise."""
    functions, enums = interface["functions"], interface["enums"]
    known = {*functions, *enums, *interface["structures"], *interface["numbers"]}
    said = [f"{where}: there is no {name}" for where, name in uses.names if name not in known]
    said += [
        f"{where}: there is no {enum}.{member}"
        for where, enum, member in uses.members
        if member not in enums.get(enum, ())
    ]
    for call in uses.calls:
        if call.name not in functions:
            continue
        real = functions[call.name]
        if call.arguments != len(real["parameters"]):
            said.append(f"{call.where}: {call.name} takes {real['parameters']}")
        if call.results is not None and call.results != len(real["results"]):
            said.append(f"{call.where}: {call.name} gives {real['results']}")
        elif call.attributes:
            (kind,) = real["results"]
            lacks = call.attributes - set(interface["structures"].get(kind, ()))
            said += [f"{call.where}: {kind} has no {one}" for one in sorted(lacks)]
    return sorted(said)


@cache
def source_uses() -> Uses:
    total = Uses()
    for path in sorted(PACKAGE.glob("*.py")):
        found = collect(path.read_text(encoding="utf-8"), path.name)
        total.calls += found.calls
        total.members |= found.members
        total.names |= found.names
    return total


@pytest.mark.parametrize("version", VERSIONS)
def test_interface_only_every_use_fits_the_bindings(version: str, interfaces: Interfaces) -> None:
    said = complaints(source_uses(), interfaces(version))
    assert not said, "\n".join(said)


def test_interface_only_the_collection_is_no_empty_one() -> None:
    uses = source_uses()
    assert {call.name for call in uses.calls} >= {
        *("cudaMalloc", "cudaFree", "cudaMemcpyAsync", "cudaStreamWaitEvent", "cudaGraphLaunch"),
        *("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGetErrorString"),
    }
    assert len({enum for _, enum, _ in uses.members}) >= 4
    unpacked = {call.name: call.results for call in uses.calls if call.results is not None}
    assert unpacked["cudaMemGetInfo"] == 2
    assert unpacked["cudaEventElapsedTime"] == 1
    assert any(call.attributes for call in uses.calls)


def test_interface_only_mistakes_are_reported_with_their_places() -> None:
    """On an invented interface, with a right line before each wrong one."""
    interface = {
        "functions": {
            "cudaBake": {"parameters": ["dough", "minutes"], "results": ["cudaLoaf"]},
            "cudaWeigh": {"parameters": [], "results": ["int", "int"]},
        },
        "enums": {"cudaHeat": ["cudaHeatTop"]},
        "structures": {"cudaLoaf": ["crust"]},
        "numbers": ["cudaDegrees"],
    }
    text = """
def run(cuda, module):
    loaf = cuda("cudaBake", 1, module.cudaHeat.cudaHeatTop)
    print(loaf.crust, module.cudaDegrees)
    print(loaf.crumb)
    heats = module.cudaHeat
    print(heats.cudaHeatTop)
    print(heats.cudaHeatLeft)
    gross, net = cuda("cudaWeigh")
    status, gross, net = module.cudaWeigh()
    gross = int(cuda("cudaWeigh"))
    status, net = module.cudaWeigh()
    cuda.release("cudaBake", 1)
    cuda("cudaKnead", 1)
    print(module.cudaMinutes)
"""
    assert complaints(collect(text, "oven.py"), interface) == [
        "oven.py:11: cudaWeigh gives ['int', 'int']",
        "oven.py:12: cudaWeigh gives ['int', 'int']",
        "oven.py:13: cudaBake takes ['dough', 'minutes']",
        "oven.py:14: there is no cudaKnead",
        "oven.py:15: there is no cudaMinutes",
        "oven.py:3: cudaLoaf has no crumb",
        "oven.py:8: there is no cudaHeat.cudaHeatLeft",
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_interface_only_the_double_has_the_functions_of_the_bindings(
    version: str, interfaces: Interfaces
) -> None:
    from cuda_double import FakeRuntime

    functions = interfaces(version)["functions"]
    offered = {
        name: list(inspect.signature(value).parameters)[1:]
        for name, value in inspect.getmembers(FakeRuntime, inspect.isfunction)
        if NAME.fullmatch(name)
    }
    assert set(offered) >= {call.name for call in source_uses().calls}
    assert offered == {name: functions.get(name, {}).get("parameters") for name in offered}
