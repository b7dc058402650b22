"""The benchmark of whole frames: what it compares with, and that its check sees what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg import synthetic
from edgeseg.backends.base import Engine, EngineInfo
from edgeseg.gpu import Gpu
from edgeseg.preprocess import Preprocessor
from edgeseg.reader import Reader
from edgeseg.workflows.gpu_frames import frame_cases

torch = pytest.importorskip("torch")
pytest.importorskip("timm")


@pytest.fixture(scope="module")
def cases():
    torch.set_num_threads(1)
    return frame_cases(torch, "tiny", device="cpu")


@pytest.fixture(scope="module")
def frame():
    return synthetic.golden_frames(1, 270, 480)[0]


def test_the_models_are_the_three_families_and_a_smoothed_one(cases) -> None:
    assert [case.name for case in cases] == [
        "SegDINO v1 tiny",
        "SegDINO v2 tiny",
        "DINO-MVR tiny, 6 views",
        "DINO-MVR tiny, 6 views, smoothed",
    ]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_eager_baseline_segments_like_the_authors_formulation(cases, frame, index) -> None:
    """OpenCV resamples otherwise than the training did, so most pixels agree, not all."""
    from edgeseg.bench.gpu_eager import EagerFrames

    case = cases[index]
    overlay, mask = EagerFrames(torch, case, device="cpu")(frame)
    with torch.inference_mode():
        tensors = [torch.from_numpy(t) for t in Preprocessor(case.preprocess).tensors(frame)]
        answers = case.exportable(*tensors)
    answers = answers if isinstance(answers, tuple) else (answers,)
    reading = Reader(case.preprocess, case.readout).read(
        [answer.numpy() for answer in answers], frame.shape[:2]
    )
    assert 0.02 < reading.mask.mean() < 0.98
    assert np.mean(mask == reading.mask) > 0.9
    assert np.array_equal(np.any(overlay != frame, axis=2) | (mask == 0), np.ones_like(mask, bool))


class ModuleEngine(Engine):
    """A torch module on the CPU, which can be off by a constant on the device."""

    def __init__(self, case) -> None:
        info = EngineInfo("torch", torch.__version__, "CPU", "a module", 1, "f32")
        super().__init__(case.inputs, case.outputs, info)
        self._module = case.exportable
        self.offset = 0.0

    def _infer(self, inputs):
        with torch.inference_mode():
            answers = self._module(*(torch.from_numpy(inputs[port.name]) for port in self.inputs))
        answers = answers if isinstance(answers, tuple) else (answers,)
        return {
            port.name: answer.numpy() + np.float32(self.offset)
            for port, answer in zip(self.outputs, answers, strict=True)
        }

    def _close(self) -> None:
        pass


@pytest.mark.parametrize("index", [0, 3], ids=["one view", "views over time"])
@pytest.mark.parametrize("graphs", [False, True])
def test_the_check_passes_what_is_right_and_sees_what_is_not(
    cases, host, index: int, graphs: bool
) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    from cuda_double import FakeRuntime, fake_kernels
    from engine_double import StreamDouble

    from edgeseg.bench.gpu_frames import check

    case = cases[index]
    scene = synthetic.Scene(3, 135, 240)
    frames = [scene.render(0.04 * number)[0] for number in range(3)]
    runtime = FakeRuntime(index)
    engine = ModuleEngine(case)
    with Gpu.open(runtime=runtime) as gpu:
        stream = StreamDouble(runtime, engine)
        native = fake_kernels(runtime, host)
        found = check(gpu, stream, engine.infer, case, frames, graphs=graphs, native=native)
        assert found.passed and found.frames == 3 and found.graphs == graphs
        right = ModuleEngine(case)
        engine.offset = 0.3
        found = check(gpu, stream, right.infer, case, frames, graphs=graphs, native=native)
        assert not found.passed and found.mask_agreement < 0.999
    runtime.assert_clean()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_the_frame_path_equals_the_cpu_path_on_this_gpu(tmp_path) -> None:
    from edgeseg.workflows.gpu_frames import main

    assert main(["--check", "--models", "tiny", "-o", str(tmp_path / "checks.json")]) == 0


def test_without_a_gpu_the_command_says_so(capsys, tmp_path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    from edgeseg.workflows.gpu_frames import main

    assert main(["-o", str(tmp_path / "figures.json")]) == 1
    assert "needs an NVIDIA GPU" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "figures.json").exists()
