"""What the machine calls itself."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["cpu_name", "machine_name"]

_CPUINFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")


def cpu_name() -> str:
    """The processor's marketing name; its architecture where the system tells no name."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def machine_name() -> str:
    """Board (where a device tree names one), processor and operating system, for records."""
    parts = [cpu_name(), f"{platform.system()} {platform.release()}"]
    if _BOARD.is_file():
        parts.insert(0, _BOARD.read_text(encoding="utf-8", errors="replace").strip("\0 \n"))
    return ", ".join(parts)
