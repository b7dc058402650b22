"""The frame path on a GPU, on a stand-in for one, against the model on the CPU.

``FakeRuntime`` runs what is enqueued in a random order that keeps only what streams and events
promise; the kernels are the CUDA sources, compiled for the host.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

from builders import tiny_bundle, tiny_views_bundle
from cuda_double import FakeRuntime, fake_kernels
from engine_double import StreamDouble

import edgeseg
from edgeseg.errors import (
    BackendError,
    DeviceMemoryError,
    EdgesegError,
    InputError,
    UsageError,
)
from edgeseg.frame_path import FramePath, FrameResult, Wanted, unavailable_reason
from edgeseg.gpu import Gpu
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.model import Model
from edgeseg.overlay import Overlay, default_colours
from edgeseg.settings import Settings
from edgeseg.spec import FusionSpec, ReadoutSpec, RegularizeSpec, RoiSpec, TensorSpec
from edgeseg.temporal import Memory, TemporalSmoother
from edgeseg.video import open_source

HW = (61, 83)
EVERYTHING = Wanted(overlay=True, mask=True, statistics=True)
AGREEMENT = 0.999
"""Smallest share of pixels at which the masks of the two paths are the same."""

Frame = np.ndarray


def scene(seed: int, hw: tuple[int, int] = HW) -> Frame:
    """Smooth colours, different for every seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.clip(cv2.resize(small, hw[::-1], interpolation=cv2.INTER_CUBIC), 0, 255)


def clip(count: int, *, cut: int | None = None) -> list[Frame]:
    """Slow motion in one scene, and another scene from frame ``cut`` on."""
    frames = []
    for index in range(count):
        base = scene(1 if cut is None or index < cut else 2)
        frames.append(np.roll(base, 2 * index, axis=1))
    return frames


@dataclass(frozen=True)
class Case:
    """A model, and what is special about it."""

    channels: int = 1
    views: bool = False
    roi: RoiSpec | None = None
    align_corners: bool = False
    time_constant_ms: float = 0.0
    flips: tuple[str, ...] | None = None
    """In use, of those that the bundle has."""


CASES = {
    "one class": Case(),
    "several classes": Case(channels=3),
    "region of interest": Case(roi=RoiSpec(7, 5, 64, 49)),
    "region, several classes": Case(channels=3, roi=RoiSpec(3, 12, 77, 48)),
    "aligned corners": Case(align_corners=True),
    "views": Case(views=True),
    "views, several classes": Case(views=True, channels=3),
    "fewer flips than the engine computes": Case(views=True, flips=("v",)),
    "over time": Case(time_constant_ms=80.0),
    "over time, aligned corners": Case(time_constant_ms=80.0, align_corners=True),
    "views over time": Case(views=True, time_constant_ms=80.0),
    "views over time, several classes": Case(views=True, channels=3, time_constant_ms=80.0),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Case], Model]]:
    """Opens the bundle of a case, once."""
    opened: dict[Case, Model] = {}

    def model_of(case: Case) -> Model:
        if case in opened:
            return opened[case]
        path = tmp_path_factory.mktemp("bundle") / "b.edgeseg"
        if case.views:
            tiny_views_bundle(path, channels=case.channels)
        else:
            tiny_bundle(path, channels=case.channels, roi=case.roi)
        settings = Settings(flips=case.flips, time_constant_ms=case.time_constant_ms or None)
        # This backend keeps the batch of the file, as TensorRT does.
        model = edgeseg.open(path, backend="onnxruntime", threads=1, settings=settings)
        if case.align_corners:
            model.readout = dataclasses.replace(model.readout, align_corners=True)
            model._reader = model._reader.reading_as(model.readout)
        opened[case] = model
        return model

    yield model_of
    for model in opened.values():
        model.close()


