"""The float rest of an INT8 engine in bfloat16: when it is chosen, and what then runs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import tiny_bundle, tiny_onnx

import edgeseg
from edgeseg._progress import silent
from edgeseg.backends import EngineOptions, available_backends, open_engine
from edgeseg.bundle import Bundle, read_bundle
from edgeseg.spec import GoldenLimits
from edgeseg.workflows import _bfloat16

pytestmark = pytest.mark.skipif(
    "openvino" not in available_backends(), reason="OpenVINO is not installed"
)


def processor_has_bfloat16() -> bool:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def answer(path: Path, *, bfloat16: bool) -> tuple[str, np.ndarray]:
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 48)).astype(np.float32)
    with open_engine(path, "openvino", EngineOptions(threads=1, bfloat16=bfloat16)) as engine:
        return engine.info.precision, engine.infer({"image": image})["logits"]


def test_it_runs_where_the_processor_has_it_and_only_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    tiny_onnx(path)
    precision, exact = answer(path, bfloat16=False)
    assert precision == "f32"
    precision, found = answer(path, bfloat16=True)
    assert precision == ("bf16" if processor_has_bfloat16() else "f32")
    assert np.abs(found - exact).max() <= 2**-7 * np.abs(exact).max()


def test_a_model_asks_for_what_its_bundle_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_bundle(tmp_path / "tiny.edgeseg")
    asked = []

    def spy(file: Path, name: str, options: EngineOptions) -> Any:
        asked.append(options.bfloat16)
        return open_engine(file, name, options)

    monkeypatch.setattr("edgeseg.model.open_engine", spy)
    edgeseg.open(path, backend="openvino").close()
    bundle = read_bundle(path)
    variant = dataclasses.replace(
        bundle.manifest.variants[0],
        bfloat16=("openvino",),
        golden_limits={"openvino": GoldenLimits(2e-2, 0.99, 0.95)},
    )
    monkeypatch.setattr(Bundle, "variant", lambda *_: variant)
    edgeseg.open(path, backend="openvino").close()
    assert asked == [False, True]


class Engine:
    """Answers the golden frames with an error, after a pause."""

    def __init__(self, golden: Any, precision: str, error: float, pause_ms: float) -> None:
        self.info = SimpleNamespace(precision=precision)
        self._golden, self._error, self._pause_s = golden, error, pause_ms / 1e3
        self._calls = 0

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, tensors: Any) -> dict[str, np.ndarray]:
        time.sleep(self._pause_s)
        index, self._calls = self._calls % len(self._golden.frames), self._calls + 1
        found = {}
        for name, answers in self._golden.outputs.items():
            exact = answers[index]
            wave = np.where(np.arange(exact.size) % 2, 1, -1).reshape(exact.shape)
            contrast = np.linalg.norm(exact - exact.mean()) / np.sqrt(exact.size)
            found[name] = (exact + self._error * contrast * wave).astype(np.float32)
        return found


def judged(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    precision: str = "bf16",
    errors: tuple[float, float] = (0.01, 0.01),
    pauses_ms: tuple[float, float] = (1.0, 3.0),
) -> Any:
    """The manifest after the choice, for engines in bfloat16 and FP32 with these figures."""
    bundle = read_bundle(path)
    golden = bundle.golden()
    (variant,) = (v for v in bundle.manifest.variants if v.precision == "fp32")
    int8 = dataclasses.replace(variant, name="int8", precision="int8", products="int8")
    manifest = dataclasses.replace(bundle.manifest, variants=(variant, int8))

    def open_double(file: Path, name: str, options: EngineOptions) -> Engine:
        which = 0 if options.bfloat16 else 1
        kind = precision if options.bfloat16 else "f32"
        return Engine(golden, kind, errors[which], pauses_ms[which])

    monkeypatch.setattr(_bfloat16, "open_engine", open_double)
    return _bfloat16.with_bfloat16(path, manifest, golden, silent)


def chosen(manifest: Any) -> list[tuple[str, ...]]:
    return [variant.bfloat16 for variant in manifest.variants]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bfloat16") / "tiny.edgeseg")


def test_faster_and_right_is_kept_for_int8_alone(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = judged(bundle, monkeypatch)
    assert chosen(manifest) == [(), ("openvino",)]
    (decision,) = manifest.decisions[-1:]
    assert "bfloat16 where the processor has it" in decision.what
    assert "times as fast" in decision.why and "0.01 against 0.01" in decision.why


@pytest.mark.parametrize(
    "figures",
    [{"pauses_ms": (3.0, 1.0)}, {"errors": (0.05, 0.01)}, {"errors": (float("nan"), 0.01)}],
    ids=["slower", "wrong", "NaN"],
)
def test_slower_or_wrong_is_not_kept_and_that_is_said(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, figures: dict[str, Any]
) -> None:
    manifest = judged(bundle, monkeypatch, **figures)
    assert chosen(manifest) == [(), ()]
    assert manifest.decisions[-1].what.endswith("FP32")


def test_a_processor_without_it_decides_nothing(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = judged(bundle, monkeypatch, precision="f32")
    assert chosen(manifest) == [(), ()]
    assert manifest.decisions == read_bundle(bundle).manifest.decisions
