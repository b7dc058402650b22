"""``edgeseg eval``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.cli._arguments import (
    add_engine_arguments,
    add_force_argument,
    add_settings_arguments,
    add_threshold_argument,
    engine_choice,
    settings,
)
from edgeseg.errors import UsageError

SUMMARY = "Dice, IoU and HD95 of a bundle on labelled data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="image/ and mask/")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="where metrics.csv goes")
    parser.add_argument(
        "--at",
        choices=("model", "native"),
        default="model",
        help="compare at the model's resolution (as the authors do) or at the image's own",
    )
    parser.add_argument("--with-pictures", action="store_true", help="write the worst cases as PNG")
    parser.add_argument(
        "--ablate",
        action="store_true",
        help="Dice and time with one part of a multi-view read-out after the other, instead",
    )
    add_threshold_argument(parser)
    add_settings_arguments(parser)
    add_engine_arguments(parser)
    add_force_argument(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Evaluate, then show the means."""
    if arguments.ablate:
        return _ablate(arguments)
    from edgeseg.cli._console import progress_bars, show
    from edgeseg.workflows.evaluate import evaluate

    with progress_bars(arguments) as progress:
        report = evaluate(
            arguments.bundle,
            arguments.data,
            output=arguments.output,
            at=arguments.at,
            with_pictures=arguments.with_pictures,
            threshold=arguments.threshold,
            settings=settings(arguments),
            **engine_choice(arguments),
            force=arguments.force,
            progress=progress,
        )
    show(arguments, f"{arguments.bundle.name} on {arguments.data}", report)
    return 0


def _ablate(arguments: argparse.Namespace) -> int:
    from edgeseg.cli._console import progress_bars, show
    from edgeseg.workflows.ablate import ablate

    if arguments.with_pictures or arguments.at != "model":
        raise UsageError("--ablate compares at the model's resolution and draws no pictures")
    with progress_bars(arguments) as progress:
        report = ablate(
            arguments.bundle,
            arguments.data,
            output=arguments.output,
            threshold=arguments.threshold,
            settings=settings(arguments),
            **engine_choice(arguments),
            force=arguments.force,
            progress=progress,
        )
    show(arguments, f"{arguments.bundle.name} on {arguments.data}", report)
    return 0
