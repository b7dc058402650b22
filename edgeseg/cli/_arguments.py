"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_engine_arguments", "add_force_argument", "add_threshold_argument", "engine_choice"]


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The choices of ``edgeseg.open``: backend, device, precision and threads."""
    parser.add_argument("--backend", default="auto", help="auto, openvino or onnxruntime")
    parser.add_argument("--device", default="CPU", help="CPU, GPU or NPU (default: CPU)")
    parser.add_argument("--precision", help="fp32, fp16, fp16-safe or int8 (default: as built)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of the engine")


def engine_choice(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments that ``add_engine_arguments`` stands for."""
    return {
        "backend": arguments.backend,
        "device": arguments.device,
        "precision": arguments.precision,
        "threads": arguments.threads,
    }


def add_threshold_argument(parser: argparse.ArgumentParser) -> None:
    """``--threshold``."""
    parser.add_argument("--threshold", type=float, help="for one class, instead of the bundle's")


def add_force_argument(parser: argparse.ArgumentParser) -> None:
    """``--force``."""
    parser.add_argument("--force", action="store_true", help="replace an existing output")
