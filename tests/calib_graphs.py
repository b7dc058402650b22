"""A small ViT with a convolutional decoder, built node by node, for tests of calibration.

It has what exported SegDINO graphs have: a patch embedding, class and register tokens, LayerNorm,
fused qkv, attention, LayerScale, a GELU MLP, and a decoder of convolutions with Resize, a residual
block with group normalisation (written as InstanceNormalization) and a final Resize.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEIGHT_PX, WIDTH_PX = 64, 96
PATCH_PX = 16
GRID = (HEIGHT_PX // PATCH_PX, WIDTH_PX // PATCH_PX)
TOKENS = GRID[0] * GRID[1]
PREFIX = 5
"""One class token and four register tokens."""
OUTLIER_CHANNEL = 7


class _Builder:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def const(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def op(self, kind: str, name: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{name}:{i}" if outputs > 1 else f"{name}:out" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names if outputs > 1 else names[0]

    def linear(self, name: str, x: str, n_in: int, n_out: int, scale: float = 1.0) -> str:
        weight = self.rng.standard_normal((n_in, n_out)) * scale / np.sqrt(n_in)
        y = self.op("MatMul", f"{name}/MatMul", x, self.const(f"{name}.weight", weight))
        bias = self.const(f"{name}.bias", self.rng.standard_normal(n_out) * 0.1)
        return self.op("Add", f"{name}/Add", y, bias)

    def norm(self, name: str, x: str, width: int) -> str:
        gain = self.const(f"{name}.weight", 1 + 0.2 * self.rng.standard_normal(width))
        shift = self.const(f"{name}.bias", 0.1 * self.rng.standard_normal(width))
        return self.op("LayerNormalization", name, x, gain, shift, axis=-1, epsilon=1e-5)

    def conv(self, name: str, x: str, n_in: int, n_out: int, k: int, **attributes: Any) -> str:
        group = attributes.get("group", 1)
        shape = (n_out, n_in // group, k, k)
        weight = self.rng.standard_normal(shape) / np.sqrt(n_in // group * k * k)
        inputs = [x, self.const(f"{name}.weight", weight)]
        if attributes.pop("bias", True):
            inputs.append(self.const(f"{name}.bias", self.rng.standard_normal(n_out) * 0.1))
        return self.op("Conv", name, *inputs, kernel_shape=[k, k], **attributes)

    def resize(self, name: str, x: str, factor: int) -> str:
        scales = self.const(f"{name}.scales", [1, 1, factor, factor])
        return self.op(
            "Resize",
            name,
            x,
            "",
            scales,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )


def _block(b: _Builder, i: int, x: str, width: int, heads: int) -> str:
    name = f"blocks.{i}"
    n, d = PREFIX + TOKENS, width // heads
    qkv = b.linear(f"{name}/qkv", b.norm(f"{name}/norm1", x, width), width, 3 * width)
    split = b.op(
        "Reshape", f"{name}/heads", qkv, b.const(f"{name}.shape", [1, n, 3, heads, d], np.int64)
    )
    split = b.op("Transpose", f"{name}/transpose", split, perm=[2, 0, 3, 1, 4])
    parts = b.op("Split", f"{name}/split", split, outputs=3, axis=0, num_outputs=3)
    axes = b.const(f"{name}.axes", [0], np.int64)
    q, k, v = (b.op("Squeeze", f"{name}/{c}", p, axes) for c, p in zip("qkv", parts, strict=True))
    q = b.op("Mul", f"{name}/scale", q, b.const(f"{name}.scale", d**-0.5))
    k = b.op("Transpose", f"{name}/kt", k, perm=[0, 1, 3, 2])
    scores = b.op("MatMul", f"{name}/scores", q, k)
    weights = b.op("Softmax", f"{name}/softmax", scores, axis=-1)
    y = b.op("MatMul", f"{name}/values", weights, v)
    y = b.op("Transpose", f"{name}/merge", y, perm=[0, 2, 1, 3])
    y = b.op("Reshape", f"{name}/flat", y, b.const(f"{name}.flat", [1, n, width], np.int64))
    y = b.linear(f"{name}/proj", y, width, width)
    y = b.op("Mul", f"{name}/ls1", y, b.const(f"{name}.gamma1", np.full(width, 0.5)))
    x = b.op("Add", f"{name}/residual1", x, y)
    y = b.linear(f"{name}/fc1", b.norm(f"{name}/norm2", x, width), width, 4 * width)
    y = b.linear(f"{name}/fc2", b.op("Gelu", f"{name}/gelu", y), 4 * width, width)
    y = b.op("Mul", f"{name}/ls2", y, b.const(f"{name}.gamma2", np.full(width, 0.5)))
    return b.op("Add", f"{name}/residual2", x, y)


def make_vit(
    width: int = 64,
    depth: int = 2,
    heads: int = 2,
    channels: int = 16,
    *,
    outlier: float = 0.0,
    seed: int = 0,
) -> Any:
    """An ``onnx.ModelProto``: ``image`` (1, 3, 64, 96) to ``logits`` (1, 1, 64, 96).

    ``outlier`` is added to one channel of the class and register tokens.
    """
    b = _Builder(seed)
    x = b.conv("patch_embed", "image", 3, width, PATCH_PX, strides=[PATCH_PX, PATCH_PX])
    x = b.op("Reshape", "tokens", x, b.const("tokens.shape", [1, width, TOKENS], np.int64))
    x = b.op("Transpose", "tokens_last", x, perm=[0, 2, 1])
    prefix = b.rng.standard_normal((1, PREFIX, width)) * 0.5
    prefix[:, :, OUTLIER_CHANNEL] += outlier
    x = b.op("Concat", "prefix", b.const("prefix.tokens", prefix), x, axis=1)
    for i in range(depth):
        x = _block(b, i, x, width, heads)
    x = b.norm("norm", x, width)
    starts, ends = (
        b.const("starts", [PREFIX], np.int64),
        b.const("ends", [PREFIX + TOKENS], np.int64),
    )
    x = b.op("Slice", "patches", x, starts, ends, b.const("slice.axes", [1], np.int64))
    x = b.op("Transpose", "channels_first", x, perm=[0, 2, 1])
    x = b.op("Reshape", "grid", x, b.const("grid.shape", [1, width, *GRID], np.int64))
    x = b.conv("decoder/proj", x, width, channels, 1, bias=False)
    x = b.resize("decoder/up", x, 4)
    x = b.conv("decoder/conv", x, channels, channels, 3, pads=[1, 1, 1, 1], bias=False)
    y = b.conv("decoder/dw", x, channels, channels, 3, pads=[1] * 4, group=channels, bias=False)
    y = b.conv("decoder/pw", y, channels, channels, 1, bias=False)
    h, w = 4 * GRID[0], 4 * GRID[1]
    y = b.op("Reshape", "decoder/groups", y, b.const("groups.shape", [1, 4, -1], np.int64))
    y = b.op(
        "InstanceNormalization",
        "decoder/norm",
        y,
        b.const("in.one", np.ones(4)),
        b.const("in.zero", np.zeros(4)),
    )
    y = b.op("Reshape", "decoder/ungroup", y, b.const("ung", [1, channels, h, w], np.int64))
    y = b.op("Gelu", "decoder/gelu", y)
    y = b.op("Mul", "decoder/gamma", y, b.const("gamma", 0.5))
    x = b.op("Add", "decoder/residual", x, y)
    x = b.conv("decoder/out", x, channels, 1, 1)
    x = b.resize("logits", x, 4)
    b.nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        b.nodes,
        "vit",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, HEIGHT_PX, WIDTH_PX])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, HEIGHT_PX, WIDTH_PX])],
        list(b.constants.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def save_vit(path: Path, **options: Any) -> Path:
    """Write ``make_vit(**options)`` and return its path."""
    onnx.save(make_vit(**options), path)
    return path


def frames(count: int = 4, seed: int = 1) -> list[Any]:
    """Smooth random inputs (1, 3, 64, 96), float32, of unit scale."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 1, 3, HEIGHT_PX // 8, WIDTH_PX // 8))
    fine = coarse.repeat(8, axis=3).repeat(8, axis=4) + 0.3 * rng.standard_normal(
        (count, 1, 3, HEIGHT_PX, WIDTH_PX)
    )
    return [frame.astype(np.float32) for frame in fine]


def cosine(a: Any, b: Any) -> float:
    """Cosine of the angle between two arrays, in float64."""
    x, y = (np.asarray(v, np.float64).ravel() for v in (a, b))
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def weights_of(model: Any) -> dict[str, Any]:
    """Arrays of all initialisers."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
