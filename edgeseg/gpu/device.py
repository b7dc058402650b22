"""One CUDA device: its memory, streams, events and captured graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from edgeseg._closing import Closing
from edgeseg.errors import BackendError, BackendUnavailableError, InputError
from edgeseg.gpu._copies import enqueue_copy
from edgeseg.gpu._held import Ledger
from edgeseg.gpu._runtime import Runtime, load
from edgeseg.gpu.buffers import DeviceBuffer, HostBuffer
from edgeseg.gpu.info import GpuInfo, count, describe
from edgeseg.gpu.interchange import as_device_array
from edgeseg.gpu.streams import Event, Graph, Stream, handle_of
from edgeseg.kernels._device_array import Block, DeviceArray, read_array

__all__ = ["Gpu"]

Array = npt.NDArray[Any]


class Gpu(Closing):
    """A device that this process uses.

    What is made here is freed by its own ``close``, or with the ``Gpu``; both wait for the device
    first, so that nothing is freed in use. Calls may come from several threads, each of which
    calls ``make_current`` first.
    """

    def __init__(self, cuda: Runtime, info: GpuInfo) -> None:
        self.info = info
        self._cuda = cuda
        self._ledger = Ledger(cuda)

    @classmethod
    def open(cls, index: int = 0, runtime: Any | None = None) -> Gpu:
        """Use a device, which becomes the current one of the calling thread.

        Args:
            index: of the device, from 0 on, among those that CUDA shows this process.
            runtime: to use instead of ``cuda.bindings.runtime``.

        Raises:
            MissingDependencyError: cuda-bindings is not installed.
            BackendUnavailableError: there is no driver, none that is new enough, or no such device.
        """
        cuda = load(runtime)
        shown = count(cuda)
        if not 0 <= index < shown:
            raise BackendUnavailableError(
                f"there is no CUDA device {index}: this machine shows {shown}, counted from 0"
            )
        cuda("cudaSetDevice", index)
        return cls(cuda, describe(cuda, index))

    def make_current(self) -> None:
        """Let the calling thread use this device, as every thread must but the one that opened it.

        Raises:
            BackendError: the device is closed, or CUDA refused.
        """
        self._ledger.require_open()
        self._cuda("cudaSetDevice", self.info.index)

    def memory_bytes(self) -> tuple[int, int]:
        """Bytes of the device's memory that are free, and that there are."""
        self._ledger.require_open()
        free, total = self._cuda("cudaMemGetInfo")
        return int(free), int(total)

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> DeviceBuffer:
        """Memory of the device, C-contiguous, with anything in it.

        Args:
            shape: sides of at least 1.
            dtype: of plain numbers.

        Raises:
            DeviceMemoryError: there is not enough left.
            InputError: the shape or the dtype is not as described.
        """
        return DeviceBuffer(self._ledger, shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: npt.DTypeLike) -> DeviceBuffer:
        """``empty``, filled with zeros when this returns."""
        buffer = self.empty(shape, dtype)
        try:
            self._cuda("cudaMemsetAsync", buffer.address, 0, buffer.nbytes, 0)
            self._cuda("cudaStreamSynchronize", 0)
        except BaseException:
            buffer.close()
            raise
        return buffer

    def host(
        self, shape: Sequence[int], dtype: npt.DTypeLike, *, mapped: bool = False
    ) -> HostBuffer:
        """Page-locked memory of the host, with anything in it.

        Args:
            shape: sides of at least 1.
            dtype: of plain numbers.
            mapped: the device works on it directly too, which saves integrated devices a copy.

        Raises:
            DeviceMemoryError: no more memory can be locked.
            BackendUnavailableError: ``mapped``, and the device cannot.
            InputError: the shape or the dtype is not as described.
        """
        if mapped and not self.info.maps_host_memory:
            raise BackendUnavailableError(f"{self.info.name} cannot reach memory of the host")
        return HostBuffer(self._ledger, shape, dtype, mapped=mapped)

    def stream(self) -> Stream:
        """A queue of work that waits for no other queue."""
        return Stream(self._ledger)

    def event(self, *, timing: bool = False) -> Event:
        """A mark for a stream; one with ``timing`` costs a little more and tells times."""
        return Event(self._ledger, timing=timing)

    def upload(self, target: DeviceArray, source: Array, stream: Stream | int) -> None:
        """Enqueue a copy from the host to the device.

        Args:
            target: on the device; rows may be any distance apart.
            source: of the same shape and dtype; rows may be any distance apart. It must stay as it
                is until the copy is done. From page-locked memory (``host``) the copy is
                asynchronous; from other memory the call may wait, and cannot be captured.
            stream: to enqueue on.

        Raises:
            InputError: shapes, dtypes or strides do not fit.
            BackendError: CUDA refused.
        """
        kind = self._cuda.module.cudaMemcpyKind.cudaMemcpyHostToDevice
        to = read_array("target", target, (source.dtype,), contiguous=False, writeable=True)
        enqueue_copy(self._cuda, kind, to, _host_block(source), handle_of(stream))

    def download(self, target: Array, source: DeviceArray, stream: Stream | int) -> None:
        """Enqueue a copy from the device to the host.

        Args:
            target: writable; rows may be any distance apart. Read it when the copy is done.
                Into page-locked memory (``host``) the copy is asynchronous; into other memory the
                call may wait, and cannot be captured.
            source: on the device, of the same shape and dtype; rows may be any distance apart.
            stream: to enqueue on.

        Raises:
            InputError: shapes, dtypes or strides do not fit.
            BackendError: CUDA refused.
        """
        if not target.flags.writeable:
            raise InputError("target is read-only")
        kind = self._cuda.module.cudaMemcpyKind.cudaMemcpyDeviceToHost
        block = read_array("source", source, (target.dtype,), contiguous=False)
        enqueue_copy(self._cuda, kind, _host_block(target), block, handle_of(stream))

    def copy(self, target: DeviceArray, source: DeviceArray, stream: Stream | int) -> None:
        """Enqueue a copy between what the device can reach.

        Args:
            target: on the device, or ``HostBuffer.device``; rows may be any distance apart.
            source: likewise, of the same shape and dtype. The two must not overlap.
            stream: to enqueue on.

        Raises:
            InputError: shapes, dtypes or strides do not fit.
            BackendError: CUDA refused.
        """
        # The address says where memory lies, which may be on the host.
        kind = self._cuda.module.cudaMemcpyKind.cudaMemcpyDefault
        to = read_array("target", target, None, contiguous=False, writeable=True)
        block = read_array("source", source, None, contiguous=False)
        enqueue_copy(self._cuda, kind, to, block, handle_of(stream))

    def adopt(self, value: object, stream: Stream | int) -> DeviceArray:
        """``as_device_array`` on this device.

        Args:
            value: an array of another library in memory of this device.
            stream: that will read it; it waits for the work that makes the array, where the library
                says what stream that is on.

        Raises:
            InputError: it is no array in memory of this device, or one whose layout cannot be told.
            BackendError: CUDA refused.
        """
        self._ledger.require_open()
        return as_device_array(
            value, handle_of(stream), device=self.info.index, runtime=self._cuda.module
        )

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Record what ``work`` enqueues, without running it, as a graph.

        ``work`` runs in this thread, once. It enqueues on ``stream`` and on streams that wait for
        an event recorded there, each of which ``stream`` waits for in the end. It neither allocates
        nor frees nor waits on the host; what it calls has run once before. Other threads may do
        all that meanwhile.

        Returns:
            The graph, which is not launched. It reads and writes the same addresses at each launch.

        Raises:
            BackendError: something in it cannot be captured. ``stream`` is usable again.
        """
        self._ledger.require_open()
        cuda = self._cuda
        mode = cuda.module.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with self._ledger.whole_device:
            cuda("cudaStreamBeginCapture", stream.handle, mode)
            try:
                work()
            except BaseException:
                self._abandon_capture(stream)
                raise
            try:
                graph = int(cuda("cudaStreamEndCapture", stream.handle))
            except BackendError as error:
                raise BackendError(
                    f"the work cannot be captured in a CUDA graph: {error}"
                ) from error
        try:
            return Graph(self._ledger, graph)
        finally:
            cuda.release("cudaGraphDestroy", graph)

    def synchronize(self) -> None:
        """Wait until all work on the device is done.

        Raises:
            BackendError: some of it failed.
        """
        self._ledger.require_open()
        with self._ledger.whole_device:
            self._cuda("cudaDeviceSynchronize")

    def close(self) -> None:
        """Wait for the device and free all that is left. Closing twice does nothing."""
        self._ledger.close()

    def _abandon_capture(self, stream: Stream) -> None:
        try:
            graph = int(self._cuda("cudaStreamEndCapture", stream.handle))
        except BackendError:
            # The capture is over; why is told by the error that is on its way.
            return
        self._cuda.release("cudaGraphDestroy", graph)


def _host_block(array: Array) -> Block:
    return Block(array.ctypes.data, array.shape, array.dtype, array.strides)
