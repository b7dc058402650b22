"""Arrays in device memory, as far as the CUDA kernels need to know them.

Anything with ``__cuda_array_interface__`` qualifies: tensors of torch, arrays of cupy and numba.
Source: numba.readthedocs.io, "CUDA Array Interface", version 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError

__all__ = ["Block", "DeviceArray", "DevicePointer", "read_array"]


@runtime_checkable
class DeviceArray(Protocol):
    """An array in device memory."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Address, shape, dtype and strides."""
        ...


@dataclass(frozen=True)
class DevicePointer:
    """A bare address, with what an array would say about itself; the memory is not kept alive."""

    address: int
    shape: tuple[int, ...]
    dtype: npt.DTypeLike

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """A contiguous array that may be written."""
        return {
            "data": (self.address, False),
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "strides": None,
            "version": 3,
        }


@dataclass(frozen=True)
class Block:
    """What was read from an array's interface."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    """In bytes."""

    @property
    def nbytes(self) -> int:
        """Size of the elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def read_array(
    name: str,
    array: DeviceArray,
    dtypes: Sequence[npt.DTypeLike],
    *,
    contiguous: bool = True,
    writeable: bool = False,
) -> Block:
    """Read and check what ``array`` says about itself.

    Args:
        name: of the argument, for messages.
        array: anything with ``__cuda_array_interface__``.
        dtypes: those that are accepted.
        contiguous: refuse what is not C-contiguous.
        writeable: refuse what is read-only.

    Raises:
        InputError: it is no such array, empty, or of another dtype or layout.
    """
    try:
        interface = array.__cuda_array_interface__
        address, read_only = interface["data"]
        shape = tuple(int(side) for side in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        strides = interface.get("strides")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{name} must be an array in device memory (__cuda_array_interface__), got "
            f"{type(array).__name__} ({error})"
        ) from error
    allowed = [np.dtype(kind) for kind in dtypes]
    if dtype not in allowed:
        raise InputError(f"{name} must be {' or '.join(map(str, allowed))}, got {dtype}")
    if not address or 0 in shape:
        raise InputError(f"{name} is empty: shape {shape}")
    packed = _packed_strides(shape, dtype.itemsize)
    found = packed if strides is None else tuple(int(stride) for stride in strides)
    if contiguous and any(
        side > 1 and stride != wanted
        for side, stride, wanted in zip(shape, found, packed, strict=True)
    ):
        raise InputError(f"{name} must be C-contiguous, got strides {found} for shape {shape}")
    if writeable and read_only:
        raise InputError(f"{name} is read-only")
    return Block(int(address), shape, dtype, found)


def _packed_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = []
    for side in reversed(shape):
        strides.append(itemsize)
        itemsize *= side
    return tuple(reversed(strides))
