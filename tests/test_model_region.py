"""A region of interest for a single call: bit for bit what the frame cut to it gives."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import tiny_bundle, tiny_views_bundle
from video_files import decode_all, numbered_frame, write_video

import edgeseg
from edgeseg.backends import available_backends
from edgeseg.cli import main
from edgeseg.errors import InputError
from edgeseg.model import Model
from edgeseg.preprocess import Preprocessor
from edgeseg.settings import Settings
from edgeseg.spec import PreprocessSpec, RoiSpec, ViewSpec
from edgeseg.temporal import TemporalSmoother
from edgeseg.video import Frame, open_source
from edgeseg.video.pipeline import run_pipeline
from edgeseg.video.stages import frame_stages

HW = (71, 103)
REGION = RoiSpec(12, 9, 65, 50)
OTHER = RoiSpec(20, 4, 65, 50)
OUTSIDE = [RoiSpec(60, 0, 44, 10), RoiSpec(0, 70, 10, 2), RoiSpec(103, 0, 1, 1)]


def _frame(seed: int = 0, hw: tuple[int, int] = HW) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(small, hw[::-1], interpolation=cv2.INTER_CUBIC)


def _cut(frame: np.ndarray, region: RoiSpec) -> np.ndarray:
    rows = slice(region.y_px, region.y_px + region.height_px)
    return np.ascontiguousarray(frame[rows, region.x_px : region.x_px + region.width_px])


def _laid(inside: np.ndarray, region: RoiSpec, hw: tuple[int, int]) -> np.ndarray:
    """What was computed on the region, in a frame of background."""
    full = np.zeros((*inside.shape[:-2], *hw), inside.dtype)
    if inside.ndim == 3:
        full[0] = 1.0
    full[
        ...,
        region.y_px : region.y_px + region.height_px,
        region.x_px : region.x_px + region.width_px,
    ] = inside
    return full


CASES = ["one class", "several classes", "views", "views, several classes", "own region"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Model]]:
    """Opens the model of a case on a backend, once."""
    opened: dict[tuple[str, str], Model] = {}

    def model_of(case: str, backend: str = "openvino") -> Model:
        if (case, backend) not in opened:
            path = tmp_path_factory.mktemp("region") / "b.edgeseg"
            channels = 3 if "several" in case else 1
            if "views" in case:
                tiny_views_bundle(path, channels=channels)
            else:
                roi = RoiSpec(8, 6, 50, 40) if case == "own region" else None
                tiny_bundle(path, channels=channels, roi=roi)
            opened[case, backend] = edgeseg.open(path, backend=backend, threads=1)
        return opened[case, backend]

    yield model_of
    for model in opened.values():
        model.close()


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("case", CASES)
def test_a_region_equals_cutting_the_frame_first(
    case: str, backend: str, models: Callable[..., Model]
) -> None:
    model, frame = models(case, backend), _frame()
    inside = _cut(frame, REGION)
    whole = RoiSpec(0, 0, REGION.width_px, REGION.height_px)
    expected = model(inside, region=whole if case == "own region" else None)
    result = model(frame, region=REGION)
    assert result.region == REGION
    assert result.mask.shape == HW
    np.testing.assert_array_equal(result.mask, _laid(expected.mask, REGION, HW))
    np.testing.assert_array_equal(result.probability, _laid(expected.probability, REGION, HW))
    # Neither empty nor full, so that a shift would show.
    threshold = None
    if model.readout.activation == "sigmoid":
        threshold = float(np.median(expected.probability))
        mask = model(frame, region=REGION, threshold=threshold).mask
        np.testing.assert_array_equal(
            mask, _laid((expected.probability > threshold).astype(np.uint8), REGION, HW)
        )
        assert 0.2 < _cut(mask, REGION).mean() < 0.8
    else:
        assert len(np.unique(expected.mask)) > 1


@pytest.mark.parametrize("case", CASES)
def test_all_ways_through_the_stages_agree(case: str, models: Callable[..., Model]) -> None:
    model, frame = models(case), _frame(1)
    wanted = model(frame, region=REGION)
    for stages in (model, model.bound_stages()):
        tensors = stages.preprocess(frame, region=REGION)
        result = stages.read_out(stages.infer(tensors), HW, region=REGION)
        np.testing.assert_array_equal(result.probability, wanted.probability)
        np.testing.assert_array_equal(result.mask, wanted.mask)


def test_the_whole_frame_as_a_region_is_no_region(models: Callable[..., Model]) -> None:
    model, frame = models("one class"), _frame(2)
    whole = RoiSpec(0, 0, HW[1], HW[0])
    plain, given = model(frame), model(frame, region=whole)
    assert plain.region == given.region == whole
    np.testing.assert_array_equal(plain.mask, given.mask)
    np.testing.assert_array_equal(plain.probability, given.probability)


def test_a_given_region_replaces_the_bundles(models: Callable[..., Model]) -> None:
    model, plain = models("own region"), models("one class")
    frame = _frame(3)
    assert model(frame).region == model.roi == RoiSpec(8, 6, 50, 40)
    np.testing.assert_array_equal(
        model(frame, region=REGION).probability, plain(frame, region=REGION).probability
    )
    small = _frame(3, (40, 50))  # does not hold the bundle's region
    with pytest.raises(InputError, match=r"50x40 at \(8, 6\) does not fit into frames of 50x40"):
        model(small)
    inside = RoiSpec(0, 0, 50, 40)
    np.testing.assert_array_equal(model(small, region=inside).probability, plain(small).probability)


def test_outlines_and_areas_are_in_pixels_of_the_frame(models: Callable[..., Model]) -> None:
    model, frame = models("one class"), _frame()
    threshold = float(np.median(model(frame, region=REGION).probability[9:59, 12:77]))
    result = model(frame, region=REGION, threshold=threshold)
    points = np.concatenate(result.contours[1])
    assert points.min(0).tolist() >= [REGION.x_px, REGION.y_px]
    assert (points.max(0) < [REGION.x_px + 65, REGION.y_px + 50]).all()
    assert result.mask[points[:, 1], points[:, 0]].any()
    assert result.area_px == np.count_nonzero(result.mask)
    assert result.area_fraction == pytest.approx(result.area_px / (HW[0] * HW[1]))


@pytest.mark.parametrize("region", OUTSIDE)
def test_a_region_that_leaves_the_frame_is_refused(
    region: RoiSpec, models: Callable[..., Model]
) -> None:
    model, frame = models("one class"), _frame()
    outputs = model.infer(model.preprocess(frame))
    stages = model.bound_stages()
    calls: list[Callable[[], object]] = [
        lambda: model(frame, region=region),
        lambda: model.preprocess(frame, region=region),
        lambda: model.read_out(outputs, HW, region=region),
        lambda: stages.preprocess(frame, region=region),
    ]
    for call in calls:
        with pytest.raises(InputError, match="does not fit into frames of 103x71") as caught:
            call()
        assert "\n" not in str(caught.value)
    # The binding that was in use is whole, and nothing of the region stays.
    np.testing.assert_array_equal(model(frame).mask, model.read_out(outputs, HW).mask)


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("pictures", [False, True])
def test_preprocessing_of_both_kinds_of_inputs(views: bool, pictures: bool) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
    spec = PreprocessSpec(32, 48, "bicubic", mean, std)
    if views:
        sizes = (ViewSpec(32, 48, ("none", "hv")), ViewSpec(16, 16, ("none", "h")))
        spec = dataclasses.replace(spec, views=sizes)
    preprocessor, frame = Preprocessor(spec, pictures=pictures), _frame(4)
    expected = preprocessor.tensors(_cut(frame, REGION))
    found = preprocessor.tensors(frame, region=REGION)
    own = Preprocessor(dataclasses.replace(spec, roi=REGION), pictures=pictures).tensors(frame)
    written = tuple(np.empty_like(one) for one in expected)
    preprocessor.tensors(frame, out=written, region=REGION)
    for one in zip(expected, found, own, written, strict=True):
        assert one[0].dtype == (np.uint8 if pictures else np.float32)
        for other in one[1:]:
            np.testing.assert_array_equal(other, one[0])


# --- over time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["one class", "views, several classes"])
@pytest.mark.parametrize("say_it", [False, True])
def test_another_region_starts_the_smoothing_anew(
    case: str, say_it: bool, models: Callable[..., Model]
) -> None:
    model, smoother = models(case), TemporalSmoother(500.0)
    regions = [REGION, REGION, OTHER, OTHER, None, None]
    fresh = [True, False, True, False, True, False]
    previous = None
    for index, (region, anew) in enumerate(zip(regions, fresh, strict=True)):
        frame = np.clip(_frame().astype(int) + 6 * index, 0, 255).astype(np.uint8)
        step = {"region": region or RoiSpec(0, 0, HW[1], HW[0])} if say_it else {}
        memory = smoother.step(frame, 40.0 * index, **step)
        outputs = model.infer(model.preprocess(frame, region=region))
        result = model.read_out(outputs, HW, memory=memory, region=region)
        alone = TemporalSmoother(500.0).step(frame, 0.0)
        expected = model.read_out(outputs, HW, memory=alone, region=region)
        same = np.array_equal(result.probability, expected.probability)
        assert same == anew, index
        assert result.region == (region or RoiSpec(0, 0, HW[1], HW[0]))
        previous = result
    assert previous is not None
    said = [(80.0, "another region"), (160.0, "another region")]
    assert smoother.resets == (said if say_it else [])


def test_frames_of_another_size_start_the_smoothing_anew(models: Callable[..., Model]) -> None:
    model, smoother = models("one class"), TemporalSmoother(500.0)
    large = cv2.resize(_frame(), (206, 142))
    for index, frame in enumerate([_frame(), large]):
        memory = smoother.step(frame, 40.0 * index)
        outputs = model.infer(model.preprocess(frame))
        result = model.read_out(outputs, frame.shape[:2], memory=memory)
    alone = TemporalSmoother(500.0).step(large, 0.0)
    expected = model.read_out(outputs, large.shape[:2], memory=alone)
    np.testing.assert_array_equal(result.probability, expected.probability)


# --- in pipelines --------------------------------------------------------------------------------


def test_regions_travel_with_their_frames(models: Callable[..., Model]) -> None:
    model = models("one class")
    frames = [Frame(i, _frame(i), f"{i}", time_s=0.04 * i) for i in range(12)]
    regions = [REGION, OTHER, None]
    asked: list[int] = []

    def region_of(frame: Frame) -> RoiSpec | None:
        asked.append(frame.index)
        return regions[frame.index % 3]

    stages = frame_stages(
        model.bound_stages(), lambda frame, result: result, parallel=3, regions=region_of
    )
    seen: list[tuple[int, edgeseg.Result]] = []
    run_pipeline(frames, stages, lambda item: seen.append((item[0].index, item[1])))
    assert asked == [index for index, _ in seen] == list(range(12))
    for index, result in seen:
        expected = model(frames[index].image, region=regions[index % 3])
        assert result.region == expected.region
        np.testing.assert_array_equal(result.probability, expected.probability)


def test_the_frame_path_takes_a_region(models: Callable[..., Model], host: object) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    from cuda_double import FakeRuntime, fake_kernels
    from engine_double import StreamDouble

    from edgeseg.frame_path import Wanted, open_frame_path
    from edgeseg.gpu import Gpu

    wanted = Wanted(overlay=False, mask=True, statistics=True)
    for case in ("one class", "own region"):
        model, frame = models(case, "onnxruntime"), _frame(5)
        threshold = float(np.median(_cut(model(frame, region=REGION).probability, REGION)))
        expected = model(frame, region=REGION, threshold=threshold)
        runtime = FakeRuntime(0)
        engine, model.engine = model.engine, StreamDouble(runtime, model.engine)
        try:
            options = {"wanted": wanted, "native": fake_kernels(runtime, host)}
            with (
                Gpu.open(runtime=runtime) as gpu,
                open_frame_path(
                    model, HW, gpu=gpu, threshold=threshold, region=REGION, **options
                ) as path,
            ):
                assert path.region == REGION
                path.submit(frame)
                result = path.collect()
                with pytest.raises(InputError, match="does not fit into frames of 103x71"):
                    open_frame_path(model, HW, gpu=gpu, region=OUTSIDE[0], **options)
        finally:
            model.engine = engine
        assert result.mask is not None and result.counts is not None
        assert (result.mask == expected.mask).mean() >= 0.999
        assert not _outside(result.mask, REGION).any()
        assert sum(result.counts) == HW[0] * HW[1]
        assert result.area_px == np.count_nonzero(result.mask) > 0


def _outside(mask: np.ndarray, region: RoiSpec) -> np.ndarray:
    """What of the mask lies outside."""
    outside = np.ones(mask.shape, bool)
    outside[
        region.y_px : region.y_px + region.height_px, region.x_px : region.x_px + region.width_px
    ] = False
    return mask[outside]


# --- run -----------------------------------------------------------------------------------------


PICTURE = RoiSpec(64, 40, 160, 120)
"""Where the picture lies in the frames of ``bordered``."""


def bordered(number: int) -> np.ndarray:
    """uint8 (200, 320, 3): a picture inside a black border."""
    image = np.zeros((200, 320, 3), np.uint8)
    image[40:160, 64:224] = np.maximum(numbered_frame(number, 160, 120), 60)
    return image


@pytest.fixture(scope="module")
def bordered_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of which each shows ``bordered``, as the codec leaves it."""
    import av

    path = tmp_path_factory.mktemp("clip") / "bordered.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 320, 200, "yuv420p"
        for index in range(40):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(bordered(index), format="bgr24"))
            )
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("run") / "tiny.edgeseg")


