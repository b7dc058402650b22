"""Arrays of other CUDA libraries.

Sources: numba.readthedocs.io, "CUDA Array Interface", version 3; dmlc.github.io/dlpack, "C API" and
"Python Specification for DLPack"; data-apis.org, ``array.__dlpack__``.
"""

from __future__ import annotations

from typing import Any

from edgeseg.errors import InputError
from edgeseg.gpu._dlpack import CUDA_DEVICES, CUDA_HOST, DlpackArray
from edgeseg.gpu._runtime import load
from edgeseg.kernels._device_array import DeviceArray

__all__ = ["as_device_array"]

_LEGACY_STREAM = 1
"""How both protocols spell the default stream, whose handle is 0."""


def as_device_array(value: object, stream: int, *, runtime: Any | None = None) -> DeviceArray:
    """Take an array of another library as it lies in device memory.

    Args:
        value: anything with ``__cuda_array_interface__`` (CuPy, numba, pycuda, torch), which is
            returned as it is, or with ``__dlpack__`` on a CUDA device.
        stream: that will read it; it waits for the work that makes the array, where the library
            says what stream that is on.
        runtime: to use instead of ``cuda.bindings.runtime``.

    Returns:
        The array. Who uses it keeps it until the work on it is done; then the other library may
        have its memory back.

    Raises:
        InputError: it is no array in device memory, or one whose layout cannot be told.
        BackendError: CUDA refused.
    """
    if isinstance(value, type):
        raise InputError(f"expected an array in device memory, got the class {value.__name__}")
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except RuntimeError as error:  # torch: of a tensor that needs a gradient
        raise InputError(f"{type(value).__name__} does not show its memory: {error}") from error
    if isinstance(interface, dict) and isinstance(value, DeviceArray):
        _wait_for(interface.get("stream"), stream, runtime)
        return value
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        raise InputError(
            "expected an array in device memory (__cuda_array_interface__ or DLPack), got "
            f"{type(value).__name__}"
        )
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
