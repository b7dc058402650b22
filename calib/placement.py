"""Which products are computed in INT8, and which tensors are quantised for them.

Quantised are Linear (``MatMul`` or ``Gemm`` with a constant weight) and ``Conv``, through their
inputs and weights. Never quantised are residual adds, LayerNorm, Softmax, GELU, the two products of
attention (activation by activation) and the graph's outputs: the residual stream of DINOv3 holds
single channels of magnitude 300 to 1400, at whose scale all others round to nothing (a ViT-B
quantised with its residuals falls from 85 to 5 % accuracy, with its Linears alone to 84.5 %).

Transposed convolutions stay in float: no CPU library computes them in INT8 (ONNX Runtime has no
kernel, OpenVINO converts back to float).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgeseg.calib.graph import LAYOUT_OPS, Graph, Node
from edgeseg.calib.targets import Target
from edgeseg.errors import CalibrationError, UsageError
from edgeseg.spec import Decision

__all__ = [
    "Placement",
    "Product",
    "calibration_tensors",
    "excluded_products",
    "find_products",
    "place",
]

_LINEAR_PATH = LAYOUT_OPS | {"Add", "Sub", "Resize", "Cast"}
"""What a value passes on its way without being normalised, activated or multiplied."""
_RESAMPLING = re.compile(r"/resample_[xy]\b")
"""Products with matrices of bilinear resampling, by the name that their modules carry."""
_NEVER_QUANTISED = frozenset({"LayerNormalization", "Softmax", "Gelu", "Erf"})


@dataclass(frozen=True)
class Product:
    """A Linear or a convolution with a constant weight."""

    node: Node
    activation: str
    """Tensor that its first input reads."""
    weight: str
    """Initialiser of its second input."""
    axis: int
    """Axis of the weight that counts output channels."""

    @property
    def name(self) -> str:
        """Name of the node."""
        return str(self.node.name)

    @property
    def output(self) -> str:
        """Tensor that it makes."""
        return str(self.node.output[0])


@dataclass(frozen=True)
class Placement:
    """What is quantised for one target."""

    products: tuple[Product, ...]
    inputs: tuple[str, ...]
    """Tensors that get one Q/DQ pair for the products that read them."""
    outputs: tuple[str, ...]
    """Outputs of convolutions that get one Q/DQ pair for all readers."""
    decisions: tuple[Decision, ...]
    """Products left in float, with the reason."""


def find_products(graph: Graph) -> list[Product]:
    """Every Linear and Conv of the graph whose weight is a float constant, in graph order."""
    found = []
    for node in graph.nodes:
        axis = _channel_axis(graph, node)
        if axis is not None:
            found.append(Product(node, node.input[0], node.input[1], axis))
    return found


def calibration_tensors(graph: Graph) -> tuple[str, ...]:
    """The tensors whose ranges serve every target: inputs of products, outputs of convolutions."""
    names: dict[str, None] = {}
    for product in find_products(graph):
        names[product.activation] = None
        if product.node.op_type == "Conv":
            names[product.output] = None
    return tuple(names)


def place(graph: Graph, target: Target, exclude: Sequence[str] = ()) -> Placement:
    """Choose products and tensors for a target.

    Args:
        graph: the FP32 graph.
        target: one of ``TARGETS``.
        exclude: regular expressions; a product whose whole name matches one stays in float.

    Raises:
        UsageError: a pattern is no regular expression, or matches no product.
        CalibrationError: nothing is left to quantise.
    """
    products = find_products(graph)
    excluded = excluded_products(products, exclude)
    kept: list[Product] = []
    outputs: list[str] = []
    decisions = []
    for product in products:
        reason = excluded.get(product.name) or _reason_for_float(graph, product, target)
        if reason is not None:
            decisions.append(
                Decision(f"{product.name} stays in float for {target.backend}", reason)
            )
            continue
        kept.append(product)
        if target.convolution_outputs and product.node.op_type == "Conv":
            outputs.append(product.output)
    if not kept:
        raise CalibrationError(
            f"no Linear or Conv is left to quantise for {target.backend}"
            + (": leave some out of the exclusions" if exclude else ": the graph holds none")
        )
    inputs = dict.fromkeys(p.activation for p in kept)
    quantised_outputs = set(outputs)
    return Placement(
        tuple(kept),
        tuple(name for name in inputs if name not in quantised_outputs),
        tuple(outputs),
        tuple(decisions),
    )


def _channel_axis(graph: Graph, node: Node) -> int | None:
    """Output-channel axis of a product's weight; None if the node is no such product."""
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return None
    activation, weight = node.input[0], node.input[1]
    if graph.is_constant(activation) or not graph.is_constant(weight):
        return None
    value = graph.value(weight)
    if value is None or value.dtype.kind != "f":
        return None
    if node.op_type == "Conv":
        return 0
    if value.ndim != 2:
        return None
    attributes = {a.name: a for a in node.attribute}
    if "transA" in attributes and attributes["transA"].i:
        return None
    return 0 if "transB" in attributes and attributes["transB"].i else 1


def excluded_products(products: Sequence[Product], patterns: Sequence[str]) -> dict[str, str]:
    """Names of the products whose whole name matches a pattern, each with the reason in words.

    Raises:
        UsageError: a pattern is no regular expression, or matches no product.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"exclusion {pattern!r} is not a regular expression: {error}"
            ) from error
        matched = [p.name for p in products if compiled.fullmatch(p.name)]
        if not matched:
            some = ", ".join(p.name for p in products[:5])
            raise UsageError(
                f"exclusion {pattern!r} matches no Linear or Conv (whole names are compared; "
                f"they read like {some})"
            )
        found.update(dict.fromkeys(matched, f"excluded by the pattern {pattern!r}"))
    return found


def _reason_for_float(graph: Graph, product: Product, target: Target) -> str | None:
    node = product.node
    if _RESAMPLING.search(product.name):
        return "its matrix resamples, so rounding would show in every value behind it"
    reads_input = _reads_input(graph, product.activation)
    if node.op_type == "Conv" and reads_input and not target.first_convolution:
        return "its few input channels fill no INT8 unit, and it is a small share of the work"
    if target.convolution_outputs:
        if node.op_type == "Gemm":
            return "this library fuses an INT8 Gemm only with a 32-bit integer bias"
        if node.op_type == "Conv":
            return _reason_against_output(graph, product.output)
    return None


def _reads_input(graph: Graph, tensor: str) -> bool:
    """Whether a tensor is an input of the graph, of whatever type and layout."""
    maker = graph.producer(tensor)
    while maker is not None and maker.op_type in ("Cast", "Transpose"):
        tensor = maker.input[0]
        maker = graph.producer(tensor)
    return tensor in graph.inputs


def _reason_against_output(graph: Graph, tensor: str) -> str | None:
    """Why the output of a convolution must not be rounded, if it must not."""
    for reader in graph.consumers(tensor):
        if reader.op_type in _NEVER_QUANTISED:
            return f"its output feeds {reader.op_type}, whose input is never quantised"
    seen = {tensor}
    pending = [tensor]
    while pending:
        name = pending.pop()
        if name in graph.outputs:
            return "its output reaches the graph's output, which is never quantised"
        for reader in graph.consumers(name):
            if reader.op_type == "LayerNormalization":
                return "its output enters the residual stream, which is never quantised"
            if reader.op_type in _LINEAR_PATH:
                new = [o for o in reader.output if o not in seen]
                seen.update(new)
                pending.extend(new)
    return None
