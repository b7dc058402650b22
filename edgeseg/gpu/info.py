"""The CUDA devices of this machine, and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeseg.errors import BackendUnavailableError
from edgeseg.gpu._runtime import Runtime, load

__all__ = ["GpuInfo", "count", "describe", "gpus"]


@dataclass(frozen=True)
class GpuInfo:
    """What a device is, for choices and reports."""

    name: str
    """As the driver calls it, e.g. ``Orin``."""
    index: int
    compute_capability: tuple[int, int]
    """(major, minor), e.g. (8, 7)."""
    integrated: bool
    """It shares the memory of the host, as on a Jetson: mapped buffers need no copies."""
    maps_host_memory: bool
    """It can reach page-locked memory of the host."""
    total_bytes: int
    """Of its memory; on integrated devices that of the machine."""
    driver_cuda: tuple[int, int]
    """(major, minor) of the newest CUDA that the driver serves."""
    runtime_cuda: tuple[int, int]
    """(major, minor) of the CUDA that cuda-bindings hold."""


def gpus(runtime: Any | None = None) -> tuple[GpuInfo, ...]:
    """The CUDA devices of this machine, at least one.

    Args:
        runtime: to use instead of ``cuda.bindings.runtime``.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
        BackendUnavailableError: there is no driver, none that is new enough, or no device.
    """
    cuda = load(runtime)
    return tuple(describe(cuda, index) for index in range(count(cuda)))


def count(cuda: Runtime) -> int:
    """How many devices there are.

    Raises:
        BackendUnavailableError: none, or none that can be used.
    """
    found = int(cuda("cudaGetDeviceCount"))
    if found < 1:
        raise BackendUnavailableError(
            "the NVIDIA driver shows no CUDA device: look at CUDA_VISIBLE_DEVICES, or choose "
            "another backend"
        )
    return found


def describe(cuda: Runtime, index: int) -> GpuInfo:
    """What a device is.

    Raises:
        BackendError: CUDA refused.
    """
    attributes = cuda.module.cudaDeviceAttr
    wanted = (
        attributes.cudaDevAttrComputeCapabilityMajor,
        attributes.cudaDevAttrComputeCapabilityMinor,
        attributes.cudaDevAttrIntegrated,
        attributes.cudaDevAttrCanMapHostMemory,
    )
    major, minor, integrated, maps = (
        int(cuda("cudaDeviceGetAttribute", attribute, index)) for attribute in wanted
    )
    properties = cuda("cudaGetDeviceProperties", index)
    driver, runtime = cuda.versions()
    return GpuInfo(
        name=properties.name.split(b"\0")[0].decode("utf-8", "replace"),
        index=index,
        compute_capability=(major, minor),
        integrated=bool(integrated),
        maps_host_memory=bool(maps),
        total_bytes=int(properties.totalGlobalMem),
        driver_cuda=driver,
        runtime_cuda=runtime,
    )
