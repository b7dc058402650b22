"""Why ONNX Runtime does not start or run on a GPU, in one line, with what to do next."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

from edgeseg.backends import _onnxruntime_providers as providers
from edgeseg.errors import BackendError, BackendUnavailableError, DeviceMemoryError

__all__ = ["explain", "unstarted"]

_LIBRARIES = {
    providers.CUDA: "libonnxruntime_providers_cuda.so",
    providers.TENSORRT: "libonnxruntime_providers_tensorrt.so",
}
_CUDA_FAILURE = re.compile(r"CUDA failure (\d+): ([^;]+?)\s*;")
_NO_DRIVER = frozenset({"35", "100", "802", "803", "804"})
"""cudaError: driver insufficient, no device, not ready, mismatch of driver and forward package."""
_NO_MEMORY = re.compile(
    r"CUDA failure 2:|out of memory|Failed to allocate memory|OutOfMemory", re.IGNORECASE
)


def unstarted(
    ort: Any, target: providers.Target, error: Exception | None = None
) -> BackendUnavailableError:
    """The error for a provider that did not start, with the reason and what to do."""
    reason = _missing_library(ort, target)
    if reason is None and error is not None:
        failure = _CUDA_FAILURE.search(str(error))
        reason = f"CUDA says: {failure[2]}" if failure else _gist(error)
    return BackendUnavailableError(
        f"ONNX Runtime could not start {target.provider} on {target.device}: "
        f"{reason or 'it gives no reason; see what  edgeseg doctor  says of the GPU'}"
    )


def explain(ort: Any, target: providers.Target, path: Path, error: Exception) -> BackendError:
    """What to raise for an exception of the library, which have no public base class."""
    text = str(error)
    if not target.is_cpu:
        if _NO_MEMORY.search(text):
            return DeviceMemoryError(
                f"{target.name} has not enough memory for {path.name} in ONNX Runtime: close what "
                "else uses the GPU, or take a smaller input or precision"
            )
        failure = _CUDA_FAILURE.search(text)
        if (failure and failure[1] in _NO_DRIVER) or _missing_library(ort, target) is not None:
            return unstarted(ort, target, error)
    hint = ""
    if target.is_tensorrt:
        folder = providers.engine_folder(ort, target, path)
        if any(folder.iterdir()):
            hint = f"; if it says so of a cached engine, delete {folder}"
    return BackendError(f"ONNX Runtime cannot run {path} on {target.device}: {_gist(error)}{hint}")


def _missing_library(ort: Any, target: providers.Target) -> str | None:
    """Which library the provider misses, and what installs it; None if it misses none.

    ONNX Runtime tells this to standard error alone. The dynamic linker says it again; asking it
    before ONNX Runtime did would load the provider without what it links to.
    """
    file = Path(ort.__file__).parent / "capi" / _LIBRARIES[target.provider]
    try:
        ctypes.CDLL(str(file))
    except OSError as error:
        missing, _, rest = str(error).partition(": ")
        if "cannot open shared object" not in rest or missing == str(file):
            return str(error)
        return f"{missing} is missing: {_mend(ort, missing)}"
    return None


def _mend(ort: Any, library: str) -> str:
    name, _, version = library.partition(".so.")
    if name == "libcuda":
        return "install the NVIDIA driver (in a container: docker run --gpus all)"
    if name.startswith(("libnvinfer", "libnvonnxparser")) and version.isdigit():
        cuda = str(getattr(ort, "cuda_version", "")).split(".")[0]
        package = f"tensorrt-cu{cuda}" if cuda else "tensorrt"
        return (
            f"this ONNX Runtime needs TensorRT {version}: run  pip install "
            f"'{package}>={version},<{int(version) + 1}'"
        )
    return "run  pip install 'onnxruntime-gpu[cuda,cudnn]'"


def _gist(error: Exception) -> str:
    """What a message of the library says, without its source positions and status codes."""
    text = " ".join(str(error).split())
    return re.sub(r"^.*?\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:300]
