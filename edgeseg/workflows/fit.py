"""``fit``: probes on a frozen backbone, as a DINO-MVR checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg._files import check_output
from edgeseg._progress import Progress, silent
from edgeseg.errors import UsageError
from edgeseg.spec import VolumeSpec
from edgeseg.volume.slices import Axis

if TYPE_CHECKING:
    from edgeseg.export.fitting.samples import Sample

__all__ = ["DEFAULT_HELD_OUT", "DEFAULT_RESOLUTIONS_PX", "FitReport", "fit"]

DEFAULT_RESOLUTIONS_PX = ((256, 256), (384, 384), (512, 512))
DEFAULT_HELD_OUT = 0.2

_MAX_CLASSES = 255


@dataclass(frozen=True)
class FitReport:
    """What was fitted, and how good it is on what it has not learned from.

    Attributes:
        output: the checkpoint.
        backbone: what was found in the file of the backbone.
        classes: one name, or one a channel with the background first.
        unit: ``images`` or ``slices``.
        learned: how many of them were learned from.
        held_out: how many were not.
        sizes_px: height and width of each resolution.
        dice_per_size: held-out Dice of each resolution by itself; empty where nothing is held out.
        dice: of all resolutions fused, without mirrored views; None where nothing is held out. It
            is counted over each picture (of volumes, over all held-out slices of one) at the size
            of the largest resolution, then averaged.
        epochs: passes over what was learned from.
        loss: mean over the last epoch.
        feature_s: seconds for reading and for the backbone.
        train_s: seconds for the probes.
        seconds: in all.
        unseen_classes: names of classes of which nothing was learned.
    """

    output: Path
    backbone: str
    classes: tuple[str, ...]
    unit: str
    learned: int
    held_out: int
    sizes_px: tuple[tuple[int, int], ...]
    dice_per_size: tuple[float, ...]
    dice: float | None
    epochs: int
    loss: float
    feature_s: float
    train_s: float
    seconds: float
    unseen_classes: tuple[str, ...]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Column names and rows of the held-out Dice, for people."""
        rows: list[tuple[str, ...]] = [
            (f"{height}x{width}", f"{dice:.4f}")
            for (height, width), dice in zip(self.sizes_px, self.dice_per_size, strict=False)
        ]
        if self.dice is not None:
            rows.append(("fused", f"{self.dice:.4f}"))
        return ("resolution", "Dice"), rows

    def remarks(self) -> list[str]:
        """What else is worth saying, a line each."""
        lines = [
            f"backbone: {self.backbone}",
            f"{self.learned} {self.unit} learned from in {self.epochs} epochs (last loss "
            f"{self.loss:.3f}), {self.held_out} held out",
            f"{self.seconds:.0f} s: features {self.feature_s:.0f} s, training {self.train_s:.0f} s",
        ]
        if self.unseen_classes:
            lines.append(
                f"none of the {self.unit} learned from holds {' or '.join(self.unseen_classes)}, "
                "which the model cannot find therefore"
            )
        return lines


