"""``edgeseg bench``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.cli._arguments import add_engine_arguments, add_force_argument

if TYPE_CHECKING:
    from edgeseg.workflows.benchmark import BenchReport

SUMMARY = "latency, throughput, accuracy and memory on this machine, beside other libraries"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "source",
        type=Path,
        nargs="?",
        metavar="BUNDLE|CKPT",
        help="a checkpoint is built for the measurement alone: INT8 with --data, else FP32",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A.json", "B.json"),
        help="measure nothing: say what two results differ in, and what is beyond noise",
    )
    parser.add_argument(
        "--vs",
        metavar="NAME,...",
        help="peers, built from the checkpoint: torch, torch-compile, onnxruntime, openvino, "
        "openvino-f32, nncf",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="of the bundle; --vs needs it"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="to calibrate a checkpoint's INT8, and nncf, on"
    )
    parser.add_argument(
        "--val", type=Path, metavar="DIR", help="held-out pictures, to score every candidate on"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--duration", type=float, metavar="S", help="seconds of latency, all candidates together"
    )
    length.add_argument(
        "--rounds", type=int, metavar="N", help="turns of five calls each (default: 20)"
    )
    parser.add_argument("--frame", default="720x1280", metavar="HxW", help="size of the frames fed")
    parser.add_argument(
        "--profile", action="store_true", help="time the engine's layers, by part of the model"
    )
    parser.add_argument(
        "--end-to-end",
        type=Path,
        metavar="VIDEO",
        help="also take the first minute of a video from capture to overlay, at its own rate",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="write result.json and report.html"
    )
    add_force_argument(parser)
    add_engine_arguments(parser, several_precisions=True)


def execute(arguments: argparse.Namespace) -> int:
    """Measure, or compare two results, then show the tables."""
    from edgeseg.errors import UsageError

    if (arguments.source is None) == (arguments.compare is None):
        raise UsageError("name a bundle or a checkpoint to measure, or two results to --compare")
    if arguments.compare is not None:
        return _compare(arguments)
    from edgeseg.cli import parse_size
    from edgeseg.cli._arguments import engine_choice
    from edgeseg.cli._console import progress_bars
    from edgeseg.workflows.benchmark import benchmark

    choice = engine_choice(arguments)
    precisions = choice.pop("precision") or ()
    with progress_bars(arguments) as progress:
        report = benchmark(
            arguments.source,
            **choice,
            precisions=precisions,
            vs=tuple(name.strip() for name in arguments.vs.split(",")) if arguments.vs else (),
            checkpoint=arguments.checkpoint,
            data=arguments.data,
            val=arguments.val,
            rounds=arguments.rounds,
            duration_s=arguments.duration,
            frame_hw_px=parse_size(arguments.frame),
            profile=arguments.profile,
            end_to_end=arguments.end_to_end,
            output=arguments.output,
            force=arguments.force,
            progress=progress,
        )
    _show(arguments, report)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from edgeseg.cli._console import show
    from edgeseg.errors import UsageError
    from edgeseg.workflows.benchmark import compare_results

    defaults = argparse.ArgumentParser()
    add_arguments(defaults)
    for name, value in vars(defaults.parse_args([])).items():
        if name != "compare" and getattr(arguments, name) != value:
            raise UsageError(
                f"--compare measures nothing, so --{name.replace('_', '-')} has no meaning with it"
            )
    first, second = arguments.compare
    show(arguments, f"A: {first}, B: {second}", compare_results(first, second))
    return 0


def _show(arguments: argparse.Namespace, report: BenchReport) -> None:
    from edgeseg.bench.tables import candidate_rows, remarks, stage_rows, throughput_rows
    from edgeseg.cli._console import console, show, table

    result = report.result
    height, width = result.frame_hw_px
    threads = result.candidates[0].threads
    out = console(arguments)
    out.print(
        table(
            f"{result.subject} on {result.machine.name}, {threads} threads", *candidate_rows(result)
        )
    )
    out.print(table(f"edgeseg, frames of {width}x{height}", *stage_rows(result)))
    out.print(table("throughput of the network", *throughput_rows(result)))
    if report.frame_path is not None:
        out.print(f"frame path: {report.frame_path}")
    if report.blocks is not None:
        show(arguments, "time of a frame by block, layers profiled", report.blocks)
    for line in remarks(result):
        out.print(line)
    if report.output is not None:
        out.print(f"written: {report.output}")
