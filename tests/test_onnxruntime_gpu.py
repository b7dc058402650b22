"""ONNX Runtime on CUDA and TensorRT, by a stand-in: what it is told, and how failures are said.

No GPU and no provider runs here. ``onnxruntime_double`` says what the stand-in's behaviour is from.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import builders
import numpy as np
import pytest
from builders import tiny_bundle, tiny_onnx, tiny_weights
from onnxruntime_double import COMPILE, CPU, CUDA, CUDA_35, NO_TENSORRT, TENSORRT, OnnxRuntimeDouble

import edgeseg
import edgeseg.gpu
from edgeseg.backends import EngineOptions, open_engine
from edgeseg.backends._onnxruntime import available_devices
from edgeseg.backends.base import Engine, placement_for
from edgeseg.cli import main
from edgeseg.errors import (
    BackendError,
    BackendUnavailableError,
    DeviceMemoryError,
    MissingDependencyError,
    UsageError,
)

FP16 = EngineOptions("TENSORRT", products="fp16", rest="fp16")


def compute(tensors: Any) -> dict[str, Any]:
    weight, bias = tiny_weights(1)
    return {"logits": np.einsum("oc,nchw->nohw", weight, tensors["image"]) + bias[:, None, None]}


@pytest.fixture(scope="module")
def empty_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to make the libraries of the stand-in")
    path = tmp_path_factory.mktemp("library") / "empty.so"
    subprocess.run([*COMPILE, "-o", path], check=True)
    return path


@pytest.fixture
def ort(tmp_path: Path, empty_library: Path, monkeypatch: pytest.MonkeyPatch) -> OnnxRuntimeDouble:
    """The stand-in in the library's place, on a machine with two GPUs and an empty cache."""
    double = OnnxRuntimeDouble(tmp_path, empty_library, compute)
    monkeypatch.setitem(sys.modules, "onnxruntime", double)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(edgeseg.gpu, "gpus", lambda: [gpu("Orin"), gpu("RTX 4090")])
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    return double


def gpu(name: str) -> Any:
    return SimpleNamespace(name=name)


def no_driver() -> Any:
    raise BackendUnavailableError("no driver")


