"""The benchmark's page: complete, escaped, self-contained, well-formed, the same every time."""

from __future__ import annotations

import dataclasses
import re
import sys

import bench_results
import numpy as np
import pytest
from bench_results import round_median
from pages import Page

from edgeseg.bench import plots
from edgeseg.bench.page import check_drawing, render_page
from edgeseg.bench.result import AccuracyRecord, EnergyRecord, MachineRecord
from edgeseg.errors import MissingDependencyError, UsageError

DRAWINGS = 8


@pytest.fixture(scope="module")
def html() -> str:
    return render_page(bench_results.full_result())


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_every_latency_figure_is_in_the_table(page):
    for one in bench_results.full_result().candidates:
        if one.unavailable:
            continue
        values = np.concatenate([np.asarray(calls) for calls in one.samples_ms])
        steps = np.concatenate([np.abs(np.diff(calls)) for calls in one.samples_ms])
        figures = [values.min(), values.mean()]
        figures += [np.percentile(values, p) for p in (50, 90, 95, 99, 99.9)]
        figures += [values.max(), steps.mean()]
        row = " ".join(f"{value:.2f}" if value >= 1 else f"{value:.3f}" for value in figures)
        assert f"{one.name} {row}" in page.text


def test_every_other_record_is_shown(page):
    for fact in (
        "Benchmark of v1",
        "AMD EPYC, Linux 6.18, 2 threads; network input 256 x 256 pixels",
        "Not a medical device",
        "a" * 64,
        "2026-11-21T15:44:52+00:00",
        "edgeseg bench v1.edgeseg --vs torch",
        "fold_norm",
        "6 of 7 candidates in turn, 8 rounds of each, 2880 calls",
        "not measured (nncf is not installed: pip install nncf)",
        "the most natural use of torch-compile. Arithmetic: float32. Version 1.2.3, 2 threads",
        "edgeseg int8 labels 100 0.6999 0.5899 21.34 case 9 (0.0123)",
        "edgeseg int8 431 212 24.8 812 37.5 RAPL package",
        "torch 1890 913 98.0 - - -",
        "13.60 int8, 1.21 fp32 31.4 8.77 2.20",
        "41 %",
        "1534 billion operations a second",
        "by GEMM",
        "FullyConnected",
        "Layers sum to 25.50 ms profiled; a run takes 21.40 ms unprofiled",
        "polyps.mp4, 1280 x 720 pixels",
        "600 drawn, 24.9 a second",
        "the video's own, as from a camera",
        "37 of 637: a newer frame came before they were taken",
        "5 of 637: decoded after they were due",
        "412.6 frames a second",
        "with graphs, frames mapped",
        "inference the work 2.204",
        "copy_in beside the work 0.118",
        "tensorrt was left out: there is no NVIDIA device",
        "AMD EPYC 9V74, 2 cores for this process",
        "avx2, avx512_vnni",
        "24.0 GiB",
        "performance",
        "2026.4.1",
    ):
        assert fact in page.text, fact
    ages = bench_results.full_result().end_to_end.samples_ms
    assert f"p99 {np.percentile(ages, 99):.2f} ms" in page.text
    requests, fps = 4, 1e3 / 118.3 * 1.7
    assert f"torch {requests} {fps:.1f} {4 * 118.3:.2f}" in page.text


def test_ratios_are_those_of_medians_and_say_what_is_noise():
    slow, same = bench_results.samples(40.0, seed=1), bench_results.samples(20.0, seed=2)
    own = bench_results.candidate(
        "edgeseg int8", 20.0, samples_ms=bench_results.samples(20.0, seed=3)
    )
    page = Page(
        render_page(
            bench_results.result(
                own,
                bench_results.candidate("torch", 40.0, samples_ms=slow),
                bench_results.candidate("openvino", 20.0, samples_ms=same),
                bench_results.candidate("nncf", 10.0, samples_ms=bench_results.samples(10.0)),
            )
        )
    )
    expected = round_median(slow) / round_median(own.samples_ms)
    assert f"{expected:.2f} times as fast (" in page.text
    assert "no difference beyond noise (" in page.text
    slower = round_median(own.samples_ms) / round_median(bench_results.samples(10.0))
    assert f"takes {slower:.2f} times as long (" in page.text
    assert f"{1 / slower:.2f} x" in page.text  # at a glance, against the fastest peer


