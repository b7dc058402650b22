"""The interface of one version of the bindings: classes, members, and what a call takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PREFIXES = re.compile(r"\b(?:tensorrt_bindings\.(?:tensorrt\.)?|tensorrt\.|trt\.)|\b\w+::")
WRAPPED = re.compile(
    r"(?:typing\.|collections\.abc\.)?"
    r"(Optional|List|list|Sequence|Iterable|Iterator|Tuple|tuple)\[(.*)\]"
)
BIT_SET = re.compile(r"1 << int\(|bitwise|bit ?set", re.IGNORECASE)


@dataclass(frozen=True)
class TypeName:
    """A class of the bindings, or a sequence of its objects."""

    cls: str
    many: bool = False


@dataclass(frozen=True)
class Parameter:
    """One parameter after ``self``; pybind11 calls those that keywords cannot reach ``arg0``..."""

    name: str
    type: str
    required: bool
    by_position: bool = True
    by_keyword: bool = True


@dataclass(frozen=True)
class Signature:
    """One overload, without ``self``."""

    text: str
    parameters: tuple[Parameter, ...]
    result: str
    any_position: bool = False
    any_keyword: bool = False
    bit_set: bool = False

    def bind(self, positional: int, keywords: Sequence[str]) -> str | dict[int | str, Parameter]:
        """The parameter of each argument (by position or keyword), or why the call does not fit."""
        places = [one for one in self.parameters if one.by_position]
        if positional > len(places) and not self.any_position:
            return f"takes {len(places)} positional arguments, {positional} given"
        bound: dict[int | str, Parameter] = dict(enumerate(places[:positional]))
        taken = {one.name for one in places[:positional]}
        by_name = {one.name: one for one in self.parameters if one.by_keyword}
        for name in keywords:
            if name in taken:
                return f"gets {name!r} twice"
            if name in by_name:
                bound[name] = by_name[name]
            elif not self.any_keyword:
                return f"has no parameter {name!r}"
            taken.add(name)
        missing = [one.name for one in self.parameters if one.required and one.name not in taken]
        return f"lacks {', '.join(missing)}" if missing else bound

    def is_bit_set(self, parameter: Parameter) -> bool:
        """Whether the integer stands for enum members, whose numbers differ between versions."""
        return "flags" in parameter.name or (self.bit_set and "int" in parameter.type.lower())


def depths(text: str) -> Iterator[tuple[int, str, int]]:
    """Place and sign of each character outside of quotes, with the brackets open after it."""
    depth, quote = 0, ""
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
            continue
        if sign in "'\"":
            quote = sign
        elif sign in "([{<":
            depth += 1
        elif sign in ")]}" or (sign == ">" and text[place - 1 : place] != "-"):
            depth -= 1
        yield place, sign, depth


def split(text: str) -> list[str]:
    """Parts at commas outside of brackets and quotes."""
    parts, start = [], 0
    for place, sign, depth in depths(text):
        if sign == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [part for part in (*parts, text[start:].strip()) if part]


def parse_signature(line: str, *, bound: bool, bit_set: bool = False) -> Signature | None:
    """A line such as ``name(self: C, a: int = 0) -> T``; None when it is no signature.

    Args:
        line: the text.
        bound: the first parameter is the object.
        bit_set: the documentation speaks of flags combined to an integer.
    """
    head = re.match(r"\w*\(", line)
    if head is None:
        return None
    end = next((n + 1 for n, sign, depth in depths(line) if sign == ")" and depth == 0), None)
    if end is None:
        return None
    rest = line[end:].strip()
    result = rest[2:].strip() if rest.startswith("->") else ""
    parameters: list[Parameter] = []
    any_position = any_keyword = keyword_only = False
    for part in split(line[head.end() : end - 1]):
        if part == "/":
            parameters = [
                Parameter(one.name, one.type, one.required, by_keyword=False) for one in parameters
            ]
            continue
        if part.startswith("**"):
            any_keyword = True
            continue
        if part.startswith("*"):
            any_position, keyword_only = any_position or part != "*", True
            continue
        declared, *default = re.split(r"\s*=\s*", part, maxsplit=1)
        name, _, kind = declared.partition(":")
        parameters.append(
            Parameter(
                name.strip(),
                kind.strip(),
                required=not default,
                by_position=not keyword_only,
                by_keyword=re.fullmatch(r"arg\d+", name.strip()) is None,
            )
        )
    if bound:
        parameters = parameters[1:]
    return Signature(
        line.strip(),
        tuple(parameters),
        result,
        any_position,
        any_keyword,
        bit_set,
    )


def parse_signatures(text: str, *, bound: bool) -> tuple[Signature, ...]:
    """All overloads in a pybind11 docstring; empty when it holds none."""
    lines = text.splitlines()
    bit_set = BIT_SET.search(text) is not None
    if len(lines) > 1 and lines[1].startswith("Overloaded function"):
        heads = [match[1] for line in lines if (match := re.match(r"\d+\. (\w*\(.*)", line))]
    else:
        heads = lines[:1]
    parsed = (parse_signature(head, bound=bound, bit_set=bit_set) for head in heads)
    return tuple(one for one in parsed if one is not None)


@dataclass(frozen=True)
class Property:
    """An attribute of objects; the types are as the accessors' docstrings spell them."""

    readable: bool
    writable: bool
    type: str
    bit_set: bool


