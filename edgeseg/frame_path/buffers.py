"""The memory and the events of one frame in flight."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.frame_path.result import FrameResult, Wanted
from edgeseg.gpu import Event, Gpu, Stream
from edgeseg.kernels import cuda
from edgeseg.kernels.cuda import DeviceArray, DevicePointer
from edgeseg.spec import RoiSpec

__all__ = ["PARAMETER_BYTES", "BufferSet", "Region", "Streams", "pack_parameters"]

PARAMETER_BYTES = cuda.SETTINGS_BYTES + 4
"""The settings of the fusion, then the level of the decision as float32."""


def pack_parameters(settings: npt.NDArray[np.uint8], level: float) -> npt.NDArray[np.uint8]:
    """What may change from frame to frame, as it lies in device memory: uint8 (PARAMETER_BYTES,).

    Args:
        settings: of ``kernels.cuda.fusion_settings``.
        level: of ``kernels.cuda.decide_mask``.
    """
    return np.concatenate([settings, np.array([level], np.float32).view(np.uint8)])


@dataclass(frozen=True)
class Region:
    """The region of interest of a frame in device memory, which it keeps alive."""

    frame: DeviceArray
    roi: RoiSpec

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Rows as far apart as the frame's."""
        whole = self.frame.__cuda_array_interface__
        address, read_only = whole["data"]
        _, width, channels = whole["shape"]
        strides = whole.get("strides") or (width * channels, channels, 1)
        roi = self.roi
        return {
            **whole,
            "data": (address + roi.y_px * strides[0] + roi.x_px * strides[1], read_only),
            "shape": (roi.height_px, roi.width_px, channels),
            "strides": strides,
        }


class Streams:
    """Up, work, down: each in order, and beside the others."""

    def __init__(self, gpu: Gpu, hold: ExitStack) -> None:
        self.copy_in: Stream = hold.enter_context(gpu.stream())
        self.compute: Stream = hold.enter_context(gpu.stream())
        self.copy_out: Stream = hold.enter_context(gpu.stream())

    def synchronize(self) -> None:
        """Wait until all three have done what was enqueued."""
        for stream in (self.copy_in, self.compute, self.copy_out):
            stream.synchronize()


