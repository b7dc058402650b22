"""What is changed in the exporter's graph: shared weights stand once, and the batch is free."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from edgeseg.errors import ExportError
from edgeseg.export.graph import infer_shapes, static_shape

__all__ = ["free_batch", "share_weights"]


def share_weights(model: ModelProto) -> None:
    """Transpose constants once and keep one of equal ones, in place.

    The exporter folds the transposition of a Linear's weight, but not of one that several products
    read; and where it does, each reader gets its own copy.
    """
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    folded: dict[tuple[str, tuple[int, ...]], str] = {}
    kept = []
    renamed: dict[str, str] = {}
    for node in graph.node:
        source = constants.get(node.input[0]) if node.op_type == "Transpose" else None
        if source is None:
            kept.append(node)
            continue
        key = (source.name, _permutation(node, len(source.dims)))
        if key not in folded:
            # The first result keeps its name; that of the weight is given by its readers' module.
            folded[key] = node.output[0]
            turned = np.ascontiguousarray(numpy_helper.to_array(source).transpose(key[1]))
            graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        renamed[node.output[0]] = folded[key]
    del graph.node[:]
    graph.node.extend(kept)
    _replace(graph, renamed)
    _replace(graph, _duplicates(graph))
    _drop_unused(graph)


def free_batch(model: ModelProto) -> None:
    """Let every Reshape copy its first dimension where it keeps it, in place.

    A runtime can then reshape the graph to another batch, by the shapes of its inputs alone. The
    types of inner tensors have to be inferred anew afterwards.

    Raises:
        ExportError: some other node still holds the batch as a constant; it is named.
    """
    infer_shapes(model)
    graph = model.graph
    shapes = {
        value.name: static_shape(value)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    constants = {item.name: item for item in graph.initializer}
    made: dict[tuple[int, ...], str] = {}
    for node in graph.node:
        target = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        before = shapes.get(node.input[0]) if target is not None else None
        if target is None or not before:
            continue
        wanted = tuple(int(size) for size in shapes[node.output[0]] or ())
        if not wanted or wanted[0] != before[0]:
            continue
        free = (0, *wanted[1:])
        if free not in made:
            made[free] = f"reshape_{len(made)}_target"
            graph.initializer.append(
                numpy_helper.from_array(np.asarray(free, np.int64), made[free])
            )
        node.input[1] = made[free]
        for attribute in node.attribute:
            if attribute.name == "allowzero":
                attribute.i = 0
    _drop_unused(graph)
    _check_batch(model)


def _permutation(node: NodeProto, rank: int) -> tuple[int, ...]:
    for attribute in node.attribute:
        if attribute.name == "perm":
            return tuple(attribute.ints)
    return tuple(reversed(range(rank)))


def _duplicates(graph: GraphProto) -> dict[str, str]:
    """Names of constants that equal an earlier one, with the name of that one."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    for item in graph.initializer:
        key = (item.data_type, tuple(item.dims), _digest(item))
        if key in first:
            renamed[item.name] = first[key]
        else:
            first[key] = item.name
    return renamed


def _digest(item: TensorProto) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(numpy_helper.to_array(item)).data).digest()


def _replace(graph: GraphProto, renamed: Mapping[str, str]) -> None:
    if not renamed:
        return
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    used.update(value.name for value in graph.output)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def _check_batch(model: ModelProto) -> None:
    """Infer all shapes once more for one image a call; the types of inner tensors are left so."""
    ends = (*model.graph.input, *model.graph.output)
    first = [value.type.tensor_type.shape.dim[0] for value in ends]
    batches = [dimension.dim_value for dimension in first]
    for dimension in first:
        dimension.dim_value = 1
    try:
        infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ExportError) as error:
        raise ExportError(f"the graph cannot be reshaped to a batch of 1: {error}") from error
    finally:
        for dimension, batch in zip(first, batches, strict=True):
            dimension.dim_value = batch
