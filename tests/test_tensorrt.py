"""The TensorRT backend's control flow, on a stand-in for the library in four versions.

Nothing here runs TensorRT: what it would compute is computed by OpenVINO, what it would do to its
objects and streams is checked by the stand-ins.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import tiny_onnx
from cuda_double import FakeRuntime
from tensorrt_double import VERSIONS, tensorrt_double

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.backends._tensorrt import (
    CompileOptions,
    TensorRtEngine,
    available_devices,
    check_version,
    compile_plan,
)
from edgeseg.backends._tensorrt.progress import BuildProgress
from edgeseg.backends.base import StreamEngine
from edgeseg.errors import (
    BackendError,
    BackendUnavailableError,
    DeviceMemoryError,
    InputError,
    PlanError,
    UsageError,
)
from edgeseg.gpu import Gpu

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

SIZE = (4, 6)


@pytest.fixture(autouse=True)
def quick_collections() -> Iterator[None]:
    """Leave what is there already out of the many collections that a test asks for."""
    gc.collect()
    gc.freeze()
    yield


@pytest.fixture(autouse=True, scope="module")
def thaw() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture(params=VERSIONS)
def cuda(request: pytest.FixtureRequest) -> FakeRuntime:
    return FakeRuntime(seed=VERSIONS.index(request.param))


@pytest.fixture
def trt(request: pytest.FixtureRequest, cuda: FakeRuntime) -> Iterator[Any]:
    """The stand-in; afterwards nothing of it may be left or have been misused."""
    version = request.node.callspec.params["cuda"]
    lib = tensorrt_double(version, cuda)
    yield lib
    gc.collect()
    assert lib.complaints == []
    assert dict(lib.alive()) == {}
    cuda.assert_clean()


@pytest.fixture
def gpu(trt: Any, cuda: FakeRuntime) -> Iterator[Gpu]:
    with Gpu.open(runtime=cuda) as gpu:
        yield gpu


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two inputs, and three outputs of several types that use one, the other, and both."""
    helper, kinds = onnx.helper, onnx.TensorProto
    shape = [1, 3, *SIZE]
    nodes = [
        helper.make_node("Sub", ["large", "small"], ["difference"], name="subtract"),
        helper.make_node("Mul", ["large", "large"], ["square"], name="multiply"),
        helper.make_node("ArgMax", ["small"], ["label"], name="decide", axis=1, keepdims=0),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "several",
        [value("large", kinds.FLOAT, shape), value("small", kinds.FLOAT, shape)],
        [
            value("difference", kinds.FLOAT, shape),
            value("square", kinds.FLOAT, shape),
            value("label", kinds.INT64, [1, *SIZE]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    path = tmp_path / "several.onnx"
    onnx.save(made, path)
    return path


@pytest.fixture
def compiled(model: Path, trt: Any, cuda: FakeRuntime) -> Path:
    return _compile(model, trt, cuda).plan


def _compile(model: Path, trt: Any, cuda: FakeRuntime, **options: Any) -> Any:
    folder = model.parent
    return compile_plan(
        model, folder / "plan.engine", folder / "layers.json", trt=trt, runtime=cuda, **options
    )


def _inputs(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shape = (1, 3, *SIZE)
    return {name: random.normal(size=shape).astype(np.float32) for name in ("large", "small")}


def _assert_answers(answers: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> None:
    large, small = inputs["large"], inputs["small"]
    expected = {
        "difference": large - small,
        "square": large * large,
        "label": small.argmax(axis=1),
    }
    for name, answer in answers.items():
        assert answer.dtype == expected[name].dtype
        np.testing.assert_allclose(answer, expected[name], rtol=1e-6, atol=1e-6)


# Compiling


def test_compiling_writes_a_plan_that_computes_what_openvino_does(
    model: Path, trt: Any, cuda: FakeRuntime, gpu: Gpu
) -> None:
    made = _compile(model, trt, cuda)
    assert made.plan_bytes == made.plan.stat().st_size > 0
    assert made.device_memory_bytes > 0 and made.build_s > 0 and made.notes == ()
    assert [layer["Name"] for layer in json.loads(made.layers.read_text())["Layers"]] == [
        "layer 0",
        "layer 1",
        "layer 2",
    ]
    inputs = _inputs()
    with (
        TensorRtEngine(made.plan, EngineOptions(device="GPU"), gpu=gpu, trt=trt) as engine,
        open_engine(model, "openvino", EngineOptions(threads=1)) as reference,
    ):
        assert engine.inputs == reference.inputs and engine.outputs == reference.outputs
        assert engine.info.backend == "tensorrt" and engine.info.version == trt.__version__
        assert engine.info.device == "GPU.0" and engine.parallel == 1
        answers, expected = engine.infer(inputs), reference.infer(inputs)
    assert answers.keys() == expected.keys() == {"difference", "square", "label"}
    for name, answer in answers.items():
        assert answer.dtype == expected[name].dtype
        assert np.array_equal(answer, expected[name])
    _assert_answers(answers, inputs)


def test_options_reach_the_builder_and_no_precision_does(
    model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    _compile(model, trt, cuda)
    _compile(
        model,
        trt,
        cuda,
        options=CompileOptions(
            workspace_mib=256, optimization_level=5, max_aux_streams=0, tf32=True
        ),
    )
    plain, full = trt.builds
    assert plain["flags"] == set() and plain["limits"] == {} and plain["streams"] == -1
    assert plain["verbosity"] == full["verbosity"] == "DETAILED"
    assert full["flags"] == {"TF32"} and full["limits"] == {"WORKSPACE": 256 << 20}
    assert plain["cuda"] == 0
    assert full["level"] == 5 and full["streams"] == 0 and full["device"] == "GPU"


@pytest.mark.parametrize(
    "wrong",
    [{"workspace_mib": 0}, {"optimization_level": 6}, {"dla": -1}, {"max_aux_streams": -1}],
)
def test_options_without_meaning_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        CompileOptions(**wrong)


def test_options_that_change_the_plan_change_its_key() -> None:
    keys = [
        json.dumps(options.to_key())
        for options in (
            CompileOptions(),
            CompileOptions(workspace_mib=1),
            CompileOptions(optimization_level=1),
            CompileOptions(dla=1),
            CompileOptions(max_aux_streams=1),
            CompileOptions(tf32=True),
        )
    ]
    assert len(set(keys)) == len(keys)


def test_progress_grows_from_nothing_to_all(model: Path, trt: Any, cuda: FakeRuntime) -> None:
    heard: list[tuple[str, int, int]] = []
    threads = set()

    def progress(stage: str, done: int, total: int) -> None:
        threads.add(threading.current_thread())
        heard.append((stage, done, total))

    _compile(model, trt, cuda, progress=progress)
    done = [entry[1] for entry in heard]
    assert threads == {threading.current_thread()}
    assert {(stage, total) for stage, _, total in heard} == {("compile", 100)}
    assert done == sorted(done) and done[0] == 0 and done[-1] == 100 and done.count(100) == 1


def test_progress_counts_nested_phases_within_their_parents_step() -> None:
    progress = BuildProgress()
    seen = [0]

    def look() -> int:
        seen.append(progress.percent)
        return seen[-1]

    progress.start("outer", None, 2)
    progress.start("inner", "outer", 4)
    assert progress.step("inner", 0) and look() == 12
    progress.start("innermost", "inner", 2)
    progress.step("innermost", 0)
    assert look() == 18
    progress.finish("innermost")
    progress.finish("inner")  # with steps that were never reported
    progress.step("outer", 0)
    assert look() == 50
    progress.start("another", "outer", 1)
    progress.step("unheard of", 7)
    assert look() == 50
    progress.step("outer", 1)
    progress.finish("outer")
    assert look() == 99
    progress.start("outer", None, 10)
    progress.step("outer", 0)
    assert look() == 99
    assert seen == sorted(seen)
    progress.stop()
    assert not progress.step("outer", 1)
    progress.close()
    assert progress.wait(99) is None


def test_ctrl_c_stops_the_builder_and_leaves_no_plan(
    model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    steps, interrupted = [], threading.Event()

    def on_step() -> None:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            interrupted.wait(20)

    original = BuildProgress.stop

    def stop(self: BuildProgress) -> None:
        original(self)
        interrupted.set()

    trt.faults.on_step = on_step
    # A job in the background starts with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(BuildProgress, "stop", stop)
            _compile(model, trt, cuda)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(steps) == 2
    assert not (model.parent / "plan.engine").exists()


def test_an_error_of_the_progress_callback_stops_the_builder(
    model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _compile(model, trt, cuda, progress=progress)
    assert not (model.parent / "plan.engine").exists()


# Failures of compiling


def test_an_unsupported_operator_is_named_with_its_node(
    model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    trt.faults.unsupported = ("Mul", "ArgMax")
    message = _failure(BackendError, model, trt, cuda)
    assert "operator Mul" in message and "'multiply'" in message and "1 more" in message
    assert str(model) in message and trt.__version__ in message


def test_a_damaged_onnx_file_is_one_line(model: Path, trt: Any, cuda: FakeRuntime) -> None:
    model.write_bytes(b"\x08 not a model" * 9)
    message = _failure(BackendError, model, trt, cuda)
    assert f"{model}: the file: Failed to parse" in message


def test_a_node_that_cannot_be_read_is_named(model: Path, trt: Any, cuda: FakeRuntime) -> None:
    trt.faults.invalid = ("decide",)
    message = _failure(BackendError, model, trt, cuda)
    assert "node 'decide' (ArgMax): its attributes are wrong" in message


def test_a_parser_that_lists_no_error_is_quoted_from_the_log(
    model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    trt.faults.parse_silent = True
    assert "failed to open the file" in _failure(BackendError, model, trt, cuda)


def test_a_dynamic_input_is_refused_before_the_build(
    model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    loaded = onnx.load(model)
    loaded.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(loaded, model)
    assert "'large' has a dynamic shape" in _failure(BackendError, model, trt, cuda)
    assert trt.builds == []


def test_a_build_that_gives_nothing_quotes_the_first_errors(
    model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    trt.faults.build = "Error Code 10: Internal Error\n(Could not find any implementation)"
    message = _failure(BackendError, model, trt, cuda)
    assert "Internal Error (Could not find any implementation)" in message


@pytest.mark.parametrize(
    "said",
    [
        "Error Code 2: OutOfMemory (Requested size was 999 bytes.)",
        "Cuda Runtime (out of memory)",
        "std::bad_alloc",
    ],
)
def test_a_build_without_memory_says_so(
    said: str, model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    trt.faults.build = said
    message = _failure(DeviceMemoryError, model, trt, cuda)
    assert said in message and "workspace" in message


def test_errors_of_a_build_that_succeeds_are_noted(
    model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    trt.faults.build_note = "a tactic failed"
    (note,) = _compile(model, trt, cuda).notes
    assert "a tactic failed" in note


def test_a_builder_that_does_not_start(model: Path, trt: Any, cuda: FakeRuntime) -> None:
    trt.faults.builder_start = "Target GPU SM 87 is not supported"
    assert "SM 87" in _failure(BackendUnavailableError, model, trt, cuda)


def test_a_plan_that_does_not_load_at_once_is_an_error(
    model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    trt.faults.deserialize = "Error Code 1"
    assert "build it again" in _failure(PlanError, model, trt, cuda)


def test_without_a_device_nothing_is_built(model: Path) -> None:
    cuda = FakeRuntime(devices=0)
    trt = tensorrt_double("10.3.0", cuda)
    _failure(BackendUnavailableError, model, trt, cuda)
    cuda = FakeRuntime(devices=1)
    with pytest.raises(BackendUnavailableError, match="device 1"):
        _compile(model, tensorrt_double("10.3.0", cuda), cuda, device=1)


def test_the_thread_that_builds_uses_the_device_asked_for(model: Path) -> None:
    cuda = FakeRuntime(devices=2)
    trt = tensorrt_double("10.3.0", cuda)
    _compile(model, trt, cuda, device=1)
    assert trt.builds[0]["cuda"] == 1


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    cuda = FakeRuntime()
    with pytest.raises(InputError, match=r"none\.onnx"):
        _compile(tmp_path / "none.onnx", tensorrt_double("10.3.0", cuda), cuda)


def test_a_report_of_layers_that_is_no_json_is_kept_as_text(
    model: Path, trt: Any, cuda: FakeRuntime
) -> None:
    trt.faults.inspector = "{not json"
    made = _compile(model, trt, cuda)
    assert json.loads(made.layers.read_text())["Text"] == "{not json"
    assert len(made.notes) == 1


def _failure(kind: type[Exception], model: Path, trt: Any, cuda: FakeRuntime) -> str:
    """The one line that compiling fails with."""
    plan = model.parent / "plan.engine"
    old = plan.read_bytes() if plan.exists() else None
    with pytest.raises(kind) as caught:
        _compile(model, trt, cuda)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    if kind is not PlanError:
        assert (plan.read_bytes() if plan.exists() else None) == old
    assert not list(model.parent.glob(".*tmp*"))
    return message


# Versions and DLA


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "10.2.0", "10.4.0", "10.4.0.26", "new"])
def test_versions_that_cannot_serve_are_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=version):
        check_version(version)
    lib = tensorrt_double("10.3.0")
    lib.__version__ = version
    with pytest.raises(BackendUnavailableError, match=version):
        TensorRtEngine(tmp_path / "plan", EngineOptions(device="GPU"), trt=lib)


@pytest.mark.parametrize("version", ["10.3.0", "10.3.0.30", "10.5.0", "10.16.2.10", "11.4.1"])
def test_versions_that_serve(version: str, caplog: pytest.LogCaptureFixture) -> None:
    check_version(version)
    assert caplog.records == []


def test_a_version_that_nobody_has_tried_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    check_version("12.0.1")
    assert "12.0.1" in caplog.text


def test_without_the_library_there_are_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    assert available_devices() == ()


@pytest.mark.parametrize(
    ("version", "cores", "core", "reason"),
    [
        ("10.3.0", 0, 0, "this device has no DLA"),
        ("10.3.0", 2, 2, "cores 0 to 1"),
        ("10.13.3", 0, 0, "10.7 is the last"),
        ("11.4.0", 0, 1, "11.4.1"),
    ],
)
def test_a_dla_core_that_is_not_there(
    version: str, cores: int, core: int, reason: str, model: Path
) -> None:
    cuda = FakeRuntime()
    trt = tensorrt_double(version, cuda, dla_cores=cores)
    with pytest.raises(BackendUnavailableError, match=reason):
        _compile(model, trt, cuda, options=CompileOptions(dla=core))
    assert trt.builds == [] and trt.complaints == []


def test_a_plan_for_a_dla_core_is_run_there_and_never_captured(model: Path) -> None:
    cuda = FakeRuntime()
    trt = tensorrt_double("10.3.0", cuda, dla_cores=2)
    plan = _compile(model, trt, cuda, options=CompileOptions(dla=1)).plan
    assert trt.builds[0]["device"] == "DLA" and trt.builds[0]["dla"] == 1
    assert trt.builds[0]["flags"] == {"GPU_FALLBACK"}
    with Gpu.open(runtime=cuda) as gpu:
        for dla in (1, None):  # told, or found out
            with TensorRtEngine(
                plan, EngineOptions(device="GPU", dla_core=dla), gpu=gpu, trt=trt
            ) as engine:
                assert not engine.capturable
        with pytest.raises(BackendUnavailableError, match="DLA core 5"):
            TensorRtEngine(plan, EngineOptions(device="GPU", dla_core=5), gpu=gpu, trt=trt)


# The timing cache


def test_timings_are_kept_for_the_next_build(
    model: Path, trt: Any, cuda: FakeRuntime, tmp_path: Path
) -> None:
    cache = tmp_path / "timings.bin"
    assert _compile(model, trt, cuda, timing_cache=cache).notes == ()
    assert trt.timed_layers == ["subtract", "multiply", "decide"]
    first = cache.read_bytes()
    assert _compile(model, trt, cuda, timing_cache=cache).notes == ()
    assert len(trt.timed_layers) == 3
    assert cache.read_bytes() == first


@pytest.mark.parametrize(
    "damage", ["cut", "grown", "changed", "foreign", "header", "huge", "empty"]
)
def test_a_damaged_timing_cache_is_dropped_with_a_note(
    damage: str, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cuda = FakeRuntime()
    trt = tensorrt_double("10.3.0", cuda)
    cache = tmp_path / "timings.bin"
    _compile(model, trt, cuda, timing_cache=cache)
    good = cache.read_bytes()
    magic, header, data = good.split(b"\n", 2)
    record = json.loads(header)
    bad = {
        "cut": good[:-5],
        "grown": good + b"x",
        "changed": good[:-5] + b"*****",
        "foreign": b"timings of the stand-in\n" + data,
        "header": magic + b"\n{]\n" + data,
        "huge": b"\n".join([magic, json.dumps({**record, "bytes": 1 << 40}).encode(), data]),
        "empty": b"",
    }[damage]
    cache.write_bytes(bad)
    trt.timed_layers.clear()
    (note,) = _compile(model, trt, cuda, timing_cache=cache).notes
    assert "dropped" in note and str(cache) in note and str(cache) in caplog.text
    assert len(trt.timed_layers) == 3
    assert cache.read_bytes() == good  # written anew
    assert trt.complaints == []


def test_timings_of_another_version_or_device_are_dropped(model: Path, tmp_path: Path) -> None:
    cuda = FakeRuntime()
    cache = tmp_path / "timings.bin"
    for version in ("10.3.0", "11.4.0"):
        trt = tensorrt_double(version, cuda)
        notes = _compile(model, trt, cuda, timing_cache=cache).notes
        assert len(trt.timed_layers) == 3
    assert "made by TensorRT 10.3.0" in notes[0]
    # The library itself sees what the header does not tell.
    trt = tensorrt_double("11.4.0", cuda, device="another one")
    (note,) = _compile(model, trt, cuda, timing_cache=cache).notes
    assert "TensorRT refuses it" in note


def test_a_build_without_a_timing_cache_goes_on(
    model: Path, trt: Any, cuda: FakeRuntime, tmp_path: Path
) -> None:
    trt.faults.timing_cache = True
    notes = _compile(model, trt, cuda, timing_cache=tmp_path / "timings.bin").notes
    assert any("no timing cache" in note for note in notes)
    trt.faults.timing_cache = False
    folder = tmp_path / "a folder"
    folder.mkdir()
    notes = _compile(model, trt, cuda, timing_cache=folder).notes
    assert any("dropped" in note for note in notes)
    assert any("not kept" in note for note in notes)


# Running


def test_wanted_ports_are_shown_and_the_others_fed_with_zeros(
    compiled: Path, trt: Any, gpu: Gpu
) -> None:
    options = EngineOptions(device="gpu.0", inputs=("large",), outputs=("difference",))
    inputs = _inputs()
    with TensorRtEngine(compiled, options, gpu=gpu, trt=trt) as engine:
        assert [spec.name for spec in engine.inputs] == ["large"]
        assert [spec.name for spec in engine.outputs] == ["difference"]
        answer = engine.infer({"large": inputs["large"]})
    assert answer.keys() == {"difference"}
    assert np.array_equal(answer["difference"], inputs["large"])


def test_ports_stand_in_the_order_that_was_asked_for(compiled: Path, trt: Any, gpu: Gpu) -> None:
    with TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt) as engine:
        inputs, outputs = engine.inputs, engine.outputs
    assert len(inputs) > 1 and len(outputs) > 1
    options = EngineOptions(
        device="GPU",
        inputs=tuple(spec.name for spec in reversed(inputs)),
        outputs=tuple(spec.name for spec in reversed(outputs)),
    )
    with TensorRtEngine(compiled, options, gpu=gpu, trt=trt) as engine:
        assert (engine.inputs, engine.outputs) == (inputs[::-1], outputs[::-1])
        given = _inputs()
        _assert_answers(engine.infer(given), given)


def test_threads_share_an_engine_and_keep_their_answers(compiled: Path, trt: Any, gpu: Gpu) -> None:
    with TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt) as engine:
        failures: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                for i in range(3):
                    inputs = _inputs(10 * seed + i)
                    _assert_answers(engine.infer(inputs), inputs)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def _buffers(gpu: Gpu, engine: Any) -> dict[str, Any]:
    return {
        spec.name: gpu.empty(spec.shape, spec.dtype) for spec in (*engine.inputs, *engine.outputs)
    }


def test_a_caller_enqueues_on_a_stream_of_its_own_and_captures_a_graph(
    compiled: Path, trt: Any, gpu: Gpu
) -> None:
    with TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt) as engine:
        assert isinstance(engine, StreamEngine) and engine.capturable
        tensors, stream = _buffers(gpu, engine), gpu.stream()
        host = {name: gpu.host(buffer.shape, buffer.dtype) for name, buffer in tensors.items()}

        def upload(seed: int) -> dict[str, np.ndarray]:
            inputs = _inputs(seed)
            for name, array in inputs.items():
                host[name].array[...] = array
                gpu.upload(tensors[name], host[name].array, stream)
            return inputs

        def check(inputs: dict[str, np.ndarray]) -> None:
            for spec in engine.outputs:
                gpu.download(host[spec.name].array, tensors[spec.name], stream)
            stream.synchronize()
            _assert_answers({spec.name: host[spec.name].array for spec in engine.outputs}, inputs)

        inputs = upload(1)
        engine.enqueue(tensors, stream.handle)
        check(inputs)
        graph = gpu.capture(stream, lambda: engine.enqueue(tensors, stream.handle))
        for seed in (2, 3):
            inputs = upload(seed)
            graph.launch(stream)
            check(inputs)
        graph.close()


def test_a_capture_before_the_first_run_fails_and_leaves_the_stream_usable(
    compiled: Path, trt: Any, gpu: Gpu
) -> None:
    with TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt) as engine:
        tensors, stream = _buffers(gpu, engine), gpu.stream()
        with pytest.raises(BackendError, match="first run allocates"):
            gpu.capture(stream, lambda: engine.enqueue(tensors, stream.handle))
        for name, array in _inputs().items():
            gpu.upload(tensors[name], array, stream)
        engine.enqueue(tensors, stream.handle)
        with gpu.capture(stream, lambda: engine.enqueue(tensors, stream.handle)) as graph:
            graph.launch(stream)
            stream.synchronize()


def test_tensors_that_do_not_fit_are_refused_before_anything_runs(
    compiled: Path, trt: Any, gpu: Gpu
) -> None:
    with TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt) as engine:
        tensors, stream = _buffers(gpu, engine), gpu.stream()
        large = tensors["large"]
        double = gpu.empty((2, *large.shape), "float32")
        wrong = [
            {name: tensor for name, tensor in tensors.items() if name != "label"},
            {**tensors, "third": large},
            {**tensors, "large": gpu.empty(large.shape, "float16")},
            {**tensors, "large": gpu.empty((*SIZE, 3), "float32")},
            {**tensors, "large": double.view(rows=slice(1, 2)).view(large.shape)},  # 288 bytes on
            {**tensors, "large": np.zeros(large.shape, np.float32)},
        ]
        for bad in wrong:
            with pytest.raises(InputError):
                engine.enqueue(bad, stream.handle)
        with pytest.raises(InputError, match="default stream"):
            engine.enqueue(tensors, 0)
        assert trt._executions == 0


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Error Code 1: Cuda Runtime (an illegal address)", BackendError),
        ("Error Code 2: OutOfMemory", DeviceMemoryError),
    ],
)
def test_a_run_that_fails_is_told_and_the_next_one_served(
    said: str, kind: type[Exception], compiled: Path, trt: Any, gpu: Gpu
) -> None:
    inputs = _inputs()
    with TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt) as engine:
        trt.faults.execute = {1: said}
        with pytest.raises(kind) as caught:
            engine.infer(inputs)
        assert type(caught.value) is kind and said in str(caught.value)
        _assert_answers(engine.infer(inputs), inputs)
        trt.faults.address = "an address is refused"
        with pytest.raises(BackendError, match="an address is refused"):
            engine.infer(inputs)


def test_errors_are_logged_once_by_whoever_hears_of_them(
    compiled: Path, trt: Any, gpu: Gpu, caplog: pytest.LogCaptureFixture
) -> None:
    with TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt) as engine:
        trt.faults.execute = {1: "it failed"}
        with caplog.at_level(logging.DEBUG, "edgeseg.tensorrt"), pytest.raises(BackendError):
            engine.infer(_inputs())
        assert [record.levelname for record in caplog.records] == ["INFO"]
        caplog.clear()
        engine._log.logger.log(trt.ILogger.Severity.ERROR, "out of the blue")
        assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("content", [b"", b"not a plan", None])
def test_a_file_that_is_no_plan(content: bytes | None, trt: Any, gpu: Gpu, tmp_path: Path) -> None:
    path = tmp_path / "plan.engine"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlanError, match="build it again") as caught:
        TensorRtEngine(path, EngineOptions(device="GPU"), gpu=gpu, trt=trt)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_plan_of_another_version_or_device(model: Path) -> None:
    cuda = FakeRuntime()
    plan = _compile(model, tensorrt_double("10.3.0", cuda), cuda).plan
    with Gpu.open(runtime=cuda) as gpu:
        for version, device, reason in (
            ("10.13.3", "a stand-in", "Version tag does not match"),
            ("10.3.0", "another", "not for this device"),
        ):
            trt = tensorrt_double(version, cuda, device=device)
            with pytest.raises(PlanError, match=reason):
                TensorRtEngine(plan, EngineOptions(device="GPU"), gpu=gpu, trt=trt)
            gc.collect()
            assert dict(trt.alive()) == {}


def test_devices_and_libraries_that_do_not_start(compiled: Path, trt: Any, gpu: Gpu) -> None:
    with pytest.raises(BackendUnavailableError, match="'CPU'"):
        TensorRtEngine(compiled, EngineOptions(device="CPU"), gpu=gpu, trt=trt)
    trt.faults.runtime_start = "CUDA initialization failure with error: 35"
    with pytest.raises(BackendUnavailableError, match="failure with error: 35"):
        TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt)
    trt.faults.runtime_start = "Cuda Runtime (out of memory)"
    with pytest.raises(DeviceMemoryError, match="want of memory"):
        TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt)


def test_a_context_that_is_not_made(compiled: Path, trt: Any, gpu: Gpu) -> None:
    trt.faults.context = "Error Code 2: OutOfMemory (Requested size was 65536 bytes.)"
    with pytest.raises(DeviceMemoryError, match="OutOfMemory"):
        TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt)
    trt.faults.context = "Error Code 3: API Usage Error"
    with pytest.raises(BackendError, match="API Usage Error") as caught:
        TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt)
    assert type(caught.value) is BackendError


