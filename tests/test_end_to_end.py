"""Capture to overlay: ages of frames, a camera's pace, and what is dropped."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import tiny_bundle
from video_files import cut, write_video

import edgeseg
from edgeseg.backends import Engine
from edgeseg.bench import end_to_end
from edgeseg.bench.camera import Camera
from edgeseg.bench.end_to_end import end_to_end_notes, measure_end_to_end
from edgeseg.bench.result import EndToEndRecord
from edgeseg.errors import BackendError, DataError, InputError, TruncatedVideoError, UsageError
from edgeseg.frame_path import open_frame_path
from edgeseg.gpu import Gpu
from edgeseg.kernels import cuda
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.model import Model
from edgeseg.overlay import Overlay, default_colours
from edgeseg.spec import from_json, to_json
from edgeseg.video.base import Frame
from edgeseg.video.source import open_source

PICTURE = np.zeros((4, 4, 3), np.uint8)


class SlowEngine(Engine):
    """Sleeps before it answers, and counts; ``fail`` is the call that it refuses."""

    def __init__(self, engine: Engine, sleep_s: float, fail: int = 0) -> None:
        super().__init__(engine.inputs, engine.outputs, engine.info)
        self.calls = 0
        self._engine = engine
        self._sleep_s = sleep_s
        self._fail = fail

    def _infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        if self.calls == self._fail:
            raise BackendError("the double refuses this call")
        time.sleep(self._sleep_s)
        return self._engine.infer(inputs)

    def _close(self) -> None:
        self._engine.close()


class SlowOverlay(Overlay):
    def __init__(self, sleep_s: float) -> None:
        super().__init__(default_colours(1))
        self.drawn: list[np.ndarray] = []
        self._sleep_s = sleep_s

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        time.sleep(self._sleep_s)
        picture = super().__call__(*arguments, **options)
        self.drawn.append(picture.copy())
        return picture


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("one") / "tiny.edgeseg")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames, 50 a second: 0.46 s."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=24, rate=50)


@pytest.fixture
def model(bundle: Path) -> Iterator[Model]:
    with edgeseg.open(bundle) as opened:
        yield opened


def played(times_s: list[float]) -> Iterator[Frame]:
    for index, time_s in enumerate(times_s):
        yield Frame(index, PICTURE, f"f{index}", time_s)


def test_ages_hold_every_stage(model: Model, clip: Path) -> None:
    model.engine = SlowEngine(model.engine, 0.03)
    record = measure_end_to_end(model, clip, paced=False, overlay=SlowOverlay(0.01))
    assert (record.video, record.frame_hw_px, record.frames) == ("clip.mp4", (96, 160), 24)
    assert not record.paced
    assert len(record.samples_ms) == 24
    # A frame's own stages follow each other: its age is at least their sum, here of both sleeps.
    assert all(age >= 40.0 for age in record.samples_ms)
    assert list(record.stages_ms) == ["preprocess", "inference", "readout", "overlay"]
    assert record.stages_ms["inference"] >= 30.0 * 0.99
    assert record.stages_ms["overlay"] >= 10.0 * 0.99
    assert 0.0 < record.fps <= 1e3 / 30.0 * 1.05, "an engine that sleeps 30 ms at a time"
    assert (record.dropped, record.late) == (0, 0)
    assert "wait in the queue" in end_to_end_notes(record)[0]


def test_every_frame_of_a_file_is_drawn_as_the_model_sees_it(
    model: Model, clip: Path, bundle: Path
) -> None:
    overlay = SlowOverlay(0.0)
    record = measure_end_to_end(model, clip, paced=False, overlay=overlay)
    plain = Overlay(default_colours(1))
    with open_source(clip) as source, edgeseg.open(bundle) as again:
        wanted = [plain(frame.image, again(frame.image).mask) for frame in source]
    counted = overlay.drawn[-record.frames :]
    assert len(overlay.drawn) == 3 + len(wanted), "three frames that do not count come first"
    for picture, expected in zip(counted, wanted, strict=True):
        np.testing.assert_array_equal(picture, expected)


def test_a_paced_video_takes_its_own_time(model: Model, clip: Path) -> None:
    done: list[tuple[str, int, int]] = []
    start = time.perf_counter()
    record = measure_end_to_end(model, clip, progress=lambda *call: done.append(call))
    assert time.perf_counter() - start >= 23 / 50
    assert record.paced
    assert record.frames + record.dropped == 24
    assert len(record.samples_ms) == record.frames
    assert all(age >= 0.0 for age in record.samples_ms)
    assert done[-1] == ("end to end", record.frames, record.frames)
    assert [call[1] for call in done] == sorted(call[1] for call in done)


def test_a_slow_engine_makes_a_camera_drop(model: Model, clip: Path) -> None:
    model.engine = engine = SlowEngine(model.engine, 0.1)
    record = measure_end_to_end(model, clip)
    # 50 frames a second for half a second, of which it does ten a second.
    assert record.dropped >= 10
    assert record.frames + record.dropped == 24
    assert engine.calls == 3 + record.frames
    assert min(record.samples_ms) >= 100.0
    assert record.fps <= 10.0 * 1.05
    (note, *_) = end_to_end_notes(record)
    assert note.startswith(f"{record.dropped} of 24 frames of clip.mp4 were dropped")


def test_limits(model: Model, clip: Path) -> None:
    assert measure_end_to_end(model, clip, paced=False, frames=5).frames == 5
    paced = measure_end_to_end(model, clip, seconds=0.1)
    assert paced.frames + paced.dropped == 5, "those at 0, 20, 40, 60 and 80 ms"
    model.engine = SlowEngine(model.engine, 0.05)
    assert 1 <= measure_end_to_end(model, clip, paced=False, seconds=0.2).frames < 24


@pytest.mark.parametrize(
    ("options", "words"),
    [({"frames": 0}, "frames must be at least 1"), ({"seconds": 0.0}, "seconds must be more")],
)
def test_limits_that_leave_nothing(
    model: Model, clip: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        measure_end_to_end(model, clip, **options)


def test_what_is_no_whole_video(model: Model, clip: Path, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"")
    with pytest.raises(UsageError, match="no video"):
        measure_end_to_end(model, picture)
    with pytest.raises(DataError, match="no such file"):
        measure_end_to_end(model, tmp_path / "none.mp4")
    long = write_video(tmp_path / "long.mkv", frames=60, rate=100)
    for paced in (False, True):
        with pytest.raises(TruncatedVideoError):
            measure_end_to_end(model, cut(long, 0.6), paced=paced)


@pytest.mark.parametrize("paced", [False, True])
def test_an_engine_that_fails_ends_it(model: Model, clip: Path, paced: bool) -> None:
    before = threading.active_count()
    model.engine = SlowEngine(model.engine, 0.0, fail=8)
    with pytest.raises(BackendError, match="refuses"):
        measure_end_to_end(model, clip, paced=paced)
    assert threading.active_count() == before, "every thread has ended"


def test_the_record_survives_json() -> None:
    record = EndToEndRecord("a.mp4", (96, 160), 2, True, (1.5, 2.5), {"inference": 1.0}, 25.0, 3, 1)
    text = json.dumps(to_json(record))
    assert from_json(EndToEndRecord, json.loads(text)) == record
    older = {k: v for k, v in json.loads(text).items() if k not in ("dropped", "late")}
    assert from_json(EndToEndRecord, older) == dataclasses.replace(record, dropped=0, late=0)


def test_a_camera_releases_frames_when_they_are_due() -> None:
    times_s = [0.0, 0.02, 0.03, 0.09, 0.15]
    camera = Camera(played(times_s))
    seen = [(frame.index, time.perf_counter()) for frame in camera]
    taken = [index for index, _ in seen]
    assert len(taken) + camera.dropped == len(times_s)
    assert sorted(camera.captured_s) == taken
    start_s = camera.captured_s[0]
    for index, taken_s in seen:
        captured_s = camera.captured_s[index]
        assert taken_s >= captured_s, "no frame comes before its time"
        assert captured_s - start_s >= times_s[index] - 1e-9
        if not camera.late:
            assert captured_s - start_s == pytest.approx(times_s[index], abs=1e-9)


def test_who_comes_late_gets_the_newest_frame() -> None:
    camera = Camera(played([0.01 * i for i in range(30)]))
    arriving = iter(camera)
    assert next(arriving).index == 0
    time.sleep(0.5)
    assert next(arriving).index == 29, "all others have been replaced"
    assert list(arriving) == []
    assert camera.dropped == 28
    assert sorted(camera.captured_s) == [0, 29]


def test_a_slow_decoder_is_told_from_a_slow_taker() -> None:
    def decode() -> Iterator[Frame]:
        for frame in played([0.0, 0.001, 0.002, 0.003]):
            time.sleep(0.02)
            yield frame

    camera = Camera(decode())
    count = sum(1 for _ in camera)
    assert camera.late == 3
    assert count + camera.dropped == 4
    captured_s = list(camera.captured_s.values())
    assert all(gap >= 0.02 for gap in np.diff(captured_s)), "captured when decoded"


def test_a_camera_can_be_left() -> None:
    before = threading.active_count()
    arriving = iter(Camera(played([0.0, 3600.0])))
    next(arriving)
    arriving.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_cameras_error_comes_after_the_frames_before_it() -> None:
    def breaks_off() -> Iterator[Frame]:
        yield from played([0.0, 0.001])
        raise DataError("cut")

    seen: list[Frame] = []
    with pytest.raises(DataError, match="cut"):
        seen.extend(Camera(breaks_off()))
    assert seen[-1].index == 1
    with pytest.raises(InputError, match="without a time"):
        list(Camera([Frame(0, PICTURE, "picture")]))


def test_variable_rates_are_kept(model: Model, tmp_path: Path) -> None:
    times = [Fraction(i * i, 1000) for i in range(12)]
    clip = write_video(tmp_path / "clip.mp4", frames=12, times_s=times)
    start = time.perf_counter()
    record = measure_end_to_end(model, clip)
    assert time.perf_counter() - start >= 0.121
    assert record.frames + record.dropped == 12


def test_frames_over_a_device_age_too(
    model: Model, clip: Path, monkeypatch: pytest.MonkeyPatch, host: CudaLibrary
) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    from cuda_double import FakeRuntime, fake_kernels
    from engine_double import StreamDouble

    runtime = FakeRuntime()
    model.engine = engine = StreamDouble(runtime, model.engine)
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: None)
    monkeypatch.setattr(
        end_to_end,
        "open_frame_path",
        functools.partial(
            open_frame_path, gpu=Gpu.open(runtime=runtime), native=fake_kernels(runtime, host)
        ),
    )
    record = measure_end_to_end(model, clip, paced=False)
    assert record.frames == 24
    assert list(record.stages_ms) == ["submit", "collect"]
    assert all(age > 0.0 for age in record.samples_ms)
    assert engine.ran >= 27, "also those that warm up"
