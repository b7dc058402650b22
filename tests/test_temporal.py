"""Smoothing over time: weights from time stamps, and what makes it start anew."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import UsageError
from edgeseg.temporal import CutDetector, Memory, TemporalSmoother

GREY = np.full((90, 120, 3), 90, np.uint8)


def scene(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC)


@given(st.floats(1.0, 1000.0), st.lists(st.floats(0.1, 400.0), min_size=1, max_size=10))
def test_the_weight_follows_the_time_stamps(time_constant_ms, gaps):
    smoother = TemporalSmoother(time_constant_ms)
    assert smoother.step(GREY, 0.0).reset
    time_ms = 0.0
    for gap in gaps:
        time_ms += gap
        memory = smoother.step(GREY, time_ms)
        assert not memory.reset
        expected = min(math.exp(-gap / time_constant_ms), 0.999)
        assert memory.keep == pytest.approx(expected, abs=1e-9)
    assert smoother.resets == []


def test_a_gap_and_time_that_runs_backwards_start_anew():
    smoother = TemporalSmoother(100.0)
    resets = [smoother.step(GREY, t).reset for t in (0.0, 40.0, 600.0, 640.0, 300.0, 340.0)]
    assert resets == [True, False, True, False, True, False]
    assert smoother.resets == [(600.0, "gap"), (300.0, "time ran backwards")]


def test_a_cut_starts_anew_and_motion_does_not():
    smoother = TemporalSmoother(100.0)
    first, second = scene(1), scene(2)
    rng = np.random.default_rng(0)
    for i in range(6):
        moved = np.roll(first, 2 * i, axis=1)
        noisy = np.clip(moved + rng.normal(0, 8, moved.shape), 0, 255).astype(np.uint8)
        memory = smoother.step(noisy, 40.0 * i)
        assert memory.reset == (i == 0)
    assert smoother.step(second, 240.0).reset
    assert smoother.resets == [(240.0, "scene cut")]


def test_two_frames_of_one_time_still_take_the_newer_in():
    smoother = TemporalSmoother(100.0)
    smoother.step(GREY, 5.0)
    memory = smoother.step(GREY, 5.0)
    assert not memory.reset and memory.keep < 1.0


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_constant_must_be_positive(value):
    with pytest.raises(UsageError, match="positive"):
        TemporalSmoother(value)


def test_a_state_of_another_shape_is_reset():
    memory = Memory(keep=0.5, reset=False)
    state = memory.buffer((3, 4))
    assert memory.reset and state.shape == (3, 4)
    memory.reset = False
    assert memory.buffer((3, 4)) is state and not memory.reset
    assert memory.buffer((4, 4)).shape == (4, 4) and memory.reset


def test_cuts_of_real_clips(real_data):
    """Continuous motion never counts as a cut; another clip does."""
    from edgeseg.video import open_source

    def frames(name: str):
        (path,) = (real_data / "clips").glob(name)
        with open_source(path) as source:
            return [frame.image for frame in source][:120]

    laparoscopy, davinci = frames("laparoscopy*"), frames("davinci*")
    detector = CutDetector()
    assert not any(detector(frame) for frame in laparoscopy)
    assert detector(cv2.resize(davinci[0], (1280, 720)))
