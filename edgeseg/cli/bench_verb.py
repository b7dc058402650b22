"""``edgeseg bench``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.cli._arguments import add_engine_arguments, engine_choice

SUMMARY = "latency by stage and throughput, beside ONNX Runtime in FP32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frame", default="720x1280", metavar="HxW", help="size of the frames fed")
    parser.add_argument("--rounds", type=int, default=20, help="turns of five calls each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--no-baseline", action="store_true", help="leave ONNX Runtime FP32 out")
    parser.add_argument(
        "--profile", action="store_true", help="time the engine's layers, by part of the model"
    )
    add_engine_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Measure, then show the tables."""
    from edgeseg.cli import parse_size
    from edgeseg.cli._console import console, progress_bars, show, table
    from edgeseg.workflows.benchmark import benchmark

    with progress_bars(arguments) as progress:
        report = benchmark(
            arguments.bundle,
            **engine_choice(arguments),
            frame_hw_px=parse_size(arguments.frame),
            rounds=arguments.rounds,
            baseline=not arguments.no_baseline,
            profile=arguments.profile,
            json_file=arguments.json,
            progress=progress,
        )
    columns = ("stage, ms", "min", "mean", "p50", "p90", "p95", "p99", "max")
    stages = dict(report.stages)
    if report.baseline is not None:
        stages["inference, ONNX Runtime FP32"] = report.baseline
    rows = [
        (name, *(f"{value:.2f}" for value in timing.summary_ms().values()))
        for name, timing in stages.items()
    ]
    engine, (height, width) = report.engine, report.frame_hw_px
    out = console(arguments)
    out.print(
        table(
            f"{report.variant} on {engine.backend} {engine.version}, {engine.device_name}, "
            f"{engine.threads} threads, frames of {width}x{height}",
            columns,
            rows,
        )
    )
    out.print(f"throughput: {report.throughput_fps:.1f} frames/s")
    if report.frame_path is not None:
        out.print(f"frame path: {report.frame_path}")
    if report.no_frame_path is not None:
        out.print(f"no frame path on the GPU: {report.no_frame_path}")
    if report.speedup is not None:
        out.print(f"inference against ONNX Runtime FP32: {report.speedup:.2f} times as fast")
    if report.blocks is not None:
        show(arguments, "time of a frame by block, layers profiled", report.blocks)
    return 0
