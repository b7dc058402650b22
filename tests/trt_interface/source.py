"""What names of a package mean to the walk in ``walk.py``: kinds, scopes, annotations."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LIBRARY_NAMES = ("lib", "_lib")
"""How the loaded module is spelled in run-time code; ``trt`` is its name in annotations."""
SEQUENCES = {
    *("list", "List", "tuple", "Tuple", "set", "frozenset", "deque", "Collection"),
    *("Sequence", "MutableSequence", "Iterable", "Iterator", "Generator"),
}
MAPPINGS = {"dict", "Dict", "defaultdict", "Mapping", "MutableMapping"}
WRAPPERS = {"Optional", "Final", "ClassVar", "Annotated"}


@dataclass(frozen=True)
class Library:
    """The TensorRT module."""


@dataclass(frozen=True)
class Cls:
    """A class of the bindings itself."""

    name: str


@dataclass(frozen=True)
class Obj:
    """An object of a class of the bindings, enum members included."""

    name: str
    declared: bool = field(default=False, compare=False)
    """Whether an annotation said so, and not only the bindings."""


@dataclass(frozen=True)
class Member:
    """A method of the bindings, or a function of the module (no owner)."""

    owner: str
    name: str
    unbound: bool = False


@dataclass(frozen=True)
class Many:
    """A container whose items are known; iterating over a mapping gives its keys."""

    item: Kind
    mapping: bool = False


@dataclass(frozen=True)
class Row:
    """A tuple with one kind a place."""

    items: tuple[Kind, ...]


@dataclass(frozen=True)
class Number:
    """An integer written in the source, or (of an enum) the integer of a member."""

    enum: str = ""


@dataclass(frozen=True)
class TypesOnly:
    """``trt`` of ``if TYPE_CHECKING``: no such name when the code runs."""


@dataclass(frozen=True)
class Variable:
    """A type variable of a generic function."""

    name: str


@dataclass(frozen=True)
class Untyped:
    """Annotated with ``Any``: an object of any class may be in it, unseen."""


@dataclass(frozen=True)
class Gives:
    """A function that is passed around, by what it returns."""

    result: Kind


@dataclass(eq=False)
class OwnFunction:
    """A function or method of the package."""

    node: ast.FunctionDef | ast.AsyncFunctionDef
    scope: Scope
    cls: OwnClass | None = None

    def decorated(self, *names: str) -> bool:
        found = {ast.unparse(one).split("(")[0].split(".")[-1] for one in self.node.decorator_list}
        return not found.isdisjoint(names)


@dataclass(frozen=True)
class OwnCallable:
    """A function of the package, with or without its object."""

    function: OwnFunction
    bound: bool


@dataclass(eq=False)
class OwnClass:
    """A class of the package, possibly made inside a function over a class of the bindings."""

    name: str
    scope: Scope
    bases: list[Kind] = field(default_factory=list)
    annotations: dict[str, ast.expr] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    attributes: dict[str, Kind] = field(default_factory=dict)
    methods: dict[str, OwnFunction] = field(default_factory=dict)

    def lineage(self) -> Iterator[OwnClass]:
        """The class and its bases of the package."""
        yield self
        for base in self.bases:
            if isinstance(base, OwnCls):
                yield from base.cls.lineage()

    def bound_base(self) -> str | None:
        """The class of the bindings that it inherits from."""
        for cls in self.lineage():
            for base in cls.bases:
                if isinstance(base, Cls):
                    return base.name
        return None


@dataclass(frozen=True)
class OwnCls:
    """A class of the package itself."""

    cls: OwnClass


@dataclass(frozen=True)
class OwnObj:
    """An object of a class of the package."""

    cls: OwnClass


@dataclass(frozen=True)
class OwnModule:
    """A module of the package."""

    scope: Scope


Kind = (
    Library | Cls | Obj | Member | Many | Row | Number | TypesOnly | Variable | Untyped | Gives
    | OwnCallable | OwnCls | OwnObj | OwnModule | None
)  # fmt: skip


@dataclass(eq=False)
class Scope:
    """Names of a module, a class body, a function or a comprehension."""

    path: Path
    parent: Scope | None = None
    names: dict[str, Kind] = field(default_factory=dict)
    annotated: dict[str, ast.expr] = field(default_factory=dict)
    function: OwnFunction | None = None
    cls: OwnClass | None = None
    loose: bool = False
    """Of a comprehension or a lambda, whose names cannot be annotated."""

    def owner(self, name: str) -> Scope | None:
        """The scope that has the name; class bodies are invisible to the functions in them."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names or name in scope.annotated:
                return scope
            scope = scope.parent
            while scope is not None and scope.cls is not None and scope.function is None:
                scope = scope.parent
        return None

    def within(self) -> OwnFunction | None:
        """The function that the scope lies in."""
        scope: Scope | None = self
        while scope is not None and scope.function is None:
            scope = scope.parent
        return scope.function if scope is not None else None


