"""What the benchmark compares with: each library answers like the checkpoint, or says why not."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg import export, synthetic
from edgeseg.bench import opencv_fusion
from edgeseg.bench.candidate import Candidate
from edgeseg.bench.peers import PEERS, CandidateSpec, open_peer, require_library
from edgeseg.errors import (
    BackendError,
    CalibrationError,
    InputError,
    MissingDependencyError,
    UsageError,
)
from edgeseg.reader import Reader
from edgeseg.spec import (
    FusionSpec,
    PreprocessSpec,
    ReadoutSpec,
    RegularizeSpec,
    ViewSpec,
    from_json,
    to_json,
)
from edgeseg.workflows import _peers
from edgeseg.workflows._peers import FP32_TOLERANCE, deviation, open_candidate, peer_specs

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

REPOSITORY = Path(__file__).resolve().parents[1]
FILE_PEERS = ("torch", "onnxruntime", "openvino", "openvino-f32")
FRAME_HW_PX = (120, 140)


@dataclass
class Made:
    """A checkpoint, and what was made of it."""

    checkpoint: Path
    preprocess: PreprocessSpec
    readout: ReadoutSpec
    specs: dict[str, CandidateSpec]
    printed: str = ""


def needs_nncf() -> None:
    """Skip without NNCF, whose import is left to edgeseg: by itself it changes all loggers."""
    if importlib.util.find_spec("nncf") is None:
        pytest.skip("NNCF is not installed")


def random_checkpoint(path: Path, layout: str, **hyper) -> Path:
    from checkpoints import make_checkpoint

    return make_checkpoint(path, layout, **hyper)


def make(checkpoint: Path, names: tuple[str, ...], size: tuple[int, int], **options) -> Made:
    loaded = export.load(checkpoint)
    input_size = export.InputSize(*size)
    preprocess = loaded.family.preprocess(loaded.config, input_size)
    readout = loaded.family.readout(loaded.config)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        specs = peer_specs(
            checkpoint,
            names,
            folder=checkpoint.parent,
            preprocess=preprocess,
            readout=readout,
            sha256=loaded.sha256,
            threads=1,
            **options,
        )
    assert [spec.kind for spec in specs] == list(names)
    return Made(
        checkpoint, preprocess, readout, {spec.kind: spec for spec in specs}, printed.getvalue()
    )


@pytest.fixture(scope="module")
def one_view(tmp_path_factory) -> Made:
    """SegDINO for frames that are not square, with two classes beside the background."""
    path = random_checkpoint(tmp_path_factory.mktemp("one") / "one.pth", "segdino_v2", classes=3)
    return make(path, FILE_PEERS, (64, 96))


@pytest.fixture(scope="module")
def many_views(tmp_path_factory) -> Made:
    """DINO-MVR with two sizes, of which the bundle mirrors each."""
    path = random_checkpoint(
        tmp_path_factory.mktemp("many") / "many.pth",
        "dino_mvr",
        config={"resolutions": [[64, 96], [96, 96]], "flips": ["h", "v"]},
    )
    return make(path, FILE_PEERS, (96, 96), fusion=True)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> Made:
    """What NNCF makes of a checkpoint with twelve pictures."""
    needs_nncf()
    folder = tmp_path_factory.mktemp("nncf")
    synthetic.generate_dataset(folder / "data", 12, seed=1, height_px=64, width_px=64)
    path = random_checkpoint(folder / "one.pth", "segdino_v2")
    return make(path, ("nncf",), (64, 64), data=folder / "data", calibration_frames=8)


def inputs_of(spec: CandidateSpec, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {s.name: rng.normal(size=s.shape).astype(np.float32) for s in spec.inputs}


def torch_answers(made: Made, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The authors' formulation, called here."""
    with torch.inference_mode():
        answer = export.load(made.checkpoint).model(*map(torch.from_numpy, tensors.values()))
    return [value.numpy() for value in (answer if isinstance(answer, tuple) else (answer,))]


