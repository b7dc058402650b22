"""The normalisation and the order of colours, moved into the patch embedding.

An exported graph reads the planes ``x_c = (p_c * scale - mean_c) / std_c`` (c over R, G, B) of the
resized picture ``p``, whose values are whole numbers from 0 to 255. A convolution without padding
that alone reads them can as well read the picture:

    y_o = b_o + sum_cij W_ocij x_c(i, j)
        = b_o - sum_cij W'_ocij mean_c / scale + sum_cij W'_ocij p_c(i, j)
    W'_ocij = W_ocij scale / std_c

The channels of W' are then put into the picture's order, B, G, R. (With padding it would not be the
same: a zero beside the planes stands for the mean, one beside the picture for black.) The picture's
bytes are a quarter of the planes', are codes of INT8 as they are (scale 1, zero point 0), so that
nothing is rounded or rewritten at the input, and use all codes from 0 to 255.

The bias is taken from the weights that the file really holds, so that rounded ones multiply the
distance from the mean picture, as they did behind a normalisation. With the bias of the unrounded
weights their errors would be multiplied by the brightness of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from edgeseg.calib.graph import Graph, Node
from edgeseg.errors import CalibrationError
from edgeseg.spec import PreprocessSpec

__all__ = ["Picture", "centre_biases", "dequantize_pictures", "reason_against", "take_pictures"]

_COLOURS = 3
_TO_PLANES = [0, 3, 1, 2]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """An input that takes the resized picture: uint8 (N, height, width, 3), BGR."""

    name: str
    planes: str
    """The same as float (N, 3, height, width), which the convolution reads."""
    conversion: Node
    """What makes floats of the bytes."""
    convolution: Node


def reason_against(graph: Graph) -> str | None:
    """Why the inputs of a graph must stay normalised planes, in words; None if they need not."""
    for name in graph.inputs:
        reason = _reason_against(graph, name)
        if reason is not None:
            return f"{name}: {reason}"
    return None


def take_pictures(graph: Graph, spec: PreprocessSpec) -> tuple[Picture, ...]:
    """Let every input of a float graph take the resized picture instead of normalised planes.

    Weights of the convolutions are changed, their biases only by ``centre_biases``, which must
    follow. A weight that several convolutions share stays one.

    Args:
        graph: changed in place; ``reason_against`` it must be None.
        spec: the normalisation that the graph was exported for.
    """
    gain = spec.scale / np.asarray(spec.std, np.float64)
    folded: dict[str, str] = {}
    pictures = []
    for name in graph.inputs:
        (convolution,) = graph.consumers(name)
        batch, colours, height_px, width_px = graph.shape(name)
        weight = convolution.input[1]
        if weight not in folded:
            # Reversed: the order of the picture's colours.
            value = (_constant(graph, weight) * gain[:, None, None])[:, ::-1]
            folded[weight] = graph.add_constant(f"{weight}_of_picture", value.astype(np.float32))
        convolution.input[1] = folded[weight]
        floats, planes = graph.unique(f"{name}_floats"), graph.unique(f"{name}_planes")
        conversion = graph.node(
            "Cast", (name,), floats, f"{convolution.name}_floats", to=TensorProto.FLOAT
        )
        transpose = graph.node(
            "Transpose", (floats,), planes, f"{convolution.name}_planes", perm=_TO_PLANES
        )
        convolution.input[0] = planes
        graph.nodes += [conversion, transpose]
        graph.retype_input(name, TensorProto.UINT8, (batch, height_px, width_px, colours))
        pictures.append(Picture(name, planes, conversion, convolution))
    graph.index()
    return tuple(pictures)


def dequantize_pictures(graph: Graph, pictures: Sequence[Picture]) -> None:
    """Make the bytes of pictures the codes of an INT8 product: scale 1, zero point 0."""
    if not pictures:
        return
    scale = graph.add_constant("picture_scale", np.float32(1.0))
    zero_point = graph.add_constant("picture_zero_point", np.uint8(0))
    for picture in pictures:
        node = picture.conversion
        node.op_type = "DequantizeLinear"
        node.input.extend([scale, zero_point])
        del node.attribute[:]


def centre_biases(graph: Graph, pictures: Sequence[Picture], spec: PreprocessSpec) -> None:
    """Subtract from each convolution's bias what its weights make of the mean picture.

    Args:
        graph: changed in place, after its weights were rounded.
        pictures: of ``take_pictures``.
        spec: as for ``take_pictures``.
    """
    graph.index()
    mean_bgr = np.asarray(spec.mean[::-1], np.float64) / spec.scale
    made: dict[tuple[str, ...], str] = {}
    for picture in pictures:
        node = picture.convolution
        maker = graph.producer(node.input[1])
        source = (node.input[1],) if maker is None else tuple(maker.input)
        key = (*source, *node.input[2:])
        if key not in made:
            weight = _constant(graph, source[0])
            if maker is not None:
                weight = weight * _constant(graph, source[1]).reshape(-1, 1, 1, 1)
            bias = _constant(graph, node.input[2]) if len(node.input) > 2 else 0.0
            value = bias - weight.sum(axis=(2, 3)) @ mean_bgr
            made[key] = graph.add_constant(f"{node.name}_bias", value.astype(np.float32))
        del node.input[2:]
        node.input.append(made[key])


def _reason_against(graph: Graph, name: str) -> str | None:
    shape = graph.shape(name)
    if graph.element_type(name) != TensorProto.FLOAT or len(shape) != 4 or shape[1] != _COLOURS:
        return f"not three planes of float32, but {shape}"
    readers = graph.consumers(name)
    if len(readers) != 1 or readers[0].op_type != "Conv" or name in graph.outputs:
        return "read by something else than one convolution"
    (node,) = readers
    if not all(graph.is_constant(constant) for constant in node.input[1:]):
        return f"the weights of {node.name} are computed"
    attributes = {a.name: a for a in node.attribute}
    if "group" in attributes and attributes["group"].i != 1:
        return f"{node.name} keeps the colours apart"
    automatic = attributes["auto_pad"].s if "auto_pad" in attributes else b"NOTSET"
    pads = attributes["pads"].ints if "pads" in attributes else ()
    if automatic not in (b"NOTSET", b"VALID") or any(pads):
        return f"{node.name} pads, and a padded picture is not a padded normalised one"
    return None


def _constant(graph: Graph, name: str) -> npt.NDArray[np.float64]:
    value = graph.value(name)
    if value is None:
        raise CalibrationError(f"{name!r} is not a constant")
    return value.astype(np.float64)
