"""The books of a session: every captured frame is counted once, as what came of it at best."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeseg.live.ledger import Displayed, Ledger

RANK = {"": 0, "engine busy": 1, "unmasked": 2, "predicted": 3, "shown": 4}


def check(ledger: Ledger, fates: list[str]) -> None:
    totals = ledger.totals()
    assert totals.captured == len(fates)
    assert totals.shown == fates.count("shown")
    assert totals.predicted == fates.count("predicted")
    assert totals.unmasked == fates.count("unmasked")
    assert sum(totals.dropped.values()) == fates.count("engine busy")
    assert totals.in_flight == fates.count("")


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([*RANK][1:])), max_size=200))
def test_a_frame_counts_once_as_what_it_was_at_best(steps):
    ledger, fates = Ledger(), [""] * 30
    for index in range(30):
        ledger.capture(index)
    for index, what in steps:
        if what == "engine busy":
            ledger.drop(index, what)
            if index < 30 and fates[index] == "":
                fates[index] = what
        else:
            how: Displayed = what
            ledger.display(index, how)
            if index < 30 and RANK[what] > RANK[fates[index]]:
                fates[index] = what
        check(ledger, fates)
    ledger.drop_rest("stopped")
    totals = ledger.totals()
    assert totals.in_flight == 0
    assert totals.dropped.get("stopped", 0) == fates.count("")


def test_the_blank_picture_is_no_frame():
    ledger = Ledger()
    ledger.display(-1, "unmasked")
    assert ledger.totals().unmasked == 0


def test_memory_does_not_grow_and_old_frames_stay_counted():
    ledger = Ledger()
    for index in range(50_000):
        ledger.capture(index)
        ledger.display(index, "shown" if index % 2 else "unmasked")
    totals = ledger.totals()
    assert (totals.captured, totals.shown, totals.unmasked) == (50_000, 25_000, 25_000)
    assert len(ledger._settled) < 5000
    # What was settled long ago is not counted again.
    ledger.display(0, "shown")
    assert ledger.totals().shown == 25_000
