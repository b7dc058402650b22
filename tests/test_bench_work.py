"""Operations and bytes of graphs, against numbers worked out by hand, and the bound they set."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from edgeseg.bench.result import LimitsRecord
from edgeseg.bench.work import Work, bound, count_work
from edgeseg.errors import InputError, UsageError

ov = pytest.importorskip("openvino")
ops = pytest.importorskip("openvino.opset13")

LIMITS = LimitsRecord({"int8": 400.0, "fp32": 100.0}, bandwidth_gib_s=10.0, threads=1, how="")


def parameter(*shape: int):
    return ops.parameter(list(shape), np.float32)


def weight(*shape: int):
    return ops.constant(np.ones(shape, np.float32))


def model(result, *parameters):
    return ov.Model([ops.result(result)], list(parameters), "m")


def operations(result, *parameters, **options) -> dict[str, int]:
    gop = count_work(model(result, *parameters), **options).gop
    return {name: round(1e9 * value) for name, value in gop.items()}


def fake_quantized(value, levels: int = 256):
    ends = (ops.constant(np.float32(-1.0)), ops.constant(np.float32(1.0)))
    return ops.fake_quantize(value, *ends, *ends, levels)


def coded_weight(*shape: int, kind=np.int8):
    codes = ops.convert(ops.constant(np.ones(shape, kind)), np.float32)
    return ops.multiply(codes, ops.constant(np.float32(0.1)))


def test_a_product_of_tokens_with_weights():
    x = parameter(2, 5, 3)
    assert operations(ops.matmul(x, weight(3, 7), False, False), x) == {"fp32": 2 * 2 * 5 * 3 * 7}
    assert operations(ops.matmul(x, weight(7, 3), False, True), x) == {"fp32": 2 * 2 * 5 * 3 * 7}
    assert operations(ops.matmul(x, weight(5, 7), True, False), x) == {"fp32": 2 * 2 * 3 * 5 * 7}


def test_products_with_vectors_and_broadcast_batches():
    x = parameter(5, 3)
    assert operations(ops.matmul(x, weight(3), False, False), x) == {"fp32": 2 * 5 * 3}
    v = parameter(3)
    # A transposed vector is the same vector.
    assert operations(ops.matmul(v, weight(3, 7), True, False), v) == {"fp32": 2 * 3 * 7}
    y = parameter(4, 1, 5, 3)
    assert operations(ops.matmul(y, weight(6, 3, 7), False, False), y) == {
        "fp32": 2 * 4 * 6 * 5 * 3 * 7
    }


def test_attention_of_activations_counts_the_batch_and_stays_in_the_rest():
    q, k, v = parameter(1, 6, 261, 64), parameter(1, 6, 261, 64), parameter(1, 6, 261, 64)
    scores = ops.softmax(ops.matmul(q, k, False, True), 3)
    expected = 2 * (2 * 6 * 261 * 261 * 64)
    result = ops.matmul(scores, v, False, False)
    assert operations(result, q, k, v) == {"fp32": expected}
    assert operations(result, q, k, v, rest="bf16") == {"bf16": expected}


def test_attention_as_one_operation():
    q, k, v = parameter(1, 6, 20, 64), parameter(1, 6, 30, 64), parameter(1, 6, 30, 48)
    result = ops.scaled_dot_product_attention(q, k, v)
    assert operations(result, q, k, v) == {"fp32": 2 * 6 * 20 * 30 * (64 + 48)}


def test_convolutions():
    x = parameter(1, 8, 10, 12)
    same = ([1, 1], [1, 1], [1, 1], [1, 1])
    dense = ops.convolution(x, weight(16, 8, 3, 3), *same)
    assert operations(dense, x) == {"fp32": 2 * (16 * 10 * 12) * (8 * 9)}
    strided = ops.convolution(x, weight(16, 8, 2, 3), [2, 3], [0, 0], [0, 0], [1, 1])
    assert operations(strided, x) == {"fp32": 2 * (16 * 5 * 4) * (8 * 6)}
    # Two groups of four inputs and eight outputs.
    grouped = ops.group_convolution(x, weight(2, 8, 4, 3, 3), *same)
    assert operations(grouped, x) == {"fp32": 2 * (16 * 10 * 12) * (4 * 9)}
    depthwise = ops.group_convolution(x, weight(8, 1, 1, 3, 3), *same)
    assert operations(depthwise, x) == {"fp32": 2 * (8 * 10 * 12) * 9}


def test_transposed_convolutions_count_what_each_input_gives():
    x = parameter(1, 8, 10, 12)
    steps = ([2, 2], [0, 0], [0, 0], [1, 1])
    doubled = ops.convolution_backprop_data(x, weight(8, 16, 2, 2), *steps)
    # 20 x 24 outputs of 16 channels, each of which takes one weight of each input.
    assert operations(doubled, x) == {"fp32": 2 * (16 * 20 * 24) * 8}
    grouped = ops.group_convolution_backprop_data(x, weight(2, 4, 8, 2, 2), *steps)
    assert operations(grouped, x) == {"fp32": 2 * (16 * 20 * 24) * 4}


def test_einsum_of_two_factors():
    x, y = parameter(2, 6, 20, 64), parameter(2, 6, 30, 64)
    assert operations(ops.einsum([x, y], "bhqd,bhkd->bhqk"), x, y) == {
        "fp32": 2 * 2 * 6 * 20 * 30 * 64
    }
    with pytest.raises(InputError, match="Einsum"):
        operations(ops.einsum([x], "bhqd->bhdq"), x)


def test_int8_needs_both_factors():
    x = parameter(4, 8)
    count = 2 * 4 * 8 * 3
    for value, factor, arithmetic in (
        (fake_quantized(x), coded_weight(8, 3), "int8"),
        (fake_quantized(x), coded_weight(8, 3, kind=np.uint8), "int8"),
        (fake_quantized(x), fake_quantized(weight(8, 3), levels=255), "int8"),
        (fake_quantized(x), weight(8, 3), "fp32"),
        (x, coded_weight(8, 3), "fp32"),
        (fake_quantized(x, levels=65536), coded_weight(8, 3), "fp32"),
        (fake_quantized(x), coded_weight(8, 3, kind=np.int16), "fp32"),
    ):
        assert operations(ops.matmul(value, factor, False, False), x) == {arithmetic: count}


def test_codes_pass_through_what_moves_them_and_not_through_arithmetic():
    x = parameter(4, 8)
    axes = ops.constant(np.array([1, 0]))
    moved = ops.transpose(ops.transpose(fake_quantized(x), axes), axes)
    assert operations(ops.matmul(moved, coded_weight(8, 3), False, False), x) == {"int8": 192}
    joined = ops.concat([fake_quantized(x), fake_quantized(ops.relu(x))], 0)
    assert operations(ops.matmul(joined, coded_weight(8, 3), False, False), x) == {"int8": 384}
    half = ops.concat([fake_quantized(x), x], 0)
    assert operations(ops.matmul(half, coded_weight(8, 3), False, False), x) == {"fp32": 384}
    summed = ops.add(fake_quantized(x), x)
    assert operations(ops.matmul(summed, coded_weight(8, 3), False, False), x) == {"fp32": 192}
    scaled = ops.multiply(fake_quantized(x), x)
    assert operations(ops.matmul(scaled, coded_weight(8, 3), False, False), x) == {"fp32": 192}
    both = ops.matmul(fake_quantized(x), fake_quantized(ops.relu(x)), False, True)
    assert operations(both, x) == {"int8": 2 * 4 * 4 * 8}


def test_what_no_input_reaches_is_computed_once_and_not_counted():
    x = parameter(4, 8)
    folded = ops.matmul(weight(8, 5), weight(5, 3), False, False)
    assert operations(ops.matmul(x, folded, False, False), x) == {"fp32": 2 * 4 * 8 * 3}
    assert operations(ops.relu(x), x) == {}


def test_bytes_are_constants_as_stored_with_inputs_and_outputs():
    x = parameter(4, 8)
    half = ops.convert(ops.constant(np.ones((8, 3), np.float16)), np.float32)
    work = count_work(model(ops.matmul(x, half, False, False), x))
    assert work.bytes_mib * 2**20 == 4 * 4 * 8 + 2 * 8 * 3 + 4 * 4 * 3
    work = count_work(model(ops.matmul(fake_quantized(x), coded_weight(8, 3), False, False), x))
    # Two ends of the range and a scale are float32.
    assert work.bytes_mib * 2**20 == 4 * 4 * 8 + 8 * 3 + 3 * 4 + 4 * 4 * 3


def qdq_graph(path, *, weights_are_codes: bool) -> None:
    """x -> Q/DQ -> Gemm with transposed weights -> Conv without Q/DQ in front."""
    generator = np.random.default_rng(0)
    constants = {
        "scale": np.float32(0.02),
        "zero": np.uint8(128),
        "codes": generator.integers(-127, 128, (6, 16)).astype(np.int8),
        "weight": generator.normal(size=(6, 16)).astype(np.float32),
        "weight_scales": np.full(6, 0.01, np.float32),
        "weight_zeros": np.zeros(6, np.int8),
        "shape": np.array([1, 6, 2, 2]),
        "kernel": generator.normal(size=(5, 6, 1, 1)).astype(np.float32),
    }
    weight_name = "weight_dq" if weights_are_codes else "weight"
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node(
            "DequantizeLinear", ["codes", "weight_scales", "weight_zeros"], ["weight_dq"], axis=0
        ),
        helper.make_node("Gemm", ["dq", weight_name], ["y"], transB=1),
        helper.make_node("Transpose", ["y"], ["yt"]),
        helper.make_node("Reshape", ["yt", "shape"], ["planes"]),
        helper.make_node("Conv", ["planes", "kernel"], ["out"]),
    ]
    used = {name for node in nodes for name in node.input}
    if not weights_are_codes:
        nodes = [node for node in nodes if "weight_dq" not in node.output]
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 5, 2, 2])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in used],
    )
    opset = helper.make_opsetid("", 17)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))


def test_an_onnx_file_with_q_and_dq(tmp_path):
    qdq_graph(tmp_path / "both.onnx", weights_are_codes=True)
    work = count_work(tmp_path / "both.onnx")
    product, convolution = 2 * 4 * 16 * 6, 2 * (5 * 2 * 2) * 6
    assert {k: round(1e9 * v) for k, v in work.gop.items()} == {
        "int8": product,
        "fp32": convolution,
    }
    assert 6 * 16 + 4 * 5 * 6 <= work.bytes_mib * 2**20 < 2 * 6 * 16 + 4 * (5 * 6 + 64 + 20) + 400
    qdq_graph(tmp_path / "one.onnx", weights_are_codes=False)
    gop = count_work(tmp_path / "one.onnx", rest="bf16").gop
    assert {k: round(1e9 * v) for k, v in gop.items()} == {"bf16": product + convolution}


def vit_s(tokens: int = 261):
    """The products of DINOv3's ViT-S/16 at 256 pixels: 256 patches, a class token, 4 registers."""
    image = parameter(1, 3, 256, 256)
    patches = ops.convolution(image, weight(384, 3, 16, 16), [16, 16], [0, 0], [0, 0], [1, 1])
    flat = ops.reshape(patches, ops.constant(np.array([1, 384, 256])), False)
    x = ops.transpose(flat, ops.constant(np.array([0, 2, 1])))
    x = ops.concat([weight(1, tokens - 256, 384), x], 1)
    split = ops.constant(np.array([1, tokens, 3, 6, 64]))
    heads_first = ops.constant(np.array([2, 0, 3, 1, 4]))
    for _ in range(12):
        qkv = ops.reshape(ops.matmul(x, weight(384, 1152), False, False), split, False)
        qkv = ops.transpose(qkv, heads_first)
        q, k, v = (ops.gather(qkv, ops.constant(i), ops.constant(0)) for i in range(3))
        mixed = ops.matmul(ops.softmax(ops.matmul(q, k, False, True), 3), v, False, False)
        mixed = ops.transpose(mixed, ops.constant(np.array([0, 2, 1, 3])))
        mixed = ops.reshape(mixed, ops.constant(np.array([1, tokens, 384])), False)
        x = ops.add(x, ops.matmul(mixed, weight(384, 384), False, False))
        hidden = ops.gelu(ops.matmul(x, weight(384, 1536), False, False), "erf")
        x = ops.add(x, ops.matmul(hidden, weight(1536, 384), False, False))
    return model(x, image)


