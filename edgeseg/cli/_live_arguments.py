"""What ``edgeseg run`` takes for live sources, and when a run is a live one."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.live.session import LiveOptions
    from edgeseg.live.sources import SourceOptions

__all__ = ["add_live_arguments", "live_options", "source_options", "why_live"]

_SOURCE = ("source_size", "rate", "codec", "pace", "loop", "transport", "source_timeout")
_BEHAVIOUR = (
    "policy",
    "buffer",
    "max_age_ms",
    "latest_frame",
    "wait_for_source",
    "give_up_s",
    "serve",
    "serve_name",
    "token_file",
    "record_to",
    "output_codec",
    "keep_free_mb",
    "log",
    "budget_ms",
    "no_status_line",
)


def add_live_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them; each is None or False where it is not given."""
    source = parser.add_argument_group("live source (any of these makes the run a live one)")
    source.add_argument("--source-size", metavar="WxH", help="of a camera, or of raw frames")
    source.add_argument("--rate", metavar="FPS", help="frames a second, such as 25 or 30000/1001")
    source.add_argument(
        "--codec", help="of a camera: mjpeg, yuyv422, ...; of raw frames: bgr24, ..."
    )
    source.add_argument(
        "--pace",
        choices=("source", "none"),
        help="files: as their time stamps say, or as fast as it goes (default: as time stamps say "
        "if somebody may look on)",
    )
    source.add_argument("--loop", action="store_true", help="play files again and again")
    source.add_argument("--transport", choices=("tcp", "udp"), help="of RTSP (default: tcp)")
    source.add_argument(
        "--source-timeout", type=float, metavar="S", help="silence that counts as lost"
    )
    source.add_argument(
        "--wait-for-source",
        action="store_true",
        help="a camera or server that is not there yet is no error",
    )
    live = parser.add_argument_group("live run")
    live.add_argument(
        "--policy",
        choices=("wait", "drop-oldest", "drop-latest"),
        help="frames for which the engine has no time (default: live sources drop the oldest, "
        "files wait)",
    )
    live.add_argument("--buffer", type=int, metavar="1|2", help="frames that may wait (default: 1)")
    live.add_argument(
        "--max-age-ms",
        type=float,
        metavar="MS",
        help="a mask of an older frame is not shown (default: 300; files that wait: no limit)",
    )
    live.add_argument(
        "--latest-frame",
        action="store_true",
        help="show every frame at once, the last mask moved to it and marked as predicted",
    )
    live.add_argument(
        "--give-up-s", type=float, metavar="S", help="longest call of the engine (default: 10)"
    )
    live.add_argument(
        "--budget-ms",
        type=float,
        metavar="MS",
        help="DINO-MVR: use as many views as fit into this time for a frame",
    )
    live.add_argument("--serve", metavar="[HOST:]PORT", help="the live page (loopback by default)")
    live.add_argument(
        "--serve-name",
        action="append",
        metavar="NAME",
        help="a further name by which the page may be asked for, such as a proxy's",
    )
    live.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="token that opens the page; needed beyond loopback (or EDGESEG_TOKEN)",
    )
    live.add_argument(
        "--record-to", type=Path, metavar="FOLDER", help="for recordings started on the page"
    )
    live.add_argument(
        "--output-codec",
        metavar="NAME",
        help="encoder of recordings and streams: h264_nvenc, h264_v4l2m2m, ... (default: H.264 in "
        "software where there is one)",
    )
    live.add_argument(
        "--keep-free-mb",
        type=int,
        metavar="MB",
        help="outputs on a disk end when less is left on it (default: 64; 0: they fill it up)",
    )
    live.add_argument("--log", type=Path, metavar="FILE", help="events, one JSON object a line")
    live.add_argument(
        "--no-status-line", action="store_true", help="no age and rate in the picture"
    )


def why_live(arguments: argparse.Namespace) -> str | None:
    """Why this run is a live one; None for files that are turned into files.

    Raises:
        UsageError: source or output mean nothing.
    """
    from edgeseg.live.uri import parse_source

    kind = parse_source(arguments.input).kind
    if kind != "file":
        return f"the source is {_article(kind)}"
    for name in (*_SOURCE, *_BEHAVIOUR):
        if getattr(arguments, name) not in (None, False):
            return f"--{name.replace('_', '-')}"
    if len(arguments.output) > 1:
        return "several outputs"
    if arguments.output and ("://" in arguments.output[0] or arguments.output[0] == "-"):
        return f"the output is {arguments.output[0].partition('://')[0]}"
    return None


def source_options(arguments: argparse.Namespace) -> SourceOptions:
    """Size, rate and the rest of the source.

    Raises:
        UsageError: one of them cannot be read.
    """
    from edgeseg.live.sources import SourceOptions

    width, height = _size(arguments.source_size)
    given: dict[str, Any] = {"timeout_s": arguments.source_timeout, "loop": arguments.loop}
    return SourceOptions(
        width_px=width,
        height_px=height,
        rate=_rate(arguments.rate),
        codec=arguments.codec,
        pace=arguments.pace,
        transport=arguments.transport,
        **{name: value for name, value in given.items() if value is not None},
    )


def live_options(arguments: argparse.Namespace) -> LiveOptions:
    """How the session behaves.

    Raises:
        UsageError: a number is out of range.
    """
    from edgeseg.live.session import LiveOptions

    given: dict[str, Any] = {
        "slots": arguments.buffer,
        "give_up_ms": None if arguments.give_up_s is None else 1e3 * arguments.give_up_s,
    }
    return LiveOptions(
        policy=arguments.policy,
        max_age_ms=arguments.max_age_ms,
        latest_frame=arguments.latest_frame,
        wait_for_source=arguments.wait_for_source,
        **{name: value for name, value in given.items() if value is not None},
    )


def _article(kind: str) -> str:
    return {"stdin": "standard input", "test": "generated frames"}.get(kind, f"{kind}")


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        from edgeseg.errors import UsageError

        raise UsageError(f"size {text!r}: write WIDTHxHEIGHT, such as 1920x1080")
    return int(parts[0]), int(parts[1])


def _rate(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        from edgeseg.errors import UsageError

        raise UsageError(
            f"rate {text!r}: write frames a second, such as 25 or 30000/1001"
        ) from None
