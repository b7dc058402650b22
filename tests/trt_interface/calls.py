"""Calls: whether the arguments fit, and what comes back."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from trt_interface.bindings import Signature
from trt_interface.members import Members
from trt_interface.source import (
    Cls,
    Gives,
    Kind,
    Library,
    Many,
    Member,
    Number,
    Obj,
    OwnCallable,
    OwnClass,
    OwnCls,
    OwnFunction,
    OwnObj,
    Row,
    Scope,
    Variable,
    bindings_in,
    dotted,
)

SAME_ITEMS = {"list", "tuple", "sorted", "reversed", "iter", "set", "frozenset"}
STORES = {"append", "appendleft", "add", "insert", "extend", "setdefault", "put", "push"}


class Calls(Members):
    """What a call gives."""

    def call(self, node: ast.Call, scope: Scope) -> Kind:
        if isinstance(node.func, ast.Name) and scope.owner(node.func.id) is None:
            return self.builtin(node.func.id, node, scope)
        if dotted(node.func)[-1:] == ["cast"] and len(node.args) == 2:
            self.kind(node.args[1], scope)
            return self.annotation(node.args[0], scope)
        callee = self.kind(node.func, scope)
        positional = [self.kind(one, scope) for one in node.args]
        keywords = {one.arg: self.kind(one.value, scope) for one in node.keywords}
        match callee:
            case Cls(name=name):
                return self.construct(name, node, positional, keywords, scope)
            case Member():
                return self.call_member(callee, node, positional, keywords, scope)
            case OwnCallable(function=function, bound=bound):
                return self.call_own(function, bound, node, positional, keywords, scope)
            case Gives(result=result):
                return result
            case OwnCls(cls=cls):
                return self.construct_own(cls, node, positional, keywords, scope)
        if isinstance(node.func, ast.Attribute):
            return self.call_container(node, node.func, positional, scope)
        return None

    def call_container(
        self, node: ast.Call, func: ast.Attribute, positional: Sequence[Kind], scope: Scope
    ) -> Kind:
        holder = self.kind(func.value, scope)
        if isinstance(holder, Many):
            if func.attr == "values":
                return Many(holder.item)
            if func.attr == "items":
                return Many(Row((None, holder.item)))
            if func.attr in ("get", "pop", "popleft", "setdefault"):
                return holder.item
            if func.attr == "copy":
                return holder
        if func.attr in STORES:
            item = holder.item if isinstance(holder, Many) else None
            for value in positional:
                if bindings_in(value) and not self.suits(value, item):
                    self.lost(node, value, scope, ast.unparse(func.value))
        return None

    def builtin(self, name: str, node: ast.Call, scope: Scope) -> Kind:
        """A call of a name that the package does not define."""
        kinds = [self.kind(one, scope) for one in node.args]
        for keyword in node.keywords:
            self.kind(keyword.value, scope)
        first = kinds[0] if kinds else None
        if name in ("getattr", "hasattr", "setattr"):
            return self.by_name(name, node, kinds, scope)
        if name == "cast" and len(node.args) == 2:
            return self.annotation(node.args[0], scope)
        if name == "super":
            function = scope.within()
            base = function.cls.bound_base() if function is not None and function.cls else None
            return Obj(base) if base is not None else None
        if name == "TypeVar" and isinstance(node.args[0], ast.Constant):
            return Variable(str(node.args[0].value))
        if name == "int":
            if isinstance(first, Obj) and self.is_enum(first):
                return Number(first.name)
            return first if isinstance(first, Number) else None
        if name == "len" and isinstance(first, Obj):
            self.member(first.name, "__len__", node, scope)
        if name in SAME_ITEMS and node.args:
            found = self.item(node.args[0], scope)
            return Many(found)
        if name == "next" and isinstance(first, Many):
            return first.item
        if name == "enumerate" and node.args:
            return Many(Row((None, self.item(node.args[0], scope))))
        if name == "zip":
            return Many(Row(tuple(self.item(one, scope) for one in node.args)))
        return None

    def by_name(self, how: str, node: ast.Call, kinds: Sequence[Kind], scope: Scope) -> Kind:
        """``getattr`` and its kin: the name may be missing in some versions, not in all."""
        holder = kinds[0] if kinds else None
        if not isinstance(holder, (Library, Cls, Obj)):
            return None
        name = node.args[1]
        if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
            self.complain(node, scope, f"{how} takes a name that is not written in the source")
            return None
        sure = how == "getattr" and len(node.args) < 3
        match holder:
            case Library():
                found = self.of_library(name.value, node, scope, sure=sure)
            case Cls(name=owner):
                found = self.of_class(owner, name.value, node, scope, sure=sure)
            case Obj(name=owner):
                found = self.member(owner, name.value, node, scope, sure=sure)
                cls = self.interface.cls(owner)
                attribute = cls.properties.get(name.value) if cls is not None else None
                if how == "setattr" and attribute is not None and len(kinds) == 3:
                    target = ast.Attribute(node.args[0], name.value, ast.Store())
                    self.write(owner, ast.copy_location(target, node), kinds[2], scope)
        return found if how == "getattr" else None

    def construct(
        self,
        name: str,
        node: ast.Call,
        positional: Sequence[Kind],
        keywords: Mapping[str | None, Kind],
        scope: Scope,
    ) -> Kind:
        cls = self.interface.cls(name)
        if cls is None:
            return None
        self.use(node, scope, name, "__init__")
        if cls.is_enum and any(kind == Number() for kind in positional):
            self.complain(node, scope, f"{name}: numbers of enum members differ by version")
        elif "__init__" not in cls.methods:
            self.absent(node, scope, f"constructor of {name}")
        else:
            self.fit(name, cls.methods["__init__"], node, positional, keywords, scope)
        return Obj(name)

    def call_member(
        self,
        callee: Member,
        node: ast.Call,
        positional: Sequence[Kind],
        keywords: Mapping[str | None, Kind],
        scope: Scope,
    ) -> Kind:
        if not callee.owner:
            signatures = self.interface.functions[callee.name]
        else:
            cls = self.interface.cls(callee.owner)
            signatures = cls.methods[callee.name] if cls is not None else ()
        if callee.unbound:
            positional = positional[1:]
        name = f"{callee.owner}.{callee.name}" if callee.owner else callee.name
        fitting = self.fit(name, signatures, node, positional, keywords, scope)
        return self.typed(fitting.result) if fitting is not None else None

    def fit(
        self,
        name: str,
        signatures: Sequence[Signature],
        node: ast.Call,
        positional: Sequence[Kind],
        keywords: Mapping[str | None, Kind],
        scope: Scope,
    ) -> Signature | None:
        """The first overload that takes the arguments; a complaint if none does."""
        if any(isinstance(one, ast.Starred) for one in node.args) or None in keywords:
            self.complain(node, scope, f"{name}: a star hides how many arguments are given")
            return signatures[0] if signatures else None
        names = [one for one in keywords if one is not None]
        reasons = []
        for signature in signatures:
            bound = signature.bind(len(positional), names)
            if isinstance(bound, str):
                reasons.append(f"{signature.text} {bound}")
                continue
            misfits = [
                reason
                for key, parameter in bound.items()
                if (
                    reason := self.mismatch(
                        parameter,
                        positional[key] if isinstance(key, int) else keywords[key],
                        bit_set=signature.is_bit_set(parameter),
                    )
                )
                is not None
            ]
            if not misfits:
                return signature
            reasons.append(f"{signature.text} {'; '.join(misfits)}")
        if signatures:
            told = " | ".join(reasons)
            self.complain(node, scope, f"{name} in TensorRT {self.interface.version}: {told}")
        return None

    def call_own(
        self,
        function: OwnFunction,
        bound: bool,
        node: ast.Call,
        positional: Sequence[Kind],
        keywords: Mapping[str | None, Kind],
        scope: Scope,
    ) -> Kind:
        """A call into the package: what is passed must be annotated there."""
        arguments = [*function.node.args.posonlyargs, *function.node.args.args][bound:]
        by_name = {one.arg: one for one in (*arguments, *function.node.args.kwonlyargs)}
        pairs = [*zip(arguments, positional, strict=False)]
        pairs += [(by_name[name], kind) for name, kind in keywords.items() if name in by_name]
        variables: dict[str, Kind] = {}
        for argument, kind in pairs:
            declared = self.annotation(argument.annotation, function.scope)
            if isinstance(declared, Variable):
                variables[declared.name] = kind
            if not self.suits(kind, declared) and not self.is_opaque(argument.annotation):
                self.lost(node, kind, scope, f"{argument.arg} of {function.node.name}")
        result = self.annotation(function.node.returns, function.scope)
        return variables.get(result.name) if isinstance(result, Variable) else result

    def is_opaque(self, annotation: ast.expr | None) -> bool:
        """Whether type checkers forbid the function to look into the argument."""
        return annotation is not None and ast.unparse(annotation) == "object"

    def construct_own(
        self,
        cls: OwnClass,
        node: ast.Call,
        positional: Sequence[Kind],
        keywords: Mapping[str | None, Kind],
        scope: Scope,
    ) -> Kind:
        for one in cls.lineage():
            if "__init__" in one.methods:
                self.call_own(one.methods["__init__"], True, node, positional, keywords, scope)
                return OwnObj(cls)
        given = {**dict(zip(cls.fields, positional, strict=False)), **keywords}
        for name, kind in given.items():
            if name in cls.annotations:
                declared = self.annotation(cls.annotations[name], cls.scope)
                if not self.suits(kind, declared):
                    self.lost(node, kind, scope, f"{cls.name}.{name}")
        return OwnObj(cls)
