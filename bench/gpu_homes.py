"""The kernels' homes behind one face, numpy in and numpy out, so that one check fits all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgeseg import kernels, readout
from edgeseg.bench.gpu_memory import Memory
from edgeseg.kernels import View, cuda
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.kernels._resize import Resample
from edgeseg.spec import ViewSpec

__all__ = ["CpuHome", "CudaHome", "DecidingHome", "Home", "TritonHome"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Array = npt.NDArray[Any]
Settings = Mapping[str, Any]
"""``weighting``, ``temperature``, ``threshold`` and ``keep``."""


class Home(Protocol):
    """What every home of the kernels can do."""

    def fuse(
        self, views: Sequence[View], size_px: tuple[int, int], settings: Settings, state: Array
    ) -> tuple[Array, Array]:
        """Probability (C, H, W) and mask (H, W); ``state`` (C, H, W) is updated."""
        ...

    def smooth(self, volume: Array, weights: Array, threshold: float) -> tuple[Array, Array]:
        """The smoothed (C, D, H, W) and its mask (D, H, W)."""
        ...

    def blend(
        self, frame: Array, mask: Array, colours: Array, alpha: float, outline_px: int
    ) -> Array:
        """The frame with the mask drawn."""
        ...

    def resize(
        self, frame: Array, views: Sequence[ViewSpec], resample: Resample
    ) -> tuple[Array, ...]:
        """The normalised tensors of the views."""
        ...


@runtime_checkable
class DecidingHome(Protocol):
    """One that has ``decide_mask`` as well."""

    def decide(
        self,
        planes: Array,
        mask_px: tuple[int, int],
        window_px: tuple[int, int, int, int],
        level: float | None,
        align_corners: bool,
    ) -> tuple[Array, Array]:
        """The mask (H, W) and the pixels of each class in its window."""
        ...


class CpuHome:
    """``edgeseg.kernels``."""

    def fuse(
        self, views: Sequence[View], size_px: tuple[int, int], settings: Settings, state: Array
    ) -> tuple[Array, Array]:
        """As ``Home.fuse``."""
        fused = kernels.fuse_views(views, *size_px, **settings, state=state)
        return fused.probability.reshape(state.shape), fused.mask

    def smooth(self, volume: Array, weights: Array, threshold: float) -> tuple[Array, Array]:
        """As ``Home.smooth``."""
        smoothed = kernels.smooth_z(volume, weights, threshold=threshold, mask=True)
        assert smoothed.probability is not None and smoothed.mask is not None
        return smoothed.probability, smoothed.mask

    def blend(
        self, frame: Array, mask: Array, colours: Array, alpha: float, outline_px: int
    ) -> Array:
        """As ``Home.blend``."""
        drawn: Array = frame.copy()
        kernels.blend_overlay(drawn, mask, colours, alpha=alpha, outline_px=outline_px)
        return drawn

    def resize(
        self, frame: Array, views: Sequence[ViewSpec], resample: Resample
    ) -> tuple[Array, ...]:
        """As ``Home.resize``."""
        return kernels.resize_normalize_views(frame, views, resample=resample, mean=MEAN, std=STD)

    def decide(
        self,
        planes: Array,
        mask_px: tuple[int, int],
        window_px: tuple[int, int, int, int],
        level: float | None,
        align_corners: bool,
    ) -> tuple[Array, Array]:
        """As ``DecidingHome.decide``, by the read-out of the CPU."""
        x, y, width, height = window_px
        values = readout.resize_logits(
            planes.astype(np.float32), height, width, align_corners=align_corners
        )
        given = values if level is None else values[0]
        labels = readout.mask_from_probability(given, 0.0 if level is None else level)
        mask = np.zeros(mask_px, np.uint8)
        mask[y : y + height, x : x + width] = labels
        return mask, np.bincount(labels.reshape(-1), minlength=max(len(planes), 2))


class CudaHome:
    """``edgeseg.kernels.cuda``; on the host's memory with a library that runs there."""

    def __init__(self, memory: Memory, native: CudaLibrary | None = None) -> None:
        self._memory = memory
        self._native = native

    def fuse(
        self, views: Sequence[View], size_px: tuple[int, int], settings: Settings, state: Array
    ) -> tuple[Array, Array]:
        """As ``Home.fuse``."""
        memory = self._memory
        logits = [memory.put(view.logits) for view in views]
        packed = memory.put(cuda.fusion_settings(**settings))
        remembered = memory.put(state)
        probability = memory.empty(state.shape, np.float32)
        mask = memory.empty(size_px, np.uint8)
        cuda.fuse_views(
            [cuda.DeviceView(array, v.flip) for array, v in zip(logits, views, strict=True)],
            *size_px,
            settings=packed,
            state=remembered,
            probability=probability,
            mask=mask,
            stream=memory.stream,
            native=self._native,
        )
        state[...] = memory.get(remembered)
        return memory.get(probability), memory.get(mask)

    def smooth(self, volume: Array, weights: Array, threshold: float) -> tuple[Array, Array]:
        """As ``Home.smooth``."""
        memory = self._memory
        source = memory.put(volume)
        level = memory.put(np.array([threshold], np.float32))
        out = memory.empty(volume.shape, np.float32)
        mask = memory.empty(volume.shape[1:], np.uint8)
        cuda.smooth_z(
            source,
            weights,
            threshold=level,
            out=out,
            mask=mask,
            stream=memory.stream,
            native=self._native,
        )
        return memory.get(out), memory.get(mask)

    def blend(
        self, frame: Array, mask: Array, colours: Array, alpha: float, outline_px: int
    ) -> Array:
        """As ``Home.blend``."""
        drawn, labels = self._memory.put(frame), self._memory.put(mask)
        cuda.blend_overlay(
            drawn,
            labels,
            colours,
            alpha=alpha,
            outline_px=outline_px,
            stream=self._memory.stream,
            native=self._native,
        )
        return self._memory.get(drawn)

    def resize(
        self, frame: Array, views: Sequence[ViewSpec], resample: Resample
    ) -> tuple[Array, ...]:
        """As ``Home.resize``."""
        memory = self._memory
        source = memory.put(frame)
        shapes = [(len(view.flips), 3, view.height_px, view.width_px) for view in views]
        out = [memory.empty(shape, np.float32) for shape in shapes]
        plan = cuda.resize_plan(
            (frame.shape[0], frame.shape[1]),
            views,
            out,
            resample=resample,
            mean=MEAN,
            std=STD,
            native=self._native,
        )
        with plan:
            plan.run(source, stream=memory.stream)
            return tuple(memory.get(array) for array in out)

    def decide(
        self,
        planes: Array,
        mask_px: tuple[int, int],
        window_px: tuple[int, int, int, int],
        level: float | None,
        align_corners: bool,
    ) -> tuple[Array, Array]:
        """As ``DecidingHome.decide``."""
        memory = self._memory
        source = memory.put(planes)
        held = None if level is None else memory.put(np.array([level], np.float32))
        mask = memory.empty(mask_px, np.uint8)
        counts = memory.empty((max(len(planes), 2),), np.uint32)
        cuda.decide_mask(
            source,
            mask,
            level=held,
            window_px=window_px,
            align_corners=align_corners,
            counts=counts,
            stream=memory.stream,
            native=self._native,
        )
        return memory.get(mask), memory.get(counts)


