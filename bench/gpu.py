"""``python -m edgeseg.bench.gpu -o FILE.json``: the kernels on a GPU, checked and timed.

First every home of the kernels (CPU, CUDA, Triton) is compared with the float64 references, and
fusions and decisions replayed from a CUDA graph with direct calls. Then, as device time between
CUDA events, medians of interleaved rounds:

- ``smooth_z`` on a volume of at least 2 GB against a device copy of it (``copy_``), which moves the
  bytes that the smoothing must move; the share is the time of the copy divided by that of
  ``smooth_z``;
- ``fuse_views``, 6 and 9 views onto 512x512 with smoothing over time, against a composition of
  torch: called as it stands, captured in a CUDA graph, and compiled and captured;
- ``decide_mask``, logits of 512x512 onto a mask of 1920x1080, one class and five, with and without
  counts, against torch's interpolation and comparison, and against writing the mask with a fill;
- ``blend_overlay`` and ``resize_normalize_views`` on a frame of 1920x1080 against torch.

"in a graph" is the time of one call among many captured in one CUDA graph: what the device needs.
The others are called from Python one after the other, so that the host may be what they wait for.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeseg import __version__
from edgeseg._files import atomic_file
from edgeseg._machine import machine_name
from edgeseg._optional import require
from edgeseg.bench.gpu_cases import Measurement, measure_all
from edgeseg.bench.gpu_checks import Check, check_home, failures
from edgeseg.bench.gpu_homes import CpuHome, CudaHome, Home, TritonHome
from edgeseg.bench.gpu_memory import TorchMemory
from edgeseg.bench.gpu_replays import replayed_decision, replayed_fusion
from edgeseg.errors import BackendUnavailableError, EdgesegError
from edgeseg.kernels import cuda

__all__ = ["Measurement", "gpu_record", "main", "require_gpu"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgeseg.bench.gpu", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each case (default: 30)")
    parser.add_argument(
        "--slices", type=int, default=512, help="of 4 MiB, in the volume (default: 512, 2 GiB)"
    )
    options = parser.parse_args(arguments)
    # A pipe has no width: lay the tables out whole rather than cut them at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        torch = require_gpu()
        triton_kernels = require("edgeseg.kernels.triton_kernels", "triton")
        cuda.prepare()
        homes: dict[str, Home] = {
            "CPU": CpuHome(),
            "CUDA": CudaHome(TorchMemory(torch)),
            "Triton": TritonHome(torch, triton_kernels),
        }
        checks = {name: check_home(home) for name, home in homes.items()}
        checks["CUDA"] += [replayed_fusion(torch), replayed_decision(torch)]
        measurements = measure_all(torch, triton_kernels, options.slices, options.rounds)
    except EdgesegError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False)
        return error.exit_code
    console.print(_checks_table(checks))
    for measurement in measurements:
        console.print(_table(measurement))
    if options.output is not None:
        document = _document(torch, checks, measurements)
        with atomic_file(options.output) as path:
            path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 1 if any(failures(found) for found in checks.values()) else 0


def require_gpu() -> Any:
    """Torch, with a CUDA device that edgeseg's library can use as well.

    Raises:
        MissingDependencyError: torch is not installed.
        BackendUnavailableError: there is no CUDA device, or torch or edgeseg was built without
            CUDA.
    """
    torch = require("torch", "export")
    if not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"this benchmark needs an NVIDIA GPU, and torch {torch.__version__} sees none: run it "
            "on a machine with a GPU, its driver and a build of torch for CUDA"
        )
    reason = cuda.unavailable_reason()
    if reason is not None:
        raise BackendUnavailableError(f"edgeseg's CUDA kernels cannot be used: {reason}")
    return torch


def _checks_table(checks: Mapping[str, Sequence[Check]]) -> Table:
    table = Table(title="against the float64 references: largest error (wrong labels)")
    table.add_column("case")
    for name in checks:
        table.add_column(name, justify="right")
    rows: dict[str, dict[str, str]] = {}
    for name, found in checks.items():
        for check in found:
            text = f"{check.largest_error:.1e} ({check.wrong_labels})"
            rows.setdefault(check.what, {})[name] = text if check.passed else f"FAILED {text}"
    for what, cells in rows.items():
        table.add_row(what, *(cells.get(name, "") for name in checks))
    return table


def _table(measurement: Measurement) -> Table:
    table = Table(title=measurement.what)
    table.add_column("what")
    table.add_column("median µs", justify="right")
    table.add_column("times as long", justify="right")
    for name, ms in measurement.median_ms.items():
        ratio = measurement.ratios.get(name)
        table.add_row(name, f"{1e3 * ms:.2f}", "" if ratio is None else f"{ratio:.2f}")
    return table


def gpu_record(torch: Any) -> dict[str, Any]:
    """When and on what something was measured, as JSON types."""
    info = cuda.library_info()
    return {
        "date_utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine_name(),
        "device": torch.cuda.get_device_name(),
        "compute_capability": list(torch.cuda.get_device_capability()),
        "driver": _driver(),
        "versions": {
            "edgeseg": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda_of_torch": torch.version.cuda,
        },
        "architectures": list(info.architectures),
    }


def _document(
    torch: Any, checks: Mapping[str, Sequence[Check]], measurements: Sequence[Measurement]
) -> dict[str, Any]:
    record = gpu_record(torch)
    record["versions"]["triton"] = require("triton", "triton").__version__
    return {
        **record,
        "checks": {
            name: [{**asdict(check), "passed": check.passed} for check in found]
            for name, found in checks.items()
        },
        "measurements": [asdict(measurement) for measurement in measurements],
    }


def _driver() -> str | None:
    """Version of the driver; None where ``nvidia-smi`` is not there or does not say."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.split("\n")
    return lines[0].strip() or None if done.returncode == 0 else None


if __name__ == "__main__":
    raise SystemExit(main())
