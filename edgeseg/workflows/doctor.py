"""``doctor``: what this machine offers, what is missing, and the command that mends it."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edgeseg import __version__, _linux
from edgeseg._machine import cpu_name
from edgeseg.workflows import _doctor_live, _doctor_nvidia
from edgeseg.workflows._findings import Finding, absent, output_of, package_version
from edgeseg.workflows._probe import ProbeError, probe

__all__ = ["Finding", "doctor"]

_INT8_FEATURES = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
_ONNXRUNTIME_WHEELS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
)
_OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 10), (3, 12)
_LITTLE_MEMORY_BYTES = 2 << 30


def doctor() -> list[Finding]:
    """Examine this machine. It never raises: what cannot be examined becomes a finding.

    Native libraries are loaded in child processes, since one built for another processor would take
    this process with it; torch is only looked up, not imported.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("edgeseg", _edgeseg),
        ("Python", _python),
        ("CPU", _cpu),
        ("CPU cores", _cores),
        ("memory", _memory),
        ("native kernels", _kernels),
        ("OpenVINO", _openvino),
        ("ONNX Runtime", _onnxruntime),
        ("OpenCV", _opencv),
        ("PyAV", _av),
        ("export", _export),
        ("ModelOpt", _modelopt),
        ("volumes", _volumes),
        *_doctor_live.checks(),
        *_doctor_nvidia.checks(),
        ("C++ compiler", _compiler),
    ]
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(lambda check: _survive(*check), checks))


