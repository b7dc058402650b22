"""Attributes: read and written, of the bindings and of the package's own classes."""

from __future__ import annotations

import ast

from trt_interface.base import Base
from trt_interface.bindings import ClassInterface, Parameter, Property
from trt_interface.source import (
    LIBRARY_NAMES,
    Cls,
    Kind,
    Library,
    Many,
    Member,
    Number,
    Obj,
    OwnCallable,
    OwnClass,
    OwnCls,
    OwnModule,
    OwnObj,
    Row,
    Scope,
    undeclared,
)


class Members(Base):
    """What an attribute is."""

    def attribute(self, node: ast.Attribute, holder: Kind, scope: Scope) -> Kind:
        """Read an attribute of whatever ``holder`` is."""
        name = node.attr
        match holder:
            case Library():
                return self.of_library(name, node, scope)
            case Cls(name=owner):
                return self.of_class(owner, name, node, scope)
            case Obj(name=owner):
                return self.member(owner, name, node, scope)
            case OwnObj(cls=cls) | OwnCls(cls=cls):
                return self.of_own(cls, node, scope, bound=isinstance(holder, OwnObj))
            case OwnModule(scope=module):
                return module.names.get(name)
        if name in LIBRARY_NAMES:
            return Library()
        if not isinstance(holder, (Many, Row)):
            self.stranger(node, scope)
        return None

    def of_library(self, name: str, node: ast.AST, scope: Scope, *, sure: bool = True) -> Kind:
        self.use(node, scope, "", name, sure=sure)
        if (cls := self.interface.cls(name)) is not None:
            return Cls(cls.name)
        if name in self.interface.functions:
            return Member("", name)
        if name in self.interface.values:
            kind = self.interface.values[name]
            return Obj(kind) if kind else None
        # Dunder names are Python's own, such as __name__; only the version is described.
        if sure:
            self.absent(node, scope, name)
        return None

    def of_class(
        self, owner: str, name: str, node: ast.AST, scope: Scope, *, sure: bool = True
    ) -> Kind:
        cls = self.interface.cls(owner)
        if cls is None:
            return None
        self.use(node, scope, owner, name, sure=sure)
        if (nested := self.interface.cls(f"{owner}.{name}")) is not None:
            return Cls(nested.name)
        if name in cls.values:
            return Obj(cls.values[name])
        if name in cls.methods:
            return Member(owner, name, unbound=True)
        if name == "__members__" and cls.is_enum:
            return Many(Obj(owner), mapping=True)
        if sure and not (name in cls.properties or name in ("__name__", "__doc__")):
            self.absent(node, scope, f"{owner}.{name}")
        return None

    def member(
        self, owner: str, name: str, node: ast.AST, scope: Scope, *, sure: bool = True
    ) -> Kind:
        """An attribute of an object of the bindings."""
        cls = self.interface.cls(owner)
        if cls is None:
            return None
        self.use(node, scope, owner, name, sure=sure)
        if name in cls.methods:
            return Member(owner, name)
        if name in cls.values:
            return Obj(cls.values[name])
        if (attribute := cls.properties.get(name)) is not None:
            return self.read(cls, name, attribute, node, scope)
        if sure and name != "__class__":
            self.absent(node, scope, f"{owner}.{name}")
        return None

    def read(
        self, cls: ClassInterface, name: str, attribute: Property, node: ast.AST, scope: Scope
    ) -> Kind:
        if not attribute.readable and isinstance(getattr(node, "ctx", None), ast.Load):
            self.absent(node, scope, f"way to read {cls.name}.{name}")
        if cls.is_enum and name == "value":
            return Number(cls.name)
        return self.typed(attribute.type)

    def of_own(self, cls: OwnClass, node: ast.Attribute, scope: Scope, *, bound: bool) -> Kind:
        for one in cls.lineage():
            if node.attr in one.annotations:
                return self.annotation(one.annotations[node.attr], one.scope)
            if (method := one.methods.get(node.attr)) is not None:
                if method.decorated("property", "cached_property"):
                    return self.annotation(method.node.returns, method.scope)
                static = method.decorated("staticmethod")
                return OwnCallable(
                    method, (bound or method.decorated("classmethod")) and not static
                )
            if node.attr in one.attributes:
                return one.attributes[node.attr]
        if node.attr in LIBRARY_NAMES:
            return Library()
        base = cls.bound_base()
        found = self.interface.cls(base) if base is not None else None
        if found is not None and not node.attr.startswith("_"):
            return self.member(found.name, node.attr, node, scope)
        return None

    def item_of(self, name: str, node: ast.AST, scope: Scope) -> Kind:
        """What an object of the bindings holds at an index."""
        cls = self.interface.cls(name)
        if cls is None:
            return None
        if not cls.methods.get("__getitem__"):
            self.absent(node, scope, f"items in {name}")
            return None
        return self.typed(cls.methods["__getitem__"][0].result)

    def write(self, owner: str, target: ast.Attribute, value: Kind, scope: Scope) -> None:
        """Write to an attribute of an object of the bindings."""
        cls = self.interface.cls(owner)
        if cls is None:
            return
        attribute = cls.properties.get(target.attr)
        if attribute is None:
            self.absent(target, scope, f"{owner}.{target.attr} that can be written")
            return
        self.use(target, scope, owner, target.attr)
        if not attribute.writable:
            self.absent(target, scope, f"way to write {owner}.{target.attr}")
        parameter = Parameter(target.attr, attribute.type, required=True)
        if (reason := self.mismatch(parameter, value, bit_set=attribute.bit_set)) is not None:
            self.complain(target, scope, f"{owner}.{target.attr}: {reason}")

    def write_own(self, cls: OwnClass, target: ast.Attribute, value: Kind, scope: Scope) -> None:
        for one in cls.lineage():
            if target.attr in one.annotations:
                declared = self.annotation(one.annotations[target.attr], one.scope)
                if not self.suits(value, declared):
                    self.lost(target, value, scope, ast.unparse(target))
                return
        base = cls.bound_base()
        found = self.interface.cls(base) if base is not None else None
        if found is not None and target.attr in found.properties:
            self.write(found.name, target, value, scope)
        elif undeclared(value):
            self.lost(target, value, scope, ast.unparse(target))
        elif value is not None:
            cls.attributes[target.attr] = value

    def mismatch(self, parameter: Parameter, value: Kind, *, bit_set: bool) -> str | None:
        """Why a value does not fit a parameter; None when it does, or nothing is known of it."""
        wanted = self.interface.type_name(parameter.type)
        if bit_set and (value == Number() or self.is_enum(value)):
            return f"gets {parameter.name} that is not 1 << int(member)"
        if wanted is None or wanted.many or value is None:
            return None
        match value:
            case Obj(name=name):
                known = self.interface.cls(name) is not None
                return (
                    None
                    if not known or self.interface.is_a(name, wanted.cls)
                    else f"gets trt.{name} as {parameter.name}, not trt.{wanted.cls}"
                )
            case OwnObj(cls=cls):
                base = cls.bound_base()
                if base is not None and self.interface.is_a(base, wanted.cls):
                    return None
                return f"gets {cls.name} as {parameter.name}, not trt.{wanted.cls}"
            case Number():
                return f"gets a number as {parameter.name}, not trt.{wanted.cls}"
            case Cls() | Many() | Row():
                return f"gets {self.told(value)} as {parameter.name}, not trt.{wanted.cls}"
            case _:
                return None
