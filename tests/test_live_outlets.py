"""Outlets: sinks that are slow, hang, vanish or fail hold up nothing, and every picture is counted.

The sinks here are stand-ins, since what matters is when they return and what they raise.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown_pictures import shown

from edgeseg.errors import OutputError, SinkLostError, UsageError
from edgeseg.live.base import LiveSink, Shown, SinkPolicy
from edgeseg.live.outlets import Outlet, Outlets

PATIENCE_S = 30.0
"""Against hanging; a busy machine may take seconds for what takes microseconds."""

PICTURE = shown(0)


def numbered(number: int) -> Shown:
    """Cheap pictures that differ in their number alone."""
    return dataclasses.replace(PICTURE, number=number)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.001)


class Sink(LiveSink):
    """Takes pictures when it is told to."""

    def __init__(self, name: str = "sink", policy: SinkPolicy = "wait", free: bool = True) -> None:
        self.name = name
        self.policy = policy
        self.free = threading.Event()
        if free:
            self.free.set()
        self.entered = threading.Semaphore(0)
        self.numbers: list[int] = []
        self.failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self.reopenings: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.absent = threading.Event()
        self.reopened = 0
        self.closed = threading.Event()
        self.close_error: BaseException | None = None

    def write(self, shown: Shown) -> None:
        self.entered.release()
        assert self.free.wait(PATIENCE_S)
        if not self.failures.empty():
            raise self.failures.get()
        self.numbers.append(shown.number)

    def reopen(self) -> None:
        self.reopened += 1
        error = None if self.reopenings.empty() else self.reopenings.get()
        if error is not None:
            raise error
        if self.absent.is_set():
            raise SinkLostError("not yet")

    def close(self) -> None:
        self.closed.set()
        if self.close_error is not None:
            raise self.close_error


class Notes:
    """Events, kept."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, /, **data: Any) -> None:
        self.all.append((kind, data))


@pytest.fixture
def sinks() -> Iterator[Callable[..., Sink]]:
    """Makes sinks that are let go at the end, whatever happened."""
    made: list[Sink] = []

    def make(*args: Any, **options: Any) -> Sink:
        made.append(Sink(*args, **options))
        return made[-1]

    yield make
    for sink in made:
        sink.free.set()


def balanced(outlet: Outlet) -> None:
    counts = outlet.counts()
    assert counts.offered == counts.written + counts.dropped + counts.waiting
    assert min(counts.written, counts.dropped, counts.waiting) >= 0


def test_pictures_arrive_in_order_and_are_counted(sinks: Callable[..., Sink]) -> None:
    sink = sinks()
    outlet = Outlet(sink, wait=True)
    for number in range(200):
        outlet.offer(numbered(number))
        balanced(outlet)
    assert outlet.close(PATIENCE_S)
    assert sink.numbers == list(range(200))
    assert outlet.status().written == 200
    assert outlet.status().dropped == 0
    assert outlet.status().error == ""
    assert sink.closed.is_set()


def test_a_sink_that_hangs_never_delays_and_gets_the_newest_later(
    sinks: Callable[..., Sink],
) -> None:
    sink = sinks(policy="drop-oldest", free=False)
    outlet = Outlet(sink, wait=False, slots=2)
    outlet.offer(numbered(0))
    assert sink.entered.acquire(timeout=PATIENCE_S)  # it hangs in picture 0
    began_s = time.monotonic()
    for number in range(1, 1001):
        outlet.offer(numbered(number))
        balanced(outlet)
    # A thousand offers while it hangs: any wait for it would have been for ever.
    assert time.monotonic() - began_s < PATIENCE_S
    counts = outlet.counts()
    assert (counts.offered, counts.written, counts.dropped, counts.waiting) == (1001, 0, 998, 3)
    sink.free.set()
    until(lambda: outlet.counts().waiting == 0)
    assert sink.numbers == [0, 999, 1000]
    assert outlet.close(PATIENCE_S)


def test_one_that_must_get_everything_makes_the_offer_wait(sinks: Callable[..., Sink]) -> None:
    sink = sinks(free=False)
    outlet = Outlet(sink, wait=True, slots=2)
    done = threading.Event()

    def offer_all() -> None:
        for number in range(10):
            outlet.offer(numbered(number))
        done.set()

    threading.Thread(target=offer_all, daemon=True).start()
    until(lambda: outlet.counts().waiting == 3)
    assert not done.wait(0.05)
    balanced(outlet)
    sink.free.set()
    assert done.wait(PATIENCE_S)
    assert outlet.close(PATIENCE_S)
    assert sink.numbers == list(range(10))


