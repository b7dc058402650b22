"""The exported graphs: what they compute, what they are made of, and how they are written."""

from __future__ import annotations

import itertools
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from checkpoints import LAYOUTS, make_checkpoint, make_state_dict
from exported_graphs import HYPER, SIZE, Exported
from onnx import numpy_helper
from reference import reference_logits

from edgeseg.errors import ExportError, OutputError, UsageError
from edgeseg.export import (
    InputSize,
    LoadedCheckpoint,
    check_parity,
    export_onnx,
    load,
)

Tensors = Mapping[str, np.ndarray]
Run = Callable[[Tensors], Mapping[str, np.ndarray]]


def _onnxruntime(path: Path) -> Run:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda tensors: dict(zip(names, session.run(None, dict(tensors)), strict=True))


def _openvino(path: Path) -> Run:
    ov = pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(str(path), "CPU", settings)

    def run(tensors: Tensors) -> Mapping[str, np.ndarray]:
        results = compiled(dict(tensors))
        return {output.any_name: results[output] for output in compiled.outputs}

    return run


RUNTIMES = {"onnxruntime": _onnxruntime, "openvino": _openvino}

VIEWS = {"dino_mvr": 2}
"""Inputs of a graph; one if not named."""


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_graph_equals_torch(exported: Exported, layout: str, runtime: str) -> None:
    loaded, graph = exported[layout]
    run = RUNTIMES[runtime](graph.path)
    ramps = {
        spec.name: np.linspace(-2, 2, math.prod(spec.shape), dtype=np.float32).reshape(spec.shape)
        for spec in graph.inputs
    }
    record = check_parity(loaded, SIZE, run, runtime=runtime, tensors=[ramps])
    assert record.runtime == runtime
    assert 0 <= record.relative <= 1e-4
    assert record.logit_range > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_graph_equals_the_reference(exported: Exported, layout: str) -> None:
    """Without torch's formulation in between."""
    _, graph = exported[layout]
    generator = torch.Generator().manual_seed(5)
    images = {spec.name: torch.randn(spec.shape, generator=generator) for spec in graph.inputs}
    hyper = {key: value for key, value in HYPER[layout].items() if key != "config"}
    state = make_state_dict(layout, **hyper)
    answers = _openvino(graph.path)({name: image.numpy() for name, image in images.items()})
    assert len(images) == len(graph.outputs) == VIEWS.get(layout, 1)
    for image, spec in zip(images.values(), graph.outputs, strict=True):
        expected = reference_logits(layout, state, image, hyper.get("heads", 2)).numpy()
        span = expected.max() - expected.min()
        assert answers[spec.name].shape == expected.shape
        assert np.abs(answers[spec.name] - expected).max() <= 1e-4 * span