def bindings_in(kind: Kind) -> bool:
    """Whether an object of the bindings is in the value."""
    match kind:
        case Obj():
            return True
        case Many(item=item):
            return bindings_in(item)
        case Row(items=items):
            return any(bindings_in(item) for item in items)
        case _:
            return False


def undeclared(kind: Kind) -> bool:
    """Whether the bindings gave an object in the value, and no annotation tells its class yet."""
    match kind:
        case Obj(declared=declared):
            return not declared
        case Many(item=item):
            return undeclared(item)
        case Row(items=items):
            return any(undeclared(item) for item in items)
        case _:
            return False


def dotted(node: ast.expr) -> list[str]:
    """``a.b.c`` as its parts; empty for everything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return [*head, node.attr]
    return []


def first_of(kinds: Sequence[Kind]) -> Kind:
    """What a value of one of several kinds is held for."""
    telling = [kind for kind in kinds if kind is not None and not isinstance(kind, Untyped)]
    return next((kind for kind in telling if bindings_in(kind)), next(iter(telling), None))


def statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body at any depth, without those of nested functions and classes."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from statements(getattr(statement, name, []))
        for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
            yield from statements(part.body)


def annotations_in(body: Sequence[ast.stmt]) -> dict[str, ast.expr]:
    """The annotated names of a body."""
    return {
        statement.target.id: statement.annotation
        for statement in statements(body)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def read_annotation(node: ast.expr | None, scope: Scope) -> Kind:
    """What an annotation says about the values of a name."""
    if node is None:
        return None
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return read_annotation(ast.parse(node.value, mode="eval").body, scope)
        return None
    if isinstance(node, ast.BinOp):
        return first_of([read_annotation(part, scope) for part in (node.left, node.right)])
    if isinstance(node, ast.Subscript):
        name = (dotted(node.value) or [""])[-1]
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        ellipsis = isinstance(parts[-1], ast.Constant) and parts[-1].value is ...
        if name in WRAPPERS:
            return read_annotation(parts[0], scope)
        if name in MAPPINGS:
            return Many(read_annotation(parts[-1], scope), mapping=True)
        if name == "Callable":
            return Gives(read_annotation(parts[-1], scope))
        if name == "type":
            inner = read_annotation(parts[0], scope)
            if isinstance(inner, Obj):
                return Cls(inner.name)
            return OwnCls(inner.cls) if isinstance(inner, OwnObj) else None
        if name in ("tuple", "Tuple") and not ellipsis:
            return Row(tuple(read_annotation(part, scope) for part in parts))
        return Many(read_annotation(parts[0], scope)) if name in SEQUENCES else None
    path = dotted(node)
    if path[:1] == ["trt"] and len(path) > 1:
        return Obj(".".join(path[1:]), declared=True)
    if path[-1:] == ["Any"]:
        return Untyped()
    if path[-1:] == ["ModuleType"]:
        return Library()
    if path:
        owner = scope.owner(path[0])
        kind = owner.names.get(path[0]) if owner is not None else None
        if isinstance(kind, OwnModule) and len(path) == 2:
            kind = kind.scope.names.get(path[1])
        if isinstance(kind, OwnCls):
            return OwnObj(kind.cls)
        if isinstance(kind, Variable):
            return kind
    return None
