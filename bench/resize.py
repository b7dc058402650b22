"""``python -m edgeseg.bench.resize``: ``resize_normalize`` against what one would write instead.

Baselines, each from the same frame to the same normalised float32 planes, with the same threads:

- ``PIL + numpy``: PIL's resize of a picture that is RGB already, then /255, mean, std in numpy;
- ``PIL + torch``: the same with torch's form of ToTensor and Normalize (where torch is installed);
- ``INTER_AREA + numpy``: OpenCV's area resize of the BGR frame, then channel order, layout and
  normalisation in numpy.

PIL itself knows no threads.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.table import Table

from edgeseg import kernels
from edgeseg._optional import require
from edgeseg.bench import kernel_command
from edgeseg.bench.timing import interleave
from edgeseg.kernels import LibraryInfo

__all__ = ["CASES", "Measurement", "main", "measure"]

CASES = (
    ((720, 1280), (256, 256)),
    ((1080, 1920), (512, 512)),
    ((288, 384), (256, 256)),
)
"""(height, width) of the frame and of the result, in pixels."""

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_NAME = "edgeseg"

Call = Callable[[], Any]


@dataclass(frozen=True)
class Measurement:
    """Medians of one case; ``ratios`` say how many times as long as edgeseg the others take."""

    frame_px: tuple[int, int]
    result_px: tuple[int, int]
    resample: str
    threads: int
    median_ms: dict[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """Median of each baseline divided by that of edgeseg."""
        return kernel_command.ratios_to(_NAME, self.median_ms)


def measure(
    frame_px: tuple[int, int],
    result_px: tuple[int, int],
    resample: str,
    threads: int,
    *,
    rounds: int = 20,
) -> Measurement:
    """Time one case on a synthetic frame (uint8 noise; the time does not depend on content).

    Sets the thread counts of OpenCV and torch for the process.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    frame = np.random.default_rng(0).integers(0, 256, (*frame_px, 3), dtype=np.uint8)
    cv2.setNumThreads(threads)
    calls = {
        _NAME: _edgeseg(frame, result_px, resample, threads),
        "PIL + numpy": _pil_numpy(frame, result_px, resample),
        "INTER_AREA + numpy": _opencv_numpy(frame, result_px),
    }
    if importlib.util.find_spec("torch") is not None:
        calls["PIL + torch"] = _pil_torch(frame, result_px, resample, threads)
    timings = interleave(calls, rounds=rounds)
    medians = {name: timing.median_ms for name, timing in timings.items()}
    return Measurement(frame_px, result_px, resample, threads, medians)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every case and print medians and ratios; returns the exit code."""
    return kernel_command.run(
        "resize",
        __doc__,
        arguments,
        rounds=20,
        measure=lambda threads, rounds: [
            measure(frame_px, result_px, resample, n, rounds=rounds)
            for frame_px, result_px in CASES
            for resample in ("bilinear", "bicubic")
            for n in threads
        ],
        table=_table,
        record=lambda m: {**asdict(m), "ratios": m.ratios},
        libraries=("opencv-python-headless", "pillow"),
    )


def _edgeseg(
    frame: npt.NDArray[np.uint8], result_px: tuple[int, int], resample: Any, threads: int
) -> Call:
    out = np.empty((1, 3, *result_px), np.float32)
    return lambda: kernels.resize_normalize(
        frame, *result_px, resample=resample, mean=_MEAN, std=_STD, out=out, threads=threads
    )


def _pil_numpy(frame: npt.NDArray[np.uint8], result_px: tuple[int, int], resample: str) -> Call:
    picture, size, method = _pil(frame, result_px, resample)
    mean = np.array(_MEAN, np.float32).reshape(3, 1, 1)
    std = np.array(_STD, np.float32).reshape(3, 1, 1)

    def call() -> npt.NDArray[np.float32]:
        small = np.asarray(picture.resize(size, method))
        tensor = np.ascontiguousarray(small.transpose(2, 0, 1)).astype(np.float32)
        tensor /= 255
        tensor -= mean
        tensor /= std
        return tensor

    return call


def _pil_torch(
    frame: npt.NDArray[np.uint8], result_px: tuple[int, int], resample: str, threads: int
) -> Call:
    torch = require("torch", "export")
    torch.set_num_threads(threads)
    picture, size, method = _pil(frame, result_px, resample)
    mean = torch.tensor(_MEAN).view(3, 1, 1)
    std = torch.tensor(_STD).view(3, 1, 1)

    def call() -> Any:
        small = torch.from_numpy(np.array(picture.resize(size, method)))
        tensor = small.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.sub_(mean).div_(std)

    return call


def _opencv_numpy(frame: npt.NDArray[np.uint8], result_px: tuple[int, int]) -> Call:
    gain = (1 / (255 * np.array(_STD))).astype(np.float32).reshape(3, 1, 1)
    offset = (-np.array(_MEAN) / np.array(_STD)).astype(np.float32).reshape(3, 1, 1)
    size = (result_px[1], result_px[0])

    def call() -> npt.NDArray[np.float32]:
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        tensor = np.ascontiguousarray(small[:, :, ::-1].transpose(2, 0, 1)).astype(np.float32)
        tensor *= gain
        tensor += offset
        return tensor

    return call


def _pil(
    frame: npt.NDArray[np.uint8], result_px: tuple[int, int], resample: str
) -> tuple[Any, tuple[int, int], Any]:
    image = require("PIL.Image", "bench")
    picture = image.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))
    return picture, (result_px[1], result_px[0]), image.Resampling[resample.upper()]


def _table(measurements: Sequence[Measurement], info: LibraryInfo) -> Table:
    table = Table(title=f"resize_normalize ({info.isa}): median ms, and times as long as edgeseg")
    for heading in ("frame", "result", "filter", "threads"):
        table.add_column(heading)
    names = list(measurements[0].median_ms)
    for name in names:
        table.add_column(name, justify="right")
    for m in measurements:
        cells = [
            f"{m.frame_px[1]}x{m.frame_px[0]}",
            f"{m.result_px[1]}x{m.result_px[0]}",
            m.resample,
            str(m.threads),
        ]
        for name in names:
            ratio = f"  {m.ratios[name]:5.1f}x" if name in m.ratios else ""
            cells.append(f"{m.median_ms[name]:.3f}{ratio}")
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
