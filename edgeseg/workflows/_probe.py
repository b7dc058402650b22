"""Looks into native libraries from a child process: ``python -m edgeseg.workflows._probe NAME``.

A library built for another processor or driver may kill the process that loads it. ``probe`` asks a
child, so that whoever examines a machine survives what it finds.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["ProbeError", "probe"]

_TIMEOUT_S = 60
_CUDA_NAME_BYTES = 256
_CUDA_CAPABILITY_MAJOR = 75
_CUDA_CAPABILITY_MINOR = 76


class ProbeError(Exception):
    """The child failed; the message is its last word."""


def probe(name: str) -> dict[str, Any]:
    """Run one of the functions below in a child process and return what it found.

    Raises:
        ProbeError: it raised, was killed, or did not answer in a minute.
    """
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgeseg.workflows._probe", name],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"no answer in {_TIMEOUT_S} s") from error
    except OSError as error:
        raise ProbeError(str(error)) from error
    if done.returncode < 0:
        raise ProbeError(f"loading it kills the process ({_signal_name(-done.returncode)})")
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ProbeError(words[-1])
    # Libraries may print while they load; the answer is the last line.
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _kernels() -> dict[str, Any]:
    from edgeseg.kernels import library_info

    info = library_info()
    return {"isa": info.isa, "available": list(info.available), "path": str(info.path)}


def _cuda_kernels() -> dict[str, Any]:
    from edgeseg.kernels import cuda

    info = cuda.library_info()
    return {
        "architectures": list(info.architectures),
        "path": str(info.path),
        "unavailable": cuda.unavailable_reason(),
    }


def _openvino() -> dict[str, Any]:
    from edgeseg._optional import require

    openvino = require("openvino")
    core = openvino.Core()
    names = {name: _device_name(core, name) for name in core.available_devices}
    return {"version": openvino.__version__.split("-")[0], "devices": names}


def _device_name(core: Any, device: str) -> str:
    return str(core.get_property(device, "FULL_DEVICE_NAME")).strip()


def _onnxruntime() -> dict[str, Any]:
    import onnxruntime

    providers = list(onnxruntime.get_available_providers())
    return {"version": onnxruntime.__version__, "providers": providers}


def _opencv() -> dict[str, Any]:
    import cv2

    return {"version": cv2.__version__}


def _av() -> dict[str, Any]:
    import av

    return {"version": av.__version__, "h264": "libx264" in av.codecs_available}


def _tensorrt() -> dict[str, Any]:
    import tensorrt

    from edgeseg.backends._tensorrt.library import check_version
    from edgeseg.errors import BackendUnavailableError

    version, refused = str(tensorrt.__version__), None
    try:
        check_version(version)
    except BackendUnavailableError as error:
        refused = str(error)
    return {"version": version, "refused": refused}


def _cuda() -> dict[str, Any]:
    """Driver API version and devices, through ``libcuda`` alone."""
    cuda = ctypes.CDLL("libcuda.so.1")
    _cuda_check(cuda.cuInit(0), "cuInit")
    version, count = ctypes.c_int(), ctypes.c_int()
    _cuda_check(cuda.cuDriverGetVersion(ctypes.byref(version)), "cuDriverGetVersion")
    _cuda_check(cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    devices = []
    for ordinal in range(count.value):
        device = ctypes.c_int()
        _cuda_check(cuda.cuDeviceGet(ctypes.byref(device), ordinal), "cuDeviceGet")
        name = ctypes.create_string_buffer(_CUDA_NAME_BYTES)
        _cuda_check(cuda.cuDeviceGetName(name, _CUDA_NAME_BYTES, device), "cuDeviceGetName")
        capability = [ctypes.c_int(), ctypes.c_int()]
        for value, attribute in zip(
            capability, (_CUDA_CAPABILITY_MAJOR, _CUDA_CAPABILITY_MINOR), strict=True
        ):
            status = cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            _cuda_check(status, "cuDeviceGetAttribute")
        devices.append(
            {
                "name": name.value.decode(errors="replace"),
                "capability": ".".join(str(value.value) for value in capability),
            }
        )
    major, minor = version.value // 1000, version.value % 1000 // 10
    return {"version": f"{major}.{minor}", "devices": devices}


def _cuda_check(status: int, call: str) -> None:
    if status != 0:
        raise OSError(f"{call} failed with CUDA error {status}")


_PROBES = {
    "av": _av,
    "cuda": _cuda,
    "cuda_kernels": _cuda_kernels,
    "kernels": _kernels,
    "onnxruntime": _onnxruntime,
    "opencv": _opencv,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(_PROBES[sys.argv[1]]()) + "\n")