def test_a_stop_releases_an_offer_that_waits(sinks: Callable[..., Sink]) -> None:
    sink = sinks(free=False)
    outlet = Outlet(sink, wait=True, slots=1)
    outlet.offer(numbered(0))
    assert sink.entered.acquire(timeout=PATIENCE_S)
    outlet.offer(numbered(1))
    waiting = threading.Thread(target=outlet.offer, args=(numbered(2),), daemon=True)
    waiting.start()
    outlet.stop()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    balanced(outlet)
    assert outlet.counts().offered == 3
    sink.free.set()
    assert outlet.close(PATIENCE_S)
    assert sink.numbers == [0, 1], "what lay in the buffer of a file is written at the end"
    assert outlet.counts().dropped == 1


def test_a_window_drops_what_it_has_not_shown_when_it_is_stopped(
    sinks: Callable[..., Sink],
) -> None:
    sink = sinks(policy="drop-oldest", free=False)
    outlet = Outlet(sink, wait=False, slots=2)
    outlet.offer(numbered(0))
    assert sink.entered.acquire(timeout=PATIENCE_S)
    outlet.offer(numbered(1))
    outlet.stop()
    sink.free.set()
    assert outlet.close(PATIENCE_S)
    assert sink.numbers == [0]
    assert outlet.counts().dropped == 1


def test_a_file_is_drained_even_where_the_source_is_live(sinks: Callable[..., Sink]) -> None:
    sink = sinks(policy="wait", free=False)
    outlet = Outlet(sink, wait=False, slots=2)
    outlet.offer(numbered(0))
    assert sink.entered.acquire(timeout=PATIENCE_S)
    outlet.offer(numbered(1))
    outlet.offer(numbered(2))
    sink.free.set()
    assert outlet.close(PATIENCE_S)
    assert sink.numbers == [0, 1, 2]


def test_a_lost_sink_comes_back_with_a_new_picture(sinks: Callable[..., Sink]) -> None:
    sink, notes = sinks(), Notes()
    outlet = Outlet(sink, wait=False, events=notes, first_retry_s=0.01, longest_retry_s=0.05)
    outlet.offer(numbered(0))
    until(lambda: outlet.counts().written == 1)
    sink.failures.put(SinkLostError("the server is gone"))
    for attempt in range(3):
        sink.reopenings.put(SinkLostError(f"refused {attempt}"))
    sink.absent.set()
    outlet.offer(numbered(1))
    until(lambda: sink.reopened >= 4)
    for number in range(2, 20):
        outlet.offer(numbered(number))
        balanced(outlet)
    assert outlet.status().error in ("refused 2", "not yet")
    assert outlet.counts().waiting == 0
    sink.absent.clear()
    until(lambda: outlet.status().error == "")
    outlet.offer(numbered(20))
    until(lambda: outlet.counts().written == 2)
    assert sink.numbers == [0, 20]
    assert outlet.counts().dropped == 19
    assert notes.all == [
        ("sink", {"name": "sink", "error": "the server is gone"}),
        ("sink", {"name": "sink", "error": None}),
    ], "one note for the loss and one for the return, however often it was tried"
    assert outlet.close(PATIENCE_S)


