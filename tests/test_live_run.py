"""``edgeseg run`` on live sources, and ``edgeseg.stream``: real bundles, processes and signals."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from builders import tiny_bundle, tiny_views, tiny_views_bundle
from live_doubles import Numbered, numbered
from video_files import cut, write_video

import edgeseg
from edgeseg.cli import main
from edgeseg.errors import BundleError, DataError, SourceLostError, TruncatedVideoError, UsageError
from edgeseg.live.events import read_events
from edgeseg.live.session import LiveOptions
from edgeseg.live.sinks.masks import read_masks
from edgeseg.workflows._live_session import Look
from edgeseg.workflows.live import run_live


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("live") / "tiny.edgeseg")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_video(path, frames=40)


def frames_of(path: Path) -> int:
    """Pictures that a player gets."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err.strip()
    lines = [line for line in text.splitlines() if not line.startswith(("WARNING", "INFO"))]
    assert len(lines) == 1, text
    return lines[0]


# edgeseg.stream


def test_a_stream_gives_every_frame_of_a_file_with_the_mask_of_the_model(bundle, clip):
    from edgeseg.video import open_source

    with open_source(clip) as source, edgeseg.open(bundle) as model:
        expected = [model(frame.image).mask for frame in source]
    results = list(edgeseg.stream(bundle, str(clip)))
    assert [one.frame.index for one in results] == list(range(40))
    assert all(one.state == "current" for one in results)
    for one, mask in zip(results, expected, strict=True):
        np.testing.assert_array_equal(one.mask, mask)


def test_a_stream_takes_an_open_model_and_leaves_it_open(bundle, clip):
    with edgeseg.open(bundle) as model:
        count = sum(1 for _ in edgeseg.stream(model, str(clip)))
        assert count == 40
        model(numbered(0, 96, 128))
        with pytest.raises(UsageError, match="open already"):
            edgeseg.stream(model, str(clip), threads=1)


def test_a_slow_caller_gets_the_newest_result_of_a_live_source_and_never_an_old_mask(bundle):
    source = Numbered((numbered(i) for i in range(150)), 50.0)
    seen = []
    for result in edgeseg.stream(bundle, source, options=LiveOptions(max_age_ms=200.0)):
        age_ms = result.age_now_ms()
        assert age_ms is None or age_ms <= 205.0
        seen.append(result.frame.index)
        time.sleep(0.1)
    assert 10 <= len(seen) <= 60
    assert seen == sorted(seen)


def test_leaving_the_loop_frees_everything(bundle):
    source = Numbered(map(numbered, itertools.count()), 50.0)
    with edgeseg.stream(bundle, source) as results:
        for result in results:
            if result.mask is not None:
                break
    assert source.closed >= 1
    assert results.report is not None
    assert results.report.status.in_flight == 0


def test_a_stream_raises_what_ended_it_after_the_last_result(bundle):
    source = Numbered([*(numbered(i) for i in range(5)), TruncatedVideoError("cut")])
    results = []
    with pytest.raises(TruncatedVideoError, match="cut"):
        results.extend(edgeseg.stream(bundle, source))
    assert len(results) == 0 or len(results) == 5
    source = Numbered([], 25.0)
    source.refusals = [SourceLostError("no answer")]
    with pytest.raises(SourceLostError, match="no answer"):
        list(edgeseg.stream(bundle, source))
    with pytest.raises(BundleError, match="does not exist"):
        edgeseg.stream("nothing.edgeseg", Numbered([]))


def test_the_region_of_interest_is_where_the_mask_is(bundle, clip):
    look = Look(roi="32,16,64,64")
    with edgeseg.open(bundle) as model:
        from edgeseg.spec import RoiSpec

        region = RoiSpec(32, 16, 64, 64)
        for result in edgeseg.stream(model, str(clip), look=look):
            expected = model(result.frame.image, region=region).mask
            np.testing.assert_array_equal(result.mask, expected)


def test_a_region_that_is_followed_replaces_the_whole_frame(bundle):
    from edgeseg.region import RegionTracker, region_in_frame

    rng = np.random.default_rng(0)
    frames = []
    for _ in range(60):
        frame = np.zeros((120, 200, 3), np.uint8)
        frame[10:110, 40:160] = rng.integers(60, 200, (100, 120, 3), np.uint8)
        frames.append(frame)
    look = Look(roi="auto")
    with edgeseg.open(bundle) as model:
        results = list(edgeseg.stream(model, Numbered(frames, 25.0), look=look))
        tracker = RegionTracker()
        regions = []
        for result in results:
            if result.mask is None:
                continue
            found = tracker.step(result.frame.image, result.frame.captured_s)
            regions.append(region_in_frame(found, (120, 200)))
            expected = model(result.frame.image, region=regions[-1]).mask
            # A result may have been passed over, so that a step of the tracker is missing here.
            if regions[-1] == regions[0] or len(regions) > 40:
                np.testing.assert_array_equal(result.mask, expected)
    assert abs(regions[-1].x_px - 40) <= 2 and abs(regions[-1].width_px - 120) <= 4


