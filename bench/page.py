"""``report.html`` of a benchmark: everything in ``result.json``, for a person.

The page is one file without scripts and requests; its drawings are SVG in the page itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgeseg._html import code, document, facts, figures, table, text
from edgeseg._optional import require
from edgeseg.bench import plots
from edgeseg.bench.result import BenchResult, CandidateRecord, EndToEndRecord
from edgeseg.bench.stats import summary_ms
from edgeseg.bench.verdict import judge, measured, peers, reference

__all__ = ["check_drawing", "render_page"]

_NONE = "-"
_COLUMNS = ("min", "mean", "p50", "p90", "p95", "p99", "p99.9", "max", "jitter")


def check_drawing() -> None:
    """Refuse before long work what `render_page` would refuse after it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "bench")


def render_page(result: BenchResult) -> str:
    """Render the page.

    Args:
        result: what to show. Records that are absent leave their section out; without accuracy
            a sentence says so.

    Returns:
        A complete HTML document, the same for the same result and version of matplotlib.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        UsageError: a candidate's latencies are not finite.
    """
    check_drawing()
    return document(
        title=f"Benchmark of {result.subject}",
        lead=_lead(result),
        version=result.edgeseg_version,
        sections=[
            ("glance", "At a glance", _glance(result)),
            ("run", "Run", _run(result)),
            ("latency", "Latency", _latency(result)),
            ("distribution", "Distribution", _distribution(result)),
            ("time", "Time line", _time_line(result)),
            ("accuracy", "Accuracy against latency", _accuracy(result)),
            ("cost", "Loading, memory, size, energy", _cost(result)),
            ("throughput", "Throughput", _throughput(result)),
            ("stages", "Stages of a frame", _stages(result)),
            ("blocks", "Blocks of the network", _blocks(result.blocks)),
            ("frame-path", "Frame path on the GPU", _frame_path(result.frame_path)),
            ("end-to-end", "Capture to overlay", _end_to_end(result.end_to_end)),
            ("limits", "What the machine allows", _limits(result)),
            ("how", "How each candidate was built", _how(result)),
            ("notes", "Notes", _notes(result.notes)),
            ("machine", "Machine and versions", _machine(result)),
        ],
        footer=(
            f"Written by edgeseg {text(result.edgeseg_version)} on {text(result.date_utc)}. The "
            "file <code>result.json</code> beside this page holds the same and every single "
            "latency for machines, and is what counts."
        ),
    )


def _lead(result: BenchResult) -> str:
    threads = sorted({one.threads for one in measured(result)})
    with_threads = ", ".join(map(str, threads))
    of_threads = f", {with_threads} {'thread' if threads == [1] else 'threads'}" if threads else ""
    height, width = result.input_hw_px
    return f"{result.machine.name}{of_threads}; network input {height} x {width} pixels"


def _glance(result: BenchResult) -> str:
    own = reference(result)
    if own is None:
        return ""
    summary = summary_ms(own.samples_ms)
    boxes = [(own.name, f"{summary['p50']:.2f} ms", f"median; p99 {summary['p99']:.2f} ms")]
    others = peers(result)
    if others:
        fastest = min(others, key=lambda one: summary_ms(one.samples_ms)["p50"])
        verdict = judge(fastest.samples_ms, own.samples_ms, paired=True)
        boxes.append(
            (
                f"against {fastest.name}, the fastest peer",
                f"{verdict.ratio.value:.2f} x"
                if verdict.faster or verdict.slower
                else "no difference",
                f"{verdict.words}; it takes {summary_ms(fastest.samples_ms)['p50']:.2f} ms",
            )
        )
    if own.accuracy is not None:
        found = own.accuracy
        boxes.append(
            (
                "Dice" if found.against == "labels" else "Dice against FP32",
                f"{found.dice:.4f}",
                f"{found.cases} cases",
            )
        )
    if own.bound is not None:
        bound_ms = max(own.bound.compute_ms, own.bound.memory_ms)
        boxes.append(
            (
                "share of the bound",
                _percent(own.bound.share),
                f"this machine cannot do it below {bound_ms:.2f} ms",
            )
        )
    if result.end_to_end is not None and result.end_to_end.samples_ms:
        age = summary_ms([result.end_to_end.samples_ms])
        boxes.append(
            ("capture to overlay", f"{age['p50']:.1f} ms", f"median; p99 {age['p99']:.1f} ms")
        )
    return figures(boxes)


