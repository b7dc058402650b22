"""Every use that a package makes of TensorRT, held against one version of the bindings.

The walk follows the objects of the bindings through the source: from ``lib.X`` and from names
annotated ``trt.X``, over attributes, calls and what they return by the bindings' own docstrings.
It complains about what that version lacks, and about objects that leave its sight: held in names,
attributes, parameters or results that no annotation gives their class.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trt_interface.base import Found
from trt_interface.bindings import Interface
from trt_interface.expressions import Expressions
from trt_interface.source import (
    LIBRARY_NAMES,
    Kind,
    Library,
    Many,
    Number,
    OwnCallable,
    OwnClass,
    OwnCls,
    OwnFunction,
    OwnModule,
    OwnObj,
    Scope,
    TypesOnly,
    Untyped,
    annotations_in,
    dotted,
)

# What is known of names and results grows with each pass; the last one complains.
PASSES = 4
Function = ast.FunctionDef | ast.AsyncFunctionDef


def collect(sources: Mapping[Path, str | ast.Module], interface: Interface) -> Found:
    """Walk over a package.

    Args:
        sources: text or tree of each module by its path; the stem is the module's name.
        interface: the bindings it is held against.
    """
    walk = Walk(interface)
    trees = {
        path: ast.parse(source, str(path)) if isinstance(source, str) else source
        for path, source in sources.items()
    }
    scopes = {path: Scope(path) for path in trees}
    walk.modules = {path.stem: scope for path, scope in scopes.items()}
    for number in range(PASSES):
        walk.found = Found()
        walk.reporting = number == PASSES - 1
        for path, tree in trees.items():
            walk.body(tree.body, scopes[path])
    walk.found.complaints = list(dict.fromkeys(walk.found.complaints))
    return walk.found


class Walk(Expressions):
    """Statements, functions and classes, in the order in which names get known."""

    def __init__(self, interface: Interface) -> None:
        super().__init__(interface)
        self.modules: dict[str, Scope] = {}
        self.functions: dict[ast.AST, OwnFunction] = {}
        self.classes: dict[ast.AST, OwnClass] = {}

    def body(self, statements: Sequence[ast.stmt], scope: Scope) -> None:
        """Run over the statements of a module, class or function."""
        scope.annotated.update(annotations_in(statements))
        for name, annotation in scope.annotated.items():
            known = self.annotation(annotation, scope)
            if known is not None and not isinstance(known, Untyped):
                scope.names[name] = known
        later = [self.statement(statement, scope) for statement in statements]
        for function in (one for ones in later for one in ones):
            self.function(function)

    def statement(self, node: ast.stmt, scope: Scope) -> list[OwnFunction]:
        """Run over a statement; the functions in it are to be run over after their scope."""
        if isinstance(node, Function):
            return [self.define(node, scope)]
        if isinstance(node, ast.ClassDef):
            return self.define_class(node, scope)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self.imports(node, scope)
        elif isinstance(node, ast.If):
            self.kind(node.test, scope)
            types_only = dotted(node.test)[-1:] == ["TYPE_CHECKING"]
            found = [one for part in node.body for one in self.statement(part, scope)]
            if types_only and "trt" in scope.names:
                scope.names["trt"] = TypesOnly()
            return found + [one for part in node.orelse for one in self.statement(part, scope)]
        elif isinstance(node, ast.Assign):
            value = self.kind(node.value, scope)
            for target in node.targets:
                self.assign(target, value, scope)
        elif isinstance(node, ast.AnnAssign):
            if isinstance(node.target, ast.Attribute):
                self.annotate_attribute(node.target, node.annotation, scope)
            if node.value is not None:
                self.assign(node.target, self.kind(node.value, scope), scope)
            self.annotation(node.annotation, scope)
        elif isinstance(node, ast.AugAssign):
            self.kind(node.target, scope)
            value = self.kind(node.value, scope)
            # Adding to a number gives no number that is written in the source, unless both are.
            self.assign(node.target, value if isinstance(value, Number) else None, scope)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.assign(node.target, self.item(node.iter, scope), scope)
            return self.parts(node, scope, skip=("iter", "target"))
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for one in node.items:
                value = self.kind(one.context_expr, scope)
                if isinstance(value, Many):
                    value = value.item
                if one.optional_vars is not None:
                    self.assign(one.optional_vars, value, scope)
            return self.parts(node, scope, skip=("items",))
        elif isinstance(node, ast.Return):
            self.leave(node, self.kind(node.value, scope) if node.value else None, scope)
        else:
            return self.parts(node, scope)
        return []

    def parts(self, node: ast.AST, scope: Scope, skip: Iterable[str] = ()) -> list[OwnFunction]:
        """Run over whatever a node holds."""
        found: list[OwnFunction] = []
        for name, value in ast.iter_fields(node):
            if name in skip:
                continue
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.stmt):
                    found += self.statement(part, scope)
                elif isinstance(part, ast.expr):
                    self.kind(part, scope)
                elif isinstance(part, ast.AST):
                    found += self.parts(part, scope)
        return found

    def imports(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.split(".")[0]
            if isinstance(node, ast.Import):
                if alias.name.split(".")[0] == "tensorrt":
                    scope.names[name] = Library()
                continue
            path = (node.module or "").split(".")
            package = scope.path.parent.name
            if (node.level == 1 and path != [""]) or path[-2:-1] == [package]:
                module = self.modules.get(path[-1])
                if module is not None and alias.name in module.names:
                    scope.names[name] = module.names[alias.name]
            elif alias.name in self.modules and (node.level == 1 or path[-1] == package):
                scope.names[name] = OwnModule(self.modules[alias.name])

    def define(self, node: Function, scope: Scope, cls: OwnClass | None = None) -> OwnFunction:
        for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if part is not None:
                self.kind(part, scope)
        function = self.functions.setdefault(node, OwnFunction(node, scope, cls))
        if cls is None:
            scope.names[node.name] = OwnCallable(function, bound=False)
        return function

    def function(self, function: OwnFunction) -> None:
        """Run over a function's body."""
        node = function.node
        scope = self.scopes.setdefault(
            node, Scope(function.scope.path, function.scope, function=function)
        )
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            if argument.annotation is not None:
                scope.annotated[argument.arg] = argument.annotation
            scope.names[argument.arg] = self.annotation(argument.annotation, scope)
            if argument.arg in (*LIBRARY_NAMES, "trt"):
                scope.names[argument.arg] = Library()
        if function.cls is not None and arguments and not function.decorated("staticmethod"):
            itself: Kind = OwnObj(function.cls)
            scope.names[arguments[0].arg] = (
                OwnCls(function.cls) if function.decorated("classmethod") else itself
            )
        self.annotation(node.returns, scope)
        self.body(node.body, scope)

    def define_class(self, node: ast.ClassDef, scope: Scope) -> list[OwnFunction]:
        cls = self.classes.setdefault(node, OwnClass(node.name, scope))
        cls.bases = [self.kind(base, scope) for base in node.bases]
        scope.names[node.name] = OwnCls(cls)
        inner = self.scopes.setdefault(node, Scope(scope.path, scope, cls=cls))
        cls.scope = inner
        functions = []
        for part in node.body:
            if isinstance(part, Function):
                functions.append(self.define(part, inner, cls))
                cls.methods[part.name] = functions[-1]
            elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                cls.annotations[part.target.id] = part.annotation
                cls.fields = [*(one for one in cls.fields if one != part.target.id), part.target.id]
                self.annotation(part.annotation, inner)
            else:
                functions += self.statement(part, inner)
        if (base := cls.bound_base()) is not None:
            self.check_subclass(node, cls, base, scope)
        return functions

    def check_subclass(self, node: ast.ClassDef, cls: OwnClass, base: str, scope: Scope) -> None:
        """A class over one of the bindings overrides all that is there, as it is called."""
        interface = self.interface.cls(base)
        if interface is None:
            return
        public = {name for name in interface.methods if not name.startswith("_")}
        for name, function in cls.methods.items():
            if name == "__init__":
                calls = {ast.unparse(one.func) for one in calls_in(function.node)}
                if not calls & {f"lib.{base}.__init__", "super().__init__"}:
                    self.complain(function.node, scope, f"does not call {base}.__init__")
                continue
            if name.startswith("_"):
                continue
            if name not in public:
                self.absent(function.node, scope, f"{base}.{name} to override")
                continue
            self.use(function.node, scope, base, name)
            wanted = {len(one.parameters) for one in interface.methods[name]}
            arguments = function.node.args
            places = len(arguments.posonlyargs) + len(arguments.args) - 1
            least = places - len(arguments.defaults)
            for count in wanted:
                if not least <= count <= (places if arguments.vararg is None else count):
                    self.complain(
                        function.node, scope, f"{base}.{name} is called with {count} arguments"
                    )
            if any(one is None for one in arguments.kw_defaults):
                self.complain(function.node, scope, f"{base}.{name} is called without keywords")
        for name in sorted(public - set(cls.methods)):
            self.complain(node, scope, f"does not override {base}.{name}")


def calls_in(node: ast.AST) -> list[ast.Call]:
    """All calls beneath a node."""
    return [one for one in ast.walk(node) if isinstance(one, ast.Call)]
