"""Prove that a Q/DQ graph keeps the rules, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.calib.graph import Graph, Node
from edgeseg.calib.targets import TARGETS
from edgeseg.errors import CalibrationError

__all__ = ["PlacementReport", "check_placement"]

_PRODUCTS = ("MatMul", "Gemm", "Conv")
_NEVER = ("LayerNormalization", "Softmax", "Gelu")
_MAX_OPSET = 20
"""TensorRT 10.3 (JetPack 6) reads no later one."""
_SHOWN = 5


@dataclass(frozen=True)
class PlacementReport:
    """What is quantised in a graph that keeps the rules."""

    products: tuple[str, ...]
    """Names of the nodes computed in INT8."""
    activations: tuple[str, ...]
    """Tensors that are quantised."""
    convolution_outputs: tuple[str, ...]
    """Those of them that are quantised for all their readers."""


def check_placement(model: Any, backend: str = "tensorrt") -> PlacementReport:
    """Check an ONNX model with Q/DQ nodes against the rules of ``placement``.

    - Q and DQ come in pairs, or a DQ stands behind INT8 codes that are a constant weight, or,
      where the target takes pictures, behind a graph input of uint8: its values are the codes, with
      scale 1 and zero point 0.
    - Scales are constant, finite, positive and of the data's type; zero points are constant zeros
      of INT8 (or 128 of uint8, where the backend's target has it).
    - Activations have one scale; weights one an output channel, or one.
    - A dequantised activation goes only to the first input of Linear or Conv whose weight is
      dequantised too (through a Transpose, where the target quantises before those); so never to a
      residual add, LayerNorm, Softmax, GELU or attention's products. Where the target quantises
      outputs of convolutions, such an output may go elsewhere, but never to LayerNorm, Softmax or
      GELU.
    - No graph output is dequantised, and no Q follows a DQ.
    - The operator set is at most 20.

    Args:
        model: ``onnx.ModelProto``.
        backend: whose target's rules apply.

    Raises:
        CalibrationError: naming the first offences, or if nothing is quantised.
    """
    check = _Check(Graph(model), backend)
    check.run()
    if check.offences:
        more = len(check.offences) - _SHOWN
        raise CalibrationError(
            "the quantised graph breaks the rules of its placement: "
            + "; ".join(check.offences[:_SHOWN])
            + (f"; and {more} more" if more > 0 else "")
        )
    if not check.products:
        raise CalibrationError("the graph holds no quantised Linear or Conv")
    return PlacementReport(
        tuple(check.products), tuple(check.activations), tuple(check.convolution_outputs)
    )


class _Check:
    def __init__(self, graph: Graph, backend: str) -> None:
        self.graph = graph
        self.target = next(t for name, t in TARGETS.items() if name == backend)
        self.offences: list[str] = []
        self.products: list[str] = []
        self.activations: list[str] = []
        self.convolution_outputs: list[str] = []

    def run(self) -> None:
        if self.graph.opset > _MAX_OPSET:
            self.offences.append(f"operator set {self.graph.opset} is above {_MAX_OPSET}")
        for node in self.graph.nodes:
            if node.op_type == "QuantizeLinear":
                self._quantize(node)
            elif node.op_type == "DequantizeLinear":
                self._dequantize(node)
            elif node.op_type in _PRODUCTS:
                self._product(node)

    def _quantize(self, node: Node) -> None:
        source = node.input[0]
        maker = self.graph.producer(source)
        if self.graph.is_constant(source):
            self.offences.append(f"{node.name}: quantises a constant instead of holding its codes")
        if maker is not None and maker.op_type == "DequantizeLinear":
            self.offences.append(f"{node.name}: quantises a tensor that was just dequantised")
        if node.output[0] in self.graph.outputs:
            self.offences.append(f"{node.name}: makes a graph output")
        for reader in self.graph.consumers(node.output[0]):
            if reader.op_type != "DequantizeLinear":
                self.offences.append(f"{node.name}: {reader.op_type} reads the codes")
            elif list(reader.input[1:]) != list(node.input[1:]):
                self.offences.append(f"{node.name}: {reader.name} has another scale or zero point")
        self._scale(node, source)
        self.activations.append(source)

    def _dequantize(self, node: Node) -> None:
        codes = node.input[0]
        maker = self.graph.producer(codes)
        if node.output[0] in self.graph.outputs:
            self.offences.append(f"{node.name}: makes a graph output")
        if self.graph.is_constant(codes):
            self._scale(node, node.output[0], weight=codes)
        elif self.target.picture_input and codes in self.graph.inputs:
            self._scale(node, node.output[0], zero=0)
            if np.any(self.graph.value(node.input[1]) != 1.0):
                self.offences.append(f"{node.name}: a picture's scale is not 1")
            self._readers(node, codes)
        elif maker is None or maker.op_type != "QuantizeLinear":
            self.offences.append(f"{node.name}: dequantises what no QuantizeLinear made")
        else:
            self._scale(node, node.output[0])
            self._readers(node, maker.input[0])

    def _readers(self, node: Node, source: str) -> None:
        """Who reads a dequantised activation."""
        maker = self.graph.producer(source)
        free = self.target.convolution_outputs and maker is not None and maker.op_type == "Conv"
        for reader, read in self._behind_transposes(node.output[0]):
            if (
                reader.op_type in _PRODUCTS
                and list(reader.input).count(read) == 1
                and reader.input[0] == read
                and self._weight(reader) is not None
            ):
                continue
            if free and reader.op_type not in (*_NEVER, "QuantizeLinear"):
                if source not in self.convolution_outputs:
                    self.convolution_outputs.append(source)
                continue
            self.offences.append(f"{reader.name} ({reader.op_type}) reads a quantised {source!r}")

    def _behind_transposes(self, dequantized: str) -> Iterator[tuple[Node, str]]:
        """Readers of a dequantised tensor and what they read, seen through Transposes where the
        target quantises before them."""
        for reader in self.graph.consumers(dequantized):
            if self.target.before_transpose and reader.op_type == "Transpose":
                yield from ((r, reader.output[0]) for r in self.graph.consumers(reader.output[0]))
            else:
                yield reader, dequantized

    def _product(self, node: Node) -> None:
        weight = self._weight(node)
        maker = self.graph.producer(node.input[0])
        if maker is not None and maker.op_type == "Transpose" and self.target.before_transpose:
            maker = self.graph.producer(maker.input[0])
        quantised = maker is not None and maker.op_type == "DequantizeLinear"
        if weight is None:
            return  # a quantised activation without a quantised weight is an offence of its reader
        if not quantised:
            self.offences.append(f"{node.name}: only its weight is quantised")
            return
        self.products.append(node.name)
        scale = self.graph.value(weight.input[1])
        codes = self.graph.shape(weight.input[0])
        if scale is not None and scale.ndim == 1:
            axis = next((a.i for a in weight.attribute if a.name == "axis"), 1) % len(codes)
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            wanted = 0 if node.op_type == "Conv" or transposed else 1
            if axis != wanted or codes[axis] != len(scale):
                self.offences.append(f"{weight.name}: scales are not one for each output channel")

    def _weight(self, node: Node) -> Node | None:
        """The DQ of a constant weight."""
        maker = self.graph.producer(node.input[1]) if len(node.input) > 1 else None
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        return maker if self.graph.is_constant(maker.input[0]) else None

    def _scale(self, node: Node, data: str, weight: str | None = None, zero: int = 128) -> None:
        """Scale and zero point; ``zero`` is that of codes which are stored as uint8."""
        scale = self.graph.value(node.input[1])
        if scale is None:
            self.offences.append(f"{node.name}: its scale is not a constant")
            return
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            self.offences.append(f"{node.name}: its scale is not positive")
        if scale.ndim != 0 and (weight is None or scale.ndim != 1):
            self.offences.append(f"{node.name}: an activation needs one scale, not {scale.shape}")
        if self.graph.element_type(node.input[1]) != self.graph.element_type(data):
            self.offences.append(f"{node.name}: scale and data differ in type")
        zero_point = self.graph.value(node.input[2]) if len(node.input) > 2 else None
        signed = weight is not None or self.target.activations == "int8"
        wanted = (np.dtype(np.int8), 0) if signed else (np.dtype(np.uint8), zero)
        if zero_point is None:
            self.offences.append(f"{node.name}: has no constant zero point")
        elif zero_point.dtype != wanted[0] or not (zero_point == wanted[1]).all():
            self.offences.append(f"{node.name}: zero point is not {wanted[1]} of {wanted[0]}")
