"""A session under delays, stalls, repeats, reordering and faults: what is shown, and what is not.

Every frame holds its number and every mask the number of the frame it was computed on, so that
mixing them up, or drawing a mask that is too old, shows.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from live_doubles import (
    Collector,
    Notes,
    Numbered,
    Thinking,
    mask_number,
    number_of,
    numbered,
    session_of,
)

from edgeseg.errors import (
    BackendError,
    DataError,
    InputError,
    OutputError,
    SinkLostError,
    SourceLostError,
    StalledError,
    TruncatedVideoError,
    UsageError,
)
from edgeseg.live.base import Captured, Shown
from edgeseg.live.controls import Controls
from edgeseg.live.session import LIVE_MAX_AGE_MS, LiveOptions, LiveReport, LiveSession
from edgeseg.live.status import LiveStatus


def run(session: LiveSession, timeout_s: float = 60.0) -> LiveReport:
    """Run, but not for ever."""
    watch = threading.Timer(timeout_s, session.stop)
    watch.start()
    try:
        return session.run()
    finally:
        watch.cancel()


def check_books(status: LiveStatus) -> None:
    total = status.shown + status.predicted + status.unmasked + sum(status.dropped.values())
    assert status.captured == total + status.in_flight
    assert min(status.shown, status.predicted, status.unmasked, status.in_flight) >= 0
    assert all(count >= 0 for count in status.dropped.values())


def check_shown(shown: list[Shown], max_age_ms: float | None) -> None:
    """What holds of every picture, whatever went wrong."""
    for number, one in enumerate(shown):
        assert one.number >= number
        if one.state == "none":
            assert one.mask is None and one.age_ms is None and one.mask_index is None
            assert one.reason is not None
            continue
        assert one.reason is None and one.mask is not None
        assert one.age_ms is not None and one.mask_index is not None
        assert one.mask.shape == one.frame.image.shape[:2]
        assert one.age_ms >= one.frame_age_ms >= 0.0
        if max_age_ms is not None:
            assert one.age_ms <= max_age_ms
        if one.state == "current":
            assert one.mask_index == one.frame.index
            assert mask_number(one.mask) == number_of(one.frame.image)
            assert one.age_ms == one.frame_age_ms
        else:
            assert one.mask_index < one.frame.index
    indices = [one.frame.index for one in shown if one.state != "none"]
    assert indices == sorted(indices)


def end_well(session: LiveSession, sink: Collector, max_age_ms: float | None) -> LiveReport:
    report = run(session)
    check_books(report.status)
    assert report.status.in_flight == 0
    assert report.unfinished == ()
    assert sink.closed
    check_shown(sink.shown, max_age_ms)
    return report


# Sources that wait


def test_every_frame_of_a_source_that_waits_is_shown_in_order_with_its_own_mask():
    source = Numbered(numbered(i) for i in range(60))
    sink, engine = Collector(), Thinking(0.002)
    report = end_well(session_of(source, engine, [sink]), sink, None)
    assert [number_of(one.frame.image) for one in sink.shown] == list(range(60))
    assert all(one.state == "current" for one in sink.shown)
    assert report.status.shown == report.status.captured == 60
    assert report.ended_by is None
    assert engine.closed and source.closed >= 1


def test_every_frame_of_a_source_that_waits_is_shown_when_their_size_changes_too():
    frames = [numbered(i, *((48, 64) if i % 10 < 5 else (96, 80))) for i in range(40)]
    sink = Collector()
    end_well(session_of(Numbered(frames), Thinking(0.01), [sink]), sink, None)
    assert [number_of(one.frame.image) for one in sink.shown] == list(range(40))
    assert all(one.state == "current" for one in sink.shown)


def test_a_recording_has_no_limit_of_age_unless_one_is_given():
    frames = [numbered(i) for i in range(3)]
    sink = Collector()
    end_well(session_of(Numbered(frames), Thinking(0.4), [sink]), sink, None)
    assert [one.state for one in sink.shown] == ["current"] * 3
    sink = Collector()
    options = LiveOptions(max_age_ms=100.0)
    end_well(session_of(Numbered(frames), Thinking(0.4), [sink], options), sink, 100.0)
    assert {one.state for one in sink.shown} == {"none"}
    # What is said depends on when one looks: during the call, or after it.
    assert {one.reason for one in sink.shown} & {"result too old", "engine stalled"}


def test_a_failed_frame_of_a_recording_is_shown_in_its_turn_with_the_reason():
    def before(call: int, number: int) -> float | None:
        if number in (3, 4):
            raise BackendError("the double refuses this frame")
        return None

    sink = Collector()
    source = Numbered(numbered(i) for i in range(8))
    report = end_well(session_of(source, Thinking(before=before), [sink]), sink, None)
    assert [number_of(one.frame.image) for one in sink.shown] == list(range(8))
    assert [one.state == "none" for one in sink.shown] == [i in (3, 4) for i in range(8)]
    assert sink.shown[3].reason == "engine failed"
    assert "refuses" in sink.shown[3].detail
    assert (report.status.shown, report.status.unmasked) == (6, 2)
    assert report.status.faults == {"engine": 2}


def test_a_source_that_breaks_off_is_shown_to_its_last_frame_and_reported():
    script = [*(numbered(i) for i in range(5)), TruncatedVideoError("cut")]
    sink = Collector()
    report = end_well(session_of(Numbered(script), Thinking(0.01), [sink]), sink, None)
    assert [number_of(one.frame.image) for one in sink.shown] == list(range(5))
    assert isinstance(report.ended_by, TruncatedVideoError)


@pytest.mark.parametrize("error", [DataError("no such camera"), SourceLostError("no answer")])
def test_a_source_that_cannot_be_opened_is_an_error_at_once(error):
    for is_live in (False, True):
        source = Numbered([], 25.0 if is_live else None)
        source.refusals = [error]
        sink = Collector()
        with pytest.raises(type(error), match=str(error)):
            run(session_of(source, Thinking(), [sink]))
        assert sink.closed


def test_an_engine_that_cannot_be_opened_is_an_error_and_everything_is_closed():
    def refuse() -> Any:
        raise BackendError("no such engine")

    source, sink = Numbered(itertools.repeat(numbered(0)), 50.0), Collector()
    with pytest.raises(BackendError, match="no such engine"):
        run(session_of(source, refuse, [sink]))
    assert sink.closed and source.closed >= 1


# Live sources


def steady(rate: float, frames: int) -> Numbered:
    return Numbered((numbered(i) for i in range(frames)), rate)


def test_a_slow_engine_gets_the_newest_frames_and_latency_does_not_grow():
    sink, engine_ms = Collector(), 40.0
    session = session_of(steady(100.0, 400), Thinking(engine_ms / 1e3), [sink])
    report = end_well(session, sink, LIVE_MAX_AGE_MS)
    with_mask = [one for one in sink.shown if one.mask is not None]
    ages = [one.age_ms for one in with_mask]
    # Waiting at most one source period, the engine, and scheduling.
    assert np.median(ages) < 2.0 * engine_ms
    assert np.median(ages[-20:]) < 1.5 * np.median(ages[:40]) + 5.0
    span_ms = 1e3 * (with_mask[-1].shown_s - with_mask[0].shown_s)
    assert 20 <= len(with_mask) <= span_ms / engine_ms + 2
    assert report.status.dropped["engine busy"] >= 100
    # Evenly spaced: the engine sets the beat.
    gaps = np.diff([one.shown_s for one in with_mask])
    assert np.percentile(gaps, 75) < 2.0 * np.percentile(gaps, 25)


def test_a_fast_engine_shows_every_frame():
    sink = Collector()
    report = end_well(session_of(steady(50.0, 60), Thinking(0.002), [sink]), sink, 300.0)
    assert report.status.shown >= 50  # the first ones may come before the engine is open
    assert report.status.shown + report.status.unmasked >= 55


def test_drop_latest_keeps_the_frame_that_waits():
    sink = Collector()
    options = LiveOptions(policy="drop-latest")
    session = session_of(steady(100.0, 100), Thinking(0.05), [sink], options)
    report = end_well(session, sink, 300.0)
    with_mask = [one for one in sink.shown if one.mask is not None]
    # What waits is the first frame that came after the engine began: it grows as old as a call.
    assert np.median([one.age_ms for one in with_mask]) > 70.0
    assert report.status.dropped["engine busy"] > 50


def test_a_stalled_engine_never_leaves_an_old_mask_on_the_picture():
    max_age_ms, stall_s = 150.0, 1.0

    def before(call: int, number: int) -> float | None:
        return stall_s if call == 10 else None

    sink = Collector()
    options = LiveOptions(max_age_ms=max_age_ms)
    session = session_of(
        steady(50.0, 120), Thinking(0.005, before), [sink], options, events=(notes := Notes())
    )
    end_well(session, sink, max_age_ms)
    # What was on the screen was younger than the limit, or the next picture took it off in time.
    for one, following in itertools.pairwise(sink.shown):
        if one.mask is not None:
            on_screen_ms = 1e3 * (following.shown_s - one.shown_s)
            assert one.age_ms + on_screen_ms < max_age_ms + 400.0
    stalled = [one for one in sink.shown if one.reason == "engine stalled"]
    assert len(stalled) >= 20  # the raw picture moved on all the while
    assert len({one.frame.index for one in stalled}) >= 15
    assert [event["reason"] for event in notes.of("state")].count("engine stalled") == 1
    # The call that took a second is not shown when it comes back; later frames are.
    assert sink.shown[-1].state == "current"


def test_an_engine_that_never_returns_is_left_behind_and_opened_anew():
    release = threading.Event()
    engines: list[Thinking] = []

    def open_engine() -> Thinking:
        first = not engines

        def before(call: int, number: int) -> float | None:
            if first and call == 5:
                release.wait(20.0)
            return None

        engines.append(Thinking(0.002, before))
        return engines[-1]

    sink, notes = Collector(), Notes()
    options = LiveOptions(give_up_ms=300.0, max_age_ms=100.0)
    session = session_of(steady(50.0, 100), open_engine, [sink], options, events=notes)
    report = end_well(session, sink, 100.0)
    release.set()
    assert len(engines) == 2
    assert len(notes.of("engine_restarted")) == 1
    assert report.status.faults == {"engine stalled": 1}
    assert report.status.dropped["engine stalled"] == 1
    assert sink.shown[-1].state == "current"
    assert engines[1].closed


def test_a_result_that_comes_after_its_engine_was_given_up_is_not_shown():
    engines: list[Thinking] = []

    def open_engine() -> Thinking:
        first = not engines
        engines.append(Thinking(before=lambda call, number: 0.6 if first and call == 3 else 0.002))
        return engines[-1]

    sink = Collector()
    options = LiveOptions(give_up_ms=250.0, max_age_ms=5000.0)
    end_well(session_of(steady(50.0, 80), open_engine, [sink], options), sink, 5000.0)
    numbers = [number_of(one.frame.image) for one in sink.shown if one.mask is not None]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(numbers)
    for _ in range(100):
        if engines[0].closed:
            break
        time.sleep(0.02)
    assert engines[0].closed  # it came back, and freed what it held


def test_engines_that_hang_again_and_again_end_the_session():
    release = threading.Event()

    def open_engine() -> Thinking:
        return Thinking(before=lambda call, number: float(release.wait(20.0)) * 0.0)

    sink = Collector()
    options = LiveOptions(give_up_ms=100.0)
    session = session_of(
        Numbered(map(numbered, itertools.count()), 50.0), open_engine, [sink], options
    )
    with pytest.raises(StalledError, match="restart edgeseg"):
        run(session)
    release.set()
    assert sink.closed
    check_shown(sink.shown, 300.0)


def test_an_engine_that_fails_costs_frames_and_is_opened_anew_after_a_few():
    engines: list[Thinking] = []

    def open_engine() -> Thinking:
        first = not engines

        def before(call: int, number: int) -> float | None:
            if first and call >= 5:
                raise RuntimeError("device lost")
            return None

        engines.append(Thinking(0.002, before))
        return engines[-1]

    sink, notes = Collector(), Notes()
    options = LiveOptions(max_age_ms=60.0)
    session = session_of(steady(50.0, 60), open_engine, [sink], options, events=notes)
    report = end_well(session, sink, 60.0)
    assert len(engines) == 2 and engines[0].closed
    assert report.status.faults == {"engine": 3}
    assert "RuntimeError: device lost" in notes.of("fault")[0]["error"]
    assert sink.shown[-1].state == "current"


def test_frames_that_do_not_fit_are_no_reason_to_open_the_engine_anew():
    def before(call: int, number: int) -> float | None:
        raise InputError("the region of interest lies outside the frame")

    opened = []
    sink = Collector()
    source = steady(50.0, 20)

    def open_engine() -> Thinking:
        opened.append(1)
        return Thinking(before=before)

    report = end_well(session_of(source, open_engine, [sink]), sink, 300.0)
    assert len(opened) == 1
    assert report.status.shown == 0
    assert any("outside the frame" in one.detail for one in sink.shown)


def test_a_lost_source_is_named_and_comes_back_as_another_segment():
    script = [
        *(numbered(i) for i in range(20)),
        SourceLostError("the server hung up"),
        *(numbered(i) for i in range(20, 40)),
    ]
    source, sink, notes = Numbered(script, 50.0), Collector(), Notes()
    source.refusals = []
    options = LiveOptions(max_age_ms=200.0)
    session = session_of(source, Thinking(0.002), [sink], options, events=notes)

    def refuse_twice(shown: Shown) -> None:
        if number_of(shown.frame.image) == 15 and not source.refusals:
            source.refusals = [SourceLostError("not yet"), DataError("404 for now")]

    sink.on_write = refuse_twice
    report = end_well(session, sink, 200.0)
    assert report.status.reconnections == 1
    assert {one.frame.segment for one in sink.shown} == {0, 1}
    lost = [one for one in sink.shown if one.reason == "no signal"]
    assert lost and any("hung up" in one.detail for one in lost)
    assert len(notes.of("source_back")) == 1
    assert [event["error"] for event in notes.of("source_lost")] == [
        "the server hung up",
        "not yet",
        "404 for now",
    ]
    assert sink.shown[-1].state == "current"
    assert sink.shown[-1].frame.segment == 1


def test_a_source_that_falls_silent_is_named_and_opened_anew():
    script = [*(numbered(i) for i in range(10)), 1.2, *(numbered(i) for i in range(10, 30))]
    source, sink = Numbered(script, 50.0), Collector()
    options = LiveOptions(lost_after_ms=500.0, max_age_ms=200.0)
    report = end_well(session_of(source, Thinking(0.002), [sink], options), sink, 200.0)
    assert source.opened >= 2
    assert report.status.reconnections >= 1
    silent = [one for one in sink.shown if one.reason == "no signal"]
    assert len(silent) >= 2  # drawn anew, since it says for how long
    # The old picture does not look live.
    assert silent[-1].picture.mean() < 0.8 * silent[-1].frame.image.mean()


def test_nothing_blank_is_shown_while_a_first_frame_may_come():
    sink = Collector()
    end_well(session_of(steady(50.0, 30), Thinking(0.002), [sink]), sink, 300.0)
    assert sink.shown[0].frame.index == 0


def test_a_source_may_be_waited_for_at_the_start():
    source = steady(50.0, 10)
    source.refusals = [SourceLostError("not yet")] * 3
    sink = Collector()
    options = LiveOptions(wait_for_source=True)
    report = end_well(session_of(source, Thinking(), [sink], options), sink, 300.0)
    assert report.status.captured == 10
    assert sink.shown[0].reason in ("no signal", "starting")
    assert sink.shown[0].frame.index == -1


def test_repeats_and_frames_out_of_order_are_dropped():
    now = time.monotonic()
    frames = [
        Captured(numbered(0), now),
        Captured(numbered(1), now + 0.010),
        Captured(numbered(1), now + 0.010),
        Captured(numbered(0), now),
        Captured(numbered(2), now + 0.020),
    ]
    source = Numbered([0.05, *frames], None)
    sink = Collector()
    report = end_well(session_of(source, Thinking(), [sink]), sink, None)
    assert [number_of(one.frame.image) for one in sink.shown] == [0, 1, 2]
    assert report.status.dropped == {"out of order": 2}


def test_frames_that_arrive_late_are_shown_without_a_mask():
    script = [Captured(numbered(i), time.monotonic() - 5.0 + 0.01 * i) for i in range(20)]
    paced = itertools.chain.from_iterable((0.01, item) for item in script)
    sink, engine = Collector(), Thinking()
    source = Numbered(paced, None, is_live=True)
    report = end_well(session_of(source, engine, [sink]), sink, 300.0)
    assert engine.calls == 0
    assert report.status.shown == 0
    assert all(one.frame_age_ms > 4000.0 for one in sink.shown if one.frame.index >= 0)


def test_capture_times_in_the_future_do_not_make_masks_young():
    frames = [Captured(numbered(i), time.monotonic() + 100.0 + i) for i in range(3)]
    sink = Collector()
    end_well(session_of(Numbered([0.02, *frames], None), Thinking(0.01), [sink]), sink, None)
    assert all(one.age_ms >= 10.0 for one in sink.shown if one.mask is not None)


def test_a_frozen_picture_is_named_and_loses_its_mask():
    still = numbered(7)
    script = [
        *(numbered(i) for i in range(20)),
        *([still] * 100),
        *(numbered(i) for i in range(50)),
    ]
    sink = Collector()
    end_well(session_of(Numbered(script, 50.0), Thinking(0.002), [sink]), sink, 300.0)
    frozen = [one for one in sink.shown if one.reason == "frozen picture"]
    assert len(frozen) >= 10
    assert sink.shown[-1].state == "current"


def test_a_black_picture_is_named():
    black = [np.full((48, 64, 3), i % 2, np.uint8) for i in range(60)]
    sink = Collector()
    script = [*(numbered(i) for i in range(10)), *black]
    end_well(session_of(Numbered(script, 50.0), Thinking(0.002), [sink]), sink, 300.0)
    assert sink.shown[-1].reason == "black picture"


def test_a_change_of_size_makes_another_segment_and_never_mixes():
    script = [
        *(numbered(i) for i in range(15)),
        *(numbered(i, 96, 80) for i in range(15, 30)),
        *(numbered(i) for i in range(30, 45)),
    ]
    sink, notes = Collector(), Notes()
    session = session_of(Numbered(script, 50.0), Thinking(0.03), [sink], events=notes)
    end_well(session, sink, 300.0)
    assert [event["width_px"] for event in notes.of("format")] == [64, 80, 64]
    assert {one.frame.segment for one in sink.shown if one.frame.index >= 0} == {0, 1, 2}


# The display


def test_the_latest_frame_is_shown_with_a_moved_mask_that_says_so():
    rng = np.random.default_rng(1)
    scene = np.kron(rng.integers(40, 220, (40, 60, 3), np.uint8), np.ones((8, 8, 1), np.uint8))

    def picture(number: int) -> np.ndarray:
        frame = np.ascontiguousarray(scene[40:280, 40 + 2 * (number % 40) :][:, :320])
        frame[0, :4, 0] = [number >> shift & 255 for shift in (0, 8, 16, 24)]
        return frame

    sink = Collector()
    source = Numbered((picture(i) for i in range(120)), 50.0)
    options = LiveOptions(latest_frame=True, max_age_ms=250.0)
    report = end_well(session_of(source, Thinking(0.06), [sink], options), sink, 250.0)
    moved = [one for one in sink.shown if one.state == "predicted"]
    assert len(moved) >= 30
    assert report.status.predicted >= 30
    for one in moved:
        # Where the frame was computed on and where it is shown are both known.
        assert one.age_ms > one.frame_age_ms
        assert one.frame.index - one.mask_index <= 20


def test_a_picture_that_cannot_be_made_is_a_fault_and_not_the_end():
    sink, notes = Collector(), Notes()
    session = session_of(steady(50.0, 40), Thinking(0.002), [sink], events=notes)
    painter = session._display._painter
    paint, failures = painter.overlay, iter([True, False, True])

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(failures, False):
            raise ValueError("no ink")
        return paint(*arguments, **options)

    painter.overlay = failing
    report = end_well(session, sink, 300.0)
    assert report.status.faults["display"] == 2
    assert "ValueError: no ink" in notes.of("fault")[0]["error"]
    assert report.status.shown >= 20


def test_a_sink_that_hangs_does_not_hold_up_the_others():
    release = threading.Event()
    slow, quick = Collector("slow"), Collector("quick")
    slow.on_write = lambda shown: release.wait(20.0) and None
    session = session_of(steady(50.0, 60), Thinking(0.002), [slow, quick])
    timer = threading.Timer(2.5, release.set)
    timer.start()
    report = run(session)
    release.set()
    check_books(report.status)
    assert quick.count >= 50
    by_name = {one.name: one for one in report.status.sinks}
    assert by_name["slow"].dropped >= 40
    assert by_name["quick"].dropped <= 5


@pytest.mark.parametrize("error", [OutputError("disk full"), RuntimeError("a defect")])
def test_a_sink_that_fails_is_told_and_the_others_go_on(error):
    broken, good, notes = Collector("broken"), Collector("good"), Notes()

    def fail(shown: Shown) -> None:
        if shown.number >= 5:
            raise error

    broken.on_write = fail
    session = session_of(steady(50.0, 40), Thinking(0.002), [broken, good], events=notes)
    report = run(session)
    assert good.count >= 35
    assert broken.closed
    by_name = {one.name: one for one in report.status.sinks}
    assert str(error) in by_name["broken"].error
    assert notes.of("sink") or notes.of("fault")


def test_a_sink_that_is_lost_is_opened_again():
    sink = Collector("viewer")
    reopened = []
    sink.reopen = lambda: reopened.append(1)

    def fail_once(shown: Shown) -> None:
        if shown.number == 5 and not reopened:
            raise SinkLostError("the server went away")

    sink.on_write = fail_once
    report = run(session_of(steady(50.0, 80), Thinking(0.002), [sink]))
    assert reopened == [1]
    assert sink.shown[-1].number > 60
    assert report.status.sinks[0].error == ""


def test_opacity_and_threshold_may_be_changed_meanwhile():
    sink = Collector()
    session = session_of(steady(50.0, 50), Thinking(0.002), [sink])
    seen = []

    def change(shown: Shown) -> None:
        if shown.mask is not None:
            inside = shown.picture[20, 20].astype(int) - shown.frame.image[20, 20]
            seen.append((shown.number, bool(np.any(inside != 0))))
            if len(seen) == 20:
                session.controls.set_opacity(0.0)

    sink.on_write = change
    run(session)
    assert all(drawn for _, drawn in seen[:18])
    assert not any(drawn for _, drawn in seen[25:])
    assert session.status().opacity == 0.0
    for wrong in (float("nan"), -0.1, 1.1):
        with pytest.raises(UsageError):
            session.controls.set_opacity(wrong)
    for wrong in (float("nan"), 0.0, 1.0):
        with pytest.raises(UsageError):
            session.controls.set_threshold(wrong)


def test_stopping_ends_everything_soon():
    source = Numbered(map(numbered, itertools.count()), 50.0)
    sink = Collector()
    session = session_of(source, Thinking(0.002), [sink])
    threading.Timer(0.7, session.stop).start()
    start = time.monotonic()
    report = run(session)
    assert time.monotonic() - start < 5.0
    check_books(report.status)
    assert report.status.in_flight == 0
    assert report.ended_by is None
    assert sink.closed and source.closed >= 1
    assert not [t for t in threading.enumerate() if t.name.startswith("edgeseg ")]


def test_the_books_balance_at_every_moment():
    source = Numbered((numbered(i) for i in range(150)), 200.0)
    sink = Collector(keep=False)
    session = session_of(source, Thinking(0.01), [sink])
    statuses: list[LiveStatus] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            statuses.append(session.status())

    poller = threading.Thread(target=poll)
    poller.start()
    report = run(session)
    done.set()
    poller.join()
    for status in [*statuses, report.status]:
        check_books(status)
    assert len(statuses) > 50


def test_changes_of_the_controls_are_told_once():
    told = []
    controls = Controls(
        opacity=0.4, threshold=0.5, on_change=lambda name, value: told.append((name, value))
    )
    controls.set_opacity(0.4)
    controls.set_opacity(0.7)
    controls.set_threshold(0.6)
    controls.set_threshold(0.6)
    with pytest.raises(UsageError):
        controls.set_threshold(2.0)
    assert told == [("opacity", 0.7), ("threshold", 0.6)]
    with pytest.raises(UsageError, match="several classes"):
        Controls(opacity=0.4, threshold=None).set_threshold(0.5)


def test_options_that_mean_nothing_are_refused():
    for wrong in (
        {"slots": 0},
        {"policy": "drop"},
        {"slots": 3},
        {"max_age_ms": 0.0},
        {"max_age_ms": float("nan")},
        {"max_age_ms": float("inf")},
        {"give_up_ms": 1e18},
        {"give_up_ms": -1.0},
    ):
        with pytest.raises(UsageError):
            LiveOptions(**wrong)


def faults(seed: int, frames: int) -> tuple[list[Any], Callable[[int, int], float | None]]:
    """A script of a source with random faults, and an engine's."""
    rng = random.Random(seed)
    script: list[Any] = []
    for i in range(frames):
        script.append(numbered(i))
        draw = rng.random()
        if draw < 0.01:
            script.append(SourceLostError("cable"))
        elif draw < 0.02:
            script.append(rng.uniform(0.0, 0.2))
        elif draw < 0.03:
            script.append(script[-1])
        elif draw < 0.04:
            script.append(numbered(i, 64, 80))

    def before(call: int, number: int) -> float | None:
        draw = rng.random()
        if draw < 0.02:
            raise BackendError("random")
        return rng.uniform(0.05, 0.3) if draw < 0.04 else rng.uniform(0.0, 0.01)

    return script, before


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("latest_frame", [False, True])
def test_random_faults_never_show_a_wrong_or_old_mask(seed, latest_frame):
    script, before = faults(seed, 250)
    sink = Collector()
    options = LiveOptions(
        max_age_ms=80.0, lost_after_ms=150.0, give_up_ms=200.0, latest_frame=latest_frame
    )
    session = session_of(Numbered(script, 200.0), lambda: Thinking(before=before), [sink], options)
    report = run(session)
    check_books(report.status)
    assert report.status.in_flight == 0
    if latest_frame:
        for one in sink.shown:
            assert one.age_ms is None or one.age_ms <= 80.0
    else:
        check_shown(sink.shown, 80.0)
    assert report.status.captured > 100


