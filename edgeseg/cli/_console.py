"""What the verbs show: Rich progress bars, one a stage, and tables."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from edgeseg._progress import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["console", "progress_bars", "show", "table"]

_PIPE_WIDTH = 140


class Report(Protocol):
    """What a workflow found, for a person."""

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows."""

    def remarks(self) -> list[str]:
        """Sentences to go with them."""


def console(arguments: argparse.Namespace) -> Console:
    """The console for results (standard output); silent with ``--quiet``."""
    from rich.console import Console

    # A pipe has no width: tables written to one are laid out whole rather than cut at 80 columns.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    # No markup either: "edgeseg[export]" and paths with brackets are text, not styles.
    return Console(
        quiet=arguments.quiet, highlight=False, markup=False, soft_wrap=True, width=width
    )


@contextlib.contextmanager
def progress_bars(arguments: argparse.Namespace) -> Iterator[Progress]:
    """Yield a progress callback that draws a bar for each stage on standard error."""
    if arguments.quiet:
        yield silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield report


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    figures: bool = True,
) -> Table:
    """A table whose first column is text and whose others are ``figures``, or text as well."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if figures and i else "left")
    for row in rows:
        made.add_row(*row)
    return made


def show(arguments: argparse.Namespace, title: str, report: Report) -> None:
    """Print a report's table, if it has rows, and its remarks under it."""
    out = console(arguments)
    columns, rows = report.table()
    if rows:
        out.print(table(title, columns, rows))
    for line in report.remarks():
        out.print(line)
