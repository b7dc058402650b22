"""``edgeseg.run`` where the engine works on a device: which way frames take, and what comes out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

from builders import tiny_bundle
from cuda_double import FakeRuntime, fake_kernels
from engine_double import StreamDouble
from live_doubles import Numbered
from video_files import cut, decode_all, numbered_frame, write_video

import edgeseg
from edgeseg import model as models
from edgeseg.errors import BackendError, BackendUnavailableError, TruncatedVideoError
from edgeseg.frame_path import open_frame_path
from edgeseg.gpu import Gpu
from edgeseg.kernels import cuda
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.live import computation
from edgeseg.model import Model
from edgeseg.overlay import Overlay, default_colours
from edgeseg.settings import Settings
from edgeseg.spec import RoiSpec
from edgeseg.temporal import TemporalSmoother
from edgeseg.video import open_source
from edgeseg.workflows import _bench_measure, _route
from edgeseg.workflows._live_session import Look
from edgeseg.workflows.benchmark import benchmark

OpenDevice = Callable[..., FakeRuntime]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("one") / "tiny.edgeseg")


@pytest.fixture(scope="module")
def bundle_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("three") / "tiny.edgeseg", channels=3)


@pytest.fixture(scope="module")
def threshold(bundle: Path) -> float:
    with edgeseg.open(bundle) as model:
        return float(np.median(model(numbered_frame(3, 160, 96)).probability))


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch, host: CudaLibrary) -> OpenDevice:
    """Lets ``run`` find a device, whose engine is the bundle's own."""

    def install(runtime: FakeRuntime, **engine_options: Any) -> FakeRuntime:
        original = edgeseg.open

        def open_model(*arguments: Any, **options: Any) -> Model:
            model = original(*arguments, **options)
            model.engine = StreamDouble(runtime, model.engine, **engine_options)
            return model

        monkeypatch.setattr(models, "open", open_model)
        monkeypatch.setattr(cuda, "unavailable_reason", lambda: None)
        for module in (_route, _bench_measure, computation):
            monkeypatch.setattr(
                module,
                "open_frame_path",
                lambda model, hw, **options: open_frame_path(
                    model,
                    hw,
                    gpu=Gpu.open(runtime=runtime),
                    native=fake_kernels(runtime, host),
                    **options,
                ),
            )
        return runtime

    return install


def masks_of(
    bundle: Path, clip: Path, threshold: float | None, time_constant_ms: float = 0.0
) -> list[np.ndarray]:
    """The masks of the model on the CPU."""
    settings = Settings(time_constant_ms=time_constant_ms or None)
    smoother = TemporalSmoother(time_constant_ms) if time_constant_ms else None
    masks = []
    with edgeseg.open(bundle, settings=settings) as model, open_source(clip) as source:
        for frame in source:
            memory = None
            if smoother is not None:
                memory = smoother.step(frame.image, 1e3 * (frame.time_s or 0.0))
            outputs = model.infer(model.preprocess(frame.image))
            size = frame.image.shape[:2]
            result = model.read_out(outputs, size, threshold=threshold, memory=memory)
            masks.append(result.mask)
    return masks


@pytest.mark.parametrize("time_constant_ms", [0.0, 60.0])
@pytest.mark.parametrize("integrated", [False, True])
def test_masks_of_a_video_over_the_device_are_the_models(
    time_constant_ms: float,
    integrated: bool,
    bundle: Path,
    threshold: float,
    on_device: OpenDevice,
    tmp_path: Path,
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=12)
    expected = masks_of(bundle, clip, threshold, time_constant_ms)
    runtime = on_device(FakeRuntime(1, integrated=integrated))
    out = tmp_path / "masks.mkv"
    report = edgeseg.run(
        bundle,
        clip,
        out,
        mask_only=True,
        threshold=threshold,
        settings=Settings(time_constant_ms=time_constant_ms or None),
    )
    stored, _ = decode_all(out, "gray")
    assert len(stored) == len(expected) == report.frames == 12
    for mask, wanted in zip(stored, expected, strict=True):
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask == 255 * wanted).mean() >= 0.999
    assert report.frames_with_foreground == sum(bool(mask.any()) for mask in expected)
    assert [stage.name for stage in report.pipeline.stages] == [
        "decode", "submit", "collect", "encode",
    ]  # fmt: skip
    where = "memory shared with the host" if integrated else "its own memory"
    assert report.frame_path == f"on Double of a GPU, in {where}, as CUDA graphs"
    assert report.frame_path in str(report)
    runtime.check()
    assert not runtime.live()


def test_the_overlay_comes_from_the_device(
    bundle_of_three: Path, on_device: OpenDevice, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=9)
    masks = masks_of(bundle_of_three, clip, None)
    on_device(FakeRuntime(2))
    out = tmp_path / "out.mp4"
    edgeseg.run(bundle_of_three, clip, out, alpha=0.5, contours=True)
    images, _ = decode_all(out)
    overlay = Overlay(default_colours(2), alpha=0.5, contours=True)
    with open_source(clip) as source:
        for image, frame, mask in zip(images, source, masks, strict=True):
            wanted = overlay(frame.image, mask)
            # Blurred, since the encoder keeps little of the frame's noise.
            stored, untouched, drawn = (
                cv2.GaussianBlur(picture, (0, 0), 3).astype(float)
                for picture in (image, frame.image, wanted)
            )
            assert np.abs(stored - drawn).mean() < 4
            assert np.abs(stored - untouched).mean() > 10


