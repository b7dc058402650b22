"""Naming an exported graph after the modules it came from, so that people and tools can read it."""

from __future__ import annotations

import ast
from collections import Counter

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["drop_notes", "rename"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_Path = tuple[str, ...]
"""Nested modules, outermost first: ``("backbone", "blocks.3", "attn", "qkv")``."""


def rename(model: ModelProto) -> None:
    """Name nodes, tensors and constants after the modules they came from, in place.

    Nodes become ``/backbone/blocks.3/attn/qkv/MatMul``, their outputs add ``_output_0``, and the
    weight of that product ``backbone.blocks.3.attn.qkv.weight``: later steps choose layers by name.
    """
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    paths = _paths(graph)
    new_names: dict[str, str] = {}
    taken: Counter[str] = Counter(fixed)
    for node, path in zip(graph.node, paths, strict=True):
        node.name = _unique("/" + "/".join((*path, node.op_type)), taken)
        for position, output in enumerate(node.output):
            if output and output not in fixed:
                new_names[output] = f"{node.name}_output_{position}"
    consumers = _first_consumers(graph)
    readers = _reading_paths(graph, paths)
    for initializer in graph.initializer:
        node_index = consumers[initializer.name]
        name = _constant_name(initializer, graph.node[node_index], paths[node_index])
        if _is_shared(readers[initializer.name]):
            name = _without_twin(name, readers[initializer.name])
        new_names[initializer.name] = _unique(name, taken)
    for node in graph.node:
        node.input[:] = [new_names.get(name, name) for name in node.input]
        node.output[:] = [new_names.get(name, name) for name in node.output]
    for named in (*graph.initializer, *graph.value_info):
        named.name = new_names.get(named.name, named.name)


def drop_notes(model: ModelProto) -> None:
    """Remove the exporter's notes: stack traces that name the build machine's folders."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


def _paths(graph: GraphProto) -> list[_Path]:
    """The module of each node; where the exporter noted none, that of its first consumer."""
    consumers = _first_consumers(graph)
    weights = {initializer.name for initializer in graph.initializer}
    paths: list[_Path | None] = [_noted_path(node, weights) for node in graph.node]
    for index in reversed(range(len(paths))):
        if paths[index] is None:
            followers = [consumers[name] for name in graph.node[index].output if name in consumers]
            paths[index] = paths[min(followers)] if followers else None
    return [path or () for path in paths]


def _noted_path(node: NodeProto, weights: set[str]) -> _Path | None:
    """From the exporter's note ``['', 'backbone', 'backbone.blocks.3', ..., 'linear']``.

    A convolution into which its norm was folded bears the norm's note, and its weight tells better.
    """
    noted = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPES)
    if noted is None:
        return None
    path: list[str] = []
    outer = ""
    for inner in ast.literal_eval(noted)[1:-1]:
        path.append(inner.removeprefix(f"{outer}.") if outer else inner)
        outer = inner
    if node.op_type == "Conv" and node.input[1] in weights and path:
        parent = "".join(f"{part}." for part in path[:-1])
        module = node.input[1].rpartition(".")[0]
        if module.startswith(parent):
            path[-1] = module.removeprefix(parent)
    return tuple(path)


def _first_consumers(graph: GraphProto) -> dict[str, int]:
    """Index of the first node that reads each tensor."""
    consumers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            consumers.setdefault(name, index)
    return consumers


def _reading_paths(graph: GraphProto, paths: list[_Path]) -> dict[str, set[_Path]]:
    """The modules that read each tensor."""
    readers: dict[str, set[_Path]] = {}
    for node, path in zip(graph.node, paths, strict=True):
        for name in node.input:
            readers.setdefault(name, set()).add(path)
    return readers


def _is_shared(paths: set[_Path]) -> bool:
    """Whether twins read it: outermost modules that hold the same modules under the same names."""
    inner: dict[str, set[_Path]] = {}
    for path in paths:
        if len(path) < 2:
            return False
        inner.setdefault(path[0], set()).add(path[1:])
    first, *others = inner.values()
    return bool(others) and all(other == first for other in others)


def _without_twin(name: str, paths: set[_Path]) -> str:
    """The name of a weight without the twin that it was found in: it belongs to all of them."""
    for outermost in sorted({path[0] for path in paths}):
        name = name.removeprefix(f"{outermost}.")
    return name


def _constant_name(initializer: TensorProto, node: NodeProto, path: _Path) -> str:
    """A module's own name for it, ``module.weight`` for a transposed matrix, or its content."""
    if "." in initializer.name:
        return str(initializer.name).replace(".weight_bias", ".bias")
    if initializer.data_type == TensorProto.INT64 and len(initializer.dims) <= 1:
        numbers = onnx.numpy_helper.to_array(initializer).ravel().tolist()
        return "_".join(("int64", *map(str, numbers)))
    kind = "weight" if node.op_type == "MatMul" else f"{node.op_type.lower()}_constant"
    return ".".join((*path, kind))


def _unique(name: str, taken: Counter[str]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}_{taken[name] - 1}"
