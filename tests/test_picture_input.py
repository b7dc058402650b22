"""INT8 graphs that take the resized picture: the folding, the bytes, and engines fed with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import IMAGENET_MEAN, IMAGENET_STD, tiny_bundle, tiny_views, tiny_views_bundle
from calib_graphs import HEIGHT_PX, WIDTH_PX, save_vit
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import edgeseg
from edgeseg import synthetic
from edgeseg.backends import EngineOptions, open_engine
from edgeseg.bench.engine_candidate import EngineCandidate
from edgeseg.bundle import read_bundle, seal
from edgeseg.calib import check_placement, collect_ranges, quantize
from edgeseg.calib.graph import Graph
from edgeseg.calib.picture import centre_biases, take_pictures
from edgeseg.errors import BackendError, BundleError, CalibrationError, InputError
from edgeseg.preprocess import Preprocessor, as_picture, takes_pictures
from edgeseg.settings import Settings
from edgeseg.spec import Flip, PreprocessSpec, RoiSpec, TensorSpec, ViewSpec
from edgeseg.workflows._bench_inputs import FrameInputs

SPEC = PreprocessSpec(HEIGHT_PX, WIDTH_PX, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
AXES: dict[Flip, tuple[int, ...]] = {"none": (), "h": (2,), "v": (1,), "hv": (1, 2)}


def picture(height_px: int, width_px: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


# --- the folding ---------------------------------------------------------------------------------


def save_convolutions(
    path: Path, *, bias: bool = True, pads: int = 0, twice: bool = False, colours: int = 3
) -> dict[str, Any]:
    """Two pictures of different sizes through one weight; returns the constants."""
    rng = np.random.default_rng(5)
    constants = {"w": rng.standard_normal((6, colours, 4, 3)).astype(np.float32)}
    if bias:
        constants["b"] = rng.standard_normal(6).astype(np.float32)
    nodes = [
        helper.make_node(
            "Conv", [x, *constants], [y], name=f"/{x}/Conv", strides=[4, 3], pads=[pads] * 4
        )
        for x, y in (("small", "y0"), ("large", "y1"))
    ]
    if twice:
        nodes.append(helper.make_node("Relu", ["large"], ["y2"], name="other"))
    info, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    sizes = {"small": (2, colours, 8, 6), "large": (2, colours, 12, 15)}
    grids = {"y0": (2, 6, 2, 2), "y1": (2, 6, 3, 5), "y2": sizes["large"]}
    wanted = ("y0", "y1", "y2") if twice else ("y0", "y1")
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [info(name, kind, shape) for name, shape in sizes.items()],
        [info(name, kind, grids[name]) for name in wanted],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return constants


def normalised(pictures: Any) -> Any:
    """Planes of float64, R, G, B."""
    rgb = pictures[..., ::-1].astype(np.float64) * SPEC.scale
    return ((rgb - np.asarray(SPEC.mean)) / np.asarray(SPEC.std)).transpose(0, 3, 1, 2)


def convolved(planes: Any, weight: Any, bias: Any) -> Any:
    """Kernels of 4 by 3 side by side, in float64."""
    n, c, h, w = planes.shape
    tiles = planes.reshape(n, c, h // 4, 4, w // 3, 3)
    return np.einsum("ncyixj,ocij->noyx", tiles, weight.astype(np.float64)) + bias


@pytest.mark.parametrize("bias", [True, False])
def test_the_folded_convolution_is_that_of_the_normalised_picture(
    tmp_path: Path, bias: bool
) -> None:
    constants = save_convolutions(tmp_path / "g.onnx", bias=bias)
    graph = Graph.load(tmp_path / "g.onnx")
    pictures = take_pictures(graph, SPEC)
    centre_biases(graph, pictures, SPEC)
    graph.save(tmp_path / "folded.onnx")

    rng = np.random.default_rng(6)
    feeds = {
        "small": rng.integers(0, 256, (2, 8, 6, 3), dtype=np.uint8),
        "large": rng.integers(0, 256, (2, 12, 15, 3), dtype=np.uint8),
    }
    found = ReferenceEvaluator(str(tmp_path / "folded.onnx")).run(None, feeds)
    offset = constants["b"][None, :, None, None] if bias else 0.0
    for answer, pixels in zip(found, feeds.values(), strict=True):
        expected = convolved(normalised(pixels), constants["w"], offset)
        np.testing.assert_allclose(answer, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    # Both convolutions still read one weight and one bias.
    stored = onnx.load(tmp_path / "folded.onnx").graph.initializer
    assert sorted(tuple(t.dims) for t in stored) == [(6,), (6, 3, 4, 3)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"pads": 1}, "pads"), ({"twice": True}, "else than one"), ({"colours": 4}, "three planes")],
)
def test_graphs_that_cannot_take_pictures_keep_their_inputs(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    save_convolutions(tmp_path / "g.onnx", **options)
    thresholds = {"small": 2.0, "large": 2.0}
    made = quantize(
        tmp_path / "g.onnx", thresholds, "openvino", tmp_path / "q.onnx", preprocess=SPEC
    )
    assert not made.takes_pictures
    assert any(reason in decision.why for decision in made.decisions)
    kinds = {i.type.tensor_type.elem_type for i in onnx.load(made.path).graph.input}
    assert kinds == {TensorProto.FLOAT}


# --- INT8 files ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames() -> list[Any]:
    return synthetic.golden_frames(6, 120, 160)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit(tmp_path_factory.mktemp("pictures") / "fp32.onnx")


@pytest.fixture(scope="module")
def thresholds(fp32: Path, frames: list[Any]) -> dict[str, float]:
    planes = Preprocessor(SPEC)
    found = collect_ranges(fp32, [planes(frame) for frame in frames], threads=1)
    return dict(found.thresholds("max"))


def answers(path: Path, backend: Any, tensors: list[Any]) -> list[Any]:
    with open_engine(path, backend, EngineOptions(threads=1)) as engine:
        return [engine.infer({"image": tensor})["logits"] for tensor in tensors]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_it_says_what_the_file_with_planes_says(
    fp32: Path, thresholds: dict[str, float], frames: list[Any], tmp_path: Path, backend: Any
) -> None:
    pytest.importorskip(backend)
    plain = quantize(fp32, thresholds, backend, tmp_path / "plain.onnx")
    folded = quantize(fp32, thresholds, backend, tmp_path / "folded.onnx", preprocess=SPEC)
    assert folded.takes_pictures and not plain.takes_pictures
    assert folded.products == plain.products
    assert "patch embedding" in folded.placement

    planes, pictures = Preprocessor(SPEC), Preprocessor(SPEC, pictures=True)
    truth = answers(fp32, backend, [planes(frame) for frame in frames])
    found = answers(folded.path, backend, [pictures(frame) for frame in frames])
    before = answers(plain.path, backend, [planes(frame) for frame in frames])

    def error(logits: list[Any]) -> float:
        pairs = zip(logits, truth, strict=True)
        return float(
            np.mean([np.linalg.norm(a - b) / np.linalg.norm(b - b.mean()) for a, b in pairs])
        )

    assert error(found) < 0.1
    assert error(found) <= 1.2 * error(before)


def test_exact_codes_bring_the_convolution_nearer(frames: list[Any], tmp_path: Path) -> None:
    save_convolutions(tmp_path / "g.onnx")
    sizes = (ViewSpec(8, 6, ("none", "h")), ViewSpec(12, 15, ("none", "h")))
    spec = dataclasses.replace(SPEC, views=sizes)
    planes, pictures = Preprocessor(spec), Preprocessor(spec, pictures=True)
    limit = dict.fromkeys(("small", "large"), 2.7)
    plain = quantize(tmp_path / "g.onnx", limit, "openvino", tmp_path / "plain.onnx").path
    folded = quantize(
        tmp_path / "g.onnx", limit, "openvino", tmp_path / "folded.onnx", preprocess=SPEC
    ).path

    def run(path: Path, preprocess: Preprocessor) -> Any:
        session = ReferenceEvaluator(str(path))
        found = []
        for frame in frames:
            tensors = dict(zip(("small", "large"), preprocess.tensors(frame), strict=True))
            found += [values.ravel() for values in session.run(None, tensors)]
        return np.concatenate(found)

    truth = run(tmp_path / "g.onnx", planes)
    errors = [
        np.linalg.norm(run(path, p) - truth) for path, p in ((plain, planes), (folded, pictures))
    ]
    assert 0.0 < errors[1] < 0.9 * errors[0]
    # One weight for both inputs, as codes.
    codes = [t for t in onnx.load(folded).graph.initializer if t.data_type == TensorProto.INT8]
    assert sum(len(t.dims) == 4 for t in codes) == 1


def test_openvino_convolves_the_bytes_as_they_are(
    fp32: Path, thresholds: dict[str, float], tmp_path: Path
) -> None:
    ov = pytest.importorskip("openvino")
    core = ov.Core()
    if "INT8" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO computes no INT8 on this processor")
    path = quantize(fp32, thresholds, "openvino", tmp_path / "q.onnx", preprocess=SPEC).path
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    request = core.compile_model(str(path), "CPU", config).create_infer_request()
    request.infer([Preprocessor(SPEC, pictures=True)(picture(90, 120))])
    ran = [layer for layer in request.profiling_info if layer.status == layer.Status.EXECUTED]
    # What comes first is no conversion, and no pass that changes the layout.
    assert ran[0].node_type == "Convolution" and "patch_embed" in ran[0].node_name
    assert ran[0].exec_type.endswith("_I8")


def test_the_rules_know_pictures(fp32: Path, thresholds: dict[str, float], tmp_path: Path) -> None:
    path = quantize(fp32, thresholds, "openvino", tmp_path / "q.onnx", preprocess=SPEC).path
    model = onnx.load(path)
    assert "patch_embed" in check_placement(model, "openvino").products
    with pytest.raises(CalibrationError, match="no QuantizeLinear made"):
        check_placement(model, "tensorrt")
    for name, value in (("picture_scale", np.float32(2)), ("picture_zero_point", np.uint8(128))):
        changed = onnx.load(path)
        (constant,) = (t for t in changed.graph.initializer if t.name == name)
        constant.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
        with pytest.raises(CalibrationError, match=r"picture's scale|zero point"):
            check_placement(changed, "openvino")


def test_tensorrt_keeps_planes(fp32: Path, thresholds: dict[str, float], tmp_path: Path) -> None:
    made = quantize(fp32, thresholds, "tensorrt", tmp_path / "q.onnx", preprocess=SPEC)
    assert not made.takes_pictures
    assert made.decisions == quantize(fp32, thresholds, "tensorrt", tmp_path / "r.onnx").decisions


# --- the bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("roi", [None, RoiSpec(5, 3, 61, 40)])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_the_bytes_are_what_the_planes_are_made_of(roi: RoiSpec | None, resample: Any) -> None:
    spec = PreprocessSpec(33, 47, resample, IMAGENET_MEAN, IMAGENET_STD, roi=roi)
    frame = picture(70, 90)
    made = Preprocessor(spec, pictures=True)(frame)
    assert made.dtype == np.uint8 and made.shape == (1, 33, 47, 3)
    # A picture of the wanted size is not resampled, only normalised.
    np.testing.assert_array_equal(
        Preprocessor(dataclasses.replace(spec, roi=None))(made[0]), Preprocessor(spec)(frame)
    )


def test_every_copy_of_every_view() -> None:
    flips: tuple[Flip, ...] = ("none", "hv", "v", "h")
    views = (ViewSpec(20, 31, flips), ViewSpec(1, 5, flips), ViewSpec(40, 1, ("none", "h")))
    spec = dataclasses.replace(SPEC, views=views, roi=RoiSpec(2, 4, 50, 40))
    frame = picture(60, 80)[::-1]
    space = np.full(4 * 20 * 31 * 3 + 4 * 5 * 3 + 2 * 40 * 3 + 128, 77, np.uint8)
    out, start = [], 64
    for view in views:
        size = len(view.flips) * view.height_px * view.width_px * 3
        shape = (len(view.flips), view.height_px, view.width_px, 3)
        out.append(space[start : start + size].reshape(shape))
        start += size
    made = Preprocessor(spec, pictures=True).tensors(frame, out)
    planes = Preprocessor(spec).tensors(frame)
    for view, array, given, wanted in zip(views, made, out, planes, strict=True):
        assert array is given
        single = dataclasses.replace(spec, views=(), roi=None)
        for copy, flip in zip(array, view.flips, strict=True):
            np.testing.assert_array_equal(copy, np.flip(array[:1], AXES[flip])[0])
        size = dataclasses.replace(single, height_px=view.height_px, width_px=view.width_px)
        for copy, tensor in zip(array, wanted, strict=True):
            np.testing.assert_array_equal(Preprocessor(size)(copy)[0], tensor)
    assert np.all(space[:64] == 77) and np.all(space[-64:] == 77)


@pytest.mark.parametrize(
    "out",
    [
        (),
        (np.zeros((1, HEIGHT_PX, WIDTH_PX, 3), np.float32),),
        (np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8),),
        (np.zeros((1, HEIGHT_PX, WIDTH_PX, 6), np.uint8)[..., ::2],),
        (np.broadcast_to(np.uint8(0), (1, HEIGHT_PX, WIDTH_PX, 3)),),
        ([[0]],),
    ],
)
def test_memory_that_does_not_fit_is_refused(out: Any) -> None:
    with pytest.raises(InputError):
        Preprocessor(SPEC, pictures=True).tensors(picture(9, 9), out)


def test_inputs_say_what_they_take() -> None:
    planes = TensorSpec("image", "float32", (2, 3, 8, 6), "NCHW")
    pixels = as_picture(planes)
    assert pixels == TensorSpec("image", "uint8", (2, 8, 6, 3), "NHWC")
    assert takes_pictures([pixels, pixels]) and not takes_pictures([planes])
    half = dataclasses.replace(planes, dtype="float16")
    for wrong in ([planes, pixels], [half], []):
        with pytest.raises(BundleError, match="inputs are all"):
            takes_pictures(wrong)


# --- bundles -------------------------------------------------------------------------------------


def with_picture_variant(path: Path) -> Path:
    """Add to a bundle of one FP32 variant an INT8 one for OpenVINO that takes pictures."""
    pytest.importorskip("openvino")
    manifest = read_bundle(path).manifest
    (plain,) = manifest.variants
    made = quantize(
        path / plain.file,
        dict.fromkeys([spec.name for spec in plain.inputs], 3.0),
        "openvino",
        path / "int8-openvino.onnx",
        preprocess=manifest.preprocess,
    )
    assert made.takes_pictures
    limits = dataclasses.replace(plain.golden_limits["openvino"], relative_error=0.05, cosine=0.9)
    variant = dataclasses.replace(
        plain,
        name="int8-openvino",
        file="int8-openvino.onnx",
        precision="int8",
        products="int8",
        backends=("openvino",),
        inputs=tuple(map(as_picture, plain.inputs)),
        golden_limits={"openvino": dataclasses.replace(limits, mask_agreement=0.9)},
    )
    seal(path, dataclasses.replace(manifest, variants=(plain, variant)))
    return path


@pytest.mark.parametrize("several", [False, True])
def test_a_bundle_feeds_each_variant_what_it_takes(tmp_path: Path, several: bool) -> None:
    make: Any = tiny_views_bundle if several else tiny_bundle
    path = with_picture_variant(make(tmp_path / "b.edgeseg"))
    frame = picture(75, 90, seed=4)
    with (
        edgeseg.open(path, backend="openvino", precision="fp32") as plain,
        edgeseg.open(path, backend="openvino", precision="int8") as small,
    ):
        assert small.golden_figures.relative_error > 0.0
        assert {port.dtype for port in small.engine.inputs} == {"uint8"}
        assert {port.layout for port in small.engine.inputs} == {"NHWC"}
        wanted, found = plain(frame), small(frame)
        assert np.mean(wanted.mask != found.mask) < 0.02
        np.testing.assert_allclose(found.probability, wanted.probability, atol=0.05)
        # The way over new arrays gives the same bits as that through bound ones.
        again = small.read_out(small.infer(small.preprocess(frame)), frame.shape[:2])
        np.testing.assert_array_equal(again.probability, found.probability)

        inputs = FrameInputs(small, frame)
        expected = {"float32": plain.preprocess(frame), "uint8": small.preprocess(frame)}
        for model, dtype in ((plain, "float32"), (small, "uint8")):
            fed = inputs.of(EngineCandidate(model))
            assert list(fed) == list(expected[dtype])
            for name, tensor in fed.items():
                assert tensor.dtype == dtype
                np.testing.assert_array_equal(tensor, expected[dtype][name])
        for name, tensor in inputs._planes.items():
            np.testing.assert_array_equal(tensor, expected["float32"][name])


def test_some_of_the_views_and_copies(tmp_path: Path) -> None:
    path = with_picture_variant(tiny_views_bundle(tmp_path / "b.edgeseg", tiny_views()))
    frame = picture(75, 90, seed=4)
    for flips in ((), ("v",)):
        settings = Settings(views=((64, 48),), flips=flips)
        with (
            edgeseg.open(path, backend="openvino", precision="fp32", settings=settings) as plain,
            edgeseg.open(path, backend="openvino", precision="int8", settings=settings) as small,
        ):
            assert small.engine.inputs[0].shape == (1 + len(flips), 64, 48, 3)
            probability = small(frame).probability
            np.testing.assert_allclose(probability, plain(frame).probability, atol=0.05)


def test_a_manifest_that_says_planes_of_a_file_with_pictures_is_refused(tmp_path: Path) -> None:
    path = with_picture_variant(tiny_bundle(tmp_path / "b.edgeseg"))
    manifest = read_bundle(path).manifest
    plain, small = manifest.variants
    wrong = dataclasses.replace(small, inputs=plain.inputs)
    seal(path, dataclasses.replace(manifest, variants=(plain, wrong)))
    with pytest.raises(BackendError, match="image of uint8, the manifest says float32"):
        edgeseg.open(path, backend="openvino", precision="int8")
