"""A live ``edgeseg run``: a line that says how it goes, and what it did at the end."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.cli._arguments import engine_choice, settings
from edgeseg.cli._live_arguments import live_options, source_options

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseg.live.status import LiveStatus

__all__ = ["execute_live"]


def execute_live(arguments: argparse.Namespace, why: str) -> int:
    """Run until the source ends or somebody stops it (Ctrl-C, SIGTERM).

    Args:
        arguments: of ``edgeseg run``.
        why: what makes this a live run, in words.

    Returns:
        0, or 1 if the source broke off.

    Raises:
        EdgesegError: as ``run_live``.
    """
    from edgeseg.errors import UsageError
    from edgeseg.live.sinks import SinkOptions
    from edgeseg.workflows._live_session import Look
    from edgeseg.workflows.live import run_live

    if arguments.mask_only:
        raise UsageError(
            f"--mask-only is for files that become files, and this run is live ({why}): name "
            "an output mask://FOLDER or mask://FILE.jsonl"
        )
    screen = _screen(arguments)

    def say(text: str) -> None:
        screen.print(text)

    say(f"live: {why}")
    with _status_line(screen, arguments) as tick:
        report = run_live(
            arguments.bundle,
            arguments.input,
            arguments.output,
            options=live_options(arguments),
            source_options=source_options(arguments),
            sink_options=SinkOptions(
                codec=arguments.output_codec,
                force=arguments.force,
                keep_free_mb=arguments.keep_free_mb,
            ),
            look=Look(
                alpha=arguments.alpha,
                color=arguments.color,
                contours=arguments.contours,
                threshold=arguments.threshold,
                status_line=not arguments.no_status_line,
                roi=arguments.roi,
            ),
            serve=arguments.serve,
            token=_token(arguments.serve, arguments.token_file),
            serve_names=arguments.serve_name or (),
            recordings=arguments.record_to,
            log=arguments.log,
            budget_ms=arguments.budget_ms,
            settings=settings(arguments),
            **engine_choice(arguments),
            stop_on_signals=True,
            on_start=say,
            on_tick=tick,
        )
    say(str(report))
    for text in report.report.unfinished:
        say(text)
    if report.failure is not None:
        raise report.failure
    return 0


def _token(serve: str | None, file: Path | None) -> str | None:
    from edgeseg.errors import UsageError

    if serve is None:
        if file is not None:
            raise UsageError("--token-file opens the page: serve it with --serve [HOST:]PORT")
        return None
    from edgeseg.web.token import read_token

    return read_token(file)


def _screen(arguments: argparse.Namespace) -> Console:
    """Where to write: standard output, unless the pictures go there."""
    from rich.console import Console

    return Console(
        stderr="-" in arguments.output,
        quiet=arguments.quiet,
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@contextlib.contextmanager
def _status_line(
    screen: Console, arguments: argparse.Namespace
) -> Iterator[Callable[[LiveStatus], None] | None]:
    """A line at the bottom of a terminal; nothing where there is none."""
    if arguments.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live

    terminal = screen if screen.is_terminal else Console(stderr=True, markup=False)
    with Live(console=terminal, refresh_per_second=4, transient=True) as live:

        def tick(status: LiveStatus) -> None:
            live.update(_line(status))

        yield tick


def _line(status: LiveStatus) -> Any:
    from rich.text import Text

    if status.state == "none":
        words = Text(f"no current result: {status.reason}", style="bold yellow")
        if status.detail:
            words.append(f" ({status.detail})", style="yellow")
    else:
        age = "" if status.age_ms is None else f", age {status.age_ms:.0f} ms"
        words = Text(f"{status.state}{age}", style="bold green")
    dropped = sum(status.dropped.values())
    words.append(
        f"  {status.mask_fps:.1f} masks/s of {status.captured_fps:.1f} frames/s, engine "
        f"{status.engine_ms:.1f} ms ({100 * status.engine_busy:.0f} % busy), "
        f"{status.captured} captured, {dropped} dropped",
        style="dim",
    )
    return words
