"""Finds and loads ``libedgeseg_cuda`` through ctypes.

The C interface is ``kernels/cuda/edgeseg_cuda.h``. The library holds the CUDA run time itself and
needs the driver alone, which it looks for when it is first called; loading it needs neither.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeseg
from edgeseg.errors import (
    BackendError,
    BackendUnavailableError,
    DeviceMemoryError,
    InputError,
    NativeLibraryError,
)

__all__ = ["CudaLibrary", "CudaLibraryInfo", "find_library", "library", "load_library"]

_NAME = "libedgeseg_cuda.so"
_REBUILD = "pip install . -C cmake.define.EDGESEG_CUDA=ON  (in a checkout of edgeseg, with nvcc)"
_INVALID_ARGUMENT = 1
_OUT_OF_MEMORY = 2
_CUDA_ERROR = 1000


@dataclass(frozen=True)
class CudaLibraryInfo:
    """What was loaded, for reports."""

    path: Path
    version: str
    architectures: tuple[str, ...]
    """As CMake names them: ``87-real`` is machine code, ``87-virtual`` is PTX; or ``native``."""


class CudaLibrary:
    """A loaded library."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._functions = _open(path)
        self.version = str(self._functions.edgeseg_cuda_version().decode("ascii"))
        if self.version != edgeseg.__version__:
            raise NativeLibraryError(
                f"{path} was built for edgeseg {self.version}, but this is edgeseg "
                f"{edgeseg.__version__}: run  {_REBUILD}"
            )
        self._has_device = False

    def info(self) -> CudaLibraryInfo:
        """What this library is."""
        names = self._functions.edgeseg_cuda_architectures().decode("ascii")
        return CudaLibraryInfo(self.path, self.version, tuple(names.split()))

    def require_device(self) -> None:
        """Make sure that there is a CUDA device; asks once.

        Raises:
            BackendUnavailableError: there is none, or no driver for it.
        """
        if self._has_device:
            return
        count = ctypes.c_int(0)
        status = self._functions.edgeseg_cuda_device_count(ctypes.byref(count))
        if status != 0 or count.value < 1:
            reason = self.error_text(status) if status != 0 else "the driver reports none"
            raise BackendUnavailableError(
                f"no CUDA device can be used here ({reason}): run on a machine with an NVIDIA GPU "
                "and its driver, or use the kernels of edgeseg.kernels, which need none"
            )
        self._has_device = True

    def error_text(self, status: int) -> str:
        """What a status means, in words."""
        return str(self._functions.edgeseg_cuda_error(status).decode("utf-8", "replace"))

    def call(self, name: str, types: Sequence[Any], *arguments: Any) -> None:
        """Call a function that returns a status.

        Args:
            name: of the function.
            types: ctypes types of its arguments.
            arguments: as ``types``.

        Raises:
            BackendUnavailableError: there is no CUDA device.
            BackendError: CUDA refused the work.
            InputError: the library refused the arguments.
            DeviceMemoryError: there is not enough memory.
        """
        self.require_device()
        function = getattr(self._functions, name)
        if function.argtypes is None:
            function.argtypes = list(types)
        status = function(*arguments)
        if status == 0:
            return
        text = self.error_text(status)
        if status == _INVALID_ARGUMENT:
            raise InputError(f"{name} refused its arguments: {text}")
        if status == _OUT_OF_MEMORY:
            raise DeviceMemoryError(
                f"{name}: not enough memory on the device: close what else uses it, or work on "
                "smaller or fewer pictures"
            )
        raise BackendError(
            f"{name} failed: {text} (CUDA error {status - _CUDA_ERROR}). The device of the arrays "
            "and of the stream must be the current one, and the library must hold code for it "
            f"({', '.join(self.info().architectures)})"
        )


@functools.lru_cache(maxsize=1)
def library() -> CudaLibrary:
    """The library of this installation, loaded on the first call.

    Raises:
        NativeLibraryError: it is missing, of another version, or cannot be loaded.
    """
    return load_library(find_library())


def load_library(path: Path) -> CudaLibrary:
    """Load the library at ``path``.

    Raises:
        NativeLibraryError: it is of another version, or cannot be loaded.
    """
    return CudaLibrary(path)


def find_library(folders: Sequence[str] | None = None) -> Path:
    """The library file in ``_native`` beneath one of ``folders`` (default: the package's).

    Raises:
        NativeLibraryError: there is none; it is built where nvcc is found.
    """
    candidates = [Path(folder) / "_native" / _NAME for folder in folders or edgeseg.__path__]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise NativeLibraryError(
        "this installation of edgeseg has no CUDA kernels (looked for "
        f"{', '.join(str(candidate) for candidate in candidates)}): run  {_REBUILD}"
    )


def _open(path: Path) -> ctypes.CDLL:
    try:
        functions = ctypes.CDLL(str(path))
        for name in ("edgeseg_cuda_version", "edgeseg_cuda_architectures", "edgeseg_cuda_error"):
            getattr(functions, name).restype = ctypes.c_char_p
        functions.edgeseg_cuda_error.argtypes = [ctypes.c_int]
        functions.edgeseg_cuda_device_count.argtypes = [ctypes.POINTER(ctypes.c_int)]
        for name in (
            "edgeseg_cuda_prepare",
            "edgeseg_cuda_fuse_views",
            "edgeseg_cuda_smooth_z",
            "edgeseg_cuda_blend_overlay",
            "edgeseg_cuda_decide_mask",
            "edgeseg_cuda_resize_create",
            "edgeseg_cuda_resize_destroy",
            "edgeseg_cuda_resize_run",
        ):
            getattr(functions, name)
    except (OSError, AttributeError) as error:
        raise NativeLibraryError(f"{path} cannot be loaded ({error}): run  {_REBUILD}") from error
    return functions
