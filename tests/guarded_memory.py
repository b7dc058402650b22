"""Arrays that stand for ones in device memory, and notice who reads or writes beyond them."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Memory:
    """An array that stands for one in device memory.

    It ends where readable memory ends, or so close before that its start is aligned to 16 bytes;
    what lies around it must not change.
    """

    def __init__(self, values: Array, *, aligned: bool = True) -> None:
        values = np.asarray(values)
        page = mmap.PAGESIZE
        self._pages = -(-(values.nbytes + 64) // page) + 1
        self._map = mmap.mmap(-1, self._pages * page)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._protect(0)
        self._bytes[: (self._pages - 1) * page] = 0xA5
        self._begin = (self._pages - 1) * page - values.nbytes
        if aligned:
            self._begin -= self._begin % 16
        self._end = self._begin + values.nbytes
        inside = self._bytes[self._begin : self._end]
        self.array: Array = inside.view(values.dtype).reshape(values.shape)
        self.array[...] = values

    def __del__(self) -> None:
        self._protect(mmap.PROT_READ | mmap.PROT_WRITE)

    def _protect(self, rights: int) -> None:
        guard = self._bytes.ctypes.data + (self._pages - 1) * mmap.PAGESIZE
        status = ctypes.CDLL(None).mprotect(ctypes.c_void_p(guard), mmap.PAGESIZE, rights)
        assert status == 0

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return dict(self.array.__array_interface__)

    def checked(self) -> Array:
        """The array, if nothing around it was written."""
        end = (self._pages - 1) * mmap.PAGESIZE
        assert (self._bytes[: self._begin] == 0xA5).all()
        assert (self._bytes[self._end : end] == 0xA5).all()
        return self.array


class Strided:
    """A numpy array as it is, strides included."""

    def __init__(self, array: Array) -> None:
        self._array = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return dict(self._array.__array_interface__)


def unwritten(shape: tuple[int, ...], dtype: npt.DTypeLike, *, aligned: bool = True) -> Memory:
    """An output whose every element must be written: it is full of NaN, or of 0xEE."""
    filler = np.nan if np.dtype(dtype).kind == "f" else 0xEE
    return Memory(np.full(shape, filler, dtype), aligned=aligned)
