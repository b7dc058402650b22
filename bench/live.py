"""``python -m edgeseg.bench.live SCENARIO``: ages, drops, memory and overhead of live sessions.

- ``clip BUNDLE VIDEO``: a real video at its own rate, dropping the oldest, every stage real; with
  ``--serve`` the live page is on and two clients look at it.
- ``overload``: a feed of 60 frames a second into an engine that sleeps 33 ms: ages, and whether
  ages and memory grow over 20,000 frames.
- ``overhead``: a feed that waits for an engine that sleeps: how busy the engine is, and what a
  frame costs beside it.
- ``soak``: 200,000 frames with random faults of source and engine: memory, books, deadlocks.
- ``start BUNDLE VIDEO``: from the start of a new process to the first mask.

Figures are of the machine and the moment; ``--json FILE`` keeps them with both.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edgeseg._files import atomic_file
from edgeseg.bench.live_parts import Counter, Feed, SleepingEngine, noise, plain_session, rss_mib
from edgeseg.bench.machine import describe_machine
from edgeseg.live.base import Shown
from edgeseg.live.session import LiveOptions, LiveReport
from edgeseg.spec import to_json

__all__ = ["clip", "main", "overhead", "overload", "soak", "start"]

Figures = dict[str, Any]

_VIEWER = """
import asyncio, contextlib, struct, sys, json, websockets
async def look(url, origin):
    got = 0
    async with websockets.connect(url, origin=origin, max_size=None) as socket:
        await socket.send(json.dumps({"type": "view", "view": "overlay"}))
        print("connected", flush=True)
        async for message in socket:
            if isinstance(message, bytes):
                got += 1
                size = struct.unpack(">I", message[:4])[0]
                number = json.loads(message[4:4 + size])["number"]
                await socket.send(json.dumps({"type": "ack", "number": number}))
                print(got, flush=True)
with contextlib.suppress(websockets.ConnectionClosed):
    asyncio.run(look(*sys.argv[1:]))
"""
"""A viewer in a process of its own, as a browser is."""


def _ages(ages_ms: Sequence[float]) -> Figures:
    if not ages_ms:
        return {"masks": 0}
    values = np.asarray(ages_ms)
    p50, p90, p99 = (float(np.percentile(values, q)) for q in (50, 90, 99))
    return {
        "masks": len(values),
        "age_p50_ms": p50,
        "age_p90_ms": p90,
        "age_p99_ms": p99,
        "age_max_ms": float(values.max()),
        "age_jitter_ms": float(values.std()),
    }


def _books(report: LiveReport) -> Figures:
    status = report.status
    total = status.shown + status.predicted + status.unmasked + sum(status.dropped.values())
    return {
        "captured": status.captured,
        "shown": status.shown,
        "unmasked": status.unmasked,
        "dropped": dict(status.dropped),
        "unaccounted": status.captured - total,
        "faults": dict(status.faults),
        "reconnections": status.reconnections,
    }


def _growth(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Slope of a straight line, per 1000 s; the first tenth is warm-up."""
    skip = len(times_s) // 10
    if len(times_s) - skip < 3:
        return 0.0
    slope = np.polyfit(np.asarray(times_s[skip:]), np.asarray(values[skip:]), 1)[0]
    return 1000.0 * float(slope)


def overload(
    frames: int = 20000, rate: float = 60.0, sleep_ms: float = 33.0, size: str = "1280x720"
) -> Figures:
    """A source above the engine's capacity: ages must not grow, nor memory."""
    width, height = map(int, size.split("x"))
    memory: list[tuple[float, float]] = []

    def each(shown: Shown) -> None:
        if shown.number % 100 == 0:
            memory.append((shown.shown_s, rss_mib()))

    sink = Counter(each)
    feed = Feed(noise(24, height, width), frames, rate)
    engine = SleepingEngine(sleep_ms / 1e3)
    report = plain_session(feed, lambda: engine, sink, LiveOptions()).run()
    gaps_ms = 1e3 * np.diff(sink.shown_s)
    quarter = len(sink.ages_ms) // 4
    return {
        "scenario": f"{frames} frames of {size} at {rate:g}/s, engine {sleep_ms:g} ms",
        **_books(report),
        **_ages(sink.ages_ms),
        "engine_ms": sleep_ms,
        "age_p99_in_engine_times": float(np.percentile(sink.ages_ms, 99)) / sleep_ms,
        "age_p50_first_quarter_ms": statistics.median(sink.ages_ms[:quarter]),
        "age_p50_last_quarter_ms": statistics.median(sink.ages_ms[-quarter:]),
        "masks_per_s": 1e3 / float(np.mean(gaps_ms)),
        "mask_gap_p10_ms": float(np.percentile(gaps_ms, 10)),
        "mask_gap_p90_ms": float(np.percentile(gaps_ms, 90)),
        "rss_first_mib": memory[0][1],
        "rss_last_mib": memory[-1][1],
        "rss_mib_per_1000_s": _growth([t for t, _ in memory], [m for _, m in memory]),
        "skipped_by_the_feed": feed.skipped,
    }