def test_the_pauses_double_up_to_the_longest(
    sinks: Callable[..., Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    original = threading.Condition.wait_for

    def wait_for(self: threading.Condition, test: Any, timeout: float | None = None) -> Any:
        if timeout is not None and threading.current_thread().name == "sink lost":
            pauses.append(timeout)
            timeout = 0.0
        return original(self, test, timeout)

    monkeypatch.setattr(threading.Condition, "wait_for", wait_for)
    sink = sinks(name="lost")
    sink.failures.put(SinkLostError("gone"))
    for _ in range(8):
        sink.reopenings.put(SinkLostError("still gone"))
    outlet = Outlet(sink, wait=False)
    outlet.offer(numbered(0))
    until(lambda: sink.reopened == 9 and outlet.status().error == "")
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0]
    # Lost again at once: it is left in peace for as long as before.
    sink.failures.put(SinkLostError("gone again"))
    outlet.offer(numbered(1))
    until(lambda: sink.reopened == 10 and outlet.status().error == "")
    assert pauses[9:] == [10.0]
    assert outlet.close(PATIENCE_S)


def test_closing_does_not_wait_for_a_lost_sink(sinks: Callable[..., Sink]) -> None:
    sink = sinks()
    sink.failures.put(SinkLostError("gone"))
    outlet = Outlet(sink, wait=True, first_retry_s=1000.0, longest_retry_s=1000.0)
    outlet.offer(numbered(0))
    until(lambda: outlet.status().error == "gone")
    assert outlet.close(PATIENCE_S)
    assert sink.closed.is_set()
    assert sink.reopened == 0
    assert outlet.counts().dropped == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OutputError("the disk is full"), "the disk is full"),
        (ZeroDivisionError("one by nothing"), "ZeroDivisionError: one by nothing"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_one_that_fails_ends_alone_and_says_why(
    error: BaseException, told: str, sinks: Callable[..., Sink]
) -> None:
    notes = Notes()
    outlets = Outlets(wait=True, events=notes)
    bad, good = sinks("bad"), sinks("good")
    for sink in (bad, good):
        outlets.add(sink)
    bad.failures.put(error)
    for number in range(20):
        outlets.offer(numbered(number))
    until(lambda: good.numbers == list(range(20)))
    assert bad.closed.wait(PATIENCE_S)
    status = {one.name: one for one in outlets.status()}
    assert status["bad"].error == told
    assert (status["bad"].written, status["bad"].dropped) == (0, 20)
    assert (status["good"].error, status["good"].written) == ("", 20)
    assert ("sink", {"name": "bad", "error": told}) in notes.all
    faults = [data for kind, data in notes.all if kind == "fault"]
    expected = [] if isinstance(error, OutputError) else [{"where": "sink bad", "error": told}]
    assert faults == expected
    assert outlets.close(PATIENCE_S) == ()
    assert {one.name: one for one in outlets.status()}["bad"].error == told


def test_an_error_of_reopening_ends_it(sinks: Callable[..., Sink]) -> None:
    sink = sinks()
    sink.failures.put(SinkLostError("gone"))
    sink.reopenings.put(OutputError("never again"))
    outlet = Outlet(sink, wait=True, first_retry_s=0.001)
    outlet.offer(numbered(0))
    assert sink.closed.wait(PATIENCE_S)
    until(lambda: outlet.status().error == "never again")
    assert outlet.ended
    balanced(outlet)
    assert outlet.close(PATIENCE_S)


def test_an_error_of_closing_is_kept(sinks: Callable[..., Sink]) -> None:
    sink, notes = sinks(), Notes()
    sink.close_error = OutputError("the index did not fit")
    outlet = Outlet(sink, wait=True, events=notes)
    outlet.offer(numbered(0))
    assert outlet.close(PATIENCE_S)
    assert outlet.status().error == "the index did not fit"
    assert outlet.status().written == 1
    assert notes.all == [("sink", {"name": "sink", "error": "the index did not fit"})]


def test_one_that_never_returns_is_left_behind(sinks: Callable[..., Sink]) -> None:
    notes = Notes()
    outlets = Outlets(wait=True, events=notes)
    hung, good = sinks("hung", free=False), sinks("good")
    outlets.add(hung)
    outlets.add(good)
    outlets.offer(numbered(0))
    assert hung.entered.acquire(timeout=PATIENCE_S)
    outlets.offer(numbered(1))
    until(lambda: good.numbers == [0, 1])
    assert outlets.close(0.5) == ("hung did not finish in 0.5 s",)
    assert good.closed.wait(PATIENCE_S)
    status = {one.name: one for one in outlets.status()}
    assert status["hung"].error.endswith("was left behind")
    assert (status["hung"].written, status["hung"].dropped) == (0, 2)
    # It comes to itself much later: nothing is counted twice, and it is closed.
    hung.free.set()
    assert hung.closed.wait(PATIENCE_S)
    assert {one.name: one for one in outlets.status()}["hung"] == status["hung"]
    assert [kind for kind, data in notes.all if data["name"] == "hung"] == ["sink"]


def test_sinks_come_and_go(sinks: Callable[..., Sink]) -> None:
    outlets = Outlets(wait=True)
    first, second = sinks("first"), sinks("second")
    outlets.add(first)
    outlets.offer(numbered(0))
    outlets.add(second)
    outlets.offer(numbered(1))
    status = outlets.remove(first, PATIENCE_S)
    assert status is not None
    assert (status.name, status.written, status.dropped) == ("first", 2, 0)
    assert first.closed.is_set()
    outlets.offer(numbered(2))
    assert outlets.remove("second", PATIENCE_S) is not None
    assert outlets.remove("second") is None
    assert (first.numbers, second.numbers) == ([0, 1], [1, 2])
    assert outlets.status() == ()


def test_a_name_is_given_once_and_nothing_is_added_after_the_end(
    sinks: Callable[..., Sink],
) -> None:
    outlets = Outlets(wait=True)
    outlets.add(sinks("one"))
    twin = sinks("one")
    with pytest.raises(UsageError, match="already"):
        outlets.add(twin)
    assert twin.closed.is_set()
    assert outlets.close(PATIENCE_S) == ()
    late = sinks("late")
    with pytest.raises(UsageError, match="ended"):
        outlets.add(late)
    assert late.closed.is_set()


def test_only_what_wants_every_picture_waits_and_it_comes_last(
    sinks: Callable[..., Sink],
) -> None:
    outlets = Outlets(wait=True)
    file = outlets.add(sinks("file", "wait"))
    window = outlets.add(sinks("window", "drop-oldest"))
    assert (file.wait, window.wait) == (True, False)
    assert [one.name for one in outlets.status()] == ["window", "file"]
    live = Outlets(wait=False)
    assert not live.add(sinks("a file", "wait")).wait
    outlets.close(PATIENCE_S)
    live.close(PATIENCE_S)


ACTIONS = st.lists(
    st.sampled_from(["offer", "offer", "offer", "step", "lost", "full", "free", "hold", "stop"]),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS, slots=st.integers(1, 3))
def test_every_picture_is_written_dropped_or_waiting_at_every_moment(
    actions: list[str], slots: int
) -> None:
    sink = Sink(policy="drop-oldest")
    outlet = Outlet(sink, wait=False, slots=slots, first_retry_s=0.0005, longest_retry_s=0.001)
    over = threading.Event()
    wrong: list[Any] = []

    def watch() -> None:
        while not over.is_set():
            counts = outlet.counts()
            total = counts.written + counts.dropped + counts.waiting
            if counts.offered != total or counts.waiting > slots + 1:
                wrong.append(counts)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    offered = 0
    for action in actions:
        if action == "offer":
            outlet.offer(numbered(offered))
            offered += 1
        elif action == "lost":
            sink.failures.put(SinkLostError("gone"))
        elif action == "full":
            sink.failures.put(OutputError("full"))
        elif action == "free":
            sink.free.set()
        elif action == "hold":
            sink.free.clear()
        elif action == "stop":
            outlet.stop()
        else:
            time.sleep(0.001)  # the thread's turn
        balanced(outlet)
    sink.free.set()
    closed = outlet.close(PATIENCE_S)
    over.set()
    watcher.join(PATIENCE_S)
    assert closed
    assert not wrong
    counts = outlet.counts()
    assert (counts.offered, counts.waiting) == (offered, 0)
    assert counts.written == len(sink.numbers)
    assert sink.numbers == sorted(set(sink.numbers)), "in order, and none twice"


def test_several_threads_offer_while_sinks_come_and_go(sinks: Callable[..., Sink]) -> None:
    outlets = Outlets(wait=False)
    kept = outlets.add(sinks("kept"))
    over = threading.Event()

    def offer_on() -> None:
        number = 0
        while not over.is_set():
            outlets.offer(numbered(number))
            outlets.status()
            number += 1

    threads = [threading.Thread(target=offer_on, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(30):
        guest = sinks(f"guest {turn}")
        outlet = outlets.add(guest)
        assert outlets.remove(guest, PATIENCE_S) is not None
        balanced(outlet)
        balanced(kept)
    over.set()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert outlets.close(PATIENCE_S) == ()
    counts = kept.counts()
    assert counts.waiting == 0
    assert counts.offered == counts.written + counts.dropped
