"""FP16 written into a graph as casts.

Strongly typed runtimes take the types of a graph literally, so this is where precision is decided:

- ``fp16``: everything in FP16 but the normalisations (LayerNorm, InstanceNorm, GroupNorm), which
  sum squares and lose all precision in half (a ViT-B whose LayerNorms run in FP16 falls from 85 to
  19 %).
- ``fp16-safe``: the scores of attention and their softmax in FP32 as well; scores of DINOv3 exceed
  65504 on some weights. Exported graphs scale the queries before the product, so that ``fp16``
  survives products of queries and keys up to sqrt(head width) times that.

The residual stream is FP16 in both. Its outlier channels (magnitude 300 to 1500, where numbers of
FP16 lie up to 1 apart) leave it 43 times as much room as it needs, and the LayerNorm behind it
divides their rounding by the deviation that they cause themselves. With every FP16 tensor rounded
(``rounding``), such outliers planted in 4 and 12 blocks leave the error of the logits at 0.0012 to
0.0021 of their contrast; sums kept in FP32 leave it at 0.0011 to 0.0022, for twice the memory
traffic of the stream. So nothing would be gained.

The graph's inputs and outputs stay FP32, with one cast each. An operation whose constants exceed
the range of FP16 stays in FP32, which is recorded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg.calib.graph import LAYOUT_OPS, Graph, Node
from edgeseg.calib.half import MAX_HALF, half_upwards
from edgeseg.errors import CalibrationError, UsageError
from edgeseg.spec import Decision

__all__ = ["FP16_MODES", "Fp16Mode", "HalfGraph", "convert_to_fp16", "to_fp16"]

Fp16Mode = Literal["fp16", "fp16-safe"]
FP16_MODES: tuple[Fp16Mode, ...] = get_args(Fp16Mode)

_NORMALISATIONS = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"}
)
_IN_A_NORM = re.compile(r"^/(decoder|head)/.*/norm/")
_STATISTICS = frozenset(
    {"Add", "Div", "Mul", "Pow", "Reciprocal", "ReduceL2", "ReduceMean", "ReduceSum", "Sqrt", "Sub"}
)
"""Parts of a normalisation that is written out (GroupNorm over channels that lie last): sums of
squares over a large map leave FP16's range as soon as those of a LayerNorm do."""
_SCORE_OPS = LAYOUT_OPS | {"Add", "Sub", "Mul", "Div", "Where"}
"""What may stand between the product of queries and keys and its softmax."""
_ONE_TYPE = frozenset({"BatchNormalization"})
"""Operations whose specification lets inputs differ in type, where runtimes expect one."""


@dataclass(frozen=True)
class HalfGraph:
    """A written FP16 file."""

    path: Path
    mode: Fp16Mode
    placement: str
    """Where casts stand, for a manifest."""
    decisions: tuple[Decision, ...]


def to_fp16(fp32_path: Path, destination: Path, mode: Fp16Mode = "fp16") -> HalfGraph:
    """Write the FP16 form of an FP32 graph (or of one with Q/DQ and FP32 scales).

    Raises:
        UsageError: an unknown mode.
        CalibrationError: the graph is not valid, or holds FP16 tensors already.
        OutputError: the file cannot be written.
    """
    graph = Graph.load(fp32_path)
    decisions = convert_to_fp16(graph, mode)
    graph.save(destination)
    return HalfGraph(destination, mode, describe(mode), decisions)


def describe(mode: Fp16Mode) -> str:
    """The placement of a mode in words."""
    words = "casts at inputs and outputs and around normalisations (FP32)"
    return words if mode == "fp16" else f"{words}, attention scores and softmax (FP32)"


def convert_to_fp16(graph: Graph, mode: Fp16Mode) -> tuple[Decision, ...]:
    """Rewrite ``graph`` in place; see ``to_fp16``.

    Returns:
        One decision for every operation that was kept in FP32 because of its constants.
    """
    if mode not in FP16_MODES:
        raise UsageError(f"unknown FP16 mode {mode!r}: choose {', '.join(FP16_MODES)}")
    half = [
        name
        for node in graph.nodes
        for name in (*node.input, *node.output)
        if name and graph.element_type(name) == TensorProto.FLOAT16
    ]
    if half:
        raise CalibrationError(f"the graph holds FP16 tensors already, {half[0]!r} for one")
    single = _kept_single(graph, mode)
    decisions = []
    for node in graph.nodes:
        if id(node) in single:
            continue
        excess = _excess(graph, node)
        if excess is not None:
            single.add(id(node))
            decisions.append(
                Decision(
                    f"{node.name} ({node.op_type}) stays in FP32",
                    f"constant {excess[0]} reaches {excess[1]:.4g}, above FP16's {MAX_HALF:.0f}",
                )
            )
    _Rewriter(graph, single).run()
    return tuple(decisions)


