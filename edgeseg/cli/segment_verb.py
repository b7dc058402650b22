"""``edgeseg segment``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.cli._arguments import (
    add_engine_arguments,
    add_force_argument,
    add_settings_arguments,
    add_threshold_argument,
    add_z_sigma_argument,
    engine_choice,
    settings,
)

SUMMARY = "labels of a volume (NIfTI), slice by slice, smoothed across slices"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path)
    parser.add_argument("scan", type=Path, help="one 3-D volume, .nii or .nii.gz")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: SCAN's name with -seg, here"
    )
    parser.add_argument(
        "--axis",
        choices=("axial", "coronal", "sagittal"),
        help="along which slices are stacked (default: as the bundle says, else axial)",
    )
    parser.add_argument(
        "--normalize",
        metavar="HOW",
        help="zscore, minmax, window=LEVEL,WIDTH or none "
        "(default: as the bundle says, else zscore)",
    )
    add_z_sigma_argument(parser)
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="truth on the same grid, to score against"
    )
    parser.add_argument(
        "--score-slices",
        metavar="FIRST:END",
        help="score only these slices (END excluded), such as those that fit held out",
    )
    parser.add_argument(
        "--montage",
        type=Path,
        nargs="?",
        const=True,
        metavar="PNG",
        help="draw slices with what was found (default name: the output's)",
    )
    add_threshold_argument(parser)
    add_settings_arguments(parser)
    add_engine_arguments(parser)
    add_force_argument(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Segment, then say what was found."""
    from edgeseg.cli import parse_range
    from edgeseg.cli._console import progress_bars, show
    from edgeseg.workflows.segment import segment

    with progress_bars(arguments) as progress:
        report = segment(
            arguments.bundle,
            arguments.scan,
            arguments.output,
            axis=arguments.axis,
            normalize=arguments.normalize,
            labels=arguments.labels,
            score_slices=(
                None if arguments.score_slices is None else parse_range(arguments.score_slices)
            ),
            montage=arguments.montage,
            threshold=arguments.threshold,
            settings=settings(arguments),
            **engine_choice(arguments),
            force=arguments.force,
            progress=progress,
        )
    show(arguments, f"{arguments.bundle.name} on {arguments.scan}", report)
    return 0