class TritonHome:
    """``edgeseg.kernels.triton_kernels``."""

    def __init__(self, torch: Any, triton_kernels: Any) -> None:
        self._torch = torch
        self._kernels = triton_kernels

    def fuse(
        self, views: Sequence[View], size_px: tuple[int, int], settings: Settings, state: Array
    ) -> tuple[Array, Array]:
        """As ``Home.fuse``."""
        remembered = self._put(state)
        pairs = [(self._put(view.logits), view.flip) for view in views]
        fused = self._kernels.fuse_views(pairs, *size_px, **settings, state=remembered)
        state[...] = remembered.cpu().numpy()
        return fused.probability.cpu().numpy().reshape(state.shape), fused.mask.cpu().numpy()

    def smooth(self, volume: Array, weights: Array, threshold: float) -> tuple[Array, Array]:
        """As ``Home.smooth``."""
        smoothed = self._kernels.smooth_z(
            self._put(volume), weights, threshold=threshold, mask=True
        )
        return smoothed.probability.cpu().numpy(), smoothed.mask.cpu().numpy()

    def blend(
        self, frame: Array, mask: Array, colours: Array, alpha: float, outline_px: int
    ) -> Array:
        """As ``Home.blend``."""
        drawn: Array = (
            self._kernels.blend_overlay(
                self._put(frame), self._put(mask), colours, alpha=alpha, outline_px=outline_px
            )
            .cpu()
            .numpy()
        )
        return drawn

    def resize(
        self, frame: Array, views: Sequence[ViewSpec], resample: Resample
    ) -> tuple[Array, ...]:
        """As ``Home.resize``."""
        results = self._kernels.resize_normalize_views(
            self._put(frame), views, resample=resample, mean=MEAN, std=STD
        )
        return tuple(result.cpu().numpy() for result in results)

    def _put(self, array: Array) -> Any:
        return self._torch.from_numpy(np.array(array)).cuda()
