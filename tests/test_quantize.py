"""INT8 graphs: their numbers against an independent reference, and where Q/DQ stand."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calib_graphs import OUTLIER_CHANNEL, cosine, frames, make_vit, save_vit, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.calib import METHODS, check_placement, collect_ranges, quantize
from edgeseg.calib.graph import Graph
from edgeseg.calib.placement import find_products
from edgeseg.calib.qdq import activation_scale, quantize_weight
from edgeseg.calib.ranges import Ranges
from edgeseg.errors import CalibrationError, OutputError, UsageError

BACKENDS = ("openvino", "onnxruntime", "tensorrt")
LINEARS = {f"blocks.{i}/{n}/MatMul" for i in range(2) for n in ("qkv", "proj", "fc1", "fc2")}
CONVS = {"patch_embed", *(f"decoder/{n}" for n in ("proj", "conv", "dw", "pw", "out"))}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit(tmp_path_factory.mktemp("quantize") / "vit.onnx")


@pytest.fixture(scope="module")
def ranges(vit: Path) -> Ranges:
    return collect_ranges(vit, frames(4), threads=1)


@pytest.fixture(scope="module")
def quantised(vit: Path, ranges: Ranges) -> dict[str, Path]:
    thresholds = ranges.thresholds("max")
    return {b: quantize(vit, thresholds, b, vit.with_name(f"{b}.onnx")).path for b in BACKENDS}


def infer(path: Path, backend: Any, image: Any) -> Any:
    with open_engine(path, backend, EngineOptions(threads=1)) as engine:
        return engine.infer({"image": image})["logits"]


def readers(model: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = collections.defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            found[name].append(node)
    return found


# --- numbers -------------------------------------------------------------------------------------


def small_graph(path: Path, seed: int) -> dict[str, Any]:
    """Conv, then a Linear with bias over its channels; returns the weights."""
    rng = np.random.default_rng(seed)
    weights = {
        "k": rng.standard_normal((6, 4, 3, 3)).astype(np.float32),
        "c": rng.standard_normal(6).astype(np.float32),
        "w": rng.standard_normal((6, 5)).astype(np.float32),
        "b": rng.standard_normal(5).astype(np.float32),
    }
    weights["k"][2] = 0.0  # a channel without weights must get a valid scale
    nodes = [
        helper.make_node("Conv", ["image", "k", "c"], ["y"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["y"], ["t"], name="t", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["t", "w"], ["m"], name="linear"),
        helper.make_node("Add", ["m", "b"], ["logits"], name="bias"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [info("image", TensorProto.FLOAT, [1, 4, 7, 5])],
        [info("logits", TensorProto.FLOAT, [1, 7, 5, 5])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return weights


def fake_quantised(x: Any, scale: float) -> Any:
    return np.clip(np.rint(x / scale), -128, 127) * scale


def fake_quantised_weight(w: Any, axis: int) -> Any:
    moved = np.moveaxis(w.astype(np.float64), axis, 0).reshape(w.shape[axis], -1)
    scale = np.abs(moved).max(axis=1, keepdims=True) / 127
    codes = np.rint(moved / np.where(scale > 0, scale, 1.0))
    back = (codes * scale).reshape(np.moveaxis(w, axis, 0).shape)
    return np.moveaxis(back, 0, axis)


def convolved(x: Any, k: Any, c: Any) -> Any:
    """3x3, zero padding, in float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = x.shape[2:]
    windows = np.stack([padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)])
    return (
        np.einsum("tnchw,oct->nohw", windows, k.reshape(*k.shape[:2], 9)) + c[None, :, None, None]
    )


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_numbers_are_those_of_fake_quantisation(tmp_path: Path, backend: Any) -> None:
    pytest.importorskip(backend)
    w = small_graph(tmp_path / "small.onnx", seed=3)
    image = np.random.default_rng(4).standard_normal((1, 4, 7, 5)).astype(np.float32)
    ranges = collect_ranges(tmp_path / "small.onnx", [image], threads=1)
    thresholds = ranges.thresholds("percentile", 99.0)  # some values saturate
    assert thresholds["image"] < np.abs(image).max()
    path = quantize(tmp_path / "small.onnx", thresholds, "openvino", tmp_path / "q.onnx").path

    x = fake_quantised(image.astype(np.float64), thresholds["image"] / 127)
    y = convolved(x, fake_quantised_weight(w["k"], 0), w["c"]).transpose(0, 2, 3, 1)
    y = fake_quantised(y, thresholds["t"] / 127)
    expected = y @ fake_quantised_weight(w["w"], 1) + w["b"]

    evaluated = ReferenceEvaluator(str(path)).run(None, {"image": image})[0]
    # A float32 sum may tip a value over a rounding boundary: one step times one weight.
    step = thresholds["t"] / 127 * np.abs(w["w"]).max()
    assert np.abs(evaluated - expected).max() <= 1.01 * step
    assert np.abs(evaluated - expected).mean() <= 1e-5
    found = infer(path, backend, image)
    assert np.abs(found - expected).max() <= 2.01 * step
    assert np.abs(found - expected).mean() <= 0.05 * step
    with_floats = convolved(image, w["k"], w["c"]).transpose(0, 2, 3, 1) @ w["w"] + w["b"]
    assert np.abs(expected - with_floats).max() > 2 * step  # quantisation is not a no-op here


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
        elements=st.floats(-1e3, 1e3, width=32),
    ),
    st.integers(0, 3),
    st.sampled_from(["fp32", "fp16"]),
)
def test_weights_are_rounded_to_within_half_a_step(w: Any, axis: int, rest: Any) -> None:
    axis %= w.ndim
    codes, scale = quantize_weight(w, axis, rest)
    assert codes.dtype == np.int8 and codes.shape == w.shape and codes.min() >= -127
    assert scale.shape == (w.shape[axis],) and (scale > 0).all() and np.isfinite(scale).all()
    shape = [1] * w.ndim
    shape[axis] = -1
    wide = scale.astype(np.float64).reshape(shape)
    assert (np.abs(codes * wide - w) <= 0.5001 * wide + 1e-37).all()
    if rest == "fp16":
        np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float32), scale)


