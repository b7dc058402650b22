"""What the machine calls itself; ``root`` stands in for ``/`` in tests."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["cpu_name", "machine_name"]

ROOT = Path("/")


def cpu_name(root: Path = ROOT) -> str:
    """The processor's marketing name; its architecture where the system tells no name."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def machine_name(root: Path = ROOT) -> str:
    """Board (where a device tree names one), processor and operating system, for records."""
    parts = [cpu_name(root), f"{platform.system()} {platform.release()}"]
    board = root / "proc/device-tree/model"
    if board.is_file():
        parts.insert(0, board.read_text(encoding="utf-8", errors="replace").strip("\0 \n"))
    return ", ".join(parts)