def _run(result: BenchResult) -> str:
    shown = measured(result)
    rounds = sorted({len(one.samples_ms) for one in shown})
    calls = sum(len(one) for candidate in shown for one in candidate.samples_ms)
    frame = result.frame_hw_px
    return facts(
        [
            ("subject", text(f"{result.subject} ({result.family})")),
            ("checkpoint SHA-256", code(result.checkpoint_sha256)),
            ("date", f"<time>{text(result.date_utc)}</time>"),
            ("command", code(result.command)),
            ("frame", text(f"{frame[0]} x {frame[1]} pixels (height x width)")),
            ("rewrites", text(", ".join(result.rewrites) or "none")),
            (
                "measured",
                text(
                    f"{len(shown)} of {len(result.candidates)} candidates in turn, "
                    f"{' or '.join(map(str, rounds)) or 'no'} rounds of each, {calls} calls"
                ),
            ),
        ]
    )


def _latency(result: BenchResult) -> str:
    own = reference(result)
    caption = "Latency of one inference, ms"
    if own is not None:
        caption += f"; the last column says how many times as fast {own.name} is as the candidate"
    rows = [_latency_row(one, own) for one in result.candidates]
    intervals = (
        "<p>Intervals hold 95 % of what resampling whole rounds gives; a difference whose interval "
        "holds 1 is not beyond noise. Jitter is the mean difference of calls that follow each "
        "other.</p>"
    )
    columns = ("candidate", *_COLUMNS, "edgeseg against it")
    return table(caption, columns, rows, frozenset(range(1, 10))) + intervals


def _latency_row(one: CandidateRecord, own: CandidateRecord | None) -> list[str]:
    if one.unavailable is not None or not one.samples_ms:
        why = one.unavailable or "no latencies were taken"
        return [text(one.name), *[_NONE] * len(_COLUMNS), text(f"not measured ({why})")]
    found = summary_ms(one.samples_ms)
    against = _NONE
    if own is not None and one is not own:
        against = text(judge(one.samples_ms, own.samples_ms, paired=True).words)
    cells = (_milliseconds(found[name]) for name in _COLUMNS)
    return [text(one.name), *cells, against]


def _samples(result: BenchResult) -> list[plots.Samples]:
    """Of the measured candidates; a candidate has the same number, so colour, in all drawings."""
    return [
        plots.Samples(one.name, one.samples_ms, index)
        for index, one in enumerate(result.candidates)
        if one.samples_ms and one.unavailable is None
    ]


def _distribution(result: BenchResult) -> str:
    samples = _samples(result)
    if not samples:
        return ""
    return _figure(
        plots.distribution(samples),
        "How often each latency occurred. The dot is the median, the diamond p99, the line goes "
        "from the fastest call to the slowest.",
    )


def _time_line(result: BenchResult) -> str:
    samples = _samples(result)
    if not samples:
        return ""
    return _figure(
        plots.time_line(samples),
        "Every call in order; candidates took turns, so what stands one below the other ran at "
        "about the same time. The unbroken lines are the medians of rounds: steps that all share "
        "are the machine's (throttling, neighbours). Triangles mark calls above the panel.",
    )


def _accuracy(result: BenchResult) -> str:
    scored = [
        (index, one, one.accuracy)
        for index, one in enumerate(result.candidates)
        if one.accuracy is not None
    ]
    if not scored:
        return (
            "<p>Not measured: no validation data was given (<code>--val FOLDER</code>), so the "
            "times above say nothing of what the answers are worth.</p>"
        )
    rows = [
        (
            text(one.name),
            text("masks of FP32" if found.against == "fp32" else found.against),
            text(found.cases),
            text(f"{found.dice:.4f}"),
            text(f"{found.iou:.4f}"),
            _NONE if found.hd95_px is None else text(f"{found.hd95_px:.2f}"),
            text(f"{found.worst_case} ({found.worst_dice:.4f})"),
        )
        for _, one, found in scored
    ]
    columns = ("candidate", "against", "cases", "Dice", "IoU", "HD95, px", "worst case (Dice)")
    shown = table(
        "The very artifacts that were timed, on the validation cases",
        columns,
        rows,
        frozenset({2, 3, 4, 5}),
    )
    points = [
        plots.Point(one.name, summary_ms(one.samples_ms)["p50"], found.dice, index)
        for index, one, found in scored
        if one.samples_ms
    ]
    if not points:
        return shown
    drawing = plots.scatter(points, "Dice")
    return _figure(drawing, "Better is up and to the left.") + shown


