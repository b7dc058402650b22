"""Inference libraries behind one seam: choose one, open an ONNX file (or a plan) with it.

Adding a backend: a module with a subclass of ``Engine``, ``version`` and ``available_devices``, and
its line in ``_BACKENDS``.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from edgeseg.backends.base import Engine, EngineInfo, EngineOptions, Hint
from edgeseg.errors import BackendUnavailableError, UsageError
from edgeseg.spec import BACKENDS, BackendName

__all__ = [
    "BackendChoice",
    "Engine",
    "EngineInfo",
    "EngineOptions",
    "Hint",
    "available_backends",
    "backend_version",
    "choose_backend",
    "open_engine",
    "resolve_device",
]

_log = logging.getLogger(__name__)

_BACKENDS: dict[str, tuple[str, str]] = {
    "openvino": ("edgeseg.backends._openvino", "OpenVinoEngine"),
    "onnxruntime": ("edgeseg.backends._onnxruntime", "OnnxRuntimeEngine"),
    "tensorrt": ("edgeseg.backends._tensorrt", "TensorRtEngine"),
}
_READS_ONNX: tuple[BackendName, ...] = ("openvino", "onnxruntime")
"""TensorRT is not among them: it runs plans, which are compiled beforehand."""


@dataclass(frozen=True)
class BackendChoice:
    """The library that will serve, and the reason in one sentence."""

    name: BackendName
    why: str
    device: str = "CPU"
    """As the library calls it."""


def available_backends() -> tuple[BackendName, ...]:
    """Backends that run a bundle's ONNX files and whose library is installed, the preferred first.

    TensorRT is never among them, since it runs what was compiled from them.
    """
    return tuple(name for name in _READS_ONNX if importlib.util.find_spec(name) is not None)


def backend_version(name: BackendName) -> str:
    """The version of a backend's library.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return str(_load(_BACKENDS[name][0]).version())


def resolve_device(backend: str, device: str) -> str:
    """The device as libraries spell it; ``auto`` is the GPU for TensorRT, the CPU for others."""
    device = device.upper()
    if device != "AUTO":
        return device
    return "GPU" if backend == "tensorrt" else "CPU"


def choose_backend(
    requested: str,
    device: str,
    served: Sequence[str],
    variant: str = "this variant",
    *,
    has_plan: bool = False,
) -> BackendChoice:
    """Settle on a backend for a file that ``served`` backends can run.

    Args:
        requested: a backend's name, or ``auto``.
        device: ``CPU``, ``GPU``, ``NPU``, a name such as ``GPU.1``, or ``auto``: the GPU for
            TensorRT, the CPU for the others.
        served: what the file was written for.
        variant: its name, for messages.
        has_plan: whether TensorRT has a plan for this machine; ``auto`` then prefers it, except on
            a named device that is no GPU.

    Raises:
        UsageError: an unknown name.
        BackendUnavailableError: the named backend cannot serve; nothing else is tried for it. With
            ``auto``: none can.
    """
    installed = available_backends()
    if requested == "auto":
        gpu = resolve_device("tensorrt", device)
        if has_plan and "tensorrt" in served and gpu.startswith("GPU"):
            why = f"auto chose tensorrt on {gpu}: a plan was compiled and accepted on it"
            _log.info(why)
            return BackendChoice("tensorrt", why, gpu)
        return _choose(resolve_device(requested, device), served, installed, variant)
    name = next((known for known in BACKENDS if known == requested), None)
    if name is None:
        raise UsageError(f"unknown backend {requested!r}: choose auto, {', '.join(_BACKENDS)}")
    if name in _READS_ONNX and name not in installed:
        raise BackendUnavailableError(
            f"backend {requested!r} is not installed: run  pip install 'edgeseg[{requested}]'"
        )
    if requested not in served:
        raise BackendUnavailableError(
            f"{variant} is written for {', '.join(served)}, not for {requested}"
        )
    return BackendChoice(name, "as requested", resolve_device(name, device))


def _choose(
    device: str, served: Sequence[str], installed: Sequence[BackendName], variant: str
) -> BackendChoice:
    """The first installed backend that serves the file and has the device."""
    able = [name for name in installed if name in served]
    if not able:
        raise BackendUnavailableError(
            f"no installed backend runs {variant}: it serves {', '.join(served)}, and "
            f"{', '.join(installed) or 'none'} is installed"
        )
    if device != "CPU":
        able = [name for name in able if _offers(name, device)]
        if not able:
            raise BackendUnavailableError(
                f"no installed backend offers the device {device}:  edgeseg doctor  lists what "
                "there is"
            )
    name, others = able[0], able[1:]
    reason = "the fastest on CPUs" if name == "openvino" else "openvino cannot serve"
    if device != "CPU":
        reason = f"it offers {device}"
    why = f"auto chose {name} on {device}: {reason}"
    why += f" ({', '.join(others)} could serve too)" if others else ""
    _log.info(why)
    return BackendChoice(name, why, device)


def _offers(name: BackendName, device: str) -> bool:
    module, _ = _BACKENDS[name]
    devices = _load(module).available_devices()
    return any(device in (offered, offered.split(".")[0]) for offered in devices)


def open_engine(path: Path, backend: BackendName, options: EngineOptions | None = None) -> Engine:
    """Open ``path`` with one backend: an ONNX file; for TensorRT a plan compiled from one.

    Raises:
        BackendUnavailableError: the library or the device is not on this machine.
        BackendError: the library refuses the file.
    """
    module, kind = _BACKENDS[backend]
    engine: Engine = getattr(_load(module), kind)(path, options or EngineOptions())
    return engine


def _load(module: str) -> ModuleType:
    return importlib.import_module(module)
