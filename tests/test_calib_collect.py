"""Ranges that are taken while the FP32 graph runs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from calib_graphs import frames, make_vit, save_vit
from onnx import helper, numpy_helper

from edgeseg.backends import Engine, EngineOptions, open_engine
from edgeseg.calib.collect import collect_ranges
from edgeseg.calib.graph import Graph
from edgeseg.calib.placement import calibration_tensors
from edgeseg.errors import CalibrationError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit(tmp_path_factory.mktemp("collect") / "vit.onnx")


def test_ranges_are_those_of_another_library(model: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    inputs = frames(2)
    seen: list[int] = []
    ranges = collect_ranges(model, inputs, threads=1, on_frame=seen.append)
    assert seen == [1, 2]
    names = calibration_tensors(Graph.load(model))
    assert set(ranges) == set(names) and len(names) > 15
    proto = onnx.load(model)
    inner = [n for n in names if n != "image"]
    proto.graph.output.extend(
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in inner
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    evaluator = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = [evaluator.run(inner, {"image": x}) for x in inputs]
    for i, name in enumerate(inner):
        expected = max(float(np.abs(r[i]).max()) for r in results)
        assert ranges[name].max_abs == pytest.approx(expected, rel=1e-4)
        counted = ranges[name].counts.sum() + ranges[name].zeros
        assert counted == sum(r[i].size for r in results)
    assert ranges["image"].max_abs == max(float(np.abs(x).max()) for x in inputs)


def test_openvino_alone_is_enough(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ranges = collect_ranges(model, frames(1), threads=1)
    assert ranges.frames == 1 and min(h.max_abs for h in ranges.values()) > 0


def test_a_caller_may_open_the_engine(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    opened: list[Path] = []

    def opener(path: Path) -> Engine:
        opened.append(path)
        return open_engine(path, "onnxruntime", EngineOptions(threads=1))

    mine = collect_ranges(model, frames(1), open_engine=opener)
    default = collect_ranges(model, frames(1), threads=1)
    assert len(opened) == 1 and not opened[0].exists()
    for name in mine:
        assert mine[name].max_abs == pytest.approx(default[name].max_abs, rel=1e-4)


def test_no_frames_are_refused(model: Path) -> None:
    with pytest.raises(CalibrationError, match="no calibration frame"):
        collect_ranges(model, [], threads=1)


def test_an_activation_that_overflows_is_named(tmp_path: Path) -> None:
    proto = make_vit()
    for tensor in proto.graph.initializer:
        if tensor.name == "blocks.0/fc1.weight":
            big = np.full(numpy_helper.to_array(tensor).shape, 3e38, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(big, tensor.name))
    path = tmp_path / "broken.onnx"
    onnx.save(proto, path)
    with pytest.raises(CalibrationError, match=r"frame 1: tensor 'blocks\.0/.* is not finite"):
        collect_ranges(path, frames(1), threads=1)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 40])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nothing.onnx"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"nothing\.onnx"):
        collect_ranges(path, frames(1), threads=1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"absent\.onnx"):
        collect_ranges(tmp_path / "absent.onnx", frames(1))


def test_control_flow_and_dynamic_shapes_are_refused(tmp_path: Path) -> None:
    proto = make_vit()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(CalibrationError):
        graph = Graph(proto)
        graph.shape("image")
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    graph = helper.make_graph(
        [
            helper.make_node(
                "If", ["c"], ["z"], name="choice", then_branch=branch, else_branch=branch
            )
        ],
        "g",
        [
            helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1])],
    )
    with pytest.raises(CalibrationError, match=r"'choice'.*subgraph"):
        Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