def no_bindings() -> Any:
    raise MissingDependencyError("no cuda-bindings")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tiny_onnx(tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


def open_on(file: Path, device: str, **more: Any) -> Engine:
    return open_engine(file, "onnxruntime", EngineOptions(device, **more))


def refusal(file: Path, options: EngineOptions, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        open_engine(file, "onnxruntime", options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_cuda_computes_in_what_the_graph_says(ort: OnnxRuntimeDouble, file: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 48)).astype(np.float32)
    with open_on(file, "gpu.1") as engine:
        assert (
            engine.infer({"image": image})["logits"] == compute({"image": image})["logits"]
        ).all()
        assert (engine.info.device, engine.info.device_name) == ("GPU.1", "RTX 4090")
        assert (engine.info.threads, engine.info.precision) == (0, "f32")
    (session,) = ort.sessions
    assert session.providers == [(CUDA, {"device_id": "1", "use_tf32": "0"})]


@pytest.mark.parametrize(
    ("products", "rest", "half", "eight", "precision"),
    [
        ("fp32", "fp32", "False", "False", "tf32"),
        ("fp16", "fp16", "True", "False", "f16"),
        ("int8", "fp16", "True", "True", "f16"),
        ("int8", "fp32", "False", "True", "tf32"),
    ],
)
def test_tensorrt_may_use_the_types_of_the_graph(
    ort: OnnxRuntimeDouble,
    file: Path,
    tmp_path: Path,
    products: Any,
    rest: Any,
    half: str,
    eight: str,
    precision: str,
) -> None:
    with open_on(file, "TENSORRT.1", products=products, rest=rest) as engine:
        assert engine.info.precision == precision and engine.info.device_name == "RTX 4090"
    (session,) = ort.sessions
    (first, options), second = session.providers
    assert first == TENSORRT and second == (CUDA, {"device_id": "1", "use_tf32": "0"})
    engines = Path(options.pop("trt_engine_cache_path"))
    timings = Path(options.pop("trt_timing_cache_path"))
    assert options == {
        "device_id": "1",
        "trt_fp16_enable": half,
        "trt_int8_enable": eight,
        "trt_int8_use_native_calibration_table": "False",
        "trt_layer_norm_fp32_fallback": half,
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
    }
    assert engines.is_dir() and timings.is_dir() and engines != timings
    assert engines.is_relative_to(tmp_path / "cache") and timings.is_relative_to(tmp_path / "cache")


def test_engines_are_kept_apart_by_weights_gpu_and_version(
    ort: OnnxRuntimeDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library names them after nodes: equal graphs of other weights would share one."""

    def folder(file: Path, device: str = "TENSORRT") -> str:
        open_on(file, device, products="fp32", rest="fp32").close()
        return str(ort.sessions[-1].providers[0][1]["trt_engine_cache_path"])

    files = [tmp_path / name / "fp32.onnx" for name in ("a", "b", "c")]
    for path in files:
        path.parent.mkdir()
        tiny_onnx(path)
    weights = files[1].read_bytes()
    changed = tiny_weights(1)[0].tobytes()
    assert weights.count(changed) == 1
    files[1].write_bytes(weights.replace(changed, changed[::-1]))
    plain = folder(files[0])
    assert folder(files[2]) == plain
    assert len({plain, folder(files[1]), folder(files[0], "TENSORRT.1")}) == 3
    files[2].with_name("fp32.onnx.data").write_bytes(b"weights of a large graph")
    assert folder(files[2]) != plain
    monkeypatch.setattr(ort, "__version__", "1.32.0", raising=False)
    assert folder(files[0]) != plain


def test_tensorrt_must_be_told_the_arithmetic(ort: OnnxRuntimeDouble, file: Path) -> None:
    assert "products=" in refusal(file, EngineOptions("TENSORRT"), UsageError)
    assert ort.sessions == []


def test_a_bundle_tells_it_and_takes_tensorrts_variant(
    ort: OnnxRuntimeDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builders.tiny_manifest

    def manifest(*arguments: Any) -> Any:
        made = plain(*arguments)
        (variant,) = made.variants
        limits = variant.golden_limits["onnxruntime"]
        own = dataclasses.replace(variant, backends=("openvino", "onnxruntime"))
        other = dataclasses.replace(
            variant,
            name="fp32-signed",
            rest="fp16",
            backends=("tensorrt",),
            golden_limits={"tensorrt": limits},
        )
        return dataclasses.replace(made, variants=(own, other))

    monkeypatch.setattr(builders, "tiny_manifest", manifest)
    bundle = tiny_bundle(tmp_path / "tiny.edgeseg")
    with edgeseg.open(bundle, backend="onnxruntime", device="TENSORRT") as model:
        assert model.variant.name == "fp32-signed"
    assert ort.sessions[-1].providers[0][1]["trt_fp16_enable"] == "True"
    with edgeseg.open(bundle, backend="onnxruntime", device="GPU") as model:
        assert model.variant.name == "fp32"
    assert placement_for("openvino", "TENSORRT") == "openvino"


def test_devices_are_those_of_wheel_and_machine(
    ort: OnnxRuntimeDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert available_devices() == ("CPU", "GPU.0", "GPU.1", "TENSORRT.0", "TENSORRT.1")
    monkeypatch.setattr(edgeseg.gpu, "gpus", no_driver)
    assert available_devices() == ("CPU",)
    monkeypatch.setattr(edgeseg.gpu, "gpus", no_bindings)
    assert available_devices() == ("CPU", "GPU", "TENSORRT")
    ort.providers = [CPU]
    assert available_devices() == ("CPU",)


@pytest.mark.parametrize("device", ["NPU", "GPU.x", "CPU.0", "GPU.", "TENSORRT.-1", "CUDA"])
def test_an_unknown_device_is_refused(ort: OnnxRuntimeDouble, file: Path, device: str) -> None:
    message = refusal(file, EngineOptions(device), BackendUnavailableError)
    assert repr(device.upper()) in message and "TENSORRT.1" in message


def test_a_gpu_that_is_not_there_is_refused(ort: OnnxRuntimeDouble, file: Path) -> None:
    message = refusal(file, EngineOptions("GPU.2"), BackendUnavailableError)
    assert "'GPU.2'" in message and "GPU.1" in message and ort.sessions == []


def test_a_wheel_without_the_provider_is_named(ort: OnnxRuntimeDouble, file: Path) -> None:
    ort.providers = [CPU]
    message = refusal(file, EngineOptions("GPU"), BackendUnavailableError)
    assert CUDA in message and "edgeseg[onnxruntime-gpu]" in message


# Names that nothing else in the process can have loaded, as torch loads CUDA's own.
MISSING = (
    ("GPU", "cuda", "libcuda.so.1", "NVIDIA driver"),
    ("GPU", "cuda", "libcublasLt.so.99", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    ("GPU", "cuda", "libcudnn.so.99", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    ("TENSORRT", "tensorrt", "libnvinfer.so.10", "pip install 'tensorrt-cu13>=10,<11'"),
    ("TENSORRT", "tensorrt", "libnvonnxparser.so.11", "pip install 'tensorrt-cu13>=11,<12'"),
    ("TENSORRT", "tensorrt", "libcublas.so.99", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
)


@pytest.mark.parametrize(("device", "provider", "library", "mend"), MISSING)
def test_the_missing_library_is_named_where_the_cpu_would_serve(
    ort: OnnxRuntimeDouble, file: Path, device: str, provider: str, library: str, mend: str
) -> None:
    ort.link(provider, missing=library)
    if device == "GPU":
        ort.started = [CPU]
    else:
        ort.load_error = RuntimeError(NO_TENSORRT)
    options = dataclasses.replace(FP16, device=device)
    message = refusal(file, options, BackendUnavailableError)
    assert f"{library} is missing" in message and mend in message and device in message
    assert ort.severities == [4, 2] and ort.preloaded == 1


def test_a_fallback_without_a_reason_is_refused_too(ort: OnnxRuntimeDouble, file: Path) -> None:
    ort.started = [CPU]
    assert "edgeseg doctor" in refusal(file, EngineOptions("GPU"), BackendUnavailableError)
    ort.started = [CUDA, CPU]
    assert TENSORRT in refusal(file, FP16, BackendUnavailableError)


@pytest.mark.parametrize("device", ["GPU", "TENSORRT"])
def test_an_old_driver_is_said(ort: OnnxRuntimeDouble, file: Path, device: str) -> None:
    ort.load_error = RuntimeError(CUDA_35)
    options = dataclasses.replace(FP16, device=device)
    message = refusal(file, options, BackendUnavailableError)
    assert message.endswith("CUDA driver version is insufficient for CUDA runtime version")


MEMORY = (
    "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0 ; hostname=vm ;",
    "bfc_arena.cc:376 [ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for "
    "requested buffer of size 8589934592",
)


@pytest.mark.parametrize("text", MEMORY)
def test_too_little_memory_is_said(ort: OnnxRuntimeDouble, file: Path, text: str) -> None:
    ort.load_error = RuntimeError(text)
    assert "Orin" in refusal(file, EngineOptions("GPU"), DeviceMemoryError)
    ort.load_error, ort.run_error = None, RuntimeError(text)
    with open_on(file, "GPU") as engine, pytest.raises(DeviceMemoryError, match=r"tiny\.onnx"):
        engine.infer({"image": np.zeros((1, 3, 32, 48), np.float32)})


def test_a_graph_that_cannot_run_is_no_missing_device(ort: OnnxRuntimeDouble, file: Path) -> None:
    ort.load_error = RuntimeError(
        "[ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model failed:\nno op Foo"
    )
    message = refusal(file, EngineOptions("GPU"), BackendError)
    assert message.endswith("on GPU: Load model failed: no op Foo") and str(file) in message
    # TensorRT may have met an engine of its cache that is damaged.
    assert "delete" not in refusal(file, FP16, BackendError)
    (folder,) = (path for path in edgeseg_cache(file) if path.name != "timing")
    (folder / "kernel.engine").write_bytes(b"cut off")
    assert f"delete {folder}" in refusal(file, FP16, BackendError)


def edgeseg_cache(file: Path) -> list[Path]:
    return list((file.parent / "cache" / "onnxruntime").iterdir())


def test_nodes_left_to_the_cpu_are_said(
    ort: OnnxRuntimeDouble, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ort.assignment = {CUDA: ["Conv"] * 95, CPU: ["Shape"] * 5}
    with caplog.at_level(logging.WARNING, "edgeseg"):
        open_on(file, "GPU").close()
        assert caplog.text == ""
        ort.assignment = {CUDA: ["Conv"] * 60, CPU: [*["QLinearMatMul"] * 30, *["Gelu"] * 10]}
        open_on(file, "GPU").close()
    assert "40 of 100 nodes on the CPU" in caplog.text and "30 QLinearMatMul" in caplog.text
    entries = ort.sessions[-1].options.entries
    assert entries == {"session.record_ep_graph_assignment_info": "1"}


def test_tensorrt_that_takes_nothing_is_no_tensorrt(ort: OnnxRuntimeDouble, file: Path) -> None:
    ort.assignment = {CUDA: ["Conv"] * 9, CPU: ["Shape"]}
    message = refusal(file, FP16, BackendUnavailableError)
    assert "none of the graph's 10 nodes" in message


def test_times_of_launches_are_no_profile(ort: OnnxRuntimeDouble, file: Path) -> None:
    with (
        open_on(file, "GPU", profile=True) as engine,
        pytest.raises(BackendUnavailableError, match="launch"),
    ):
        engine.profile({"image": np.zeros((1, 3, 32, 48), np.float32)})


def test_the_command_line_says_it_in_one_line(
    ort: OnnxRuntimeDouble, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    ort.link("cuda", missing="libcuda.so.1")
    ort.started = [CPU]
    bundle = tiny_bundle(tmp_path / "tiny.edgeseg")
    arguments = ["bench", str(bundle), "--backend", "onnxruntime", "--device", "gpu", "--quiet"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.strip().splitlines()) == 1
    assert said.err.startswith("edgeseg: ") and "NVIDIA driver" in said.err
