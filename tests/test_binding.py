"""Memory that engines work on in place: same answers, and nobody else's results in it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import tiny_bundle, tiny_onnx, tiny_views_bundle
from calib_graphs import save_vit

import edgeseg
from edgeseg.backends import Engine, EngineInfo, EngineOptions, available_backends, open_engine
from edgeseg.backends._onnxruntime import _affinities
from edgeseg.backends.binding import aligned_array
from edgeseg.bound import BoundStages
from edgeseg.errors import BackendError, InputError, UsageError
from edgeseg.preprocess import Preprocessor
from edgeseg.reader import Reader
from edgeseg.spec import PreprocessSpec, ReadoutSpec, TensorSpec
from edgeseg.video import run_pipeline
from edgeseg.video.base import Frame
from edgeseg.video.stages import frame_stages

BACKENDS = available_backends()
SPEC = PreprocessSpec(4, 4, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), scale=1.0)


class MeanEngine(Engine):
    """Answers the mean of its input, in place or not, after a while."""

    def __init__(
        self,
        *,
        in_place: bool = True,
        parallel: int = 1,
        before: Callable[[float], None] = lambda mean: None,
    ) -> None:
        super().__init__(
            (TensorSpec("image", "float32", (1, 3, 4, 4), "NCHW"),),
            (TensorSpec("logits", "float32", (1, 1, 4, 4), "NCHW"),),
            EngineInfo("double", "1", "CPU", "a CPU", 1, "f32"),
            parallel,
        )
        self.in_place = in_place
        self.before = before
        self.bindings = 0
        self.freed = False

    def _infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        mean = float(inputs["image"].mean())
        self.before(mean)
        return {"logits": np.full((1, 1, 4, 4), mean, np.float32)}

    def _bind(self, inputs: dict[str, Any]) -> Any:
        self.bindings += 1
        if not self.in_place:
            return None
        outputs = {"logits": np.zeros((1, 1, 4, 4), np.float32)}

        def run() -> Mapping[str, Any]:
            outputs["logits"][...] = self._infer(inputs)["logits"]
            return outputs

        return run

    def _close(self) -> None:
        self.freed = True


def stages_of(engine: Engine) -> BoundStages[float]:
    """Stages whose result is what the engine answered."""
    return BoundStages(
        engine, Preprocessor(SPEC), lambda outputs, *_, **__: float(outputs["logits"][0, 0, 0, 0])
    )


def grey(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = save_vit(tmp_path_factory.mktemp("vit") / "vit.onnx")
    return path


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_bound_runs_answer_bit_for_bit_like_unbound_ones(
    vit: Path, backend: str, threads: int
) -> None:
    with open_engine(vit, backend, EngineOptions(threads=threads)) as engine:
        (spec,) = engine.inputs
        binding = engine.bind()
        assert binding.in_place
        for seed in range(5):
            image = noise(seed, spec.shape)
            binding.inputs[spec.name][...] = image
            found = binding.run()
            expected = engine.infer({spec.name: image})
            assert list(found) == [output.name for output in engine.outputs]
            for name, values in expected.items():
                assert np.isfinite(values).all() and values.std() > 0
                np.testing.assert_array_equal(found[name], values)
            np.testing.assert_array_equal(binding.inputs[spec.name], image)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_outputs_stay_where_they_are(vit: Path, backend: str) -> None:
    with open_engine(vit, backend, EngineOptions(threads=1)) as engine:
        with engine.bind() as binding:
            (image,) = binding.inputs.values()
            first = {name: array.ctypes.data for name, array in binding.run().items()}
            image[...] = 1.0
            again = binding.run()
        assert {name: array.ctypes.data for name, array in again.items()} == first
        for address in (image.ctypes.data, *first.values()):
            assert address % 64 == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_bindings_of_one_engine_do_not_mix_their_answers(
    vit: Path, backend: str, hint: Any
) -> None:
    wrong: list[int] = []
    with open_engine(vit, backend, EngineOptions(hint=hint)) as engine:
        (spec,) = engine.inputs
        images = [noise(seed, spec.shape) for seed in range(4)]
        answers = [engine.infer({spec.name: image}) for image in images]

        def work(seed: int) -> None:
            binding = engine.bind()
            binding.inputs[spec.name][...] = images[seed]
            for _ in range(20):
                for name, values in binding.run().items():
                    if not np.array_equal(values, answers[seed][name]):
                        wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_part_of_the_graph_can_be_bound(tmp_path: Path, backend: str) -> None:
    bundle = tiny_views_bundle(tmp_path / "views.edgeseg")
    names = "image_32x48", "logits_32x48"
    options = EngineOptions(inputs=names[:1], outputs=names[1:])
    with open_engine(bundle / "fp32.onnx", backend, options) as engine, engine.bind() as binding:
        (image,) = binding.inputs.values()
        image[...] = noise(3, image.shape)
        expected = engine.infer({names[0]: image.copy()})
        np.testing.assert_array_equal(binding.run()[names[1]], expected[names[1]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_engine_takes_its_bindings_with_it(tmp_path: Path, backend: str) -> None:
    tiny_onnx(tmp_path / "tiny.onnx")
    engine = open_engine(tmp_path / "tiny.onnx", backend)
    binding, closed = engine.bind(), engine.bind()
    closed.close()
    with pytest.raises(BackendError, match="closed"):
        closed.run()
    binding.run()
    engine.close()
    for call in (binding.run, engine.bind):
        with pytest.raises(BackendError, match="closed"):
            call()


def test_an_engine_that_cannot_work_in_place_copies_and_says_so() -> None:
    with MeanEngine(in_place=False) as engine, engine.bind() as binding:
        assert not binding.in_place
        binding.inputs["image"][...] = 7.0
        first = binding.run()["logits"]
        binding.inputs["image"][...] = 9.0
        assert (binding.run()["logits"] == 9.0).all()
        assert (first == 7.0).all()


def test_one_binding_does_one_run_at_a_time() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait(mean: float) -> None:
        inside.set()
        assert go_on.wait(10)

    with MeanEngine(before=wait) as engine:
        binding = engine.bind()
        runner = threading.Thread(target=binding.run)
        runner.start()
        assert inside.wait(10)
        with pytest.raises(BackendError, match="one for each thread"):
            binding.run()
        go_on.set()
        runner.join()


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64", "bool"])
@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (1,)])
def test_arrays_are_aligned_and_of_their_specification(dtype: Any, shape: tuple[int, ...]) -> None:
    for _ in range(5):
        array = aligned_array(TensorSpec("x", dtype, shape, "N" * len(shape)))
        assert (array.dtype, array.shape) == (np.dtype(dtype), shape)
        assert array.flags.c_contiguous and array.flags.writeable
        assert array.ctypes.data % 64 == 0 and not array.any()


# --- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["one", "three", "views", "views of three"])
@pytest.mark.parametrize("hw_px", [(32, 48), (64, 48), (70, 90)])
def test_results_are_those_of_the_stages_and_survive_the_next_frame(
    tmp_path: Path, backend: str, kind: str, hw_px: tuple[int, int]
) -> None:
    channels = 3 if "three" in kind else 1
    make = tiny_views_bundle if "views" in kind else tiny_bundle
    bundle = make(tmp_path / "b.edgeseg", channels=channels)
    frames = np.random.default_rng(1).integers(0, 256, (3, *hw_px, 3), dtype=np.uint8)
    with edgeseg.open(bundle, backend=backend, threads=1) as model:
        results = [model(frame) for frame in frames]
        # Read now, when other frames have been where these came from.
        found = [(result.mask, result.probability) for result in results]
        for frame, (mask, probability) in zip(frames, found, strict=True):
            apart = model.read_out(model.infer(model.preprocess(frame)), frame.shape[:2])
            np.testing.assert_array_equal(mask, apart.mask)
            np.testing.assert_array_equal(probability, apart.probability)
            assert np.isfinite(probability).all() and probability.std() > 0
    assert not np.array_equal(found[0][1], found[1][1])


def test_a_reading_keeps_no_memory_of_the_outputs() -> None:
    for dtype in (np.float32, np.float16):
        for channels, activation in ((1, "sigmoid"), (3, "softmax")):
            reader = Reader(SPEC, ReadoutSpec(activation))
            for size in ((4, 4), (9, 7)):
                logits = noise(5, (1, channels, 4, 4)).astype(dtype)
                apart = reader.read([logits.copy()], size)
                expected = apart.mask.copy(), apart.probability().copy()
                reading = reader.read([logits], size)
                logits[...] = np.nan
                np.testing.assert_array_equal(reading.mask, expected[0])
                np.testing.assert_array_equal(reading.probability(), expected[1])


def test_frames_one_after_the_other_share_one_binding() -> None:
    with MeanEngine() as engine:
        stages = stages_of(engine)
        for value in (3, 5, 250):
            outputs = stages.infer(stages.preprocess(grey(value)))
            assert stages.read_out(outputs, (8, 8)) == pytest.approx(value)
        with pytest.raises(InputError):
            stages.preprocess(np.zeros((8, 8), np.uint8))
        held = stages.preprocess(grey(1))
        assert engine.bindings == 1
        # A frame that comes meanwhile gets memory of its own.
        other = stages.infer(stages.preprocess(grey(2)))
        assert engine.bindings == 2
        assert stages.read_out(stages.infer(held), (8, 8)) == pytest.approx(1)
        assert stages.read_out(other, (8, 8)) == pytest.approx(2)


def test_arrays_go_through_each_stage_once() -> None:
    with MeanEngine() as engine:
        stages = stages_of(engine)
        tensors = stages.preprocess(grey(1))
        outputs = stages.infer(tensors)
        assert len(tensors) == 0
        with pytest.raises(UsageError, match="once"):
            stages.infer(tensors)
        stages.read_out(outputs, (8, 8))
        with pytest.raises(UsageError, match="once"):
            stages.read_out(outputs, (8, 8))
        with pytest.raises(UsageError, match="stage before"):
            stages.infer({"image": np.zeros((1, 3, 4, 4), np.float32)})


def test_what_failed_is_not_used_again() -> None:
    def fail(mean: float) -> None:
        if mean == 13:
            raise BackendError("unlucky")

    with MeanEngine(before=fail) as engine:
        stages = stages_of(engine)
        with pytest.raises(BackendError, match="unlucky"):
            stages.infer(stages.preprocess(grey(13)))
        assert stages.read_out(stages.infer(stages.preprocess(grey(4))), (8, 8)) == 4
        assert engine.bindings == 2


def test_inputs_to_write_into_must_fit() -> None:
    preprocess = Preprocessor(SPEC)
    target = np.empty((1, 3, 4, 4), np.float32)
    (written,) = preprocess.tensors(grey(6), out=[target])
    assert np.shares_memory(written, target) and (target == 6).all()
    with pytest.raises(InputError, match="one input, got 2"):
        preprocess.tensors(grey(6), out=[target, target])
    with pytest.raises(InputError, match="shape"):
        preprocess.tensors(grey(6), out=[target[:, :, :2]])


# --- several frames in flight --------------------------------------------------------------------


def run_frames(engine: Engine, values: list[int]) -> list[tuple[int, float]]:
    """The number and the answer of each frame that reaches the writer."""
    stages = BoundStages(
        engine,
        Preprocessor(SPEC),
        lambda outputs, *_, **__: SimpleNamespace(
            value=float(outputs["logits"][0, 0, 0, 0]), area_px=0
        ),
    )
    seen: list[tuple[int, float]] = []
    run_pipeline(
        (Frame(index, grey(value), f"{index}") for index, value in enumerate(values)),
        frame_stages(stages, lambda frame, result: result.value, parallel=engine.parallel),
        lambda item: seen.append((item[0].index, item[1])),
    )
    return seen


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("parallel", [1, 2, 5])
def test_frames_in_flight_come_out_in_order_with_their_own_answers(
    parallel: int, in_place: bool
) -> None:
    rng = random.Random(parallel)
    running, most = 0, 0
    lock = threading.Lock()

    def delay(mean: float) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(rng.random() * 0.004)
        with lock:
            running -= 1

    values = [rng.randrange(256) for _ in range(120)]
    with MeanEngine(in_place=in_place, parallel=parallel, before=delay) as engine:
        seen = run_frames(engine, values)
        assert [index for index, _ in seen] == list(range(120))
        assert [value for _, value in seen] == pytest.approx(values)
        assert most == parallel
        # One at each worker, those between the stages, and not one for each frame.
        assert engine.bindings <= 3 * parallel + 4


def test_a_fault_of_one_request_ends_the_job() -> None:
    def fail(mean: float) -> None:
        time.sleep(0.001)
        if mean == 40:
            raise BackendError("frame 40 broke the engine")

    with (
        MeanEngine(parallel=3, before=fail) as engine,
        pytest.raises(BackendError, match="frame 40"),
    ):
        run_frames(engine, list(range(200)))
    assert engine.freed
    assert not [t for t in threading.enumerate() if t.name.startswith("edgeseg ")]


# --- threads and cores ---------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pinning", [True, False])
def test_pinning_changes_no_answer(vit: Path, backend: str, pinning: bool) -> None:
    with (
        open_engine(vit, backend, EngineOptions(threads=1)) as plain,
        open_engine(vit, backend, EngineOptions(threads=1, pinning=pinning)) as engine,
    ):
        (spec,) = engine.inputs
        feed = {spec.name: noise(2, spec.shape)}
        for name, values in plain.infer(feed).items():
            np.testing.assert_array_equal(engine.infer(feed)[name], values)


def test_openvino_is_told_of_threads_and_cores(vit: Path) -> None:
    pytest.importorskip("openvino")
    options = EngineOptions(threads=1, pinning=False, hyper_threading=True, core_type="any")
    with open_engine(vit, "openvino", options) as engine:
        compiled = engine._compiled  # type: ignore[attr-defined]
        assert compiled.get_property("ENABLE_CPU_PINNING") is False
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_onnxruntime_counts_processors_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.backends._onnxruntime.usable_processors", lambda: (0, 2, 4, 6))
    assert _affinities(EngineOptions(pinning=True), 3) == "3;5"
    assert _affinities(EngineOptions(pinning=True), 1) is None
    assert _affinities(EngineOptions(pinning=False), 3) is None
    assert _affinities(EngineOptions(), 9) is None
    with pytest.raises(UsageError, match="9 threads"):
        _affinities(EngineOptions(pinning=True), 9)
    for option in ({"hyper_threading": True}, {"core_type": "performance"}):
        with pytest.raises(UsageError, match="OpenVINO's"):
            _affinities(EngineOptions(**option), 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown core type"):
        EngineOptions(core_type="fast")  # type: ignore[arg-type]


def test_idle_threads_of_onnxruntime_do_not_spin(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    tiny_onnx(tmp_path / "tiny.onnx")
    with open_engine(tmp_path / "tiny.onnx", "onnxruntime", EngineOptions(threads=2)) as engine:
        settings = engine._session.get_session_options()  # type: ignore[attr-defined]
        assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
