"""Where a build starts: a checkpoint that is exported, or a bundle whose FP32 graph is reused."""

from __future__ import annotations

import abc
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeseg._progress import Progress
from edgeseg.backends import EngineOptions, available_backends, open_engine
from edgeseg.bundle import read_bundle
from edgeseg.errors import UsageError
from edgeseg.preprocess import Preprocessor
from edgeseg.settings import Settings
from edgeseg.spec import AppliedRewrite, ParityRecord, PreprocessSpec, ReadoutSpec, TensorSpec

if TYPE_CHECKING:
    from edgeseg.export import LoadedCheckpoint

__all__ = ["FP32_FILE", "BundleSource", "CheckpointSource", "Source"]

FP32_FILE = "fp32.onnx"

Frames = Sequence[npt.NDArray[np.uint8]]


class Source(abc.ABC):
    """What a build has to know of its origin."""

    family: str
    hyperparameters: Mapping[str, Any]
    channels: int
    """Channels of the logits."""
    classes: tuple[str, ...]
    """Names used unless the user gives others."""
    preprocess: PreprocessSpec
    readout: ReadoutSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    checkpoint: str
    checkpoint_sha256: str
    rewrites: tuple[AppliedRewrite, ...] = ()
    """Of the FP32 graph, once `write_fp32` has put it there."""

    @abc.abstractmethod
    def write_fp32(self, folder: Path, frames: Frames, progress: Progress) -> ParityRecord:
        """Put ``FP32_FILE`` (and its weights file, if any) into ``folder``; return its parity."""


class CheckpointSource(Source):
    """A checkpoint: recognised, exported, compared with torch on every installed backend."""

    def __init__(
        self,
        path: Path,
        imgsz: tuple[int, int] | None,
        settings: Settings,
        progress: Progress,
        *,
        rewrite: bool = True,
    ) -> None:
        from edgeseg import export

        self._rewrite = rewrite

        progress("load checkpoint", 0, 1)
        loaded: LoadedCheckpoint = export.load(path)
        family = loaded.family
        config = family.with_views(loaded.config, settings.views, settings.flips)
        loaded = dataclasses.replace(loaded, config=config)
        default = family.default_input(config)
        height_px, width_px = imgsz or (default.height_px, default.width_px)
        size = export.InputSize(height_px, width_px)
        family.check_size(config, size)
        self._loaded = loaded
        self._size = size
        self.family = family.name
        self.hyperparameters = loaded.hyperparameters
        self.channels = loaded.classes
        self.classes = family.class_names(config) or default_classes(loaded.classes)
        self.preprocess = family.preprocess(config, size)
        self.readout = settings.readout(family.readout(config))
        self.inputs = family.inputs(config, size)
        self.outputs = family.outputs(config, size)
        self.checkpoint = path.name
        self.checkpoint_sha256 = loaded.sha256
        progress("load checkpoint", 1, 1)

    def write_fp32(self, folder: Path, frames: Frames, progress: Progress) -> ParityRecord:
        """Export, then check parity on noise and on the frames."""
        from edgeseg import export

        target = folder / FP32_FILE
        graph = export.export_onnx(
            self._loaded,
            target,
            height_px=self._size.height_px,
            width_px=self._size.width_px,
            rewrite=self._rewrite,
            progress=lambda done, total: progress("export to ONNX", done, total),
        )
        self.rewrites = graph.rewrites
        preprocess = Preprocessor(self.preprocess)
        names = [spec.name for spec in self.inputs]
        tensors = [dict(zip(names, preprocess.tensors(f), strict=True)) for f in frames]
        backends = available_backends()
        records = []
        # Torch counts as a step of its own: for many views it takes longer than the others.
        progress("check parity with torch", 0, 1 + len(backends))
        cases = export.ParityCases(self._loaded, self._size, tensors)
        for done, backend in enumerate(backends, start=1):
            progress("check parity with torch", done, 1 + len(backends))
            with open_engine(target, backend, EngineOptions()) as engine:
                records.append(cases.check(engine.infer, f"{backend} {engine.info.version}"))
        progress("check parity with torch", 1 + len(backends), 1 + len(backends))
        return max(records, key=lambda record: record.relative)


class BundleSource(Source):
    """A bundle: its FP32 graph and all that is known of it are taken over; torch is not needed."""

    def __init__(self, path: Path, imgsz: tuple[int, int] | None, settings: Settings) -> None:
        self._bundle = read_bundle(path)
        manifest = self._bundle.manifest
        size = (manifest.preprocess.height_px, manifest.preprocess.width_px)
        if imgsz is not None and imgsz != size:
            raise UsageError(
                f"{path.name} holds a graph of fixed size {size[0]}x{size[1]}: for --imgsz "
                f"{imgsz[0]}x{imgsz[1]} build from the checkpoint"
            )
        if settings.views is not None or settings.flips is not None:
            raise UsageError(
                f"{path.name} holds a graph of fixed views: for others build from the checkpoint"
            )
        (fp32,) = (v for v in manifest.variants if v.precision == "fp32")
        self._file = fp32.file
        self.family = manifest.family
        self.hyperparameters = manifest.hyperparameters
        self.channels = fp32.outputs[0].shape[1]
        self.classes = manifest.classes
        self.preprocess = manifest.preprocess
        self.readout = settings.readout(manifest.readout)
        self.inputs, self.outputs = fp32.inputs, fp32.outputs
        self.rewrites = manifest.rewrites
        self.checkpoint = manifest.provenance.checkpoint
        self.checkpoint_sha256 = manifest.provenance.checkpoint_sha256

    def write_fp32(self, folder: Path, frames: Frames, progress: Progress) -> ParityRecord:
        """Copy the graph; its parity was recorded when it was exported."""
        progress("copy FP32 graph", 0, 1)
        for name in self._bundle.manifest.files:
            if name in (self._file, f"{self._file}.data"):
                shutil.copy2(self._bundle.file(name), folder / name)
        progress("copy FP32 graph", 1, 1)
        return self._bundle.manifest.parity


def default_classes(channels: int) -> tuple[str, ...]:
    """Class names where the checkpoint knows none."""
    if channels == 1:
        return ("foreground",)
    return ("background", *(f"class {i}" for i in range(1, channels)))