@dataclass(frozen=True)
class _Draw:
    """Which samples are learned from, and which are held out."""

    held_out: float
    limit: int | None
    seed: int

    def split(self, samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
        """Pictures, or slices of which ``held_out`` says how many are set apart."""
        from edgeseg.export.fitting.samples import choose_samples, split_samples

        chosen = choose_samples(samples, limit=self.limit, seed=self.seed)
        return split_samples(chosen, self.held_out, seed=self.seed)

    def block(
        self, samples: Sequence[Sample], slices: tuple[int, int]
    ) -> tuple[Sequence[Sample], Sequence[Sample]]:
        """Slices from the first to before the second number, and all others."""
        from edgeseg.export.fitting.samples import choose_samples

        first, end = slices
        deepest = 1 + max(sample.place for sample in samples)
        if not 0 <= first < end <= deepest:
            raise UsageError(f"--slices {first}:{end} does not lie within the volume's 0:{deepest}")
        inside = [sample for sample in samples if first <= sample.place < end]
        outside = [sample for sample in samples if not first <= sample.place < end]
        return choose_samples(inside, limit=self.limit, seed=self.seed), outside


def fit(
    backbone: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    labels: str | Path | None = None,
    classes: Sequence[str] | None = None,
    resolutions_px: Sequence[tuple[int, int]] = DEFAULT_RESOLUTIONS_PX,
    axis: Axis | None = None,
    normalize: str | None = None,
    slices: tuple[int, int] | None = None,
    held_out: float | None = None,
    limit: int | None = None,
    epochs: int | None = None,
    hidden: int = 256,
    seed: int = 0,
    threads: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> FitReport:
    """Fit the probes of DINO-MVR to labelled images or volumes.

    The backbone is not trained, so a handful of images is enough, and a few minutes on a CPU. What
    is held out is never learned from, nor does it choose anything: the probes of the last step are
    written. Pictures are held out one by one; where they are frames of few videos, neighbours
    stand on both sides, and the Dice is better than it would be on another video. Of several
    volumes, whole ones are held out, of one a contiguous block of slices.

    The checkpoint holds the backbone as well. Its settings (docs/checkpoints.md) name the
    resolutions, horizontal and vertical flips at each, fusion by entropy, the classes and, for
    volumes, axis and normalisation; a build can choose others.

    Args:
        backbone: a checkpoint with a DINOv3 backbone: bare, or inside a segmentation model.
        data: a folder of ``image/`` and ``mask/``, holding pictures or NIfTI volumes; or one NIfTI
            scan, whose labels are ``labels``.
        output: the checkpoint to write.
        labels: of one scan.
        classes: names of the foreground, labels 1, 2 and so on; a leading ``background`` may be
            given. None or one name: all foreground is one class.
        resolutions_px: (height, width) of each view, multiples of 16.
        axis: of volumes: along which slices are stacked; None for ``axial``.
        normalize: of volumes: ``zscore``, ``minmax``, ``window=LEVEL,WIDTH`` or ``none``; None for
            ``zscore``.
        slices: of volumes: first slice to learn from, and the one after the last; all others are
            held out. None: ``held_out`` decides.
        held_out: below 1 the fraction, else the number of images (or volumes; of one volume,
            slices) that is held out; 0: nothing is, and no Dice is known. None for a fifth.
        limit: learn from and judge by so many images or slices only, drawn with ``seed``; a larger
            limit extends a smaller one.
        epochs: passes over the images; None for about 600 steps, in 10 to 60 epochs.
        hidden: hidden width of the probes.
        seed: of the choice, the weights and the order of training.
        threads: CPU threads; None for what torch takes.
        force: replace an existing output.
        progress: called with (stage, done, total).

    Raises:
        UsageError: an argument has no meaning, or does not suit the data.
        CheckpointError: no DINOv3 backbone can be read from the file.
        DataError: the data cannot be used, are fewer than two images, or hold no foreground.
        OutputError: the output exists (without ``force``) or cannot be written.
        MissingDependencyError: torch, or nibabel for volumes, is not installed.
    """
    started = time.monotonic()
    data, output = Path(data), Path(output)
    names = _class_names(classes)
    _check_numbers(epochs, seed, threads)
    if slices is not None and held_out is not None:
        raise UsageError("--slices says what is held out: leave --held-out away")
    check_output(output, force=force)
    from edgeseg import export

    source = export.read_backbone(Path(backbone))
    from edgeseg.export.fitting.samples import picture_samples
    from edgeseg.export.fitting.volumes import is_volume_data, volume_cases, volume_samples

    volume = _volume_spec(axis, normalize) if is_volume_data(data) else None
    config = export.fit_config(source, names, resolutions_px, hidden, volume)
    draw = _Draw(DEFAULT_HELD_OUT if held_out is None else held_out, limit, seed)
    if volume is not None:
        cases = volume_cases(data, None if labels is None else Path(labels))
        found = volume_samples(cases, volume, len(names), progress=progress)
        learn, apart = draw.split(found) if slices is None else draw.block(found, slices)
    else:
        options = {"labels": labels, "axis": axis, "normalize": normalize, "slices": slices}
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise UsageError(
                f"--{given[0]} is for volumes, and {data} is neither a NIfTI file nor a folder "
                "with some in image/"
            )
        learn, apart = draw.split(picture_samples(data, len(names)))
    fitted = export.fit_probes(
        source,
        learn,
        apart,
        config,
        epochs=epochs,
        seed=seed,
        threads=threads,
        progress=progress,
    )
    export.write_checkpoint(output, fitted.model, config)
    return FitReport(
        output=output,
        backbone=str(source),
        classes=names,
        unit="images" if volume is None else "slices",
        learned=len(learn),
        held_out=len(apart),
        sizes_px=config.resolutions_px,
        dice_per_size=fitted.scores.per_view if fitted.scores else (),
        dice=fitted.scores.fused if fitted.scores else None,
        epochs=fitted.epochs,
        loss=fitted.loss,
        feature_s=fitted.feature_s,
        train_s=fitted.train_s,
        seconds=time.monotonic() - started,
        unseen_classes=tuple(names[index] for index in fitted.unseen_classes),
    )


def _volume_spec(axis: Axis | None, normalize: str | None) -> VolumeSpec:
    from edgeseg.volume.intensity import DEFAULT_VOLUME, parse_normalization
    from edgeseg.volume.slices import check_axis

    spec = VolumeSpec(normalize or DEFAULT_VOLUME.normalize, axis or DEFAULT_VOLUME.axis)
    check_axis(spec.axis)
    parse_normalization(spec.normalize)
    return spec


def _class_names(classes: Sequence[str] | None) -> tuple[str, ...]:
    """One name, or the background's and all others."""
    if classes is None:
        return ("foreground",)
    names = tuple(classes)
    if not names or not all(name.strip() for name in names):
        raise UsageError("a class has an empty name")
    if len(names) > 1 and names[0] != "background":
        names = ("background", *names)
    if len(set(names)) != len(names):
        raise UsageError(f"class names repeat: {', '.join(names)}")
    if len(names) > _MAX_CLASSES:
        raise UsageError(f"{len(names)} classes; at most {_MAX_CLASSES} fit a mask")
    return names


def _check_numbers(epochs: int | None, seed: int, threads: int | None) -> None:
    for name, value, low in (("epochs", epochs, 1), ("threads", threads, 1), ("seed", seed, 0)):
        if value is not None and value < low:
            raise UsageError(f"{name} must be at least {low}, got {value}")