@given(st.floats(1e-12, 6e4))
def test_half_scales_never_vanish_and_never_shrink(threshold: float) -> None:
    scale = activation_scale(threshold, "fp16")
    assert scale > 0 and float(np.float16(scale)) == scale
    assert scale * 127 >= threshold * (1 - 1e-12)
    assert scale * 127 <= threshold * 1.001 or scale <= 2.0**-14


def test_thresholds_beyond_half_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"'x' reaches 7e\+04"):
        activation_scale(7e4, "fp16", "x")
    assert activation_scale(7e4, "fp32") == pytest.approx(7e4 / 127)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(CalibrationError, match="not a positive number"):
            activation_scale(bad, "fp32", "x")


# --- placement -----------------------------------------------------------------------------------


def test_the_right_products_are_quantised(vit: Path, ranges: Ranges, quantised: Any) -> None:
    expected = {
        "openvino": LINEARS | CONVS,
        "tensorrt": LINEARS | CONVS - {"patch_embed"},
        "onnxruntime": LINEARS | CONVS - {"patch_embed", "decoder/out"},
    }
    for backend, path in quantised.items():
        model = onnx.load(path)
        by_output = {o: n for n in model.graph.node for o in n.output}
        found = {
            n.name
            for n in model.graph.node
            if n.op_type in ("MatMul", "Conv")
            and all(
                (m := by_output.get(name)) is not None and m.op_type == "DequantizeLinear"
                for name in n.input[:2]
            )
        }
        assert found == expected[backend]
        result = quantize(vit, ranges.thresholds("max"), backend, path)
        assert set(result.products) == expected[backend]
        assert result.backends == (backend,)
        assert result.rest == ("fp16" if backend == "tensorrt" else "fp32")
        floats = (LINEARS | CONVS) - expected[backend]
        assert {d.what.split()[0] for d in result.decisions} == floats


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_else_reads_a_quantised_tensor(quantised: Any, backend: str) -> None:
    model = onnx.load(quantised[backend])
    reads = readers(model)
    constants = weights_of(model)
    by_output = {o: n for n in model.graph.node for o in n.output}
    kinds: collections.Counter[str] = collections.Counter()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            kinds.update(r.op_type for r in reads[node.output[0]])
            assert node.output[0] not in {o.name for o in model.graph.output}
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = constants[node.input[2]]
            is_weight = node.input[0] in constants
            if backend != "tensorrt" and not is_weight:
                assert zero_point.dtype == np.uint8 and zero_point == 128
            else:
                assert zero_point.dtype == np.int8 and not zero_point.any()
            assert constants[node.input[1]].ndim == (1 if is_weight else 0)
            assert (constants[node.input[1]] > 0).all()
    allowed = {"MatMul", "Conv"}
    if backend == "onnxruntime":
        # Outputs of convolutions: residual branch, resize and group norm of the decoder.
        allowed |= {"Resize", "Reshape", "Add"}
        adds = [n for n in model.graph.node if n.op_type == "Add"]
        rounded = [
            n.name
            for n in adds
            for i in n.input
            if by_output.get(i) is not None and by_output[i].op_type == "DequantizeLinear"
        ]
        assert rounded == ["decoder/residual"]
    assert set(kinds) == allowed
    assert {o.version for o in model.opset_import} == {20}
    assert kinds["Softmax"] == kinds["LayerNormalization"] == kinds["Gelu"] == 0