def test_what_is_played_begins_when_the_engine_is_open():
    def open_engine() -> Thinking:
        time.sleep(0.5)
        return Thinking(0.002)

    camera, sink = steady(50.0, 60), Collector()
    end_well(session_of(camera, open_engine, [sink]), sink, 300.0)
    before = list(itertools.takewhile(lambda one: one.mask is None, sink.shown))
    assert len({one.frame.index for one in before}) >= 3  # the camera was seen meanwhile
    assert "starting" in {one.reason for one in before}
    played, sink = steady(50.0, 60), Collector()
    played.begins_when_read = True
    report = end_well(session_of(played, open_engine, [sink]), sink, 300.0)
    assert report.status.shown >= 50
    assert number_of(next(one for one in sink.shown if one.mask is not None).frame.image) <= 2


def test_a_source_whose_silence_is_no_loss_is_not_opened_again():
    script = [*(numbered(i) for i in range(10)), 0.8, *(numbered(i) for i in range(10, 20))]
    source, sink = Numbered(script, 50.0), Collector()
    source.silence_is_loss = False
    options = LiveOptions(lost_after_ms=200.0)
    report = end_well(session_of(source, Thinking(0.002), [sink], options), sink, 300.0)
    assert source.opened == 1
    assert report.status.reconnections == 0
    assert any(one.reason == "no signal" for one in sink.shown)


