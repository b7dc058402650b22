"""``edgeseg demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.cli._arguments import add_force_argument

SUMMARY = "the main job end to end, on generated frames and the embedded checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("-o", "--output", type=Path, default=Path("demo-out"), metavar="DIR")
    add_force_argument(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Run the demonstration, then say where its results are."""
    from edgeseg.cli._console import console, progress_bars
    from edgeseg.workflows.demo import demo

    with progress_bars(arguments) as progress:
        report = demo(arguments.output, force=arguments.force, progress=progress)
    console(arguments).print(str(report))
    return 0