@pytest.mark.parametrize("refused", [1, 2, 3, 4, 5, 6])
def test_any_allocation_that_fails_frees_all_others(refused: int, model: Path) -> None:
    plan = _compile(model, tensorrt_double("10.3.0", FakeRuntime()), FakeRuntime()).plan
    cuda = FakeRuntime(fail={"cudaMalloc": refused})
    trt = tensorrt_double("10.3.0", cuda)
    options = EngineOptions(device="GPU", inputs=("large",), outputs=("difference",))
    with Gpu.open(runtime=cuda) as gpu:
        with (
            pytest.raises(DeviceMemoryError) as caught,
            TensorRtEngine(plan, options, gpu=gpu, trt=trt) as engine,
        ):
            engine.infer({"large": _inputs()["large"]})
        assert "\n" not in str(caught.value)
        del caught
        gc.collect()
        assert dict(trt.alive()) == {} and trt.complaints == []
        assert cuda.live() == {}


def test_closing_waits_for_the_call_of_another_thread(
    compiled: Path, trt: Any, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt)
    running, closing = threading.Event(), threading.Event()
    execute = trt.IExecutionContext.execute_async_v3

    def slow(self: Any, stream_handle: int) -> bool:
        running.set()
        assert closing.wait(20)
        return bool(execute(self, stream_handle))

    monkeypatch.setattr(trt.IExecutionContext, "execute_async_v3", slow)
    inputs, answers = _inputs(), []
    late: list[BaseException] = []

    def second() -> None:
        try:
            engine.infer(inputs)
        except BackendError as error:
            late.append(error)

    threads = [
        threading.Thread(target=lambda: answers.append(engine.infer(inputs))),
        threading.Thread(target=second),
        threading.Thread(target=engine.close),
    ]
    threads[0].start()
    assert running.wait(20)
    threads[1].start()
    threads[2].start()
    while not engine._closed:
        pass
    closing.set()
    for thread in threads:
        thread.join(20)
    _assert_answers(answers[0], inputs)
    assert len(late) == 1 and "closed" in str(late[0])


