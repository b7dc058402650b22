"""Threads: order, bounds, errors without hanging, and what overlapping gains."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import DataError, TruncatedVideoError
from edgeseg.video import Stage, run_pipeline
from edgeseg.video.channel import AbandonedError, Channel, EndedError, Switch
from edgeseg.video.timing import Spread

TIMEOUT_S = 20.0


def within(seconds: float, job: Callable[[], Any]) -> Any:
    """Result of ``job``, or a failed test if it does not end in time."""
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(job())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the pipeline hangs"
    if failure:
        raise failure[0]
    return outcome[0]


def pipeline_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("edgeseg ")]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("slots", [1, 2])
def test_order_is_kept_whatever_the_workers_take(workers: int, slots: int) -> None:
    rng = random.Random(workers)

    def work(item: int) -> int:
        time.sleep(rng.random() * 0.003)
        return item * 10

    seen: list[int] = []
    report = within(
        TIMEOUT_S,
        lambda: run_pipeline(
            range(80),
            [
                Stage("a", work, workers),
                Stage("b", lambda item: item + 1),
                Stage("c", work, workers),
            ],
            seen.append,
            slots=slots,
        ),
    )
    assert seen == [(i * 10 + 1) * 10 for i in range(80)]
    assert report.frames == 80
    assert [s.frames for s in report.stages] == [80] * 5
    assert pipeline_threads() == []


def test_an_empty_source_and_no_stages() -> None:
    seen: list[int] = []
    assert within(TIMEOUT_S, lambda: run_pipeline([], [], seen.append)).frames == 0
    assert within(TIMEOUT_S, lambda: run_pipeline([1, 2], [], seen.append)).frames == 2
    assert seen == [1, 2]


class SomethingBrokeError(Exception):
    pass


def failing_at(count: int) -> Callable[[Any], Any]:
    calls = iter(range(10**9))
    lock = threading.Lock()

    def work(item: Any) -> Any:
        with lock:
            number = next(calls)
        if number == count:
            raise SomethingBrokeError(f"call {count}")
        return item

    return work


@pytest.mark.parametrize("place", ["source", "first", "second", "write"])
@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_anywhere_stops_everything_and_is_raised(
    place: str, count: int, workers: int
) -> None:
    def endless() -> Iterator[int]:
        fail = failing_at(count) if place == "source" else (lambda item: item)
        for i in range(10**9):
            yield fail(i)

    ok = lambda item: item  # noqa: E731
    first = failing_at(count) if place == "first" else ok
    second = failing_at(count) if place == "second" else ok
    write = failing_at(count) if place == "write" else ok
    with pytest.raises(SomethingBrokeError, match=f"call {count}"):
        within(
            TIMEOUT_S,
            lambda: run_pipeline(
                endless(), [Stage("first", first, workers), Stage("second", second, workers)], write
            ),
        )
    assert pipeline_threads() == []


@pytest.mark.parametrize("slow", ["source", "stage"])
def test_an_error_reaches_the_caller_while_others_are_busy(slow: str) -> None:
    def source() -> Iterator[int]:
        for i in range(1000):
            if slow == "source" and i:
                time.sleep(0.05)
            yield i

    def stage(item: int) -> int:
        if slow == "stage" and item:
            time.sleep(0.05)
        return item

    with pytest.raises(SomethingBrokeError):
        within(TIMEOUT_S, lambda: run_pipeline(source(), [Stage("stage", stage)], failing_at(1)))
    assert pipeline_threads() == []


def test_an_interrupt_in_the_writer_stops_everything() -> None:
    def write(item: int) -> None:
        if item == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        within(
            TIMEOUT_S,
            lambda: run_pipeline(iter(range(10**9)), [Stage("a", lambda i: i)], write),
        )
    assert pipeline_threads() == []


def test_ctrl_c_stops_a_pipeline_whose_stages_are_busy() -> None:
    # In a process of its own: the signal goes to the main thread, and a hang must not take the
    # test run with it.
    program = """
import _thread, signal, threading, time
from edgeseg.video import Stage, run_pipeline

# A job in the background starts with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def slow(item):
    if item == 2:
        _thread.interrupt_main()
    time.sleep(0.2)
    return item

try:
    run_pipeline(iter(range(10**9)), [Stage("slow", slow)], lambda item: None)
except KeyboardInterrupt:
    left = [t for t in threading.enumerate() if t.name.startswith("edgeseg")]
    raise SystemExit(7 if not left else 8)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 7


def test_the_source_is_closed_when_a_stage_fails() -> None:
    closed: list[bool] = []

    def source() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.append(True)

    with pytest.raises(SomethingBrokeError):
        within(TIMEOUT_S, lambda: run_pipeline(source(), [], failing_at(5)))
    assert closed == [True]


@pytest.mark.parametrize("kind", [TruncatedVideoError, DataError])
def test_what_was_read_before_the_source_broke_off_is_written(kind: type[DataError]) -> None:
    def source() -> Iterator[int]:
        yield from range(17)
        raise kind("breaks off")

    def slowly(item: int) -> int:
        time.sleep(0.002)
        return item

    seen: list[int] = []
    report = within(TIMEOUT_S, lambda: run_pipeline(source(), [Stage("a", slowly, 2)], seen.append))
    assert seen == list(range(17))
    assert report.frames == 17
    assert type(report.ended_by) is kind


