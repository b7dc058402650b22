"""DLPack capsules of CUDA arrays, read through ctypes.

The structures are those of ``dlpack.h``, versions 0.x (capsule ``dltensor``) and 1.x
(``dltensor_versioned``). Source: dmlc.github.io/dlpack, "C API".
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

from edgeseg.errors import InputError

__all__ = ["CUDA_DEVICES", "CUDA_HOST", "DlpackArray"]

CUDA_HOST = 3
"""Page-locked memory of the host."""
CUDA_DEVICES = (2, CUDA_HOST, 13)
"""Memory of a device, page-locked memory, managed memory."""

_MAX_RANK = 32
_READ_ONLY = 1
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}
_WIDTHS = {"i": (8, 16, 32, 64), "u": (8, 16, 32, 64), "f": (16, 32, 64), "b": (8,)}


class _Tensor(ctypes.Structure):
    """``DLTensor``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """``DLManagedTensor``."""

    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class _Versioned(ctypes.Structure):
    """``DLManagedTensorVersioned``."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_API = ctypes.pythonapi
_IS_VALID = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", _API)
)
_GET_POINTER = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _API)
)
_SET_NAME = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)(
    ("PyCapsule_SetName", _API)
)
# A capsule keeps the address of its name, so that these live as long as the process. A capsule of
# such a name frees nothing when it goes: whoever renamed it calls the deleter.
_USED = {
    b"dltensor": ctypes.create_string_buffer(b"used_dltensor"),
    b"dltensor_versioned": ctypes.create_string_buffer(b"used_dltensor_versioned"),
}
# The interpreter's lock stays held: deleters that count Python references rely on it.
_DELETER = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class DlpackArray:
    """What a capsule holds, as an array in device memory.

    The producer keeps the memory until this object goes; its deleter is then called, once.
    """

    def __init__(self, capsule: object) -> None:
        """Take over a capsule.

        Args:
            capsule: as ``__dlpack__`` gives it.

        Raises:
            InputError: it is none, was used before, or holds what CUDA kernels cannot read; the
                capsule is left as it was.
        """
        name = next((name for name in _USED if _IS_VALID(capsule, name)), None)
        if name is None:
            raise InputError("__dlpack__ gave no capsule, or one that was used before")
        address = _GET_POINTER(capsule, name)
        managed: _Managed | _Versioned
        read_only = False
        if name == b"dltensor":
            managed = _Managed.from_address(address)
        else:
            managed = _Versioned.from_address(address)
            if managed.major != 1:
                raise InputError(f"DLPack {managed.major}.{managed.minor} is not known here")
            read_only = bool(managed.flags & _READ_ONLY)
        self._interface = _interface(managed.tensor, read_only=read_only)
        _SET_NAME(capsule, ctypes.addressof(_USED[name]))
        release = weakref.finalize(self, _release, managed.deleter, address)
        # When the interpreter goes, the producer may have gone already.
        release.atexit = False

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Address, shape, dtype and strides."""
        return dict(self._interface)


def _release(deleter: int | None, address: int) -> None:
    if deleter:
        _DELETER(deleter)(address)


def _interface(tensor: _Tensor, *, read_only: bool) -> dict[str, Any]:
    if tensor.device_type not in CUDA_DEVICES:
        raise InputError(f"DLPack device type {tensor.device_type} is no memory of a CUDA device")
    kind = _KINDS.get(tensor.code)
    if kind is None or tensor.bits not in _WIDTHS[kind] or tensor.lanes != 1:
        raise InputError(
            f"DLPack elements of code {tensor.code} with {tensor.bits} bits and {tensor.lanes} "
            "lanes are no plain numbers"
        )
    dtype = np.dtype(f"{kind}{tensor.bits // 8}")
    rank = tensor.ndim
    if not 0 <= rank <= _MAX_RANK or (rank and not tensor.shape):
        raise InputError(f"a DLPack array of {rank} axes cannot be read")
    shape = tuple(tensor.shape[axis] for axis in range(rank))
    if any(side < 1 for side in shape) or not tensor.data:
        raise InputError(f"the DLPack array is empty: shape {shape}")
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in range(rank))
    return {
        "data": (tensor.data + tensor.byte_offset, read_only),
        "shape": shape,
        "typestr": dtype.str,
        "strides": strides,
        "version": 3,
    }