def overhead(frames: int = 500, sleep_ms: float = 40.0, size: str = "1280x720") -> Figures:
    """The engine alone is the bottleneck: how busy it is, and what is added to a frame."""
    width, height = map(int, size.split("x"))
    result: Figures = {"scenario": f"{frames} frames of {size}, engine sleeps {sleep_ms:g} ms"}
    waiting, live = SleepingEngine(sleep_ms / 1e3), SleepingEngine(sleep_ms / 1e3)
    pictures = noise(24, height, width)
    sink = Counter()
    plain_session(Feed(pictures, frames, None), lambda: waiting, sink, LiveOptions()).run()
    result["engine_busy_waiting_source"] = waiting.busy
    # Slower than the engine: a frame waits for nothing, so its age is the engine and the pipeline.
    sink = Counter()
    rate = 0.5e3 / sleep_ms
    feed = Feed(pictures, min(frames, 300), rate)
    plain_session(feed, lambda: live, sink, LiveOptions()).run()
    inside_ms = 1e3 * live.inside_s / live.calls
    result["engine_ms_mean"] = inside_ms
    result["added_p50_ms"] = statistics.median(sink.ages_ms) - inside_ms
    result.update(_ages(sink.ages_ms))
    return result


def soak(frames: int = 200_000, seed: int = 0, rate: float = 1000.0) -> Figures:
    """Many frames with random faults: nothing leaks, hangs, or is unaccounted for."""
    chance = random.Random(seed)
    memory: list[tuple[float, float]] = []
    threads: list[int] = []

    feed = Feed(noise(16, 96, 128), frames, rate, faults=chance)
    options = LiveOptions(max_age_ms=100.0, give_up_ms=120.0)
    wrong = [0]

    def check(shown: Shown) -> None:
        if shown.number % 500 == 0:
            memory.append((shown.shown_s, rss_mib()))
            threads.append(threading.active_count())
        too_old = shown.age_ms is not None and shown.age_ms > 100.0
        mixed = shown.state == "current" and shown.mask_index != shown.frame.index
        wrong[0] += too_old or mixed

    sink = Counter(check)
    start = time.monotonic()
    report = plain_session(feed, lambda: SleepingEngine(0.001, faults=chance), sink, options).run()
    return {
        "scenario": f"{frames} frames at {rate:g}/s, random faults, seed {seed}",
        "seconds": time.monotonic() - start,
        **_books(report),
        **_ages(sink.ages_ms),
        "wrong_pictures": wrong[0],
        "left_behind": list(report.unfinished),
        "rss_first_mib": memory[len(memory) // 10][1],
        "rss_last_mib": memory[-1][1],
        "rss_mib_per_1000_s": _growth([t for t, _ in memory], [m for _, m in memory]),
        "threads_max": max(threads),
    }


def clip(
    bundle: Path, video: str, *, threads: int | None, seconds: float | None, viewers: int
) -> Figures:
    """A real video at its own rate through everything, again and again for ``seconds`` if they are
    given; ``viewers`` look at the page."""
    from edgeseg.live.sources import SourceOptions, open_live_source
    from edgeseg.model import open as open_model

    sink = Counter()
    with open_model(bundle, threads=threads) as model, _Serving(viewers) as serving:
        source = open_live_source(video, SourceOptions(pace="source", loop=seconds is not None))
        report = serving(model, source, sink, seconds)
        variant = model.variant.name
    gaps_ms = 1e3 * np.diff(sink.shown_s)
    return {
        "scenario": f"{Path(video).name} at its own pace, {bundle.name}, {variant}, "
        f"{threads or 'all'} threads" + (f", {viewers} viewers" if viewers else ""),
        **_books(report),
        **_ages(sink.ages_ms),
        "engine_ms": report.status.engine_ms,
        "engine_busy": report.status.engine_busy,
        "mask_gap_p50_ms": float(np.percentile(gaps_ms, 50)),
        "mask_gap_p99_ms": float(np.percentile(gaps_ms, 99)),
        **{f"viewer_{i}_pictures": n for i, n in enumerate(serving.pictures)},
    }


class _Serving:
    """Runs the session of ``clip``, with the page and its viewers if there are any."""

    def __init__(self, viewers: int) -> None:
        self._viewers = viewers
        self._processes: list[subprocess.Popen[str]] = []
        self._counts: list[int] = [0] * viewers

    def __enter__(self) -> _Serving:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    @property
    def pictures(self) -> list[int]:
        """How many each viewer got."""
        return self._counts

    def __call__(self, model: Any, source: Any, sink: Counter, seconds: float | None) -> LiveReport:
        from edgeseg.live.computation import computation_for

        session = plain_session(
            source, lambda: computation_for(model, close_model=False), sink, LiveOptions()
        )
        timer = threading.Timer(seconds, session.stop) if seconds else None
        if timer is not None:
            timer.start()
        if not self._viewers:
            return session.run()
        from edgeseg.web import LivePage

        page = LivePage("127.0.0.1:0", session, token=None)
        try:
            session.add_sink(page.sink)
            for i in range(self._viewers):
                self._look(i, page.url)
            return session.run()
        finally:
            page.close()

    def _look(self, i: int, url: str) -> None:
        socket = url.replace("http://", "ws://").rstrip("/") + "/ws"
        process = subprocess.Popen(
            [sys.executable, "-c", _VIEWER, socket, url.rstrip("/")],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()

        def count(lines: Any) -> None:
            for line in lines:
                self._counts[i] = int(line)

        threading.Thread(target=count, args=(process.stdout,), daemon=True).start()


_FIRST_MASK = """
import sys, time
began = time.clock_gettime(time.CLOCK_BOOTTIME)
with open("/proc/self/stat") as stat:
    ticks = int(stat.read().rpartition(")")[2].split()[19])
import os
started = ticks / os.sysconf("SC_CLK_TCK")
import edgeseg
with edgeseg.stream(sys.argv[1], sys.argv[2]) as results:
    for result in results:
        if result.mask is not None:
            print(time.clock_gettime(time.CLOCK_BOOTTIME) - started)
            break
"""


def start(bundle: Path, video: str, rounds: int = 7) -> Figures:
    """Seconds from the start of a process to the first mask; the first round warms the disk."""
    took_s = []
    for _ in range(rounds + 1):
        done = subprocess.run(
            [sys.executable, "-c", _FIRST_MASK, str(bundle), video],
            capture_output=True,
            text=True,
            check=True,
        )
        took_s.append(float(done.stdout.split()[-1]))
    return {
        "scenario": f"a new process, {bundle.name}, {Path(video).name}",
        "first_round_s": took_s[0],
        "median_s": statistics.median(took_s[1:]),
        "max_s": max(took_s[1:]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one scenario and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m edgeseg.bench.live", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    scenarios = parser.add_subparsers(dest="scenario", required=True)
    for name in ("clip", "overload", "overhead", "soak", "start"):
        sub = scenarios.add_parser(name)
        sub.add_argument("--json", type=Path, metavar="FILE")
        if name in ("clip", "start"):
            sub.add_argument("bundle", type=Path)
            sub.add_argument("video")
        if name == "clip":
            sub.add_argument("--threads", type=int)
            sub.add_argument("--seconds", type=float)
            sub.add_argument("--viewers", type=int, default=0)
        if name in ("overload", "overhead", "soak"):
            sub.add_argument("--frames", type=int)
        if name in ("overload", "overhead"):
            sub.add_argument("--sleep-ms", type=float, dest="sleep_ms")
    given = vars(parser.parse_args(arguments))
    scenario, file = given.pop("scenario"), given.pop("json")
    run: Mapping[str, Callable[..., Figures]] = {
        "clip": clip,
        "overload": overload,
        "overhead": overhead,
        "soak": soak,
        "start": start,
    }
    optional = ("frames", "sleep_ms")
    figures = run[scenario](
        **{k: v for k, v in given.items() if v is not None or k not in optional}
    )
    table = Table(title=figures["scenario"], title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        if name != "scenario":
            table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    Console(markup=False, highlight=False).print(table)
    if file is not None:
        record = {
            "name": scenario,
            "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(["python -m edgeseg.bench.live", *(arguments or sys.argv[1:])]),
            "machine": to_json(describe_machine(("openvino", "av", "numpy"))),
            **figures,
        }
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
