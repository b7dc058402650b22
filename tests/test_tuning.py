"""Calibration of threads: what is offered, what wins, and what is kept."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import tiny_bundle, tiny_onnx

import edgeseg
from edgeseg import _processors, tuning
from edgeseg._processors import busy_s, processors
from edgeseg.backends import Engine, EngineInfo, EngineOptions, available_backends
from edgeseg.errors import BackendError, OutputError
from edgeseg.spec import TensorSpec
from edgeseg.tuning import LIBRARY_DEFAULT, Machine, Placing, Subject, candidates, kept, tune
from edgeseg.workflows import _opening
from edgeseg.workflows._opening import FRAMES_WORTH_TUNING, open_for_job

BACKENDS = available_backends()


def machine(logical: int, cores: int, efficient: int = 0, quota: float | None = None) -> Machine:
    numbers = tuple(range(logical))
    return Machine("a processor", numbers, cores, numbers[logical - efficient :], quota)


PLAIN = machine(4, 4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return Subject(tmp_path / "a.onnx", ("ab" * 32,), "openvino", EngineOptions())


class Bench:
    """Engines that take ``cost_s`` of a clock of their own."""

    def __init__(self, cost_s: Callable[[EngineOptions], float], parallel: int = 1) -> None:
        self.cost_s = cost_s
        self.parallel = parallel
        self.now = 0.0
        self.open = self.most_open = 0
        self.runs: dict[Placing, int] = {}
        self.lock = threading.Lock()

    def clock(self) -> float:
        return self.now

    def open_engine(self, path: Path, backend: str, options: EngineOptions) -> Engine:
        return _TimedEngine(self, options)

    def tune(self, subject: Subject, machine: Machine = PLAIN, **more: Any) -> tuning.Tuned:
        settings: dict[str, Any] = {"clock": self.clock, "others_s": lambda: 0.0}
        return tune(subject, machine=machine, open_engine=self.open_engine, **settings | more)


class _TimedEngine(Engine):
    def __init__(self, bench: Bench, options: EngineOptions) -> None:
        super().__init__(
            (TensorSpec("image", "float32", (1, 2), "NC"),),
            (TensorSpec("logits", "float32", (1, 2), "NC"),),
            EngineInfo("openvino", "1", "CPU", "a processor", options.threads or 4, "f32"),
            1 if options.hint == "latency" else options.threads or bench.parallel,
        )
        self.bench = bench
        self.options = options
        bench.open += 1
        bench.most_open = max(bench.most_open, bench.open)

    def _infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        placing = placing_of(self.options)
        with self.bench.lock:  # several requests may be under way; their times add up
            self.bench.runs[placing] = self.bench.runs.get(placing, 0) + 1
            self.bench.now += self.bench.cost_s(self.options)
        return {"logits": inputs["image"].copy()}

    def _close(self) -> None:
        self.bench.open -= 1


def placing_of(options: EngineOptions) -> Placing:
    return Placing(options.threads, options.pinning, options.hyper_threading, options.core_type)


# --- what is offered -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "hint", "default", "here", "expected"),
    [
        ("openvino", "latency", 1, machine(1, 1), []),
        ("onnxruntime", "latency", 1, machine(1, 1), []),
        ("openvino", "latency", 2, machine(2, 2), [Placing(1), Placing(pinning=False)]),
        ("onnxruntime", "latency", 2, machine(2, 2), [Placing(1), Placing(pinning=True)]),
        ("openvino", "throughput", 2, machine(2, 2), [Placing(pinning=False)]),
        ("onnxruntime", "throughput", 2, machine(2, 2), []),
        (
            "openvino",
            "latency",
            4,
            machine(8, 4),
            [Placing(1), Placing(8, hyper_threading=True), Placing(pinning=False)],
        ),
        (
            "onnxruntime",
            "latency",
            8,
            machine(8, 4),
            [Placing(1), Placing(4), Placing(pinning=True)],
        ),
        (
            "openvino",
            "latency",
            6,
            machine(16, 10, efficient=4),
            [
                Placing(1),
                Placing(10),
                Placing(16, hyper_threading=True),
                Placing(core_type="performance"),
                Placing(pinning=False),
            ],
        ),
        # A container that may use two processors' worth of time of 64.
        (
            "openvino",
            "latency",
            32,
            machine(64, 32, quota=1.5),
            [Placing(1), Placing(2), Placing(pinning=False)],
        ),
        ("onnxruntime", "throughput", 64, machine(64, 32, quota=0.5), [Placing(1)]),
    ],
)
def test_candidates_are_those_that_make_sense(
    backend: Any, hint: Any, default: int, here: Machine, expected: list[Placing]
) -> None:
    assert list(candidates(backend, hint, default, here)) == expected


def test_processors_belong_to_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_processors, "usable_processors", lambda: (0, 1, 2, 4, 5))
    for number, siblings in enumerate(("0-1", "0-1", "2-3", "2-3", "4", "5")):
        topology = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{siblings}\n")
    found = processors(tmp_path)
    assert (found.numbers, found.cores, found.efficient) == ((0, 1, 2, 4, 5), 4, ())
    assert not found.hybrid
    atoms = tmp_path / "sys/devices/cpu_atom"
    atoms.mkdir()
    (atoms / "cpus").write_text("4-5,7\n")
    assert processors(tmp_path).efficient == (4, 5) and processors(tmp_path).hybrid
    (atoms / "cpus").write_text("what?\n")
    assert processors(tmp_path).efficient == ()
    # A system that tells nothing: each processor is a core.
    assert processors(tmp_path / "nothing").cores == 5


# --- what wins -----------------------------------------------------------------------------------


def test_the_fastest_way_wins(subject: Subject) -> None:
    costs = {Placing(1): 0.005, Placing(8, hyper_threading=True): 0.009}
    bench = Bench(lambda options: costs.get(placing_of(options), 0.010))
    tuned = bench.tune(subject, machine(8, 4))
    assert tuned.placing == Placing(1)
    assert tuned.speedup == pytest.approx(2.0)
    assert "1 thread: 2.00 times as fast" in tuned.why
    assert bench.open == 0 and bench.most_open == 2


@pytest.mark.parametrize(("gain", "taken"), [(0.02, False), (0.05, True)])
def test_what_is_hardly_faster_is_not_taken(subject: Subject, gain: float, taken: bool) -> None:
    bench = Bench(lambda options: 0.010 * (1 - gain * (options.pinning is False)))
    tuned = bench.tune(subject)
    assert tuned.placing == (Placing(pinning=False) if taken else LIBRARY_DEFAULT)
    if not taken:
        assert tuned.speedup == 1.0 and "library's default: none of 2" in tuned.why


@pytest.mark.parametrize("slow", [False, True])
def test_noise_does_not_win(subject: Subject, slow: bool) -> None:
    chosen = []
    for seed in range(40):
        rng = random.Random(seed)
        # A slow graph has the fewest rounds, and the most luck.
        cost = 1.0 if slow else 0.01
        bench = Bench(lambda options, rng=rng, cost=cost: cost * rng.uniform(0.8, 1.25))
        chosen.append(bench.tune(subject).placing)
    assert sum(placing != LIBRARY_DEFAULT for placing in chosen) <= 3


def test_a_clear_gain_shows_through_noise(subject: Subject) -> None:
    for seed in range(20):
        rng = random.Random(seed)

        def cost(options: EngineOptions, rng: random.Random = rng) -> float:
            return 0.01 * rng.uniform(0.9, 1.1) * (0.7 if options.pinning is False else 1.0)

        assert Bench(cost).tune(subject).placing == Placing(pinning=False)


def test_the_budget_is_kept_and_hopeless_ways_cost_little(subject: Subject) -> None:
    bench = Bench(lambda options: 0.040 if options.threads == 1 else 0.010)
    bench.tune(subject, budget_s=2.0)
    assert bench.now < 2.0
    assert bench.runs[Placing(1)] <= 5
    assert bench.runs[Placing(pinning=False)] > 40


def test_slow_graphs_get_the_fewest_rounds(subject: Subject) -> None:
    bench = Bench(lambda options: 5.0)
    tuned = bench.tune(subject, budget_s=2.0)
    assert tuned.placing == LIBRARY_DEFAULT and tuned.rounds == 20


def test_throughput_is_compared_by_the_frame(subject: Subject) -> None:
    # A round of the default is two frames, one of eight threads is eight, and takes longer.
    several = dataclasses.replace(subject, options=EngineOptions(hint="throughput"))
    bench = Bench(lambda options: 0.008 if options.threads == 8 else 0.010, parallel=2)
    tuned = bench.tune(several, machine(8, 4))
    assert tuned.placing == Placing(8, hyper_threading=True)
    assert tuned.speedup == pytest.approx(0.010 / 0.008, rel=1e-3)


def test_a_way_that_cannot_be_opened_is_left_out(subject: Subject) -> None:
    bench = Bench(lambda options: 0.010)

    def open_engine(path: Path, backend: str, options: EngineOptions) -> Engine:
        if options.threads == 1:
            raise BackendError("not so")
        return bench.open_engine(path, backend, options)

    tuned = tune(
        subject,
        machine=PLAIN,
        clock=bench.clock,
        others_s=lambda: None,
        open_engine=open_engine,
    )
    assert tuned.placing == LIBRARY_DEFAULT and "none of 1 other" in tuned.why
    assert bench.open == 0


@pytest.mark.parametrize(("share", "taken"), [(0.1, True), (0.5, False)])
def test_nothing_is_concluded_beside_other_programs(
    subject: Subject, share: float, taken: bool
) -> None:
    bench = Bench(lambda options: 0.005 if options.pinning is False else 0.010)
    # Four processors, of whose time the others take this share.
    tuned = bench.tune(subject, others_s=lambda: 100.0 + 4 * share * bench.now)
    if taken:
        assert tuned.placing == Placing(pinning=False) and kept(subject, PLAIN) == tuned
    else:
        assert tuned.placing == LIBRARY_DEFAULT and "took 50% of the processors" in tuned.why
        assert kept(subject, PLAIN) is None


def test_where_there_is_no_other_way_the_default_stays(subject: Subject) -> None:
    bench = Bench(lambda options: 0.010)
    several = dataclasses.replace(subject, options=EngineOptions(hint="throughput", threads=1))
    tuned = bench.tune(several, machine(1, 1), others_s=lambda: 100.0 * bench.now)
    assert kept(several, machine(1, 1)) == tuned
    assert tuned.placing == LIBRARY_DEFAULT and "no other way" in tuned.why


def test_the_work_of_processors_is_read_from_the_system(tmp_path: Path) -> None:
    tick = 1.0 / os.sysconf("SC_CLK_TCK")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\n"
        "cpu0 100 20 30 5000 60 7 8 9 11 12\n"
        "cpu1 1 1 1 1 1 1 1 1 1 1\n"
        "cpu10 1000 0 0 0 0 0 0 0 0 0\n"
        "intr 1 2\n"
    )
    # Guests count as users already; waiting for disks is no work.
    assert busy_s((0,), tmp_path) == pytest.approx(174 * tick)
    assert busy_s((0, 10), tmp_path) == pytest.approx(1174 * tick)
    assert busy_s((0, 3), tmp_path) is None
    assert busy_s((0,), tmp_path / "nothing") is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system tells no work")
def test_work_adds_up() -> None:
    own = _processors.usable_processors()
    before = busy_s(own)
    deadline = time.monotonic() + 10
    while busy_s(own) == before and time.monotonic() < deadline:
        sum(range(10_000))
    assert before is not None and busy_s(own) > before


# --- what is kept --------------------------------------------------------------------------------


@pytest.fixture
def answer(subject: Subject) -> tuning.Tuned:
    tuned = Bench(lambda options: 0.005 if options.pinning is False else 0.010).tune(subject)
    assert tuned.placing == Placing(pinning=False)
    return tuned


def test_answers_are_kept_also_the_default(subject: Subject, answer: tuning.Tuned) -> None:
    assert kept(subject, PLAIN) == answer
    other = dataclasses.replace(subject, sha256=("cd" * 32,))
    assert kept(other, PLAIN) is None
    default = Bench(lambda options: 0.010).tune(other)
    assert kept(other, PLAIN) == default and default.placing == LIBRARY_DEFAULT
    assert kept(subject, PLAIN) == answer


def test_answers_hold_for_what_they_were_found_for(
    subject: Subject, answer: tuning.Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = dataclasses.replace
    for other in (
        replace(subject, sha256=(*subject.sha256, "12" * 32)),
        replace(subject, options=EngineOptions(hint="throughput")),
        replace(subject, options=EngineOptions(inputs=("image",))),
        replace(subject, options=EngineOptions(outputs=("logits",))),
        replace(subject, options=EngineOptions(batch=1)),
    ):
        assert kept(other, PLAIN) is None
    for here in (
        replace(PLAIN, cpu="another"),
        replace(PLAIN, processors=(0, 1, 2)),
        replace(PLAIN, processors=(1, 2, 3, 4)),
        replace(PLAIN, cores=2),
        replace(PLAIN, efficient=(3,)),
        replace(PLAIN, quota=2.0),
    ):
        assert kept(subject, here) is None
    # Where the file lies, and what else the engine is told, does not matter.
    moved = replace(subject, file=Path("elsewhere.onnx"), options=EngineOptions(profile=True))
    assert kept(moved, PLAIN) == answer
    for name in ("backend_version", "__version__"):
        with monkeypatch.context() as patched:
            patched.setattr(tuning, name, (lambda backend: "0") if name[0] == "b" else "0.0")
            assert kept(subject, PLAIN) is None
    assert kept(subject, PLAIN) == answer


def _changed(text: str, **tuned: Any) -> str:
    record = json.loads(text)
    record["tuned"]["placing"] |= tuned
    return json.dumps(record)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "\0\xff" * 50,
        lambda text: "[]",
        lambda text: "[" * 60_000,
        lambda text: text + " " * (1 << 16),
        lambda text: text.replace('"tuned"', '"turned"'),
        lambda text: text.replace("ab" * 32, "cd" * 32),
        lambda text: _changed(text, threads=0),
        lambda text: _changed(text, threads=5),
        lambda text: _changed(text, threads=True),
        lambda text: _changed(text, pinning="no"),
        lambda text: _changed(text, core_type="fast"),
    ],
)
def test_a_spoilt_file_is_no_answer_and_is_replaced(
    subject: Subject,
    answer: tuning.Tuned,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[str], str],
) -> None:
    (path,) = (cache / "tuning").iterdir()
    path.write_text(spoil(path.read_text()), encoding="latin-1")
    with caplog.at_level(logging.WARNING):
        assert kept(subject, PLAIN) is None
    assert str(path) in caplog.text
    Bench(lambda options: 0.005 if options.pinning is False else 0.010).tune(subject)
    assert kept(subject, PLAIN) == answer
    assert [*path.parent.iterdir()] == [path]


def test_a_folder_in_its_place_is_no_answer(
    subject: Subject, answer: tuning.Tuned, cache: Path
) -> None:
    (path,) = (cache / "tuning").iterdir()
    path.unlink()
    path.mkdir()
    assert kept(subject, PLAIN) is None


def test_a_cache_that_cannot_be_written_is_found_before_anything_runs(
    subject: Subject, cache: Path
) -> None:
    cache.write_text("a file")
    bench = Bench(lambda options: 0.010)
    with pytest.raises(OutputError, match="EDGESEG_CACHE"):
        bench.tune(subject)
    assert bench.runs == {} and kept(subject, PLAIN) is None


# --- models and jobs -----------------------------------------------------------------------------


def test_only_engines_on_the_cpu_of_which_nothing_was_said_are_tuned(tmp_path: Path) -> None:
    def tunable(backend: Any, **options: Any) -> bool:
        return tuning.subject(tmp_path, ("",), backend, EngineOptions(**options)) is not None

    assert all(tunable(backend) for backend in ("openvino", "onnxruntime"))
    assert tunable("openvino", hint="throughput", outputs=("logits",))
    assert not tunable("tensorrt", device="GPU")
    for options in (
        {"device": "GPU"},
        {"threads": 2},
        {"pinning": False},
        {"hyper_threading": True},
        {"core_type": "any"},
    ):
        assert not tunable("openvino", **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_real_engines_are_tuned(
    tmp_path: Path, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_onnx(tmp_path / "tiny.onnx")
    hash_ = ("ef" * 32,)
    monkeypatch.setattr(
        tuning, "candidates", lambda *arguments: (Placing(1), Placing(pinning=False))
    )
    for hint in ("latency", "throughput"):
        options = EngineOptions(hint=hint)  # type: ignore[arg-type]
        found = tune(
            Subject(tmp_path / "tiny.onnx", hash_, backend, options),
            budget_s=0.02,
            others_s=lambda: 0.0,
        )
        assert found.rounds >= 3 and np.isfinite(found.speedup)
        assert kept(Subject(tmp_path / "moved.onnx", hash_, backend, options)) == found


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny.edgeseg")


def unpinned(monkeypatch: pytest.MonkeyPatch) -> list[Subject]:
    """Lets calibrations find that threads are not to be pinned; what was calibrated."""
    asked: list[Subject] = []

    def found(subject: Subject) -> tuning.Tuned:
        asked.append(subject)
        monkeypatch.setattr(tuning, "candidates", lambda *a: (Placing(pinning=False),))
        return Bench(lambda options: 0.005 if options.pinning is False else 0.010).tune(
            subject, tuning.this_machine()
        )

    monkeypatch.setattr(_opening, "tune", found)
    return asked


def pinned(model: edgeseg.Model) -> bool:
    compiled = model.engine._compiled  # type: ignore[attr-defined]
    return bool(compiled.get_property("ENABLE_CPU_PINNING"))


@pytest.mark.skipif("openvino" not in BACKENDS, reason="OpenVINO is not installed")
def test_a_long_job_calibrates_once_and_later_ones_use_it(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = unpinned(monkeypatch)
    calls: list[tuple[str, int, int]] = []
    long, short = FRAMES_WORTH_TUNING, FRAMES_WORTH_TUNING - 1

    def job(frames: int, **options: Any) -> bool:
        with open_for_job(
            bundle, frames, progress=lambda *call: calls.append(call), **options
        ) as model:
            return pinned(model)

    usual = job(short)
    assert job(0) == usual and asked == []
    assert job(long, threads=1) == job(short, threads=1) and asked == []
    with caplog.at_level(logging.INFO):
        assert not job(long)
    assert len(asked) == 1 and calls == [("calibrate threads", i, 1) for i in range(2)]
    assert "calibrated for this machine: not pinned to cores: 2.00 times" in caplog.text
    # From now on ``open`` knows, and nobody calibrates again.
    assert not job(long) and not job(short) and len(asked) == 1
    with edgeseg.open(bundle) as model:
        assert not pinned(model) and model.tuning_subject is not None
    with edgeseg.open(bundle, threads=1) as model:
        assert model.tuning_subject is None
    # Another way to run is another question.
    assert not job(long, hint="throughput") and len(asked) == 2


@pytest.mark.skipif("openvino" not in BACKENDS, reason="OpenVINO is not installed")
def test_opening_never_calibrates(bundle: Path, cache: Path) -> None:
    with edgeseg.open(bundle):
        assert not cache.exists()


@pytest.mark.skipif("openvino" not in BACKENDS, reason="OpenVINO is not installed")
@pytest.mark.skipif(os.name != "posix", reason="folders are closed otherwise")
def test_a_job_goes_on_where_nothing_can_be_kept(
    bundle: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file")
    with caplog.at_level(logging.WARNING), open_for_job(bundle, FRAMES_WORTH_TUNING) as model:
        assert model(np.zeros((40, 50, 3), np.uint8)).mask.shape == (40, 50)
    assert "threads are not calibrated" in caplog.text