class BufferSet:
    """What one frame needs from its upload until its result is read.

    The page-locked pixels serve both ways: the frame goes up from them, and the drawn frame comes
    down into them. Where they are mapped, the kernels read and draw on them in place. Inputs and
    outputs of the network are no part of it, since the network runs for one frame at a time.
    """

    def __init__(
        self,
        gpu: Gpu,
        frame_hw_px: tuple[int, int],
        classes: int,
        wanted: Wanted,
        *,
        mapped: bool,
        hold: ExitStack,
    ) -> None:
        """Allocate.

        Args:
            gpu: whose memory it is.
            frame_hw_px: height and width of the frames.
            classes: entries of the counts.
            wanted: what comes down.
            mapped: keep frame, parameters and a wanted mask in host memory that the device sees.
            hold: closes what is allocated.
        """
        self._gpu = gpu
        self._wanted = wanted
        self._mapped = mapped
        self._pixels = hold.enter_context(gpu.host((*frame_hw_px, 3), np.uint8, mapped=mapped))
        self._host_parameters = hold.enter_context(
            gpu.host((PARAMETER_BYTES,), np.uint8, mapped=mapped)
        )
        self._host_mask = (
            hold.enter_context(gpu.host(frame_hw_px, np.uint8, mapped=mapped))
            if wanted.mask
            else None
        )
        self._host_counts = (
            hold.enter_context(gpu.host((classes,), np.uint32)) if wanted.statistics else None
        )
        self.frame: DeviceArray
        """uint8 (H, W, 3)."""
        self.mask: DeviceArray
        """uint8 (H, W)."""
        parameters: DeviceArray
        if mapped:
            self.frame, parameters = self._pixels.device, self._host_parameters.device
        else:
            self.frame = hold.enter_context(gpu.empty((*frame_hw_px, 3), np.uint8))
            parameters = hold.enter_context(gpu.empty((PARAMETER_BYTES,), np.uint8))
        if mapped and self._host_mask is not None:
            self.mask = self._host_mask.device
        else:
            self.mask = hold.enter_context(gpu.empty(frame_hw_px, np.uint8))
        # Counted with atomic additions, which belong into the device's own memory.
        self.counts: DeviceArray | None = (
            hold.enter_context(gpu.empty((classes,), np.uint32)) if wanted.statistics else None
        )
        """uint32 (classes,)."""
        self._parameters = parameters
        address, _ = parameters.__cuda_array_interface__["data"]
        self.settings = DevicePointer(address, (cuda.SETTINGS_BYTES,), np.uint8)
        self.level = DevicePointer(address + cuda.SETTINGS_BYTES, (1,), np.float32)
        names = ("copy_in", "uploaded", "compute", "computed", "copy_out", "done")
        self._events: dict[str, Event] = {
            name: hold.enter_context(gpu.event(timing=True)) for name in names
        }
        self._source: object = None

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The page-locked frame, uint8 (H, W, 3)."""
        array: npt.NDArray[np.uint8] = self._pixels.array
        return array

    def upload(
        self,
        frame: npt.NDArray[np.uint8] | DeviceArray,
        parameters: npt.NDArray[np.uint8],
        streams: Streams,
    ) -> None:
        """Enqueue the way up, and let the computation wait for it.

        Args:
            frame: ``pixels`` itself, another array of that shape, or one on the device.
            parameters: of ``pack_parameters``.
            streams: of the path.
        """
        gpu, stream = self._gpu, streams.copy_in
        self._host_parameters.array[...] = parameters
        if isinstance(frame, np.ndarray) and frame is not self.pixels:
            np.copyto(self.pixels, frame)
        self._events["copy_in"].record(stream)
        if not isinstance(frame, np.ndarray):
            self._source = frame  # alive until it has been copied
            gpu.copy(self.frame, frame, stream)
        elif not self._mapped:
            gpu.upload(self.frame, self.pixels, stream)
        if not self._mapped:
            gpu.upload(self._parameters, self._host_parameters.array, stream)
        self._events["uploaded"].record(stream)
        streams.compute.wait(self._events["uploaded"])
        self._events["compute"].record(streams.compute)

    def download(self, streams: Streams) -> None:
        """Enqueue the way down, after the computation that was enqueued before."""
        gpu, stream = self._gpu, streams.copy_out
        self._events["computed"].record(streams.compute)
        stream.wait(self._events["computed"])
        self._events["copy_out"].record(stream)
        if self._wanted.overlay and not self._mapped:
            gpu.download(self.pixels, self.frame, stream)
        if self._host_mask is not None and not self._mapped:
            gpu.download(self._host_mask.array, self.mask, stream)
        if self._host_counts is not None and self.counts is not None:
            gpu.download(self._host_counts.array, self.counts, stream)
        self._events["done"].record(stream)

    def finish(self, outside_px: int) -> FrameResult:
        """Wait for the frame and copy its result out of the page-locked memory.

        Args:
            outside_px: pixels of the frame outside the region of interest, which are background.
        """
        self._events["done"].synchronize()
        self._source = None
        counts = None
        if self._host_counts is not None:
            found = self._host_counts.array.tolist()
            counts = (found[0] + outside_px, *found[1:])
        return FrameResult(
            overlay=self.pixels.copy() if self._wanted.overlay else None,
            mask=None if self._host_mask is None else self._host_mask.array.copy(),
            counts=counts,
            timings_ms={
                name: self._events[end].elapsed_ms(self._events[name])
                for name, end in (
                    ("copy_in", "uploaded"),
                    ("compute", "computed"),
                    ("copy_out", "done"),
                )
            },
        )
