"""How good probes are on samples that they have not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from edgeseg import kernels
from edgeseg._progress import Progress, silent
from edgeseg.export.families.dino_mvr import Probes
from edgeseg.export.fitting.features import FeatureCache
from edgeseg.export.fitting.train import patch_logits
from edgeseg.metrics import EPSILON
from edgeseg.spec import FusionSpec

__all__ = ["HeldOutScores", "score_probes"]


@dataclass(frozen=True)
class HeldOutScores:
    """Dice at the size of the largest resolution, without mirrored views; 0 to 1."""

    per_view: tuple[float, ...]
    """Each resolution by itself, in the order of the cache."""
    fused: float
    """All of them."""


def score_probes(
    probes: Probes,
    cache: FeatureCache,
    rows: Sequence[int],
    groups: Sequence[str],
    fusion: FusionSpec,
    *,
    threads: int = 1,
    progress: Progress = silent,
) -> HeldOutScores:
    """Score the probes on some rows of the cache, through the fusion of the run time.

    Dice is ``(2 |A and B| + eps) / (|A| + |B| + eps)`` of each foreground class, as
    ``edgeseg.metrics.dice``; counted over a group, then averaged over classes and groups.

    Args:
        probes: in evaluation mode.
        cache: features and truths.
        rows: samples, at least one.
        groups: what each of ``rows`` is counted with: itself, or its volume.
        fusion: how views are weighed.
        threads: of the fusion.
        progress: called with ("score", done, total).
    """
    height, width = cache.truths.shape[1:]
    counts: dict[str, npt.NDArray[np.int64]] = {}
    for done, (row, group) in enumerate(zip(rows, groups, strict=True)):
        progress("score", done, len(rows))
        with torch.inference_mode():
            views = [
                kernels.View(patch_logits(probes, view, [row])[0].numpy()) for view in cache.views
            ]
        channels = views[0].logits.shape[0]
        masks = [
            kernels.fuse_views(
                chosen,
                height,
                width,
                weighting=fusion.weighting,
                temperature=fusion.temperature,
                threads=threads,
            ).mask
            for chosen in (*([view] for view in views), views)
        ]
        found = np.stack([_overlaps(mask, cache.truths[row], channels) for mask in masks])
        counts[group] = counts.get(group, 0) + found
    progress("score", len(rows), len(rows))
    shared, total = np.moveaxis(np.stack(list(counts.values())).astype(np.float64), -1, 0)
    dice = ((2.0 * shared + EPSILON) / (total + EPSILON)).mean(axis=(0, 2))
    return HeldOutScores(tuple(float(value) for value in dice[:-1]), float(dice[-1]))


def _overlaps(
    mask: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], channels: int
) -> npt.NDArray[np.int64]:
    """(foreground classes, 2): pixels that both hold, and the sum of what each holds."""
    pairs = [
        (mask == index, truth == index) if channels > 1 else (mask != 0, truth != 0)
        for index in range(1, max(channels, 2))
    ]
    return np.array(
        [[np.count_nonzero(a & b), np.count_nonzero(a) + np.count_nonzero(b)] for a, b in pairs]
    )
