"""Write an INT8 graph: explicit, symmetric Q/DQ pairs around the products of an FP32 graph.

Activations have one scale a tensor, weights one an output channel; zero points are zero (128 where
activations are stored as uint8). Weights are stored as INT8 with a ``DequantizeLinear`` behind
them, so files are a quarter of the size. Biases stay float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeseg.calib.check import check_placement
from edgeseg.calib.fp16 import Fp16Mode, convert_to_fp16
from edgeseg.calib.graph import Graph, Node
from edgeseg.calib.half import MAX_HALF, half_upwards
from edgeseg.calib.picture import (
    Picture,
    centre_biases,
    dequantize_pictures,
    reason_against,
    take_pictures,
)
from edgeseg.calib.placement import Placement, Product, place
from edgeseg.calib.targets import Target, target_for
from edgeseg.errors import CalibrationError
from edgeseg.spec import BackendName, Decision, PreprocessSpec

__all__ = ["QuantizedGraph", "activation_scale", "quantize", "quantize_weight", "separate_bias"]

_MAX_CODE = 127.0
_MIN_SINGLE = float(np.finfo(np.float32).tiny)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QuantizedGraph:
    """A written INT8 file, in the words of ``edgeseg.spec.Variant``."""

    path: Path
    backends: tuple[BackendName, ...]
    rest: Literal["fp32", "fp16"]
    placement: str
    products: tuple[str, ...]
    """Names of the nodes that are computed in INT8."""
    decisions: tuple[Decision, ...]
    takes_pictures: bool = False
    """Whether its inputs are the resized pictures, uint8 (N, height, width, 3) BGR, instead of the
    normalised planes of the FP32 graph."""


def quantize(
    fp32_path: Path,
    thresholds: Mapping[str, float],
    backend: str,
    destination: Path,
    exclude: Sequence[str] = (),
    *,
    preprocess: PreprocessSpec | None = None,
    rest_mode: Fp16Mode = "fp16",
) -> QuantizedGraph:
    """Write the INT8 form of an FP32 graph for one backend.

    Args:
        fp32_path: ONNX with static shapes, opset 19 or 20.
        thresholds: for each tensor of ``calibration_tensors``, the magnitude that gets code 127
            (``Ranges.thresholds``).
        backend: ``openvino``, ``onnxruntime`` or ``tensorrt`` (see ``targets``).
        destination: file to write, atomically.
        exclude: regular expressions; a Linear or Conv whose whole name matches stays in float.
        preprocess: whose normalisation the file is to contain, for a target that takes the resized
            picture and a graph that allows it (see ``picture``); None leaves the inputs as they
            are.
        rest_mode: what of the rest is FP16, for a target whose rest is (see ``fp16``).

    Raises:
        UsageError: an unknown backend or mode, or a pattern that matches nothing.
        CalibrationError: a threshold is missing or not a positive number, a scale does not fit the
            target's arithmetic, or the graph cannot be quantised.
        OutputError: the file cannot be written.
    """
    target = target_for(backend)
    graph = Graph.load(fp32_path)
    pictures: tuple[Picture, ...] = ()
    kept_inputs: tuple[Decision, ...] = ()
    words = target.words
    if preprocess is not None and target.picture_input:
        reason = reason_against(graph)
        if reason is None:
            pictures = take_pictures(graph, preprocess)
            words += "; normalisation and order of colours inside the patch embedding"
        else:
            kept_inputs = (Decision(f"{target.backend} takes normalised planes", reason),)
    placement = place(graph, target, exclude)
    _insert(graph, placement, thresholds, target, pictures)
    if preprocess is not None:
        centre_biases(graph, pictures, preprocess)
    if target.separate_bias:
        separate_bias(graph)
    decisions = kept_inputs + placement.decisions
    if target.rest == "fp16":
        if rest_mode == "fp16-safe":
            words += ", attention scores and softmax too"
        graph = Graph(graph.to_model())  # types of the tensors that were added
        decisions += convert_to_fp16(graph, rest_mode)
    check_placement(graph.to_model(), target.backend)
    graph.save(destination)
    return QuantizedGraph(
        path=destination,
        backends=(target.backend,),
        rest=target.rest,
        placement=words,
        products=tuple(p.name for p in placement.products),
        decisions=decisions,
        takes_pictures=bool(pictures),
    )


def activation_scale(threshold: float, rest: Literal["fp32", "fp16"], tensor: str = "") -> float:
    """The step of a tensor whose magnitude ``threshold`` gets code 127.

    For ``fp16`` it is rounded up to an FP16 number, so that the FP16 file holds exactly it.

    Raises:
        CalibrationError: the threshold is not a positive number, or too large for FP16.
    """
    if not (np.isfinite(threshold) and threshold > 0.0):
        raise CalibrationError(f"tensor {tensor!r}: threshold {threshold} is not a positive number")
    if rest == "fp16":
        if threshold > MAX_HALF:
            raise CalibrationError(
                f"tensor {tensor!r} reaches {threshold:.4g}, above FP16's {MAX_HALF:.0f}: "
                "exclude the product that reads it, or use another backend"
            )
        return float(half_upwards(np.asarray(threshold / _MAX_CODE)))
    return float(np.float32(max(threshold / _MAX_CODE, _MIN_SINGLE)))


def quantize_weight(
    weight: Array, axis: int, rest: Literal["fp32", "fp16"]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round a weight to INT8 with one scale an output channel, its largest magnitude / 127.

    Args:
        weight: finite floats, any rank.
        axis: the output channels.
        rest: for ``fp16`` scales are rounded up to FP16 numbers before codes are computed.

    Returns:
        Codes in [-127, 127] of the weight's shape, and positive scales (channels,), float32.

    Raises:
        CalibrationError: the weight holds NaN or infinity.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight.astype(np.float64)).max(axis=others)
    if not np.isfinite(largest).all():
        raise CalibrationError("a weight holds NaN or infinity")
    scale = np.where(largest > 0.0, largest, 1.0) / _MAX_CODE
    if rest == "fp16":
        scale = half_upwards(scale).astype(np.float64)
    single = np.maximum(scale, _MIN_SINGLE).astype(np.float32)
    along = [1] * weight.ndim
    along[axis] = -1
    codes = np.rint(weight.astype(np.float64) / single.astype(np.float64).reshape(along))
    return np.clip(codes, -_MAX_CODE, _MAX_CODE).astype(np.int8), single


def separate_bias(graph: Graph) -> int:
    """Give the bias of each ``MatMul`` with a dequantised weight the rank of the product.

    The sum is the same; ONNX Runtime no longer folds the pair into a float ``Gemm``.

    Returns:
        How many were changed.
    """
    graph.index()
    changed = 0
    for node in graph.nodes:
        if node.op_type != "Add":
            continue
        for side in (0, 1):
            bias = graph.value(node.input[side])
            product = graph.producer(node.input[1 - side])
            if bias is None or bias.ndim != 1 or product is None or product.op_type != "MatMul":
                continue
            weight = graph.producer(product.input[1])
            rank = len(graph.shape(product.output[0]))
            if weight is not None and weight.op_type == "DequantizeLinear" and rank > 2:
                shaped = bias.reshape((1,) * (rank - 1) + (-1,))
                node.input[side] = graph.add_constant(f"{node.input[side]}_{rank}d", shaped)
                changed += 1
    graph.index()
    return changed


def _insert(
    graph: Graph,
    placement: Placement,
    thresholds: Mapping[str, float],
    target: Target,
    pictures: Sequence[Picture],
) -> None:
    exact = {picture.planes: picture for picture in pictures}
    inputs = [name for name in placement.inputs if name not in exact]
    missing = [n for n in (*inputs, *placement.outputs) if n not in thresholds]
    if missing:
        raise CalibrationError(
            f"no range was calibrated for tensor {missing[0]!r}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ": calibrate this very graph"
        )
    zero = 128 if target.activations == "uint8" else 0
    zero_point = graph.add_constant("activation_zero_point", np.array(zero, target.activations))
    for name in placement.outputs:
        _quantize_output(graph, name, thresholds[name], zero_point, target)
    pairs: dict[str, str] = {}
    dequantize_pictures(graph, [exact[n] for n in placement.inputs if n in exact])
    for name in inputs:
        maker = graph.producer(name) if target.before_transpose else None
        if maker is None or maker.op_type != "Transpose":
            if name not in pairs:
                pairs[name] = _pair(graph, name, thresholds[name], zero_point, target)
            continue
        source = maker.input[0]
        if source not in pairs:
            pairs[source] = _pair(graph, source, thresholds[name], zero_point, target)
        pairs[name] = _transposed(graph, maker, pairs[source])
    codes: dict[tuple[str, int], tuple[str, ...]] = {}
    for product in placement.products:
        if product.activation in pairs:
            product.node.input[0] = pairs[product.activation]
        key = (product.weight, product.axis)
        if key not in codes:
            codes[key] = _weight_codes(graph, product, target)
        product.node.input[1] = _dequantized_weight(graph, product, codes[key])
    read = {name for node in graph.nodes for name in node.input} | set(graph.outputs)
    graph.nodes = [n for n in graph.nodes if n.op_type != "Transpose" or n.output[0] in read]
    graph.index()


def _pair(graph: Graph, name: str, threshold: float, zero_point: str, target: Target) -> str:
    """Insert Q and DQ behind ``name``; returns the dequantised tensor."""
    scale = graph.add_constant(
        f"{name}_scale", np.float32(activation_scale(threshold, target.rest, name))
    )
    codes, result = graph.unique(f"{name}_codes"), graph.unique(f"{name}_dequantized")
    graph.nodes += [
        graph.node("QuantizeLinear", (name, scale, zero_point), codes, f"{name}_QuantizeLinear"),
        graph.node(
            "DequantizeLinear", (codes, scale, zero_point), result, f"{name}_DequantizeLinear"
        ),
    ]
    return result


def _transposed(graph: Graph, transpose: Node, dequantized: str) -> str:
    """Do to the dequantised tensor what a Transpose does to the float one; returns the result."""
    result = graph.unique(f"{dequantized}_transposed")
    added = graph.node("Transpose", (dequantized,), result, f"{transpose.name}_of_codes")
    added.attribute.extend(transpose.attribute)
    graph.nodes.append(added)
    return result


def _quantize_output(
    graph: Graph, name: str, threshold: float, zero_point: str, target: Target
) -> None:
    """Insert Q and DQ between the node that makes ``name`` and its readers, which keep the name."""
    maker = graph.producer(name)
    if maker is None:
        raise CalibrationError(f"tensor {name!r} is made by no node")
    raw = graph.unique(f"{name}_raw")
    _pair(graph, raw, threshold, zero_point, target)
    maker.output[0] = raw
    graph.nodes[-1].output[0] = name
    graph.index()


def _weight_codes(graph: Graph, product: Product, target: Target) -> tuple[str, ...]:
    """Add a weight's codes, scales and zero points; returns their names."""
    value = graph.value(product.weight)
    if value is None:
        raise CalibrationError(f"the weight of {product.name} is not a constant")
    try:
        codes, scale = quantize_weight(value, product.axis, target.rest)
    except CalibrationError as error:
        raise CalibrationError(f"{product.name}: {error}") from error
    name = product.weight
    return (
        graph.add_constant(f"{name}_codes", codes),
        graph.add_constant(f"{name}_scales", scale),
        graph.add_constant(f"{name}_zero_points", np.zeros(scale.shape, np.int8)),
    )


def _dequantized_weight(graph: Graph, product: Product, codes: tuple[str, ...]) -> str:
    """Add the DQ of a product's weight; each product has its own, over codes that they may share.

    Libraries recognise an INT8 product by a DQ that no other node reads.
    """
    result = graph.unique(f"{product.weight}_dequantized")
    name = f"{product.weight}_DequantizeLinear"
    graph.nodes.append(graph.node("DequantizeLinear", codes, result, name, axis=product.axis))
    return result
