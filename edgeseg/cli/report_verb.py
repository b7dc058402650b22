"""``edgeseg report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.cli._arguments import add_force_argument

SUMMARY = "the page of a live session's event log"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("log", type=Path, help="events.jsonl of a live session")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="HTML", help="the page (default: the log's name .html)"
    )
    add_force_argument(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Write the page, then show the summary and where the page is."""
    from edgeseg.cli._console import show
    from edgeseg.workflows.event_report import report_events

    report = report_events(arguments.log, arguments.output, force=arguments.force)
    show(arguments, str(arguments.log), report)
    return 0