@dataclass(frozen=True)
class ClassInterface:
    """What one class shows."""

    name: str
    bases: tuple[str, ...]
    is_enum: bool
    methods: Mapping[str, tuple[Signature, ...]]
    properties: Mapping[str, Property]
    values: Mapping[str, str]
    """Enum members and other objects of the bindings that are class attributes: name and class."""
    numbers: Mapping[str, int]
    """Of enum members."""

    def has(self, name: str) -> bool:
        """Whether objects of the class have the attribute."""
        return name in self.methods or name in self.properties or name in self.values


@dataclass(frozen=True)
class Interface:
    """One version of the bindings."""

    version: str
    classes: Mapping[str, ClassInterface]
    functions: Mapping[str, tuple[Signature, ...]]
    values: Mapping[str, str]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def cls(self, path: str) -> ClassInterface | None:
        """The class at a dotted path."""
        return self.classes.get(self.aliases.get(path, path))

    def has(self, name: str) -> bool:
        """Whether the module has the name."""
        return self.cls(name) is not None or name in self.functions or name in self.values

    def type_name(self, text: str) -> TypeName | None:
        """The class of the bindings that a docstring's type or an annotation means, if it does."""
        text = PREFIXES.sub("", text).strip()
        options = [part.strip() for part in text.split("|") if part.strip() != "None"]
        if len(options) != 1:
            return None
        (text,) = options
        if wrapped := WRAPPED.fullmatch(text):
            parts = [part for part in split(wrapped[2]) if part != "..."]
            inner = self.type_name(parts[0]) if len(set(parts)) == 1 else None
            if wrapped[1] == "Optional" or inner is None:
                return inner
            return None if inner.many else TypeName(inner.cls, many=True)
        # C++ spells some classes with the I of an interface that Python's name lacks.
        for name in (text, text.removeprefix("I")):
            if (found := self.cls(name)) is not None:
                return TypeName(found.name)
        return None

    def is_a(self, name: str, base: str) -> bool:
        """Whether a class is another one, or inherits from it."""
        found = self.cls(name)
        return found is not None and (found.name == base or base in found.bases)


def parse_property(name: str, accessors: Mapping[str, str]) -> Property:
    """A property from the docstrings of its getter and setter."""
    kind = ""
    if getter := parse_signatures(accessors.get("get", ""), bound=True):
        kind = getter[0].result
    setter = parse_signatures(accessors.get("set", ""), bound=True)
    if setter and setter[0].parameters and not kind:
        kind = setter[0].parameters[0].type
    return Property("get" in accessors, "set" in accessors, kind, bit_set="flags" in name)


def parse_interface(described: Mapping[str, Any]) -> Interface:
    """The interface from what ``describe.py`` prints."""
    classes = {
        name: ClassInterface(
            name,
            tuple(cls["bases"]),
            cls["enum"],
            {
                method: parse_signatures(entry["text"], bound=not entry["static"])
                for method, entry in cls["methods"].items()
            },
            {
                attribute: parse_property(attribute, accessors)
                for attribute, accessors in cls["properties"].items()
            },
            cls["values"],
            cls["numbers"],
        )
        for name, cls in described["classes"].items()
    }
    functions = {
        name: parse_signatures(text, bound=False) for name, text in described["functions"].items()
    }
    return Interface(
        described["version"], classes, functions, described["values"], described["aliases"]
    )