def test_drawings_are_labelled_pictures_that_name_what_they_show(page):
    drawings = page.attributes("svg")
    assert len(drawings) == DRAWINGS == len(page.attributes("figure"))
    for attributes in drawings:
        assert attributes["role"] == "img" and len(attributes["aria-label"]) > 40
    labels = " ".join(attributes["aria-label"] for attributes in drawings)
    for told in ("Medians: edgeseg int8 21.", "torch: 118.", "MLP 11.90 ms, 45 %", "decode 3.10"):
        assert told in labels, told
    for name in ("edgeseg int8", "torch-compile", "attention", "readout", "p99 "):
        assert name in page.text


def test_references_between_elements_resolve_and_names_are_unique(html, page):
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    wanted = set(re.findall(r"url\(#([^)]+)\)", html)) | {
        attributes["href"][1:] for _, attributes in page.tags if "href" in attributes
    }
    assert wanted <= set(names)


def test_colours_are_those_of_the_page_in_light_and_in_dark(html):
    style, rest = html.split("</style>", 1)
    assert not re.findall(r"(?:fill|stroke|color): ?#", rest)
    used = set(re.findall(r"var\((--[\w-]+)\)", rest))
    assert {"--ink", "--series-0", "--series-5"} <= used
    light, dark = style.split("prefers-color-scheme: dark", 1)
    for name in used:
        assert f"{name}:" in light and f"{name}:" in dark, name
    assert "@media print" in style


def test_the_page_needs_nothing_from_outside(html, page):
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "img"}
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, value)
        assert not any(name.startswith("on") for name in attributes)
    assert "http:" not in html and "https:" not in html and "@import" not in html
    assert html.count("<style>") == 1


def test_tables_have_headers(page):
    tables = page.attributes("table")
    assert len(tables) == len(page.attributes("caption")) >= 7
    assert {attributes.get("scope") for attributes in page.attributes("th")} == {"row", "col"}


def test_text_is_escaped_everywhere():
    nasty = '_<script>alert("1")</script> &amp; \' > $title ${body} $x_1$'
    full = bench_results.full_result()
    score = AccuracyRecord(3, "labels", 0.5, 0.4, None, nasty, 0.1)
    candidates = tuple(
        dataclasses.replace(
            one,
            name=f"edgeseg {nasty}" if index == 0 else nasty,
            version=nasty,
            how=nasty,
            precision=nasty,
            accuracy=score,
            energy=EnergyRecord(nasty, 1.0, 1.0),
            unavailable=nasty if one.unavailable else None,
        )
        for index, one in enumerate(full.candidates)
    )
    block = {"block": nasty, "ms": 1.0, "share": 1.0, "layers": 1}
    block["slowest"] = [{"name": nasty, "kind": nasty, "ms": 1.0}]
    page = Page(
        render_page(
            dataclasses.replace(
                full,
                subject=nasty,
                family=nasty,
                command=nasty,
                date_utc=nasty,
                edgeseg_version=nasty,
                checkpoint_sha256=nasty,
                rewrites=(nasty,),
                machine=MachineRecord(
                    nasty, nasty, 2, (nasty,), 1.0, nasty, nasty, nasty, {nasty: nasty}
                ),
                candidates=candidates,
                stages_ms={nasty: {"p50": 1.0, nasty: 2.0}},
                limits=dataclasses.replace(full.limits, gops={nasty: 1.0}, how=nasty),
                blocks={**full.blocks, "blocks": [block], "note": nasty},
                frame_path={
                    "how": nasty,
                    "frames_per_s": 1.0,
                    "copies_ms": {nasty: 1.0},
                    "steps_ms": {nasty: 1.0},
                },
                end_to_end=dataclasses.replace(
                    full.end_to_end, video=nasty, stages_ms={nasty: 1.0}
                ),
                notes=(nasty,),
            )
        )
    )
    assert not page.attributes("script")
    assert page.text.count(nasty) >= 60
    assert sum(nasty in attributes["aria-label"] for attributes in page.attributes("svg")) >= 7


