"""DINO-MVR: settings, views, and a graph of several inputs that shares its weights."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoints import make_checkpoint, make_state_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from reference import reference_features, reference_logits

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.calib import check_placement, collect_ranges, quantize, to_fp16
from edgeseg.calib.graph import Graph
from edgeseg.calib.placement import find_products
from edgeseg.errors import CalibrationError, CheckpointError, ExportError, UsageError
from edgeseg.export import (
    ExportedGraph,
    InputSize,
    LoadedCheckpoint,
    check_parity,
    export_onnx,
    load,
    random_checkpoint,
)
from edgeseg.export.backbone_config import BackboneConfig
from edgeseg.export.families.dino_mvr import FAMILY, DinoMvrConfig, probe_taps
from edgeseg.export.graph import infer_shapes
from edgeseg.export.rewriting import free_batch, share_weights
from edgeseg.spec import (
    FusionSpec,
    PreprocessSpec,
    ReadoutSpec,
    RegularizeSpec,
    TensorSpec,
    ViewSpec,
    VolumeSpec,
    ZSmoothingSpec,
    from_json,
)

BACKBONE = BackboneConfig(width=64, depth=4, heads=2, mlp_width=256)
BACKENDS: tuple[Any, ...] = ("openvino", "onnxruntime", "tensorrt")
RUNTIMES: tuple[Any, ...] = ("openvino", "onnxruntime")

EVERYTHING: dict[str, Any] = {
    "resolutions": [32, [64, 96], [48, 32]],
    "flips": ["v", "hv"],
    "classes": ["background", "liver", "tumour"],
    "weighting": "exp",
    "temperature": 0.7,
    "blur_sigma_px": 1.5,
    "fill_holes": True,
    "min_component_px": 64,
    "z_sigma": 2.5,
    "z_unit": "slices",
    "time_constant_ms": 120,
    "threshold": 0.4,
    "resample": "bicubic",
    "mean": [0.5, 0, 0.25],
    "std": [1, 0.5, 2.0],
    "volume": {"normalize": "window=40,400", "axis": "coronal"},
}


def _apply(config: dict[str, Any], classes: int = 1) -> DinoMvrConfig:
    return FAMILY.apply_settings(DinoMvrConfig(BACKBONE, classes=classes), config)


def test_every_setting_arrives() -> None:
    config = _apply(EVERYTHING, classes=3)
    flips = ("none", "v", "hv")
    views = (ViewSpec(32, 32, flips), ViewSpec(64, 96, flips), ViewSpec(48, 32, flips))
    size = FAMILY.default_input(config)
    assert size == InputSize(64, 96)
    assert FAMILY.preprocess(config, size) == PreprocessSpec(
        64,
        96,
        "bicubic",
        (0.5, 0.0, 0.25),
        (1.0, 0.5, 2.0),
        views=views,
        volume=VolumeSpec("window=40,400", "coronal"),
    )
    assert FAMILY.readout(config) == ReadoutSpec(
        "softmax",
        0.4,
        fusion=FusionSpec("exp", 0.7),
        regularize=RegularizeSpec(1.5, True, 64),
        time_constant_ms=120.0,
        z_smoothing=ZSmoothingSpec(2.5, "slices"),
    )
    assert FAMILY.class_names(config) == ("background", "liver", "tumour")
    assert FAMILY.inputs(config, size) == (
        TensorSpec("image_32x32", "float32", (3, 3, 32, 32), "NCHW"),
        TensorSpec("image_64x96", "float32", (3, 3, 64, 96), "NCHW"),
        TensorSpec("image_48x32", "float32", (3, 3, 48, 32), "NCHW"),
    )
    assert FAMILY.outputs(config, size) == (
        TensorSpec("logits_32x32", "float32", (3, 3, 2, 2), "NCHW"),
        TensorSpec("logits_64x96", "float32", (3, 3, 4, 6), "NCHW"),
        TensorSpec("logits_48x32", "float32", (3, 3, 3, 2), "NCHW"),
    )


def test_defaults() -> None:
    config = _apply({})
    size = FAMILY.default_input(config)
    flips = ("none", "h", "v")
    assert FAMILY.preprocess(config, size) == PreprocessSpec(
        512,
        512,
        "bilinear",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        views=tuple(ViewSpec(side_px, side_px, flips) for side_px in (256, 384, 512)),
    )
    assert FAMILY.readout(config) == ReadoutSpec("sigmoid", fusion=FusionSpec("entropy"))
    assert FAMILY.class_names(config) is None


def test_settings_and_manifest_hold_the_whole_config() -> None:
    for config in (_apply(EVERYTHING, classes=3), _apply({}), _apply({"flips": [], "z_sigma": 1})):
        fresh = DinoMvrConfig(BACKBONE, classes=config.classes)
        assert FAMILY.apply_settings(fresh, FAMILY.settings(config)) == config
        hyper = FAMILY.hyperparameters(config)
        assert from_json(DinoMvrConfig, hyper, "hyperparameters") == config


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("resolutions", 256, r"a list of sizes, each a number of pixels or \[height, width\]"),
        ("resolutions", "256,384", "a list of sizes"),
        ("resolutions", [256.0], "a list of sizes"),
        ("resolutions", [True], "a list of sizes"),
        ("resolutions", [[256, 256, 3]], "a list of sizes"),
        ("resolutions", [], "at least one resolution"),
        ("resolutions", [256, 250], "multiples of 16, got 250: take 240 or 256"),
        ("resolutions", [[256, 8]], "multiples of 16, got 8: take 16"),
        ("resolutions", [-16], "multiples of 16, got -16: take 16"),
        ("resolutions", [16 * 10**6], "at most 8192 pixels"),
        ("resolutions", [256, [256, 256]], "256x256 is given twice"),
        ("flips", "h", "a list of"),
        ("flips", ["h", 1], "a list of"),
        ("flips", ["d"], "there is no flip 'd': choose among h, v, hv"),
        ("flips", ["h", "h"], "'h' is given twice"),
        ("flips", ["none", "none"], "'none' is given twice"),
        ("classes", ["a", "b"], "names 2 classes and the probes give 1"),
        ("classes", [" "], "a list of different names"),
        ("classes", [], "a list of different names"),
        ("classes", "polyp", "a list of different names"),
        ("weighting", "max", "one of 'entropy', 'exp', 'mean'"),
        ("weighting", ["mean"], "one of"),
        ("temperature", 0.001, r"a number of nats from 0\.05"),
        ("temperature", "1", "a number of nats"),
        ("temperature", True, "a number of nats"),
        ("blur_sigma_px", -1, "a number of pixels from 0"),
        ("fill_holes", 1, "true or false"),
        ("min_component_px", 2.5, "a whole number of pixels"),
        ("min_component_px", -1, "a whole number of pixels"),
        ("min_component_px", False, "a whole number of pixels"),
        ("z_sigma", -0.1, "a number from 0, or null"),
        ("z_unit", "mm", "says nothing without 'z_sigma'"),
        ("z_unit", "cm", "one of 'mm', 'slices'"),
        ("time_constant_ms", -1, "a number of milliseconds"),
        ("threshold", 0, "a number between 0 and 1"),
        ("threshold", 1.0, "a number between 0 and 1"),
        ("resample", "nearest", "one of 'bilinear', 'bicubic'"),
        ("mean", [0.5, 0.5], "three numbers"),
        ("mean", 0.5, "three numbers"),
        ("std", [1, 1, 0], "three positive numbers"),
        ("volume", "zscore", "an object with 'normalize'"),
        ("volume", {"axis": "axial"}, "an object with 'normalize'"),
        ("volume", {"normalize": "zscore", "spacing": 1}, "an object with 'normalize'"),
        ("volume", {"normalize": "window=40"}, "'window=LEVEL,WIDTH'"),
        ("volume", {"normalize": "window=40,0"}, "'window=LEVEL,WIDTH'"),
        ("volume", {"normalize": "window=40,-5"}, "'window=LEVEL,WIDTH'"),
        ("volume", {"normalize": "zscore", "axis": "oblique"}, "one of 'sagittal', "),
    ],
)
def test_settings_that_cannot_be(key: str, value: Any, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        _apply({key: value})
    assert repr(key)[:-1] in str(caught.value)
    assert type(caught.value) is CheckpointError


def test_errors_show_values_in_brief() -> None:
    with pytest.raises(CheckpointError) as caught:
        _apply({"weighting": "x" * 100_000})
    assert len(str(caught.value)) < 300


def test_unknown_settings_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = _apply({"flips": ["h"], "treshold": 0.3, "lr": 1e-3})
    assert config.flips == ("h",) and config.threshold == 0.5
    assert "'lr', 'treshold'" in caplog.text and "threshold" in caplog.text
    caplog.clear()
    _apply(EVERYTHING, classes=3)
    assert not caplog.records


def test_views_from_the_command_line() -> None:
    config = _apply({"resolutions": [64], "flips": ["hv"]})
    assert FAMILY.with_views(config, None, None) == config
    found = FAMILY.with_views(config, [(32, 48), (16, 16)], None)
    assert found.resolutions_px == ((32, 48), (16, 16)) and found.flips == ("hv",)
    assert FAMILY.default_input(found) == InputSize(32, 48)
    for flips, expected in (([], ()), (["none"], ()), (["v", "none", "h"], ("v", "h"))):
        assert FAMILY.with_views(config, None, flips).flips == expected
    assert FAMILY.with_views(config, None, ["none"]).views == (ViewSpec(64, 64, ("none",)),)


@pytest.mark.parametrize(
    ("sizes", "flips", "match"),
    [
        ([(256, 250)], None, "multiples of 16, got 250: take 240 or 256"),
        ([(0, 256)], None, "got 0: take 16"),
        ([], None, "at least one"),
        ([(64, 64), (32, 32), (64, 64)], None, "64x64 is given twice"),
        (None, ["v", "v"], "'v' is given twice"),
        (None, ["none", "h", "none"], "'none' is given twice"),
        (None, ["x"], "no flip 'x'"),
        ([(16 * i, 16) for i in range(1, 100)], None, "297 copies of a frame; at most 256"),
    ],
)
def test_views_that_cannot_be(sizes: Any, flips: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        FAMILY.with_views(_apply({}), sizes, flips)


def test_the_size_of_a_build_is_the_largest_view() -> None:
    config = _apply({"resolutions": [32, [64, 48], [48, 64]]})
    FAMILY.check_size(config, InputSize(64, 48))
    with pytest.raises(UsageError, match=r"32x32, 64x48, 48x64 .* not at 48x64: .*--views"):
        FAMILY.check_size(config, InputSize(48, 64))
    with pytest.raises(UsageError, match="batch must be 1, got 2"):
        FAMILY.check_size(config, InputSize(64, 48, 2))


def test_other_families_have_no_views(tmp_path: Path) -> None:
    loaded = load(make_checkpoint(tmp_path / "model.pth", "segdino_v2"))
    assert loaded.family.with_views(loaded.config, None, None) == loaded.config
    for views in (([(64, 64)], None), (None, ["h"])):
        with pytest.raises(UsageError, match="--views and --flips do not apply"):
            loaded.family.with_views(loaded.config, *views)


def test_probes_read_the_last_blocks() -> None:
    assert probe_taps(12) == (9, 10, 11) and probe_taps(4) == (1, 2, 3)
    state = make_state_dict("dino_mvr", depth=5)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    model = FAMILY.build(FAMILY.read_config(shapes)).eval()
    FAMILY.load_weights(model, state)
    image = torch.randn(2, 3, 48, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens, maps = model.backbone.tokens(image), model.backbone(image)
    weights = {key: value.double() for key, value in state.items()}
    expected = reference_features(weights, image.double(), heads=2, blocks=[2, 3, 4])
    assert len(tokens) == len(maps) == 3
    for a, b, c in zip(tokens, maps, expected, strict=True):
        assert a.shape == (2, 6, 64) and b.shape == c.shape == (2, 64, 3, 2)
        assert float((b - c).abs().max()) <= 1e-4
        assert torch.equal(a.transpose(1, 2).reshape(b.shape), b)


@settings(max_examples=5, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    batch=st.integers(1, 3),
    classes=st.integers(1, 4),
)
def test_formulation_on_any_views(sizes: list[tuple[int, int]], batch: int, classes: int) -> None:
    state = make_state_dict("dino_mvr", width=32, heads=1, classes=classes, hidden=(5, 9, 3))
    model = FAMILY.build(FAMILY.read_config({k: tuple(v.shape) for k, v in state.items()})).eval()
    FAMILY.load_weights(model, state)
    generator = torch.Generator().manual_seed(batch)
    images = [torch.randn(batch, 3, 16 * r, 16 * c, generator=generator) for r, c in sizes]
    with torch.inference_mode():
        answers = model(*images)
    assert len(answers) == len(images)
    for image, answer, (rows, columns) in zip(images, answers, sizes, strict=True):
        expected = reference_logits("dino_mvr", state, image, heads=1)
        assert answer.shape == expected.shape == (batch, classes, rows, columns)
        assert float((answer - expected).abs().max()) <= 1e-4


def test_too_many_channels_for_a_mask() -> None:
    shapes = {k: tuple(v.shape) for k, v in make_state_dict("dino_mvr", classes=256).items()}
    with pytest.raises(CheckpointError, match="256 channels; at most 255"):
        FAMILY.read_config(shapes)


def test_a_random_checkpoint_says_its_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(random_checkpoint.BACKBONES, "small", BACKBONE)
    random_checkpoint.write_random_checkpoint(tmp_path / "r.pth", "dino_mvr", "small", classes=2)
    saved = torch.load(tmp_path / "r.pth", weights_only=True)
    assert saved["config"]["resolutions"] == [[256, 256], [384, 384], [512, 512]]
    loaded = load(tmp_path / "r.pth")
    assert loaded.config == DinoMvrConfig(BACKBONE, (256, 256, 256), 2)


CONFIG = {"resolutions": [[64, 96], 48], "flips": ["h", "v"]}


@dataclasses.dataclass(frozen=True)
class _Made:
    loaded: LoadedCheckpoint
    graph: ExportedGraph
    frames: list[tuple[np.ndarray, ...]]
    files: dict[str, Path]
    """FP32, FP16 and INT8 for each backend."""

    def feed(self, index: int = 0) -> dict[str, np.ndarray]:
        names = [spec.name for spec in self.graph.inputs]
        return dict(zip(names, self.frames[index], strict=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> _Made:
    folder = tmp_path_factory.mktemp("mvr")
    loaded = load(make_checkpoint(folder / "m.pth", "dino_mvr", classes=2, config=CONFIG))
    graph = export_onnx(loaded, folder / "fp32.onnx", height_px=64, width_px=96)
    generator = np.random.default_rng(0)
    frames = [
        tuple(generator.standard_normal(spec.shape).astype(np.float32) for spec in graph.inputs)
        for _ in range(3)
    ]
    thresholds = collect_ranges(graph.path, frames, threads=1).thresholds("mse")
    files = {"fp32": graph.path, "fp16": to_fp16(graph.path, folder / "fp16.onnx").path}
    for backend in BACKENDS:
        files[backend] = quantize(graph.path, thresholds, backend, folder / f"{backend}.onnx").path
    return _Made(loaded, graph, frames, files)


def _infer(path: Path, runtime: Any, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with open_engine(path, runtime, EngineOptions(threads=1)) as engine:
        return dict(engine.infer(feed))


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean()))


def _constants(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_weights_stand_once_in_every_file(made: _Made) -> None:
    state = made.loaded.family.state_dict(made.loaded.model)
    matrices = [
        key
        for key, value in state.items()
        if key.endswith("weight") and value.ndim >= 2 and "norm" not in key
    ]
    assert len(matrices) == 1 + 4 * 4 + 6
    sizes = sorted(state[key].numel() for key in matrices)
    tables = sum(
        value.size
        for name, value in _constants(made.files["fp32"]).items()
        if name.startswith("views.")
    )
    for name, path in made.files.items():
        constants = _constants(path)
        big = [v for k, v in constants.items() if v.ndim >= 2 and not k.startswith("views.")]
        found = sorted(v.size for v in big if v.shape[0] > 1)
        assert found == sizes, name
        bytes_each = {"fp32": 4, "fp16": 2}.get(name, 1)
        whole = bytes_each * sum(sizes) + 4 * tables
        if name in ("openvino", "fp32", "fp16"):
            assert sum(v.nbytes for v in constants.values()) <= 1.25 * whole, name


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["fp16", *BACKENDS])
def test_lower_precisions_stay_close(made: _Made, name: str, runtime: Any) -> None:
    pytest.importorskip(runtime)
    expected = _infer(made.files["fp32"], "openvino", made.feed())
    found = _infer(made.files[name], runtime, made.feed())
    assert set(found) == {"logits_64x96", "logits_48x48"}
    for output, value in found.items():
        assert value.shape == expected[output].shape
        assert _error(value, expected[output]) <= (0.005 if name == "fp16" else 0.08)


def test_products_of_every_view_are_quantised(made: _Made) -> None:
    linears = {
        f"/views.{view}/{path}/MatMul"
        for view in range(2)
        for path in (
            *(
                f"backbone/blocks.{block}/{layer}"
                for block in range(4)
                for layer in ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
            ),
            *(f"probes/{probe}/{layer}" for probe in range(3) for layer in (0, 2)),
        )
    }
    patches = {f"/views.{view}/backbone/patch_embed/Conv" for view in range(2)}
    found = {p.name: p for p in find_products(Graph.load(made.graph.path))}
    assert set(found) == linears | patches
    for backend in BACKENDS:
        report = check_placement(onnx.load(made.files[backend]), backend)
        assert set(report.products) == linears | (patches if backend == "openvino" else set())


@pytest.mark.parametrize("name", ["fp32", "fp16", *BACKENDS])
def test_a_runtime_may_run_fewer_copies(made: _Made, name: str) -> None:
    """OpenVINO reshapes the file to a batch of 1: the answer is that of the first copy."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    model = core.read_model(made.files[name])
    precise = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}

    def run(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answers = core.compile_model(model, "CPU", precise)(feed)
        return {output.any_name: value for output, value in answers.items()}

    feed = made.feed()
    three = run(feed)
    for batch in (2, 1):
        model.reshape({name: [batch, *value.shape[1:]] for name, value in feed.items()})
        fewer = run({name: value[:batch] for name, value in feed.items()})
        for output, value in three.items():
            assert fewer[output].shape == (batch, *value.shape[1:])
            difference = np.abs(fewer[output] - value[:batch]).max()
            assert difference <= 1e-5 * np.ptp(value)


def test_every_reshape_leaves_the_batch_open(made: _Made) -> None:
    for name in ("fp32", *BACKENDS):
        model = onnx.load(made.files[name])
        constants = _constants(made.files[name])
        targets = [constants[n.input[1]] for n in model.graph.node if n.op_type == "Reshape"]
        assert len(targets) == 2 * (1 + 4 * 4 + 1)
        assert all(target[0] == 0 for target in targets)
        for node in model.graph.node:
            assert not any(a.name == "allowzero" and a.i for a in node.attribute)


def test_parity_judges_every_output(made: _Made) -> None:
    size = InputSize(64, 96)
    with open_engine(made.graph.path, "openvino", EngineOptions(threads=1)) as engine:

        def run(tensors: Any) -> dict[str, np.ndarray]:
            return dict(engine.infer(dict(tensors)))

        record = check_parity(made.loaded, size, run, runtime="openvino", tensors=[made.feed()])
        assert 0 <= record.relative <= 1e-4
        for spoilt in ("logits_64x96", "logits_48x48"):

            def wrong(tensors: Any, spoilt: str = spoilt) -> dict[str, np.ndarray]:
                answers = run(tensors)
                return answers | {spoilt: answers[spoilt][:, ::-1]}

            with pytest.raises(ExportError, match=f"in {spoilt}, which"):
                check_parity(made.loaded, size, wrong, runtime="openvino")


def test_other_views_of_the_same_checkpoint(tmp_path: Path, made: _Made) -> None:
    config = FAMILY.with_views(made.loaded.config, [(32, 80)], ["hv"])
    loaded = dataclasses.replace(made.loaded, config=config)
    with pytest.raises(UsageError, match="--views"):
        export_onnx(loaded, tmp_path / "x.onnx", height_px=64, width_px=96)
    graph = export_onnx(loaded, tmp_path / "x.onnx", height_px=32, width_px=80)
    assert [spec.shape for spec in graph.inputs] == [(2, 3, 32, 80)]
    record = check_parity(
        loaded,
        InputSize(32, 80),
        lambda tensors: _infer(graph.path, "openvino", dict(tensors)),
        runtime="openvino",
    )
    assert record.relative <= 1e-4


def test_calibration_frames_must_fit_the_graph(made: _Made) -> None:
    first, second = made.frames[0]
    for frame in ((first,), first, (first, second, second)):
        with pytest.raises(CalibrationError, match="the inputs image_64x96, image_48x48"):
            collect_ranges(made.graph.path, [frame], threads=1)
    listed = collect_ranges(made.graph.path, [[first, second]], threads=1)
    assert listed["image_64x96"].max_abs == float(np.abs(first).max())
    assert listed["image_48x48"].max_abs == float(np.abs(second).max())


def _graph(nodes: list[Any], constants: dict[str, np.ndarray], result: list[int]) -> Any:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [3, 4, 5])],
        [info("y", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_transposed_weights_are_folded_once() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["a"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("Transpose", ["w"], ["b"]),
        helper.make_node("MatMul", ["p", "b"], ["q"]),
        helper.make_node("MatMul", ["q", "w"], ["r"]),
        helper.make_node("MatMul", ["r", "copy"], ["y"]),
    ]
    model = _graph(nodes, {"w": weight, "copy": weight.copy()}, [3, 4, 5])
    x = np.random.default_rng(1).standard_normal((3, 4, 5)).astype(np.float32)
    share_weights(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul"] * 4
    assert len(model.graph.initializer) == 2
    from onnx.reference import ReferenceEvaluator

    (found,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(found, x @ weight.T @ weight.T @ weight @ weight, rtol=1e-4)


def test_a_batch_that_cannot_be_freed_is_an_error() -> None:
    ends = [
        helper.make_node("Reshape", ["x", "to"], ["r"], name="reshape"),
        helper.make_node("Add", ["r", "c"], ["y"], name="sum"),
    ]
    target = np.array([3, 20], np.int64)
    good = _graph(ends, {"to": target, "c": np.ones((1, 20), np.float32)}, [3, 20])
    infer_shapes(good)
    free_batch(good)
    assert numpy_helper.to_array(good.graph.initializer[-1]).tolist() == [0, 20]
    assert good.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    bad = _graph(ends, {"to": target, "c": np.ones((3, 20), np.float32)}, [3, 20])
    with pytest.raises(ExportError, match="cannot be reshaped to a batch of 1"):
        free_batch(bad)


def test_the_batch_may_not_move_to_another_dimension() -> None:
    """(3, 4, 5) to (12, 5): the batch is inside the first dimension and stays a constant."""
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"], name="reshape")]
    model = _graph(nodes, {"to": np.array([12, 5], np.int64)}, [12, 5])
    with pytest.raises(ExportError, match="batch of 1"):
        free_batch(model)
