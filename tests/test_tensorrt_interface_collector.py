"""The collector behind ``test_tensorrt_interface_only.py``, on an invented library.

The library has two versions that are described as ``describe.py`` describes bindings. Each mistake
below is one line of a program that is otherwise right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trt_interface import Interface, collect, parse_interface, parse_signatures

MODULE = "tensorrt_bindings.tensorrt"


def method(head: str, doc: str = "") -> dict[str, Any]:
    return {"text": f"{head}\n\n{doc}\n", "static": False}


def accessor(read: str = "", write: str = "") -> dict[str, str]:
    found = {}
    if read:
        found["get"] = f"(arg0: {MODULE}.Any) -> {read}\n"
    if write:
        found["set"] = f"(arg0: {MODULE}.Any, arg1: {write}) -> None\n"
    return found


def cls(**parts: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"methods": {}, "properties": {}, "values": {}, "numbers": {}}
    return {**empty, "bases": [], "enum": False, "doc": "", **parts}


def enum(name: str, *members: str) -> dict[str, Any]:
    return cls(
        enum=True,
        values=dict.fromkeys(members, name),
        numbers={member: number for number, member in enumerate(members)},
        properties={"name": accessor("str"), "value": accessor("int")},
        methods={"__init__": method(f"__init__(self: {MODULE}.{name}, value: int) -> None")},
    )


def library(version: str, *flags: str, **more: Any) -> Interface:
    oven = f"self: {MODULE}.Oven"
    overloads = (
        "bake(*args, **kwargs)\nOverloaded function.\n\n"
        f"1. bake({oven}, dough: {MODULE}.Dough, minutes: int = 20) -> {MODULE}.Loaf\n\n"
        "    Bakes.\n\n"
        f"2. bake({oven}, dough: {MODULE}.Dough, program: str, minutes: int) -> {MODULE}.Loaf\n"
    )
    classes = {
        "Oven": cls(
            methods={
                "__init__": method(f"__init__({oven}, listener: {MODULE}.IListener) -> None"),
                "make_dough": method(
                    f"make_dough({oven}, flags: int = 0) -> {MODULE}.Dough", "Flags by 1 << int(x)."
                ),
                "bake": {"text": overloads, "static": False},
                "use_recipe": method(f"use_recipe({oven}, arg0: list[int]) -> bool"),
                "heat_up": method(f"heat_up({oven}, mode: {MODULE}.HeatMode) -> None"),
                **more.get("oven", {}),
            },
            properties={
                "heat_mode": accessor(f"{MODULE}.HeatMode", f"{MODULE}.HeatMode"),
                "max_degrees": accessor("int", "int"),
                "num_trays": accessor("int"),
                "bake_flags": accessor("int", "int"),
                "secret_code": accessor(write="int"),
            },
        ),
        "Dough": cls(properties={"weight_g": accessor("int")}),
        "Loaf": cls(
            properties={"crumb_size": accessor("int")},
            methods={
                "cut_slices": method(
                    f"cut_slices(self: {MODULE}.Loaf, count: int) -> list[{MODULE}.Slice]"
                ),
                "__len__": method(f"__len__(self: {MODULE}.Loaf) -> int"),
                "__getitem__": method(
                    f"__getitem__(self: {MODULE}.Loaf, arg0: int) -> {MODULE}.Slice"
                ),
            },
        ),
        "Slice": cls(properties={"width_mm": accessor("float")}),
        "HeatMode": enum("HeatMode", "TOP", "BOTTOM"),
        "BakeFlag": enum("BakeFlag", *flags),
        "IListener": cls(
            methods={
                "__init__": method(f"__init__(self: {MODULE}.IListener) -> None"),
                "on_start": method(f"on_start(self: {MODULE}.IListener, name: str) -> None"),
                "on_degrees": method(
                    f"on_degrees(self: {MODULE}.IListener, name: str, degrees: int) -> bool"
                ),
            }
        ),
    }
    functions = {"mix_up": f"mix_up(dough: {MODULE}.Dough) -> {MODULE}.Dough\n"}
    return parse_interface(
        {
            "version": version,
            "classes": classes,
            "functions": functions,
            "values": {"__version__": "", "top": "HeatMode"},
            "aliases": {},
        }
    )


OLD = library("1.0", "STEAM", "FAN", "TURBO")
NEW = library(
    "2.0",
    *("FAN", "TURBO"),
    oven={"cool_down": method(f"cool_down(self: {MODULE}.Oven, degrees: int) -> None")},
)

GOOD = """
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import tensorrt as trt

