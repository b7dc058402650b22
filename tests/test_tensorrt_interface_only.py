"""The TensorRT backend against the interface of NVIDIA's bindings: names and signatures, no more.

Nothing is compiled or run by TensorRT here. The bindings of four versions are imported over empty
libraries (``trt_interface``). Every name, argument count, keyword and written attribute of the
backend's source is looked up in them, and so is what the tests' stand-in offers.
"""

from __future__ import annotations

import ast
import enum
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tensorrt_double import VERSIONS as DOUBLE_VERSIONS
from tensorrt_double import tensorrt_double
from trt_interface import (
    VERSIONS,
    Found,
    Interface,
    Use,
    collect,
    described,
    parse_interface,
    stand_ins,
)

BACKEND = Path(__file__).resolve().parents[1] / "edgeseg" / "backends" / "_tensorrt"
REMOVED_IN_11 = "BuilderFlag.FP16"

Interfaces = Callable[[str], Interface]


@cache
def sources() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in sorted(BACKEND.glob("*.py"))}


@pytest.fixture(scope="module")
def interfaces(tmp_path_factory: pytest.TempPathFactory) -> Interfaces:
    """The interface of a version; skips when its wheel cannot be had."""
    folder = tmp_path_factory.mktemp("bindings")

    @cache
    def libraries() -> Path:
        return stand_ins(folder / "libraries")

    @cache
    def interface(version: str) -> Interface:
        return parse_interface(described(version, libraries(), folder / version))

    return interface


@pytest.fixture(scope="module")
def collected(interfaces: Interfaces) -> Callable[[str], Found]:
    """What the walk over the backend's source finds with a version's bindings."""

    @cache
    def found(version: str) -> Found:
        return collect(sources(), interfaces(version))

    return found


