"""The evaluator that rounds: bit for bit against numpy's float16, operation by operation."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from calib_graphs import cosine, frames, save_vit
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.calib import HalfEvaluator, collect_ranges, half_report, quantize, to_fp16
from edgeseg.calib.graph import LAYOUT_OPS, Graph
from edgeseg.errors import CalibrationError, InputError, MissingDependencyError, UsageError

pytest.importorskip("onnxruntime")

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
ALL_HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)


def save(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[int]]],
    outputs: dict[str, tuple[int, list[int]]],
    constants: dict[str, Any] | None = None,
) -> Path:
    """Write a graph; tensors as name: (type, shape)."""
    graph = helper.make_graph(
        nodes,
        "g",
        *([helper.make_tensor_value_info(n, *t) for n, t in p.items()] for p in (inputs, outputs)),
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name=f"make_{output}", **attributes)


def test_every_number_is_rounded_as_numpy_does(tmp_path: Path) -> None:
    finite = np.unique(ALL_HALVES[np.isfinite(ALL_HALVES)].astype(np.float64))
    between = (finite[:-1] + finite[1:]) / 2
    edges = [65519.996, 65520.0, 1e6, 2.0**-25, np.nextafter(np.float32(2.0**-25), 1), 1e-30]
    exact = np.concatenate([finite, between, edges, np.negative(edges)]).astype(np.float32)
    values = np.concatenate(
        [exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))]
    )
    shape = [len(values)]
    path = save(
        tmp_path / "cast.onnx",
        [node("Cast", "x", "h", to=HALF), node("Cast", "h", "y", to=SINGLE)],
        {"x": (SINGLE, shape)},
        {"y": (SINGLE, shape)},
    )
    with HalfEvaluator(path) as evaluator:
        found = evaluator.infer({"x": values})["y"]
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    assert np.isinf(found).sum() > 0 and (np.abs(found) == 2.0**-24).sum() > 0


def opened(path: Path, destination: Path) -> tuple[Any, Path]:
    """The graph with every tensor as an output."""
    graph = Graph.load(path)
    model = graph.to_model()
    for each in graph.nodes:
        kind = graph.element_type(each.output[0])
        if each.output[0] not in graph.outputs:
            for name in each.output:
                value = helper.make_tensor_value_info(name, kind, graph.shape(name))
                model.graph.output.append(value)
    onnx.save(model, destination)
    return model, destination


def one_by_one(model: Any, each: Any, values: dict[str, Any]) -> list[Any]:
    """What a node makes of values, in float64."""
    if each.op_type == "Resize":  # onnx's own takes seconds
        planes, (*_, height, width) = values[each.input[0]][0], values[each.output[0]].shape
        wide = planes.astype(np.float64)
        return [np.stack([cv2.resize(plane, (width, height)) for plane in wide])[None]]
    known = [name for name in each.input if name]
    graph = helper.make_graph(
        [each],
        "one",
        [helper.make_tensor_value_info(n, SINGLE, None) for n in dict.fromkeys(known)],
        [helper.make_tensor_value_info(n, SINGLE, None) for n in each.output],
    )
    wide = {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in values.items()}
    single = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=10)
    return ReferenceEvaluator(single).run(None, {n: wide[n] for n in known})


@pytest.mark.parametrize("mode", ["fp16", "fp16-safe", "int8"])
def test_each_tensor_is_its_operation_rounded_once(tmp_path: Path, mode: Any) -> None:
    fp32 = save_vit(tmp_path / "vit.onnx", depth=1, width=32, channels=8, outlier=40.0)
    path = tmp_path / "half.onnx"
    if mode == "int8":
        quantize(fp32, collect_ranges(fp32, frames(2)).thresholds("max"), "tensorrt", path)
    else:
        to_fp16(fp32, path, mode)
    model, path = opened(path, tmp_path / "all.onnx")
    values: dict[str, Any] = {"image": frames(1)[0]}
    with HalfEvaluator(path) as evaluator:
        values |= evaluator.infer(values)
        kinds = {spec.name: spec.dtype for spec in evaluator.outputs}
    values |= {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    judged = set()
    for each in model.graph.node:
        if kinds[each.output[0]] != "float16":
            continue
        results = one_by_one(model, each, values)
        for name, exact in zip(each.output, results, strict=True):
            found, expected = values[name], exact.astype(np.float16)
            assert found.dtype == np.float16 and found.shape == expected.shape
            if each.op_type in LAYOUT_OPS | {"Cast", "Add", "Mul", "DequantizeLinear"}:
                np.testing.assert_array_equal(found, expected, each.name)
            else:
                # Sums in another order, in float32: at most a step between two halves.
                wide = [v.astype(np.float32) for v in (found, expected)]
                step = np.maximum(np.abs(np.spacing(expected)).astype(np.float32), 2.0**-14)
                assert (np.abs(wide[0] - wide[1]) <= step).all(), each.name
                assert (found == expected).mean() >= 0.97, each.name
            judged.add(each.op_type)
    assert judged >= {"MatMul", "Conv", "Add", "Gelu", "Cast", "Resize", "Softmax"} - (
        {"Softmax"} if mode == "fp16-safe" else set()
    )


def product(path: Path, weight: Any, rows: int = 1) -> Path:
    """x @ weight in FP16, then as much again as a sum with itself."""
    weight = np.asarray(weight, np.float16)
    return save(
        path,
        [
            node("Cast", "x", "h", to=HALF),
            node("MatMul", "h w", "p"),
            node("Add", "p p", "s"),
            node("Cast", "s", "y", to=SINGLE),
        ],
        {"x": (SINGLE, [rows, weight.shape[0]])},
        {"y": (SINGLE, [rows, weight.shape[1]])},
        {"w": weight},
    )


def test_products_accumulate_in_single(tmp_path: Path) -> None:
    path = product(tmp_path / "p.onnx", np.ones((8192, 1)))
    with HalfEvaluator(path) as evaluator:
        found = evaluator.infer({"x": np.ones((1, 8192), np.float32)})["y"]
    # In half, a sum of ones ends at 2048.
    assert found.item() == 16384.0


def test_overflow_is_found_where_it_begins(tmp_path: Path) -> None:
    path = product(tmp_path / "p.onnx", [[200.0, 1.0], [0.0, 1.0]])
    fits, too_much = np.float32([[160.0, 3.0]]), np.float32([[400.0, -np.inf]])
    with HalfEvaluator(path) as evaluator:
        assert evaluator.report().overflowed == ()
        assert evaluator.infer({"x": fits})["y"].tolist() == [[64000.0, 326.0]]
        report = evaluator.report()
        assert (report.worst, report.magnitude, report.overflowed) == ("make_s", 64000.0, ())
        assert evaluator.largest()["make_p"] == pytest.approx(32000 / 65504)
        too_much[0, 1] = -1.0
        assert evaluator.infer({"x": too_much})["y"][0, 0] == np.inf
        report = evaluator.report()
        assert report.worst == "make_p" and report.magnitude == 80000.0
        assert report.overflowed == ("make_p", "make_s")
        evaluator.infer({"x": fits})  # what was seen is not forgotten
        assert evaluator.report() == report
    assert half_report(path, [{"x": fits}, {"x": too_much}]) == report
    assert half_report(path, [{"x": fits}]).overflowed == ()


@pytest.mark.parametrize(("value", "fits"), [(65519.99, True), (65520.0, False)])
def test_the_last_number_before_overflow(tmp_path: Path, value: float, fits: bool) -> None:
    path = save(
        tmp_path / "edge.onnx",
        [node("Cast", "x", "h", to=HALF), node("Cast", "h", "y", to=SINGLE)],
        {"x": (SINGLE, [2])},
        {"y": (SINGLE, [2])},
    )
    for sign in (1, -1):
        report = half_report(path, [{"x": np.float32([0, sign * value])}])
        assert (report.overflowed == ()) == fits
        assert report.magnitude == pytest.approx(value)


@pytest.mark.parametrize("where", range(3))
def test_nan_is_not_overlooked(tmp_path: Path, where: int) -> None:
    path = product(tmp_path / "p.onnx", np.eye(3))
    values = np.float32([[1.0, 2.0, 3.0]])
    values[0, where] = np.nan
    report = half_report(path, [{"x": values}])
    assert report.overflowed and report.magnitude == np.inf


def test_halves_go_in_and_out(tmp_path: Path) -> None:
    path = save(
        tmp_path / "io.onnx",
        [
            node("Mul", "x x", "a"),
            node("Reshape", "a s", "y"),
            node("ConstantOfShape", "n", "c", value=numpy_helper.from_array(np.float16([0.1]))),
            node("Add", "x c", "z"),
        ],
        {"x": (HALF, [4])},
        {"y": (HALF, [2, 2]), "z": (HALF, [4])},
        {"s": np.int64([2, 2]), "n": np.int64([1])},
    )
    x = np.float16([0.1, 255.9, -3.14, 300.0])
    with HalfEvaluator(path) as evaluator:
        found = evaluator.infer({"x": x})
        assert evaluator.report().overflowed == ("make_a",)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found["y"], (x * x).reshape(2, 2))
    np.testing.assert_array_equal(found["z"], x + np.float16(0.1))


def test_graphs_without_halves_are_run_as_they_are(tmp_path: Path) -> None:
    path = save_vit(tmp_path / "vit.onnx")
    image = {"image": frames(1)[0]}
    with HalfEvaluator(path, threads=1) as evaluator:
        found = evaluator.infer(image)["logits"]
        assert dict(evaluator.largest()) == {}
        assert evaluator.report().worst == "" and evaluator.info.threads == 1
    with open_engine(path, "openvino", EngineOptions(threads=1)) as engine:
        expected = engine.infer(image)["logits"]
    assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected)


def test_rounding_shows_in_the_answer(tmp_path: Path) -> None:
    """What the CPU provider, which computes in FP32, does not do."""
    fp32 = save_vit(tmp_path / "vit.onnx")
    half = to_fp16(fp32, tmp_path / "half.onnx").path
    image = {"image": frames(1)[0]}
    with HalfEvaluator(half) as evaluator:
        found = evaluator.infer(image)["logits"]
    with open_engine(fp32, "openvino") as engine:
        expected = engine.infer(image)["logits"]
    assert cosine(found, expected) >= 0.99999
    np.testing.assert_array_equal(found, found.astype(np.float16))  # the last cast only widens
    assert not np.array_equal(found, expected.astype(np.float16))


def test_requests_that_cannot_be_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = product(tmp_path / "p.onnx", np.eye(3))
    with pytest.raises(UsageError, match="no frame"):
        half_report(path, [])
    with pytest.raises(UsageError, match="threads"):
        HalfEvaluator(path, threads=0)
    with HalfEvaluator(path) as evaluator, pytest.raises(InputError, match="expected float32"):
        evaluator.infer({"x": np.zeros((1, 3))})
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CalibrationError, match=r"broken\.onnx"):
        HalfEvaluator(tmp_path / "broken.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeseg\[onnxruntime\]'"):
        HalfEvaluator(path)


def test_temporary_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = product(tmp_path / "p.onnx", np.eye(3))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with HalfEvaluator(path):
        assert not list(itertools.islice(scratch.iterdir(), 1))