def _survive(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:
        return Finding(name, "warning", f"cannot be examined: {type(error).__name__}: {error}")


def _edgeseg() -> Finding:
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return Finding("edgeseg", "ok", f"{__version__} on {system}")


def _python() -> Finding:
    version = sys.version_info[:2]
    detail = f"{platform.python_version()} ({sys.executable})"
    if _OLDEST_PYTHON <= version <= _NEWEST_PYTHON:
        return Finding("Python", "ok", detail)
    return Finding(
        "Python",
        "warning",
        f"{detail}: edgeseg is tested on 3.10 to 3.12",
        "python3.12 -m venv .venv && .venv/bin/pip install edgeseg",
    )


def _cpu() -> Finding:
    flags = _linux.cpu_features()
    offered = [words for flag, words in _linux.FEATURES.items() if flag in flags]
    detail = f"{cpu_name()}: {', '.join(offered) or 'no feature that matters here'}"
    if flags & _INT8_FEATURES:
        return Finding("CPU", "ok", detail)
    return Finding(
        "CPU",
        "warning",
        f"{detail}; no INT8 dot products, so INT8 engines gain little here",
        "a processor with AVX-VNNI, AVX-512 VNNI or AMX, or Arm's dot product",
    )


def _cores() -> Finding:
    cores, quota = _linux.usable_cores(), _linux.cpu_quota()
    if quota is None or quota >= cores:
        return Finding("CPU cores", "ok", f"{cores} usable")
    threads = max(1, int(quota))
    return Finding(
        "CPU cores",
        "warning",
        f"{cores} visible, but the control group grants the time of {quota:g}: engines would start "
        "too many threads",
        f"pass --threads {threads}",
    )


def _memory() -> Finding:
    found, limit = _linux.available_memory_bytes(), _linux.memory_limit_bytes()
    if found is None:
        return Finding("memory", "warning", "the system does not say")
    total, available = found
    detail = f"{_gigabytes(available)} of {_gigabytes(total)} available"
    usable = available
    if limit is not None and limit < total:
        detail += f", the control group grants {_gigabytes(limit)}"
        usable = min(available, limit)
    if usable >= _LITTLE_MEMORY_BYTES:
        return Finding("memory", "ok", detail)
    return Finding("memory", "warning", detail, "free at least 2 GB for building a bundle")


def _gigabytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"


def _kernels() -> Finding:
    try:
        found = probe("kernels")
    except ProbeError as error:
        return Finding(
            "native kernels",
            "missing",
            str(error),
            "pip install --force-reinstall --no-deps edgeseg  (in a checkout: pip install -e .)",
        )
    others = ", ".join(found["available"])
    return Finding("native kernels", "ok", f"{found['isa']} in use, of {others}; {found['path']}")


def _openvino() -> Finding:
    if package_version("openvino") is None:
        return absent("OpenVINO", "pip install 'openvino>=2024.4'")
    found = _ask("openvino", "pip install --force-reinstall openvino")
    if isinstance(found, Finding):
        return _named(found, "OpenVINO")
    devices: dict[str, str] = found["devices"]
    detail = f"{found['version']}: " + "; ".join(f"{k} ({v})" for k, v in devices.items())
    graphics = _linux.intel_render_devices()
    if graphics and not any(device.startswith("GPU") for device in devices):
        return Finding(
            "OpenVINO",
            "warning",
            f"{detail}; Intel graphics {', '.join(graphics)} cannot be used yet",
            "sudo apt-get install intel-opencl-icd && sudo usermod -aG render $USER",
        )
    return Finding("OpenVINO", "ok", detail)


def _onnxruntime() -> Finding:
    wheels = _installed(_ONNXRUNTIME_WHEELS)
    if len(wheels) > 1:
        return Finding(
            "ONNX Runtime",
            "warning",
            f"{' and '.join(wheels)} are both installed and overwrite each other's files",
            f"pip uninstall -y {' '.join(wheels)} && pip install 'edgeseg[onnxruntime]'",
        )
    if not wheels:
        return absent("ONNX Runtime", "pip install 'edgeseg[onnxruntime]'")
    found = _ask("onnxruntime", f"pip install --force-reinstall {wheels[0]}")
    if isinstance(found, Finding):
        return _named(found, "ONNX Runtime")
    providers = [name.removesuffix("ExecutionProvider") for name in found["providers"]]
    detail = f"{found['version']} ({wheels[0]}): {', '.join(providers)}"
    return Finding("ONNX Runtime", "ok", detail)


def _opencv() -> Finding:
    wheels = _installed(_OPENCV_WHEELS)
    if len(wheels) > 1:
        return Finding(
            "OpenCV",
            "warning",
            f"{' and '.join(wheels)} are installed together and overwrite each other's files",
            f"pip uninstall -y {' '.join(wheels)} && pip install opencv-python-headless",
        )
    found = _ask("opencv", "pip install --force-reinstall opencv-python-headless")
    if isinstance(found, Finding):
        return _named(found, "OpenCV")
    return Finding("OpenCV", "ok", str(found["version"]))


def _av() -> Finding:
    if package_version("av") is None:
        return absent("PyAV", "pip install 'av>=17'")
    found = _ask("av", "pip install --force-reinstall av")
    if isinstance(found, Finding):
        return _named(found, "PyAV")
    if not found["h264"]:
        return Finding(
            "PyAV",
            "missing",
            f"{found['version']} without libx264: no H.264 video can be written",
            "pip install --force-reinstall --only-binary av av",
        )
    return Finding("PyAV", "ok", f"{found['version']} with libx264")


def _export() -> Finding:
    needed = ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript")
    return _packages("export", needed, "pip install 'edgeseg[export]'", "to build from checkpoints")


def _modelopt() -> Finding:
    return _packages(
        "ModelOpt",
        ("nvidia-modelopt", "onnx-graphsurgeon", "onnxslim", "polygraphy"),
        "pip install 'edgeseg[modelopt]'",
        "for --quantizer modelopt",
    )


def _volumes() -> Finding:
    return _packages("volumes", ("nibabel",), "pip install 'edgeseg[volumes]'", "for NIfTI volumes")


def _packages(name: str, needed: Iterable[str], mend: str, purpose: str) -> Finding:
    versions = {package: package_version(package) for package in needed}
    lacking = [package for package, version in versions.items() if version is None]
    if lacking:
        return Finding(name, "missing", f"{', '.join(lacking)}: needed {purpose}", mend)
    return Finding(name, "ok", ", ".join(f"{k} {v}" for k, v in versions.items()))


def _compiler() -> Finding:
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        return Finding(
            "C++ compiler",
            "missing",
            "only needed to install edgeseg from source",
            "sudo apt-get install g++",
        )
    first = output_of(compiler, "--version").splitlines()[:1]
    return Finding("C++ compiler", "ok", " ".join([compiler, *first]))


def _ask(name: str, mend: str) -> dict[str, Any] | Finding:
    try:
        return probe(name)
    except ProbeError as error:
        return Finding(name, "missing", f"it does not load: {error}", mend)


def _named(finding: Finding, name: str) -> Finding:
    return Finding(name, finding.status, finding.detail, finding.mend)


def _installed(packages: Iterable[str]) -> list[str]:
    return [package for package in packages if package_version(package) is not None]
