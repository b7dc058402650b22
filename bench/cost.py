"""What a frame costs as the backbone and the picture grow: rows, ``cost.json``, and a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg._files import atomic_file
from edgeseg.bench.record_file import read_record
from edgeseg.bench.result import CandidateRecord, LimitsRecord, MachineRecord
from edgeseg.bench.stats import summary_ms
from edgeseg.bench.verdict import judge
from edgeseg.errors import InputError
from edgeseg.spec import to_json

__all__ = ["COST_FILE", "SCHEMA_VERSION", "CostRow", "CostTable", "read_cost", "write_cost"]

COST_FILE = "cost.json"
SCHEMA_VERSION = 1

_MAX_BYTES = 64 * 2**20
_NOTHING = "-"


@dataclass(frozen=True)
class CostRow:
    """One backbone at one input size.

    Attributes:
        family: of the model.
        backbone: ``small``, ``base``...
        input_hw_px: of the network.
        tokens: that each block of the backbone works on, of all views together.
        candidates: edgeseg's INT8 first, then the baselines. Their ``bound`` holds operations and
            the share of the bound, their ``peak_rss_mib`` the memory of a process of its own.
    """

    family: str
    backbone: str
    input_hw_px: tuple[int, int]
    tokens: int
    candidates: tuple[CandidateRecord, ...]

    @property
    def own(self) -> CandidateRecord:
        """edgeseg's."""
        return self.candidates[0]

    def holds(self, names: Sequence[str]) -> bool:
        """Whether all of these candidates were tried."""
        return set(names) <= {one.name for one in self.candidates}


@dataclass(frozen=True)
class CostTable:
    """All cells that were measured on one machine.

    Attributes:
        budget_s: for the timing of a cell; fewest rounds may take longer.
        threads: CPU threads of each candidate.
        limits: what the machine can do with them.
        notes: what a reader has to know.
    """

    schema_version: int
    edgeseg_version: str
    date_utc: str
    command: str
    machine: MachineRecord
    threads: int
    budget_s: float
    limits: LimitsRecord
    rows: tuple[CostRow, ...] = ()
    notes: tuple[str, ...] = ()

    def row(self, family: str, backbone: str, input_hw_px: tuple[int, int]) -> CostRow | None:
        """The cell, if it was measured."""
        wanted = (family, backbone, input_hw_px)
        return next(
            (row for row in self.rows if (row.family, row.backbone, row.input_hw_px) == wanted),
            None,
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows for a person.

        For each baseline its median, and how many times as fast edgeseg's INT8 is, with the 95 %
        interval.
        """
        baselines: list[str] = []
        for row in self.rows:
            names = (one.name for one in row.candidates[1:])
            baselines += [name for name in names if name not in baselines]
        own = self.rows[0].own.name if self.rows else "edgeseg"
        columns = (
            "model",
            "input",
            "tokens",
            "GOP",
            f"{own} ms",
            "of the bound",
            "MiB",
            *(words for name in baselines for words in (f"{name} ms", "x", "MiB")),
        )
        return columns, [_cells(row, baselines) for row in self.rows]

    def remarks(self) -> list[str]:
        """How it was measured."""
        rates = ", ".join(f"{name} {rate:.0f} GOP/s" for name, rate in self.limits.gops.items())
        lines = [
            f"{self.machine.name}, {self.threads} threads; untrained weights; medians of calls in "
            "turn; x: how many times as fast edgeseg is, with its 95 % interval; MiB: highest "
            "memory of a process of its own",
            f"this machine: {rates}, {self.limits.bandwidth_gib_s:.1f} GiB/s ({self.limits.how})",
        ]
        lines += [
            f"{row.backbone} at {_size(row)}: {one.name} was not measured: {one.unavailable}"
            for row in self.rows
            for one in row.candidates
            if one.unavailable is not None
        ]
        return [*lines, *self.notes]


def write_cost(folder: Path, table: CostTable) -> None:
    """Write ``cost.json`` into an existing folder, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(folder / COST_FILE) as temporary:
        text = json.dumps(to_json(table), indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_cost(folder: Path) -> CostTable:
    """Read a folder's ``cost.json``.

    Raises:
        InputError: it is missing, too large, no JSON, of another schema, or incomplete.
    """
    path = folder / COST_FILE
    table = read_record(
        CostTable,
        path,
        schema_version=SCHEMA_VERSION,
        max_bytes=_MAX_BYTES,
        what="table of costs",
        remedy="measure into another folder",
    )
    if any(not row.candidates for row in table.rows):
        raise InputError(f"{path} is no complete table of costs: a row names no candidate")
    return table


def _cells(row: CostRow, baselines: Sequence[str]) -> tuple[str, ...]:
    own = row.own
    peers = {one.name: one for one in row.candidates[1:]}
    cells = [
        f"{row.family} {row.backbone}",
        _size(row),
        str(row.tokens),
        f"{sum(own.bound.gop.values()):.1f}" if own.bound else _NOTHING,
        _median(own),
        f"{own.bound.share:.0%}" if own.bound else _NOTHING,
        _memory(own),
    ]
    for name in baselines:
        peer = peers.get(name)
        if peer is None or not peer.samples_ms:
            cells += [_NOTHING] * 3
            continue
        verdict = judge(peer.samples_ms, own.samples_ms, paired=True)
        cells += [_median(peer), verdict.figures, _memory(peer)]
    return tuple(cells)


def _size(row: CostRow) -> str:
    return f"{row.input_hw_px[0]}x{row.input_hw_px[1]}"


def _median(one: CandidateRecord) -> str:
    return f"{summary_ms(one.samples_ms)['p50']:.1f}"


def _memory(one: CandidateRecord) -> str:
    return _NOTHING if one.peak_rss_mib is None else f"{one.peak_rss_mib:.0f}"
