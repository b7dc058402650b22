"""``edgeseg inspect``."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "say what a checkpoint or a bundle is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("path", type=Path, help="a checkpoint or a bundle")


def execute(arguments: argparse.Namespace) -> int:
    """Inspect, then show what was found."""
    from edgeseg.cli._console import console, table
    from edgeseg.workflows.inspect import inspect

    rows = inspect(arguments.path)
    console(arguments).print(table(str(arguments.path), ("what", "found"), rows, figures=False))
    return 0
