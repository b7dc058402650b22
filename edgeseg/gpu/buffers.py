"""Memory of a device, and memory of the host that the device can reach."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError, UsageError
from edgeseg.gpu._held import Held, Ledger

__all__ = ["DeviceBuffer", "DeviceSpan", "HostBuffer"]

Array = npt.NDArray[Any]


class DeviceSpan:
    """A C-contiguous array in memory that ``owner`` holds; it says so to every CUDA library."""

    def __init__(
        self, owner: Held, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._owner = owner
        self._address = address
        self.shape = shape
        self.dtype = dtype

    @property
    def address(self) -> int:
        """Where it begins.

        Raises:
            BackendError: the memory was freed.
        """
        self._owner._require_open()
        return self._address

    @property
    def nbytes(self) -> int:
        """Size."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """As any CUDA library reads it; readers wait for no stream."""
        return {
            "data": (self.address, False),
            "shape": self.shape,
            "typestr": self.dtype.str,
            "strides": None,
            "version": 3,
        }

    def view(
        self,
        shape: Sequence[int] | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        rows: slice | None = None,
    ) -> DeviceSpan:
        """A part of the same memory, or the same memory seen differently. Nothing is copied.

        Args:
            shape: of the result; None for that of the rows, or where only ``dtype`` changes for
                that with a last side to match.
            dtype: of the result; None for the same.
            rows: of the first axis, without a step; None for all.

        Returns:
            An array that is usable until the memory is freed.

        Raises:
            InputError: there are no such rows, or the size in bytes does not fit.
        """
        address, kept = self._address, self.shape
        if rows is not None:
            first, last, step = rows.indices(kept[0] if kept else 0)
            if step != 1 or not first < last:
                raise InputError(f"rows {rows} are none of an array of shape {kept}")
            address += first * (self.nbytes // kept[0])
            kept = (last - first, *kept[1:])
        kind = self.dtype if dtype is None else np.dtype(dtype)
        nbytes = math.prod(kept) * self.dtype.itemsize
        if shape is not None:
            kept = tuple(int(side) for side in shape)
        elif kept and kind != self.dtype:
            kept = (*kept[:-1], kept[-1] * self.dtype.itemsize // kind.itemsize)
        if math.prod(kept) * kind.itemsize != nbytes or any(side < 1 for side in kept):
            raise InputError(f"{nbytes} bytes are no {kind} array of shape {kept}")
        return DeviceSpan(self._owner, address, kept, kind)


class DeviceBuffer(DeviceSpan, Held):
    """Memory of the device, made by ``Gpu.empty`` and ``Gpu.zeros``."""

    def __init__(self, ledger: Ledger, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        ledger.require_open()
        sides, kind, nbytes = checked_shape(shape, dtype)
        address = int(ledger.cuda("cudaMalloc", nbytes))
        DeviceSpan.__init__(self, self, address, sides, kind)
        Held.__init__(self, ledger)

    def _release(self) -> None:
        # A kernel or copy may still be using it.
        self._ledger.wait()
        self._ledger.cuda.release("cudaFree", self._address)


class HostBuffer(Held):
    """Page-locked memory of the host, made by ``Gpu.host``.

    Copies to and from it are asynchronous, and as fast as the bus.
    """

    def __init__(
        self, ledger: Ledger, shape: Sequence[int], dtype: npt.DTypeLike, *, mapped: bool
    ) -> None:
        ledger.require_open()
        cuda = ledger.cuda
        sides, kind, nbytes = checked_shape(shape, dtype)
        flags = cuda.module.cudaHostAllocPortable
        if mapped:
            flags |= cuda.module.cudaHostAllocMapped
        self._address = int(cuda("cudaHostAlloc", nbytes, flags))
        Held.__init__(self, ledger)
        self.shape = sides
        self.dtype = kind
        self.nbytes = nbytes
        memory = (ctypes.c_uint8 * nbytes).from_address(self._address)
        self._array: Array = np.frombuffer(memoryview(memory), kind).reshape(sides)
        self._device: DeviceSpan | None = None
        if mapped:
            try:
                address = int(cuda("cudaHostGetDevicePointer", self._address, 0))
            except BaseException:
                self.close()
                raise
            self._device = DeviceSpan(self, address, sides, kind)

    @property
    def address(self) -> int:
        """Where it begins, for the host.

        Raises:
            BackendError: the memory was freed.
        """
        self._require_open()
        return self._address

    @property
    def array(self) -> Array:
        """The memory as numpy sees it, C-contiguous; no reference may outlive ``close``.

        Raises:
            BackendError: the memory was freed.
        """
        self._require_open()
        return self._array

    @property
    def device(self) -> DeviceSpan:
        """The same memory as the device sees it. On a GPU with memory of its own every access goes
        over the bus.

        Raises:
            UsageError: the buffer was made without ``mapped``.
            BackendError: the memory was freed.
        """
        self._require_open()
        if self._device is None:
            raise UsageError("the device does not see this buffer: make it with mapped=True")
        return self._device

    def _release(self) -> None:
        self._ledger.wait()
        self._ledger.cuda.release("cudaFreeHost", self._address)


def checked_shape(
    shape: Sequence[int], dtype: npt.DTypeLike
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, dtype and size in bytes of an array with at least one element.

    Raises:
        InputError: a side is below 1, or elements are no plain numbers.
    """
    kind = np.dtype(dtype)
    sides = tuple(int(side) for side in shape)
    if any(side < 1 for side in sides) or kind.hasobject or kind.itemsize == 0:
        raise InputError(f"memory on the device cannot hold {kind} of shape {sides}")
    return sides, kind, math.prod(sides) * kind.itemsize
