"""``doctor`` on NVIDIA devices: driver, TensorRT, CUDA and what is built on them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from edgeseg._cache import cache_root
from edgeseg._jetson import is_jetson
from edgeseg.workflows import _doctor_jetson
from edgeseg.workflows._findings import Finding, absent, output_of, package_version
from edgeseg.workflows._probe import ProbeError, probe

__all__ = ["checks"]

_NO_GPU = "needs an NVIDIA GPU, and this machine shows none"
_OLDEST_BINDINGS = (12, 6)
# The newest wheels of either are made for CUDA 13.
_BINDINGS_FOR_CUDA_12 = "pip install 'cuda-bindings>=12.8,<13'"
_TENSORRT_FOR_CUDA_12 = "pip install 'tensorrt-cu12<11' 'cuda-bindings>=12.8,<13'"


def checks() -> list[tuple[str, Callable[[], Finding]]]:
    """The checks in their order; those of a Jetson only on one."""
    return [
        *_doctor_jetson.checks(),
        ("NVIDIA GPU", _cuda),
        ("TensorRT", _tensorrt),
        ("cuda-bindings", _bindings),
        ("plan cache", _plan_cache),
        ("CUDA kernels", _cuda_kernels),
        ("CUDA compiler", _nvcc),
        ("Triton", _triton),
    ]


def _cuda() -> Finding:
    try:
        found = probe("cuda")
    except ProbeError as error:
        if not _has_nvidia_hardware():
            return Finding("NVIDIA GPU", "missing", "none found", "only needed for TensorRT")
        return Finding(
            "NVIDIA GPU",
            "missing",
            f"there is one, but its driver does not answer: {error}",
            _driver_mend(),
        )
    devices = [f"{d['name']} (compute capability {d['capability']})" for d in found["devices"]]
    detail = f"driver for CUDA {found['version']}: {', '.join(devices) or 'no device visible'}"
    if devices:
        return Finding("NVIDIA GPU", "ok", detail)
    return Finding("NVIDIA GPU", "missing", detail, "unset CUDA_VISIBLE_DEVICES")


def _driver_mend() -> str:
    if is_jetson():
        return "in a container: docker run --runtime nvidia; else install JetPack again"
    return "sudo apt-get install nvidia-driver  (in a container: docker run --gpus all)"


def _has_nvidia_hardware() -> bool:
    nvidia = "0x10de"
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return is_jetson() or any(path.read_text().strip() == nvidia for path in vendors)


def _tensorrt() -> Finding:
    driver = _driver_cuda()
    mend = "pip install 'edgeseg[tensorrt]'"
    if is_jetson():
        # Wheels of the package index are built for servers.
        mend = "sudo apt-get install python3-libnvinfer, then a venv with --system-site-packages"
    elif driver is not None and driver[0] == 12:
        mend = _TENSORRT_FOR_CUDA_12
    try:
        found = probe("tensorrt")
    except ProbeError as error:
        if "No module named 'tensorrt'" not in str(error):
            return Finding("TensorRT", "warning", str(error), mend)
        if not _has_nvidia_hardware():
            return Finding("TensorRT", "missing", _NO_GPU, f"on a machine that has one: {mend}")
        return absent("TensorRT", mend)
    if found["refused"] is not None:
        other = "install JetPack 6.1 or later: docs/jetson.md" if is_jetson() else mend
        return Finding("TensorRT", "warning", str(found["refused"]), other)
    return Finding("TensorRT", "ok", str(found["version"]))


def _bindings() -> Finding:
    name, version, driver = "cuda-bindings", package_version("cuda-bindings"), _driver_cuda()
    mend = _BINDINGS_FOR_CUDA_12 if driver and driver[0] == 12 else "pip install cuda-bindings"
    if version is None:
        if driver is None and not _has_nvidia_hardware():
            return Finding(name, "missing", _NO_GPU, f"on a machine that has one: {mend}")
        return absent(name, mend)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST_BINDINGS:
        return Finding(name, "warning", f"{version} is older than 12.6", mend)
    if driver is None:
        return Finding(name, "ok", f"{version}; no driver answers that could be compared")
    served = ".".join(map(str, driver))
    if numbers[0] > driver[0]:
        return Finding(
            name,
            "warning",
            f"{version} needs a driver for CUDA {numbers[0]}, and this one serves CUDA {served}",
            _BINDINGS_FOR_CUDA_12 if driver[0] == 12 else "a driver for CUDA 12.6 or later",
        )
    return Finding(name, "ok", f"{version}, driver for CUDA {served}")


def _driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver serves, or None where no driver answers."""
    try:
        major, minor = str(probe("cuda")["version"]).split(".")
    except ProbeError:
        return None
    return int(major), int(minor)


def _plan_cache() -> Finding:
    root = cache_root()
    mend = "export EDGESEG_CACHE=FOLDER  to a folder that can be written"
    beginning = next(folder for folder in (root, *root.parents) if folder.exists())
    if not (beginning.is_dir() and os.access(beginning, os.W_OK | os.X_OK)):
        return Finding("plan cache", "warning", f"{root} cannot be written to", mend)
    files = [path.lstat() for path in root.rglob("*") if path.is_file()]
    if not files:
        return Finding("plan cache", "ok", f"{root}: empty")
    size = sum(file.st_size for file in files) / 2**20
    return Finding("plan cache", "ok", f"{root}: {len(files)} files, {size:.1f} MiB")


def _cuda_kernels() -> Finding:
    try:
        found = probe("cuda_kernels")
    except ProbeError as error:
        return Finding(
            "CUDA kernels",
            "missing",
            str(error),
            "only for device memory: pip install . -C cmake.define.EDGESEG_CUDA=ON  in a checkout",
        )
    built = f"for {', '.join(found['architectures'])}; {found['path']}"
    if found["unavailable"] is not None:
        return Finding("CUDA kernels", "missing", f"built {built}; {found['unavailable']}", _NO_GPU)
    return Finding("CUDA kernels", "ok", built)


def _nvcc() -> Finding:
    compiler = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if compiler is None:
        package = "nvidia-cuda-dev" if is_jetson() else "nvidia-cuda-toolkit"
        return Finding(
            "CUDA compiler",
            "missing",
            "nvcc is not installed; only needed to compile the CUDA kernels",
            f"sudo apt-get install {package}",
        )
    release = re.search(r"release ([\d.]+)", output_of(compiler, "--version"))
    return Finding("CUDA compiler", "ok", f"{compiler} {release[1] if release else ''}".strip())


def _triton() -> Finding:
    version = package_version("triton")
    if version is None:
        return Finding(
            "Triton",
            "missing",
            "only needed for kernels inside PyTorch",
            "pip install triton",
        )
    return Finding("Triton", "ok", version)
