"""Fits DINO-MVR's probes to a frozen backbone and writes the checkpoint (docs/checkpoints.md)."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edgeseg._files import atomic_file
from edgeseg._progress import Progress, silent
from edgeseg.errors import DataError, UsageError
from edgeseg.export.backbone_source import BackboneSource
from edgeseg.export.families._mvr_config import PROBES, views_problem
from edgeseg.export.families.dino_mvr import FAMILY, DinoMvrConfig, DinoMvrModel
from edgeseg.export.fitting.features import FeatureCache
from edgeseg.export.fitting.samples import Sample
from edgeseg.export.fitting.score import HeldOutScores, score_probes
from edgeseg.export.fitting.train import epochs_for, new_probes, train_probes
from edgeseg.spec import PreprocessSpec, VolumeSpec

__all__ = ["Fitted", "fit_config", "fit_probes", "write_checkpoint"]

_MAX_HIDDEN = 8192
_KERNEL_THREADS = 8
"""More do not pay for one picture."""


@dataclass(frozen=True)
class Fitted:
    """A model with trained probes, and how the training went."""

    model: DinoMvrModel
    config: DinoMvrConfig
    scores: HeldOutScores | None
    """None where nothing was held out."""
    epochs: int
    loss: float
    """Mean over the last epoch."""
    unseen_classes: tuple[int, ...]
    """Foreground classes of which no sample that was learned from holds a pixel."""
    feature_s: float
    """Seconds for reading and for the backbone."""
    train_s: float


def fit_config(
    source: BackboneSource,
    names: tuple[str, ...],
    resolutions_px: Sequence[tuple[int, int]],
    hidden: int,
    volume: VolumeSpec | None = None,
) -> DinoMvrConfig:
    """The model to fit, with edgeseg's defaults of all else.

    Args:
        source: the backbone.
        names: one class, or one a channel with the background first.
        resolutions_px: (height, width) of each view, multiples of 16.
        hidden: hidden width of the probes.
        volume: how slices of volumes become pictures; None for pictures.

    Raises:
        UsageError: there cannot be such a model; names the nearest sizes.
    """
    config = DinoMvrConfig(
        source.config,
        hidden=(hidden,) * PROBES,
        classes=len(names),
        resolutions_px=tuple(resolutions_px),
        volume=volume,
        names=names,
    )
    problem = views_problem(config.resolutions_px, config.flips)
    if problem is not None:
        raise UsageError(f"{problem} (--resolutions)")
    if not 1 <= hidden <= _MAX_HIDDEN:
        raise UsageError(f"the hidden width must lie between 1 and {_MAX_HIDDEN}, got {hidden}")
    return config


def fit_probes(
    source: BackboneSource,
    learn: Sequence[Sample],
    held_out: Sequence[Sample],
    config: DinoMvrConfig,
    *,
    epochs: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = silent,
) -> Fitted:
    """Compute features once, train the probes on them, and score what was held out.

    The features of the frozen backbone are kept as float16 in unnamed files of the temporary folder
    (``TMPDIR``), not in memory. The same arguments give the same weights on the same machine.

    Args:
        source: the backbone; it is not trained.
        learn: samples to learn from, at least one.
        held_out: samples to judge by; may be none.
        config: of ``source.config``; resolutions, classes, hidden widths and preprocessing count.
        epochs: passes over all samples at all resolutions; None for about 600 steps in 10 to 60
            epochs.
        seed: of the weights and of the order.
        threads: of torch, the preprocessing and the fusion; None for what torch is set to.
        progress: called with (stage, done, total); stages "read", "features", "train", "score".

    Raises:
        DataError: a file cannot be used, or no sample that is learned from holds any foreground.
        CheckpointError: the backbone's features are not finite.
        OutputError: the temporary folder has no room for the features.
    """
    with torch.random.fork_rng(devices=[]):
        model = FAMILY.build(config).eval().requires_grad_(False)
    model.backbone.load_checkpoint(source.weights)
    # Slices of one volume together, so that it is read once.
    samples = sorted((*learn, *held_out), key=lambda sample: (sample.group, sample.place))
    learned = {id(sample) for sample in learn}
    rows = [row for row, sample in enumerate(samples) if id(sample) in learned]
    others = [row for row, sample in enumerate(samples) if id(sample) not in learned]
    with _torch_threads(threads) as used:
        few = min(used, _KERNEL_THREADS)
        started = time.monotonic()
        cache = FeatureCache.allocate(
            Path(tempfile.gettempdir()),
            len(samples),
            model.backbone,
            config.resolutions_px,
            config.classes,
        )
        cache.read_labels(samples, progress=progress)
        unseen = _unseen_classes(cache, rows, config.classes)
        specs = [
            PreprocessSpec(height, width, config.resample, config.mean, config.std)
            for height, width in config.resolutions_px
        ]
        cache.run(samples, model.backbone, specs, threads=few, progress=progress)
        cached = time.monotonic()
        probes = new_probes(source.config.width, config.hidden, config.classes, seed=seed)
        if epochs is None:
            epochs = epochs_for(len(cache.views), len(rows))
        loss = train_probes(probes, cache, rows, epochs=epochs, seed=seed, progress=progress)
        trained = time.monotonic()
        scores = None
        if others:
            scores = score_probes(
                probes,
                cache,
                others,
                [samples[row].group for row in others],
                config.fusion,
                threads=few,
                progress=progress,
            )
    model.probes.load_state_dict(probes.state_dict())
    return Fitted(model, config, scores, epochs, loss, unseen, cached - started, trained - cached)


def write_checkpoint(path: Path, model: DinoMvrModel, config: DinoMvrConfig) -> None:
    """Write weights and settings, whole or not at all; the same model gives the same bytes.

    Raises:
        OutputError: the file cannot be written.
    """
    content = {"state_dict": FAMILY.state_dict(model), "config": FAMILY.settings(config)}
    # By way of memory: torch would write the temporary file's name into the archive.
    archive = io.BytesIO()
    torch.save(content, archive)
    with atomic_file(path) as temporary:
        temporary.write_bytes(archive.getvalue())


def _unseen_classes(cache: FeatureCache, rows: Sequence[int], channels: int) -> tuple[int, ...]:
    """Foreground classes that cannot be learned; an error if that is all of them."""
    total = len(cache.truths)
    classes = max(channels - 1, 1)
    if len(cache.absent_classes(range(total), channels)) == classes:
        raise DataError(
            f"the masks of all {total} images are empty, so there is nothing to learn: foreground "
            "is 255 (or 1), or with several classes the index of a class"
        )
    unseen = cache.absent_classes(rows, channels)
    if len(unseen) == classes:
        raise DataError(
            f"the masks of all {len(rows)} images to learn from are empty, only those held out are "
            "not: take more images or another seed"
        )
    return unseen


@contextlib.contextmanager
def _torch_threads(threads: int | None) -> Iterator[int]:
    """Give torch so many threads for a while; yields how many it has."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