def test_run_with_a_fixed_region(bundle: Path, bordered_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks.mkv"
    region = RoiSpec(50, 30, 90, 80)
    report = edgeseg.run(bundle, bordered_clip, out, mask_only=True, threshold=0.4, roi=region)
    assert report.region == "90x80 at (50, 30), as given"
    assert "region: 90x80 at (50, 30), as given" in str(report)
    stored, _ = decode_all(out, "gray")
    with edgeseg.open(bundle) as model, open_source(bordered_clip) as source:
        for mask, frame in zip(stored, source, strict=True):
            expected = model(frame.image, threshold=0.4, region=region)
            np.testing.assert_array_equal(mask, 255 * expected.mask)
    assert any(mask.any() for mask in stored)


@pytest.mark.parametrize("time_constant_ms", [None, 80.0])
def test_run_finds_the_region_and_uses_it_from_the_first_frame_on(
    bundle: Path, bordered_clip: Path, tmp_path: Path, time_constant_ms: float | None
) -> None:
    out = tmp_path / "masks.mkv"
    report = edgeseg.run(
        bundle,
        bordered_clip,
        out,
        mask_only=True,
        threshold=0.4,
        roi="auto",
        settings=Settings(time_constant_ms=time_constant_ms),
    )
    assert "inside black borders" in report.region and "; from" not in report.region
    width, height, x, y = map(int, re.findall(r"\d+", report.region)[:4])
    found = RoiSpec(x, y, width, height)
    for name in ("x_px", "y_px", "width_px", "height_px"):
        assert abs(getattr(found, name) - getattr(PICTURE, name)) <= 4
    assert report.resets == ()
    stored, _ = decode_all(out, "gray")
    assert len(stored) == 40
    smoother = TemporalSmoother(time_constant_ms) if time_constant_ms else None
    with edgeseg.open(bundle) as model, open_source(bordered_clip) as source:
        for mask, frame in zip(stored, source, strict=True):
            memory = smoother.step(frame.image, 1e3 * frame.time_s) if smoother else None
            outputs = model.infer(model.preprocess(frame.image, region=found))
            expected = model.read_out(
                outputs, frame.image.shape[:2], threshold=0.4, memory=memory, region=found
            )
            np.testing.assert_array_equal(mask, 255 * expected.mask)


def test_run_follows_the_region(bundle: Path, tmp_path: Path) -> None:
    import av

    clip, out = tmp_path / "switched.mp4", tmp_path / "masks.mkv"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 320, 200, "yuv420p"
        for index in range(50):
            image = bordered(index)
            if index >= 20:
                image = cv2.resize(numbered_frame(index, 160, 100), (320, 200))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    settings = Settings(time_constant_ms=300.0)
    report = edgeseg.run(
        bundle, clip, out, mask_only=True, threshold=0.01, roi="auto", settings=settings
    )
    assert "; from" in report.region and "the whole frame" in report.region
    assert "another region" in [why for _, why in report.resets]
    stored, _ = decode_all(out, "gray")
    whole = [bool(_outside(mask, RoiSpec(60, 36, 168, 128)).any()) for mask in stored]
    assert not any(whole[:20]) and all(whole[-10:])


def test_run_finds_a_region_for_each_picture(bundle: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "masks"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), bordered(3))
    cv2.imwrite(str(folder / "b.png"), np.zeros((120, 160, 3), np.uint8))
    cv2.imwrite(str(folder / "c.png"), numbered_frame(4, 160, 120))
    report = edgeseg.run(bundle, folder, out, mask_only=True, threshold=0.01, roi="auto")
    assert report.region.startswith("found in 2 of 3 pictures")
    bordered_mask = cv2.imread(str(out / "a.png"), cv2.IMREAD_GRAYSCALE)
    assert not _outside(bordered_mask, RoiSpec(62, 38, 164, 124)).any()
    assert bordered_mask.any()
    assert cv2.imread(str(out / "c.png"), cv2.IMREAD_GRAYSCALE)[[0, -1]].any()
    with pytest.raises(InputError, match="b: the region of interest 200x10"):
        edgeseg.run(bundle, folder, tmp_path / "no", roi=RoiSpec(0, 0, 200, 10))


