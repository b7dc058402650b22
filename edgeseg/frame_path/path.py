"""Frames through the GPU: one way up, all the work there, one way down."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt

from edgeseg._closing import Closing
from edgeseg.backends.base import StreamEngine
from edgeseg.errors import BackendError, EdgesegError, InputError, UsageError
from edgeseg.frame_path.assembly import Assembly
from edgeseg.frame_path.buffers import BufferSet
from edgeseg.frame_path.compute import Graphs
from edgeseg.frame_path.result import FrameResult, Wanted
from edgeseg.gpu import Gpu
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.kernels._device_array import Block, read_array
from edgeseg.kernels.cuda import DeviceArray
from edgeseg.overlay import Overlay
from edgeseg.preprocess import check_frame
from edgeseg.spec import PreprocessSpec, ReadoutSpec, RoiSpec
from edgeseg.temporal import Memory

__all__ = ["FramePath"]

_log = logging.getLogger(__name__)


class FramePath(Closing):
    """Segments frames of one size on a GPU; ``submit`` them, then ``collect`` results in order.

    A frame is copied into page-locked memory, goes up on one stream, is resampled, segmented, read
    out and drawn on by a second, and what is wanted comes down on a third; events join the three.
    With two buffer sets the copies of one frame overlap with the work on another. The work on each
    set is captured in a CUDA graph, after a run that was not. On a GPU that shares the host's
    memory the kernels read and draw on the page-locked frame itself.

    It computes what ``edgeseg.Model`` computes on the CPU, up to rounding: pixels whose value lies
    within rounding of the threshold may differ.

    One thread may submit while another collects. The engine is used by nobody else meanwhile. After
    an error of the device or the engine the path only closes.
    """

    def __init__(
        self,
        gpu: Gpu,
        engine: StreamEngine,
        preprocess: PreprocessSpec,
        readout: ReadoutSpec,
        frame_hw_px: tuple[int, int],
        *,
        wanted: Wanted | None = None,
        rows: Sequence[Sequence[int]] | None = None,
        overlay: Overlay | None = None,
        threshold: float | None = None,
        graphs: Graphs = True,
        sets: int = 2,
        mapped: bool | None = None,
        close_gpu: bool = False,
        native: CudaLibrary | None = None,
    ) -> None:
        """Allocate all that is needed, run once and capture.

        Args:
            gpu: stays open, and must stay so until the path is closed.
            engine: whose inputs are those of ``preprocess``; on the same device.
            preprocess: how the engine's inputs are made; its views are all that are fed.
            readout: how its outputs are read. With a time constant frames are smoothed over time.
            frame_hw_px: height and width of the frames, 1 to 65535 each.
            wanted: what to bring down; None for the overlay and statistics.
            rows: for each view the rows of its batch that are read; None for all.
            overlay: how to draw; needed for the overlay.
            threshold: for one class, instead of the read-out's.
            graphs: whether to capture; ``require`` makes it an error if that fails. Otherwise
                ``why_no_graphs`` says what failed, and the work is enqueued piece by piece.
            sets: frames in flight, at least 1.
            mapped: let the kernels work on the host's memory; None where the GPU shares it.
            close_gpu: close ``gpu`` with the path, or when the path cannot be made.
            native: the kernels to use instead of this installation's.

        Raises:
            UsageError: arguments that contradict each other.
            InputError: the region of interest does not fit into the frame, the classes do not fit
                the read-out or the colours, or the threshold is none.
            BackendUnavailableError: the read-out needs the CPU (``unavailable_reason``), there is
                no device, or it cannot reach memory of the host.
            DeviceMemoryError: it does not fit into the device's memory.
            NativeLibraryError: this installation has no CUDA kernels.
            BackendError: the engine's inputs or outputs do not fit, or it failed; or the work
                cannot be captured and ``graphs`` is ``require``.
        """
        self.frame_hw_px = (int(frame_hw_px[0]), int(frame_hw_px[1]))
        """Height and width of the frames."""
        self.wanted = wanted or Wanted()
        """What comes down."""
        self.mapped = (
            gpu.info.integrated and gpu.info.maps_host_memory if mapped is None else mapped
        )
        """Whether frames stay in the host's memory."""
        self._gpu = gpu
        self._threshold = threshold
        self._memory: Memory | None = None
        self._failure: str | None = None
        self._closed = False
        # In the order in which they are taken where both are.
        self._submitting = threading.Lock()
        self._finishing = threading.Lock()
        self._free: deque[BufferSet] = deque()
        self._in_flight: deque[BufferSet] = deque()
        self._finished: deque[FrameResult] = deque()
        self._hold = ExitStack()
        if close_gpu:
            self._hold.callback(gpu.close)
        try:
            self._device = Assembly(
                gpu,
                engine,
                preprocess,
                readout,
                self.frame_hw_px,
                wanted=self.wanted,
                rows=rows,
                overlay=overlay,
                threshold=threshold,
                graphs=graphs,
                sets=sets,
                mapped=self.mapped,
                native=native,
                hold=self._hold,
            )
            self._free.extend(self._device.sets)
        except BaseException as error:
            self._failure = str(error) or type(error).__name__
            self.close()
            raise

    @property
    def region(self) -> RoiSpec:
        """The region of interest of all frames; without one the whole frame."""
        return self._device.plan.region

    @property
    def graphs(self) -> bool:
        """Whether the work runs as CUDA graphs."""
        return self._device.compute.why_no_graphs is None

    @property
    def why_no_graphs(self) -> str | None:
        """What kept the work from being captured; None if it was."""
        return self._device.compute.why_no_graphs

    def buffer(self) -> npt.NDArray[np.uint8]:
        """Page-locked memory for the next frame: uint8 (H, W, 3).

        Who decodes into it and submits it saves a copy. It may be written until then, and not read
        or written afterwards. Waits like ``submit``.

        Raises:
            BackendError: the path is closed or has failed.
        """
        with self._submitting, self._failing():
            return self._next_free().pixels

    def submit(
        self,
        frame: npt.NDArray[np.uint8] | DeviceArray | object,
        *,
        memory: Memory | None = None,
        threshold: float | None = None,
    ) -> None:
        """Start the work on a frame.

        Returns as soon as it is enqueued, and the frame, if it is a numpy array, is the caller's
        again. Where all buffer sets are in flight it first waits for the oldest frame, whose result
        is kept for ``collect``: collect one for every frame.

        Args:
            frame: uint8 (H, W, 3), BGR: a numpy array, or an array on the same device
                (``__cuda_array_interface__`` or DLPack), which is copied there and must stay
                unchanged until its result is collected. Rows may be any distance apart. The copy
                waits for the work that makes the array where its library says on what stream that
                is.
            memory: what a ``TemporalSmoother`` says of this frame; needed if the read-out smooths
                over time, and only then. Its state stays on the device; another memory than the
                last frame's starts anew.
            threshold: for this frame, instead of the path's.

        Raises:
            InputError: the frame or the threshold does not fit; nothing was started.
            UsageError: a memory is missing or has no use; nothing was started.
            BackendError: the path is closed or has failed, now or before.
        """
        with self._submitting:
            self._require_usable()
            self._check_memory(memory)
            chosen = self._threshold if threshold is None else threshold
            if memory is None:
                parameters = self._device.plan.parameters(chosen)
            else:
                forget = memory.reset or memory is not self._memory
                parameters = self._device.plan.parameters(chosen, keep=memory.keep, reset=forget)
            with self._failing(but=InputError):
                self._gpu.make_current()
                array = self._check(frame)
            with self._failing():
                buffers = self._next_free()
                self._device.enqueue(buffers, array, parameters)
                self._free.popleft()
                self._in_flight.append(buffers)
                if memory is not None:
                    memory.reset = forget  # as ``Memory.buffer`` does for a state it makes
                    self._memory = memory

    def collect(self) -> FrameResult:
        """Wait for the oldest frame that was submitted and not yet collected.

        Returns:
            Its result, in arrays of its own: later frames change nothing in it.

        Raises:
            UsageError: there is no such frame.
            BackendError: the path is closed or has failed, now or before.
        """
        with self._finishing:
            self._require_usable()
            if not self._finished:
                if not self._in_flight:
                    raise UsageError("nothing to collect: submit a frame first")
                with self._failing():
                    self._gpu.make_current()
                    self._finish_oldest()
            return self._finished.popleft()

    def steps_ms(self, rounds: int = 20) -> dict[str, float]:
        """Time the pieces of the work on the device, one after the other and without graphs.

        Runs on whatever frame lies in the first buffer set, while nothing is in flight.

        Args:
            rounds: at least 1.

        Returns:
            Median milliseconds of ``preprocess``, ``inference``, ``fuse`` (where views are fused or
            frames smoothed), ``decide`` and ``draw`` (where the overlay is wanted).

        Raises:
            UsageError: frames are in flight, or there is no round.
            BackendError: the path is closed or has failed, now or before.
        """
        with self._submitting, self._finishing:
            self._require_usable()
            if self._in_flight:
                raise UsageError("frames are in flight: collect them before timing")
            if rounds < 1:
                raise UsageError(f"timing takes at least 1 round, got {rounds}")
            self._memory = None  # the rounds change the state of the smoothing
            with self._failing():
                self._gpu.make_current()
                return self._device.compute.steps_ms(self._free[0], rounds)

    def describe(self) -> str:
        """How frames go, in a few words for reports."""
        memory = "in memory shared with the host" if self.mapped else "in its own memory"
        how = "as CUDA graphs" if self.graphs else f"without CUDA graphs ({self.why_no_graphs})"
        return f"on {self._gpu.info.name}, {memory}, {how}"

    def close(self) -> None:
        """Wait until nothing is in flight, then free everything. Closing twice does nothing.

        Raises:
            BackendError: the device failed, and no call before has said so.
        """
        with self._submitting, self._finishing:
            if self._closed:
                return
            self._closed = True
            try:
                with self._hold:
                    self._gpu.make_current()
            except EdgesegError as error:
                if self._failure is None:
                    raise
                _log.debug("while closing a frame path that failed: %s", error)

    def _next_free(self) -> BufferSet:
        """A set that nobody uses, which stays at the head of the free ones."""
        if not self._free:
            with self._finishing:
                # Whoever collects may have freed one while this thread waited for the lock.
                if not self._free:
                    self._gpu.make_current()
                    self._finish_oldest()
        return self._free[0]

    def _finish_oldest(self) -> None:
        buffers = self._in_flight[0]
        self._finished.append(self._device.finish(buffers))
        self._in_flight.popleft()
        self._free.append(buffers)

    def _check(self, frame: object) -> npt.NDArray[np.uint8] | DeviceArray:
        wanted = (*self.frame_hw_px, 3)
        if isinstance(frame, np.ndarray):
            check_frame(frame)
            shape = frame.shape
        else:
            frame = self._gpu.adopt(frame, self._device.streams.copy_in)
            block = read_array("frame", frame, (np.uint8,), contiguous=False)
            shape = block.shape
            if shape == wanted:
                _check_layout(block)
        if shape != wanted:
            raise InputError(f"this path is for frames of {wanted}, got {shape}")
        return frame

    def _check_memory(self, memory: Memory | None) -> None:
        if self._device.plan.smooths and memory is None:
            raise UsageError(
                "the read-out smooths over time: give each frame the memory of a TemporalSmoother"
            )
        if memory is not None and not self._device.plan.smooths:
            raise UsageError(
                "a memory has no use here: open the path with a read-out that has a time constant"
            )

    def _require_usable(self) -> None:
        if self._failure is not None:
            raise BackendError(
                f"this frame path failed ({self._failure}): close it and open another"
            )
        if self._closed:
            raise BackendError("this frame path is closed: open another")

    @contextmanager
    def _failing(self, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Any other error within leaves the path unusable: who knows what is enqueued."""
        self._require_usable()
        try:
            yield
        except BaseException as error:
            if self._failure is None and not isinstance(error, but):
                self._failure = str(error) or type(error).__name__
            raise


def _check_layout(frame: Block) -> None:
    height, width, channels = frame.shape
    between_rows, *within_rows = frame.strides
    packed = within_rows[1] == 1 and (width == 1 or within_rows[0] == channels)
    if not packed or (height > 1 and between_rows < width * channels):
        raise InputError(
            "the pixels of a frame on the device must follow each other in rows that do not "
            f"overlap, got strides {frame.strides}"
        )
