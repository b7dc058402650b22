"""``edgeseg run``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.cli._arguments import (
    add_engine_arguments,
    add_force_argument,
    add_settings_arguments,
    add_smooth_argument,
    add_threshold_argument,
    engine_choice,
    settings,
)

SUMMARY = "draw a bundle's masks on a video, an image or a folder of images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path)
    parser.add_argument("input", type=Path, help="video, image or folder of images")
    parser.add_argument(
        "output", type=Path, nargs="?", help="default: INPUT's name with -overlay, here"
    )
    parser.add_argument("--alpha", type=float, default=0.4, help="opacity of the mask, 0 to 1")
    parser.add_argument("--color", help="one colour a class, comma-separated: names or #RRGGBB")
    parser.add_argument("--contours", action="store_true", help="outlines as well")
    parser.add_argument("--mask-only", action="store_true", help="write masks instead of overlays")
    add_threshold_argument(parser)
    add_smooth_argument(parser)
    add_settings_arguments(parser)
    add_engine_arguments(parser)
    add_force_argument(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Run, then say what was written and how fast."""
    from edgeseg.cli._console import console, progress_bars
    from edgeseg.workflows.run import run

    with progress_bars(arguments) as progress:
        report = run(
            arguments.bundle,
            arguments.input,
            arguments.output,
            alpha=arguments.alpha,
            color=arguments.color,
            contours=arguments.contours,
            mask_only=arguments.mask_only,
            threshold=arguments.threshold,
            settings=settings(arguments),
            **engine_choice(arguments),
            force=arguments.force,
            progress=progress,
        )
    console(arguments).print(str(report))
    return 0