def test_absent_records_leave_their_sections_out_and_accuracy_is_said_to_be_missing():
    bare = bench_results.result(bench_results.candidate("edgeseg fp32", 20.0))
    page = Page(render_page(bare))
    assert "no validation data was given ( --val FOLDER )" in page.text
    for title in ("Throughput", "Stages", "Blocks", "Capture to overlay", "allows", "Notes"):
        assert title not in page.text
    assert "Frame path" not in page.text
    assert len(page.attributes("svg")) == 2
    assert not Page(render_page(bench_results.result())).attributes("svg")


def test_rounds_of_one_call_and_calls_that_are_all_alike_are_drawn():
    for samples in (((5.0,),), ((5.0, 5.0), (5.0, 5.0)), ((0.02, 900.0),)):
        one = bench_results.candidate("edgeseg int8", 5.0, samples_ms=samples)
        other = dataclasses.replace(one, name="torch")
        page = Page(render_page(bench_results.result(one, other)))
        assert "too few rounds" in page.text
        assert "nan" not in page.text.lower()


def test_a_latency_that_is_no_number_is_refused():
    broken = bench_results.candidate("torch", 1.0, samples_ms=((1.0, float("nan")),))
    with pytest.raises(UsageError, match="finite"):
        render_page(bench_results.result(broken))


def test_the_same_result_gives_the_same_page_whatever_the_user_has_set(html):
    import matplotlib

    before = matplotlib.rcParams["lines.linewidth"]
    try:
        matplotlib.rcParams["lines.linewidth"] = 17.0
        assert render_page(bench_results.full_result()) == html
        assert matplotlib.rcParams["lines.linewidth"] == 17.0
    finally:
        matplotlib.rcParams["lines.linewidth"] = before


def test_a_missing_matplotlib_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for attempt in (check_drawing, lambda: render_page(bench_results.full_result())):
        with pytest.raises(MissingDependencyError, match=r"pip install 'edgeseg\[bench\]'"):
            attempt()


def test_long_runs_stay_small_and_keep_their_slowest_call():
    generator = np.random.default_rng(3)
    rounds = [list(10.0 + generator.random(4000)) for _ in range(5)]
    rounds[2][1234] = 99.0
    drawing = plots.time_line([plots.Samples("torch", rounds, 0)])
    assert "1 above, up to 99.0 ms" in drawing
    assert len(drawing) < 60_000


def test_the_time_line_tells_drift():
    rounds = [[10.0 + number] * 5 for number in range(4)]
    assert "torch +30.0%" in plots.time_line([plots.Samples("torch", rounds, 0)])


def test_names_of_points_that_lie_together_do_not_cover_each_other():
    names = [f"candidate {number}" for number in range(6)]
    points = [plots.Point(name, 20.0, 0.7, index) for index, name in enumerate(names)]
    drawing = plots.scatter([*points, plots.Point("far", 90.0, 0.6, 6)], "Dice")
    found = re.findall(r'<text [^>]*\bx="([\d.]+)" y="([\d.]+)"[^>]*>candidate \d', drawing)
    places = [(float(x), float(y)) for x, y in found]
    assert len(places) == 6
    for index, (x, y) in enumerate(places):
        for other_x, other_y in places[:index]:
            assert abs(x - other_x) > 50 or abs(y - other_y) > 9


def test_frames_are_dropped_and_late_only_at_the_videos_own_rate():
    full = bench_results.full_result()
    taken = dataclasses.replace(full.end_to_end, paced=False, dropped=0, late=0)
    page = Page(render_page(dataclasses.replace(full, end_to_end=taken)))
    assert "as fast as they are taken" in page.text
    assert "a newer frame came" not in page.text and "after they were due" not in page.text
