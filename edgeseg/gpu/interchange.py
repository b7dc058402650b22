"""Arrays of other CUDA libraries.

Sources: numba.readthedocs.io, "CUDA Array Interface", version 3; dmlc.github.io/dlpack, "C API" and
"Python Specification for DLPack"; data-apis.org, ``array.__dlpack__``.
"""

from __future__ import annotations

from typing import Any

from edgeseg.errors import InputError
from edgeseg.gpu._dlpack import CUDA_DEVICES, CUDA_HOST, DlpackArray
from edgeseg.gpu._runtime import Runtime, load
from edgeseg.kernels._device_array import DeviceArray, read_array

__all__ = ["as_device_array"]

_LEGACY_STREAM = 1
"""How both protocols spell the default stream, whose handle is 0."""


def as_device_array(
    value: object, stream: int, *, device: int | None = None, runtime: Any | None = None
) -> DeviceArray:
    """Take an array of another library as it lies in device memory.

    Args:
        value: anything with ``__cuda_array_interface__`` (CuPy, numba, pycuda), which is returned
            as it is, or with ``__dlpack__`` on a CUDA device (torch, JAX).
        stream: that will read it; it waits for the work that makes the array, where the library
            says what stream that is on.
        device: index of the device that will read it; None: whether it can is not checked.
        runtime: to use instead of ``cuda.bindings.runtime``.

    Returns:
        The array. Who uses it keeps it until the work on it is done; then the other library may
        have its memory back.

    Raises:
        InputError: it is no array in device memory, one of another device, or one whose layout
            cannot be told.
        BackendError: CUDA refused.
    """
    array = _from_any(value, stream, runtime)
    if device is not None:
        _check_home(array, device, load(runtime))
    return array


def _from_any(value: object, stream: int, runtime: Any | None) -> DeviceArray:
    name = type(value).__name__
    if isinstance(value, type):
        raise InputError(f"expected an array in device memory, got the class {value.__name__}")
    exchanges = hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
        said = interface if isinstance(interface, dict) else {}
        # Before version 3 the interface named no stream, and nobody could wait for it.
        if (
            said
            and isinstance(value, DeviceArray)
            and (said.get("version", 0) > 2 or not exchanges)
        ):
            _wait_for(said.get("stream"), stream, runtime)
            return value
        if exchanges:
            return _from_dlpack(value, stream)
    except (RuntimeError, BufferError) as error:  # torch: of a tensor that needs its gradient
        raise InputError(f"this {name} does not show its memory: {error}") from error
    raise InputError(
        "expected an array in device memory (__cuda_array_interface__ or DLPack), got " + name
    )


def _from_dlpack(value: Any, stream: int) -> DlpackArray:
    kind = int(value.__dlpack_device__()[0])
    if kind not in CUDA_DEVICES:
        raise InputError(
            f"this {type(value).__name__} lies on a device of DLPack type {kind}, not in memory of "
            "a CUDA device: give it as a numpy array"
        )
    # Page-locked memory of the host belongs to no stream.
    consumer = None if kind == CUDA_HOST else stream or _LEGACY_STREAM
    try:
        capsule = value.__dlpack__(stream=consumer, max_version=(1, 0))
    except TypeError:  # libraries from before DLPack 1.0
        capsule = value.__dlpack__(stream=consumer)
    return DlpackArray(capsule)


def _check_home(array: DeviceArray, device: int, cuda: Runtime) -> None:
    """Ask CUDA where the array lies: a kernel that reads elsewhere ends the process."""
    address = read_array("the array", array, None, contiguous=False).address
    kinds = cuda.module.cudaMemoryType
    place = cuda("cudaPointerGetAttributes", address)
    if place.type == kinds.cudaMemoryTypeUnregistered:
        raise InputError(
            f"the memory of this {type(array).__name__} is none that a CUDA device can reach: give "
            "it as a numpy array"
        )
    if place.type == kinds.cudaMemoryTypeDevice and place.device != device:
        raise InputError(
            f"this {type(array).__name__} lies on CUDA device {place.device}, but device {device} "
            "is to read it: copy it there first"
        )


def _wait_for(producer: object, stream: int, runtime: Any | None) -> None:
    """Let ``stream`` wait for the stream that an array interface names, if any."""
    if producer is None:
        return
    if not isinstance(producer, int) or producer == 0:
        raise InputError(f"an array interface names {producer!r} as its stream")
    if producer == (stream or _LEGACY_STREAM):
        return
    cuda = load(runtime)
    event = int(cuda("cudaEventCreateWithFlags", cuda.module.cudaEventDisableTiming))
    try:
        cuda("cudaEventRecord", event, producer)
        cuda("cudaStreamWaitEvent", stream, event, 0)
    finally:
        cuda.release("cudaEventDestroy", event)
