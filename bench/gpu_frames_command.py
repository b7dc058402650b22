"""The command behind ``python -m edgeseg.workflows.gpu_frames``: whole frames on a GPU.

For SegDINO v1, v2 and DINO-MVR with six views, ViT-S and ViT-B, random weights, frames of
1920x1080: the frame path (upload, resampling, engine, fusion, overlay, download; two CUDA graphs in
turn) is first compared with the CPU path, with graphs and without, then timed beside the same model
in eager torch with OpenCV before and after it, in FP32 and under autocast to half.

A torch module stands in for a TensorRT plan, with half weights; what TensorRT itself would gain is
not in these figures. ``--check`` leaves out the timing, for

    compute-sanitizer --tool memcheck python -m edgeseg.workflows.gpu_frames --check --models tiny
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from edgeseg import synthetic
from edgeseg._files import atomic_file, check_output
from edgeseg.bench.gpu import gpu_record, require_gpu
from edgeseg.bench.gpu_eager import FrameCase
from edgeseg.bench.gpu_frames import FrameCheck, FrameFigures, check, measure
from edgeseg.bench.gpu_stand_in import TorchEngine, answering
from edgeseg.errors import EdgesegError
from edgeseg.gpu import Gpu

__all__ = ["run"]

_FRAME_HW_PX = (1080, 1920)
_CHECKED_FRAMES = 6
_DEFAULT = "ViT-S,ViT-B"


def run(
    cases: Callable[[Any, str], Sequence[FrameCase]],
    known: Sequence[str],
    arguments: Sequence[str] | None = None,
) -> int:
    """Check, measure, print and write.

    Args:
        cases: from torch and the name of a backbone to models on the GPU.
        known: the names of backbones.
        arguments: of the command line.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m edgeseg.workflows.gpu_frames")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--models", default=_DEFAULT, metavar="A,B", help=f"of {', '.join(known)} ({_DEFAULT})"
    )
    parser.add_argument("--check", action="store_true", help="compare with the CPU path alone")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of timing (default: 10)")
    parser.add_argument(
        "--video", type=Path, metavar="FILE", help="take frames from it instead of generated ones"
    )
    options = parser.parse_args(arguments)
    sizes = options.models.split(",")
    if unknown := [size for size in sizes if size not in known]:
        parser.error(f"unknown size {unknown[0]!r}: choose from {', '.join(known)}")
    console = Console()
    checks: list[FrameCheck] = []
    figures: list[FrameFigures] = []
    try:
        if options.output is not None:
            check_output(options.output, force=True)
        torch = require_gpu()
        frames = _frames(options.video)
        with Gpu.open() as gpu:
            for size in sizes:
                for case in cases(torch, size):
                    engine = TorchEngine(torch, case.exportable, case.inputs, case.outputs)
                    answer = answering(torch, engine)
                    for graphs in (False, True):
                        checks.append(check(gpu, engine, answer, case, frames, graphs=graphs))
                        console.print(_check_line(checks[-1]), highlight=False)
                    if not options.check:
                        figures.append(measure(torch, gpu, case, frames, rounds=options.rounds))
                        console.print(_figure_lines(figures[-1]), highlight=False)
        if options.output is not None:
            document = {
                **gpu_record(torch),
                "frame_hw_px": list(frames[0].shape[:2]),
                "source": options.video.name if options.video else "generated",
                "checks": [{**asdict(found), "passed": found.passed} for found in checks],
                "figures": [asdict(found) for found in figures],
            }
            with atomic_file(options.output) as path:
                path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except EdgesegError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False)
        return error.exit_code
    return 0 if all(found.passed for found in checks) else 1


def _frames(video: Path | None) -> list[npt.NDArray[np.uint8]]:
    if video is None:
        # Two scenes, so that smoothing over time meets a cut.
        return [
            synthetic.Scene(seed, *_FRAME_HW_PX).render(index * 0.04)[0]
            for seed in (1, 2)
            for index in range(_CHECKED_FRAMES // 2)
        ]
    from edgeseg.video.source import open_source

    with open_source(video) as source:
        return [frame.image for frame, _ in zip(source, range(_CHECKED_FRAMES), strict=False)]


def _check_line(found: FrameCheck) -> str:
    how = "with graphs" if found.graphs else "without graphs"
    verdict = "passed" if found.passed else "FAILED"
    return (
        f"{found.case}, {how}: {verdict}: mask agreement {found.mask_agreement:.5f}, "
        f"{found.overlay_wrong_bytes} wrong bytes drawn, {found.counts_wrong} wrong statistics"
    )


def _figure_lines(found: FrameFigures) -> str:
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in found.frames_per_s.items())
    ratios = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in found.times_as_fast.items())
    stages = ", ".join(f"{name} {ms:.3f}" for name, ms in found.stages_ms.items())
    return (
        f"  frames/s: {rates}\n  edgeseg: {ratios}\n  device ms: {stages}\n"
        f"  around the engine {100 * found.around_engine_share:.1f} %, "
        f"gaps {100 * found.gap_share:.1f} %"
    )