def test_run_over_a_device_keeps_the_region_it_found(
    bundle: Path,
    bordered_clip: Path,
    tmp_path: Path,
    host: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    from cuda_double import FakeRuntime, fake_kernels
    from engine_double import StreamDouble

    from edgeseg import model as models_module
    from edgeseg.frame_path import open_frame_path
    from edgeseg.gpu import Gpu
    from edgeseg.kernels import cuda
    from edgeseg.workflows import _route

    plain = edgeseg.run(
        bundle, bordered_clip, tmp_path / "host.mkv", mask_only=True, threshold=0.4, roi="auto"
    )
    runtime, original = FakeRuntime(0), edgeseg.open

    def open_model(*arguments: object, **options: object) -> Model:
        model = original(*arguments, **options)
        model.engine = StreamDouble(runtime, model.engine)
        return model

    monkeypatch.setattr(models_module, "open", open_model)
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: None)
    monkeypatch.setattr(
        _route,
        "open_frame_path",
        lambda model, hw, **options: open_frame_path(
            model,
            hw,
            gpu=Gpu.open(runtime=runtime),
            native=fake_kernels(runtime, host),
            **options,
        ),
    )
    report = edgeseg.run(
        bundle, bordered_clip, tmp_path / "gpu.mkv", mask_only=True, threshold=0.4, roi="auto"
    )
    assert report.region == f"{plain.region}, for all frames"
    assert "Double of a GPU" in report.frame_path
    ours, _ = decode_all(tmp_path / "gpu.mkv", "gray")
    theirs, _ = decode_all(tmp_path / "host.mkv", "gray")
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine == other).mean() >= 0.999
    with pytest.raises(InputError, match="does not fit into frames of 320x200"):
        edgeseg.run(bundle, bordered_clip, tmp_path / "no.mkv", roi=RoiSpec(0, 0, 322, 200))


