"""The kernels' homes behind one face, numpy in and numpy out, so that one check fits all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgeseg import kernels, readout
from edgeseg.kernels import View, cuda
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.kernels._resize import Resample
from edgeseg.spec import ViewSpec

__all__ = ["CpuHome", "CudaHome", "DecidingHome", "Home", "TritonHome", "pointer", "stream_of"]

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
    """``edgeseg.kernels.cuda`` on tensors of torch.

    ``device`` is ``cpu`` only with a library that runs on the host, as the tests have it.
    """

    def __init__(self, torch: Any, device: str = "cuda", native: CudaLibrary | None = None) -> None:
        self._torch = torch
        self._device = device
        self._native = native

    def fuse(
        self, views: Sequence[View], size_px: tuple[int, int], settings: Settings, state: Array
    ) -> tuple[Array, Array]:
        """As ``Home.fuse``."""
        logits = [self._put(view.logits) for view in views]
        packed = self._put(cuda.fusion_settings(**settings))
        remembered = self._put(state)
        probability = self._torch.full_like(remembered, float("nan"))
        mask = self._empty(size_px, self._torch.uint8)
        cuda.fuse_views(
            [cuda.DeviceView(pointer(t), v.flip) for t, v in zip(logits, views, strict=True)],
            *size_px,
            settings=pointer(packed),
            state=pointer(remembered),
            probability=pointer(probability),
            mask=pointer(mask),
            stream=self._stream(),
            native=self._native,
        )
        state[...] = self._get(remembered)
        return self._get(probability), self._get(mask)

    def smooth(self, volume: Array, weights: Array, threshold: float) -> tuple[Array, Array]:
        """As ``Home.smooth``."""
        source = self._put(volume)
        level = self._put(np.array([threshold], np.float32))
        out = self._torch.full_like(source, float("nan"))
        mask = self._empty(volume.shape[1:], self._torch.uint8)
        cuda.smooth_z(
            pointer(source),
            weights,
            threshold=pointer(level),
            out=pointer(out),
            mask=pointer(mask),
            stream=self._stream(),
            native=self._native,
        )
        return self._get(out), self._get(mask)

    def blend(
        self, frame: Array, mask: Array, colours: Array, alpha: float, outline_px: int
    ) -> Array:
        """As ``Home.blend``."""
        drawn, labels = self._put(frame), self._put(mask)
        cuda.blend_overlay(
            pointer(drawn),
            pointer(labels),
            colours,
            alpha=alpha,
            outline_px=outline_px,
            stream=self._stream(),
            native=self._native,
        )
        return self._get(drawn)

    def resize(
        self, frame: Array, views: Sequence[ViewSpec], resample: Resample
    ) -> tuple[Array, ...]:
        """As ``Home.resize``."""
        source = self._put(frame)
        out = [
            self._empty((len(v.flips), 3, v.height_px, v.width_px), self._torch.float32)
            for v in views
        ]
        plan = cuda.resize_plan(
            (frame.shape[0], frame.shape[1]),
            views,
            [pointer(tensor) for tensor in out],
            resample=resample,
            mean=MEAN,
            std=STD,
            native=self._native,
        )
        with plan:
            plan.run(pointer(source), stream=self._stream())
            return tuple(self._get(tensor) for tensor in out)

    def decide(
        self,
        planes: Array,
        mask_px: tuple[int, int],
        window_px: tuple[int, int, int, int],
        level: float | None,
        align_corners: bool,
    ) -> tuple[Array, Array]:
        """As ``DecidingHome.decide``."""
        source = self._put(planes)
        threshold = None if level is None else self._put(np.array([level], np.float32))
        mask = self._empty(mask_px, self._torch.uint8)
        counts = self._empty((max(len(planes), 2),), self._torch.int32)
        cuda.decide_mask(
            pointer(source),
            pointer(mask),
            level=None if threshold is None else pointer(threshold),
            window_px=window_px,
            align_corners=align_corners,
            counts=cuda.DevicePointer(counts.data_ptr(), tuple(counts.shape), np.uint32),
            stream=self._stream(),
            native=self._native,
        )
        return self._get(mask), self._get(counts).view(np.uint32)

    def _put(self, array: Array) -> Any:
        return self._torch.from_numpy(np.array(array)).to(self._device)

    def _get(self, tensor: Any) -> Array:
        array: Array = tensor.cpu().numpy()
        return array

    def _empty(self, shape: Sequence[int], dtype: Any) -> Any:
        return self._torch.empty(tuple(shape), dtype=dtype, device=self._device)

    def _stream(self) -> int:
        return stream_of(self._torch) if self._device != "cpu" else 0


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


def pointer(tensor: Any) -> cuda.DevicePointer:
    """A contiguous tensor of torch, on any device, as the CUDA binding takes it."""
    assert tensor.is_contiguous()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return cuda.DevicePointer(tensor.data_ptr(), tuple(tensor.shape), np.dtype(dtype))


def stream_of(torch: Any) -> int:
    """The handle of torch's current stream."""
    return int(torch.cuda.current_stream().cuda_stream)
