"""``edgeseg build``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.cli._arguments import (
    add_force_argument,
    add_settings_arguments,
    add_smooth_argument,
    add_z_sigma_argument,
    settings,
)
from edgeseg.errors import UsageError

if TYPE_CHECKING:
    from edgeseg.backends._tensorrt import CompileOptions

SUMMARY = "turn a checkpoint (or an existing bundle) into an engine bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "checkpoint", type=Path, help="a trained checkpoint, or a bundle to requantise"
    )
    parser.add_argument("--int8", action="store_true", help="build INT8 variants (needs --data)")
    parser.add_argument("--fp16", action="store_true", help="build FP16 variants")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="calibration images, videos or scans"
    )
    parser.add_argument("--val", type=Path, metavar="DIR", help="validation data, masks optional")
    parser.add_argument(
        "--imgsz", metavar="N|HxW", help="input size, multiples of 16 (default: the family's)"
    )
    parser.add_argument("--classes", metavar="A,B", help="class names, comma-separated")
    parser.add_argument(
        "--roi", metavar="X,Y,W,H", help="region of interest in the source frames, in pixels"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        help="backend to check with: auto, openvino, onnxruntime; tensorrt compiles for this GPU",
    )
    parser.add_argument(
        "--device", default="auto", help="device to check on or to compile for (default: auto)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    parser.add_argument(
        "--method",
        choices=("max", "entropy", "percentile", "mse"),
        help="calibration method (default: the quantiser's own best)",
    )
    parser.add_argument(
        "--quantizer", choices=("edgeseg", "modelopt"), default="edgeseg", help="who places Q/DQ"
    )
    parser.add_argument(
        "--no-rewrite",
        action="store_true",
        help="keep the authors' algebra: no exact rewrites of the graph",
    )
    parser.add_argument(
        "--calibration-frames", type=int, metavar="N", help="at most this many, evenly sampled"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="REGEX",
        help="keep these nodes unquantised",
    )
    parser.add_argument(
        "--with-pictures",
        action="store_true",
        help="put the worst validation cases into report.html (they are patients' pictures)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="default: CHECKPOINT.edgeseg"
    )
    plans = parser.add_argument_group("plans (with --backend tensorrt)")
    plans.add_argument(
        "--precision", help="the only one to compile (default: the fastest that computes rightly)"
    )
    plans.add_argument(
        "--workspace-mib", type=int, metavar="N", help="scratch memory that layers may use"
    )
    plans.add_argument(
        "--optimization-level", type=int, metavar="0..5", help="how long the compiler may search"
    )
    plans.add_argument(
        "--dla", type=int, metavar="CORE", help="run what it can on this deep learning accelerator"
    )
    plans.add_argument(
        "--max-aux-streams", type=int, metavar="N", help="streams for layers beside each other"
    )
    plans.add_argument(
        "--rebuild", action="store_true", help="compile again what was compiled or rejected before"
    )
    add_smooth_argument(parser)
    add_z_sigma_argument(parser)
    add_settings_arguments(parser)
    add_force_argument(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Build, then show the closing table."""
    from edgeseg.cli import parse_integers, parse_size
    from edgeseg.cli._console import console, progress_bars, show
    from edgeseg.spec import RoiSpec
    from edgeseg.workflows.build import build

    classes = None
    if arguments.classes is not None:
        classes = tuple(name.strip() for name in arguments.classes.split(","))
        if not all(classes):
            raise UsageError(f"--classes {arguments.classes!r} has an empty name")
    roi = None
    if arguments.roi is not None:
        roi = RoiSpec(*parse_integers(arguments.roi, 4, "X,Y,WIDTH,HEIGHT in pixels"))
    with progress_bars(arguments) as progress:
        report = build(
            arguments.checkpoint,
            output=arguments.output,
            int8=arguments.int8,
            fp16=arguments.fp16,
            data=arguments.data,
            val=arguments.val,
            imgsz=parse_size(arguments.imgsz) if arguments.imgsz else None,
            classes=classes,
            roi=roi,
            settings=settings(arguments),
            backend=arguments.backend,
            device=arguments.device,
            threads=arguments.threads,
            method=arguments.method,
            quantizer=arguments.quantizer,
            rewrite=not arguments.no_rewrite,
            calibration_frames=arguments.calibration_frames,
            exclude=tuple(arguments.exclude),
            with_pictures=arguments.with_pictures,
            force=arguments.force,
            precision=arguments.precision,
            plan_options=_plan_options(arguments),
            rebuild=arguments.rebuild,
            progress=progress,
        )
    if report.built:
        show(arguments, f"{report.manifest.name}: {report.manifest.family}", report)
        console(arguments).print(f"bundle: {report.path}\nreport: {report.path / 'report.html'}")
    if report.plans is not None:
        show(arguments, f"{report.manifest.name} on {report.plans.machine}", report.plans)
    return 0


def _plan_options(arguments: argparse.Namespace) -> CompileOptions | None:
    """The compiler's options; None where none is given."""
    given = {
        "workspace_mib": arguments.workspace_mib,
        "optimization_level": arguments.optimization_level,
        "dla": arguments.dla,
        "max_aux_streams": arguments.max_aux_streams,
    }
    if all(value is None for value in given.values()):
        return None
    from edgeseg.backends._tensorrt import CompileOptions

    return CompileOptions(**given)
