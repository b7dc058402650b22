"""NVIDIA ModelOpt, run for real on a small graph."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from calib_graphs import HEIGHT_PX, WIDTH_PX, cosine, save_vit, weights_of

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.calib import CalibrationFrames, check_placement, modelopt, quantize_with_modelopt
from edgeseg.errors import CalibrationError, MissingDependencyError, UsageError
from edgeseg.spec import PreprocessSpec

SPEC = PreprocessSpec(HEIGHT_PX, WIDTH_PX, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BACKENDS: tuple[Any, ...] = ("openvino", "onnxruntime", "tensorrt")
EXCLUDED = "blocks.1/fc1/MatMul"

needs_modelopt = pytest.mark.skipif(
    importlib.util.find_spec("modelopt") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="nvidia-modelopt is not installed (extra modelopt)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modelopt")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = rng.integers(0, 255, (8, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "data" / f"{i}.png"), cv2.resize(coarse, (WIDTH_PX, HEIGHT_PX)))
    save_vit(folder / "vit.onnx")
    return folder


@pytest.fixture(scope="module")
def frames(folder: Path) -> CalibrationFrames:
    return CalibrationFrames.open(folder / "data", SPEC)


@pytest.fixture(scope="module")
def results(folder: Path, frames: CalibrationFrames) -> dict[str, Any]:
    """One real run, with one exclusion, written for every backend."""
    steps: list[int] = []
    made = quantize_with_modelopt(
        folder / "vit.onnx",
        frames,
        {b: folder / f"{b}.onnx" for b in BACKENDS},
        method="entropy",
        exclude=[r"blocks\.1/fc1/.*"],
        on_frame=steps.append,
    )
    assert steps == [1, 2, 3, 4]
    return {r.backends[0]: r for r in made}


@needs_modelopt
def test_the_placement_is_edgesegs(results: dict[str, Any]) -> None:
    linears = {f"blocks.{i}/{n}/MatMul" for i in range(2) for n in ("qkv", "proj", "fc1", "fc2")}
    convs = {"patch_embed", *(f"decoder/{n}" for n in ("proj", "conv", "dw", "pw", "out"))}
    assert set(results) == set(BACKENDS)
    for backend, result in results.items():
        assert set(result.products) == (linears | convs) - {EXCLUDED}
        rules = "tensorrt" if backend == "tensorrt" else "openvino"
        report = check_placement(onnx.load(result.path), rules)
        assert set(report.products) == set(result.products)
        assert result.rest == ("fp16" if backend == "tensorrt" else "fp32")


@needs_modelopt
def test_residuals_and_excluded_products_read_the_original(results: dict[str, Any]) -> None:
    model = onnx.load(results["openvino"].path)
    by_output = {o: n for n in model.graph.node for o in n.output}
    (residual,) = (n for n in model.graph.node if n.name == "decoder/residual")
    assert sorted(by_output[i].op_type for i in residual.input) == ["Conv", "Mul"]
    (excluded,) = (n for n in model.graph.node if n.name == EXCLUDED)
    assert by_output[excluded.input[0]].op_type == "LayerNormalization"
    attention = [n for n in model.graph.node if n.name.endswith(("/scores", "/values"))]
    assert len(attention) == 4
    for node in attention:
        assert all(by_output[i].op_type != "DequantizeLinear" for i in node.input)


@needs_modelopt
def test_scales_are_modelopts_and_weights_are_codes(results: dict[str, Any], folder: Path) -> None:
    original, stored = (
        weights_of(onnx.load(p)) for p in (folder / "vit.onnx", results["openvino"].path)
    )
    model = onnx.load(results["openvino"].path)
    checked = 0
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            codes, scale = stored[node.input[0]], stored[node.input[1]]
            assert codes.dtype == np.int8
            name = node.input[0].removesuffix("_codes")
            shape = [1] * codes.ndim
            shape[next((a.i for a in node.attribute if a.name == "axis"), 1)] = -1
            wide = scale.reshape(shape)
            assert np.abs(codes * wide - original[name]).max() <= 0.501 * wide.max()
            checked += 1
    assert checked == 13


@needs_modelopt
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_answer_is_kept(
    results: dict[str, Any], frames: Any, folder: Path, backend: Any
) -> None:
    (image,) = next(iter(frames))
    runtime: Any = "onnxruntime" if backend == "onnxruntime" else "openvino"
    answers = []
    for path in (folder / "vit.onnx", results[backend].path):
        with open_engine(path, runtime, EngineOptions(threads=1)) as engine:
            answers.append(engine.infer({"image": image})["logits"])
    assert cosine(*answers) > 0.99


@needs_modelopt
def test_several_inputs_and_shared_weights(folder: Path) -> None:
    """Two views of different batches through the same weights."""
    pytest.importorskip("torch")
    from checkpoints import make_checkpoint

    from edgeseg.export import export_onnx, load

    config = {"resolutions": [[32, 48], 32], "flips": ["h"]}
    loaded = load(make_checkpoint(folder / "mvr.pth", "dino_mvr", classes=2, config=config))
    size = loaded.family.default_input(loaded.config)
    graph = export_onnx(
        loaded, folder / "mvr.onnx", height_px=size.height_px, width_px=size.width_px
    )
    data = CalibrationFrames.open(folder / "data", loaded.family.preprocess(loaded.config, size))
    (result,) = quantize_with_modelopt(graph.path, data, {"openvino": folder / "mvr-q.onnx"})
    for view in range(2):
        for path in ("backbone/blocks.3/attn/qkv", "backbone/blocks.0/mlp/fc2", "probes/2/0"):
            assert f"/views.{view}/{path}/MatMul" in result.products
    stored = weights_of(onnx.load(result.path))
    codes = [value for value in stored.values() if value.dtype == np.int8 and value.ndim > 1]
    assert len({value.tobytes() for value in codes}) == len(codes)
    feed = dict(zip((spec.name for spec in graph.inputs), next(iter(data)), strict=True))
    answers = []
    for path in (graph.path, result.path):
        with open_engine(path, "openvino", EngineOptions(threads=1)) as engine:
            answers.append(engine.infer(feed))
    assert set(answers[0]) == set(answers[1]) == {spec.name for spec in graph.outputs}
    for name, value in answers[0].items():
        assert cosine(answers[1][name], value) > 0.99


def test_bad_requests_fail_before_any_work(folder: Path, frames: CalibrationFrames) -> None:
    vit, target = folder / "vit.onnx", {BACKENDS[0]: folder / "none.onnx"}
    with pytest.raises(UsageError, match="max, entropy, not 'mse'"):
        quantize_with_modelopt(vit, frames, target, method="mse")
    backend: Any = "coreml"
    with pytest.raises(UsageError, match="coreml"):
        quantize_with_modelopt(vit, frames, {backend: folder / "none.onnx"})


@needs_modelopt
def test_a_pattern_without_a_match_is_refused(folder: Path, frames: CalibrationFrames) -> None:
    with pytest.raises(UsageError, match="matches no"):
        quantize_with_modelopt(
            folder / "vit.onnx", frames, {BACKENDS[0]: folder / "none.onnx"}, exclude=["blocks"]
        )


def test_a_missing_library_names_the_pip_line(
    folder: Path, frames: CalibrationFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelopt.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeseg\[modelopt\]'"):
        quantize_with_modelopt(folder / "vit.onnx", frames, {BACKENDS[0]: folder / "none.onnx"})


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (3, MissingDependencyError, r"No module named 'lief'.*pip install 'edgeseg\[modelopt\]'"),
        (1, CalibrationError, r"exit code 1(.|\n)*No module named 'lief'"),
        (0, CalibrationError, r"exit code 0"),  # it ended well but wrote nothing
    ],
)
def test_what_the_process_says_is_reported(
    folder: Path,
    frames: CalibrationFrames,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(modelopt, "_require_modelopt", lambda: None)

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable and Path(command[1]).is_file()
        return subprocess.CompletedProcess(command, code, "", "noise\nNo module named 'lief'\n")

    monkeypatch.setattr(modelopt.subprocess, "run", run)
    with pytest.raises(error, match=message):
        quantize_with_modelopt(folder / "vit.onnx", frames, {BACKENDS[0]: folder / "none.onnx"})
    assert not (folder / "none.onnx").exists()


@needs_modelopt
def test_a_real_failure_of_modelopt_is_reported(tmp_path: Path) -> None:
    """The worker itself: a model that does not exist."""
    np.save(tmp_path / "frames.npy", np.zeros((1, 3, 8, 8), np.float32))
    (tmp_path / "request.json").write_text(
        '{"model": "absent.onnx", "frames": {"image": "%s"}, "method": "max", '
        '"exclude": [], "output": "out.onnx"}' % (tmp_path / "frames.npy")
    )
    worker = Path(modelopt.__file__).with_name("_modelopt_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), str(tmp_path / "request.json")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1 and "absent" in done.stderr
