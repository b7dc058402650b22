"""What ``python -m edgeseg.bench.gpu`` times: each kernel against what one would write instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg import kernels
from edgeseg.bench import gpu_baselines
from edgeseg.bench.gpu_homes import MEAN, STD
from edgeseg.bench.gpu_memory import stream_of
from edgeseg.bench.gpu_timing import Work, capture, device_times
from edgeseg.kernels import cuda
from edgeseg.spec import Flip, ViewSpec

__all__ = ["Measurement", "measure_all"]

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


def measure_all(torch: Any, triton_kernels: Any, slices: int, rounds: int) -> list[Measurement]:
    """Time every case on the current device.

    Args:
        torch: the module.
        triton_kernels: ``edgeseg.kernels.triton_kernels``.
        slices: of 4 MiB, in the volume that is smoothed.
        rounds: of each case.
    """
    flips: tuple[tuple[Flip, ...], ...] = (("none", "h"), ("none", "h", "v"))
    return [
        *(_smooth(torch, triton_kernels, sigma, slices, rounds) for sigma in (1.0, 1.5, 3.0)),
        *(_fuse(torch, triton_kernels, copies, rounds) for copies in flips),
        *(_decide(torch, channels, rounds) for channels in (1, 5)),
        _blend(torch, triton_kernels, rounds),
        _resize(torch, triton_kernels, rounds),
    ]


def _smooth(torch: Any, triton_kernels: Any, sigma: float, slices: int, rounds: int) -> Measurement:
    volume = torch.rand((slices, 1024, 1024), device="cuda")
    out = torch.empty_like(volume)
    weights = kernels.gaussian_weights(sigma)
    on_device = torch.from_numpy(weights.astype(np.float32)).cuda()
    candidates: dict[str, tuple[Work, int]] = {
        _CUDA: (lambda: cuda.smooth_z(volume, weights, out=out, stream=stream_of(torch)), 1),
        _COPY: (lambda: out.copy_(volume), 1),
        _TRITON: (lambda: triton_kernels.smooth_z(volume, on_device), 1),
    }
    gigabytes = volume.numel() * 4 / 1e9
    what = f"smooth_z, {slices}x1024x1024 ({gigabytes:.2f} GB), radius {len(weights) - 1}"
    return _measure(torch, what, candidates, rounds, _CUDA)


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


def _decide(torch: Any, channels: int, rounds: int) -> Measurement:
    height, width = _FRAME_PX
    planes = 3.0 * torch.randn((channels, *_RESULT_PX), device="cuda")
    mask = torch.empty(_FRAME_PX, dtype=torch.uint8, device="cuda")
    counts = torch.empty(max(channels, 2), dtype=torch.int32, device="cuda")
    address, shape = counts.data_ptr(), (max(channels, 2),)
    counted = cuda.DevicePointer(address, shape, np.uint32)  # torch's uint32 is young
    level = torch.zeros(1, device="cuda") if channels == 1 else None
    composition = gpu_baselines.decision(torch, _FRAME_PX)

    def with_cuda(numbers: cuda.DevicePointer | None) -> None:
        cuda.decide_mask(planes, mask, level=level, counts=numbers, stream=stream_of(torch))

    works: dict[str, Work] = {
        _CUDA: lambda: with_cuda(counted),
        f"{_CUDA}, no counts": lambda: with_cuda(None),
        "torch, no counts": lambda: composition(planes, mask, level),
        "fill": lambda: mask.fill_(0),
    }
    what = f"decide_mask, {channels}x{_RESULT_PX[0]}x{_RESULT_PX[1]} onto {width}x{height}"
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