@contextmanager
def opened(
    model: Model,
    host: CudaLibrary,
    runtime: FakeRuntime,
    *,
    wanted: Wanted = EVERYTHING,
    overlay: Overlay | None = None,
    engine: Any = None,
    hw: tuple[int, int] = HW,
    **options: Any,
) -> Iterator[FramePath]:
    """A path of a model on a runtime, which must be clean in the end."""
    kernels = fake_kernels(runtime, host)
    if overlay is None and wanted.overlay:
        overlay = overlay_of(model)
    with (
        Gpu.open(runtime=runtime) as gpu,
        FramePath(
            gpu,
            engine or StreamDouble(runtime, model.engine),
            model.fed_spec,
            model.readout,
            hw,
            wanted=wanted,
            rows=model.output_rows,
            overlay=overlay,
            native=kernels,
            **options,
        ) as path,
    ):
        yield path
    runtime.assert_clean()
    assert not kernels.plans


def overlay_of(model: Model) -> Overlay:
    return Overlay(default_colours(max(1, len(model.classes) - 1)), alpha=0.5, contours=True)


def median_threshold(model: Model, frame: Frame) -> float:
    """One that calls about half of the frame foreground."""
    probability = model(frame).probability
    if model.roi is not None:
        roi = model.roi
        probability = probability[roi.y_px :, roi.x_px :][: roi.height_px, : roi.width_px]
    return float(np.clip(np.median(probability), 0.01, 0.99))


def on_cpu(
    model: Model,
    frames: Sequence[Frame],
    thresholds: Sequence[float | None],
    memories: Sequence[tuple[float, bool]] | None = None,
) -> list[np.ndarray]:
    """The masks of the model itself."""
    memory = Memory()
    masks = []
    for index, (frame, threshold) in enumerate(zip(frames, thresholds, strict=True)):
        if memories is not None:
            memory.keep, memory.reset = memories[index]
        outputs = model.infer(model.preprocess(frame))
        masks.append(
            model.read_out(
                outputs,
                frame.shape[:2],
                threshold=threshold,
                memory=None if memories is None else memory,
            ).mask
        )
    return masks


def check(
    results: Sequence[FrameResult],
    masks: Sequence[np.ndarray],
    frames: Sequence[Frame],
    overlay: Overlay,
    classes: int,
) -> None:
    """Masks are the CPU's; the drawn frames and the counts are those of the masks."""
    assert len(results) == len(masks)
    for result, mask, frame in zip(results, masks, frames, strict=True):
        assert result.mask is not None
        assert (result.mask == mask).mean() >= AGREEMENT
        np.testing.assert_array_equal(result.overlay, overlay(frame, result.mask))
        assert result.counts == tuple(
            np.bincount(result.mask.ravel(), minlength=max(2, classes)).tolist()
        )
        assert result.area_px == np.count_nonzero(result.mask)
        assert set(result.timings_ms) == {"copy_in", "compute", "copy_out"}
        assert all(0.0 <= time_ms < 100.0 for time_ms in result.timings_ms.values())


def feed(
    path: FramePath,
    runtime: FakeRuntime,
    frames: Sequence[Frame],
    thresholds: Sequence[float | None],
    memories: Sequence[tuple[float, bool]] | None,
    seed: int,
) -> list[FrameResult]:
    """Submit in every way there is, in flight as many as the seed says; collect in order."""
    chance = random.Random(seed)
    memory = Memory()
    results = []
    waiting = 0
    for index, frame in enumerate(frames):
        while waiting and chance.random() < 0.4:
            results.append(path.collect())
            waiting -= 1
        if memories is not None:
            memory.keep, memory.reset = memories[index]
        given: Any = frame.copy()
        way = chance.choice(("array", "crop", "buffer", "device", "pitched"))
        if way == "crop":
            wide = np.zeros((frame.shape[0] + 3, frame.shape[1] + 5, 3), np.uint8)
            wide[3:, 5:] = frame
            given = wide[3:, 5:]
        elif way == "buffer":
            buffer = path.buffer()
            buffer[...] = frame
            given = buffer
        elif way == "device":
            given = runtime.array(frame)
        elif way == "pitched":
            given = Pitched(runtime, frame)
        path.submit(
            given,
            memory=None if memories is None else memory,
            threshold=thresholds[index],
        )
        waiting += 1
        if isinstance(given, np.ndarray) and way != "buffer":
            given[...] = 0  # the caller's again
        if memories is not None:
            memory.keep, memory.reset = 0.9, False  # read at the call
    results += [path.collect() for _ in range(waiting)]
    return results