@pytest.mark.parametrize("layout", LAYOUTS)
def test_graph_keeps_its_promises(exported: Exported, layout: str) -> None:
    loaded, graph = exported[layout]
    model = onnx.load(graph.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.ir_version <= 10
    nodes = list(model.graph.node)
    kinds = {node.op_type for node in nodes}
    forbidden = {"If", "Loop", "Scan", "Shape", "Gather", "Expand", "Sin", "Cos", "Cast", "Einsum"}
    assert not kinds & forbidden
    assert len(graph.nodes) == len(kinds)
    depth = loaded.config.backbone.depth
    views = VIEWS.get(layout, 1)
    taps = 3 if layout == "dino_mvr" else 4
    assert graph.nodes["LayerNormalization"] == views * (2 * depth + taps)
    gelus = {
        "segdino_v2": depth + 8,
        "segdino_v2_first": depth + 8,
        "segdino_v1_old": 0,
        "dino_mvr": views * (depth + 3),
    }
    assert graph.nodes.get("Gelu", 0) == gelus.get(layout, depth)
    assert "Erf" not in kinds
    for node in nodes:
        if node.op_type == "Gelu":
            assert all(a.s == b"none" for a in node.attribute if a.name == "approximate")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    stated = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        shape = value.type.tensor_type.shape
        assert all(d.HasField("dim_value") and d.dim_value > 0 for d in shape.dim), value.name
        assert stated[value.name].type == value.type
    for node in nodes:
        assert all(name in stated for name in node.output)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_tell_the_module(exported: Exported, layout: str) -> None:
    loaded, graph = exported[layout]
    model = onnx.load(graph.path)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    assert len(weights) == len(model.graph.initializer)
    by_name = {node.name: node for node in model.graph.node}
    width = loaded.config.backbone.width
    outermost = [f"/views.{i}" for i in range(VIEWS[layout])] if layout in VIEWS else [""]
    for view, block in itertools.product(outermost, range(loaded.config.backbone.depth)):
        qkv = by_name[f"{view}/backbone/blocks.{block}/attn/qkv/MatMul"]
        # One weight for all views.
        assert qkv.input[1] == f"backbone.blocks.{block}.attn.qkv.weight"
        assert weights[qkv.input[1]].shape == (width, 3 * width)
        assert f"{view}/backbone/blocks.{block}/attn/proj/MatMul" in by_name
        products = [
            n for n in names if n.startswith(f"{view}/backbone/blocks.{block}/") and "MatMul" in n
        ]
        assert len(products) == (7 if loaded.config.backbone.mlp == "swiglu" else 6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_rewrites_names_lead_to_the_checkpoint_s_weights(
    exported: Exported, exported_plain: Exported, layout: str
) -> None:
    loaded, graph = exported_plain[layout]
    assert not graph.rewrites and exported[layout][1].rewrites
    model = onnx.load(graph.path)
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    saved = loaded.family.state_dict(loaded.model)
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            path = node.name.removeprefix("/").split("/")[layout in VIEWS : -1]
            key = ".".join(path) + ".weight"
            assert key.replace("patch_embed", "patch_embed.proj") in saved, node.name
            assert (
                weights[node.input[1]].shape
                == saved[key.replace("patch_embed", "patch_embed.proj")].shape
            )


def test_nothing_of_the_build_machine_is_in_the_file(exported: Exported) -> None:
    for loaded, graph in exported.values():
        content = graph.path.read_bytes()
        for trace in (b"site-packages", os.fsencode(Path(__file__).parent.parent), b".py"):
            assert trace not in content
        model = onnx.load(graph.path)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        assert properties == {
            "family": loaded.family.name,
            "checkpoint_sha256": loaded.sha256,
        }
        assert model.producer_name == "edgeseg"
        assert model.producer_version


def test_specs_say_what_the_file_holds(exported: Exported) -> None:
    for layout, (loaded, graph) in exported.items():
        model = onnx.load(graph.path).graph
        for specs, values in ((graph.inputs, model.input), (graph.outputs, model.output)):
            assert [spec.name for spec in specs] == [value.name for value in values]
        assert graph.data_path is None
        assert graph.opset == 20
        if layout in VIEWS:
            continue
        (image,), (logits,) = graph.inputs, graph.outputs
        assert (image.name, image.dtype, image.shape, image.layout) == (
            "image",
            "float32",
            (1, 3, 224, 320),
            "NCHW",
        )
        assert (logits.name, logits.shape) == ("logits", (1, loaded.classes, 224, 320))


def test_a_batch_is_the_images_one_by_one(tmp_path: Path) -> None:
    loaded = load(make_checkpoint(tmp_path / "model.pth", "segdino_v2"))
    three = export_onnx(loaded, tmp_path / "b3.onnx", height_px=64, width_px=32, batch=3)
    assert three.inputs[0].shape == (3, 3, 64, 32)
    run = _onnxruntime(three.path)
    check_parity(loaded, InputSize(64, 32, 3), run, runtime="onnxruntime")
    images = np.random.default_rng(1).standard_normal((3, 3, 64, 32)).astype(np.float32)
    together = run({"image": images})["logits"]
    with torch.inference_mode():
        alone = np.concatenate([loaded.model(torch.from_numpy(i[None])).numpy() for i in images])
    assert np.abs(together - alone).max() <= 1e-4 * np.ptp(alone)


@pytest.mark.parametrize("layout", ["segdino_v2_first", "segdino_v1_fine"])
def test_the_smallest_input(tmp_path: Path, layout: str) -> None:
    """One patch: every resampling starts from or ends at a single pixel."""
    loaded = load(make_checkpoint(tmp_path / "model.pth", layout))
    graph = export_onnx(loaded, tmp_path / "one.onnx", height_px=16, width_px=16)
    for name, make in RUNTIMES.items():
        check_parity(loaded, InputSize(16, 16), make(graph.path), runtime=name)


def test_export_is_quiet_reports_progress_and_leaves_the_model_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load(make_checkpoint(tmp_path / "model.pth", "segdino_v2"))
    image = torch.randn(1, 3, 48, 48)
    before = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    with torch.inference_mode():
        answer = loaded.model(image)
    steps: list[tuple[int, int]] = []
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        export_onnx(
            loaded,
            tmp_path / "model.onnx",
            height_px=32,
            width_px=32,
            progress=lambda done, total: steps.append((done, total)),
        )
    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.records, warned) == ("", "", [], [])
    assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1))
    after = loaded.model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    with torch.inference_mode():
        assert torch.equal(loaded.model(image), answer)