def test_frames_of_a_cut_off_video_all_come_out(
    bundle: Path, threshold: float, on_device: OpenDevice, tmp_path: Path
) -> None:
    whole = write_video(tmp_path / "clip.mkv", frames=30)
    clip = cut(whole, 0.7)
    runtime = on_device(FakeRuntime(3))
    out = tmp_path / "masks.mkv"
    with pytest.raises(TruncatedVideoError, match="what was read is written"):
        edgeseg.run(bundle, clip, out, mask_only=True, threshold=threshold)
    stored, _ = decode_all(out, "gray")
    assert 5 < len(stored) < 30
    assert not runtime.live()


def test_an_error_on_the_device_ends_the_run_and_writes_nothing(
    bundle: Path, on_device: OpenDevice, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=12)
    runtime = on_device(FakeRuntime(4, fail={"cudaGraphLaunch": 5}))
    out = tmp_path / "masks.mkv"
    with pytest.raises(BackendError, match="cudaGraphLaunch"):
        edgeseg.run(bundle, clip, out, mask_only=True)
    assert not out.exists()
    assert not runtime.live()


def test_the_host_serves_what_the_device_cannot_and_says_why(
    bundle: Path, on_device: OpenDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=3)
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), numbered_frame(1, 160, 96))
    plain = edgeseg.run(bundle, clip, tmp_path / "plain.mkv", mask_only=True)
    assert plain.frame_path == "on the host, where the engine works"
    assert "frames on the host" not in str(plain)

    runtime = on_device(FakeRuntime(5))
    run = functools.partial(edgeseg.run, bundle, mask_only=True)
    blurred = run(clip, tmp_path / "a.mkv", settings=Settings(blur_sigma_px=1.0))
    assert blurred.frame_path.startswith("on the host: spatial regularisation")
    assert run(picture, tmp_path / "a.png").frame_path == (
        "on the host: pictures are taken one by one"
    )
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: "no CUDA kernels here")
    missing = run(clip, tmp_path / "b.mkv")
    assert missing.frame_path == "on the host: no CUDA kernels here"
    assert "on the host: no CUDA kernels here" in str(missing)
    for name in ("plain", "b"):
        stored, _ = decode_all(tmp_path / f"{name}.mkv", "gray")
        for mask, wanted in zip(stored, masks_of(bundle, clip, None), strict=True):
            np.testing.assert_array_equal(mask, 255 * wanted)
    assert not runtime.calls


def test_a_model_on_the_host_has_no_frame_path(bundle: Path) -> None:
    with (
        edgeseg.open(bundle) as model,
        pytest.raises(BackendUnavailableError, match="backend tensorrt"),
    ):
        open_frame_path(model, (96, 160))


@pytest.mark.usefixtures("quick_bench")
@pytest.mark.parametrize("time_constant_ms", [0.0, 60.0])
def test_a_benchmark_tells_what_the_frame_path_reaches(
    bundle: Path, on_device: OpenDevice, monkeypatch: pytest.MonkeyPatch, time_constant_ms: float
) -> None:
    smoothing = Settings(time_constant_ms=time_constant_ms or None)
    original = edgeseg.open
    monkeypatch.setattr(
        models, "open", lambda *a, **k: original(*a, **{**k, "settings": smoothing})
    )
    monkeypatch.setattr(edgeseg, "open", models.open)
    runtime = on_device(FakeRuntime(1))
    report = benchmark(bundle, frame_hw_px=(48, 64), rounds=3)
    assert report.no_frame_path is None and report.frame_path is not None
    assert report.frame_path.frames_per_s > 0 and "as CUDA graphs" in report.frame_path.how
    steps = ["preprocess", "inference", "fuse", "decide", "draw"]
    assert [*report.frame_path.steps_ms] == [s for s in steps if s != "fuse" or time_constant_ms]
    assert report.result.frame_path == report.frame_path.record()
    runtime.assert_clean()


@pytest.mark.parametrize("roi", [None, "16,8,96,64"])
def test_a_live_session_over_the_device_shows_the_models_masks(
    roi: str | None, bundle: Path, threshold: float, on_device: OpenDevice
) -> None:
    """Frames of two sizes: the frame path is opened anew between them."""
    frames = [numbered_frame(i, 160, 96) for i in range(4)]
    frames += [numbered_frame(i, 128, 80) for i in range(4)]
    region = None if roi is None else RoiSpec(*map(int, roi.split(",")))
    with edgeseg.open(bundle) as model:
        expected = [model(one, threshold=threshold, region=region).mask for one in frames]
    runtime = on_device(FakeRuntime(1))
    look = Look(threshold=threshold, roi=roi)
    results = list(edgeseg.stream(bundle, Numbered(frames), look=look))
    assert [one.state for one in results] == ["current"] * 8
    for one, wanted in zip(results, expected, strict=True):
        assert one.mask is not None and one.mask.shape == wanted.shape
        assert (one.mask == wanted).mean() >= 0.999
    runtime.check()
    assert not runtime.live()


def test_a_live_session_over_the_device_smooths_over_time(
    bundle: Path, threshold: float, on_device: OpenDevice
) -> None:
    frames = [numbered_frame(i, 160, 96) for i in range(6)]
    settings = Settings(time_constant_ms=1e6)  # the time between two frames does not matter
    smoother = TemporalSmoother(1e6)
    expected = []
    with edgeseg.open(bundle, settings=settings) as model:
        for number, one in enumerate(frames):
            memory = smoother.step(one, 10.0 * number)
            outputs = model.infer(model.preprocess(one))
            read = model.read_out(outputs, one.shape[:2], threshold=threshold, memory=memory)
            expected.append(read.mask)
    runtime = on_device(FakeRuntime(1))
    look = Look(threshold=threshold)
    results = list(edgeseg.stream(bundle, Numbered(frames), look=look, settings=settings))
    for one, wanted in zip(results, expected, strict=True):
        assert one.mask is not None
        assert (one.mask == wanted).mean() >= 0.99
    runtime.check()
    assert not runtime.live()
