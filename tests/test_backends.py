"""The engine seam: what it checks, what it chooses, and that backends agree with arithmetic."""

import threading
from pathlib import Path

import numpy as np
import pytest
from builders import tiny_onnx, tiny_weights

from edgeseg.backends import (
    EngineOptions,
    available_backends,
    choose_backend,
    open_engine,
)
from edgeseg.errors import BackendError, BackendUnavailableError, InputError, UsageError

BACKENDS = available_backends()


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    tiny_onnx(tmp_path / "tiny.onnx", channels=2)
    return tmp_path / "tiny.onnx"


def _image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 3, 32, 48)).astype(np.float32)


def _expected(image: np.ndarray) -> np.ndarray:
    weight, bias = (a.astype(np.float64) for a in tiny_weights(2))
    return np.einsum("oc,nchw->nohw", weight, image) + bias[:, None, None]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_engine_computes_and_describes_itself(onnx_file: Path, backend: str, hint: str) -> None:
    with open_engine(onnx_file, backend, EngineOptions(threads=1, hint=hint)) as engine:
        (source,), (target,) = engine.inputs, engine.outputs
        assert (source.name, source.dtype, source.shape) == ("image", "float32", (1, 3, 32, 48))
        assert (target.name, target.shape, target.layout) == ("logits", (1, 2, 32, 48), "NCHW")
        assert engine.info.backend == backend and engine.info.threads == 1
        image = _image()
        result = engine.infer({"image": image})["logits"]
    assert result.dtype == np.float32
    assert np.abs(result - _expected(image)).max() <= 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_belong_to_the_caller(onnx_file: Path, backend: str) -> None:
    with open_engine(onnx_file, backend) as engine:
        first = engine.infer({"image": _image(1)})["logits"]
        kept = first.copy()
        engine.infer({"image": _image(2)})
        assert (first == kept).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_do_not_mix_their_answers(onnx_file: Path, backend: str) -> None:
    wrong: list[int] = []
    with open_engine(onnx_file, backend, EngineOptions(hint="throughput")) as engine:

        def work(seed: int) -> None:
            image = _image(seed)
            for _ in range(20):
                result = engine.infer({"image": image})["logits"]
                if not np.abs(result - _expected(image)).max() <= 1e-5:
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_inputs_are_refused_before_anything_runs(onnx_file: Path, backend: str) -> None:
    with open_engine(onnx_file, backend) as engine:
        with pytest.raises(InputError, match=r"takes inputs \['image'\], got \['picture'\]"):
            engine.infer({"picture": _image()})
        with pytest.raises(InputError, match="expected float32"):
            engine.infer({"image": _image().astype(np.float64)})
        with pytest.raises(InputError, match=r"\(1, 3, 32, 48\)"):
            engine.infer({"image": _image()[:, :, :16]})
        with pytest.raises(InputError, match="numpy array"):
            engine.infer({"image": [1.0]})
        flipped = _image()[:, :, ::-1]
        result = engine.infer({"image": flipped})["logits"]
        assert np.abs(result - _expected(flipped)).max() <= 1e-5
    with pytest.raises(BackendError, match="closed"):
        engine.infer({"image": _image()})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_broken_file_is_a_backend_error(tmp_path: Path, backend: str) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"bad\.onnx"):
        open_engine(tmp_path / "bad.onnx", backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_device_that_is_not_there_is_named(onnx_file: Path, backend: str) -> None:
    with pytest.raises(BackendUnavailableError, match=r"it offers .*CPU"):
        open_engine(onnx_file, backend, EngineOptions(device="NPU.7"))


def test_auto_says_what_it_chose_and_why() -> None:
    choice = choose_backend("auto", "CPU", ("openvino", "onnxruntime"))
    assert choice.name == "openvino"
    assert "auto chose openvino on CPU" in choice.why


def test_a_named_backend_is_used_or_fails() -> None:
    with pytest.raises(UsageError, match="unknown backend 'tvm'"):
        choose_backend("tvm", "CPU", ("openvino",))
    named = choose_backend("tensorrt", "auto", ("openvino", "tensorrt"))
    assert (named.name, named.device, named.why) == ("tensorrt", "GPU", "as requested")
    with pytest.raises(BackendUnavailableError, match="written for tensorrt, not for openvino"):
        choose_backend("openvino", "CPU", ("tensorrt",), "int8")
    with pytest.raises(BackendUnavailableError, match="no installed backend"):
        choose_backend("auto", "CPU", ("tensorrt",), "int8")


def test_a_backend_that_is_not_installed_names_the_pip_line(monkeypatch) -> None:
    monkeypatch.setattr("edgeseg.backends.available_backends", lambda: ("openvino",))
    with pytest.raises(BackendUnavailableError, match=r"pip install 'edgeseg\[onnxruntime\]'"):
        choose_backend("onnxruntime", "CPU", ("openvino", "onnxruntime"))


def test_auto_prefers_a_plan_except_on_another_device() -> None:
    served = ("openvino", "onnxruntime", "tensorrt")
    for device, used in (("auto", "GPU"), ("gpu.1", "GPU.1")):
        choice = choose_backend("auto", device, served, has_plan=True)
        assert (choice.name, choice.device) == ("tensorrt", used)
        assert f"auto chose tensorrt on {used}" in choice.why
    assert choose_backend("auto", "CPU", served, has_plan=True).name == "openvino"
    without = choose_backend("auto", "auto", served)
    assert (without.name, without.device) == ("openvino", "CPU")
    assert choose_backend("auto", "auto", ("openvino",), has_plan=True).name == "openvino"


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_carry_the_names_that_the_file_declares(tmp_path: Path, backend: str) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    # An Identity is folded away, and its tensor then has both names.
    nodes = [
        helper.make_node("Relu", ["x"], ["inner"]),
        helper.make_node("Identity", ["inner"], ["second"]),
        helper.make_node("Neg", ["inner"], ["first"]),
    ]
    infos = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (2, 3))
        for name in ("x", "first", "second", "inner")
    }
    outputs = [infos["first"], infos["second"]]
    graph = helper.make_graph(nodes, "names", [infos["x"]], outputs)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "n.onnx")
    x = np.array([[-1, 2, 3], [4, -5, 6]], np.float32)
    with open_engine(tmp_path / "n.onnx", backend) as engine:
        assert [spec.name for spec in engine.outputs] == ["first", "second"]
        results = engine.infer({"x": x})
    assert (results["second"] == np.maximum(x, 0)).all()
    assert (results["first"] == -np.maximum(x, 0)).all()


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1, got 0"):
        EngineOptions(threads=0)
    with pytest.raises(UsageError, match="unknown hint"):
        EngineOptions(hint="speed")
    assert EngineOptions(device="gpu.1").device == "GPU.1"


def test_auto_takes_the_backend_that_has_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.backends.available_backends", lambda: ("openvino", "onnxruntime"))
    offers = {"openvino": ("CPU", "NPU"), "onnxruntime": ("CPU", "GPU")}

    class Stand:
        def __init__(self, name: str) -> None:
            self.name = name

        def available_devices(self) -> tuple:
            return offers[self.name]

    monkeypatch.setattr("edgeseg.backends._load", lambda module: Stand(module.rsplit("._", 1)[1]))
    both = ("openvino", "onnxruntime")
    assert choose_backend("auto", "gpu", both).name == "onnxruntime"
    assert choose_backend("auto", "NPU", both).name == "openvino"
    assert "it offers NPU" in choose_backend("auto", "NPU", both).why
    with pytest.raises(BackendUnavailableError, match="offers the device GPU"):
        choose_backend("auto", "GPU", ("openvino",))
