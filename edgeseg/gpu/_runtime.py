"""The CUDA run time, whose every answer is looked at.

``cuda.bindings.runtime`` returns a tuple from each call, the status first. ``Runtime`` is the one
place that reads it. Source: the CUDA Runtime API reference, "Error Handling" and "Data types used
by CUDA Runtime" (``cudaError_t``).
"""

from __future__ import annotations

import logging
from typing import Any

from edgeseg._optional import require
from edgeseg.errors import BackendError, BackendUnavailableError, DeviceMemoryError

__all__ = ["Runtime", "load"]

_LOG = logging.getLogger(__name__)
_MIB = 1 << 20
_NO_DRIVER = "no NVIDIA driver can be used ({}): install it, or choose another backend"
_ALLOCATIONS = ("cudaMalloc", "cudaHostAlloc")


class Runtime:
    """``cuda.bindings.runtime``, or what stands for it in tests.

    Functions are called by name, ``cuda("cudaMalloc", nbytes)``, which gives what follows the
    status: nothing, one value, or a tuple.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Call a function of the CUDA run time.

        Args:
            name: of the function.
            arguments: as the function takes them.

        Raises:
            DeviceMemoryError: an allocation failed for want of memory.
            BackendUnavailableError: there is no driver, none that is new enough, or no device.
            BackendError: CUDA refused, or work enqueued before has failed.
        """
        status, values = self._answer(name, arguments)
        if status != 0:
            raise self._error(name, arguments, status)
        return values[0] if len(values) == 1 else values or None

    def poll(self, name: str, *arguments: Any) -> bool:
        """Call a function that asks whether work is done; False where it is not yet.

        Raises:
            BackendError: as ``__call__``.
        """
        status, _ = self._answer(name, arguments)
        if status == self.module.cudaError_t.cudaErrorNotReady:
            return False
        if status != 0:
            raise self._error(name, arguments, status)
        return True

    def release(self, name: str, *arguments: Any) -> None:
        """Call a function that frees something, and log a failure instead of raising.

        Nothing can be done about it, and the error that made a caller close things, such as an
        illegal address, is also what every later call answers: it must not be hidden behind this.
        """
        try:
            self(name, *arguments)
        except BackendError as error:
            _LOG.warning("%s", error)

    def versions(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(major, minor) of the newest CUDA that the driver serves, and of this run time.

        Without a driver the first is (0, 0).
        """
        return _split(self("cudaDriverGetVersion")), _split(self("cudaRuntimeGetVersion"))

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        try:
            status, *values = getattr(self.module, name)(*arguments)
        except RuntimeError as error:
            # So do the bindings up to 12.8, which look for the driver themselves.
            raise BackendUnavailableError(_NO_DRIVER.format(error)) from error
        if status != 0:
            # The run time keeps its last error, and would tell it to whoever asks next.
            self.module.cudaGetLastError()
        return status, tuple(values)

    def _error(self, name: str, arguments: tuple[Any, ...], status: Any) -> BackendError:
        errors = self.module.cudaError_t
        text = self._text(status)
        if status == errors.cudaErrorMemoryAllocation:
            return DeviceMemoryError(
                f"{name} failed: {text}{self._memory(name, arguments)}. Close what else uses the "
                "GPU, or use a smaller model, fewer views or smaller frames"
            )
        if status == errors.cudaErrorInsufficientDriver:
            return BackendUnavailableError(self._driver_problem())
        if status in (errors.cudaErrorNoDevice, errors.cudaErrorInvalidDevice):
            return BackendUnavailableError(
                f"no such CUDA device here ({name}: {text}): look at nvidia-smi and at "
                "CUDA_VISIBLE_DEVICES, or choose another backend"
            )
        if status in (
            errors.cudaErrorInitializationError,
            errors.cudaErrorDevicesUnavailable,
            errors.cudaErrorStubLibrary,
            errors.cudaErrorSystemNotReady,
            errors.cudaErrorSystemDriverMismatch,
            errors.cudaErrorCompatNotSupportedOnDevice,
        ):
            return BackendUnavailableError(
                f"the GPU cannot be used ({name}: {text}): see whether nvidia-smi works and the "
                "driver fits the kernel, or choose another backend"
            )
        return BackendError(
            f"{name} failed: {text} (CUDA error {int(status)}). If work enqueued before caused it, "
            "CUDA_LAUNCH_BLOCKING=1 shows where; after a fault on the device the process must be "
            "started again"
        )

    def _text(self, status: Any) -> str:
        code, text = self.module.cudaGetErrorString(status)
        return text.decode("utf-8", "replace") if code == 0 else str(status)

    def _memory(self, name: str, arguments: tuple[Any, ...]) -> str:
        parts = []
        if name in _ALLOCATIONS:
            parts.append(f"{arguments[0] / _MIB:.1f} MiB were asked for")
        status, free, total = self.module.cudaMemGetInfo()
        if status == 0:
            parts.append(f"{free // _MIB} of {total // _MIB} MiB are free")
        return f" ({', '.join(parts)})" if parts else ""

    def _driver_problem(self) -> str:
        driver, runtime = self.versions()
        if driver == (0, 0):
            return _NO_DRIVER.format("the run time found none")
        return (
            f"the NVIDIA driver serves CUDA {driver[0]}.{driver[1]}, but the installed "
            f"cuda-bindings are for CUDA {runtime[0]}.{runtime[1]}: run  pip install "
            f"'cuda-bindings<{driver[0] + 1}'  or install a newer driver"
        )


def load(module: Any | None = None) -> Runtime:
    """The CUDA run time.

    Args:
        module: to use instead of ``cuda.bindings.runtime``.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
    """
    return Runtime(require("cuda.bindings.runtime", "tensorrt") if module is None else module)


def _split(version: int) -> tuple[int, int]:
    """12060 is CUDA 12.6."""
    return version // 1000, version % 1000 // 10
