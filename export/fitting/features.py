"""Features of a frozen backbone and the targets of its probes, computed once and kept on disk."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeseg._progress import Progress, silent
from edgeseg.errors import CheckpointError, OutputError
from edgeseg.export.backbone import Dinov3Backbone
from edgeseg.export.backbone_config import PATCH_PX
from edgeseg.export.fitting.samples import Image, Sample
from edgeseg.metrics import resize_mask
from edgeseg.preprocess import Preprocessor
from edgeseg.spec import PreprocessSpec

__all__ = ["TARGET_SCALE", "FeatureCache", "View", "soft_target"]

TARGET_SCALE = 4
"""Cells of the target's grid along the side of a patch."""

_SPARE_BYTES = 64 << 20
"""Left free on the disk that holds the cache."""


@dataclass(frozen=True)
class View:
    """Everything that is kept of one resolution; files mapped into memory, a row a sample."""

    height_px: int
    width_px: int
    features: npt.NDArray[np.float16]
    """(N, taps, patches, width): what the probes read."""
    targets: npt.NDArray[np.uint8]
    """(N, channels, TARGET_SCALE * rows, TARGET_SCALE * columns): 255 times the share of each class
    in a cell; of one class, that of the foreground."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.height_px // PATCH_PX, self.width_px // PATCH_PX

    def inputs(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> tuple[Tensor, ...]:
        """The probes' inputs: one (len(rows), patches, width) float32 for each tapped block."""
        taken = torch.from_numpy(self.features[rows]).float()
        return tuple(taken.unbind(1))

    def soft_targets(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> Tensor:
        """Shares of the classes, float32 (len(rows), channels, cells, cells), 0 to 1."""
        return torch.from_numpy(self.targets[rows]).float() / 255.0


@dataclass(frozen=True)
class FeatureCache:
    """Features, targets and masks of labelled samples at several resolutions.

    It lives in files mapped into memory, so that no more is held than what is read at a time. The
    files have no names: they vanish with the process, however it ends.
    """

    views: tuple[View, ...]
    """One a resolution."""
    truths: npt.NDArray[np.uint8]
    """(N, H, W): class indices at the size of the largest resolution."""

    @classmethod
    def allocate(
        cls,
        folder: Path,
        samples: int,
        backbone: Dinov3Backbone,
        sizes_px: Sequence[tuple[int, int]],
        channels: int,
    ) -> FeatureCache:
        """Make room, without content.

        Args:
            folder: on a disk with about 6 bytes x patches x width to spare for each sample.
            samples: how many, at least one.
            backbone: its taps are what the probes read.
            sizes_px: height and width of each resolution, multiples of 16.
            channels: of the logits; 1 means foreground against background.

        Raises:
            OutputError: the disk has no room for them.
        """
        shapes = []
        for height, width in sizes_px:
            rows, columns = height // PATCH_PX, width // PATCH_PX
            shapes.append(
                (
                    (samples, len(backbone.taps), rows * columns, backbone.config.width),
                    (samples, channels, TARGET_SCALE * rows, TARGET_SCALE * columns),
                )
            )
        truths = (samples, *max(sizes_px, key=math.prod))
        _check_room(
            folder,
            samples,
            sum(2 * math.prod(features) + math.prod(targets) for features, targets in shapes)
            + math.prod(truths),
        )
        views = tuple(
            View(
                *size,
                _array(folder, np.float16, features),
                _array(folder, np.uint8, targets),
            )
            for size, (features, targets) in zip(sizes_px, shapes, strict=True)
        )
        return cls(views, _array(folder, np.uint8, truths))

    def read_labels(self, samples: Sequence[Sample], *, progress: Progress = silent) -> None:
        """Fill in targets and truths.

        Images are decoded as well, so that a file that cannot be used is found before the backbone
        runs for minutes.

        Args:
            samples: one a row.
            progress: called with ("read", done, total).

        Raises:
            DataError: a file cannot be used.
        """
        for row, sample in enumerate(samples):
            progress("read", row, len(samples))
            _, labels = sample.read()
            self.truths[row] = resize_mask(labels, *self.truths.shape[1:])
            for view in self.views:
                channels, *cells = view.targets.shape[1:]
                shares = soft_target(labels, cells[0], cells[1], channels)
                view.targets[row] = np.rint(255.0 * shares)
        progress("read", len(samples), len(samples))

    def run(
        self,
        samples: Sequence[Sample],
        backbone: Dinov3Backbone,
        specs: Sequence[PreprocessSpec],
        *,
        threads: int = 1,
        progress: Progress = silent,
    ) -> None:
        """Fill in the features: the backbone once a sample and resolution, not mirrored.

        Args:
            samples: one a row.
            backbone: in evaluation mode.
            specs: preprocessing of each resolution, without views.
            threads: of the preprocessing (torch has its own setting).
            progress: called with ("features", done, total).

        Raises:
            DataError: a file cannot be used.
            CheckpointError: the features are not finite.
        """
        preprocessors = [Preprocessor(spec, threads) for spec in specs]
        for row, sample in enumerate(samples):
            progress("features", row, len(samples))
            image, _ = sample.read()
            for view, preprocess in zip(self.views, preprocessors, strict=True):
                with torch.inference_mode():
                    tapped = backbone.tokens(torch.from_numpy(preprocess(image)))
                    half = torch.cat(tapped).half()
                if not bool(torch.isfinite(half).all()):
                    raise CheckpointError(
                        f"the backbone's features of {sample.id} are not finite (or beyond 65504): "
                        "its weights are damaged, or no DINOv3's"
                    )
                view.features[row] = half.numpy()
        progress("features", len(samples), len(samples))

    def absent_classes(self, rows: Sequence[int], channels: int) -> tuple[int, ...]:
        """Foreground classes that some rows hold nothing of, at any resolution."""
        foreground = (0,) if channels == 1 else range(1, channels)
        return tuple(
            index
            for index in foreground
            if not any(view.targets[row, index].any() for view in self.views for row in rows)
        )


def soft_target(labels: Image, height: int, width: int, channels: int) -> npt.NDArray[np.float32]:
    """Class indices as shares of each cell of a coarser grid.

    Args:
        labels: uint8 (H, W); below ``max(channels, 2)``.
        height: rows of the grid.
        width: columns of the grid.
        channels: 1: the share of everything but class 0; more: the share of each.

    Returns:
        float32 (channels, height, width), 0 to 1: means over the area that a cell covers. Where
        the grid is finer than the labels, they are interpolated.
    """
    planes = [labels != 0] if channels == 1 else [labels == index for index in range(channels)]
    size = (width, height)
    return np.stack(
        [
            cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            for plane in planes
        ]
    )


def _check_room(folder: Path, samples: int, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes + _SPARE_BYTES > free:
        raise OutputError(
            f"the features of {samples} images need {needed_bytes / 1e9:.1f} GB in {folder}, which "
            f"has {free / 1e9:.1f} GB left: let TMPDIR name a folder with more room, or take fewer "
            "images or resolutions"
        )


def _array(folder: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Any:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Writing to a mapped file beyond a full disk would kill the process.
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
            return np.memmap(file, dtype, mode="r+", shape=shape)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error