def test_memory_does_not_grow_with_the_length() -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0
    lock = threading.Lock()

    class Picture:
        def __init__(self) -> None:
            self.pixels = np.zeros(1000, np.uint8)

    def source() -> Iterator[Picture]:
        nonlocal most
        for _ in range(300):
            picture = Picture()
            with lock:
                alive.add(picture)
                most = max(most, len(alive))
            yield picture
            del picture

    def write(item: Picture) -> None:
        time.sleep(0.0005)

    slots, stages = 2, 3
    within(
        TIMEOUT_S,
        lambda: run_pipeline(
            source(), [Stage(str(i), lambda item: item) for i in range(stages)], write, slots=slots
        ),
    )
    gc.collect()
    # Between two stages ``slots``; each thread holds one; the source has made one more.
    assert most <= slots * (stages + 1) + stages + 2 + 1
    assert len(alive) == 0


def test_a_slow_stage_is_overlapped_by_the_others() -> None:
    # Sleeping stands for work on other cores or devices, so the figure does not hang on this one.
    step_s = 0.01

    def sleep(item: int) -> int:
        time.sleep(step_s)
        return item

    def source() -> Iterator[int]:
        for i in range(60):
            time.sleep(step_s * 0.6)
            yield i

    report = within(
        TIMEOUT_S,
        lambda: run_pipeline(
            source(), [Stage("engine", sleep)], lambda item: time.sleep(step_s * 0.6)
        ),
    )
    engine = next(s for s in report.stages if s.name == "engine")
    # Alone the engine does 1000 / busy_ms frames a second; one after the other it would be 45 %.
    share = report.fps * engine.busy_ms_mean / 1000
    assert 0.8 <= share <= 1.0


def test_workers_of_a_stage_overlap() -> None:
    def sleep(item: int) -> int:
        time.sleep(0.02)
        return item

    report = within(
        TIMEOUT_S, lambda: run_pipeline(range(40), [Stage("a", sleep, 4)], lambda item: None)
    )
    # One worker would need 0.8 s.
    assert report.wall_s < 0.5


def test_reports_tell_waiting_from_work() -> None:
    def busy(item: int) -> int:
        end = time.thread_time() + 0.004
        while time.thread_time() < end:
            pass
        return item

    def sleep(item: int) -> int:
        time.sleep(0.006)
        return item

    report = within(
        TIMEOUT_S,
        lambda: run_pipeline(
            range(25), [Stage("busy", busy), Stage("sleep", sleep)], lambda item: None
        ),
    )
    stages = {s.name: s for s in report.stages}
    assert list(stages) == ["decode", "busy", "sleep", "encode"]
    assert 4.0 <= stages["busy"].cpu_ms_mean < 6.0
    assert stages["sleep"].cpu_ms_mean < 2.0
    assert stages["sleep"].busy_ms_p50 >= 6.0
    assert stages["sleep"].busy_ms_p50 <= stages["sleep"].busy_ms_p95
    assert report.process_cpu_ms >= 4.0


def test_a_channel_hands_over_in_order_and_ends() -> None:
    channel: Channel[str] = Channel(3, Switch())
    channel.put(2, "c")
    channel.put(0, "a")
    channel.put(1, "b")
    channel.end(3)
    assert [channel.get() for _ in range(3)] == [(0, "a"), (1, "b"), (2, "c")]
    with pytest.raises(EndedError):
        channel.get()


def test_a_thrown_switch_wakes_both_sides() -> None:
    switch = Switch()
    full: Channel[int] = Channel(1, switch)
    full.put(0, 0)
    empty: Channel[int] = Channel(1, switch)
    woken: list[str] = []

    def waiting(name: str, job: Callable[[], Any]) -> None:
        try:
            job()
        except AbandonedError:
            woken.append(name)

    threads = [
        threading.Thread(target=waiting, args=("put", lambda: full.put(1, 1)), daemon=True),
        threading.Thread(target=waiting, args=("get", empty.get), daemon=True),
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    switch.throw(SomethingBrokeError())
    switch.throw(KeyError())
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert sorted(woken) == ["get", "put"]
    assert isinstance(switch.error, SomethingBrokeError)


def test_percentiles_of_times() -> None:
    rng = np.random.default_rng(0)
    times = np.exp(rng.normal(2.0, 1.0, 5000))
    spread = Spread()
    for value in times:
        spread.add(float(value))
    assert spread.count == 5000
    assert spread.mean_ms == pytest.approx(times.mean())
    for percent in (1, 50, 95, 99, 100):
        expected = np.percentile(times, percent, method="inverted_cdf")
        assert spread.percentile_ms(percent) == pytest.approx(expected, rel=0.006)
    assert Spread().percentile_ms(50) == 0.0
    extremes = Spread()
    extremes.add(0.0)
    extremes.add(1e12)
    assert extremes.percentile_ms(50) == 0.0