def test_a_tensor_is_quantised_once_for_all_its_readers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    info = helper.make_tensor_value_info
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 4)).astype(np.float32), n) for n in "ab"
    ]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["image", "a"], ["x"], name="gate"),
            helper.make_node("MatMul", ["image", "b"], ["y"], name="value"),
            helper.make_node("Mul", ["x", "y"], ["logits"], name="product"),
        ],
        "g",
        [info("image", TensorProto.FLOAT, [1, 3, 4])],
        [info("logits", TensorProto.FLOAT, [1, 3, 4])],
        weights,
    )
    path = tmp_path / "swiglu.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    quantize(path, {"image": 2.0}, "openvino", tmp_path / "q.onnx")
    kinds = collections.Counter(n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node)
    assert kinds["QuantizeLinear"] == 1 and kinds["DequantizeLinear"] == 3


def test_weights_are_stored_as_codes(vit: Path, quantised: Any) -> None:
    for path in quantised.values():
        for name, value in weights_of(onnx.load(path)).items():
            if value.dtype.kind == "f" and value.ndim > 1 and value.size > 1000:
                assert name in ("prefix.tokens", "patch_embed.weight", "patch_embed.weight_half")
        assert path.stat().st_size < 0.65 * vit.stat().st_size


def test_tensorrt_scales_are_half_and_codes_made_with_them(vit: Path, quantised: Any) -> None:
    original = weights_of(onnx.load(vit))
    model = onnx.load(quantised["tensorrt"])
    stored = weights_of(model)
    checked = 0
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = stored[node.input[1]]
            assert scale.dtype == np.float16 and (scale > 0).all()
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            weight = original[node.input[0].removesuffix("_codes")].astype(np.float64)
            axis = node.attribute[0].i
            shape = [1] * weight.ndim
            shape[axis] = -1
            wide = stored[node.input[1]].astype(np.float64).reshape(shape)
            np.testing.assert_array_equal(stored[node.input[0]], np.rint(weight / wide))
            checked += 1
    assert checked == 13


def test_exclusions_keep_products_in_float(vit: Path, ranges: Ranges, tmp_path: Path) -> None:
    thresholds = ranges.thresholds("max")
    result = quantize(
        vit, thresholds, "openvino", tmp_path / "q.onnx", exclude=[r"blocks\.0/.*", "decoder/out"]
    )
    gone = {n for n in LINEARS if n.startswith("blocks.0/")} | {"decoder/out"}
    assert set(result.products) == (LINEARS | CONVS) - gone
    assert {d.what.split()[0] for d in result.decisions} == gone
    with pytest.raises(UsageError, match=r"'blocks\.0' matches no"):  # a prefix is not a match
        quantize(vit, thresholds, "openvino", tmp_path / "x.onnx", exclude=["blocks.0"])
    with pytest.raises(UsageError, match="not a regular expression"):
        quantize(vit, thresholds, "openvino", tmp_path / "x.onnx", exclude=["("])
    with pytest.raises(CalibrationError, match="no Linear or Conv is left"):
        quantize(vit, thresholds, "openvino", tmp_path / "x.onnx", exclude=[".*"])
    assert not (tmp_path / "x.onnx").exists()


def test_products_of_activations_are_no_linears() -> None:
    names = {p.name for p in find_products(Graph(make_vit()))}
    assert names == LINEARS | CONVS


def test_bad_requests(vit: Path, ranges: Ranges, tmp_path: Path) -> None:
    thresholds = ranges.thresholds("max")
    with pytest.raises(UsageError, match="coreml"):
        quantize(vit, thresholds, "coreml", tmp_path / "x.onnx")
    del thresholds["norm:out" if "norm:out" in thresholds else "grid:out"]
    with pytest.raises(CalibrationError, match="no range was calibrated for tensor 'grid:out'"):
        quantize(vit, thresholds, "openvino", tmp_path / "x.onnx")
    with pytest.raises(OutputError):
        quantize(vit, ranges.thresholds("max"), "openvino", tmp_path / "none" / "x.onnx")
    assert list(tmp_path.iterdir()) == []


