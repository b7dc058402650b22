"""Making an exported ONNX graph readable, and checking what every backend relies on."""

from __future__ import annotations

import ast
from collections import Counter

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from edgeseg.errors import ExportError
from edgeseg.spec import TensorSpec

__all__ = ["MAX_IR_VERSION", "OPSET", "check_graph", "drop_notes", "infer_shapes", "rename"]

OPSET = 20
"""The highest opset that TensorRT 10.3 parses, and the lowest with Gelu."""

MAX_IR_VERSION = 10
"""The highest that ONNX Runtime 1.20 reads."""

_SCOPES = "pkg.torch.onnx.name_scopes"
_DOMAINS = ("", "ai.onnx")
_CONTROL_FLOW = ("If", "Loop", "Scan")
_SHAPE_COMPUTATION = ("Shape", "Size", "NonZero", "ConstantOfShape", "Range", "Expand", "Gather")
_SMALL = 1024
"""Initializers up to this many numbers may be shapes, axes or sizes, whose values inference needs."""


def rename(model: ModelProto) -> None:
    """Name nodes, tensors and constants after the modules they came from, in place.

    Nodes become ``/backbone/blocks.3/attn/qkv/MatMul``, their outputs add ``_output_0``, and the weight
    of that product ``backbone.blocks.3.attn.qkv.weight``: later steps choose layers by these names.
    """
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    scopes = _scopes(list(graph.node))
    tensors: dict[str, str] = {}
    numbers: Counter[str] = Counter()
    for node, scope in zip(graph.node, scopes, strict=True):
        node.name = _unique("/" + "/".join((*scope, node.op_type)), numbers)
        for position, output in enumerate(node.output):
            if output and output not in kept:
                tensors[output] = f"{node.name}_output_{position}"
    numbers.update(name for name in kept)
    consumers = _first_consumers(list(graph.node))
    for initializer in graph.initializer:
        name = _initializer_name(initializer, consumers, list(graph.node), scopes)
        tensors[initializer.name] = _unique(name, numbers)
    for node in graph.node:
        node.input[:] = [tensors.get(name, name) for name in node.input]
        node.output[:] = [tensors.get(name, name) for name in node.output]
    for named in (*graph.initializer, *graph.value_info):
        named.name = tensors.get(named.name, named.name)


def drop_notes(model: ModelProto) -> None:
    """Remove the exporter's notes (stack traces, source paths): they name the build machine's folders."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


def infer_shapes(model: ModelProto) -> None:
    """Write the static type of every intermediate tensor into the graph, in place.

    Raises:
        ExportError: a tensor's shape cannot be inferred, or is not static.
    """
    graph = model.graph
    skeleton = ModelProto()
    skeleton.CopyFrom(_without_weights(model))
    inferred = onnx.shape_inference.infer_shapes(skeleton, strict_mode=True, data_prop=True).graph
    types = {value.name: value for value in (*inferred.value_info, *inferred.output)}
    outputs = {value.name for value in graph.output}
    del graph.value_info[:]
    for node in graph.node:
        for name in node.output:
            if not name:
                continue
            if name not in types or static_shape(types[name]) is None:
                raise ExportError(
                    f"the shape of {name!r} (of {node.name}) is not static in the graph"
                )
            if name not in outputs:
                graph.value_info.append(types[name])


def static_shape(value: ValueInfoProto) -> tuple[int, ...] | None:
    """The tensor's shape, or None where a dimension is not a number."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    if not all(dimension.HasField("dim_value") for dimension in tensor.shape.dim):
        return None
    return tuple(dimension.dim_value for dimension in tensor.shape.dim)


def check_graph(
    model: ModelProto, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Check what is promised of every exported graph.

    One opset of one domain, static shapes as specified, no control flow, no shape arithmetic left.

    Raises:
        ExportError: names the node or tensor.
    """
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        raise ExportError(
            f"the graph uses opsets {opsets}, expected only version {OPSET} of ONNX's own"
        )
    if model.functions:
        raise ExportError(f"the graph holds functions, such as {model.functions[0].name!r}")
    for node in model.graph.node:
        if node.op_type in (*_CONTROL_FLOW, *_SHAPE_COMPUTATION) or node.domain not in _DOMAINS:
            raise ExportError(f"{node.name} ({node.op_type}) was not folded away by the exporter")
    for found, expected in ((model.graph.input, inputs), (model.graph.output, outputs)):
        shapes = {value.name: static_shape(value) for value in found}
        if shapes != {spec.name: spec.shape for spec in expected}:
            raise ExportError(f"the graph has {shapes}, expected {expected}")


def _scopes(nodes: list[NodeProto]) -> list[tuple[str, ...]]:
    """The module path of each node; where the exporter noted none, that of its first consumer."""
    scopes = [_noted_scope(node) for node in nodes]
    consumers = _first_consumers(nodes)
    for index in reversed(range(len(nodes))):
        if scopes[index] is None:
            followers = [consumers[o] for o in nodes[index].output if o in consumers]
            scopes[index] = scopes[min(followers)] if followers else ()
    return [scope or () for scope in scopes]


def _noted_scope(node: NodeProto) -> tuple[str, ...] | None:
    """``('', 'backbone', 'backbone.blocks.3', ..., 'linear')`` as parts, each relative to the last."""
    noted = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPES)
    if noted is None:
        return None
    parts: list[str] = []
    outer = ""
    for path in ast.literal_eval(noted)[1:-1]:
        parts.append(path.removeprefix(f"{outer}.") if outer else path)
        outer = path
    return tuple(parts)


def _first_consumers(nodes: list[NodeProto]) -> dict[str, int]:
    consumers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            consumers.setdefault(name, index)
    return consumers


def _initializer_name(
    initializer: TensorProto,
    consumers: dict[str, int],
    nodes: list[NodeProto],
    scopes: list[tuple[str, ...]],
) -> str:
    """A module's own name for it; ``scope.weight`` for a matrix that was transposed; else its content."""
    if "." in initializer.name:
        return initializer.name
    if initializer.data_type == TensorProto.INT64 and len(initializer.dims) <= 1:
        numbers = onnx.numpy_helper.to_array(initializer).ravel().tolist()
        return "_".join(("int64", *map(str, numbers)))
    node = consumers[initializer.name]
    if nodes[node].op_type == "MatMul":
        return ".".join((*scopes[node], "weight"))
    return ".".join((*scopes[node], f"{nodes[node].op_type.lower()}_constant"))


def _unique(name: str, numbers: Counter[str]) -> str:
    numbers[name] += 1
    return name if numbers[name] == 1 else f"{name}_{numbers[name] - 1}"


def _without_weights(model: ModelProto) -> ModelProto:
    """The model with large initializers turned into inputs: inference needs their types alone.

    That keeps it quick, and possible above the 2 GB that a serialised message may hold.
    """
    graph = model.graph
    small, large = [], []
    for initializer in graph.initializer:
        size = 1
        for dimension in initializer.dims:
            size *= dimension
        (small if size <= _SMALL else large).append(initializer)
    inputs = [
        *graph.input,
        *(helper.make_tensor_value_info(i.name, i.data_type, list(i.dims)) for i in large),
    ]
    bare = helper.make_graph(graph.node, graph.name, inputs, graph.output, small)
    return helper.make_model(bare, opset_imports=model.opset_import, ir_version=model.ir_version)
