"""What the exact rewrites of a graph gain: FP32 with them against FP32 without, one library."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgeseg._files import atomic_file
from edgeseg.bench.result import MachineRecord
from edgeseg.bench.stats import summary_ms
from edgeseg.bench.verdict import Verdict, judge
from edgeseg.spec import to_json

__all__ = ["SCHEMA_VERSION", "GainRow", "GainTable", "write_gains"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class GainRow:
    """One model on one library.

    Attributes:
        family: of the model.
        backbone: ``small``, ``base``...
        input_hw_px: of the network.
        backend: the library with its version.
        rewrites: names of those that the graph has.
        gop_plain: billions of operations of products and convolutions, without the rewrites.
        gop_rewritten: with them.
        plain_ms: latencies by round, without them.
        rewritten_ms: with them, in the same rounds.
        times_as_fast: median without over median with them.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    family: str
    backbone: str
    input_hw_px: tuple[int, int]
    backend: str
    rewrites: tuple[str, ...]
    gop_plain: float
    gop_rewritten: float
    plain_ms: tuple[tuple[float, ...], ...]
    rewritten_ms: tuple[tuple[float, ...], ...]
    times_as_fast: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """The ratio, and whether it is beyond noise."""
        return judge(self.plain_ms, self.rewritten_ms, paired=True)


@dataclass(frozen=True)
class GainTable:
    """All rows of one call.

    Attributes:
        threads: CPU threads of each engine.
    """

    schema_version: int
    edgeseg_version: str
    date_utc: str
    command: str
    machine: MachineRecord
    threads: int
    rows: tuple[GainRow, ...]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows for a person."""
        columns = (
            "model",
            "input",
            "library",
            "GOP plain",
            "rewritten",
            "ms plain",
            "rewritten",
            "rewritten graph",
        )
        rows: list[tuple[str, ...]] = [
            (
                f"{row.family} {row.backbone}",
                f"{row.input_hw_px[0]}x{row.input_hw_px[1]}",
                row.backend,
                f"{row.gop_plain:.2f}",
                f"{row.gop_rewritten:.2f}",
                f"{summary_ms(row.plain_ms)['p50']:.2f}",
                f"{summary_ms(row.rewritten_ms)['p50']:.2f}",
                row.verdict.words,
            )
            for row in self.rows
        ]
        return columns, rows

    def remarks(self) -> list[str]:
        """How it was measured, and what was rewritten."""
        lines = [
            f"{self.machine.name}, {self.threads} threads; untrained weights; both graphs in "
            "float32 in turn; medians, and the ratio's 95 % interval over rounds"
        ]
        seen: dict[str, None] = {}
        for row in self.rows:
            names = ", ".join(row.rewrites) or "nothing is rewritten"
            seen[f"{row.family} {row.backbone}: {names}"] = None
        return [*lines, *seen]


def write_gains(path: Path, table: GainTable) -> None:
    """Write the table as JSON, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as temporary:
        text = json.dumps(to_json(table), indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