def test_graphs_over_the_size_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is 2 GB; lowered here, so that a small model exceeds it."""
    from edgeseg.export import onnx_export

    loaded = load(make_checkpoint(tmp_path / "model.pth", "segdino_v2"))
    monkeypatch.setattr(onnx_export, "MAX_FILE_BYTES", 10_000)
    graph = export_onnx(loaded, tmp_path / "large.onnx", height_px=32, width_px=48, rewrite=False)
    assert graph.data_path == tmp_path / "large.onnx.data"
    assert graph.data_path.stat().st_size > 10 * graph.path.stat().st_size > 0
    run = _onnxruntime(graph.path)
    check_parity(loaded, InputSize(32, 48), run, runtime="onnxruntime")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "large.onnx",
        "large.onnx.data",
        "model.pth",
    ]


def test_sizes_are_checked_before_any_work(tmp_path: Path) -> None:
    loaded = load(make_checkpoint(tmp_path / "model.pth"))
    with pytest.raises(UsageError, match="multiple of 16, got 250: take 240 or 256"):
        export_onnx(loaded, tmp_path / "model.onnx", height_px=250, width_px=256)
    assert not (tmp_path / "model.onnx").exists()


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    """Found before the work, like everything that can be."""
    loaded = load(make_checkpoint(tmp_path / "model.pth"))
    steps: list[int] = []
    with pytest.raises(OutputError, match=r"model\.pth"):
        export_onnx(
            loaded,
            tmp_path / "model.pth" / "model.onnx",
            height_px=32,
            width_px=32,
            progress=lambda done, _: steps.append(done),
        )
    assert not steps


class _Broken:
    """A stand-in runtime that answers as torch does, but for one flaw."""

    def __init__(self, loaded: LoadedCheckpoint, flaw: Callable[[np.ndarray], np.ndarray]) -> None:
        self.loaded, self.flaw = loaded, flaw

    def __call__(self, tensors: Tensors) -> Mapping[str, np.ndarray]:
        with torch.inference_mode():
            logits = self.loaded.model(torch.from_numpy(tensors["image"])).numpy().copy()
        return {"logits": self.flaw(logits)}


def _spoil(logits: np.ndarray, value: float) -> np.ndarray:
    logits[0, 0, 5, 7] = value
    return logits


def test_parity_finds_every_flaw(tmp_path: Path) -> None:
    loaded = load(make_checkpoint(tmp_path / "model.pth"))
    size = InputSize(32, 32)

    def judge(flaw: Callable[[np.ndarray], np.ndarray]) -> float:
        return check_parity(loaded, size, _Broken(loaded, flaw), runtime="broken").relative

    assert judge(lambda x: x) == 0.0
    span = float(np.ptp(_Broken(loaded, lambda x: x)({"image": _noise()})["logits"]))
    assert judge(lambda x: x + 5e-5 * span) == pytest.approx(5e-5, rel=0.1)
    for flaw in (
        lambda x: x + 2e-4 * span,
        lambda x: -x,
        lambda x: x[..., ::-1],
        lambda x: _spoil(x, float("nan")),
        lambda x: _spoil(x, float("inf")),
        lambda x: np.full_like(x, np.nan),
    ):
        with pytest.raises(ExportError, match="broken differs from torch by"):
            judge(flaw)
    with pytest.raises(ExportError, match="expected 'logits' of shape"):
        judge(lambda x: x[:, :, :16])
    with pytest.raises(ExportError, match="expected 'logits'"):
        check_parity(loaded, size, lambda _: {"other": np.zeros(3)}, runtime="broken")


def _noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)


def test_parity_uses_the_given_tensors(tmp_path: Path) -> None:
    """A flaw that shows on one input only is found when that input is given."""
    loaded = load(make_checkpoint(tmp_path / "model.pth"))
    bright = np.full((1, 3, 32, 32), 2.5, dtype=np.float32)
    good = _Broken(loaded, lambda x: x)

    def run(tensors: Tensors) -> Mapping[str, np.ndarray]:
        wrong = float(tensors["image"].min()) == 2.5
        return {"logits": good(tensors)["logits"] + wrong}

    check_parity(loaded, InputSize(32, 32), run, runtime="r")
    with pytest.raises(ExportError, match="r differs"):
        check_parity(loaded, InputSize(32, 32), run, runtime="r", tensors=[{"image": bright}])


def test_an_untrained_head_cannot_be_judged(tmp_path: Path) -> None:
    state = make_state_dict("segdino_v2")
    state["decoder.out_conv.weight"].zero_()
    torch.save(state, tmp_path / "model.pth")
    loaded = load(tmp_path / "model.pth")
    with pytest.raises(ExportError, match="the same everywhere"):
        check_parity(loaded, InputSize(32, 32), _Broken(loaded, lambda x: x), runtime="r")
