"""What every backend relies on in an exported graph: static types, one opset, nothing dynamic."""

from __future__ import annotations

import math

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from edgeseg.errors import ExportError
from edgeseg.spec import TensorSpec

__all__ = ["MAX_IR_VERSION", "OPSET", "check_graph", "infer_shapes", "static_shape"]

OPSET = 20
"""The highest opset that TensorRT 10.3 parses, and the lowest with Gelu."""

MAX_IR_VERSION = 10
"""The highest that ONNX Runtime 1.20 reads."""

_CONTROL_FLOW = ("If", "Loop", "Scan")
_SHAPE_COMPUTATION = ("ConstantOfShape", "NonZero", "Range", "Shape", "Size")
_SMALL = 1024
"""Initializers up to this many numbers may be shapes or sizes, whose values inference needs."""


def infer_shapes(model: ModelProto) -> None:
    """Write the static type of every intermediate tensor into the graph, in place.

    Raises:
        ExportError: a tensor's shape cannot be inferred, or is not static.
    """
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(
        _without_weights(model), strict_mode=True, data_prop=True
    ).graph
    types = {value.name: value for value in (*inferred.value_info, *inferred.output)}
    outputs = {value.name for value in graph.output}
    del graph.value_info[:]
    for node in graph.node:
        for name in filter(None, node.output):
            if name not in types or static_shape(types[name]) is None:
                raise ExportError(f"the shape of {name!r} (of {node.name}) is not static")
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
        raise ExportError(f"the graph uses opsets {opsets}, expected {OPSET} of ONNX's own alone")
    if model.functions:
        raise ExportError(f"the graph holds functions, such as {model.functions[0].name!r}")
    for node in model.graph.node:
        if node.op_type in _CONTROL_FLOW or node.op_type in _SHAPE_COMPUTATION:
            raise ExportError(f"{node.name} ({node.op_type}) was not folded away by the exporter")
    for found, expected in ((model.graph.input, inputs), (model.graph.output, outputs)):
        shapes = {value.name: static_shape(value) for value in found}
        if shapes != {spec.name: spec.shape for spec in expected}:
            raise ExportError(f"the graph has {shapes}, expected {expected}")


def _without_weights(model: ModelProto) -> ModelProto:
    """The model with large initializers turned into inputs: inference needs their types alone.

    That keeps it quick, and possible above the 2 GB that a serialised message may hold.
    """
    graph = model.graph
    small: list[TensorProto] = []
    inputs = list(graph.input)
    for item in graph.initializer:
        if math.prod(item.dims) <= _SMALL:
            small.append(item)
        else:
            inputs.append(helper.make_tensor_value_info(item.name, item.data_type, item.dims))
    bare = helper.make_graph(graph.node, graph.name, inputs, graph.output, small)
    return helper.make_model(bare, opset_imports=model.opset_import, ir_version=model.ir_version)