def _cost(result: BenchResult) -> str:
    rows = [
        (
            text(one.name),
            _optional(one.load_ms, "{:.0f}"),
            _optional(one.peak_rss_mib, "{:.0f}"),
            _optional(one.file_mib, "{:.1f}"),
            _optional(one.energy.mj_per_frame if one.energy else None, "{:.0f}"),
            _optional(one.energy.mean_w if one.energy else None, "{:.1f}"),
            text(one.energy.source) if one.energy else _NONE,
        )
        for one in measured(result)
    ]
    columns = (
        "candidate",
        "load, ms",
        "peak memory, MiB",
        "files, MiB",
        "energy, mJ a frame",
        "mean power, W",
        "energy by",
    )
    explained = (
        "<p>Loading goes from files on disk to the first answer, in a process of its own, whose "
        "highest resident memory is given.</p>"
    )
    if not any(one.energy for one in measured(result)):
        explained += "<p>This machine reports no energy.</p>"
    if not rows:
        return ""
    return table("What else each costs", columns, rows, frozenset(range(1, 6))) + explained


def _throughput(result: BenchResult) -> str:
    lines = [
        plots.Line(
            one.name,
            tuple(float(each.requests) for each in one.throughput),
            tuple(each.fps for each in one.throughput),
            index,
        )
        for index, one in enumerate(result.candidates)
        if one.throughput
    ]
    if not lines:
        return ""
    rows = [
        (text(one.name), text(each.requests), text(f"{each.fps:.1f}"), _milliseconds(each.p50_ms))
        for one in result.candidates
        for each in one.throughput
    ]
    listing = table(
        "Throughput with several requests in flight",
        ("candidate", "requests", "frames/s", "p50, ms"),
        rows,
        frozenset({1, 2, 3}),
    )
    return _figure(
        plots.throughput(lines), "Frames a second by the number of requests in flight."
    ) + (f"<details><summary>Figures</summary>{listing}</details>")


def _stages(result: BenchResult) -> str:
    if not result.stages_ms:
        return ""
    bars = [
        plots.Bar(name, found["p50"], f"{found['p50']:.2f} ms", found.get("p99"))
        for name, found in result.stages_ms.items()
    ]
    columns = list(dict.fromkeys(key for found in result.stages_ms.values() for key in found))
    listing = table(
        "Stages of a frame, ms",
        ("stage", *columns),
        [
            (text(name), *(_optional(found.get(key), "{:.2f}") for key in columns))
            for name, found in result.stages_ms.items()
        ],
        frozenset(range(1, len(columns) + 1)),
    )
    drawing = plots.bars(bars, "ms", "Stages of a frame")
    return (
        _figure(drawing, "Medians of edgeseg's own frame; the thin line goes to p99.")
        + f"<details><summary>Figures</summary>{listing}</details>"
    )


def _blocks(record: Mapping[str, Any] | None) -> str:
    if not record or not record.get("blocks"):
        return ""
    blocks: Sequence[Mapping[str, Any]] = record["blocks"]
    bars = [
        plots.Bar(str(one["block"]), one["ms"], f"{one['ms']:.2f} ms, {_percent(one['share'])}")
        for one in blocks
    ]
    rows = [
        (text(one["block"]), code(each["name"]), text(each["kind"]), text(f"{each['ms']:.2f}"))
        for one in blocks
        for each in one.get("slowest", ())
    ]
    listing = table("Their slowest layers", ("block", "layer", "kind", "ms"), rows, frozenset({3}))
    sums = (
        f"Layers sum to {record['sum_of_profiled_layers_ms']:.2f} ms profiled; a run takes "
        f"{record['unprofiled_inference_ms']:.2f} ms unprofiled: {record['note']}."
    )
    return (
        _figure(plots.bars(bars, "ms", "Blocks of the network"), sums)
        + f"<details><summary>Slowest layers</summary>{listing}</details>"
    )


def _frame_path(record: Mapping[str, Any] | None) -> str:
    if not record:
        return ""
    told = facts(
        [
            ("rate", text(f"{record['frames_per_s']:.1f} frames a second")),
            ("how", text(record["how"])),
        ]
    )
    rows = [
        (text(name), text(where), text(f"{ms:.3f}"))
        for where, key in (("the work", "steps_ms"), ("beside the work", "copies_ms"))
        for name, ms in record[key].items()
    ]
    told += table("Pieces of a frame", ("piece", "where", "ms"), rows, frozenset({2}))
    return (
        f"{told}<p>Whole frames with two in flight, from the copy in to the drawn overlay; the "
        "pieces are medians of the device's own time, each by itself.</p>"
    )


