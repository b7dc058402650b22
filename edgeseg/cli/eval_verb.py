"""``edgeseg eval``."""

from __future__ import annotations

import argparse
from pathlib import Path

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
    parser.add_argument("--threshold", type=float, help="for one class, instead of the bundle's")
    parser.add_argument("--backend", default="auto", help="auto, openvino or onnxruntime")
    parser.add_argument("--device", default="CPU", help="CPU, GPU or NPU (default: CPU)")
    parser.add_argument("--precision", help="fp32, fp16, fp16-safe or int8 (default: as built)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of the engine")
    parser.add_argument("--force", action="store_true", help="replace an existing output")


def execute(arguments: argparse.Namespace) -> int:
    """Evaluate, then show the means."""
    from edgeseg.cli._console import console, progress_bars, table
    from edgeseg.workflows.evaluate import evaluate

    with progress_bars(arguments) as progress:
        report = evaluate(
            arguments.bundle,
            arguments.data,
            output=arguments.output,
            at=arguments.at,
            with_pictures=arguments.with_pictures,
            threshold=arguments.threshold,
            backend=arguments.backend,
            device=arguments.device,
            precision=arguments.precision,
            threads=arguments.threads,
            force=arguments.force,
            progress=progress,
        )
    out = console(arguments)
    out.print(table(f"{arguments.bundle.name} on {arguments.data}", *report.table()))
    for line in report.remarks():
        out.print(line)
    return 0