def test_closing_frees_everything_and_twice_does_nothing(
    compiled: Path, trt: Any, cuda: FakeRuntime
) -> None:
    with Gpu.open(runtime=cuda) as gpu:
        engine = TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt)
        inputs = _inputs()
        _assert_answers(engine.infer(inputs), inputs)
        assert trt.alive()["IExecutionContext"] == 1
        engine.close()
        assert dict(trt.alive()) == {} and cuda.live() == {}
        engine.close()
        with pytest.raises(BackendError, match="closed"):
            engine.infer(inputs)
        with pytest.raises(BackendError, match="closed"):
            engine.enqueue({}, 5)


@pytest.mark.parametrize("kind", ["BF16", "dynamic", "host", "format"])
def test_tensors_that_are_not_served_are_named(
    kind: str, compiled: Path, trt: Any, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "BF16": ("get_tensor_dtype", trt.DataType.BF16),
        "dynamic": ("get_tensor_shape", (-1, 3, *SIZE)),
        "host": ("get_tensor_location", trt.TensorLocation.HOST),
        "format": ("get_tensor_format", trt.TensorFormat.CHW4),
    }
    method, answer = answers[kind]
    monkeypatch.setattr(trt.ICudaEngine, method, lambda self, name: answer)
    with pytest.raises(BackendError, match="tensor 'large'"):
        TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt)


