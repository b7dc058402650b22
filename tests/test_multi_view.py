"""Models of several views: opened whole or in part, read out as the reference says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import tiny_bundle, tiny_views, tiny_views_bundle

import edgeseg
from edgeseg.backends import available_backends
from edgeseg.errors import BackendError, GoldenMismatchError, UsageError
from edgeseg.kernels import View
from edgeseg.kernels.reference_fuse import fuse_views
from edgeseg.model import Model
from edgeseg.regularize import regularize
from edgeseg.settings import Settings
from edgeseg.spec import FusionSpec, ReadoutSpec, RegularizeSpec
from edgeseg.temporal import TemporalSmoother

BACKENDS = available_backends()
FRAME = cv2.resize(np.random.default_rng(5).integers(0, 256, (5, 6, 3), dtype=np.uint8), (101, 77))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_views_bundle(tmp_path_factory.mktemp("views") / "views.edgeseg")


def fused(model: Model, **options: object) -> np.ndarray:
    """The float64 fusion of what the engine answers to the model's own views."""
    outputs = model.infer(model.preprocess(FRAME))
    spec = model.preprocess_spec
    views = []
    for view in spec.views:
        answer = outputs[f"logits_{view.name}"]
        assert len(answer) == len(view.flips)
        views += [View(a, flip) for a, flip in zip(answer, view.flips, strict=True)]
    return fuse_views(views, spec.height_px, spec.width_px, **options)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_all_views_are_fused_on_the_grid(tmp_path, backend, channels):
    path = tiny_views_bundle(tmp_path / "b.edgeseg", channels=channels)
    with edgeseg.open(path, backend=backend) as model:
        reading = model.read_grid(model.infer(model.preprocess(FRAME)))
        expected = fused(model)
    assert expected.shape == ((64, 48) if channels == 1 else (3, 64, 48))
    assert np.abs(reading.probability() - expected).max() <= 1e-5
    decided = expected > 0.5 if channels == 1 else expected.argmax(axis=0)
    np.testing.assert_array_equal(reading.mask, decided)


def test_the_frames_mask_is_that_of_the_resized_probability(bundle):
    with edgeseg.open(bundle) as model:
        result = model(FRAME)
        expected = cv2.resize(fused(model).astype(np.float32), (101, 77))
    assert np.abs(result.probability - expected).max() <= 1e-5
    clear = np.abs(expected - 0.5) > 1e-4
    np.testing.assert_array_equal((result.mask > 0)[clear], (expected > 0.5)[clear])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (Settings(views=((32, 48),)), 3),
        (Settings(flips=()), 2),
        (Settings(flips=("v",)), 4),
        (Settings(views=((64, 48),), flips=()), 1),
    ],
)
def test_fewer_views_give_what_they_give_among_all(bundle, backend, settings, count):
    with edgeseg.open(bundle, backend=backend) as whole:
        everything = whole.infer(whole.preprocess(FRAME))
    with edgeseg.open(bundle, backend=backend, settings=settings) as model:
        outputs = model.infer(model.preprocess(FRAME))
        reading = model.read_grid(outputs)
        views = model.preprocess_spec.views
        assert sum(len(view.flips) for view in views) == count
        assert set(outputs) == {f"logits_{view.name}" for view in views}
    chosen = [
        View(everything[f"logits_{view.name}"][("none", "h", "v").index(flip)], flip)
        for view in views
        for flip in view.flips
    ]
    grid = max(((v.height_px, v.width_px) for v in views), key=lambda hw: hw[0] * hw[1])
    expected = fuse_views(chosen, *grid)[0]
    assert np.abs(reading.probability() - expected).max() <= 1e-5


def test_openvino_computes_only_the_chosen_copies(bundle):
    with edgeseg.open(bundle, backend="openvino", settings=Settings(flips=("v",))) as model:
        assert [port.shape[0] for port in model.engine.inputs] == [2, 2]
    chosen = Settings(views=((64, 48),), flips=())
    with edgeseg.open(bundle, backend="openvino", settings=chosen) as model:
        assert [port.shape for port in model.engine.inputs] == [(1, 3, 64, 48)]
        assert [port.name for port in model.engine.outputs] == ["logits_64x48"]


