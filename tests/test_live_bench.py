"""The benchmark of live sessions: that it counts right, and what must hold on any machine."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from builders import tiny_bundle
from video_files import write_video

from edgeseg.bench import live


def check(figures: dict) -> None:
    """Nothing is lost, and nothing is no number."""
    assert figures["unaccounted"] == 0
    numbers = [value for value in figures.values() if isinstance(value, float)]
    assert numbers and all(math.isfinite(value) for value in numbers)


def test_a_source_above_capacity_costs_frames_and_no_time():
    figures = live.overload(frames=4000, rate=400.0, sleep_ms=25.0, size="160x96")
    check(figures)
    assert figures["captured"] == 4000
    assert figures["dropped"]["engine busy"] > 3000
    assert figures["age_p50_last_quarter_ms"] < 2.0 * figures["age_p50_first_quarter_ms"] + 10.0
    assert 25.0 <= figures["age_p50_ms"] < 100.0
    assert figures["rss_last_mib"] < figures["rss_first_mib"] + 20.0


def test_the_engine_is_the_bottleneck_where_it_is_the_slowest():
    figures = live.overhead(frames=40, sleep_ms=30.0, size="160x96")
    assert 0.6 < figures["engine_busy_waiting_source"] <= 1.0
    assert figures["engine_ms_mean"] >= 30.0
    assert figures["added_p50_ms"] >= 0.0


def soaked(frames: int, seed: int) -> None:
    figures = live.soak(frames=frames, seed=seed)
    check(figures)
    assert figures["wrong_pictures"] == 0
    assert figures["left_behind"] == []
    assert figures["faults"]["engine"] > 0
    assert figures["reconnections"] > 0
    assert figures["threads_max"] < 20
    assert figures["rss_last_mib"] < figures["rss_first_mib"] + 50.0


def test_random_faults_over_some_thousand_frames():
    soaked(4000, 1)


@pytest.mark.slow
def test_random_faults_over_many_frames():
    soaked(60_000, 2)


def test_a_clip_through_everything_with_a_viewer(tmp_path: Path):
    bundle = tiny_bundle(tmp_path / "tiny.edgeseg")
    clip = write_video(tmp_path / "clip.mp4", frames=60)
    file = tmp_path / "clip.json"
    words = ["clip", str(bundle), str(clip), "--viewers", "1", "--json", str(file)]
    assert live.main(words) == 0
    record = json.loads(file.read_text())
    check(record)
    assert record["captured"] == 60
    assert record["viewer_0_pictures"] >= 1
    assert record["command"].startswith("python -m edgeseg.bench.live clip")


def test_the_first_mask_of_a_new_process(tmp_path: Path):
    bundle = tiny_bundle(tmp_path / "tiny.edgeseg")
    clip = write_video(tmp_path / "clip.mp4", frames=10)
    figures = live.start(bundle, str(clip), rounds=1)
    assert 0.0 < figures["median_s"] < 120.0
