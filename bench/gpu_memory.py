"""Where the CUDA kernels' checks keep their arrays: tensors of torch, or edgeseg's own buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeseg.gpu import Gpu
from edgeseg.kernels.cuda import DeviceArray, DevicePointer

__all__ = ["GpuMemory", "Memory", "TorchMemory", "stream_of"]

Array = npt.NDArray[Any]


class Memory(Protocol):
    """Arrays that a library of kernels works on, and the stream of that work."""

    @property
    def stream(self) -> int:
        """To enqueue on."""
        ...

    def put(self, array: Array) -> DeviceArray:
        """A copy there."""
        ...

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> DeviceArray:
        """Memory with anything in it, but no plausible result."""
        ...

    def get(self, array: DeviceArray) -> Array:
        """A copy here, of what the stream's work has made of it."""
        ...


@dataclass(frozen=True)
class _Tensor:
    """A contiguous tensor, also of a dtype that torch lacks, and also on the host."""

    tensor: Any
    dtype: np.dtype[Any]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        pointer = DevicePointer(self.tensor.data_ptr(), tuple(self.tensor.shape), self.dtype)
        return pointer.__cuda_array_interface__


class TorchMemory:
    """Tensors of torch; ``device`` is ``cpu`` only with a library that runs on the host."""

    def __init__(self, torch: Any, device: str = "cuda") -> None:
        self._torch = torch
        self._device = device

    @property
    def stream(self) -> int:
        """As ``Memory.stream``: torch's current one."""
        return stream_of(self._torch) if self._device != "cpu" else 0

    def put(self, array: Array) -> DeviceArray:
        """As ``Memory.put``."""
        # Older versions of torch have no uint32; the bits are the same.
        signed = array.view(np.int32) if array.dtype == np.uint32 else array
        tensor = self._torch.from_numpy(np.array(signed)).to(self._device)
        return _Tensor(tensor, array.dtype)

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> DeviceArray:
        """As ``Memory.empty``."""
        return self.put(implausible(shape, dtype))

    def get(self, array: DeviceArray) -> Array:
        """As ``Memory.get``."""
        assert isinstance(array, _Tensor)
        values: Array = array.tensor.cpu().numpy().view(array.dtype)
        return values


class GpuMemory:
    """``edgeseg.gpu``, which needs no torch."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.queue = gpu.stream()
        """The stream, which waits for no other."""

    @property
    def stream(self) -> int:
        """As ``Memory.stream``."""
        return self.queue.handle

    def put(self, array: Array) -> DeviceArray:
        """As ``Memory.put``."""
        buffer = self._gpu.empty(array.shape, array.dtype)
        self._gpu.upload(buffer, np.ascontiguousarray(array), self.queue)
        return buffer

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> DeviceArray:
        """As ``Memory.empty``: nobody has written there, so that a sanitizer sees who reads it."""
        return self._gpu.empty(shape, dtype)

    def get(self, array: DeviceArray) -> Array:
        """As ``Memory.get``."""
        interface = array.__cuda_array_interface__
        target = np.empty(interface["shape"], np.dtype(interface["typestr"]))
        self._gpu.download(target, array, self.queue)
        self.queue.synchronize()
        return target


def implausible(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Full of NaN, or of 0xEE."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.full(shape, np.nan, kind)
    count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    return np.full(count, 0xEE, np.uint8).view(kind).reshape(shape)


def stream_of(torch: Any) -> int:
    """The handle of torch's current stream."""
    return int(torch.cuda.current_stream().cuda_stream)
