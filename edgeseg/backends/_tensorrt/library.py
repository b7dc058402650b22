"""The TensorRT library itself: whether it is there, of which version, and on which devices."""

from __future__ import annotations

import logging
import re
from types import ModuleType
from typing import Any

from edgeseg._optional import require
from edgeseg.errors import BackendUnavailableError, MissingDependencyError

__all__ = [
    "available_devices",
    "check_version",
    "device_index",
    "load",
    "loaded",
    "parse_version",
    "version",
]

_log = logging.getLogger(__name__)

_OLDEST = (10, 3)
_TESTED_BELOW = (12,)


def load() -> ModuleType:
    """Import ``tensorrt``: from pip, or JetPack's own package.

    Raises:
        MissingDependencyError: it is not installed, or one of its libraries is missing.
    """
    return require("tensorrt", "tensorrt")


def loaded(trt: Any | None) -> Any:
    """``trt``, or the installed library, of a version that is served.

    Raises:
        MissingDependencyError: it is not installed.
        BackendUnavailableError: its version is not served.
    """
    lib: Any = load() if trt is None else trt
    check_version(str(lib.__version__))
    return lib


def version() -> str:
    """The installed TensorRT's version, such as ``10.3.0``."""
    return str(load().__version__)


def available_devices() -> tuple[str, ...]:
    """``GPU.0`` and so on: the CUDA devices that TensorRT can use on this machine.

    There are none where this TensorRT is not served, or a driver or device is missing; the log
    says which.
    """
    from edgeseg.gpu import gpus

    try:
        check_version(version())
        return tuple(f"GPU.{info.index}" for info in gpus())
    except (BackendUnavailableError, MissingDependencyError) as error:
        _log.info("TensorRT offers no device: %s", error)
        return ()


def parse_version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``10.13.3.9`` is ``(10, 13, 3, 9)``.

    Raises:
        BackendUnavailableError: it does not start with a number.
    """
    match = re.match(r"\d+(\.\d+)*", text)
    if match is None:
        raise BackendUnavailableError(
            f"TensorRT calls its version {text!r}, which does not say what it can do: install "
            "10.3, or 10.5 or later"
        )
    return tuple(int(part) for part in match.group().split("."))


def check_version(version: str) -> None:
    """Refuse a TensorRT that cannot serve, or is known to compute something else.

    Args:
        version: such as ``10.3.0`` or ``11.4.0.106``.

    Raises:
        BackendUnavailableError: with the reason.
    """
    numbers = parse_version(version)
    if numbers < _OLDEST:
        raise BackendUnavailableError(
            f"TensorRT {version} is too old: edgeseg needs 10.3 or later, whose ONNX parser serves "
            "strongly typed networks (JetPack 6.1 and later bring it)"
        )
    if numbers[:2] == (10, 4):
        # github.com/NVIDIA/TensorRT, issue 4742.
        raise BackendUnavailableError(
            f"TensorRT {version} is refused: 10.4 is known to miscompile DINOv3 (unrelated values "
            "in FP32, NaN in FP16); install 10.3, or 10.5 or later"
        )
    if numbers >= _TESTED_BELOW:
        _log.warning(
            "TensorRT %s is newer than the versions whose interface was checked (10.3 to 11)",
            version,
        )


def device_index(device: str) -> int:
    """The CUDA device that ``GPU`` or ``GPU.1`` means.

    Raises:
        BackendUnavailableError: it names no GPU.
    """
    match = re.fullmatch(r"GPU(?:\.(\d+))?", device)
    if match is None:
        raise BackendUnavailableError(
            f"TensorRT has no device {device!r}: it runs on GPU, GPU.0, GPU.1 and so on"
        )
    return int(match.group(1) or 0)
