"""The operations and bytes of a graph, and the bound that they set on a machine.

The graph is taken as OpenVINO reads it, which is much as it stands in the file. Operations are
those of matrix products and convolutions, the rest is left out: a bound may be too low, never too
high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeseg._optional import require
from edgeseg.bench.result import BoundRecord, LimitsRecord
from edgeseg.errors import InputError, UsageError

__all__ = ["Arithmetic", "Work", "bound", "count_work"]

Arithmetic = Literal["int8", "bf16", "fp32"]

_EIGHT_BITS = frozenset({"i8", "u8", "i4", "u4"})
_MOST_LEVELS = 256
"""Of a FakeQuantize that stands for eight bits."""
# What passes codes on, so that a library may compute with them behind it.
_MOVES = frozenset(
    {
        "BatchToSpace",
        "Broadcast",
        "Concat",
        "DepthToSpace",
        "Gather",
        "MaxPool",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToBatch",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "StridedSlice",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "VariadicSplit",
    }
)
_SCALES = frozenset({"Multiply", "Subtract"})
"""What dequantises, with a constant."""
_HIDES = frozenset({"If", "Loop", "TensorIterator"})


@dataclass(frozen=True)
class Work:
    """What a graph has to do for one frame.

    Attributes:
        gop: billions of operations (two a multiply-add) by arithmetic; without those that are zero.
        bytes_mib: constants as stored, inputs and outputs, each once.
    """

    gop: Mapping[str, float]
    bytes_mib: float


def count_work(model: Path | Any, *, rest: Arithmetic = "fp32") -> Work:
    """Count the operations and bytes of a graph.

    A product counts as ``int8`` where both of its factors are quantised to eight bits or less: by a
    FakeQuantize (which is what Q/DQ pairs become), or as integers with a scale. Padding counts
    like data.

    Args:
        model: a file that OpenVINO reads, or an ``openvino.Model`` that was not compiled; of fixed
            shape.
        rest: the arithmetic in which all else runs.

    Raises:
        InputError: the file cannot be read, a product has no fixed shape, or the graph has control
            flow.
    """
    if isinstance(model, Path):
        core = require("openvino").Core()
        try:
            model = core.read_model(str(model))
        except RuntimeError as error:
            raise InputError(f"{model} cannot be read by OpenVINO: {error}") from error
    operations = {"int8": 0, rest: 0}
    stored = sum(_bytes(port) for port in (*model.inputs, *model.outputs))
    constant: set[str] = set()
    codes: set[str] = set()
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_name()
        if kind in _HIDES:
            raise InputError(
                f"operations inside {kind} {node.get_friendly_name()!r} cannot be counted: "
                "export without control flow"
            )
        sources = [value.get_source_output().get_node().get_name() for value in node.inputs()]
        if kind == "Constant":
            stored += int(node.get_byte_size())
        if kind == "Constant" or (sources and constant.issuperset(sources)):
            constant.add(name)
        elif kind in _COUNTS:
            # A third input is a mask or a shape, except of attention, which has three factors.
            factors = sources[: _FACTORS.get(kind, 2)]
            operations["int8" if codes.issuperset(factors) else rest] += _COUNTS[kind](node)
        if _holds_codes(node, sources, constant, codes):
            codes.add(name)
    return Work(
        gop={name: count / 1e9 for name, count in operations.items() if count},
        bytes_mib=stored / 2**20,
    )


def bound(work: Work, limits: LimitsRecord, median_ms: float) -> BoundRecord | None:
    """Set a latency beside the shortest time that operations and bytes allow.

    A graph whose constants stay in a cache from frame to frame moves fewer bytes than are counted;
    where that decides, its share may exceed 1.

    Args:
        work: of the very graph that was timed.
        limits: of the machine, with the threads that it was timed with.
        median_ms: of one frame, more than 0.

    Returns:
        The bound, or None if the rate of an arithmetic that the graph needs was not measured.

    Raises:
        UsageError: the median is no time.
    """
    if not 0.0 < median_ms < math.inf:
        raise UsageError(f"a median latency of {median_ms} ms is no time")
    if not set(work.gop) <= set(limits.gops):
        return None
    compute_ms = sum(1e3 * gop / limits.gops[name] for name, gop in work.gop.items())
    memory_ms = 1e3 * work.bytes_mib / (1024 * limits.bandwidth_gib_s)
    return BoundRecord(
        gop=dict(work.gop),
        bytes_mib=work.bytes_mib,
        compute_ms=compute_ms,
        memory_ms=memory_ms,
        share=max(compute_ms, memory_ms) / median_ms,
    )


def _matmul(node: Any) -> int:
    """Outputs times the length of the sums, whatever is broadcast."""
    left = _shape(node.input(0))
    # A vector is summed over whole, whatever ``transpose_a`` says.
    transposed = node.get_attributes()["transpose_a"] and len(left) > 1
    return 2 * math.prod(_shape(node.output(0))) * left[-2 if transposed else -1]


def _convolution(node: Any) -> int:
    """Each output sums over the kernel: weights are (outputs, inputs, kernel...)."""
    return 2 * math.prod(_shape(node.output(0))) * math.prod(_shape(node.input(1))[1:])


def _group_convolution(node: Any) -> int:
    """Weights are (groups, outputs, inputs, kernel...)."""
    return 2 * math.prod(_shape(node.output(0))) * math.prod(_shape(node.input(1))[2:])


def _transposed_convolution(node: Any) -> int:
    """Each input goes into a kernel of outputs: weights are (inputs, outputs, kernel...)."""
    return 2 * math.prod(_shape(node.input(0))) * math.prod(_shape(node.input(1))[1:])


def _transposed_group_convolution(node: Any) -> int:
    """Weights are (groups, inputs, outputs, kernel...)."""
    return 2 * math.prod(_shape(node.input(0))) * math.prod(_shape(node.input(1))[2:])


def _attention(node: Any) -> int:
    """Queries (..., L, E) with keys (..., S, E), the result with values (..., S, V)."""
    query, key = _shape(node.input(0)), _shape(node.input(1))
    output = _shape(node.output(0))
    return 2 * math.prod(output[:-1]) * key[-2] * (query[-1] + output[-1])


def _einsum(node: Any) -> int:
    """Of two factors: the product of the lengths of all labels."""
    equation = str(node.get_attributes()["equation"]).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if len(terms) != 2 or "." in equation:
        raise InputError(f"the operations of Einsum {equation!r} cannot be counted")
    lengths: dict[str, int] = {}
    for place, term in enumerate(terms):
        for label, length in zip(term, _shape(node.input(place)), strict=True):
            lengths[label] = max(length, lengths.get(label, 1))
    return 2 * math.prod(lengths.values())


_COUNTS: dict[str, Callable[[Any], int]] = {
    "MatMul": _matmul,
    "Convolution": _convolution,
    "GroupConvolution": _group_convolution,
    "ConvolutionBackpropData": _transposed_convolution,
    "GroupConvolutionBackpropData": _transposed_group_convolution,
    "ScaledDotProductAttention": _attention,
    "Einsum": _einsum,
}
_FACTORS = {"ScaledDotProductAttention": 3}


def _holds_codes(node: Any, sources: list[str], constant: set[str], codes: set[str]) -> bool:
    """Whether a node gives codes of eight bits, with or without their scale.

    Args:
        node: whose sources were looked at before.
        sources: names of the nodes that it reads.
        constant: names of the nodes that no input reaches.
        codes: names of the nodes that give codes.
    """
    kind = node.get_type_name()
    if kind == "FakeQuantize":
        return int(node.get_attributes()["levels"]) <= _MOST_LEVELS
    if kind in ("Constant", "Parameter", "Convert") and (
        node.output(0).get_element_type().get_type_name() in _EIGHT_BITS
    ):
        return True
    if kind == "Concat":
        return codes.issuperset(sources)
    if kind in _SCALES:
        return (sources[0] in codes and sources[1] in constant) or (
            kind == "Multiply" and sources[1] in codes and sources[0] in constant
        )
    return (kind == "Convert" or kind in _MOVES) and sources[0] in codes


def _shape(port: Any) -> tuple[int, ...]:
    shape = port.get_partial_shape()
    if shape.is_dynamic:
        raise InputError(
            f"{port.get_node().get_friendly_name()!r} has no fixed shape ({shape}), so its "
            "operations cannot be counted: export with fixed sizes"
        )
    return tuple(int(n) for n in shape.to_shape())


def _bytes(port: Any) -> int:
    return math.prod(_shape(port)) * int(port.get_element_type().size)