# --- accuracy and what libraries make of it ------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_answer(
    vit: Path, ranges: Ranges, tmp_path: Path, method: Any
) -> None:
    path = quantize(vit, ranges.thresholds(method), "openvino", tmp_path / "q.onnx").path
    image = frames(1, seed=9)[0]
    assert cosine(infer(path, "openvino", image), infer(vit, "openvino", image)) > 0.995


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_target_keeps_the_answer(vit: Path, quantised: Any, backend: Any) -> None:
    image = frames(1, seed=9)[0]
    expected = infer(vit, "openvino", image)
    runtimes = ("onnxruntime",) if backend == "onnxruntime" else ("openvino", "onnxruntime")
    for runtime in runtimes:
        pytest.importorskip(runtime)
        assert cosine(infer(quantised[backend], runtime, image), expected) > 0.995


@pytest.mark.parametrize("backend", BACKENDS)
def test_outlier_channels_of_register_tokens_survive(tmp_path: Path, backend: Any) -> None:
    path = save_vit(tmp_path / "outlier.onnx", depth=4, outlier=300.0)
    tokens = weights_of(onnx.load(path))["prefix.tokens"]
    assert (tokens[0, :, OUTLIER_CHANNEL] > 290).all()
    ranges = collect_ranges(path, frames(4), threads=1)
    from edgeseg.calib import DEFAULT_METHOD

    q = quantize(path, ranges.thresholds(DEFAULT_METHOD), backend, tmp_path / "q.onnx").path
    image = frames(1, seed=9)[0]
    runtime: Any = "onnxruntime" if backend == "onnxruntime" else "openvino"
    pytest.importorskip(runtime)
    assert cosine(infer(q, runtime, image), infer(path, "openvino", image)) > 0.99


def test_a_rounded_residual_stream_would_lose_the_answer(tmp_path: Path) -> None:
    """What the placement guards against, so that the test above can fail."""
    path = save_vit(tmp_path / "outlier.onnx", depth=4, outlier=300.0)
    model = onnx.load(path)
    constant = numpy_helper.from_array(np.array(0, np.int8), "z")
    scale = numpy_helper.from_array(np.array(300 / 127, np.float32), "s")
    model.graph.initializer.extend([constant, scale])
    for node in list(model.graph.node):
        if "/residual" in node.name and node.name.startswith("blocks"):
            at = list(model.graph.node).index(node)
            source, codes, back = node.input[0], f"{node.name}_q", f"{node.name}_dq"
            model.graph.node.insert(
                at, helper.make_node("DequantizeLinear", [codes, "s", "z"], [back], name=back)
            )
            model.graph.node.insert(
                at, helper.make_node("QuantizeLinear", [source, "s", "z"], [codes], name=codes)
            )
            node.input[0] = back
    onnx.save(model, tmp_path / "rounded.onnx")
    image = frames(1, seed=9)[0]
    found = infer(tmp_path / "rounded.onnx", "openvino", image)
    assert cosine(found, infer(path, "openvino", image)) < 0.9
    with pytest.raises(CalibrationError, match=r"residual\d \(Add\) reads a quantised"):
        check_placement(model, "openvino")


def test_openvino_computes_every_product_in_int8(quantised: Any) -> None:
    import openvino as ov

    compiled = ov.Core().compile_model(
        str(quantised["openvino"]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        kind, precision = (info[k].astype(str) for k in ("layerType", "runtimePrecision"))
        if kind in ("FullyConnected", "Convolution"):
            found[kind, "int8" if precision in ("i8", "u8") else precision] += 1
    assert found == {("FullyConnected", "int8"): len(LINEARS), ("Convolution", "int8"): len(CONVS)}


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_of_joined_tensors_is_right(
    tmp_path: Path, backend: str, kernel: int
) -> None:
    """SegDINO's heads end so; OpenVINO is off by a quarter here if activations are int8."""
    rng = np.random.default_rng(kernel)
    weight = rng.normal(0, 0.1, (3, 32, kernel, kernel)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["image"], ["a"], name="a"),
        helper.make_node("Neg", ["image"], ["b"], name="b"),
        helper.make_node("Concat", ["a", "b"], ["joined"], name="joined", axis=1),
        helper.make_node("Conv", ["joined", "weight"], ["y"], name="conv", pads=[kernel // 2] * 4),
        helper.make_node("Identity", ["y"], ["logits"], name="end"),
    ]
    info = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, 9, 11))
        for name, channels in (("image", 16), ("logits", 3))
    ]
    graph = helper.make_graph(
        nodes, "joined", info[:1], info[1:], [numpy_helper.from_array(weight, "weight")]
    )
    path = tmp_path / "joined.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path
    )
    x = rng.normal(0, 1, (1, 16, 9, 11)).astype(np.float32)
    thresholds = {"joined": 4.0, "y": 8.0}
    placed = quantize(path, thresholds, "openvino", tmp_path / "int8.onnx")
    assert placed.products == ("conv",)
    expected = infer(path, backend, x)
    found = infer(placed.path, backend, x)
    assert np.linalg.norm(found - expected) <= 0.03 * np.linalg.norm(expected)


