"""The command line that the benchmarks of the kernels share: options, table, file."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from edgeseg import kernels
from edgeseg._files import atomic_file
from edgeseg._machine import cpu_name
from edgeseg.kernels import LibraryInfo

__all__ = ["ratios_to", "run"]

M = TypeVar("M")


def ratios_to(own: str, median_ms: Mapping[str, float]) -> dict[str, float]:
    """Median of each other candidate divided by that of ``own``."""
    return {name: ms / median_ms[own] for name, ms in median_ms.items() if name != own}


def run(
    module: str,
    description: str | None,
    arguments: Sequence[str] | None,
    *,
    rounds: int,
    measure: Callable[[Sequence[int], int], Sequence[M]],
    table: Callable[[Sequence[M], LibraryInfo], Table],
    record: Callable[[M], dict[str, Any]],
    libraries: Sequence[str],
) -> int:
    """Parse, measure every case, print the table, write the file.

    Args:
        module: name beneath ``edgeseg.bench``.
        description: for ``--help``.
        arguments: of the command line; None for those of the process.
        rounds: default of ``--rounds``.
        measure: from thread counts and rounds to the measurements.
        table: the measurements for a person.
        record: one measurement as JSON types.
        libraries: distributions whose versions matter.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m edgeseg.bench.{module}", description=description
    )
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"turns of each candidate (default: {rounds})"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args(arguments)
    measurements = measure(options.threads, options.rounds)
    info = kernels.library_info()
    # A pipe has no width: lay the table out whole rather than cut it at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(measurements, info))
    if options.json is not None:
        now = datetime.datetime.now(datetime.timezone.utc)
        document = {
            "date_utc": now.isoformat(timespec="seconds"),
            "machine": {"processor": cpu_name(), "machine": platform.machine()},
            "versions": {
                "edgeseg": info.version,
                **{name: importlib.metadata.version(name) for name in libraries},
            },
            "isa": info.isa,
            "measurements": [record(measurement) for measurement in measurements],
        }
        with atomic_file(options.json) as path:
            path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0