def exists(interface: Interface, use: Use) -> bool:
    if not use.owner:
        return interface.has(use.name)
    cls = interface.cls(use.owner)
    return cls is not None and (
        cls.has(use.name) or interface.cls(f"{use.owner}.{use.name}") is not None
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_interface_only_every_use_fits_the_bindings(
    version: str, collected: Callable[[str], Found]
) -> None:
    assert not collected(version).complaints, "\n".join(collected(version).complaints)


@pytest.mark.parametrize("version", VERSIONS)
def test_interface_only_the_collection_is_no_empty_one(
    version: str, collected: Callable[[str], Found], interfaces: Interfaces
) -> None:
    found = collected(version)
    assert {"Builder", "OnnxParser", "Runtime", "IExecutionContext"} <= found.classes()
    assert len(found.uses) > 80
    assert all(exists(interfaces(version), use) for use in found.uses)
    # Every attribute that is spelled as only TensorRT spells it was followed to its class.
    spelled = {
        name
        for cls in interfaces(version).classes.values()
        for name in (*cls.methods, *cls.properties)
        if "_" in name.strip("_") and not name.startswith("_")
    }
    written = {
        node.attr
        for text in sources().values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
    }
    assert written & spelled <= {use.name for use in found.uses | found.optional}


def test_interface_only_what_may_be_missing_is_in_some_version(
    collected: Callable[[str], Found], interfaces: Interfaces
) -> None:
    optional = {use for version in VERSIONS for use in collected(version).optional}
    assert optional
    nowhere = [
        str(use)
        for use in sorted(optional)
        if not any(exists(interfaces(version), use) for version in VERSIONS)
    ]
    assert not nowhere


def test_interface_only_a_removed_name_is_refused_where_it_is_gone(interfaces: Interfaces) -> None:
    """The source with one line more, which 10.x takes and 11 does not."""
    lines = (
        "def extra(lib: Any, config: trt.IBuilderConfig):\n"
        f"    config.set_flag(lib.{REMOVED_IN_11})"
    )
    spoiled = {**sources(), BACKEND / "extra.py": lines}
    for version in VERSIONS:
        complaints = collect(spoiled, interfaces(version)).complaints
        wanted = [f"extra.py:2: TensorRT {version} has no {REMOVED_IN_11}"]
        assert complaints == (wanted if version.startswith("11.") else [])


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
def test_interface_only_every_misspelling_is_reported(
    version: str, collected: Callable[[str], Found], interfaces: Interfaces
) -> None:
    """Each use of a member, spelled with a letter more, is a complaint in its line."""

    class Misspell(ast.NodeTransformer):
        def __init__(self, file: str) -> None:
            self.file = file

        def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
            if (self.file, node.lineno, node.attr) in members:
                node.attr += "x"
            else:
                self.generic_visit(node)
            return node

    members = {
        (*split_place(use.where), use.name)
        for use in collected(version).uses
        if use.owner and not use.name.startswith("__")
    }
    trees = {path: ast.parse(text) for path, text in sources().items()}
    overrides = {
        (path.name, node.lineno, node.name)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    # Trees, since text made of them would have other lines.
    spoiled = {path: Misspell(path.name).visit(tree) for path, tree in trees.items()}
    wanted = {f"{file}:{line}" for file, line, name in members - overrides}
    said = {one.split(": ")[0] for one in collect(spoiled, interfaces(version)).complaints}
    assert wanted
    assert not wanted - said


def split_place(where: str) -> tuple[str, int]:
    file, line = where.split(":")
    return file, int(line)


def public(cls: type) -> dict[str, Any]:
    """The public attributes that a class of the stand-in defines, without those of Python's own."""
    own = [one for one in cls.__mro__ if one.__module__.startswith("tensorrt_double")]
    names = {name: value for one in reversed(own) for name, value in vars(one).items()}
    return {
        name: value
        for name, value in names.items()
        if not name.startswith("_") or (name == "__init__" and inspect.isfunction(value))
    }


def double_of(version: str) -> Any:
    (short,) = (one for one in DOUBLE_VERSIONS if version.startswith(one))
    return tensorrt_double(short)


def offered(double: Any) -> dict[str, type]:
    """The classes and enums of a stand-in, nested ones by their paths."""
    found = {name: one for name, one in vars(double).items() if isinstance(one, type)}
    for name, cls in list(found.items()):
        for inner, one in vars(cls).items():
            if isinstance(one, type) and not inner.startswith("_"):
                found[f"{name}.{inner}"] = one
    return found


def differences(double: type, path: str, interface: Interface) -> list[str]:
    """What a class of the stand-in has that the real one has not, or has otherwise."""
    real = interface.cls(path)
    if real is None:
        return [f"there is no {path}"]
    if issubclass(double, enum.Enum):
        numbers = {member.name: int(member.value) for member in double}
        return [
            f"{path}.{name} is {number}, not {real.numbers.get(name)}"
            for name, number in numbers.items()
            if real.numbers.get(name) != number
        ]
    found = []
    for name, value in public(double).items():
        if isinstance(value, type):
            continue
        where = f"{path}.{name}"
        if inspect.isfunction(value):
            found += [f"{where} {why}" for why in unlike(value, real.methods.get(name, ()))]
        elif name not in real.properties:
            found.append(f"{where} is no attribute")
        else:
            slot = not isinstance(value, property)
            written = slot or value.fset is not None
            if written and not real.properties[name].writable:
                found.append(f"{where} cannot be written")
            if (slot or value.fget is not None) and not real.properties[name].readable:
                found.append(f"{where} cannot be read")
    return found


def unlike(function: Any, signatures: Any) -> list[str]:
    """Why no real overload takes all that a method of the stand-in takes; empty if one does."""
    given = list(inspect.signature(function).parameters.values())[1:]
    assert all(one.kind is one.POSITIONAL_OR_KEYWORD for one in given), function
    least = sum(one.default is one.empty for one in given)
    reasons = [] if signatures else ["is no method"]
    for signature in signatures:
        names = [one.name for one in signature.parameters if one.by_keyword][: len(given)]
        bound = [signature.bind(count, ()) for count in {least, len(given)}]
        if any(isinstance(one, str) for one in bound):
            reasons.append(f"takes {least} to {len(given)} arguments: {signature.text}")
        elif names and names != [one.name for one in given]:
            reasons.append(f"calls them {[one.name for one in given]}: {signature.text}")
        else:
            return []
    return reasons


@pytest.mark.parametrize("version", VERSIONS)
def test_interface_only_the_stand_in_offers_what_the_bindings_have(
    version: str, interfaces: Interfaces
) -> None:
    classes = offered(double_of(version))
    assert {"Builder", "OnnxParser", "Runtime", "IExecutionContext", "BuilderFlag"} <= set(classes)
    found = [
        difference
        for path, cls in classes.items()
        for difference in differences(cls, path, interfaces(version))
    ]
    assert not found, "\n".join(found)


def test_interface_only_a_stand_in_of_another_version_is_told_apart(
    interfaces: Interfaces,
) -> None:
    """The stand-in of 10.3 beside the bindings of 11: the comparison is no formality."""
    real = interfaces("11.4.0.106")
    found = [
        difference
        for path, cls in offered(double_of("10.3.0")).items()
        for difference in differences(cls, path, real)
    ]
    assert "NetworkDefinitionCreationFlag.STRONGLY_TYPED is 1, not 0" in found

    class Builder:
        __module__ = "tensorrt_double"
        __slots__ = ("num_DLA_cores",)

        def __init__(self, logger: Any, extra: int) -> None: ...

        def create_network(self, flag: int = 0) -> None: ...

        def reset(self) -> None: ...

        def build_engine(self) -> None: ...

        @property
        def platform_has_fast_fp16(self) -> bool:
            return True

    said = "\n".join(differences(Builder, "Builder", real))
    for part in (
        "Builder.num_DLA_cores cannot be written",
        "Builder.__init__ takes 2 to 2 arguments",
        "Builder.create_network calls them ['flag']",
        "Builder.build_engine is no method",
        "Builder.platform_has_fast_fp16 is no attribute",
    ):
        assert part in said
    assert "reset" not in said
