"""INT8 beside Transposes, and products that resample: where Q/DQ stand, and that numbers stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.calib import check_placement, quantize
from edgeseg.errors import CalibrationError

CHANNELS, ROWS, COLUMNS = 8, 6, 5
THRESHOLD = 3.0


def save_graph(path: Path) -> Path:
    """A Linear over channels that lie last, a depthwise convolution, and a resampling product.

    The tensor that is transposed for the convolution is read in its first layout as well.
    """
    rng = np.random.default_rng(1)
    constants = {
        "w": rng.standard_normal((CHANNELS, CHANNELS)),
        "k": rng.standard_normal((CHANNELS, 1, 3, 3)),
        "r": rng.random((COLUMNS, 2 * COLUMNS)),
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="relu"),
        helper.make_node("MatMul", ["y", "w"], ["m"], name="/head/mix/MatMul"),
        helper.make_node("Transpose", ["y"], ["t"], name="/head/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node(
            "Conv", ["t", "k"], ["c"], name="/head/dw/Conv", pads=[1, 1, 1, 1], group=CHANNELS
        ),
        helper.make_node("Transpose", ["m"], ["n"], name="/head/Transpose_1", perm=[0, 3, 1, 2]),
        helper.make_node("Add", ["c", "n"], ["s"], name="/head/Add"),
        helper.make_node("MatMul", ["s", "r"], ["logits"], name="/head/resample_x/MatMul"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "layouts",
        [info("x", TensorProto.FLOAT, [1, ROWS, COLUMNS, CHANNELS])],
        [info("logits", TensorProto.FLOAT, [1, CHANNELS, ROWS, 2 * COLUMNS])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_graph(tmp_path_factory.mktemp("layouts") / "fp32.onnx")


def quantised(fp32: Path, backend: str) -> Path:
    thresholds = dict.fromkeys(("y", "t", "c", "s"), THRESHOLD)
    return quantize(fp32, thresholds, backend, fp32.with_name(f"{backend}.onnx")).path


def nodes_of(path: Path) -> dict[str, Any]:
    return {node.name: node for node in onnx.load(path).graph.node}


def maker(path: Path, tensor: str) -> Any:
    return next(n for n in onnx.load(path).graph.node if tensor in n.output)


def test_openvino_s_codes_are_transposed_not_the_floats(fp32: Path) -> None:
    path = quantised(fp32, "openvino")
    convolution = nodes_of(path)["/head/dw/Conv"]
    transpose = maker(path, convolution.input[0])
    assert transpose.op_type == "Transpose"
    assert maker(path, transpose.input[0]).op_type == "DequantizeLinear"
    linear = nodes_of(path)["/head/mix/MatMul"]
    assert linear.input[0] == transpose.input[0], "both readers share one pair"
    assert "/head/Transpose" not in nodes_of(path), "the float's Transpose has no reader left"
    assert sum(n.op_type == "QuantizeLinear" for n in onnx.load(path).graph.node) == 1


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_other_libraries_quantise_what_the_product_reads(fp32: Path, backend: str) -> None:
    path = quantised(fp32, backend)
    convolution = nodes_of(path)["/head/dw/Conv"]
    assert maker(path, convolution.input[0]).op_type == "DequantizeLinear"


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "tensorrt"])
def test_resampling_stays_in_float(fp32: Path, backend: str) -> None:
    product = nodes_of(quantised(fp32, backend))["/head/resample_x/MatMul"]
    assert all(name in ("s", "r") or "codes" not in name for name in product.input)
    assert maker(quantised(fp32, backend), product.input[0]).op_type != "DequantizeLinear"


def test_both_orders_compute_the_same(fp32: Path) -> None:
    x = np.random.default_rng(2).standard_normal((1, ROWS, COLUMNS, CHANNELS)).astype(np.float32)
    path = quantised(fp32, "openvino")
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    codes = np.clip(np.rint(np.maximum(x, 0) / np.float32(THRESHOLD / 127)), -128, 127)
    assert np.abs(codes).max() > 20
    with open_engine(path, "openvino", EngineOptions(threads=1)) as engine:
        found = engine.infer({"x": x})["logits"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4 * np.abs(expected).max())
    (float_answer,) = ReferenceEvaluator(str(fp32)).run(None, {"x": x})
    error = np.linalg.norm(found - float_answer) / np.linalg.norm(float_answer)
    assert 1e-5 < error < 0.03


def test_a_transposed_activation_for_anything_else_is_an_offence(fp32: Path) -> None:
    model = onnx.load(quantised(fp32, "openvino"))
    transposed = next(n for n in model.graph.node if n.name.endswith("_of_codes"))
    add = next(n for n in model.graph.node if n.name == "/head/Add")
    add.input[1] = transposed.output[0]
    with pytest.raises(CalibrationError, match=r"/head/Add \(Add\) reads a quantised"):
        check_placement(model, "openvino")