def test_onnxruntime_fuses_every_product_to_int8(quantised: Any, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(quantised["onnxruntime"]), options, providers=["CPUExecutionProvider"])
    kinds = collections.Counter(
        n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node
    )
    assert kinds["MatMulIntegerToFloat"] == len(LINEARS)
    assert kinds["QLinearConv"] == len(CONVS) - 2
    assert kinds["Gemm"] == 0


# --- the validator -------------------------------------------------------------------------------


def broken(path: Path, change: Any) -> Any:
    model = onnx.load(path)
    change(model)
    return model


def _node(model: Any, name: str) -> Any:
    return next(n for n in model.graph.node if n.name == name)


def _set(model: Any, name: str, value: Any) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def _round_residual(model: Any) -> None:
    _node(model, "blocks.1/residual2").input[0] = "norm:none"
    dq = helper.make_node(
        "DequantizeLinear", ["r_q", "r_s", "activation_zero_point"], ["norm:none"], name="rdq"
    )
    q = helper.make_node(
        "QuantizeLinear",
        ["blocks.1/residual1:out", "r_s", "activation_zero_point"],
        ["r_q"],
        name="rq",
    )
    at = list(model.graph.node).index(_node(model, "blocks.1/residual2"))
    model.graph.node.insert(at, dq)
    model.graph.node.insert(at, q)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1).reshape(()), "r_s"))


def _float_weight(model: Any) -> None:
    _node(model, "decoder/conv").input[1] = "w"
    model.graph.initializer.append(
        numpy_helper.from_array(np.ones((16, 16, 3, 3), np.float32), "w")
    )


def _float_activation(model: Any) -> None:
    _node(model, "decoder/conv").input[0] = "decoder/up:out"


def _attention(model: Any) -> None:
    dq = next(
        n
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] == "blocks.0/flat:out_codes"
    )
    reshape = helper.make_node("Reshape", [dq.output[0], "blocks.0.flat"], ["again"], name="again")
    at = list(model.graph.node).index(_node(model, "blocks.0/proj/MatMul"))
    model.graph.node.insert(at, reshape)


VIOLATIONS = {
    "reads a quantised": _round_residual,
    r"decoder/conv \(Conv\) reads a quantised": _float_weight,
    "only its weight is quantised": _float_activation,
    r"again \(Reshape\) reads a quantised": _attention,
    "scale is not positive": lambda m: _set(m, "grid:out_scale", np.float32(0)),
    "scale is not positive ": lambda m: _set(m, "grid:out_scale", np.float32("nan")),
    "needs one scale": lambda m: _set(m, "grid:out_scale", np.full(64, 0.1, np.float32)),
    "zero point is not 128": lambda m: _set(m, "activation_zero_point", np.uint8(3)),
    "zero point is not 0 ": lambda m: _set(
        m, "decoder/conv.weight_zero_points", np.ones(16, np.int8)
    ),
    "one for each output channel": lambda m: setattr(
        _node(m, "decoder/conv.weight_DequantizeLinear").attribute[0], "i", 1
    ),
    "operator set 21": lambda m: setattr(m.opset_import[0], "version", 21),
}


@pytest.mark.parametrize("message", VIOLATIONS)
def test_the_validator_sees(quantised: Any, message: str) -> None:
    check_placement(onnx.load(quantised["openvino"]), "openvino")
    with pytest.raises(CalibrationError, match=message.strip()):
        check_placement(broken(quantised["openvino"], VIOLATIONS[message]), "openvino")


def test_the_validator_knows_targets_apart(quantised: Any, vit: Path) -> None:
    report = check_placement(onnx.load(quantised["onnxruntime"]), "onnxruntime")
    assert "decoder/residual" not in report.products
    assert len(report.convolution_outputs) == 3
    with pytest.raises(CalibrationError, match="zero point is not 0 of int8"):
        check_placement(onnx.load(quantised["openvino"]), "tensorrt")
    with pytest.raises(CalibrationError, match="holds no quantised"):
        check_placement(onnx.load(vit), "openvino")
