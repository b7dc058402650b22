"""``edgeseg fit``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.cli._arguments import add_force_argument

SUMMARY = "train DINO-MVR probes on a frozen DINOv3 backbone, from a few labelled images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "backbone",
        type=Path,
        help="a DINOv3 backbone in Meta's or timm's spelling, or a checkpoint that contains one",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="image/ and mask/ of pictures or NIfTI volumes; or one volume, with --labels",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="CKPT", help="the checkpoint to write"
    )
    parser.add_argument("--labels", type=Path, metavar="FILE", help="labels of the one volume")
    parser.add_argument(
        "--classes",
        metavar="A,B",
        help="names of the labels 1, 2, ... (default: all foreground is one class)",
    )
    parser.add_argument(
        "--resolutions",
        default="256,384,512",
        metavar="N,...",
        help="sizes of the views, N or HxW, multiples of 16 (default: 256,384,512)",
    )
    parser.add_argument(
        "--axis",
        choices=("axial", "coronal", "sagittal"),
        help="of volumes: along which slices are stacked (default: axial)",
    )
    parser.add_argument(
        "--normalize",
        metavar="HOW",
        help="of volumes: zscore, minmax, window=LEVEL,WIDTH or none (default: zscore)",
    )
    parser.add_argument(
        "--slices",
        metavar="FIRST:END",
        help="of volumes: learn from these slices (END excluded), hold all others out",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        metavar="N",
        help="fraction (below 1) or number of images to judge by, 0 for none (default: 0.2)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="take only N images or slices, drawn with --seed"
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="default: about 600 steps, in 10 to 60 epochs"
    )
    parser.add_argument(
        "--hidden", type=int, default=256, metavar="N", help="width of the probes (default: 256)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    add_force_argument(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Fit, then show the held-out Dice."""
    from edgeseg.cli import parse_range
    from edgeseg.cli._console import console, progress_bars, show
    from edgeseg.settings import parse_views
    from edgeseg.workflows.fit import fit

    with progress_bars(arguments) as progress:
        report = fit(
            arguments.backbone,
            arguments.data,
            arguments.output,
            labels=arguments.labels,
            classes=None if arguments.classes is None else _names(arguments.classes),
            resolutions_px=parse_views(arguments.resolutions),
            axis=arguments.axis,
            normalize=arguments.normalize,
            slices=None if arguments.slices is None else parse_range(arguments.slices),
            held_out=arguments.held_out,
            limit=arguments.limit,
            epochs=arguments.epochs,
            hidden=arguments.hidden,
            seed=arguments.seed,
            threads=arguments.threads,
            force=arguments.force,
            progress=progress,
        )
    show(arguments, f"held-out {report.unit}: {report.held_out}", report)
    console(arguments).print(f"checkpoint: {report.output}")
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
