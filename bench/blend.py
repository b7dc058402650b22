"""``python -m edgeseg.bench.blend``: ``blend_overlay`` against what one would write with OpenCV.

Each draws on the same frame in place: an ellipse of 15 % of its area, with an outline or without.

- ``LUT + copyTo``: a table of blended levels applied to the rectangle around the mask, copied where
  the mask is set; outlines by ``findContours`` and ``drawContours``;
- ``addWeighted``: the rectangle blended with the plain colour, copied where the mask is set, and
  outlines in the same way.

OpenCV's threads are set to those of edgeseg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.table import Table

from edgeseg import kernels
from edgeseg.bench import kernel_command
from edgeseg.bench.timing import interleave
from edgeseg.kernels import LibraryInfo

__all__ = ["FRAMES_PX", "Measurement", "main", "measure"]

FRAMES_PX = ((720, 1280), (1080, 1920))
"""(height, width) of the frames, in pixels."""

_AREA = 0.15
_ALPHA = 0.4
_COLOUR_BGR = (233, 180, 86)
_NAME = "edgeseg"

Call = Callable[[], Any]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Measurement:
    """Medians of one case; ``ratios`` say how many times as long as edgeseg the others take."""

    frame_px: tuple[int, int]
    outline_px: int
    threads: int
    median_ms: dict[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """Median of each baseline divided by that of edgeseg."""
        return kernel_command.ratios_to(_NAME, self.median_ms)


def measure(
    frame_px: tuple[int, int], outline_px: int, *, threads: int = 1, rounds: int = 20
) -> Measurement:
    """Time one case on noise (the time does not depend on the frame's content).

    Sets the thread count of OpenCV for the process.
    """
    frame = np.random.default_rng(0).integers(0, 256, (*frame_px, 3), dtype=np.uint8)
    mask = _ellipse(frame_px)
    cv2.setNumThreads(threads)
    calls: dict[str, Call] = {
        _NAME: lambda: kernels.blend_overlay(
            frame, mask, [_COLOUR_BGR], alpha=_ALPHA, outline_px=outline_px, threads=threads
        ),
        "LUT + copyTo": _lut(frame, mask, outline_px),
        "addWeighted": _add_weighted(frame, mask, outline_px),
    }
    timings = interleave(calls, rounds=rounds)
    medians = {name: timing.median_ms for name, timing in timings.items()}
    return Measurement(frame_px, outline_px, threads, medians)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every case and print medians and ratios; returns the exit code."""
    return kernel_command.run(
        "blend",
        __doc__,
        arguments,
        rounds=20,
        measure=lambda threads, rounds: [
            measure(frame_px, outline_px, threads=n, rounds=rounds)
            for frame_px in FRAMES_PX
            for outline_px in (0, round(frame_px[0] / 300))
            for n in threads
        ],
        table=_table,
        record=lambda m: {**asdict(m), "ratios": m.ratios},
        libraries=("opencv-python-headless",),
    )


def _ellipse(frame_px: tuple[int, int]) -> Bytes:
    """A tilted ellipse that covers ``_AREA`` of the frame."""
    height, width = frame_px
    # Half axes in the ratio of the sides: pi * (s * width) * (s * height) = _AREA * width * height.
    share = np.sqrt(_AREA / np.pi)
    mask = np.zeros(frame_px, np.uint8)
    axes = (round(share * width), round(share * height))
    cv2.ellipse(mask, (width // 2, height // 2), axes, 20, 0, 360, 1, -1)
    return mask


def _lut(frame: Bytes, mask: Bytes, outline_px: int) -> Call:
    levels = np.arange(256, dtype=np.float64)[:, None]
    blended = (1.0 - _ALPHA) * levels + _ALPHA * np.array(_COLOUR_BGR)
    table = np.rint(blended).astype(np.uint8).reshape(256, 1, 3)

    def call() -> None:
        x, y, w, h = cv2.boundingRect(mask)
        pixels, inside = frame[y : y + h, x : x + w], mask[y : y + h, x : x + w]
        cv2.copyTo(cv2.LUT(pixels, table), inside, pixels)
        _draw_outline(frame, inside, (x, y), outline_px)

    return call


def _add_weighted(frame: Bytes, mask: Bytes, outline_px: int) -> Call:
    plain = np.broadcast_to(np.array(_COLOUR_BGR, np.uint8), frame.shape).copy()

    def call() -> None:
        x, y, w, h = cv2.boundingRect(mask)
        pixels, inside = frame[y : y + h, x : x + w], mask[y : y + h, x : x + w]
        colour = plain[y : y + h, x : x + w]
        cv2.copyTo(cv2.addWeighted(pixels, 1.0 - _ALPHA, colour, _ALPHA, 0.0), inside, pixels)
        _draw_outline(frame, inside, (x, y), outline_px)

    return call


def _draw_outline(frame: Bytes, inside: Bytes, offset: tuple[int, int], outline_px: int) -> None:
    if outline_px == 0:
        return
    lines, _ = cv2.findContours(
        np.ascontiguousarray(inside), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=offset
    )
    cv2.drawContours(frame, lines, -1, _COLOUR_BGR, outline_px)


def _table(measurements: Sequence[Measurement], info: LibraryInfo) -> Table:
    table = Table(title=f"blend_overlay ({info.isa}): median ms, and times as long as edgeseg")
    for heading in ("frame", "outline px", "threads"):
        table.add_column(heading)
    names = list(measurements[0].median_ms)
    for name in names:
        table.add_column(name, justify="right")
    for m in measurements:
        cells = [f"{m.frame_px[1]}x{m.frame_px[0]}", str(m.outline_px), str(m.threads)]
        for name in names:
            ratio = f"  {m.ratios[name]:5.1f}x" if name in m.ratios else ""
            cells.append(f"{m.median_ms[name]:.3f}{ratio}")
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