# Profiling


def test_a_profile_names_the_nodes_of_each_layer(compiled: Path, trt: Any, gpu: Gpu) -> None:
    options = EngineOptions(device="GPU", profile=True)
    with TensorRtEngine(compiled, options, gpu=gpu, trt=trt) as engine:
        inputs = _inputs()
        _assert_answers(engine.infer(inputs), inputs)
        times = engine.profile(inputs, rounds=4)
        assert [(layer.name, layer.kind, layer.median_ms) for layer in times] == [
            ("layer 0 [subtract]", "Sub", 0.5),
            ("layer 1 [multiply]", "Mul", 1.0),
            ("layer 2 [decide]", "ArgMax", 1.5),
        ]
        assert engine.profile(inputs, rounds=1) == times
        monkey = trt.IExecutionContext.report_to_profiler
        try:
            trt.IExecutionContext.report_to_profiler = lambda self: False
            with pytest.raises(BackendError, match="no times of layers"):
                engine.profile(inputs)
        finally:
            trt.IExecutionContext.report_to_profiler = monkey
    with TensorRtEngine(compiled, EngineOptions(device="GPU"), gpu=gpu, trt=trt) as engine:
        assert engine._context.nvtx_verbosity is trt.ProfilingVerbosity.NONE
        with pytest.raises(UsageError, match="profile=True"):
            engine.profile(inputs)


def test_a_single_picture_model_runs_too(tmp_path: Path, trt: Any, cuda: FakeRuntime) -> None:
    tiny_onnx(tmp_path / "tiny.onnx", channels=2)
    plan = _compile(tmp_path / "tiny.onnx", trt, cuda).plan
    image = np.random.default_rng(5).normal(size=(1, 3, 32, 48)).astype(np.float32)
    with (
        Gpu.open(runtime=cuda) as gpu,
        TensorRtEngine(plan, EngineOptions(device="GPU"), gpu=gpu, trt=trt) as engine,
        open_engine(tmp_path / "tiny.onnx", "openvino", EngineOptions(threads=1)) as reference,
    ):
        assert np.array_equal(
            engine.infer({"image": image})["logits"], reference.infer({"image": image})["logits"]
        )
