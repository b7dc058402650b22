"""What a walk over source code has found, and what it says about kinds of values."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from trt_interface.bindings import Interface
from trt_interface.source import (
    Cls,
    Kind,
    Many,
    Obj,
    OwnObj,
    Row,
    Scope,
    Variable,
    bindings_in,
    read_annotation,
)


@dataclass(frozen=True, order=True)
class Use:
    """A name of the bindings that the source reaches."""

    owner: str
    """The class at its dotted path; empty for the module."""
    name: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.owner + '.' if self.owner else ''}{self.name}"


@dataclass
class Found:
    """What one walk over a package saw."""

    uses: set[Use] = field(default_factory=set)
    optional: set[Use] = field(default_factory=set)
    """Reached by ``getattr`` or ``hasattr``, or named in annotations only."""
    complaints: list[str] = field(default_factory=list)

    def classes(self) -> set[str]:
        """The classes and functions of the module that are used."""
        return {use.owner or use.name for use in self.uses}


class Base:
    """The state of a walk: the bindings, what was found in the source, and how to report it."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.found = Found()
        self.reporting = False
        self.scopes: dict[ast.AST, Scope] = {}
        members = {
            name
            for cls in interface.classes.values()
            for name in (*cls.methods, *cls.properties)
            if "_" in name.strip("_") and not name.startswith("_")
        }
        self._telling_names = members
        """Names so peculiar to TensorRT that a stranger having one is a lost object."""

    def where(self, node: ast.AST, scope: Scope) -> str:
        return f"{scope.path.name}:{getattr(node, 'lineno', 0)}"

    def complain(self, node: ast.AST, scope: Scope, text: str) -> None:
        if self.reporting:
            self.found.complaints.append(f"{self.where(node, scope)}: {text}")

    def absent(self, node: ast.AST, scope: Scope, what: str) -> None:
        self.complain(node, scope, f"TensorRT {self.interface.version} has no {what}")

    def use(self, node: ast.AST, scope: Scope, owner: str, name: str, *, sure: bool = True) -> None:
        uses = self.found.uses if sure else self.found.optional
        uses.add(Use(owner, name, self.where(node, scope)))

    def stranger(self, node: ast.Attribute, scope: Scope) -> None:
        if node.attr in self._telling_names:
            self.complain(
                node,
                scope,
                f"{ast.unparse(node)} is spelled as TensorRT spells it, and nothing says what "
                f"{ast.unparse(node.value)} is: annotate it",
            )

    def annotation(self, node: ast.expr | None, scope: Scope) -> Kind:
        """``read_annotation``; what it names need only be in one of the versions."""
        known = read_annotation(node, scope)
        if node is not None:
            inner = [known]
            while inner:
                match inner.pop():
                    case Obj(name=name) | Cls(name=name):
                        self.use(node, scope, "", name, sure=False)
                    case Many(item=item):
                        inner.append(item)
                    case Row(items=items):
                        inner += items
        return known

    def is_enum(self, kind: Kind) -> bool:
        cls = self.interface.cls(kind.name) if isinstance(kind, Obj) else None
        return cls is not None and cls.is_enum

    def typed(self, text: str) -> Kind:
        """What a type in a docstring of the bindings is."""
        found = self.interface.type_name(text)
        if found is None:
            return None
        return Many(Obj(found.cls)) if found.many else Obj(found.cls)

    def suits(self, value: Kind, declared: Kind) -> bool:
        """Whether an annotation keeps a value of the bindings in sight."""
        match value, declared:
            case Obj(name=name), Obj(name=wanted):
                return self.interface.cls(wanted) is None or self.interface.is_a(name, wanted)
            case Many(item=item), Many(item=wanted_item):
                return self.suits(item, wanted_item)
            case Row(items=items), Row(items=wanted_items):
                return len(items) == len(wanted_items) and all(
                    self.suits(*pair) for pair in zip(items, wanted_items, strict=True)
                )
            case _, Variable():
                return True
            case _:
                return not bindings_in(value)

    def told(self, value: Kind) -> str:
        match value:
            case Obj(name=name) | Cls(name=name):
                return f"trt.{name}"
            case Many(item=item):
                return f"objects of {self.told(item)}"
            case Row(items=items):
                return f"tuple[{', '.join(map(self.told, items))}]"
            case OwnObj(cls=cls):
                return cls.name
            case _:
                return "something else"

    def lost(self, node: ast.AST, value: Kind, scope: Scope, holder: str) -> None:
        self.complain(node, scope, f"{holder} holds {self.told(value)}: annotate it so")