T = TypeVar("T")


@dataclass
class Batch:
    loaf: trt.Loaf
    name: str


class Kitchen:
    def __init__(self, lib: Any, heard: list[str]) -> None:
        self.lib = lib
        self._listener: trt.IListener = make_listener(lib, heard)
        self._oven: trt.Oven | None = lib.Oven(self._listener)

    @property
    def oven(self) -> trt.Oven:
        return self._oven

    def run(self, minutes: int) -> list[Batch]:
        lib = self.lib
        oven: trt.Oven = self._oven
        flags = 1 << int(lib.BakeFlag.FAN)
        flags |= 1 << int(lib.BakeFlag.TURBO)
        dough: trt.Dough = wanted(oven.make_dough(flags=flags))
        oven.heat_mode = lib.HeatMode.TOP
        oven.max_degrees = 200
        oven.use_recipe([1, 2])
        self.oven.bake(lib.mix_up(dough), "fast", minutes=3)
        loaf: trt.Loaf = oven.bake(dough, minutes)
        batches = [Batch(loaf, "first")]
        batches.append(Batch(oven.bake(dough=dough), name="second"))
        part: trt.Slice
        for part in batches[0].loaf.cut_slices(3):
            print(part.width_mm)
        widths = [one.width_mm for one in loaf]
        print(widths, loaf[0].width_mm, len(loaf), oven.num_trays)
        # MORE
        return batches


def wanted(value: T | None) -> T:
    if value is None:
        raise ValueError
    return value


def measure(loaf: trt.Loaf) -> int:
    return loaf.crumb_size


def use(kitchen: Kitchen, oven: trt.Oven, dough: trt.Dough, lib: Any) -> int:
    mode: trt.HeatMode | None = getattr(lib.HeatMode, "GRILL", None)
    cool = getattr(oven, "cool_down", None)
    if cool is not None and mode is None:
        cool(20)
    return sum(measure(batch.loaf) for batch in kitchen.run(20))


def make_listener(lib: Any, heard: list[str]) -> trt.IListener:
    class Listener(lib.IListener):
        def __init__(self) -> None:
            lib.IListener.__init__(self)
            self._last = ""

        def on_start(self, name: str) -> None:
            self._note(name)

        def on_degrees(self, name: str, degrees: int) -> bool:
            heard.append(f"{name} {degrees}")
            return True

        def _note(self, name: str) -> None:
            self._last = name

    return Listener()
