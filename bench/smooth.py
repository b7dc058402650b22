"""``python -m edgeseg.bench.smooth``: ``smooth_z`` against scipy and the memory's bandwidth.

Each from the same float32 volume to a float32 result that exists already, with the mask of a
threshold or without:

- ``scipy``: ``scipy.ndimage.gaussian_filter1d(axis=0, mode="nearest")``, then ``> threshold``;
- ``copy``: ``numpy.copyto`` of the same volume, which reads and writes as many bytes as the
  smoothing must. The share is the time of the copy divided by that of ``smooth_z``.

Neither knows threads.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edgeseg import kernels
from edgeseg._files import atomic_file
from edgeseg._machine import cpu_name
from edgeseg._optional import require
from edgeseg.bench.timing import interleave
from edgeseg.kernels import LibraryInfo

__all__ = ["CASES", "Measurement", "main", "measure"]

CASES = (
    ((155, 240, 240), 1.5),
    ((155, 240, 240), 3.0),
    ((64, 512, 512), 1.0),
)
"""(slices, height, width) of the volume, and the standard deviation in slices."""

_NAME, _SCIPY, _COPY = "edgeseg", "scipy", "copy"


@dataclass(frozen=True)
class Measurement:
    """Medians of one case."""

    volume_px: tuple[int, int, int]
    sigma: float
    masks: bool
    threads: int
    median_ms: dict[str, float]

    @property
    def ratio(self) -> float:
        """How many times as long scipy takes."""
        return self.median_ms[_SCIPY] / self.median_ms[_NAME]

    @property
    def copy_share(self) -> float:
        """Bandwidth in relation to that of the copy (one thread), without the mask's bytes."""
        return self.median_ms[_COPY] / self.median_ms[_NAME]

    @property
    def copy_gb_per_s(self) -> float:
        """Bytes that the copy reads and writes, each second, in units of 1e9."""
        return 8e-6 * float(np.prod(self.volume_px)) / self.median_ms[_COPY]


def measure(
    volume_px: tuple[int, int, int],
    sigma: float,
    *,
    masks: bool = False,
    threads: int = 1,
    rounds: int = 6,
) -> Measurement:
    """Time one case on uniform noise (the time does not depend on content).

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    ndimage = require("scipy.ndimage", "bench")
    volume = np.random.default_rng(0).random(volume_px, dtype=np.float32)
    weights = kernels.gaussian_weights(sigma)
    # Written once, so that no call meets pages that do not exist yet.
    own, other, copied = (np.full(volume_px, 1.0, np.float32) for _ in range(3))
    mask = np.full(volume_px, 1, np.uint8)

    def edgeseg() -> None:
        kernels.smooth_z(
            volume,
            weights,
            mask=masks,
            out=own,
            mask_out=mask if masks else None,
            threads=threads,
        )

    def scipy() -> None:
        ndimage.gaussian_filter1d(volume, sigma, axis=0, mode="nearest", output=other)
        if masks:
            np.greater(other, 0.5, out=mask.view(np.bool_))

    calls: dict[str, Callable[[], object]] = {
        _NAME: edgeseg,
        _SCIPY: scipy,
        _COPY: lambda: np.copyto(copied, volume),
    }
    timings = interleave(calls, rounds=rounds, block=3, warmup=1)
    medians = {name: timing.median_ms for name, timing in timings.items()}
    return Measurement(volume_px, sigma, masks, threads, medians)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every case and print medians and ratios; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgeseg.bench.smooth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="rounds of 3 calls (default: 6)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args(arguments)

    measurements = [
        measure(volume_px, sigma, masks=masks, threads=threads, rounds=options.rounds)
        for volume_px, sigma in CASES
        for masks in (False, True)
        for threads in options.threads
    ]
    info = kernels.library_info()
    # A pipe has no width: lay the table out whole rather than cut it at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_table(measurements, info))
    if options.json is not None:
        with atomic_file(options.json) as path:
            path.write_text(json.dumps(_document(measurements, info), indent=2) + "\n")
    return 0


def _table(measurements: Sequence[Measurement], info: LibraryInfo) -> Table:
    table = Table(title=f"smooth_z ({info.isa}): median ms, and times as long as edgeseg")
    for heading in ("volume", "sigma", "mask", "threads"):
        table.add_column(heading)
    for heading in (_NAME, _SCIPY, _COPY, "copy GB/s", "share of copy"):
        table.add_column(heading, justify="right")
    for m in measurements:
        table.add_row(
            "x".join(map(str, m.volume_px)),
            str(m.sigma),
            "yes" if m.masks else "no",
            str(m.threads),
            f"{m.median_ms[_NAME]:.2f}",
            f"{m.median_ms[_SCIPY]:.1f}  {m.ratio:5.1f}x",
            f"{m.median_ms[_COPY]:.2f}",
            f"{m.copy_gb_per_s:.1f}",
            f"{m.copy_share:.0%}",
        )
    return table


def _document(measurements: Sequence[Measurement], info: LibraryInfo) -> dict[str, Any]:
    return {
        "machine": {"processor": cpu_name(), "machine": platform.machine()},
        "versions": {
            "edgeseg": info.version,
            "numpy": np.__version__,
            "scipy": require("scipy", "bench").__version__,
        },
        "isa": info.isa,
        "measurements": [
            {
                **asdict(m),
                "ratio": m.ratio,
                "copy_share": m.copy_share,
                "copy_gb_per_s": m.copy_gb_per_s,
            }
            for m in measurements
        ],
    }


if __name__ == "__main__":
    raise SystemExit(main())