def test_the_region_on_the_command_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, out = tmp_path / "p.png", tmp_path / "o.png"
    cv2.imwrite(str(picture), bordered(1))
    arguments = ["run", str(bundle), str(picture), str(out), "--mask-only", "--force"]
    assert main([*arguments, "--roi", "64,40,160,120"]) == 0
    assert "160x120 at (64, 40)" in capsys.readouterr().out.replace("\n", " ")
    given = cv2.imread(str(out), cv2.IMREAD_GRAYSCALE)
    assert main([*arguments, "--roi", "auto"]) == 0
    np.testing.assert_array_equal(cv2.imread(str(out), cv2.IMREAD_GRAYSCALE), given)
    for bad in ("64,40,160", "64,40,0,10", "all", "-2,0,10,10"):
        assert main([*arguments, f"--roi={bad}"]) == 2
        assert "X,Y,WIDTH,HEIGHT" in capsys.readouterr().err.replace("\n", " ")
    assert main([*arguments, "--roi", "300,0,160,120"]) == 1


def test_a_run_without_a_region_says_so_only_where_the_bundle_has_one(tmp_path: Path) -> None:
    own = tiny_bundle(tmp_path / "own.edgeseg", roi=RoiSpec(8, 6, 50, 40))
    clip = write_video(tmp_path / "clip.mp4", frames=3)
    report = edgeseg.run(own, clip, tmp_path / "a.mkv", mask_only=True)
    assert report.region == "50x40 at (8, 6), as the bundle says" and report.region in str(report)
    # With "auto" the bundle's own region counts for nothing, found or not.
    report = edgeseg.run(own, clip, tmp_path / "b.mkv", mask_only=True, threshold=0.01, roi="auto")
    assert report.region.startswith("the whole frame (")
    stored, _ = decode_all(tmp_path / "b.mkv", "gray")
    assert all(_outside(mask, RoiSpec(8, 6, 50, 40)).any() for mask in stored)
