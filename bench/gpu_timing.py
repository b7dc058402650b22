"""Device time by CUDA events: candidates in turn, medians instead of means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgeseg.bench.timing import Timing

__all__ = ["capture", "device_times"]

Work = Callable[[], object]


def capture(torch: Any, work: Work, repeats: int) -> Work:
    """``repeats`` calls of ``work`` as one CUDA graph; what is returned replays it.

    The work is run three times beforehand on a stream of its own, as a capture wants it: what is
    loaded, compiled or chosen at a first call is then there.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            work()
    replay: Work = graph.replay
    return replay


def device_times(
    torch: Any, candidates: Mapping[str, tuple[Work, int]], *, rounds: int = 30, block: int = 5
) -> dict[str, Timing]:
    """Time candidates in turn on the current stream, ``rounds`` times.

    Each is enqueued once uncounted, then ``block`` times between two events, so that what the
    events themselves take is shared.

    Args:
        torch: the module.
        candidates: for each name what enqueues it, and how many calls one enqueuing stands for.
        rounds: how often all of them are timed.
        block: how often a candidate is enqueued in a round.

    Returns:
        Milliseconds for each call, one sample a round.
    """
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for work, _ in candidates.values():
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    for _ in range(rounds):
        for name, (work, calls) in candidates.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            work()
            begin.record()
            for _ in range(block):
                work()
            end.record()
            end.synchronize()
            samples[name].append(begin.elapsed_time(end) / (block * calls))
    return {name: Timing(np.array(values)) for name, values in samples.items()}
