"""``python -m edgeseg.bench.smooth``: ``smooth_z`` against scipy and the memory's bandwidth.

Each from the same float32 volume to a float32 result that exists already, with the mask of a
threshold or without:

- ``scipy``: ``scipy.ndimage.gaussian_filter1d(axis=0, mode="nearest")``, then ``> threshold``;
- ``copy``: ``numpy.copyto`` of the same volume, which reads and writes as many bytes as the
  smoothing must. The share is the time of the copy divided by that of ``smooth_z``.

The copy is shared among as many threads; scipy knows none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from rich.table import Table

from edgeseg import kernels
from edgeseg._optional import require
from edgeseg.bench import kernel_command
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
        """Bandwidth in relation to that of a copy by as many threads, without the mask's bytes."""
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
        _COPY: lambda: list(pool.map(np.copyto, copied_parts, volume_parts)),
    }
    copied_parts, volume_parts = np.array_split(copied, threads), np.array_split(volume, threads)
    with ThreadPoolExecutor(threads) as pool:
        timings = interleave(calls, rounds=rounds, block=3, warmup=1)
    medians = {name: timing.median_ms for name, timing in timings.items()}
    return Measurement(volume_px, sigma, masks, threads, medians)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every case and print medians and ratios; returns the exit code."""
    return kernel_command.run(
        "smooth",
        __doc__,
        arguments,
        rounds=6,
        measure=lambda threads, rounds: [
            measure(volume_px, sigma, masks=masks, threads=n, rounds=rounds)
            for volume_px, sigma in CASES
            for masks in (False, True)
            for n in threads
        ],
        table=_table,
        record=lambda m: {
            **asdict(m),
            "ratio": m.ratio,
            "copy_share": m.copy_share,
            "copy_gb_per_s": m.copy_gb_per_s,
        },
        libraries=("numpy", "scipy"),
    )


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


if __name__ == "__main__":
    raise SystemExit(main())
