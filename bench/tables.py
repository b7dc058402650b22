"""A benchmark's result as rows and sentences for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseg.bench.result import BenchResult, CandidateRecord
from edgeseg.bench.stats import summary_ms
from edgeseg.bench.verdict import judge, measured, own_with, reference

__all__ = ["candidate_rows", "int8_remarks", "remarks", "stage_rows", "throughput_rows"]

Columns = tuple[str, ...]
Rows = list[tuple[str, ...]]

_SHOWN = ("p50", "p90", "p99", "p99.9", "jitter")
_STAGE_FIGURES = ("min", "mean", "p50", "p90", "p95", "p99", "max")
_NOTHING = "-"


def candidate_rows(result: BenchResult) -> tuple[Columns, Rows]:
    """Each candidate: latencies in milliseconds, how edgeseg compares, the bound, accuracy, cost.

    The ratio says how many times as fast as the row's candidate the reference is (edgeseg's INT8,
    or else its first candidate), with its 95 % interval.
    """
    own = reference(result)
    columns = (
        "candidate",
        *(f"{name} ms" if name == "p50" else name for name in _SHOWN),
        f"{own.name if own else 'edgeseg'} against it",
        "of the bound",
        "Dice",
        "load ms",
        "peak MiB",
        "mJ/frame",
    )
    rows: Rows = []
    for one in measured(result):
        figures = summary_ms(one.samples_ms)
        rows.append(
            (
                one.name,
                *(f"{figures[name]:.2f}" for name in _SHOWN),
                _NOTHING if own is None or one is own else _against(own, one),
                f"{one.bound.share:.0%}" if one.bound else _NOTHING,
                f"{one.accuracy.dice:.4f}" if one.accuracy else _NOTHING,
                _figure(one.load_ms, 0),
                _figure(one.peak_rss_mib, 0),
                _figure(one.energy.mj_per_frame, 0) if one.energy else _NOTHING,
            )
        )
    return columns, rows


def stage_rows(result: BenchResult) -> tuple[Columns, Rows]:
    """The stages of edgeseg's frame, in milliseconds."""
    rows: Rows = [
        (name, *(f"{figures[figure]:.2f}" for figure in _STAGE_FIGURES))
        for name, figures in result.stages_ms.items()
    ]
    return ("stage, ms", *_STAGE_FIGURES), rows


def throughput_rows(result: BenchResult) -> tuple[Columns, Rows]:
    """Frames a second, and the median latency beside, by the requests in flight."""
    found = measured(result)
    counts = sorted({record.requests for one in found for record in one.throughput})
    rows: Rows = []
    for one in found:
        by_count = {record.requests: record for record in one.throughput}
        cells = [
            f"{by_count[count].fps:.1f} ({by_count[count].p50_ms:.1f} ms)"
            if count in by_count
            else _NOTHING
            for count in counts
        ]
        rows.append((one.name, *cells))
    return ("frames/s (p50)", *(f"{count} in flight" for count in counts)), rows


def remarks(result: BenchResult) -> list[str]:
    """What a reader has to know beside the tables; INT8 that is not faster comes first."""
    lines = int8_remarks(result)
    lines += [f"{one.name}: {one.how}; {one.precision}" for one in measured(result)]
    lines += [f"{one.name} {accuracy}" for one, accuracy in _accuracies(result)]
    if result.limits is not None:
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in result.limits.gops.items())
        lines.append(
            f"the machine: {rates} billion operations/s, copies "
            f"{result.limits.bandwidth_gib_s:.1f} GiB/s ({result.limits.how})"
        )
    states = {
        "governor": result.machine.governor,
        "power mode": result.machine.power_mode,
        "throttling": result.machine.throttling,
    }
    told = [f"{name} {state}" for name, state in states.items() if state is not None]
    if told:
        lines.append(f"the machine's state: {', '.join(told)}")
    if result.end_to_end is not None:
        age = summary_ms([result.end_to_end.samples_ms])
        lines.append(
            f"end to end, {result.end_to_end.video}: age of a drawn frame p50 {age['p50']:.1f} ms, "
            f"p99 {age['p99']:.1f} ms, {result.end_to_end.fps:.1f} frames/s"
        )
    missing = [one for one in result.candidates if one.unavailable is not None]
    lines += [f"{one.name}: not measured: {one.unavailable}" for one in missing]
    return [*lines, *result.notes]


def int8_remarks(result: BenchResult) -> list[str]:
    """Against what edgeseg's INT8 is not faster beyond noise, a sentence each."""
    own = own_with(result, "int8")
    if own is None:
        return []
    found = []
    for one in measured(result):
        if one is own:
            continue
        verdict = judge(one.samples_ms, own.samples_ms, paired=True)
        if not verdict.faster:
            found.append(f"INT8 is not faster here than {one.name}: {own.name} {verdict.words}")
    return found


def _against(own: CandidateRecord, other: CandidateRecord) -> str:
    verdict = judge(other.samples_ms, own.samples_ms, paired=True)
    if verdict.faster or verdict.slower:
        return verdict.figures
    return f"{verdict.figures}, not beyond noise"


def _accuracies(result: BenchResult) -> Sequence[tuple[CandidateRecord, str]]:
    found = []
    for one in measured(result):
        score = one.accuracy
        if score is None:
            continue
        distance = "" if score.hd95_px is None else f", HD95 {score.hd95_px:.2f} px"
        against = "labels" if score.against == "labels" else "FP32"
        found.append(
            (
                one,
                f"against {against}, {score.cases} cases: Dice {score.dice:.4f}, IoU "
                f"{score.iou:.4f}{distance}, worst {score.worst_case} ({score.worst_dice:.4f})",
            )
        )
    return found


def _figure(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f}"
