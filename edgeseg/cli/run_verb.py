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
from edgeseg.cli._live_arguments import add_live_arguments, why_live

SUMMARY = "draw a bundle's masks on videos, images, cameras and streams"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "input",
        help="video, image or folder of images; live: /dev/video0, rtsp://..., csi://0, "
        "gst:PIPELINE, ffmpeg:ARGUMENTS, test://1280x720@25, - (raw frames)",
    )
    parser.add_argument(
        "output",
        nargs="*",
        help="for a file a file of its kind (default: INPUT's name with -overlay, here); live: "
        "any of display://, FILE.mp4, rtsp://..., udp://HOST:PORT, mask://FOLDER, "
        "mask://FILE.jsonl, v4l2:///dev/video2, - (raw frames)",
    )
    parser.add_argument("--alpha", type=float, default=0.4, help="opacity of the mask, 0 to 1")
    parser.add_argument("--color", help="one colour a class, comma-separated: names or #RRGGBB")
    parser.add_argument("--contours", action="store_true", help="outlines as well")
    parser.add_argument("--mask-only", action="store_true", help="write masks instead of overlays")
    parser.add_argument(
        "--roi",
        metavar="X,Y,W,H|auto",
        help="region of the frames to look at, in pixels, or auto: the picture inside black "
        "borders, found and followed (default: what the bundle says, else the whole frame)",
    )
    add_threshold_argument(parser)
    add_smooth_argument(parser)
    add_settings_arguments(parser)
    add_engine_arguments(parser)
    add_force_argument(parser)
    add_live_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Run, then say what was written and how fast."""
    why = why_live(arguments)
    if why is not None:
        from edgeseg.cli._live_run import execute_live

        return execute_live(arguments, why)

    from edgeseg.cli._console import console, progress_bars
    from edgeseg.live.uri import parse_source
    from edgeseg.region import parse_region
    from edgeseg.workflows.run import run

    roi = None if arguments.roi is None else parse_region(arguments.roi)
    with progress_bars(arguments) as progress:
        report = run(
            arguments.bundle,
            parse_source(arguments.input).target,
            arguments.output[0] if arguments.output else None,
            alpha=arguments.alpha,
            color=arguments.color,
            contours=arguments.contours,
            mask_only=arguments.mask_only,
            threshold=arguments.threshold,
            roi=roi,
            settings=settings(arguments),
            **engine_choice(arguments),
            force=arguments.force,
            progress=progress,
        )
    console(arguments).print(str(report))
    return 0
