"""``python -m edgeseg.bench.fuse``: ``fuse_views`` against OpenCV and numpy.

The baseline is what one would write instead, from the same logits to the same probabilities and
mask, with the same threads: for each view ``cv2.flip``, ``cv2.resize`` (``INTER_LINEAR``), sigmoid
or softmax and entropy in numpy, in float32; then the weighted mean, and the threshold or the
largest. numpy's own functions know no threads.

The bandwidth counts what has to be moved: every logit read once, the probabilities and the mask
written once. It is far below that of memory, since exponentials and logarithms of every view at
every pixel take the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import numpy.typing as npt
from rich.table import Table

from edgeseg import kernels
from edgeseg.bench import kernel_command
from edgeseg.bench.opencv_fusion import fused_probability
from edgeseg.bench.timing import interleave
from edgeseg.kernels import LibraryInfo, View
from edgeseg.spec import Flip

__all__ = ["CASES", "Case", "Measurement", "main", "measure", "opencv_numpy"]

_NAME = "edgeseg"
_BASELINE = "OpenCV + numpy"

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """Views of every grid under every flip, fused with entropy weights."""

    grids: tuple[int, ...]
    """Sides of the square patch grids."""
    flips: tuple[Flip, ...]
    channels: int
    result_px: tuple[int, int]
    """(height, width)."""

    @property
    def views(self) -> int:
        """Number of views."""
        return len(self.grids) * len(self.flips)

    @property
    def moved_bytes(self) -> int:
        """Logits read, probabilities and mask written, each once."""
        logits = self.channels * len(self.flips) * sum(side * side for side in self.grids)
        pixels = self.result_px[0] * self.result_px[1]
        return 4 * logits + (4 * self.channels + 1) * pixels


CASES = (
    Case((16, 24, 32), ("none", "h"), 1, (512, 512)),
    Case((16, 24, 32), ("none", "h", "v"), 1, (512, 512)),
    Case((16, 24, 32), ("none", "h"), 4, (512, 512)),
    Case((16, 24, 32), ("none", "h", "v"), 4, (512, 512)),
)
"""Frames of 256, 384 and 512 pixels in patches of 16."""


@dataclass(frozen=True)
class Measurement:
    """Medians of one case."""

    case: Case
    threads: int
    median_ms: dict[str, float]
    max_difference: float
    """Between the probabilities of the two."""

    @property
    def ratio(self) -> float:
        """How many times as long as edgeseg the baseline takes."""
        return self.median_ms[_BASELINE] / self.median_ms[_NAME]

    @property
    def bandwidth_gb_s(self) -> float:
        """Bytes that have to be moved, by edgeseg's time."""
        return 1e-6 * self.case.moved_bytes / self.median_ms[_NAME]


def measure(case: Case, threads: int, *, rounds: int = 10) -> Measurement:
    """Time one case on random logits (the time does not depend on content).

    Sets the thread count of OpenCV for the process.
    """
    rng = np.random.default_rng(0)
    views = [
        View(rng.normal(0.0, 3.0, (case.channels, side, side)).astype(np.float32), flip)
        for side in case.grids
        for flip in case.flips
    ]
    height, width = case.result_px
    shape = case.result_px if case.channels == 1 else (case.channels, *case.result_px)
    probability = np.empty(shape, np.float32)
    mask = np.empty(case.result_px, np.uint8)
    cv2.setNumThreads(threads)

    def edgeseg() -> FloatArray:
        return kernels.fuse_views(
            views, height, width, probability=probability, mask=mask, threads=threads
        ).probability

    def baseline() -> FloatArray:
        return opencv_numpy(views, height, width)[0]

    difference = float(np.abs(edgeseg() - baseline()).max())
    calls: dict[str, Callable[[], object]] = {_NAME: edgeseg, _BASELINE: baseline}
    timings = interleave(calls, rounds=rounds)
    medians = {name: timing.median_ms for name, timing in timings.items()}
    return Measurement(case, threads, medians, difference)


def opencv_numpy(
    views: Sequence[View], height_px: int, width_px: int, threshold: float = 0.5
) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Entropy-weighted probabilities and mask, as ``edgeseg.kernels.fuse_views`` returns them."""
    weighted = fused_probability(views, height_px, width_px)
    if len(weighted) == 1:
        return weighted[0], (weighted[0] > threshold).astype(np.uint8)
    return weighted, weighted.argmax(axis=0).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every case and print medians and ratios; returns the exit code."""
    return kernel_command.run(
        "fuse",
        __doc__,
        arguments,
        rounds=10,
        measure=lambda threads, rounds: [
            measure(case, n, rounds=rounds) for case in CASES for n in threads
        ],
        table=_table,
        record=lambda m: {
            **asdict(m),
            "ratio": m.ratio,
            "moved_bytes": m.case.moved_bytes,
            "bandwidth_gb_s": m.bandwidth_gb_s,
        },
        libraries=("opencv-python-headless", "numpy"),
    )


def _table(measurements: Sequence[Measurement], info: LibraryInfo) -> Table:
    table = Table(title=f"fuse_views ({info.isa}): median ms, and times as long as edgeseg")
    headings = ("views", "channels", "result", "threads", _NAME, _BASELINE, "GB/s", "difference")
    for heading in headings:
        table.add_column(heading, justify="right")
    for m in measurements:
        table.add_row(
            str(m.case.views),
            str(m.case.channels),
            f"{m.case.result_px[1]}x{m.case.result_px[0]}",
            str(m.threads),
            f"{m.median_ms[_NAME]:.3f}",
            f"{m.median_ms[_BASELINE]:.3f}  {m.ratio:5.1f}x",
            f"{m.bandwidth_gb_s:.2f}",
            f"{m.max_difference:.1e}",
        )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