def test_vit_s_at_256_pixels():
    gop = count_work(vit_s()).gop["fp32"]
    # 256 patches of 768 values; 12 blocks of 12 x 384 x 384 weights; attention twice over 261 keys.
    patches = 2 * 256 * 768 * 384 / 1e9
    linear = 2 * 12 * 261 * 12 * 384 * 384 / 1e9
    attention = 2 * 12 * 2 * 261 * 261 * 384 / 1e9
    assert linear == pytest.approx(11.08, abs=0.01) and attention == pytest.approx(1.26, abs=0.01)
    assert gop == pytest.approx(patches + linear + attention, rel=1e-12)


def test_a_graph_as_exported_has_at_least_the_operations_of_its_backbone(tmp_path):
    """All linear layers of the blocks, and the attention between all tokens."""
    pytest.importorskip("torch")
    from checkpoints import make_checkpoint

    from edgeseg.export import export_onnx, load

    loaded = load(make_checkpoint(tmp_path / "m.pth", "segdino_v2"))
    graph = export_onnx(loaded, tmp_path / "m.onnx", height_px=64, width_px=96)
    config = loaded.config.backbone
    tokens = (64 // 16) * (96 // 16) + 1 + config.registers
    blocks = sum(
        2 * tokens * math.prod(value.shape)
        for name, value in loaded.model.state_dict().items()
        if ".blocks." in name and value.ndim == 2
    )
    attention = 2 * 2 * tokens * tokens * config.width * config.depth
    total = 1e9 * count_work(graph.path).gop["fp32"]
    assert blocks + attention < total < 3 * (blocks + attention)


def test_files_and_graphs_that_cannot_be_counted(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"broken\.onnx cannot be read"):
        count_work(tmp_path / "broken.onnx")
    x = ops.parameter([-1, 3], np.float32)
    with pytest.raises(InputError, match="no fixed shape"):
        count_work(model(ops.matmul(x, weight(3, 7), False, False), x))


def test_the_bound_is_the_larger_of_computing_and_moving():
    found = bound(Work({"int8": 4.0, "fp32": 0.5}, bytes_mib=51.2), LIMITS, median_ms=20.0)
    assert found.compute_ms == pytest.approx(10.0 + 5.0)
    assert found.memory_ms == pytest.approx(5.0)
    assert found.share == pytest.approx(0.75)
    assert found.gop == {"int8": 4.0, "fp32": 0.5} and found.bytes_mib == 51.2
    moved = bound(Work({"fp32": 0.1}, bytes_mib=102.4), LIMITS, median_ms=20.0)
    assert moved.memory_ms == pytest.approx(10.0) and moved.share == pytest.approx(0.5)
    nothing = bound(Work({}, bytes_mib=10.24), LIMITS, median_ms=2.0)
    assert nothing.compute_ms == 0.0 and nothing.share == pytest.approx(0.5)


def test_no_bound_without_the_rate_and_no_share_of_no_time():
    assert bound(Work({"bf16": 1.0}, bytes_mib=1.0), LIMITS, median_ms=10.0) is None
    for median_ms in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="no time"):
            bound(Work({"fp32": 1.0}, bytes_mib=1.0), LIMITS, median_ms)