"""


def complaints(text: str, interface: Interface = NEW) -> list[str]:
    return collect({Path("kitchen.py"): text}, interface).complaints


@pytest.mark.parametrize("interface", [OLD, NEW], ids=["old", "new"])
def test_a_program_that_fits_is_not_complained_about(interface: Interface) -> None:
    assert complaints(GOOD, interface) == []


def test_uses_are_collected_with_their_classes_and_places() -> None:
    found = collect({Path("kitchen.py"): GOOD}, NEW)
    line = 1 + GOOD.splitlines().index("        oven.max_degrees = 200")
    assert f"kitchen.py:{line}: Oven.max_degrees" in {str(use) for use in found.uses}
    members = {f"{use.owner}.{use.name}" for use in found.uses}
    assert members >= {
        *(".Oven", ".mix_up", "Oven.__init__", "Oven.bake", "Oven.make_dough", "Oven.use_recipe"),
        *("Oven.heat_mode", "Oven.num_trays", "HeatMode.TOP", "BakeFlag.FAN", "BakeFlag.TURBO"),
        *("Loaf.cut_slices", "Loaf.crumb_size", "Slice.width_mm", "IListener.on_degrees"),
    }
    assert {f"{use.owner}.{use.name}" for use in found.optional} >= {
        "HeatMode.GRILL",
        "Oven.cool_down",
    }
    assert found.classes() >= {"Oven", "Loaf", "Slice", "IListener", "mix_up"}


WRONG = {
    "an invented method": ("oven.knead_twice()", "no Oven.knead_twice"),
    "an invented attribute": ("print(oven.colour)", "no Oven.colour"),
    "an invented attribute that is written": ("oven.colour = 3", "no Oven.colour"),
    "an invented member of a result": ("oven.bake(dough).eat()", "no Loaf.eat"),
    "an invented function": ("lib.knead(dough)", "has no knead"),
    "an invented enum member": ("oven.heat_up(lib.HeatMode.LEFT)", "no HeatMode.LEFT"),
    "a removed flag": ("oven.make_dough(1 << int(lib.BakeFlag.STEAM))", "no BakeFlag.STEAM"),
    "too many arguments": ("oven.bake(dough, 'a', 1, 2)", "3 positional arguments, 4 given"),
    "too few arguments": ("oven.bake()", "lacks dough"),
    "an unknown keyword": ("oven.bake(dough, hours=1)", "no parameter 'hours'"),
    "a keyword that has no name": ("oven.use_recipe(arg0=[1])", "no parameter 'arg0'"),
    "an argument given twice": ("oven.bake(dough, dough=dough)", "gets 'dough' twice"),
    "another class of argument": ("oven.bake(loaf)", "gets trt.Loaf as dough, not trt.Dough"),
    "a class instead of an object": ("oven.heat_up(lib.HeatMode)", "not trt.HeatMode"),
    "stars": ("oven.bake(*[dough])", "a star hides"),
    "double stars": ("oven.bake(**{'dough': dough})", "a star hides"),
    "no constructor": ("lib.Dough()", "no constructor of Dough"),
    "a constructor's arguments": ("lib.Oven()", "lacks listener"),
    "writing what is read only": ("oven.num_trays = 3", "no way to write Oven.num_trays"),
    "reading what is write only": ("print(oven.secret_code)", "no way to read Oven.secret_code"),
    "a number for an enum": ("oven.heat_up(1)", "gets a number as mode"),
    "a number for an enum's attribute": ("oven.heat_mode = 1", "gets a number as heat_mode"),
    "an enum from a number": ("lib.HeatMode(1)", "numbers of enum members differ"),
    "a number as flags": ("oven.make_dough(1)", "flags that is not 1 << int(member)"),
    "a shifted number as flags": ("oven.make_dough(1 << 1)", "flags that is not 1 << int"),
    "a number in a name as flags": ("bits = 2\n        oven.make_dough(bits)", "not 1 << int"),
    "a member as flags": ("oven.make_dough(lib.BakeFlag.FAN)", "flags that is not 1 << int"),
    "a number as a flags attribute": ("oven.bake_flags = 4", "bake_flags that is not 1 << int"),
    "comparing a member's number": ("print(int(oven.heat_mode) == 1)", "differ by version"),
    "comparing a member's value": ("print(oven.heat_mode.value == 1)", "differ by version"),
    "a table of numbers": ("print('ab'[int(oven.heat_mode)])", "which differs by version"),
    "a result without annotation": ("other = oven.bake(dough)", "other holds trt.Loaf"),
    "a result annotated otherwise": ("other: trt.Slice = oven.bake(dough)", "other holds trt.Loaf"),
    "a result annotated with Any": ("other: Any = oven.bake(dough)", "other holds trt.Loaf"),
    "an enum value without annotation": ("mode = oven.heat_mode", "mode holds trt.HeatMode"),
    "a list without annotation": ("all = loaf.cut_slices(2)", "all holds objects of trt.Slice"),
    "a loop without annotation": ("for one in loaf: print(one)", "one holds trt.Slice"),
    "a walrus without annotation": ("print(x := oven.bake(dough))", "x holds trt.Loaf"),
    "an attribute without annotation": ("self.loaf = oven.bake(dough)", "self.loaf holds trt.Loaf"),
    "an item of something": ("minutes['a'] = oven.bake(dough)", "minutes[...] holds trt.Loaf"),
    "a list of something": ("found = []\n        found.append(loaf)", "found holds trt.Loaf"),
    "items of what has none": ("print(dough[0])", "no items in Dough"),
    "a loop over what has no items": ("print(list(dough))", "no items in Dough"),
    "the length of what has none": ("print(len(dough))", "no Dough.__len__"),
    "a name that is computed": ("getattr(oven, minutes, None)", "not written in the source"),
    "getattr without a default": ("getattr(oven, 'colour')", "no Oven.colour"),
    "setattr": ("setattr(oven, 'num_trays', 2)", "no way to write Oven.num_trays"),
    "trt where the program runs": ("trt.mix_up(dough)", "trt exists for type checkers only"),
    "a field of another class": ("Batch(dough, 'a')", "Batch.loaf holds trt.Dough"),
    "a parameter of another class": ("measure(dough)", "loaf of measure holds trt.Dough"),
    "what getattr found": ("c = getattr(oven, 'cool_down', None)\n        c()", "lacks degrees"),
    "an unfollowed object": ("minutes.max_degrees", "nothing says what minutes is"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_a_line_is_reported_with_its_place(name: str) -> None:
    line, told = WRONG[name]
    number = 1 + GOOD.splitlines().index("        # MORE") + line.count("\n")
    said = complaints(GOOD.replace("# MORE", line))
    assert len(said) == 1
    assert said[0].startswith(f"kitchen.py:{number}: ")
    assert told in said[0]


CHANGED = {
    "an untyped parameter": (
        "def measure(loaf: trt.Loaf) -> int:",
        "def measure(loaf) -> int:",
        "nothing says what loaf is",
    ),
    "a parameter of any type": (
        "def measure(loaf: trt.Loaf) -> int:\n    return loaf.crumb_size",
        "def measure(loaf: Any) -> int:\n    return loaf.crust",
        "loaf of measure holds trt.Loaf",
    ),
    "a result of any type": (
        "def oven(self) -> trt.Oven:",
        "def oven(self) -> Any:",
        "oven returns trt.Oven",
    ),
    "an attribute of any type": (
        "self._oven: trt.Oven | None = lib.Oven",
        "self._oven = lib.Oven",
        "self._oven holds trt.Oven",
    ),
    "a misspelled override": (
        "def on_start(self, name: str)",
        "def on_begin(self, name: str)",
        "no IListener.on_begin to override",
    ),
    "a missing override": (
        "def on_start(self, name: str)",
        "def _on_start(self, name: str)",
        "does not override IListener.on_start",
    ),
    "an override with too few arguments": (
        "def on_degrees(self, name: str, degrees: int)",
        "def on_degrees(self, name: str, degrees: int = 0, *, more: int)",
        "called without keywords",
    ),
    "an override with too many arguments": (
        "def on_start(self, name: str)",
        "def on_start(self, name: str, more: int)",
        "IListener.on_start is called with 1 arguments",
    ),
    "a base that is not constructed": (
        "lib.IListener.__init__(self)",
        "pass",
        "does not call IListener.__init__",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_mistaken_definition_is_reported(name: str) -> None:
    before, after, told = CHANGED[name]
    assert GOOD.count(before) == 1
    said = complaints(GOOD.replace(before, after))
    assert any(told in one for one in said), said


def test_names_are_followed_into_other_modules() -> None:
    other = (
        "from __future__ import annotations\n"
        "from .kitchen import Batch, measure\n"
        "from . import kitchen\n\n"
        "def eat(batch: Batch, dough: trt.Dough):\n"
        "    measure(dough)\n"
        "    kitchen.measure(dough)\n"
        "    batch.loaf.vanish()\n"
    )
    sources = {Path("shop/kitchen.py"): GOOD, Path("shop/table.py"): other}
    said = collect(sources, NEW).complaints
    assert said == [
        "table.py:6: loaf of measure holds trt.Dough: annotate it so",
        "table.py:7: loaf of measure holds trt.Dough: annotate it so",
        "table.py:8: TensorRT 2.0 has no Loaf.vanish",
    ]


def test_signatures_are_read_as_pybind11_writes_them() -> None:
    text = (
        "f(*args, **kwargs)\nOverloaded function.\n\n"
        "1. f(self: m.C, a: typing.SupportsInt, kind: m.E = <E.ONE: 1>) -> dict[str, list[int]]\n\n"
        "2. f(self: m.C, a: Tuple[int, str] = (1, 'a,b)'), *, only: bool) -> None\n\n"
        "3. f(self: object, other: object, /) -> bool\n"
    )
    first, second, third = parse_signatures(text, bound=True)
    assert [(one.name, one.required) for one in first.parameters] == [("a", True), ("kind", False)]
    assert first.result == "dict[str, list[int]]"
    assert isinstance(first.bind(1, ["kind"]), dict)
    assert first.bind(0, ["kind"]) == "lacks a"
    assert [(one.name, one.by_position) for one in second.parameters] == [
        ("a", True),
        ("only", False),
    ]
    assert isinstance(second.bind(0, ["only"]), dict)
    assert second.bind(2, []) == "takes 1 positional arguments, 2 given"
    assert third.bind(0, ["other"]) == "has no parameter 'other'"
    assert isinstance(third.bind(1, []), dict)
    assert parse_signatures("No signature here.", bound=True) == ()