def _end_to_end(record: EndToEndRecord | None) -> str:
    if record is None:
        return ""
    height, width = record.frame_hw_px
    pace = "the video's own, as from a camera" if record.paced else "as fast as they are taken"
    items = [
        ("video", f"{record.video}, {width} x {height} pixels"),
        ("frames", f"{record.frames} drawn, {record.fps:.1f} a second"),
        ("pace", pace),
    ]
    if record.paced:
        offered = record.frames + record.dropped
        items += [
            (
                "dropped",
                f"{record.dropped} of {offered}: a newer frame came before they were taken",
            ),
            ("late", f"{record.late} of {offered}: decoded after they were due"),
        ]
    told = facts((name, text(value)) for name, value in items)
    if record.samples_ms:
        found = summary_ms([record.samples_ms])
        told += _figure(
            plots.ages(record.samples_ms),
            "Age of each frame when its overlay was drawn: "
            + ", ".join(f"{name} {_milliseconds(found[name])} ms" for name in _COLUMNS[:-1])
            + ".",
        )
    if record.stages_ms:
        bars = [plots.Bar(name, ms, f"{ms:.2f} ms") for name, ms in record.stages_ms.items()]
        told += _figure(
            plots.bars(bars, "ms", "Stages of the way"), "Where the time goes: medians by stage."
        )
    return told


def _limits(result: BenchResult) -> str:
    shown = ""
    if result.limits is not None:
        limits = result.limits
        shown = facts(
            [
                *(
                    (f"{arithmetic} products", text(f"{rate:.0f} billion operations a second"))
                    for arithmetic, rate in limits.gops.items()
                ),
                ("copying", text(f"{limits.bandwidth_gib_s:.1f} GiB/s, read and written")),
                ("threads", text(limits.threads)),
                ("how", text(limits.how)),
            ]
        )
    bounds = [(one, one.bound) for one in measured(result) if one.bound is not None]
    if not bounds:
        return shown
    rows = [
        (
            text(one.name),
            text(", ".join(f"{gop:.2f} {kind}" for kind, gop in bound.gop.items())),
            text(f"{bound.bytes_mib:.1f}"),
            _milliseconds(bound.compute_ms),
            _milliseconds(bound.memory_ms),
            # Of the network alone: latencies may hold the fusion of its views.
            _milliseconds(max(bound.compute_ms, bound.memory_ms) / bound.share),
            text(_percent(bound.share)),
        )
        for one, bound in bounds
    ]
    columns = (
        "candidate",
        "billion operations",
        "MiB moved",
        "operations, ms",
        "bytes, ms",
        "p50, ms",
        "share of the bound",
    )
    return shown + table(
        "The shortest time in which this machine can do a graph's operations and move its bytes; "
        "the larger of both over the median is the share",
        columns,
        rows,
        frozenset({2, 3, 4, 5, 6}),
    )


def _how(result: BenchResult) -> str:
    return facts((one.name, text(_how_built(one))) for one in result.candidates)


def _how_built(one: CandidateRecord) -> str:
    told = [one.how.rstrip(".")] if one.how else []
    if one.unavailable is not None:
        return ". ".join([*told, f"Not measured: {one.unavailable}"])
    told.append(f"Arithmetic: {one.precision}")
    told.append(f"Version {one.version}, {_count(one.threads, 'thread')}")
    return ". ".join(told)


def _notes(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(note)}</li>' for note in notes)}</ul>" if notes else ""


def _machine(result: BenchResult) -> str:
    return facts(_machine_facts(result))


def _machine_facts(result: BenchResult) -> Iterator[tuple[str, str]]:
    machine = result.machine
    yield "machine", text(machine.name)
    yield "processor", text(f"{machine.cpu}, {_count(machine.cores, 'core')} for this process")
    yield "instructions", text(", ".join(machine.isa) or "none that matter here")
    yield "memory", text(f"{machine.memory_gib:.1f} GiB")
    yield "governor", text(machine.governor or "not told")
    if machine.power_mode is not None:
        yield "power mode", text(machine.power_mode)
    yield "throttling", text(machine.throttling or "not told")
    for name, version in sorted(machine.versions.items()):
        yield name, text(version)


def _figure(drawing: str, caption: str) -> str:
    region = 'class="scroll" role="region" aria-label="Drawing" tabindex="0"'
    return f"<figure><div {region}>{drawing}</div><figcaption>{text(caption)}</figcaption></figure>"


def _optional(value: float | None, form: str) -> str:
    return _NONE if value is None else text(form.format(value))


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 1.0 else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f} %" if share >= 0.0995 else f"{100.0 * share:.1f} %"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
