"""Kernels replayed from a CUDA graph against direct calls with what lies in memory by then."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from edgeseg.bench.gpu_checks import Check
from edgeseg.bench.gpu_memory import stream_of
from edgeseg.bench.gpu_timing import capture
from edgeseg.kernels import cuda

__all__ = ["replayed_decision", "replayed_fusion"]

_GRIDS = (16, 24, 32)
_RESULT_PX = (512, 512)


def replayed_fusion(torch: Any) -> Check:
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


def replayed_decision(torch: Any) -> Check:
    """Masks and counts replayed with other planes and levels in memory against direct calls."""
    generator = torch.Generator("cuda").manual_seed(1)
    wrong = 0
    largest = 0.0
    for channels in (1, 5):
        planes = torch.randn((channels, 24, 32), device="cuda", generator=generator)
        level = torch.zeros(1, device="cuda") if channels == 1 else None
        shape = (max(channels, 2),)
        made, wanted = (torch.empty((270, 480), dtype=torch.uint8, device="cuda") for _ in range(2))
        # The same bits as uint32, which older versions of torch do not have.
        counted, expected = (
            torch.full(shape, -1, dtype=torch.int32, device="cuda") for _ in range(2)
        )

        def decide(
            mask: Any, counts: Any, planes: Any = planes, level: Any = level, shape: Any = shape
        ) -> None:
            cuda.decide_mask(
                planes,
                mask,
                level=level,
                window_px=(31, 10, 401, 255),
                counts=cuda.DevicePointer(counts.data_ptr(), shape, np.uint32),
                stream=stream_of(torch),
            )

        replay = capture(torch, functools.partial(decide, made, counted), 1)
        for value in (0.0, 0.7, -0.4):
            planes.copy_(torch.randn(planes.shape, device="cuda", generator=generator))
            if level is not None:
                level.fill_(value)
            made.fill_(0xEE)
            replay()
            wanted.fill_(0xDD)
            decide(wanted, expected)
            torch.cuda.synchronize()
            wrong += int((made != wanted).sum())
            difference = float((counted - expected).abs().max())
            total = abs(int(counted.sum()) - 401 * 255)
            largest = max(largest, difference, float(total))
    return Check("decide replayed from a CUDA graph", largest, 0.0, wrong)
