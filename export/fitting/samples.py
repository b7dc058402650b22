"""What probes are fitted to: labelled images, which of them, and which are held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg._files import sha256_file
from edgeseg.dataset import Case, DataFolder
from edgeseg.errors import DataError, UsageError

__all__ = [
    "MIN_SAMPLES",
    "Sample",
    "choose_samples",
    "picture_samples",
    "refuse_duplicates",
    "split_samples",
]

MIN_SAMPLES = 2
"""One to learn from and one to judge by."""

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One labelled image."""

    id: str
    group: str
    """What is judged as one: a picture by itself, all slices of a volume together."""
    place: int
    """Position within its group."""
    read: Callable[[], tuple[Image, Image]]
    """The image, uint8 (H, W, 3) BGR, and its class indices, uint8 (H, W); raises DataError."""


def picture_samples(data: Path, classes: int) -> tuple[Sample, ...]:
    """The pictures of a folder of ``image/`` and ``mask/``, in natural order.

    Args:
        data: the folder.
        classes: as for ``edgeseg.dataset.read_mask``.

    Raises:
        DataError: no such folder, an image without mask or the reverse, or two equal pictures, of
            which one could teach what the other is to judge.
    """
    cases = DataFolder.open(data, masks="required").cases
    refuse_duplicates([case.image for case in cases])
    return tuple(Sample(case.id, case.id, 0, partial(_read_case, case, classes)) for case in cases)


def refuse_duplicates(files: Sequence[Path]) -> None:
    """Refuse files of the same content; only files of equal size are read.

    Raises:
        DataError: names the first two.
    """
    by_size: dict[int, list[Path]] = {}
    for path in files:
        by_size.setdefault(path.stat().st_size, []).append(path)
    for same_size in by_size.values():
        seen: dict[str, Path] = {}
        for path in same_size if len(same_size) > 1 else ():
            other = seen.setdefault(sha256_file(path), path)
            if other is not path:
                raise DataError(
                    f"{other} and {path.name} are the same file: what is learned from the one "
                    "would be judged on the other; leave one of them"
                )


def choose_samples(
    samples: Sequence[Sample], *, limit: int | None, seed: int
) -> tuple[Sample, ...]:
    """The first ``limit`` samples of an order drawn with ``seed``; all where it is None.

    A larger limit extends the choice of a smaller one.

    Raises:
        UsageError: ``limit`` is below 2.
        DataError: fewer than 2 samples.
    """
    if len(samples) < MIN_SAMPLES:
        raise DataError(
            f"{len(samples)} labelled image: at least {MIN_SAMPLES} are needed, one to learn from "
            "and one to judge by"
        )
    if limit is not None and limit < MIN_SAMPLES:
        raise UsageError(f"the limit must be at least {MIN_SAMPLES} images, got {limit}")
    order = np.random.default_rng(seed).permutation(len(samples))[:limit]
    return tuple(samples[index] for index in order)


def split_samples(
    samples: Sequence[Sample], held_out: float, *, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Set samples apart that are not learned from.

    Whole groups are held out: the last ones of the order given, at least one and not all. Where
    there is one group alone (slices of one volume), a contiguous block of it is held out, at a
    place drawn with ``seed``, since neighbouring slices are nearly the same.

    Pictures are groups of their own. Frames of one video may therefore stand on both sides, and
    the Dice of the held-out ones is too good then: to judge by whole videos, fit to the folder of
    some and evaluate on the folder of others.

    Args:
        samples: in the order in which they are to be taken.
        held_out: below 1 a fraction of the groups (or slices), else their number; 0 for none.
        seed: of the place of a block.

    Returns:
        Samples to learn from, and those held out, each in the order given.

    Raises:
        UsageError: ``held_out`` is negative, no whole number from 1 on, or leaves nothing.
    """
    if not math.isfinite(held_out) or held_out < 0 or (held_out >= 1 and held_out % 1):
        raise UsageError(
            f"held out is a fraction below 1 or a whole number of images, got {held_out}"
        )
    if held_out == 0:
        return tuple(samples), ()
    groups = list(dict.fromkeys(sample.group for sample in samples))
    total = len(groups) if len(groups) > 1 else len(samples)
    count = int(held_out) if held_out >= 1 else max(1, round(held_out * total))
    if count >= total:
        raise UsageError(f"holding {count} of {total} out leaves nothing to learn from")
    if len(groups) > 1:
        apart = set(groups[-count:])
        chosen = {index for index, sample in enumerate(samples) if sample.group in apart}
    else:
        by_place = sorted(range(total), key=lambda index: samples[index].place)
        first = int(np.random.default_rng(seed).integers(total - count + 1))
        chosen = set(by_place[first : first + count])
    return (
        tuple(sample for index, sample in enumerate(samples) if index not in chosen),
        tuple(samples[index] for index in sorted(chosen)),
    )


def _read_case(case: Case, classes: int) -> tuple[Image, Image]:
    image, labels = case.read(classes)
    if labels is None:
        raise DataError(f"{case.image} has no mask")
    return image, labels