# edgeseg run


def test_a_live_run_writes_all_outputs_and_a_log(bundle, clip, tmp_path, capsys):
    video, masks, log = tmp_path / "overlay.mp4", tmp_path / "masks.jsonl", tmp_path / "log.jsonl"
    code = main(["run", str(bundle), str(clip), str(video), f"mask://{masks}", "--log", str(log)])
    assert code == 0
    assert "40 frames captured: 40 shown" in capsys.readouterr().out
    assert frames_of(video) == 40
    lines = list(read_masks(masks))
    assert [line.frame for line in lines] == list(range(40))
    events = list(read_events(log))
    assert events[0].kind == "start"
    assert events[0].data["policy"] == "wait" and events[0].data["max_age_ms"] is None
    assert events[0].data["opacity"] == 0.4 and 0.0 < events[0].data["threshold"] < 1.0
    assert events[-1].kind == "end"
    model = next(event for event in events if event.kind == "model")
    from edgeseg.bundle import read_bundle

    assert model.data["bundle_sha256"] == read_bundle(bundle).digest
    assert events[-1].data["captured"] == 40


def test_why_a_run_is_live_is_said_and_plain_files_are_not(bundle, clip, tmp_path, capsys):
    assert main(["run", str(bundle), str(clip), str(tmp_path / "a.mp4"), "--pace", "none"]) == 0
    assert "live: --pace" in capsys.readouterr().out
    assert main(["run", str(bundle), str(clip), str(tmp_path / "b.mp4")]) == 0
    assert "live:" not in capsys.readouterr().out


def test_raw_pictures_leave_through_standard_output_alone(bundle, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "edgeseg", "run", str(bundle), "-", "-"),
            *("--source-size", "64x48", "--pace", "none", "--no-status-line"),
        ],
        check=False,
        input=b"".join(numbered(i).tobytes() for i in range(10)),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout) == 10 * 48 * 64 * 3
    assert b"10 frames captured" in done.stderr


