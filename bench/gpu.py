"""``python -m edgeseg.bench.gpu -o FILE.json``: the kernels on a GPU, checked and timed.

First every home of the kernels (CPU, CUDA, Triton) is compared with the float64 references, and
fusions replayed from a CUDA graph with direct calls. Then, as device time between CUDA events,
medians of interleaved rounds:

- ``smooth_z`` on a volume of at least 2 GB against a device copy of it (``copy_``), which moves the
  bytes that the smoothing must move; the share is the time of the copy divided by that of
  ``smooth_z``;
- ``fuse_views``, 6 and 9 views onto 512x512 with smoothing over time, against a composition of
  torch: called as it stands, captured in a CUDA graph, and compiled and captured;
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edgeseg import __version__, kernels
from edgeseg._files import atomic_file
from edgeseg._machine import machine_name
from edgeseg._optional import require
from edgeseg.bench import gpu_baselines
from edgeseg.bench.gpu_checks import Check, check_home, failures
from edgeseg.bench.gpu_homes import MEAN, STD, CpuHome, CudaHome, Home, TritonHome, stream_of
from edgeseg.bench.gpu_timing import Work, capture, device_times
from edgeseg.errors import BackendUnavailableError, EdgesegError
from edgeseg.kernels import cuda
from edgeseg.spec import Flip, ViewSpec

__all__ = ["Measurement", "main", "require_gpu"]

_GRIDS = (16, 24, 32)
"""Patch grids of the resolutions 256, 384 and 512."""
_RESULT_PX = (512, 512)
_FRAME_PX = (1080, 1920)
_GRAPH_CALLS = 20
_CUDA, _TRITON, _COPY = "edgeseg CUDA", "edgeseg Triton", "device copy"
_IN_GRAPH = ", in a graph"


@dataclass(frozen=True)
class Measurement:
    """Medians of one case; ``ratios`` say how many times as long as edgeseg's CUDA others take."""

    what: str
    median_ms: dict[str, float]
    ratios: dict[str, float]


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
            "CUDA": CudaHome(torch),
            "Triton": TritonHome(torch, triton_kernels),
        }
        checks = {name: check_home(home) for name, home in homes.items()}
        checks["CUDA"].append(_replayed(torch))
        measurements = [
            *(_smooth(torch, triton_kernels, sigma, options) for sigma in (1.0, 1.5, 3.0)),
            *(
                _fuse(torch, triton_kernels, flips, options.rounds)
                for flips in (("none", "h"), ("none", "h", "v"))
            ),
            _blend(torch, triton_kernels, options.rounds),
            _resize(torch, triton_kernels, options.rounds),
        ]
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


def _replayed(torch: Any) -> Check:
    """Fusions replayed with other settings in memory against direct calls with those settings."""
    generator = torch.Generator("cuda").manual_seed(0)
    logits = [
        3.0 * torch.randn((1, side, side), device="cuda", generator=generator) for side in _GRIDS
    ]
    start = torch.rand(_RESULT_PX, device="cuda", generator=generator)
    views = [cuda.DeviceView(tensor) for tensor in logits]
    held = torch.from_numpy(cuda.fusion_settings()).cuda()
    state, mask = start.clone(), torch.empty(_RESULT_PX, dtype=torch.uint8, device="cuda")

    def fuse(settings: Any, state: Any, mask: Any) -> None:
        cuda.fuse_views(
            views, *_RESULT_PX, settings=settings, state=state, mask=mask, stream=stream_of(torch)
        )

    replay = capture(torch, lambda: fuse(held, state, mask), 1)
    largest, wrong = 0.0, 0
    choices: tuple[dict[str, Any], ...] = (
        {"keep": 0.8, "threshold": 0.3},
        {"keep": 0.8, "reset": True},
        {"weighting": "exp", "temperature": 0.2},
        {"weighting": "mean", "keep": 0.5, "threshold": 0.6},
    )
    for choice in choices:
        held.copy_(torch.from_numpy(cuda.fusion_settings(**choice)))
        state.copy_(start)
        replay()
        wanted, decided = start.clone(), torch.full_like(mask, 255)
        fuse(torch.from_numpy(cuda.fusion_settings(**choice)).cuda(), wanted, decided)
        torch.cuda.synchronize()
        difference = float((state - wanted).abs().max())
        largest = difference if not difference <= largest else largest
        wrong += int((mask != decided).sum())
    return Check("fuse replayed from a CUDA graph", largest, 0.0, wrong)


def _smooth(
    torch: Any, triton_kernels: Any, sigma: float, options: argparse.Namespace
) -> Measurement:
    volume = torch.rand((options.slices, 1024, 1024), device="cuda")
    out = torch.empty_like(volume)
    weights = kernels.gaussian_weights(sigma)
    on_device = torch.from_numpy(weights.astype(np.float32)).cuda()
    candidates: dict[str, tuple[Work, int]] = {
        _CUDA: (lambda: cuda.smooth_z(volume, weights, out=out, stream=stream_of(torch)), 1),
        _COPY: (lambda: out.copy_(volume), 1),
        _TRITON: (lambda: triton_kernels.smooth_z(volume, on_device), 1),
    }
    gigabytes = volume.numel() * 4 / 1e9
    what = f"smooth_z, {options.slices}x1024x1024 ({gigabytes:.2f} GB), radius {len(weights) - 1}"
    return _measure(torch, what, candidates, options.rounds, _CUDA)