class _Rewriter:
    """Changes types node by node; casts and converted constants are shared."""

    def __init__(self, graph: Graph, single: set[int]) -> None:
        self.graph = graph
        self.single = single
        self.is_half: dict[str, bool] = {}
        self.float_tensors = {
            name
            for node in graph.nodes
            for name in (*node.input, *node.output)
            if name and graph.element_type(name) == TensorProto.FLOAT
        }
        self.names: dict[tuple[str, bool], str] = {}
        self.inserted: list[Node] = []

    def run(self) -> None:
        graph = self.graph
        for node in graph.nodes:
            half = id(node) not in self.single
            for name in node.output:
                if name in self.float_tensors:
                    self.is_half[name] = half
        outputs = {name for name in graph.outputs if self.is_half.get(name)}
        renamed = {name: graph.unique(f"{name}_half") for name in graph.outputs if name in outputs}
        for name, half_name in renamed.items():
            self.names[name, True] = half_name
            self.names[name, False] = name
            self._cast(half_name, name, TensorProto.FLOAT)
        for node in graph.nodes:
            if id(node) not in self.single:
                self._convert(node)
            else:
                self._feed_single(node)
            for i, name in enumerate(node.output):
                node.output[i] = renamed.get(name, name)
        graph.nodes += self.inserted
        graph.index()

    def _convert(self, node: Node) -> None:
        positions = _half_inputs(self.graph, node)
        scales = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for i, name in enumerate(node.input):
            if name in self.float_tensors:
                if i not in positions:
                    node.input[i] = self._as(name, half=False)
                elif scales and i == 1 and self.graph.is_constant(name):
                    node.input[i] = self._half_scale(name)
                else:
                    node.input[i] = self._as(name, half=True)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                if attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
            elif node.op_type == "ConstantOfShape" and attribute.name == "value":
                value = numpy_helper.to_array(attribute.t)
                if value.dtype == np.float32:
                    attribute.t.CopyFrom(numpy_helper.from_array(value.astype(np.float16)))

    def _feed_single(self, node: Node) -> None:
        for i, name in enumerate(node.input):
            if name in self.float_tensors:
                node.input[i] = self._as(name, half=False)

    def _as(self, name: str, *, half: bool) -> str:
        """Name of ``name``'s values in the wanted type."""
        found = self.names.get((name, half))
        if found is not None:
            return found
        value = self.graph.value(name)
        if value is not None:
            result = name
            if half:
                result = self.graph.add_constant(f"{name}_half", value.astype(np.float16))
        elif self.is_half.get(name, False) == half:
            result = name
        else:
            result = self.graph.unique(f"{name}_{'half' if half else 'single'}")
            self._cast(name, result, TensorProto.FLOAT16 if half else TensorProto.FLOAT)
        self.names[name, half] = result
        return result

    def _half_scale(self, name: str) -> str:
        key = (f"{name} as a scale", True)
        if key not in self.names:
            value = self.graph.value(name)
            assert value is not None
            self.names[key] = self.graph.add_constant(f"{name}_half", half_upwards(value))
        return self.names[key]

    def _cast(self, source: str, result: str, to: int) -> None:
        self.inserted.append(self.graph.node("Cast", (source,), result, f"{result}_Cast", to=to))


def _kept_single(graph: Graph, mode: Fp16Mode) -> set[int]:
    single = {
        id(n)
        for n in graph.nodes
        if n.op_type in _NORMALISATIONS
        or (n.op_type in _STATISTICS and _IN_A_NORM.search(n.name))
        or not _has_half_form(graph, n)
    }
    if mode == "fp16-safe":
        for node in graph.nodes:
            if node.op_type == "Softmax":
                single.add(id(node))
                _mark_scores(graph, node.input[0], single)
    return single


def _mark_scores(graph: Graph, tensor: str, single: set[int]) -> bool:
    """Mark the nodes from a product of two activations to ``tensor``; False if none is found."""
    node = graph.producer(tensor)
    if node is None:
        return False
    if node.op_type in ("MatMul", "Einsum"):
        if any(graph.is_constant(name) for name in node.input):
            return False
        single.add(id(node))
        return True
    if node.op_type not in _SCORE_OPS:
        return False
    found = [_mark_scores(graph, name, single) for name in node.input if name]
    if any(found):
        single.add(id(node))
    return any(found)


def _schema(graph: Graph, node: Node) -> Any:
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = next(
        (
            o.version
            for o in graph.model.opset_import
            if o.domain in ((domain,) if domain else ("", "ai.onnx"))
        ),
        None,
    )
    try:
        return onnx.defs.get_schema(node.op_type, version, domain)
    except Exception:  # an operator of another domain has no schema here
        return None


def _formal(parameters: Any, i: int) -> Any:
    """The parameter of position ``i``; the last one may be variadic."""
    return parameters[min(i, len(parameters) - 1)]


def _has_half_form(graph: Graph, node: Node) -> bool:
    schema = _schema(graph, node)
    if schema is None or any(a.name == "dtype" for a in node.attribute):
        return False
    return all(
        "tensor(float16)" in _formal(schema.outputs, i).types
        for i, name in enumerate(node.output)
        if name and graph.element_type(name) == TensorProto.FLOAT
    )


def _half_inputs(graph: Graph, node: Node) -> set[int]:
    """Positions of the inputs that share the type of the result (``Resize``: not its scales)."""
    schema = _schema(graph, node)
    floats = [
        i
        for i, name in enumerate(node.input)
        if name and graph.element_type(name) == TensorProto.FLOAT
    ]
    allowed = [i for i in floats if "tensor(float16)" in _formal(schema.inputs, i).types]
    if node.op_type in _ONE_TYPE:
        return set(allowed)
    kinds = {
        _formal(schema.outputs, i).type_str
        for i, name in enumerate(node.output)
        if name and graph.element_type(name) == TensorProto.FLOAT
    }
    if not kinds and floats:
        kinds = {_formal(schema.inputs, floats[0]).type_str}
    return {i for i in allowed if _formal(schema.inputs, i).type_str in kinds}


def _excess(graph: Graph, node: Node) -> tuple[str, float] | None:
    """A constant of the node that does not fit FP16, with its largest magnitude."""
    for i in sorted(_half_inputs(graph, node)):
        value = graph.value(node.input[i])
        if value is not None and value.size:
            largest = float(np.abs(value).max())
            if not largest <= MAX_HALF:
                return str(node.input[i]), largest
    if node.op_type == "ConstantOfShape":
        for attribute in node.attribute:
            largest = float(
                np.abs(numpy_helper.to_array(helper.get_attribute_value(attribute))).max()
            )
            if not largest <= MAX_HALF:
                return attribute.name, largest
    return None