def differs_by(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    assert [value.shape for value in found] == [value.shape for value in wanted]
    return max(float(np.abs(f - w).max() / np.ptp(w)) for f, w in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kind", FILE_PEERS)
@pytest.mark.parametrize("views", ["one_view", "many_views"])
def test_peers_answer_like_torch(request, views: str, kind: str) -> None:
    made = request.getfixturevalue(views)
    spec = made.specs[kind]
    tensors = inputs_of(spec)
    with open_candidate(spec) as peer:
        assert (peer.name, peer.threads, peer.parallel) == (kind, 1, 1)
        assert peer.version[0].isdigit()
        answers = peer.infer(tensors)
        kept = {name: value.copy() for name, value in answers.items()}
        peer.infer(inputs_of(spec, seed=4))
    assert all((answers[name] == kept[name]).all() for name in kept), "answers are the caller's"
    assert {value.dtype for value in answers.values()} == {np.dtype(np.float32)}
    share = differs_by([answers[s.name] for s in spec.outputs], torch_answers(made, tensors))
    limit = FP32_TOLERANCE if peer.precision == "float32" else 0.1
    assert share <= limit
    assert peer.precision == "float32" or (kind == "openvino" and peer.precision in spec.notes[0])


def test_float32_peers_of_the_same_model_need_no_remark(one_view: Made) -> None:
    assert [one_view.specs[kind].notes for kind in ("torch", "onnxruntime", "openvino-f32")] == [
        (),
        (),
        (),
    ]


def test_a_peer_says_how_its_library_is_used(one_view: Made) -> None:
    said = {}
    for kind, spec in one_view.specs.items():
        with open_candidate(spec) as peer:
            said[kind] = peer.how
    assert "eager" in said["torch"] and "inference_mode" in said["torch"]
    assert "spinning off" in said["onnxruntime"] and "CPUExecutionProvider" in said["onnxruntime"]
    assert "left to the library" in said["openvino"] and "latency" in said["openvino"]
    assert "float32 asked for" in said["openvino-f32"]


@pytest.mark.parametrize("kind", FILE_PEERS)
def test_peers_for_throughput_take_several_requests(one_view: Made, kind: str) -> None:
    import threading

    spec = dataclasses.replace(one_view.specs[kind], hint="throughput", threads=2)
    cases = [inputs_of(spec, seed) for seed in range(4)]
    wanted = [torch_answers(one_view, case) for case in cases]
    shares = {}
    with open_candidate(spec) as peer:
        assert peer.parallel >= (1 if kind.startswith("openvino") else 2)

        def work(index: int) -> None:
            for _ in range(3):
                shares[index] = differs_by([peer.infer(cases[index])["logits"]], wanted[index])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(shares) == [0, 1, 2, 3] and max(shares.values()) <= 0.1


@pytest.mark.parametrize("kind", FILE_PEERS)
def test_a_peer_refuses_missing_inputs_and_work_after_its_end(one_view: Made, kind: str) -> None:
    spec = one_view.specs[kind]
    with (
        open_candidate(spec) as peer,
        pytest.raises(InputError, match="needs the inputs image, and got picture"),
    ):
        peer.infer({"picture": np.zeros(1, np.float32)})
    peer.close()
    with pytest.raises(BackendError, match="closed"):
        peer.infer(inputs_of(spec))


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino"])
def test_a_broken_file_is_an_error_of_the_library(
    tmp_path: Path, one_view: Made, kind: str
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(one_view.specs[kind].file.read_bytes()[:2000])
    with pytest.raises(BackendError, match=r"broken\.onnx"):
        open_peer(dataclasses.replace(one_view.specs[kind], files=(str(broken),)))


class Counting(torch.nn.Module):
    """Notes with how many threads torch runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def forward(self, image):
        self.threads.append(torch.get_num_threads())
        return image[:, :1]


def test_torch_runs_each_peer_with_its_own_threads(one_view: Made) -> None:
    module = Counting()
    latency = dataclasses.replace(one_view.specs["torch"], threads=3)
    throughput = dataclasses.replace(latency, hint="throughput")
    before = torch.get_num_threads()
    with open_peer(latency, load_module=lambda _: module) as alone:
        alone.infer(inputs_of(latency))
        with open_peer(throughput, load_module=lambda _: module) as several:
            assert several.parallel == 3
            several.infer(inputs_of(latency))
            alone.infer(inputs_of(latency))
    assert module.threads == [3, 1, 3]
    assert torch.get_num_threads() == before


def test_opencv_has_the_peers_threads_while_it_is_open(many_views: Made) -> None:
    before = cv2.getNumThreads()
    with open_candidate(dataclasses.replace(many_views.specs["onnxruntime"], threads=3)):
        assert cv2.getNumThreads() == 3
    assert cv2.getNumThreads() == before


def test_a_spec_survives_json(many_views: Made) -> None:
    for spec in many_views.specs.values():
        again = from_json(CandidateSpec, json.loads(json.dumps(to_json(spec))))
        assert again == spec
    expected = many_views.checkpoint.stat().st_size / 2**20
    assert many_views.specs["torch"].file_mib == expected


def test_nncf_quantises_products_and_stays_near_the_checkpoint(quantized: Made) -> None:
    spec = quantized.specs["nncf"]
    assert spec.unavailable is None and spec.frames == 8
    xml = spec.file.read_text(encoding="utf-8")
    assert 'type="FakeQuantize"' in xml and 'element_type="i8"' in xml
    assert all(Path(name).is_file() for name in spec.files)
    assert spec.file_mib < quantized.checkpoint.stat().st_size / 2**20
    tensors = inputs_of(spec)
    (wanted,) = torch_answers(quantized, tensors)
    with open_candidate(spec) as peer:
        found = peer.infer(tensors)["logits"]
        assert peer.precision.startswith("INT8 products, rest ")
        assert "8 calibration frames" in peer.how and "TRANSFORMER" in peer.how
        assert "OpenVINO" in peer.version
    centred = [(value - value.mean()).ravel() for value in (found, wanted)]
    cosine = centred[0] @ centred[1] / np.prod([np.linalg.norm(value) for value in centred])
    assert 0.9 <= cosine < 1.0
    assert np.abs(found - wanted).max() > 1e-6 * np.ptp(wanted), "nothing was quantised"
    (note,) = spec.notes
    assert "INT8" in note and "of their range" in note


def test_nncf_prints_nothing(quantized: Made) -> None:
    assert quantized.printed == ""


def test_nncf_neither_reports_nor_writes_home(tmp_path: Path) -> None:
    needs_nncf()
    code = (
        "import logging, sys\n"
        "from edgeseg.bench.peers.nncf import library\n"
        "library()\n"
        "import nncf.telemetry as t\n"
        "print(type(t.telemetry).__name__, 'openvino_telemetry' in sys.modules,\n"
        "      logging.getLoggerClass().__name__)\n"
    )
    unset = ("CI", "NNCF_CI", "NNCF_DEV", "TF_BUILD", "JENKINS_URL")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "MagicMock False Logger\n"
    assert not (tmp_path / "intel").exists()


@pytest.fixture
def exported_once(one_view: Made, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plain file of ``one_view``, which stands for whatever is exported."""
    file = one_view.specs["onnxruntime"].file
    monkeypatch.setattr(_peers, "_export", lambda *_: (str(file),))
    return file


def ask(made: Made, *names: str, folder: Path, **options) -> list[CandidateSpec]:
    return peer_specs(
        made.checkpoint, names, folder=folder, preprocess=made.preprocess, threads=1, **options
    )


def test_what_nncf_refuses_does_not_stop_the_others(
    tmp_path: Path, one_view: Made, exported_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_nncf()
    looked_at = []

    def refuse(_: Path, __: Path, frames, **___: object) -> None:
        looked_at.append(len(frames))
        raise BackendError("NNCF cannot quantise plain.onnx: an operator")

    monkeypatch.setattr("edgeseg.bench.peers.nncf.quantize_with_nncf", refuse)
    synthetic.generate_dataset(tmp_path / "data", 5, seed=1, height_px=32, width_px=32)
    broken, sound = ask(
        one_view,
        *("nncf", "onnxruntime"),
        folder=tmp_path,
        data=tmp_path / "data",
        calibration_frames=4,
    )
    assert looked_at == [4]
    assert broken.unavailable == "NNCF cannot quantise plain.onnx: an operator"
    with pytest.raises(BackendError, match="an operator"):
        open_candidate(broken)
    assert sound.unavailable is None
    with open_candidate(sound) as peer:
        assert peer.infer(inputs_of(sound))["logits"].shape == (1, 3, 64, 96)


def test_a_peer_that_computes_something_else_is_told(
    tmp_path: Path, one_view: Made, exported_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported_once)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * 1.02, tensor.name))
    other = tmp_path / "other.onnx"
    onnx.save_model(model, other)
    monkeypatch.setattr(_peers, "_export", lambda *_: (str(other),))
    (found,) = ask(one_view, "onnxruntime", folder=tmp_path)
    (note,) = found.notes
    assert "onnxruntime (float32)" in note and "more than the 0.001" in note


class Told(Candidate):
    """Answers what it was told."""

    name = "told"

    def __init__(self, answer: dict[str, np.ndarray]) -> None:
        self.answer = answer

    def infer(self, tensors):
        return self.answer

    def close(self) -> None:
        pass


def test_deviation_is_a_share_of_the_range_and_sees_nan() -> None:
    wanted = {"a": np.float32([[0.0, 4.0]]), "b": np.float32([[0.0, 1.0]])}
    found = {"a": np.float32([[1.0, 4.0]]), "b": np.float32([[0.0, 1.5]])}
    assert deviation(Told(found), [{}], [wanted]) == 0.5
    assert deviation(Told(wanted), [{}], [wanted]) == 0.0
    bad = {**found, "a": np.float32([[np.nan, 4.0]])}
    assert np.isnan(deviation(Told(bad), [{}], [wanted]))
    with pytest.raises(BackendError, match="told gave"):
        deviation(Told({"a": wanted["a"]}), [{}], [wanted])
    with pytest.raises(InputError, match="the same everywhere"):
        deviation(Told(found), [{}], [{"a": np.zeros((1, 2), np.float32)}])


@pytest.mark.parametrize("kind", ["torch", "onnxruntime"])
def test_a_fusing_peer_reads_out_like_edgeseg(many_views: Made, kind: str) -> None:
    spec = many_views.specs[kind]
    tensors = inputs_of(spec)
    with open_candidate(dataclasses.replace(spec, fusion=None)) as plain:
        outputs = plain.infer(tensors)
        assert not hasattr(plain, "read_out")
    logits = [outputs[s.name] for s in spec.outputs]
    whole = Reader(many_views.preprocess, many_views.readout).read(logits).probability()
    # So that half of the frame is foreground.
    readout = dataclasses.replace(many_views.readout, threshold=float(np.median(whole)))
    with open_candidate(dataclasses.replace(spec, readout=readout)) as peer:
        mask = peer.read_out(peer.infer(tensors), FRAME_HW_PX)
        assert "OpenCV" in peer.how
    reading = Reader(many_views.preprocess, readout).read(logits, FRAME_HW_PX)
    assert mask.dtype == np.uint8 and 0.2 < mask.mean() < 0.8
    assert (mask == reading.mask).mean() >= 0.999


@pytest.mark.parametrize("weighting", ["entropy", "exp", "mean"])
@pytest.mark.parametrize("channels", [1, 3])
def test_fusion_by_opencv_is_that_of_the_read_out(weighting: str, channels: int) -> None:
    views = (ViewSpec(64, 96, ("none", "h")), ViewSpec(80, 80, ("none", "v", "hv")))
    preprocess = PreprocessSpec(80, 96, "bilinear", (0.5,) * 3, (0.5,) * 3, views=views)
    readout = ReadoutSpec(
        "sigmoid" if channels == 1 else "softmax",
        0.4 if channels == 1 else 0.5,
        fusion=FusionSpec(weighting, 0.7),
        regularize=RegularizeSpec(blur_sigma_px=1.5, min_component_px=20),
    )
    rng = np.random.default_rng(1)
    outputs = [
        rng.normal(0.0, 3.0, (len(v.flips), channels, v.height_px // 16, v.width_px // 16)).astype(
            np.float32
        )
        for v in views
    ]
    mask = opencv_fusion.fuse_with_opencv(outputs, preprocess, readout, FRAME_HW_PX)
    reading = Reader(preprocess, readout).read(outputs, FRAME_HW_PX)
    assert mask.shape == FRAME_HW_PX and len(np.unique(mask)) == max(channels, 2)
    assert (mask == reading.mask).mean() >= 0.999


def test_fusion_needs_views(one_view: Made) -> None:
    spec = one_view.specs["onnxruntime"]
    with pytest.raises(UsageError, match="nothing to fuse"):
        open_candidate(dataclasses.replace(spec, fusion="opencv"))
    with pytest.raises(UsageError, match="several views"):
        make(one_view.checkpoint, ("onnxruntime",), (64, 96), fusion=True)


def test_names_are_checked_before_any_work(one_view: Made, tmp_path: Path) -> None:
    made = dataclasses.replace(one_view, checkpoint=tmp_path / "missing.pth")
    with pytest.raises(UsageError, match=r"unknown peer 'tvm'.*torch, torch-compile, onnxruntime"):
        ask(made, "torch", "tvm", folder=tmp_path)
    with pytest.raises(UsageError, match="named twice"):
        ask(made, "torch", "torch", folder=tmp_path)
    with pytest.raises(CalibrationError, match="--data"):
        ask(made, "nncf", folder=tmp_path)
    with pytest.raises(UsageError, match="unknown peer 'tvm'"):
        require_library("tvm")
    assert ask(made, folder=tmp_path) == []


def test_another_checkpoint_than_the_bundles_is_refused(one_view: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the checkpoint that the bundle was built from"):
        ask(one_view, "torch", folder=tmp_path, sha256="0" * 64)


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [
        ("torch", "torch", "edgeseg[export]"),
        ("onnxruntime", "onnxruntime", "edgeseg[onnxruntime]"),
        ("openvino-f32", "openvino", "edgeseg"),
        ("nncf", "nncf", "edgeseg[bench]"),
    ],
)
def test_a_missing_library_names_its_pip_line(
    monkeypatch: pytest.MonkeyPatch, kind: str, module: str, extra: str
) -> None:
    assert kind in PEERS
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError) as caught:
        require_library(kind)
    assert f"pip install '{extra}'" in str(caught.value)


def test_a_compiler_that_fails_is_named(one_view: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(module: object) -> object:
        def fail(*_: object) -> None:
            raise OSError("g++ is not there")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    before = torch.get_num_threads()
    spec = dataclasses.replace(one_view.specs["torch"], kind="torch-compile", threads=3)
    with pytest.raises(BackendError, match=r"g\+\+ is not there.*needs a C\+\+ compiler"):
        open_candidate(spec)
    assert torch.get_num_threads() == before


@pytest.mark.slow
@pytest.mark.parametrize("views", ["one_view", "many_views"])
def test_compiled_torch_answers_like_torch(request, views: str) -> None:
    made = request.getfixturevalue(views)
    spec = dataclasses.replace(made.specs["torch"], kind="torch-compile")
    tensors = inputs_of(spec)
    with open_candidate(spec) as peer:
        assert "torch.compile" in peer.how
        answers = peer.infer(tensors)
    found = [answers[s.name] for s in spec.outputs]
    assert differs_by(found, torch_answers(made, tensors)) <= FP32_TOLERANCE