def _fuse(torch: Any, triton_kernels: Any, flips: tuple[Flip, ...], rounds: int) -> Measurement:
    batches = [3.0 * torch.randn((len(flips), 1, side, side), device="cuda") for side in _GRIDS]
    pairs = [(copy, flip) for batch in batches for copy, flip in zip(batch, flips, strict=True)]
    state = torch.rand(_RESULT_PX, device="cuda")
    mask = torch.empty(_RESULT_PX, dtype=torch.uint8, device="cuda")
    views = [cuda.DeviceView(logits, flip) for logits, flip in pairs]
    settings = torch.from_numpy(cuda.fusion_settings(keep=0.8)).cuda()
    packed = triton_kernels.pack_views(pairs)
    triton_settings = triton_kernels.fusion_settings(keep=0.8, device="cuda")
    composition = gpu_baselines.fusion(torch, flips, _RESULT_PX)
    compiled = torch.compile(composition, dynamic=False, mode="max-autotune-no-cudagraphs")

    def with_cuda() -> None:
        cuda.fuse_views(
            views, *_RESULT_PX, settings=settings, state=state, mask=mask, stream=stream_of(torch)
        )

    def with_triton() -> None:
        triton_kernels.fuse_views(
            packed, *_RESULT_PX, settings=triton_settings, state=state, probability=state, mask=mask
        )

    works: dict[str, Work] = {
        _CUDA: with_cuda,
        _TRITON: with_triton,
        "torch": lambda: composition(batches, state, mask, 0.8, 0.5),
        "torch.compile": lambda: compiled(batches, state, mask, 0.8, 0.5),
    }
    what = f"fuse_views, {len(pairs)} views onto {_RESULT_PX[1]}x{_RESULT_PX[0]}"
    return _measure(torch, what, _both(torch, works), rounds, _CUDA + _IN_GRAPH)


def _blend(torch: Any, triton_kernels: Any, rounds: int) -> Measurement:
    height, width = _FRAME_PX
    frame = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device="cuda")
    mask = torch.zeros(_FRAME_PX, dtype=torch.uint8, device="cuda")
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
    colours = np.array([(0, 200, 255)], np.uint8)
    on_device = torch.from_numpy(colours).cuda()
    table = torch.tensor([(0.0, 0.0, 0.0), (0.0, 200.0, 255.0)], device="cuda")
    composition = gpu_baselines.blend(torch, table, 0.4)

    def with_cuda(outline_px: int) -> None:
        cuda.blend_overlay(
            frame, mask, colours, alpha=0.4, outline_px=outline_px, stream=stream_of(torch)
        )

    works: dict[str, Work] = {
        _CUDA: lambda: with_cuda(0),
        f"{_CUDA}, outline of 3": lambda: with_cuda(3),
        _TRITON: lambda: triton_kernels.blend_overlay(frame, mask, on_device, alpha=0.4),
        "torch": lambda: composition(frame, mask),
    }
    what = f"blend_overlay, {width}x{height}"
    return _measure(torch, what, _both(torch, works), rounds, _CUDA + _IN_GRAPH)


def _resize(torch: Any, triton_kernels: Any, rounds: int) -> Measurement:
    height, width = _FRAME_PX
    flips: tuple[Flip, ...] = ("none", "h", "v")
    frame = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device="cuda")
    views = [ViewSpec(16 * side, 16 * side, flips) for side in _GRIDS]
    out = [torch.empty((3, 3, v.height_px, v.width_px), device="cuda") for v in views]
    mean, std = (torch.tensor(values, device="cuda").view(3, 1, 1) for values in (MEAN, STD))
    sizes = [(view.height_px, view.width_px) for view in views]
    composition = gpu_baselines.resize(torch, sizes, flips, mean, std)
    with cuda.resize_plan(_FRAME_PX, views, out, resample="bilinear", mean=MEAN, std=STD) as plan:
        works: dict[str, Work] = {
            _CUDA: lambda: plan.run(frame, stream=stream_of(torch)),
            _TRITON: lambda: triton_kernels.resize_normalize_views(
                frame, views, resample="bilinear", mean=MEAN, std=STD
            ),
            "torch": lambda: composition(frame),
        }
        what = f"resize_normalize_views, {width}x{height} to 256, 384 and 512, three flips each"
        measured = _measure(torch, what, _both(torch, works), rounds, _CUDA + _IN_GRAPH)
        torch.cuda.synchronize()
    return measured


def _both(torch: Any, works: Mapping[str, Work]) -> dict[str, tuple[Work, int]]:
    """Each work as it is called, and captured in a graph."""
    candidates: dict[str, tuple[Work, int]] = {}
    for name, work in works.items():
        candidates[name] = (work, 1)
        candidates[name + _IN_GRAPH] = (capture(torch, work, _GRAPH_CALLS), _GRAPH_CALLS)
    return candidates


def _measure(
    torch: Any, what: str, candidates: Mapping[str, tuple[Work, int]], rounds: int, own: str
) -> Measurement:
    timings = device_times(torch, candidates, rounds=rounds)
    medians = {name: timing.median_ms for name, timing in timings.items()}
    ratios = {name: ms / medians[own] for name, ms in medians.items() if name != own}
    return Measurement(what, medians, ratios)


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


def _document(
    torch: Any, checks: Mapping[str, Sequence[Check]], measurements: Sequence[Measurement]
) -> dict[str, Any]:
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
            "triton": require("triton", "triton").__version__,
        },
        "architectures": list(info.architectures),
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
