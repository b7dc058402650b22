"""FP16 graphs: which tensors are half, which stay single, and that libraries accept them."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calib_graphs import cosine, frames, make_vit, save_vit, weights_of
from onnx import TensorProto, helper, numpy_helper

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.calib import FP16_MODES, collect_ranges, quantize, to_fp16
from edgeseg.errors import CalibrationError, OutputError, UsageError

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
NORMALISATIONS = ("LayerNormalization", "InstanceNormalization")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit(tmp_path_factory.mktemp("fp16") / "vit.onnx")


@pytest.fixture(scope="module", params=FP16_MODES)
def converted(request: pytest.FixtureRequest, vit: Path) -> tuple[str, Path]:
    result = to_fp16(vit, vit.with_name(f"{request.param}.onnx"), request.param)
    assert result.mode == request.param and result.decisions == ()
    return request.param, result.path


def types(path: Path) -> tuple[Any, dict[str, int]]:
    """The model and the element type of each tensor, by strict inference."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    found = {
        v.name: v.type.tensor_type.elem_type
        for v in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    }
    found.update({t.name: t.data_type for t in inferred.graph.initializer})
    return inferred, found


def test_what_is_half_and_what_is_single(converted: tuple[str, Path]) -> None:
    mode, path = converted
    model, kind = types(path)
    single = set(NORMALISATIONS) | ({"Softmax"} if mode == "fp16-safe" else set())
    for node in model.graph.node:
        if node.op_type == "Cast":
            continue
        scores = mode == "fp16-safe" and node.name.endswith("/scores")
        expected = SINGLE if node.op_type in single or scores else HALF
        for name in node.output:
            assert kind[name] in (expected, TensorProto.INT64), node.name
        for i, name in enumerate(node.input):
            if name and kind[name] != TensorProto.INT64:
                scales = node.op_type == "Resize" and i > 0
                assert kind[name] == (SINGLE if scales else expected), (node.name, i)


def test_inputs_and_outputs_stay_single_with_one_cast_each(converted: tuple[str, Path]) -> None:
    mode, path = converted
    model, kind = types(path)
    assert kind["image"] == kind["logits"] == SINGLE
    casts = [n for n in model.graph.node if n.op_type == "Cast"]
    assert [n.input[0] for n in casts].count("image") == 1
    assert [n.output[0] for n in casts].count("logits") == 1
    pairs = collections.Counter((n.input[0], n.attribute[0].i) for n in casts)
    assert max(pairs.values()) == 1  # casts are shared
    norms = sum(n.op_type in NORMALISATIONS for n in model.graph.node)
    scores = 2 if mode == "fp16-safe" else 0
    # in and out of each normalisation; q, k and the weights of each attention; input and output.
    assert len(casts) == 2 * norms + 3 * scores + 2


def test_libraries_run_it_and_agree(converted: tuple[str, Path], vit: Path) -> None:
    _, path = converted
    image = frames(1)[0]
    with open_engine(vit, "openvino", EngineOptions(threads=1)) as engine:
        expected = engine.infer({"image": image})["logits"]
    for runtime in ("openvino", "onnxruntime"):
        pytest.importorskip(runtime)
        name: Any = runtime
        with open_engine(path, name, EngineOptions(threads=1)) as engine:
            found = engine.infer({"image": image})["logits"]
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= 0.02 * np.ptp(expected)
        assert cosine(found, expected) > 0.9999


def test_files_are_half_the_size(converted: tuple[str, Path], vit: Path) -> None:
    assert converted[1].stat().st_size < 0.65 * vit.stat().st_size


def replaced(model: Any, name: str, value: Any) -> Any:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(value, name))
    return model


@pytest.mark.parametrize("value", [7e4, -np.inf])
def test_constants_beyond_half_keep_their_operation_single(tmp_path: Path, value: float) -> None:
    model = make_vit()
    weight = weights_of(model)["blocks.1/fc1.bias"].copy()
    weight[3] = value
    onnx.save(replaced(model, "blocks.1/fc1.bias", weight), tmp_path / "big.onnx")
    result = to_fp16(tmp_path / "big.onnx", tmp_path / "half.onnx")
    assert len(result.decisions) == 1
    assert result.decisions[0].what == "blocks.1/fc1/Add (Add) stays in FP32"
    assert "blocks.1/fc1.bias" in result.decisions[0].why
    _, kind = types(tmp_path / "half.onnx")
    assert kind["blocks.1/fc1/Add:out"] == SINGLE
    assert kind["blocks.0/fc1/Add:out"] == HALF


def test_scores_are_found_behind_scaling_and_masks(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    rng = np.random.default_rng(0)
    constants = {
        "wq": rng.standard_normal((8, 8)),
        "s": np.array(0.35),
        "mask": np.zeros((1, 4, 4)),
        "wc": rng.standard_normal((8, 3)),
    }
    nodes = [
        helper.make_node("MatMul", ["image", "wq"], ["q"], name="q"),
        helper.make_node("Transpose", ["image"], ["kt"], name="kt", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["a"], name="scores"),
        helper.make_node("Mul", ["a", "s"], ["b"], name="scaling"),
        helper.make_node("Add", ["b", "mask"], ["c"], name="masking"),
        helper.make_node("Softmax", ["c"], ["p"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["p", "image"], ["v"], name="values"),
        helper.make_node("MatMul", ["v", "wc"], ["l"], name="classifier"),
        helper.make_node("Softmax", ["l"], ["logits"], name="classes", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("image", SINGLE, [1, 4, 8])],
        [info("logits", SINGLE, [1, 4, 3])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "a.onnx")
    to_fp16(tmp_path / "a.onnx", tmp_path / "h.onnx", "fp16-safe")
    _, kind = types(tmp_path / "h.onnx")
    assert [kind[n] for n in ("a", "b", "c", "p")] == [SINGLE] * 4
    # A classifier before a softmax is no product of attention.
    assert [kind[n] for n in ("q", "kt", "v", "l")] == [HALF] * 4
    assert kind["logits"] == SINGLE


def test_int8_graphs_with_single_scales_convert(vit: Path, tmp_path: Path) -> None:
    thresholds = collect_ranges(vit, frames(2), threads=1).thresholds("max")
    quantize(vit, thresholds, "openvino", tmp_path / "int8.onnx")
    to_fp16(tmp_path / "int8.onnx", tmp_path / "half.onnx", "fp16-safe")
    model, kind = types(tmp_path / "half.onnx")
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert kind[node.input[1]] == HALF
    image = frames(1, seed=5)[0]
    results = []
    for path in (tmp_path / "int8.onnx", tmp_path / "half.onnx"):
        with open_engine(path, "openvino", EngineOptions(threads=1)) as engine:
            results.append(engine.infer({"image": image})["logits"])
    assert cosine(*results) > 0.999


def test_bad_requests(converted: tuple[str, Path], vit: Path, tmp_path: Path) -> None:
    mode: Any = "bf16"
    with pytest.raises(UsageError, match="bf16"):
        to_fp16(vit, tmp_path / "x.onnx", mode)
    with pytest.raises(CalibrationError, match="FP16 tensors already"):
        to_fp16(converted[1], tmp_path / "x.onnx")
    with pytest.raises(OutputError):
        to_fp16(vit, tmp_path / "none" / "x.onnx")
    assert list(tmp_path.iterdir()) == []