def test_weights_and_regularisation_can_be_set(bundle):
    with edgeseg.open(bundle, settings=Settings(weighting="exp", temperature=0.2)) as model:
        outputs = model.infer(model.preprocess(FRAME))
        expected = fused(model, weighting="exp", temperature=0.2)
        assert np.abs(model.read_grid(outputs).probability() - expected).max() <= 1e-5
        spec = dataclasses.replace(model.readout, regularize=RegularizeSpec(1.5, True, 40))
        cleaned = regularize(expected.astype(np.float32), spec.regularize)
        reading = model.read_grid(outputs, readout=spec)
        assert np.abs(reading.probability() - cleaned).max() <= 1e-4


def test_one_view_can_be_regularised_too(tmp_path):
    path = tiny_bundle(tmp_path / "one.edgeseg")
    with edgeseg.open(path) as plain:
        logits = next(iter(plain.infer(plain.preprocess(FRAME)).values()))[0, 0]
    with edgeseg.open(path, settings=Settings(blur_sigma_px=2.0)) as model:
        outputs = model.infer(model.preprocess(FRAME))
        found = model.read_grid(outputs).probability()
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = regularize(probability.astype(np.float32), RegularizeSpec(blur_sigma_px=2.0))
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.parametrize("views", [True, False])
def test_frames_are_smoothed_over_time(tmp_path, views):
    path = tmp_path / "b.edgeseg"
    tiny_views_bundle(path) if views else tiny_bundle(path)
    rng = np.random.default_rng(0)
    frames = [
        np.clip(FRAME.astype(int) + rng.integers(-9, 10, FRAME.shape), 0, 255).astype(np.uint8)
        for _ in range(5)
    ]
    times_ms = [0.0, 40.0, 90.0, 700.0, 740.0]
    smoother = TemporalSmoother(60.0)
    with edgeseg.open(path) as model:
        state = None
        for frame, time_ms, before in zip(frames, times_ms, [None, *times_ms], strict=False):
            outputs = model.infer(model.preprocess(frame))
            memory = smoother.step(frame, time_ms)
            single = model.read_grid(outputs).probability().astype(np.float64)
            model.read_out(outputs, (64, 48), memory=memory)
            gap = None if before is None else time_ms - before
            keep = 0.0 if gap is None or gap > 500 else np.exp(-gap / 60.0)
            state = single if state is None else keep * state + (1 - keep) * single
            assert memory.state is not None
            assert np.abs(memory.state - state).max() <= 1e-5


def test_settings_that_do_not_fit_are_refused(bundle, tmp_path):
    with pytest.raises(UsageError, match="no view of 48x48"):
        edgeseg.open(bundle, settings=Settings(views=((48, 48),)))
    with pytest.raises(UsageError, match="reads a frame once"):
        edgeseg.open(tiny_bundle(tmp_path / "one.edgeseg"), settings=Settings(flips=("h",)))


def test_every_output_is_compared_with_its_golden_answer(tmp_path):
    from edgeseg.bundle import Golden, read_bundle, seal, write_golden

    path = tiny_views_bundle(tmp_path / "b.edgeseg")
    read = read_bundle(path)
    golden = read.golden()
    assert set(golden.outputs) == {"logits_32x48", "logits_64x48"}
    off = {name: answer.copy() for name, answer in golden.outputs.items()}
    off["logits_64x48"][1, 2] *= 1.05
    write_golden(path, Golden(golden.frames, off))
    seal(path, read.manifest)
    with pytest.raises(GoldenMismatchError):
        edgeseg.open(path)
    # The copy that is off is not among the chosen ones.
    edgeseg.open(path, backend="openvino", settings=Settings(flips=("h",))).close()
    del off["logits_32x48"]
    write_golden(path, Golden(golden.frames, off))
    seal(path, read.manifest)
    with pytest.raises(GoldenMismatchError, match="inf"):
        edgeseg.open(path)


def test_a_graph_of_other_inputs_is_refused(tmp_path):
    from edgeseg.bundle import read_bundle, seal

    path = tiny_views_bundle(tmp_path / "b.edgeseg")
    manifest = read_bundle(path).manifest
    variant = manifest.variants[0]
    wrong = dataclasses.replace(variant.inputs[0], name="image_16x16")
    changed = dataclasses.replace(variant, inputs=(wrong, *variant.inputs[1:]))
    seal(path, dataclasses.replace(manifest, variants=(changed,)))
    with pytest.raises(BackendError, match="the manifest says image_16x16"):
        edgeseg.open(path)


def test_views_of_the_manifest_are_kept(bundle):
    from edgeseg.bundle import read_bundle

    manifest = read_bundle(bundle).manifest
    assert manifest.preprocess.views == tiny_views()
    assert manifest.readout == ReadoutSpec("sigmoid", fusion=FusionSpec())
