"""Tables and progress of the measuring programs that are no verbs of ``edgeseg``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from edgeseg._progress import Progress

__all__ = ["show_error", "show_progress", "show_table"]

_PIPE_WIDTH = 200


@contextlib.contextmanager
def show_progress() -> Iterator[Progress]:
    """Yield a progress callback that keeps one line on standard error."""
    with Console(stderr=True, highlight=False, markup=False).status("start") as status:

        def report(stage: str, done: int, total: int) -> None:
            status.update(f"{stage} {done}/{total}" if total else stage)

        yield report


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]
) -> None:
    """Print a table, whose first column is text and whose others are figures, and remarks."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(highlight=False, markup=False, soft_wrap=True, width=width)
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in remarks:
        console.print(line)


def show_error(error: Exception) -> None:
    """Print one line on standard error."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"edgeseg: {error}")