def start_run(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgeseg", "run", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def wait_until(condition, what: str, timeout_s: float = 30.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"{what}: timed out"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_live_run_regularly(bundle, tmp_path, number):
    video, log = tmp_path / "overlay.mkv", tmp_path / "log.jsonl"
    process = start_run(str(bundle), "test://64x48@25", str(video), "--log", str(log))
    try:
        wait_until(lambda: video.exists() and video.stat().st_size > 4000, "a recording")
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "frames captured" in output
    assert frames_of(video) > 10
    assert list(read_events(log))[-1].kind == "end"


def test_a_recording_plays_after_sigkill(bundle, tmp_path):
    video, log = tmp_path / "overlay.mp4", tmp_path / "log.jsonl"
    process = start_run(str(bundle), "test://64x48@25", str(video), "--log", str(log))
    try:
        wait_until(lambda: video.exists() and video.stat().st_size > 20000, "a recording")
    finally:
        process.kill()
        process.communicate(timeout=20)
    assert frames_of(video) >= 10
    assert [event.kind for event in read_events(log)][:1] == ["start"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["rtsq://camera", "display://"], 2, "a source cannot be rtsq://"),
        (["test://10x10@25", "out.mp4"], 2, "between 16"),
        (["test://64x48@25", "out.txt"], 2, "a video is written as"),
        (["test://64x48@25"], 2, "nothing to show"),
        (["test://64x48@25", "out.mp4", "--loop"], 2, "means nothing"),
        (["test://64x48@25", "out.mp4", "--buffer", "5"], 2, "1 or 2"),
        (["test://64x48@25", "out.mp4", "--max-age-ms", "0"], 2, "positive"),
        (["test://64x48@25", "out.mp4", "--roi", "1,2,3"], 2, "X,Y,WIDTH,HEIGHT"),
        (["test://64x48@25", "out.mp4", "--roi", "32,16,64,64"], 1, "32"),
        (["test://64x48@25", "out.mp4", "--mask-only"], 2, "mask://"),
        (["test://64x48@25", "out.mp4", "--threshold", "2"], 2, "between 0 and 1"),
        (["v4l2:///dev/video99", "out.mp4"], 1, "/dev/video99"),
        (["missing.mp4", "out.mp4", "--pace", "source"], 1, "missing.mp4"),
        (["test://64x48@25", "/proc/nowhere/out.mp4"], 1, "/proc/nowhere"),
        (["test://64x48@25", "--serve", "0.0.0.0:0"], 2, "token"),
        (["test://64x48@25", "--serve", "nonsense:port"], 2, "port"),
        (["test://64x48@25", "out.mp4", "--token-file", "t"], 2, "--serve"),
        (["test://64x48@25", "out.mp4", "--budget-ms", "-1"], 2, "positive"),
    ],
)
def test_bad_input_is_one_line(bundle, tmp_path, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGESEG_TOKEN", raising=False)
    assert main(["run", str(bundle), *words, "--quiet"]) == code
    line = one_line(capsys)
    assert message in line, line


def test_nothing_is_left_of_outputs_that_never_got_a_picture(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["run", str(bundle), "v4l2:///dev/video99", "out.mp4", "--quiet"])
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_not_replaced_without_force(bundle, clip, tmp_path, capsys):
    video = tmp_path / "overlay.mp4"
    video.write_bytes(b"precious")
    words = ["run", str(bundle), str(clip), str(video), "--pace", "none", "--quiet"]
    assert main(words) == 1
    assert "--force" in one_line(capsys)
    assert video.read_bytes() == b"precious"
    assert main([*words, "--force"]) == 0
    assert frames_of(video) == 40


def test_a_port_that_is_taken_is_told_before_anything_starts(bundle, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["run", str(bundle), "test://64x48@25", "--serve", str(port), "--quiet"]
        assert main(words) == 1
    line = one_line(capsys)
    assert str(port) in line and "in use" in line


def test_the_page_is_served_while_a_run_goes_on(bundle, tmp_path):
    import urllib.request

    process = start_run(
        str(bundle), "test://64x48@25", "--serve", "0", "--record-to", str(tmp_path)
    )
    try:
        assert process.stdout is not None
        url = ""
        for line in process.stdout:
            if line.startswith("page: "):
                url = line.split()[1].rstrip("/")
                break

        def status() -> dict:
            with urllib.request.urlopen(f"{url}/api/status", timeout=10) as answer:
                return json.load(answer)

        wait_until(lambda: status()["shown"] > 20, "pictures")
        with urllib.request.urlopen(f"{url}/api/model", timeout=10) as answer:
            assert json.load(answer)["name"] == "tiny"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0


def test_a_file_that_breaks_off_is_written_as_far_as_it_goes(bundle, tmp_path, capsys):
    broken = cut(write_video(tmp_path / "whole.mkv", frames=40), 0.6)
    out = tmp_path / "out.mp4"
    assert main(["run", str(bundle), str(broken), str(out), "--pace", "none", "--quiet"]) == 1
    assert "cut or damaged" in one_line(capsys)
    assert frames_of(out) >= 10


def test_run_live_needs_somewhere_to_show_pictures(bundle):
    with pytest.raises(UsageError, match="nothing to show"):
        run_live(bundle, "test://64x48@25")
    with pytest.raises(DataError):
        run_live(bundle, "no such file.mp4", ["out.mp4"])


def test_the_latest_frame_of_a_source_that_waits_is_refused(bundle, clip, tmp_path, capsys):
    words = ["run", str(bundle), str(clip), str(tmp_path / "o.mp4"), "--latest-frame", "--quiet"]
    assert main(words) == 2
    assert "--pace source" in one_line(capsys)


@pytest.fixture(scope="module")
def many_views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_views_bundle(
        tmp_path_factory.mktemp("views") / "views.edgeseg",
        tiny_views(((32, 48), (64, 48)), ("none", "h")),
    )


@pytest.mark.parametrize(("budget_ms", "views"), [(1e5, "4 of 4 views"), (1e-3, "1 of 4 views")])
def test_a_budget_chooses_the_views(many_views, clip, tmp_path, budget_ms, views):
    masks = tmp_path / "masks.jsonl"
    report = run_live(many_views, str(clip), [f"mask://{masks}"], budget_ms=budget_ms, threads=1)
    assert report.report.status.views == views
    assert report.report.status.shown == 40
    chosen = {"4 of 4 views": None, "1 of 4 views": ((32, 48),)}[views]
    settings = edgeseg.Settings(views=chosen, flips=None if chosen is None else ())
    with edgeseg.open(many_views, threads=1, settings=settings) as model:
        results = list(edgeseg.stream(model, str(clip)))
    # The last frames: by then a ladder that had to go down has gone down.
    lines = list(read_masks(masks))
    for line, result in list(zip(lines, results, strict=True))[-5:]:
        np.testing.assert_array_equal(line.mask, result.mask)


def test_an_output_is_never_the_source(bundle, clip, tmp_path, capsys):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    words = ["run", str(bundle), str(copy), str(copy), "--pace", "none", "--force", "--quiet"]
    assert main(words) != 0
    one_line(capsys)
    assert copy.read_bytes() == clip.read_bytes()
