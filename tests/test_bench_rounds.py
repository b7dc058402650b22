"""Rounds, concurrency and energy turns on candidates whose calls are counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.concurrency import measure_concurrency, request_counts
from edgeseg.bench.energy import find_meter
from edgeseg.bench.rounds import MIN_ROUNDS, measure_rounds
from edgeseg.bench.timing import interleave
from edgeseg.errors import UsageError
from edgeseg.workflows import _bench_measure
from edgeseg.workflows._bench_measure import Effort, measure_energy, measure_latencies


class Counting(Candidate):
    """Answers its inputs after a while, and tells a log that it was called."""

    version, how, precision, threads = "1", "by counting", "float32", 1

    def __init__(self, name: str, log: list[str], sleep_s: float = 0.0) -> None:
        self.name = name
        self.log = log
        self.sleep_s = sleep_s

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        self.log.append(self.name)
        time.sleep(self.sleep_s)
        return dict(tensors)

    def close(self) -> None: ...


def test_candidates_take_turns_and_each_block_opens_with_a_call_that_is_not_counted() -> None:
    log: list[str] = []
    seen: list[tuple[str, int, int]] = []
    calls = {name: lambda name=name: log.append(name) for name in "ABC"}
    found = measure_rounds(
        calls, rounds=4, block=3, warmup=2, progress=lambda *step: seen.append(step), stage="s"
    )
    assert "".join(log) == "AABBCC" + 4 * "AAAABBBBCCCC"
    assert [*found] == ["A", "B", "C"]
    assert [[len(one) for one in rounds] for rounds in found.values()] == 3 * [4 * [3]]
    assert seen == [("s", done, 4) for done in (1, 2, 3, 4)]


def test_samples_are_milliseconds_in_the_order_of_the_calls() -> None:
    sleeps = iter([0.0, *(0.012, 0.002) * 3])
    found = measure_rounds({"a": lambda: time.sleep(next(sleeps))}, rounds=1, block=6, warmup=0)
    (block,) = found["a"]
    slow, fast = np.array(block[::2]), np.array(block[1::2])
    # A sleep takes at least as long as it was asked to.
    assert (slow >= 12.0).all() and (fast >= 2.0).all()
    assert np.median(slow) > np.median(fast)


def test_a_duration_ends_after_the_round_in_which_it_is_reached() -> None:
    seen: list[tuple[int, int]] = []
    found = measure_rounds(
        {"a": lambda: time.sleep(0.01)},
        duration_s=0.2,
        block=1,
        warmup=0,
        progress=lambda stage, done, total: seen.append((done, total)),
    )
    # Two calls a round of at least 10 ms each.
    assert MIN_ROUNDS <= len(found["a"]) <= 10
    assert seen[-1] == (1, 1) and all(done < total for done, total in seen[:-1])
    assert len(measure_rounds({"a": int}, duration_s=1e-9)["a"]) == MIN_ROUNDS


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"rounds": 3, "duration_s": 1.0},
        {"rounds": 0},
        {"duration_s": 0.0},
        {"duration_s": float("nan")},
        {"duration_s": float("inf")},
    ],
)
def test_lengths_without_meaning_are_refused_before_any_call(arguments: dict[str, float]) -> None:
    log: list[int] = []
    with pytest.raises(UsageError):
        measure_rounds({"a": lambda: log.append(1)}, **arguments)
    assert not log


def test_interleave_gives_the_same_calls_in_one_list() -> None:
    log: list[int] = []
    timings = interleave({"a": lambda: log.append(1)}, rounds=3, block=2, warmup=1)
    assert timings["a"].samples_ms.shape == (6,) and len(log) == 1 + 3 * 3


def test_slow_candidates_get_shorter_blocks_of_a_duration_and_not_of_rounds() -> None:
    tensors = {"image": np.zeros(1, np.float32)}

    def blocks(effort: Effort, sleep_s: float) -> set[int]:
        one = Counting("one", [], sleep_s)
        found = measure_latencies([one], lambda one: tensors, effort, lambda *step: None)
        return {len(block) for block in found["one"]}

    assert blocks(Effort(None, 0.1), 0.01) == {2}
    assert blocks(Effort(None, 1.0), 0.0) == {5}
    assert blocks(Effort(3, None), 0.01) == {5}


def test_all_requests_are_in_flight_at_once() -> None:
    together = threading.Barrier(3, timeout=30)
    record = measure_concurrency(_once_together(together), requests=3, seconds=0.05)
    assert record.requests == 3 and record.fps > 0 and record.p50_ms >= 0
    assert not together.broken
    one = measure_concurrency(lambda: time.sleep(0.005), requests=1, seconds=0.1)
    assert 0 < one.fps <= 200 and one.p50_ms >= 5.0
    assert one.fps * one.p50_ms == pytest.approx(1000, rel=0.5)


def _once_together(barrier: threading.Barrier):
    """The first call of each thread but the main one waits for the others."""
    seen: set[int] = set()

    def call() -> None:
        ident = threading.get_ident()
        if ident != threading.main_thread().ident and ident not in seen:
            seen.add(ident)
            barrier.wait()

    return call


def test_an_error_in_any_request_ends_the_measurement() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("the fourth")

    start = time.perf_counter()
    with pytest.raises(RuntimeError, match="the fourth"):
        measure_concurrency(call, requests=2, seconds=60)
    assert time.perf_counter() - start < 30


def test_counts_of_requests() -> None:
    assert [request_counts(n) for n in (1, 2, 3, 8)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4, 8)]
    for wrong in (0, -1):
        with pytest.raises(UsageError):
            request_counts(wrong)
        with pytest.raises(UsageError):
            measure_concurrency(int, requests=wrong, seconds=1)


def test_energy_is_that_of_the_counted_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A RAPL counter that a candidate turns by what it spends."""
    package = tmp_path / "sys/class/powercap/intel-rapl:0"
    package.mkdir(parents=True)
    (package / "name").write_text("package-0\n")
    (package / "max_energy_range_uj").write_text("262143328850\n")
    counter = package / "energy_uj"
    counter.write_text("1000\n")
    meter, source = find_meter(tmp_path)
    assert meter is not None

    class Spending(Counting):
        def __init__(self, name: str, microjoules: int) -> None:
            super().__init__(name, [], 0.005)
            self.microjoules = microjoules

        def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
            counter.write_text(f"{int(counter.read_text()) + self.microjoules}\n")
            return super().infer(tensors)

    monkeypatch.setattr(_bench_measure, "ENERGY_S", 0.05)
    small, large = Spending("small", 2000), Spending("large", 5000)
    found = measure_energy([small, large], lambda one: {}, meter)
    assert found["small"].source == source
    # The call that is not counted spends too, before the meter is read.
    assert found["small"].mj_per_frame == pytest.approx(2.0)
    assert found["large"].mj_per_frame == pytest.approx(5.0)
    assert all(record.mean_w > 0 for record in found.values())
