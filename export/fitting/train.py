"""Training of DINO-MVR's probes on features that are there already."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg._progress import Progress, silent
from edgeseg.export.families.dino_mvr import Probes
from edgeseg.export.fitting.features import TARGET_SCALE, FeatureCache, View

__all__ = ["epochs_for", "fit_loss", "new_probes", "patch_logits", "train_probes"]

# Chosen on held-out pictures: twice or half of any of them changes the Dice by less than its noise,
# but many more epochs over a handful of pictures cost three points.
_STEPS = 600
_MIN_EPOCHS, _MAX_EPOCHS = 10, 60
_BATCH = 4
"""Images of one resolution a step."""
_PEAK_RATE = 1e-3
_WEIGHT_DECAY = 1e-2
_WARM_UP_SHARE = 0.05
_DICE_SMOOTHING = 0.002
"""Share of the cells added to both sides of the Dice, so that an empty target has a gradient."""


def steps_per_epoch(views: int, samples: int) -> int:
    """Batches in which every sample is seen once at every resolution."""
    return views * math.ceil(samples / _BATCH)


def epochs_for(views: int, samples: int) -> int:
    """The default: about 600 steps, in 10 to 60 epochs."""
    epochs = round(_STEPS / steps_per_epoch(views, samples))
    return min(max(epochs, _MIN_EPOCHS), _MAX_EPOCHS)


def new_probes(width: int, hidden: Sequence[int], channels: int, *, seed: int) -> Probes:
    """Probes with weights drawn with ``seed``; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Probes(width, hidden, channels)


def train_probes(
    probes: Probes,
    cache: FeatureCache,
    rows: Sequence[int],
    *,
    epochs: int,
    seed: int,
    progress: Progress = silent,
) -> float:
    """Fit the probes, in place, to some rows of the cache.

    AdamW with a short warm-up and a cosine schedule down to zero; each epoch shows every sample at
    every resolution once, in batches of one resolution, in an order drawn with ``seed``. The
    weights of the last step are kept.

    Args:
        probes: what is trained.
        cache: features and targets.
        rows: samples to learn from.
        epochs: at least 1.
        seed: of the order.
        progress: called with ("train", steps done, steps).

    Returns:
        Mean loss of the last epoch.
    """
    rng = np.random.default_rng(seed)
    total = epochs * steps_per_epoch(len(cache.views), len(rows))
    optimizer = torch.optim.AdamW(probes.parameters(), lr=_PEAK_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total))
    probes.train()
    step = 0
    losses: list[float] = []
    for _ in range(epochs):
        losses.clear()
        for view, chosen in _batches(cache, rows, rng):
            logits = patch_logits(probes, view, chosen)
            loss = fit_loss(logits, view.soft_targets(chosen))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            progress("train", step, total)
            step += 1
    progress("train", total, total)
    probes.eval()
    return float(np.mean(losses))


def patch_logits(
    probes: nn.Module, view: View, rows: Sequence[int] | npt.NDArray[np.intp]
) -> Tensor:
    """The mean of the probes' logits, float32 (len(rows), channels, patch rows, patch columns)."""
    logits = probes(view.inputs(rows))
    return logits.transpose(1, 2).reshape(len(rows), -1, *view.grid)


def fit_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy plus one minus the soft Dice of the foreground.

    Args:
        logits: (N, channels, rows, columns) on the patch grid.
        shares: (N, channels, TARGET_SCALE * rows, TARGET_SCALE * columns), 0 to 1: of one channel
            that of the foreground, of several those of the classes, adding up to 1.

    Returns:
        The loss on the grid of the shares, onto which the logits are resampled (bilinear,
        half-pixel centres). The Dice is the mean over images and foreground classes, as it will
        be judged.
    """
    fine = F.interpolate(logits, scale_factor=TARGET_SCALE, mode="bilinear", align_corners=False)
    if fine.shape[1] == 1:
        entropy = F.binary_cross_entropy_with_logits(fine, shares)
        probability, wanted = torch.sigmoid(fine), shares
    else:
        entropy = F.cross_entropy(fine, shares)
        probability, wanted = torch.softmax(fine, 1)[:, 1:], shares[:, 1:]
    smoothing = _DICE_SMOOTHING * wanted[0, 0].numel()
    overlap = (probability * wanted).sum(dim=(2, 3))
    size = probability.sum(dim=(2, 3)) + wanted.sum(dim=(2, 3))
    dice = (2.0 * overlap + smoothing) / (size + smoothing)
    return entropy + 1.0 - dice.mean()


def _batches(
    cache: FeatureCache, rows: Sequence[int], rng: np.random.Generator
) -> Iterator[tuple[View, npt.NDArray[np.intp]]]:
    batches: list[tuple[View, npt.NDArray[np.intp]]] = []
    for view in cache.views:
        order = rng.permutation(np.asarray(rows, np.intp))
        batches += [(view, order[i : i + _BATCH]) for i in range(0, len(order), _BATCH)]
    for index in rng.permutation(len(batches)):
        yield batches[index]


def _rate(step: int, total: int) -> float:
    warm_up = max(1, round(_WARM_UP_SHARE * total))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))
