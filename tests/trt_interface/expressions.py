"""Expressions and assignments: which values are where."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from trt_interface.calls import Calls
from trt_interface.source import (
    LIBRARY_NAMES,
    Kind,
    Library,
    Many,
    Number,
    Obj,
    OwnObj,
    Row,
    Scope,
    TypesOnly,
    Untyped,
    bindings_in,
    first_of,
    undeclared,
)


class Expressions(Calls):
    """What an expression gives, and where it goes."""

    def kind(self, node: ast.expr, scope: Scope) -> Kind:
        """What an expression gives, having run over all of it."""
        match node:
            case ast.Constant(value=value):
                return Number() if type(value) is int else None
            case ast.Name(id=name):
                return self.name(node, name, scope)
            case ast.Attribute():
                return self.attribute(node, self.kind(node.value, scope), scope)
            case ast.Call():
                return self.call(node, scope)
            case ast.Subscript():
                return self.subscript(node, scope)
            case ast.NamedExpr(target=target, value=value):
                found = self.kind(value, scope)
                self.assign(target, found, scope)
                return found
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.kind(test, scope)
                return first_of([self.kind(body, scope), self.kind(orelse, scope)])
            case ast.BoolOp(values=values):
                return first_of([self.kind(value, scope) for value in values])
            case ast.UnaryOp(operand=operand):
                found = self.kind(operand, scope)
                return found if isinstance(found, Number) else None
            case ast.BinOp(left=left, right=right):
                sides = [self.kind(left, scope), self.kind(right, scope)]
                return Number() if all(side == Number() for side in sides) else None
            case ast.Compare(left=left, comparators=others):
                sides = [self.kind(side, scope) for side in (left, *others)]
                self.compare(node, sides, scope)
                return None
            case ast.Tuple(elts=elts):
                return Row(tuple(self.kind(one, scope) for one in elts))
            case ast.List(elts=elts) | ast.Set(elts=elts):
                return Many(first_of([self.kind(one, scope) for one in elts]))
            case ast.Dict(keys=keys, values=values):
                for key in keys:
                    if key is not None:
                        self.kind(key, scope)
                return Many(first_of([self.kind(one, scope) for one in values]), mapping=True)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self.comprehension(node, scope)
            case ast.Lambda(args=args, body=body):
                inner = self.scopes.setdefault(node, Scope(scope.path, scope, loose=True))
                for argument in args.args:
                    inner.names[argument.arg] = None
                self.kind(body, inner)
                return None
            case ast.Yield(value=value) if value is not None:
                self.leave(node, Many(self.kind(value, scope)), scope)
                return None
            case _:
                self.parts(node, scope)
                return None

    def name(self, node: ast.Name, name: str, scope: Scope) -> Kind:
        owner = scope.owner(name)
        found = owner.names.get(name) if owner is not None else None
        if isinstance(found, TypesOnly):
            self.complain(node, scope, "trt exists for type checkers only: use lib")
            return Library()
        return Library() if found is None and name in LIBRARY_NAMES else found

    def compare(self, node: ast.AST, sides: Sequence[Kind], scope: Scope) -> None:
        numbers = any(side == Number() for side in sides)
        for side in sides:
            if numbers and ((isinstance(side, Number) and side.enum) or self.is_enum(side)):
                self.complain(
                    node, scope, f"{self.told(side)}: numbers of enum members differ by version"
                )

    def comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, scope: Scope
    ) -> Kind:
        inner = self.scopes.setdefault(node, Scope(scope.path, scope, loose=True))
        for part in node.generators:
            self.assign(part.target, self.item(part.iter, inner), inner)
            for condition in part.ifs:
                self.kind(condition, inner)
        if isinstance(node, ast.DictComp):
            self.kind(node.key, inner)
            return Many(self.kind(node.value, inner), mapping=True)
        return Many(self.kind(node.elt, inner))

    def item(self, node: ast.expr, scope: Scope) -> Kind:
        """What a loop over the expression gives."""
        found = self.kind(node, scope)
        match found:
            case Many(item=item, mapping=mapping):
                return None if mapping else item
            case Row(items=items):
                return first_of(items)
            case Obj(name=name):
                return self.item_of(name, node, scope)
            case _:
                return None

    def subscript(self, node: ast.Subscript, scope: Scope) -> Kind:
        holder, index = self.kind(node.value, scope), self.kind(node.slice, scope)
        if isinstance(index, Number) and index.enum:
            self.complain(
                node, scope, f"indexed by a number of trt.{index.enum}, which differs by version"
            )
        match holder:
            case Obj(name=name):
                found = self.item_of(name, node, scope)
                return None if isinstance(node.slice, ast.Slice) else found
            case Many(item=item):
                return holder if isinstance(node.slice, ast.Slice) else item
            case Row(items=items):
                place = node.slice.value if isinstance(node.slice, ast.Constant) else None
                if isinstance(place, int) and place < len(items):
                    return items[place]
                return first_of(items)
            case _:
                return None

    def assign(self, target: ast.expr, value: Kind, scope: Scope) -> None:
        """Bind a value to a target."""
        if isinstance(target, ast.Starred):
            self.assign(target.value, Many(value), scope)
        elif isinstance(target, (ast.Tuple, ast.List)):
            kinds: Sequence[Kind] = [None] * len(target.elts)
            if isinstance(value, Row) and len(value.items) == len(target.elts):
                kinds = value.items
            elif isinstance(value, Many):
                kinds = [value.item] * len(target.elts)
            for part, kind in zip(target.elts, kinds, strict=True):
                self.assign(part, kind, scope)
        elif isinstance(target, ast.Name):
            self.assign_name(target, value, scope)
        elif isinstance(target, ast.Attribute):
            self.assign_attribute(target, value, scope)
        elif isinstance(target, ast.Subscript):
            holder = self.kind(target.value, scope)
            self.kind(target.slice, scope)
            if isinstance(holder, Obj):
                self.member(holder.name, "__setitem__", target, scope)
            elif bindings_in(value) and not isinstance(holder, Many):
                self.lost(target, value, scope, f"{ast.unparse(target.value)}[...]")

    def assign_name(self, target: ast.Name, value: Kind, scope: Scope) -> None:
        if target.id in LIBRARY_NAMES:
            value = Library()
        if target.id in scope.annotated:
            declared = self.annotation(scope.annotated[target.id], scope)
            if not self.suits(value, declared):
                self.lost(target, value, scope, target.id)
            if declared is not None and not isinstance(declared, Untyped):
                value = declared
        elif undeclared(value) and not scope.loose:
            self.lost(target, value, scope, target.id)
        before = scope.names.get(target.id)
        if value is None:
            # What else is put into a name makes it more than a number read off the source.
            scope.names[target.id] = Untyped() if isinstance(before, Number) else before
        elif (
            target.id not in scope.names
            or isinstance(before, Number)
            or not isinstance(value, Number)
        ):
            scope.names[target.id] = value

    def assign_attribute(self, target: ast.Attribute, value: Kind, scope: Scope) -> None:
        holder = self.kind(target.value, scope)
        match holder:
            case Obj(name=name):
                self.write(name, target, value, scope)
            case OwnObj(cls=cls):
                self.write_own(cls, target, value, scope)
            case _:
                if bindings_in(value):
                    self.lost(target, value, scope, ast.unparse(target))
                self.stranger(target, scope)

    def annotate_attribute(self, target: ast.Attribute, note: ast.expr, scope: Scope) -> None:
        holder = self.kind(target.value, scope)
        if isinstance(holder, OwnObj):
            holder.cls.annotations[target.attr] = note
            holder.cls.attributes[target.attr] = self.annotation(note, holder.cls.scope)

    def leave(self, node: ast.AST, value: Kind, scope: Scope) -> None:
        """Return a value from the function at hand."""
        function = scope.within()
        if function is None or scope.loose:
            return
        declared = self.annotation(function.node.returns, scope)
        if bindings_in(value) and not self.suits(value, declared):
            self.complain(
                node, scope, f"{function.node.name} returns {self.told(value)}: annotate it so"
            )