def test_a_recording_ends_with_the_error_of_an_engine_that_cannot_be_opened_anew():
    engines: list[Thinking] = []

    def open_engine() -> Thinking:
        if engines:
            raise BackendError("the device is gone")

        def before(call: int, number: int) -> float | None:
            if call >= 3:
                raise BackendError("device lost")
            return None

        engines.append(Thinking(before=before))
        return engines[0]

    sink = Collector()
    session = session_of(Numbered(map(numbered, itertools.count())), open_engine, [sink])
    with pytest.raises(BackendError, match="the device is gone"):
        run(session)
    assert sink.closed
    check_shown(sink.shown, None)


def test_a_defect_of_a_source_is_an_error_for_a_recording_and_a_loss_for_a_camera():
    def script() -> list[Any]:
        return [*(numbered(i) for i in range(5)), KeyError("x"), *(numbered(i) for i in range(5))]

    with pytest.raises(KeyError):
        run(session_of(Numbered(script()), Thinking(), [Collector()]))
    sink = Collector()
    options = LiveOptions(max_age_ms=100.0)
    session = session_of(Numbered(script(), 50.0), Thinking(), [sink], options)
    report = end_well(session, sink, 100.0)
    assert report.status.reconnections == 1
    assert any("KeyError" in one.detail for one in sink.shown)


def test_stopping_does_not_wait_for_a_source_that_does_not_answer():
    release = threading.Event()

    class Mute(Numbered):
        def open(self) -> None:
            release.wait(30.0)

    session = session_of(Mute([], 25.0), Thinking(), [Collector()])
    threading.Timer(0.5, session.stop).start()
    start = time.monotonic()
    report = run(session)
    assert time.monotonic() - start < 8.0
    assert any("source" in text for text in report.unfinished)
    release.set()