class Pitched:
    """A frame of another library on the device whose rows lie further apart."""

    def __init__(self, runtime: FakeRuntime, frame: Frame) -> None:
        height, width, _ = frame.shape
        rows = np.full((height, 256 * (3 * width // 256 + 1)), 0x77, np.uint8)
        rows[:, : 3 * width] = frame.reshape(height, -1)
        self._rows = runtime.array(rows)
        self._shape = frame.shape

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        whole = self._rows.__cuda_array_interface__
        pitch = whole["shape"][1]
        return {**whole, "shape": self._shape, "strides": (pitch, 3, 1)}


class Planar:
    """A frame of another library on the device whose channels lie in planes."""

    def __init__(self, runtime: FakeRuntime, frame: Frame) -> None:
        self._planes = runtime.array(frame.transpose(2, 0, 1))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        whole = self._planes.__cuda_array_interface__
        channels, height, width = whole["shape"]
        shape = (height, width, channels)
        return {**whole, "shape": shape, "strides": (width, 1, height * width)}


@pytest.mark.parametrize("graphs", ["require", False], ids=["graphs", "pieces"])
@pytest.mark.parametrize("name", CASES)
def test_a_path_does_what_the_model_does(
    name: str, graphs: bool, models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES[name])
    frames = clip(7, cut=4)
    if model.readout.activation == "sigmoid":
        middle = median_threshold(model, frames[0])
        thresholds = [None, middle, middle, 0.8 * middle, middle, None, middle]
    else:
        thresholds = [None] * 7
    memories = None
    if model.readout.time_constant_ms:
        memories = [(0.0, True), (0.6, False), (0.8, False), (0.6, False)]
        memories += [(0.6, True), (0.7, False), (0.7, False)]
    masks = on_cpu(model, frames, thresholds, memories)
    assert len({mask.tobytes() for mask in masks}) > 3
    assert 0.05 < np.mean([mask > 0 for mask in masks]) < 0.95
    for seed in range(6):
        runtime = FakeRuntime(seed, integrated=seed % 2 == 1)
        with opened(model, host, runtime, graphs=graphs, sets=1 + seed % 3) as path:
            assert path.graphs == (graphs == "require")
            assert path.mapped == (seed % 2 == 1)
            results = feed(path, runtime, frames, thresholds, memories, seed)
        check(results, masks, frames, overlay_of(model), len(model.classes))


def test_a_smoother_steers_the_path(models: Callable[[Case], Model], host: CudaLibrary) -> None:
    model = models(CASES["views over time"])
    frames = clip(8, cut=5)
    times = [0.0, 40.0, 80.0, 120.0, 160.0, 200.0, 900.0, 940.0]
    threshold = median_threshold(model, frames[0])
    ours, theirs = TemporalSmoother(80.0), TemporalSmoother(80.0)
    runtime = FakeRuntime(11)
    with opened(model, host, runtime, threshold=threshold) as path:
        results = []
        for index, (frame, time_ms) in enumerate(zip(frames, times, strict=True)):
            path.submit(frame, memory=ours.step(frame, time_ms))
            if index:
                results.append(path.collect())
        results.append(path.collect())
    masks = []
    for frame, time_ms in zip(frames, times, strict=True):
        memory = theirs.step(frame, time_ms)
        outputs = model.infer(model.preprocess(frame))
        masks.append(model.read_out(outputs, HW, threshold=threshold, memory=memory).mask)
    assert ours.resets == theirs.resets == [(200.0, "scene cut"), (900.0, "gap")]
    check(results, masks, frames, overlay_of(model), 1)
    alone = on_cpu(model, frames, [threshold] * 8)
    assert any((a != m).mean() > 0.01 for a, m in zip(alone, masks, strict=True))


def test_another_memory_starts_anew(models: Callable[[Case], Model], host: CudaLibrary) -> None:
    model = models(CASES["over time"])
    first, second = scene(1), scene(2)
    threshold = median_threshold(model, second)
    expected = on_cpu(model, [second], [threshold], [(0.9, True)])
    with opened(model, host, FakeRuntime(0), threshold=threshold) as path:
        path.submit(first, memory=Memory(keep=0.9, reset=True))
        path.submit(second, memory=Memory(keep=0.9, reset=False))
        results = [path.collect(), path.collect()]
    assert (results[1].mask == expected[0]).mean() >= AGREEMENT


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(overlay=False, mask=False, statistics=True),
        Wanted(overlay=False, mask=True, statistics=False),
        Wanted(overlay=True, mask=False, statistics=False),
    ],
)
@pytest.mark.parametrize("integrated", [False, True])
def test_what_is_not_wanted_does_not_come_down(
    wanted: Wanted, integrated: bool, models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["region, several classes"])
    frames = clip(3)
    masks = on_cpu(model, frames, [None] * 3)
    runtime = FakeRuntime(5, integrated=integrated)
    with opened(model, host, runtime, wanted=wanted) as path:
        before = dict(runtime.calls)
        for frame in frames:
            path.submit(frame)
        results = [path.collect() for _ in frames]
        copies = {
            name: runtime.calls.get(name, 0) - before.get(name, 0)
            for name in ("cudaMemcpyAsync", "cudaMemcpy2DAsync")
        }
    # Up go the frame and the parameters, unless the device reads them where they lie.
    up = 0 if integrated else 2
    down = 1 if wanted.statistics or not integrated else 0
    assert copies == {"cudaMemcpyAsync": 3 * (up + down), "cudaMemcpy2DAsync": 0}
    for result, mask, frame in zip(results, masks, frames, strict=True):
        assert (result.overlay is not None) == wanted.overlay
        assert (result.mask is not None) == wanted.mask
        assert (result.counts is not None) == wanted.statistics
        counts = np.bincount(mask.ravel(), minlength=3)
        if result.counts is not None:
            assert sum(result.counts) == mask.size
            assert np.abs(np.subtract(result.counts, counts)).max() <= 0.001 * mask.size
        if result.mask is not None:
            assert (result.mask == mask).mean() >= AGREEMENT
        if result.overlay is not None:
            same = (result.overlay == overlay_of(model)(frame, mask)).all(axis=2)
            assert same.mean() >= 0.99
            with pytest.raises(InputError, match="area needs"):
                _ = result.area_px


def test_results_are_not_touched_by_later_frames(
    models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["several classes"])
    with opened(model, host, FakeRuntime(2), sets=1) as path:
        path.submit(scene(1))
        first = path.collect()
        kept = (first.overlay.copy(), first.mask.copy())  # type: ignore[union-attr]
        path.submit(scene(2))
        second = path.collect()
    np.testing.assert_array_equal(first.overlay, kept[0])
    np.testing.assert_array_equal(first.mask, kept[1])
    assert (second.mask != first.mask).any()
    # The path is closed and its memory freed: these are the caller's own.
    assert second.mask is not None and second.mask.flags.owndata


def test_results_wait_for_whoever_collects_late(
    models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["several classes"])
    frames = clip(9)
    masks = on_cpu(model, frames, [None] * 9)
    with opened(model, host, FakeRuntime(3)) as path:
        for frame in frames:
            path.submit(frame)
        results = [path.collect() for _ in frames]
        with pytest.raises(UsageError, match="nothing to collect"):
            path.collect()
    check(results, masks, frames, overlay_of(model), 3)


def test_one_thread_submits_while_another_collects(
    models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["several classes"])
    frames = [np.roll(scene(4), 3 * i, axis=1) for i in range(30)]
    masks = on_cpu(model, frames, [None] * len(frames))
    results: list[FrameResult] = []
    with opened(model, host, FakeRuntime(4)) as path:
        ready = threading.Semaphore(0)

        def collect() -> None:
            for _ in frames:
                assert ready.acquire(timeout=30)
                results.append(path.collect())

        thread = threading.Thread(target=collect)
        thread.start()
        for frame in frames:
            path.submit(frame)
            ready.release()
        thread.join(timeout=60)
        assert not thread.is_alive()
    check(results, masks, frames, overlay_of(model), 3)


def test_a_graph_replays_what_was_captured_once(
    models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["several classes"])
    runtime = FakeRuntime(0)
    engine = StreamDouble(runtime, model.engine)
    with opened(model, host, runtime, engine=engine, sets=2) as path:
        assert (engine.enqueued, engine.ran) == (4, 2)  # two runs to warm up, two captures
        for frame in clip(5):
            path.submit(frame)
        for _ in range(5):
            path.collect()
        assert (engine.enqueued, engine.ran) == (4, 7)
        assert runtime.calls["cudaGraphLaunch"] == 5
        assert path.why_no_graphs is None
        assert path.describe() == "on Double of a GPU, in its own memory, as CUDA graphs"


def test_the_pieces_can_be_timed(models: Callable[[Case], Model], host: CudaLibrary) -> None:
    model = models(CASES["views over time"])
    threshold = median_threshold(model, scene(1))
    with opened(model, host, FakeRuntime(0), threshold=threshold) as path:
        path.submit(scene(1), memory=Memory())
        with pytest.raises(UsageError, match="in flight"):
            path.steps_ms()
        path.collect()
        with pytest.raises(UsageError, match="at least 1 round"):
            path.steps_ms(rounds=0)
        times = path.steps_ms(rounds=3)
        assert list(times) == ["preprocess", "inference", "fuse", "decide", "draw"]
        assert all(time_ms > 0.0 for time_ms in times.values())
        # Timing counts as a frame of another video.
        path.submit(scene(2), memory=(memory := Memory(keep=0.9, reset=False)))
        result = path.collect()
        assert memory.reset
    expected = on_cpu(model, [scene(2)], [threshold], [(0.9, True)])
    assert (result.mask == expected[0]).mean() >= AGREEMENT


@pytest.mark.parametrize("what", ["engine", "device"])
def test_without_a_graph_the_path_goes_on_and_says_why(
    what: str,
    models: Callable[[Case], Model],
    host: CudaLibrary,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = models(CASES["several classes"])
    frames = clip(3)
    masks = on_cpu(model, frames, [None] * 3)
    # The second set's capture fails, so that the first one's graph must be given back.
    fail = {"cudaStreamEndCapture": 2} if what == "device" else {}
    runtime = FakeRuntime(6, fail=fail)
    engine = StreamDouble(runtime, model.engine, capturable=what != "engine")
    with opened(model, host, runtime, engine=engine) as path:
        assert not path.graphs
        assert path.why_no_graphs is not None and "captured" in path.why_no_graphs
        assert path.why_no_graphs in path.describe()
        assert path.why_no_graphs in caplog.text
        assert not runtime.live().get("executables")
        for frame in frames:
            path.submit(frame)
        results = [path.collect() for _ in frames]
    check(results, masks, frames, overlay_of(model), 3)
    runtime = FakeRuntime(6, fail=fail)
    engine = StreamDouble(runtime, model.engine, capturable=what != "engine")
    with (
        pytest.raises(BackendError, match="captured"),
        opened(model, host, runtime, engine=engine, graphs="require"),
    ):
        pass
    runtime.assert_clean()


def test_every_allocation_that_fails_leaves_nothing_behind(
    models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["views over time"])
    whole = FakeRuntime(0)
    with opened(model, host, whole):
        pass
    makers = (
        *("cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags"),
        *("cudaEventCreateWithFlags", "cudaMemcpyAsync", "cudaStreamSynchronize"),
    )
    tried = 0
    for name in makers:
        for nth in {1, whole.calls[name] // 2 + 1, whole.calls[name]}:
            runtime = FakeRuntime(0, fail={name: nth})
            memory = name in ("cudaMalloc", "cudaHostAlloc")
            with (
                pytest.raises(DeviceMemoryError if memory else BackendError),
                opened(model, host, runtime),
            ):
                # The last calls come at the end of a path that was made.
                raise BackendError("it was made")
            runtime.assert_clean()
            tried += 1
    assert tried > 10


@pytest.mark.parametrize(
    "fault",
    [
        {"cudaGraphLaunch": 2},
        {"cudaMemcpyAsync": 12},
        {"cudaEventRecord": 20},
        {"cudaEventSynchronize": 2},
        {"cudaEventElapsedTime": 2},
    ],
)
def test_an_error_of_the_device_ends_the_path(
    fault: dict[str, int], models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["several classes"])
    runtime = FakeRuntime(1, fail=fault)
    with opened(model, host, runtime) as path:
        with pytest.raises(BackendError) as first:
            for frame in clip(4):
                path.submit(frame)
                path.collect()
        for call in (
            lambda: path.submit(scene(0)),
            path.collect,
            path.buffer,
            path.steps_ms,
        ):
            with pytest.raises(BackendError, match=r"failed .*open another") as later:
                call()
            assert str(first.value) in str(later.value)


def test_an_error_of_the_engine_ends_the_path(
    models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["several classes"])
    runtime = FakeRuntime(1)
    engine = StreamDouble(runtime, model.engine, fail=5)
    with opened(model, host, runtime, engine=engine, graphs=False) as path:
        path.submit(scene(0))
        path.submit(scene(1))
        with pytest.raises(BackendError, match="refuses this call"):
            path.submit(scene(2))
        with pytest.raises(BackendError, match=r"refuses this call.*open another"):
            path.collect()
    with pytest.raises(BackendError, match="failed"):
        path.submit(scene(3))


def test_closing_waits_for_what_is_in_flight(
    models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["several classes"])
    for seed in range(6):
        runtime = FakeRuntime(seed)
        with opened(model, host, runtime) as path:
            path.submit(scene(1))
            path.submit(runtime.array(scene(2)))
            path.close()
            path.close()
            assert not runtime.live()
            with pytest.raises(BackendError, match="closed"):
                path.collect()
            with pytest.raises(BackendError, match="closed"):
                path.submit(scene(1))


def test_closing_tells_what_no_call_has_told(
    models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["several classes"])
    whole = FakeRuntime(0)
    with opened(model, host, whole):
        before = whole.calls["cudaStreamSynchronize"]
    runtime = FakeRuntime(0, fail={"cudaStreamSynchronize": before + 1})
    with pytest.raises(BackendError, match="cudaStreamSynchronize"), opened(model, host, runtime):
        pass
    runtime.assert_clean()


def test_bad_frames_are_refused_and_cost_nothing(
    models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    model = models(CASES["one class"])
    frame = scene(1)
    threshold = median_threshold(model, frame)
    runtime = FakeRuntime(0)
    with opened(model, host, runtime) as path:
        before = runtime.calls["cudaMemcpyAsync"]
        for bad, text in (
            (frame[:-1], "frames of"),
            (frame.astype(np.float32), "uint8"),
            (frame[..., 0], "uint8 array"),
            (runtime.array(frame[:, :-1]), "frames of"),
            (runtime.array(frame.astype(np.int16)), "uint8"),
            (Planar(runtime, frame), "follow each other"),
            ("frame", "array in device memory"),
            (None, "array in device memory"),
        ):
            with pytest.raises(InputError, match=text):
                path.submit(bad)
        for threshold_of_no_use in (0.0, 1.0, float("nan")):
            with pytest.raises(InputError, match="threshold"):
                path.submit(frame, threshold=threshold_of_no_use)
        with pytest.raises(UsageError, match="memory has no use"):
            path.submit(frame, memory=Memory())
        assert runtime.calls["cudaMemcpyAsync"] == before
        path.submit(frame, threshold=threshold)
        result = path.collect()
    check([result], on_cpu(model, [frame], [threshold]), [frame], overlay_of(model), 1)


def test_paths_that_cannot_be_are_refused_with_the_reason(
    models: Callable[[Case], Model], host: CudaLibrary
) -> None:
    one, three = models(CASES["one class"]), models(CASES["several classes"])
    over_time = models(CASES["over time"])
    roi = models(CASES["region of interest"])

    def refused(error: type[EdgesegError], text: str, model: Model, **options: Any) -> None:
        runtime = FakeRuntime(0)
        with pytest.raises(error, match=text), opened(model, host, runtime, **options):
            pass
        runtime.assert_clean()

    refused(UsageError, "at least 1 frame", one, sets=0)
    refused(InputError, "threshold", one, threshold=1.5)
    refused(InputError, "no meaning for several", three, threshold=0.5)
    refused(InputError, "does not fit into frames of 70x50", roi, hw=(50, 70))
    refused(InputError, "2 classes, but there are 1 colour", three, overlay=overlay_of(one))
    wrong = StreamDouble(FakeRuntime(0), models(CASES["views"]).engine)
    refused(BackendError, r"2 input\(s\)", one, engine=wrong)
    narrow = StreamDouble(FakeRuntime(0), one.engine)
    narrow.inputs = (dataclasses.replace(narrow.inputs[0], dtype="float16"),)
    refused(BackendError, "makes float32", one, engine=narrow)
    with pytest.raises(UsageError, match="nothing is wanted"):
        Wanted(overlay=False, mask=False, statistics=False)
    with Gpu.open(runtime=FakeRuntime(0)) as gpu, pytest.raises(UsageError, match="Overlay"):
        FramePath(gpu, narrow, one.fed_spec, one.readout, HW, native=fake_kernels(gpu, host))
    with (
        opened(over_time, host, FakeRuntime(0)) as path,
        pytest.raises(UsageError, match="give each frame the memory"),
    ):
        path.submit(scene(0))


def test_the_reason_names_what_runs_on_the_cpu_only(models: Callable[[Case], Model]) -> None:
    spec = models(CASES["one class"]).fed_spec
    on_grid = (TensorSpec("logits", "float32", (1, 1, 32, 48), "NCHW"),)
    coarse = (TensorSpec("logits", "float32", (1, 1, 8, 12), "NCHW"),)
    plain = ReadoutSpec("sigmoid")
    blurred = ReadoutSpec("sigmoid", regularize=RegularizeSpec(blur_sigma_px=1.0))
    aligned = ReadoutSpec("sigmoid", align_corners=True)
    both = dataclasses.replace(aligned, time_constant_ms=100.0)
    assert unavailable_reason(plain, spec, coarse) is None
    assert unavailable_reason(aligned, spec, coarse) is None
    assert unavailable_reason(both, spec, on_grid) is None
    assert "CPU only" in str(unavailable_reason(blurred, spec, coarse))
    assert "corners" in str(unavailable_reason(both, spec, coarse))
    views = models(CASES["views"]).fed_spec
    fused = dataclasses.replace(both, fusion=FusionSpec())
    assert unavailable_reason(fused, views, coarse) is None


@pytest.mark.parametrize("name", ["one class", "views over time"])
@pytest.mark.parametrize(
    "stem", ["laparoscopy_rvim_endo_720p25_10s", "davinci_endovis17_1080p10_2s"]
)
def test_real_frames(
    name: str,
    stem: str,
    real_data: Path,
    models: Callable[[Case], Model],
    host: CudaLibrary,
) -> None:
    path = real_data / "clips" / f"{stem}.mp4"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    model = models(CASES[name])
    with open_source(path) as source:
        frames = [frame.image for frame in itertools.islice(source, 4)]
    middle = median_threshold(model, frames[0])
    memories = None
    if model.readout.time_constant_ms:
        memories = [(0.0, True), (0.6, False), (0.6, False), (0.6, True)]
    masks = on_cpu(model, frames, [middle] * 4, memories)
    assert all(0.1 < mask.mean() < 0.9 for mask in masks)
    runtime = FakeRuntime(0)
    hw = frames[0].shape[:2]
    with opened(model, host, runtime, hw=hw, graphs="require") as path_:
        results = feed(path_, runtime, frames, [middle] * 4, memories, seed=0)
    check(results, masks, frames, overlay_of(model), 1)
