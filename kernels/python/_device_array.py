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
from edgeseg.kernels._library import MAX_SIDE_PX, Frame

__all__ = [
    "Block",
    "DeviceArray",
    "DevicePointer",
    "describe_frame",
    "read_array",
    "target_address",
]


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
    dtypes: Sequence[npt.DTypeLike] | None,
    *,
    contiguous: bool = True,
    writeable: bool = False,
) -> Block:
    """Read and check what ``array`` says about itself.

    Args:
        name: of the argument, for messages.
        array: anything with ``__cuda_array_interface__``.
        dtypes: those that are accepted; None for any.
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
    allowed = [dtype] if dtypes is None else [np.dtype(kind) for kind in dtypes]
    if dtype not in allowed:
        raise InputError(f"{name} must be {' or '.join(map(str, allowed))}, got {dtype}")
    if not address or 0 in shape:
        raise InputError(f"{name} is empty: shape {shape}")
    if address % dtype.alignment != 0:
        raise InputError(
            f"{name} must begin at a multiple of {dtype.alignment} bytes, as {dtype} is read, got "
            f"the address {address:#x}"
        )
    packed = _packed_strides(shape, dtype.itemsize)
    found = packed if strides is None else tuple(int(stride) for stride in strides)
    if len(found) != len(shape):
        raise InputError(f"{name} has strides {found} for shape {shape}")
    if contiguous and any(
        side > 1 and stride != wanted
        for side, stride, wanted in zip(shape, found, packed, strict=True)
    ):
        raise InputError(f"{name} must be C-contiguous, got strides {found} for shape {shape}")
    if writeable and read_only:
        raise InputError(f"{name} is read-only")
    return Block(int(address), shape, dtype, found)


def describe_frame(block: Block) -> Frame:
    """``edgeseg_frame`` or ``edgeseg_canvas``, which have the same fields.

    Raises:
        InputError: the block has not the shape (H, W, 3), or gaps within its rows.
    """
    if len(block.shape) != 3 or block.shape[2] != 3 or max(block.shape[:2]) > MAX_SIDE_PX:
        raise InputError(
            f"a frame has the shape (H, W, 3), sides up to {MAX_SIDE_PX}, got {block.shape}"
        )
    height, width = block.shape[:2]
    if block.strides[2] != 1 or (width > 1 and block.strides[1] != 3):
        raise InputError(f"pixels of a frame must follow each other, got strides {block.strides}")
    return Frame(block.address, block.strides[0], width, height)


def target_address(
    name: str, array: DeviceArray | None, dtype: npt.DTypeLike, shapes: Sequence[tuple[int, ...]]
) -> int | None:
    """Address of an array that is written; None where there is none.

    Raises:
        InputError: it has none of ``shapes``, or is not as ``read_array`` wants it.
    """
    if array is None:
        return None
    block = read_array(name, array, (dtype,), writeable=True)
    if block.shape not in shapes:
        raise InputError(
            f"{name} must have the shape {' or '.join(map(str, shapes))}, got {block.shape}"
        )
    return block.address


def _packed_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = []
    for side in reversed(shape):
        strides.append(itemsize)
        itemsize *= side
    return tuple(reversed(strides))
