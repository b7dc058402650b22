"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.settings import Settings

__all__ = [
    "add_engine_arguments",
    "add_force_argument",
    "add_settings_arguments",
    "add_smooth_argument",
    "add_threshold_argument",
    "add_z_sigma_argument",
    "engine_choice",
    "settings",
]


def add_engine_arguments(
    parser: argparse.ArgumentParser, *, several_precisions: bool = False
) -> None:
    """The choices of ``edgeseg.open``: backend, device, precision and threads.

    With ``several_precisions`` the option may be repeated, and its value is a list.
    """
    parser.add_argument("--backend", default="auto", help="auto, openvino, onnxruntime or tensorrt")
    parser.add_argument(
        "--device",
        default="auto",
        help="CPU, GPU, GPU.1, NPU, TENSORRT (inside ONNX Runtime), ... (default: as the backend "
        "needs)",
    )
    parser.add_argument(
        "--precision",
        action="append" if several_precisions else "store",
        help="fp32, fp16, fp16-safe or int8 (default: as built)"
        + ("; may be repeated" if several_precisions else ""),
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of the engine (default: as calibrated for this machine, else as the "
        "library chooses)",
    )


def engine_choice(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments that ``add_engine_arguments`` stands for."""
    return {
        "backend": arguments.backend,
        "device": arguments.device,
        "precision": arguments.precision,
        "threads": arguments.threads,
    }


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Views and read-out: what ``Settings`` can say, besides smoothing over time and slices."""
    group = parser.add_argument_group("views and read-out (default: what the model says)")
    group.add_argument("--views", metavar="N|HxW,...", help="sizes at which a frame is looked at")
    group.add_argument(
        "--flips", metavar="h,v,hv|none", help="mirrored copies besides the frame itself"
    )
    group.add_argument(
        "--weighting", metavar="entropy|mean|exp[:T]", help="how the views are weighed"
    )
    group.add_argument("--blur", type=float, metavar="PX", help="blur probabilities by this sigma")
    group.add_argument(
        "--fill-holes",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="fill enclosed background",
    )
    group.add_argument(
        "--min-component", type=int, metavar="PX", help="drop components of fewer pixels"
    )


def settings(arguments: argparse.Namespace) -> Settings:
    """The settings that the arguments stand for.

    Raises:
        UsageError: one of them cannot be read.
    """
    from edgeseg.settings import (
        Settings,
        parse_flips,
        parse_views,
        parse_weighting,
        parse_z_sigma,
    )

    weighting, temperature = (
        parse_weighting(arguments.weighting) if arguments.weighting is not None else (None, None)
    )
    smooth_ms = getattr(arguments, "smooth_ms", None)
    z_sigma = getattr(arguments, "z_sigma", None)
    return Settings(
        views=None if arguments.views is None else parse_views(arguments.views),
        flips=None if arguments.flips is None else parse_flips(arguments.flips),
        weighting=weighting,
        temperature=temperature,
        blur_sigma_px=arguments.blur,
        fill_holes=arguments.fill_holes,
        min_component_px=arguments.min_component,
        time_constant_ms=smooth_ms,
        z_smoothing=None if z_sigma is None else parse_z_sigma(z_sigma),
    )


def add_smooth_argument(parser: argparse.ArgumentParser) -> None:
    """``--smooth-ms``."""
    parser.add_argument(
        "--smooth-ms",
        type=float,
        metavar="MS",
        help="smooth probabilities over a video's frames with this time constant; 0: do not",
    )


def add_z_sigma_argument(parser: argparse.ArgumentParser) -> None:
    """``--z-sigma``."""
    parser.add_argument(
        "--z-sigma",
        metavar="N|Nmm",
        help="smooth volumes across slices with this sigma, in slices or mm; 0: do not "
        "(default: what the model says)",
    )


def add_threshold_argument(parser: argparse.ArgumentParser) -> None:
    """``--threshold``."""
    parser.add_argument("--threshold", type=float, help="for one class, instead of the bundle's")


def add_force_argument(parser: argparse.ArgumentParser) -> None:
    """``--force``."""
    parser.add_argument("--force", action="store_true", help="replace an existing output")
