"""``compute-sanitizer --tool TOOL python -m edgeseg.bench.gpu_sanitize``: what tools should see.

Every variant of every CUDA kernel works once on small arrays, called directly and again from a CUDA
graph, and is compared with the references. Arrays are allocations of their own and unwritten until
a kernel writes them, so that ``memcheck`` and ``initcheck`` see every byte; torch, whose allocator
would hide much of that, takes no part. TOOL is memcheck, racecheck, initcheck or synccheck.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from edgeseg.bench.gpu_checks import Check, check_home, failures
from edgeseg.bench.gpu_homes import CudaHome
from edgeseg.bench.gpu_memory import GpuMemory
from edgeseg.errors import EdgesegError
from edgeseg.gpu import Gpu, Stream
from edgeseg.kernels import cuda
from edgeseg.kernels._cuda_library import CudaLibrary, library

__all__ = ["check_device", "main"]

_NOT_ON_A_STREAM = ("edgeseg_cuda_resize_create", "edgeseg_cuda_resize_destroy")


class _Captured(CudaLibrary):
    """A library whose every work is captured in a graph of its own, which is launched at once."""

    def __init__(self, native: CudaLibrary, gpu: Gpu, stream: Stream) -> None:
        self._native = native
        self._gpu = gpu
        self._stream = stream

    def call(self, name: str, types: Sequence[Any], *arguments: Any) -> None:
        """As ``CudaLibrary.call``."""
        if name in _NOT_ON_A_STREAM:
            self._native.call(name, types, *arguments)
            return
        graph = self._gpu.capture(self._stream, lambda: self._native.call(name, types, *arguments))
        graph.launch(self._stream)


def check_device(gpu: Gpu, native: CudaLibrary) -> dict[str, list[Check]]:
    """Run every kernel on a device, ``directly`` and ``from graphs``, and compare.

    Args:
        gpu: the device; what is allocated here is freed with it.
        native: the library of kernels.

    Raises:
        BackendError: CUDA refused something.
    """
    cuda.prepare(native)
    memory = GpuMemory(gpu)
    captured = _Captured(native, gpu, memory.queue)
    return {
        "directly": check_home(CudaHome(memory, native)),
        "from graphs": check_home(CudaHome(memory, captured)),
    }


def main() -> int:
    """Check the first device, print what failed; returns the exit code."""
    console = Console(stderr=True)
    try:
        with Gpu.open() as gpu:
            checks = check_device(gpu, library())
    except EdgesegError as error:
        console.print(str(error), style="red", highlight=False)
        return error.exit_code
    wrong = 0
    for how, found in checks.items():
        for check in failures(found):
            console.print(f"{how}: {check}", style="red", highlight=False)
            wrong += 1
    console.print(f"{sum(map(len, checks.values()))} checks, {wrong} failed", highlight=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
