"""Plans of a bundle: which variants are compiled, which are kept, and what is said of the others.

TensorRT and CUDA are stand-ins (``tensorrt_double``, ``cuda_double``): what is tested is what
edgeseg makes of their answers.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import tiny_bundle, with_variants
from cuda_double import FakeRuntime
from tensorrt_double import tensorrt_double

import edgeseg
from edgeseg import plans
from edgeseg.backends import EngineOptions, open_engine
from edgeseg.backends.base import Engine
from edgeseg.bundle import read_bundle
from edgeseg.cli import main
from edgeseg.errors import (
    BackendError,
    BackendUnavailableError,
    DeviceMemoryError,
    MissingDependencyError,
    PlanError,
    UsageError,
)

FRAME = np.random.default_rng(9).integers(0, 256, (50, 70, 3), dtype=np.uint8)


class Changed(Engine):
    """An engine whose answers are changed, and which takes its time."""

    def __init__(self, inner: Engine, change: Callable[[Any], Any], seconds: float) -> None:
        super().__init__(inner.inputs, inner.outputs, inner.info)
        self._inner, self._change, self._seconds = inner, change, seconds

    def _infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self._seconds)
        answers = self._inner.infer(inputs)
        return {name: self._change(answer) for name, answer in answers.items()}

    def _close(self) -> None:
        self._inner.close()


class Machine:
    """A GPU with TensorRT on it, and what each file becomes when it is compiled there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.changes: dict[str, Callable[[Any], Any]] = {}
        self.seconds: dict[str, float] = {}
        self.install()

    def install(self, version: str = "10.3.0", runtime: FakeRuntime | None = None) -> None:
        self.runtime = runtime or FakeRuntime()
        self.trt = tensorrt_double(version, self.runtime, compute=self._compute)
        self._patch.setitem(sys.modules, "tensorrt", self.trt)
        self._patch.setitem(sys.modules, "cuda.bindings.runtime", self.runtime)

    def _compute(self, path: Path) -> Engine:
        inner = open_engine(path, "openvino", EngineOptions(threads=1))
        name = path.stem
        change = self.changes.get(name, lambda answer: answer)
        return Changed(inner, change, self.seconds.get(name, 0.0))

    @property
    def built(self) -> int:
        return len(self.trt.builds)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("edgeseg.workflows.compile._TIMING_ROUNDS", 2)
    return Machine(monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return with_variants(tiny_bundle(tmp_path / "tiny.edgeseg"), "int8", "fp16", "fp16-safe")


def states(report: Any) -> dict[str, str]:
    return {plan.record.key.variant: plan.record.state for plan in report.plans.plans}


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def wrong(answer: Any) -> Any:
    return answer + np.linspace(-3, 3, answer.size, dtype=answer.dtype).reshape(answer.shape)


def test_int8_and_fp16_are_compiled_and_the_faster_is_kept(machine: Machine, bundle: Path) -> None:
    machine.seconds = {"int8": 0.01}
    before = content(bundle)
    report = edgeseg.build(bundle, backend="tensorrt")
    assert not report.built and states(report) == {"int8": "slower", "fp16": "kept"}
    assert content(bundle) == before
    chosen = report.plans.chosen
    assert chosen.record.key.variant == "fp16" and chosen.file.is_file()
    assert chosen.record.median_ms < 10 and chosen.record.relative_error < 1e-3
    assert json.loads(chosen.layers_file.read_text())["Layers"]
    (int8,) = (plan for plan in report.plans.plans if plan is not chosen)
    assert not int8.file.exists() and "fp16 takes" in int8.record.why
    assert not machine.trt.complaints


def test_what_is_open_is_the_plan_and_it_segments_like_the_cpu(
    machine: Machine, bundle: Path
) -> None:
    machine.seconds = {"int8": 0.01}
    edgeseg.build(bundle, backend="tensorrt")
    with edgeseg.open(bundle, backend="openvino", precision="fp32") as cpu:
        expected = cpu(FRAME)
    for choice in ({"backend": "tensorrt"}, {}, {"device": "gpu"}, {"device": "GPU.0"}):
        with edgeseg.open(bundle, **choice) as model:
            assert model.engine.info.backend == "tensorrt" and model.variant.name == "fp16"
            assert model.golden_figures.mask_agreement == 1.0
            found = model(FRAME)
        assert np.array_equal(found.mask, expected.mask)
        assert np.allclose(found.probability, expected.probability, atol=1e-6)
    with edgeseg.open(bundle, device="CPU") as model:
        assert model.engine.info.backend == "openvino"
    assert not machine.trt.complaints


def test_plans_that_do_not_fit_beside_each_other_are_timed_one_by_one(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.seconds = {"int8": 0.01}
    opened: list[Engine] = []

    def open_alone(*arguments: Any) -> Engine:
        if any(not engine._closed for engine in opened):
            raise DeviceMemoryError("the device has not enough memory")
        opened.append(plans.open_plan(*arguments))
        return opened[-1]

    monkeypatch.setattr("edgeseg.workflows.compile.open_plan", open_alone)
    report = edgeseg.build(bundle, backend="tensorrt")
    assert states(report) == {"int8": "slower", "fp16": "kept"}
    assert all(plan.record.median_ms for plan in report.plans.plans)


def test_a_plan_that_computes_something_else_is_set_aside_with_its_figures(
    machine: Machine, bundle: Path
) -> None:
    """FP16 falls out of its limits, as it does with overflowing scores: the safe form serves."""
    machine.changes = {"fp16": wrong, "int8": lambda answer: np.full_like(answer, np.nan)}
    report = edgeseg.build(bundle, backend="tensorrt")
    assert states(report) == {"int8": "rejected", "fp16": "rejected", "fp16-safe": "kept"}
    for plan in report.plans.plans[:2]:
        assert not plan.file.exists()
        assert (plan.folder / plans.REJECTED_FILE).stat().st_size == plan.record.plan_bytes
        assert "golden frames: relative error" in plan.record.why
        assert plans.read_plan(plan.folder).record.state == "rejected"
    text = "\n".join(report.plans.remarks())
    assert "int8 rejected: golden frames: relative error nan" in text
    with edgeseg.open(bundle) as model:
        assert model.variant.name == "fp16-safe"


def test_fp32_is_the_last_resort(machine: Machine, bundle: Path) -> None:
    machine.changes = dict.fromkeys(("int8", "fp16", "fp16-safe"), wrong)
    report = edgeseg.build(bundle, backend="tensorrt")
    assert states(report)["fp32"] == "kept" and len(report.plans.plans) == 4


def test_where_nothing_passes_the_reason_of_each_is_told(machine: Machine, bundle: Path) -> None:
    machine.changes = dict.fromkeys(("int8", "fp16", "fp16-safe", "fp32"), wrong)
    with pytest.raises(BackendError, match=r"int8 rejected: .*fp32 rejected: .*--backend openvino"):
        edgeseg.build(bundle, backend="tensorrt")
    with pytest.raises(PlanError, match=r"no plan of tiny\.edgeseg is in use here .*int8 rejected"):
        edgeseg.open(bundle, backend="tensorrt")
    with edgeseg.open(bundle) as model:
        assert model.engine.info.backend == "openvino"


def test_one_precision_is_compiled_or_fails(machine: Machine, bundle: Path) -> None:
    report = edgeseg.build(bundle, backend="tensorrt", precision="fp16-safe")
    assert states(report) == {"fp16-safe": "kept"}
    machine.changes = {"int8": wrong}
    with pytest.raises(BackendError, match="int8 rejected"):
        edgeseg.build(bundle, backend="tensorrt", precision="int8")
    with pytest.raises(UsageError, match="has no int4 variant"):
        edgeseg.build(bundle, backend="tensorrt", precision="int4")
    with edgeseg.open(bundle, backend="tensorrt", precision="fp16-safe") as model:
        assert model.variant.name == "fp16-safe"
    with pytest.raises(PlanError, match=r"tiny\.edgeseg \(fp32\)"):
        edgeseg.open(bundle, backend="tensorrt", precision="fp32")


def test_what_was_compiled_or_rejected_is_not_compiled_again_unless_asked(
    machine: Machine, bundle: Path
) -> None:
    machine.changes = {"int8": wrong}
    edgeseg.build(bundle, backend="tensorrt")
    assert machine.built == 2
    again = edgeseg.build(bundle, backend="tensorrt")
    assert machine.built == 2 and again.plans.reused == {"int8", "fp16"}
    assert states(again) == {"int8": "rejected", "fp16": "kept"}
    edgeseg.build(bundle, backend="tensorrt", rebuild=True)
    assert machine.built == 4


def test_a_variant_that_lost_is_compiled_when_it_is_asked_for_by_name(
    machine: Machine, bundle: Path
) -> None:
    machine.seconds = {"int8": 0.01}
    edgeseg.build(bundle, backend="tensorrt")
    edgeseg.build(bundle, backend="tensorrt", precision="int8")
    with edgeseg.open(bundle, backend="tensorrt", precision="int8") as model:
        assert model.variant.name == "int8"
    with edgeseg.open(bundle, backend="tensorrt") as model:
        assert model.variant.name == "fp16"


def test_a_failure_is_told_and_the_next_is_tried_and_tried_again_later(
    machine: Machine, bundle: Path
) -> None:
    machine.trt.faults.build = "Cuda Runtime (out of memory)"
    with pytest.raises(BackendError, match=r"int8 failed: .*memory"):
        edgeseg.build(bundle, backend="tensorrt")
    machine.trt.faults.build = ""
    report = edgeseg.build(bundle, backend="tensorrt")
    assert set(states(report).values()) == {"kept", "slower"}


def test_a_plan_of_another_version_or_driver_is_refused(machine: Machine, bundle: Path) -> None:
    edgeseg.build(bundle, backend="tensorrt")
    machine.install("10.16.1")
    with pytest.raises(PlanError, match=r"made for TensorRT 10\.3\.0 .*this is TensorRT 10\.16\.1"):
        edgeseg.open(bundle, backend="tensorrt")
    machine.install("10.3.0", FakeRuntime(driver=13020))
    with pytest.raises(PlanError, match=r"driver for CUDA 13\.0.*driver for CUDA 13\.2"):
        edgeseg.open(bundle, backend="tensorrt")


def test_auto_says_why_it_leaves_a_plan_aside(
    machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = edgeseg.build(bundle, backend="tensorrt")
    report.plans.chosen.file.write_bytes(b"")
    with pytest.raises(PlanError, match="0 bytes"):
        edgeseg.open(bundle, backend="tensorrt")
    with edgeseg.open(bundle) as model:
        assert model.engine.info.backend == "openvino"
    assert "auto leaves TensorRT aside" in caplog.text


def test_a_changed_driver_that_miscomputes_is_found_when_the_plan_is_opened(
    machine: Machine, bundle: Path
) -> None:
    from edgeseg.errors import GoldenMismatchError

    edgeseg.build(bundle, backend="tensorrt", precision="fp16")
    machine.changes = {"fp16": wrong}
    with pytest.raises(GoldenMismatchError, match=r"fp16 on tensorrt 10\.3\.0"):
        edgeseg.open(bundle, backend="tensorrt")


@pytest.mark.parametrize(
    ("prepare", "error", "says"),
    [
        (lambda m: m.install("10.4.0"), BackendUnavailableError, "miscompile"),
        (lambda m: m.install("8.6.2"), BackendUnavailableError, "too old"),
        (lambda m: m.install(runtime=FakeRuntime(driver=0)), BackendUnavailableError, "driver"),
        (lambda m: m.install(runtime=FakeRuntime(devices=0)), BackendUnavailableError, "device"),
        (lambda m: m._patch.setitem(sys.modules, "tensorrt", None), MissingDependencyError, "pip"),
        (
            lambda m: m._patch.setitem(sys.modules, "cuda.bindings.runtime", None),
            MissingDependencyError,
            "pip",
        ),
    ],
    ids=["10.4", "8.6", "no driver", "no device", "no TensorRT", "no cuda-bindings"],
)
def test_what_a_machine_lacks_is_one_line_before_any_work(
    machine: Machine,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[Machine], None],
    error: type[Exception],
    says: str,
) -> None:
    prepare(machine)
    before = content(bundle)
    with pytest.raises(error, match=says):
        edgeseg.build(bundle, backend="tensorrt")
    assert main(["build", str(bundle), "--backend", "tensorrt"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and says in lines[0]
    assert content(bundle) == before


def test_an_unsupported_operator_is_named_on_one_line(
    machine: Machine, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.trt.faults.unsupported = ("Conv",)
    before = content(bundle)
    assert main(["build", str(bundle), "--backend", "tensorrt", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "Conv" in error and "Traceback" not in error and content(bundle) == before


def test_the_command_passes_the_compilers_options_on(
    machine: Machine, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--workspace-mib", "64", "--optimization-level", "4", "--max-aux-streams", "1"]
    arguments = ["build", str(bundle), "--backend", "tensorrt", "--precision", "fp16", *options]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "fp16" in shown and "in use on TensorRT 10.3.0" in shown and "plan.engine" in shown
    (build,) = machine.trt.builds
    assert (build["level"], build["streams"]) == (4, 1)
    assert build["limits"] == {"WORKSPACE": 64 << 20}
    (plan,) = plans.list_plans(read_bundle(bundle))
    assert plan.record.key.options["workspace_mib"] == 64


@pytest.mark.parametrize(
    "option", ["--precision=fp16", "--workspace-mib=9", "--dla=0", "--rebuild"]
)
def test_options_of_plans_need_the_backend(
    bundle: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["build", str(bundle), option]) == 2
    assert "--backend tensorrt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "says"),
    [("--force", "--rebuild"), ("--threads=2", "--threads"), ("--method=mse", "add --int8")],
)
def test_options_that_a_plan_has_no_use_for_are_refused(
    machine: Machine, bundle: Path, capsys: pytest.CaptureFixture[str], option: str, says: str
) -> None:
    assert main(["build", str(bundle), "--backend", "tensorrt", option]) == 2
    assert says in capsys.readouterr().err and machine.built == 0


def test_a_dla_core_that_is_not_there_is_refused(machine: Machine, bundle: Path) -> None:
    arguments = ["build", str(bundle), "--backend", "tensorrt", "--dla", "0"]
    assert main(arguments) == 1
    assert not plans.list_plans(read_bundle(bundle))


def test_a_bundle_that_is_built_for_tensorrt_is_compiled_as_well(
    machine: Machine, tmp_path: Path
) -> None:
    source = tiny_bundle(tmp_path / "source.edgeseg")
    target = tmp_path / "target.edgeseg"
    report = edgeseg.build(source, output=target, fp16=True, classes=["polyp"], backend="tensorrt")
    assert report.built and report.path == target
    assert {v.name for v in report.manifest.variants} == {"fp32", "fp16", "fp16-safe"}
    assert states(report) == {"fp16": "kept"}
    assert {record.backend for record in report.manifest.latencies} >= {"openvino"}
    with edgeseg.open(target) as model:
        assert model.engine.info.backend == "tensorrt" and model.variant.name == "fp16"
    assert not plans.has_plans(read_bundle(source))


def test_without_a_gpu_nothing_is_built(machine: Machine, tmp_path: Path) -> None:
    machine.install(runtime=FakeRuntime(devices=0))
    source = tiny_bundle(tmp_path / "source.edgeseg")
    target = tmp_path / "target.edgeseg"
    with pytest.raises(BackendUnavailableError):
        edgeseg.build(source, output=target, fp16=True, backend="tensorrt")
    assert not target.exists()
