"""Everything on the device that a frame path needs, allocated, warmed up and captured."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from edgeseg.backends.base import StreamEngine
from edgeseg.errors import UsageError
from edgeseg.frame_path.buffers import BufferSet, Streams
from edgeseg.frame_path.compute import Compute, Graphs
from edgeseg.frame_path.plan import Plan
from edgeseg.frame_path.result import FrameResult, Wanted
from edgeseg.gpu import Gpu
from edgeseg.kernels import cuda
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.kernels.cuda import DeviceArray
from edgeseg.overlay import Overlay
from edgeseg.spec import PreprocessSpec, ReadoutSpec

__all__ = ["Assembly"]


class Assembly:
    """Streams, plan, buffer sets and graphs; arguments as for ``FramePath``.

    ``hold`` frees all of it. It waits for the device first.
    """

    def __init__(
        self,
        gpu: Gpu,
        engine: StreamEngine,
        preprocess: PreprocessSpec,
        readout: ReadoutSpec,
        frame_hw_px: tuple[int, int],
        *,
        wanted: Wanted,
        rows: Sequence[Sequence[int]] | None,
        overlay: Overlay | None,
        threshold: float | None,
        graphs: Graphs,
        sets: int,
        mapped: bool,
        native: CudaLibrary | None,
        hold: ExitStack,
    ) -> None:
        if wanted.overlay and overlay is None:
            raise UsageError("drawing needs an Overlay: give one, or Wanted(overlay=False)")
        if sets < 1:
            raise UsageError(f"at least 1 frame is in flight, got {sets} buffer sets")
        gpu.make_current()
        cuda.prepare(native)
        self._hw_px = frame_hw_px
        self.streams = Streams(gpu, hold)
        self.plan = Plan(
            gpu,
            engine,
            preprocess,
            readout,
            frame_hw_px,
            rows=rows,
            overlay=overlay if wanted.overlay else None,
            native=native,
            hold=hold,
        )
        parameters = self.plan.parameters(threshold)
        classes = max(self.plan.channels, 2)
        self.sets = tuple(
            BufferSet(gpu, frame_hw_px, classes, wanted, mapped=mapped, hold=hold)
            for _ in range(sets)
        )
        self.compute = Compute(
            gpu, self.streams.compute, {one: self.plan.steps(one) for one in self.sets}
        )
        captured = hold.enter_context(ExitStack())
        # The last to enter is the first to leave: nothing is freed while the device is at work.
        hold.callback(self.streams.synchronize)
        # Libraries allocate and choose at their first call, which a capture does not allow.
        black = np.zeros((*frame_hw_px, 3), np.uint8)
        for buffers in self.sets:
            self.enqueue(buffers, black, parameters)
            self.streams.synchronize()
        self.compute.capture(engine.capturable, graphs, captured)

    def enqueue(
        self,
        buffers: BufferSet,
        frame: npt.NDArray[np.uint8] | DeviceArray,
        parameters: npt.NDArray[np.uint8],
    ) -> None:
        """Enqueue all work on a frame, on a set that nobody uses; arguments as for ``upload``."""
        buffers.upload(frame, parameters, self.streams)
        self.compute.enqueue(buffers)
        buffers.download(self.streams)

    def finish(self, buffers: BufferSet) -> FrameResult:
        """Wait for the frame in a set, which nobody uses from then on."""
        region = self.plan.region
        height, width = self._hw_px
        return buffers.finish(height * width - region.height_px * region.width_px)
