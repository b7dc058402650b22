"""Two benchmarks beside each other: what is faster beyond noise, and what else differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeseg.bench.result import BenchResult, CandidateRecord
from edgeseg.bench.stats import summary_ms
from edgeseg.bench.verdict import Verdict, judge, measured, own_with, peers, reference

__all__ = ["Comparison", "ComparisonRow", "compare"]


@dataclass(frozen=True)
class ComparisonRow:
    """One candidate against one baseline.

    Attributes:
        where: ``B against A`` for the same candidate in both files, ``within A``, ``within B``.
        candidate, baseline: their names.
        candidate_ms, baseline_ms: their median latencies.
        verdict: of the candidate.
        int8_over_fp32: whether it says what INT8 gains, so that it is named where it gains nothing.
    """

    where: str
    candidate: str
    baseline: str
    candidate_ms: float
    baseline_ms: float
    verdict: Verdict
    int8_over_fp32: bool = False

    @property
    def words(self) -> str:
        """What the ratio means."""
        if self.int8_over_fp32 and self.verdict.enough_rounds and not self.verdict.faster:
            return f"INT8 is not faster here: {self.verdict.words}"
        return self.verdict.words


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found.

    Attributes:
        rows: candidates of both files first, then each file by itself.
        differences: what else differs between the files, a sentence each.
        notes: candidates that cannot be compared, accuracy that changed, a sentence each.
    """

    rows: tuple[ComparisonRow, ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows for people."""
        columns = ("where", "candidate", "p50 ms", "against", "p50 ms", "the candidate is")
        return columns, [
            (
                row.where,
                row.candidate,
                f"{row.candidate_ms:.2f}",
                row.baseline,
                f"{row.baseline_ms:.2f}",
                row.words,
            )
            for row in self.rows
        ]

    def remarks(self) -> list[str]:
        """What goes with the table: differences that every ratio between the files contains."""
        told = list(self.notes)
        if self.differences:
            told.append(
                "the files differ in more than what was measured, so ratios of B against A are "
                "also those of:"
            )
            told += self.differences
        return told


def compare(a: BenchResult, b: BenchResult) -> Comparison:
    """Compare two results: candidates of one name in both, and those within each file.

    Between files rounds did not run in turn and are resampled by themselves; within a file they
    did, and the same rounds of both are resampled.

    Args:
        a: the baseline.
        b: what is compared with it.

    Raises:
        UsageError: latencies are not finite.
    """
    in_a = {one.name: one for one in measured(a)}
    pairs = [(in_a[one.name], one) for one in measured(b) if one.name in in_a]
    rows = [_row("B against A", old, new, paired=False) for old, new in pairs]
    rows += [*_within("within A", a), *_within("within B", b)]
    differences = (
        *_run_differences(a, b),
        *(line for old, new in pairs for line in _candidate_differences(old, new)),
    )
    return Comparison(tuple(rows), differences, tuple(_notes(a, b, pairs)))


def _row(
    where: str,
    baseline: CandidateRecord,
    candidate: CandidateRecord,
    *,
    paired: bool,
    int8_over_fp32: bool = False,
) -> ComparisonRow:
    return ComparisonRow(
        where,
        candidate.name,
        baseline.name,
        summary_ms(candidate.samples_ms)["p50"],
        summary_ms(baseline.samples_ms)["p50"],
        judge(baseline.samples_ms, candidate.samples_ms, paired=paired),
        int8_over_fp32,
    )


def _within(where: str, result: BenchResult) -> Iterator[ComparisonRow]:
    own = reference(result)
    if own is None:
        return
    int8, fp32 = own_with(result, "int8"), own_with(result, "fp32")
    if int8 is not None and fp32 is not None:
        yield _row(where, fp32, int8, paired=True, int8_over_fp32=True)
    for peer in peers(result):
        yield _row(where, peer, own, paired=True)


def _run_differences(a: BenchResult, b: BenchResult) -> Iterator[str]:
    values: list[tuple[str, object, object]] = [
        ("machine", a.machine.name, b.machine.name),
        ("processor", a.machine.cpu, b.machine.cpu),
        ("cores", a.machine.cores, b.machine.cores),
        ("instructions", ", ".join(a.machine.isa), ", ".join(b.machine.isa)),
        ("governor", a.machine.governor, b.machine.governor),
        ("power mode", a.machine.power_mode, b.machine.power_mode),
        ("throttling", a.machine.throttling, b.machine.throttling),
        ("checkpoint", a.checkpoint_sha256[:12], b.checkpoint_sha256[:12]),
        ("family", a.family, b.family),
        ("network input", _size(a.input_hw_px), _size(b.input_hw_px)),
        ("frame", _size(a.frame_hw_px), _size(b.frame_hw_px)),
        ("rewrites", ", ".join(a.rewrites), ", ".join(b.rewrites)),
        ("edgeseg", a.edgeseg_version, b.edgeseg_version),
    ]
    libraries = sorted({*a.machine.versions, *b.machine.versions} - {"edgeseg"})
    values += [
        (name, a.machine.versions.get(name), b.machine.versions.get(name)) for name in libraries
    ]
    for name, old, new in values:
        if old != new:
            yield _difference(name, old, new)


def _candidate_differences(a: CandidateRecord, b: CandidateRecord) -> Iterator[str]:
    values: list[tuple[str, object, object]] = [
        ("version", a.version, b.version),
        ("threads", a.threads, b.threads),
        ("arithmetic", a.precision, b.precision),
        ("how it is used", a.how, b.how),
        ("files", _mebibytes(a.file_mib), _mebibytes(b.file_mib)),
    ]
    for name, old, new in values:
        if old != new:
            yield _difference(f"{a.name}, {name}", old, new)


def _notes(
    a: BenchResult, b: BenchResult, pairs: list[tuple[CandidateRecord, CandidateRecord]]
) -> Iterator[str]:
    if not pairs:
        yield "no candidate was measured in both files"
    common = {new.name for _, new in pairs}
    for label, result in (("A", a), ("B", b)):
        for one in result.candidates:
            if one.unavailable is not None:
                yield f"{one.name} was not measured in {label}: {one.unavailable}"
            elif one.name not in common:
                yield f"{one.name} was measured in {label} alone"
    for old, new in pairs:
        if old.accuracy is None or new.accuracy is None:
            continue
        if old.accuracy.against != new.accuracy.against or old.accuracy.cases != new.accuracy.cases:
            yield f"{new.name}: accuracy was taken on other cases or against something else"
        else:
            yield f"{new.name}: Dice {old.accuracy.dice:.4f} in A, {new.accuracy.dice:.4f} in B"


def _difference(name: str, old: object, new: object) -> str:
    return f"{name}: {_value(old)} in A, {_value(new)} in B"


def _value(value: object) -> str:
    return "nothing" if value is None or value == "" else str(value)


def _size(hw_px: tuple[int, int]) -> str:
    return f"{hw_px[0]} x {hw_px[1]} px"


def _mebibytes(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f} MiB"
