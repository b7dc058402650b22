"""``edgeseg doctor``."""

from __future__ import annotations

import argparse

SUMMARY = "say what this machine offers, and how to mend what is missing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb takes no arguments of its own."""


def execute(arguments: argparse.Namespace) -> int:
    """Examine, then show the findings."""
    from edgeseg.cli._console import console, table
    from edgeseg.workflows.doctor import doctor

    rows = [(f.name, f.status, f.detail, f.mend) for f in doctor()]
    columns = ("what", "status", "found", "to mend")
    console(arguments).print(table("edgeseg doctor", columns, rows, figures=False))
    return 0
