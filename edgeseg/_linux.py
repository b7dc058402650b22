"""What Linux says about the machine, read from its files; ``root`` stands in for ``/`` in tests."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = [
    "FEATURES",
    "available_memory_bytes",
    "cpu_features",
    "cpu_quota",
    "governor",
    "intel_render_devices",
    "memory_limit_bytes",
    "usable_cores",
]

FEATURES = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
    "f16c": "F16C",
    "asimddp": "dot product",
    "i8mm": "INT8 matrix products",
    "asimdhp": "FP16 arithmetic",
    "bf16": "BF16",
    "sve": "SVE",
}
"""Features that matter to a network, by Linux's names of them on x86 and Arm, and in words."""

ROOT = Path("/")
_INTEL = "0x8086"
# Version 1 of control groups says "no limit" with the largest multiple of a page.
_NO_LIMIT_BYTES = 1 << 60


def cpu_features(root: Path = ROOT) -> frozenset[str]:
    """Linux's names of the processor's features (``flags`` on x86, ``Features`` on Arm)."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def usable_cores() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the control group grants, or None for no limit."""
    quotas = []
    for folder in _control_groups(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            quotas.append(int(quota) / int(period))
        quota = _read(folder / "cpu.cfs_quota_us").strip()
        period = _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def available_memory_bytes(root: Path = ROOT) -> tuple[int, int] | None:
    """Total and available memory, or None where unknown."""
    found: dict[str, str] = dict(
        re.findall(r"^(\w+):\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    )
    if "MemTotal" not in found:
        return None
    return 1024 * int(found["MemTotal"]), 1024 * int(found.get("MemAvailable", found["MemTotal"]))


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """Memory that the control group grants, or None for no limit."""
    limits = []
    for folder in _control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdecimal() and int(text) < _NO_LIMIT_BYTES:
                limits.append(int(text))
    return min(limits, default=None)


def governor(root: Path = ROOT) -> str | None:
    """Which governor sets the processors' clocks, or None where none does (as in most guests)."""
    files = (root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor")
    return ", ".join(sorted({name for name in map(str.strip, map(_read, files)) if name})) or None


def intel_render_devices(root: Path = ROOT) -> tuple[str, ...]:
    """Render nodes of Intel graphics, which OpenVINO's GPU device could use."""
    vendors = sorted((root / "sys/class/drm").glob("renderD*/device/vendor"))
    return tuple(p.parent.parent.name for p in vendors if _read(p).strip() == _INTEL)


def _control_groups(root: Path, controller: str) -> list[Path]:
    """Folders whose limits hold for this process: its group and the groups above it."""
    mounts = root / "sys/fs/cgroup"
    folders = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            base = mounts
        elif controller in controllers.split(","):
            base = mounts / controller
        else:
            continue
        group = base / path.lstrip("/")
        # Inside a container the path may name the host's group; the mount's own files hold then.
        folders += [group, *(p for p in group.parents if p == base or base in p.parents)]
    return list(dict.fromkeys([*folders, mounts]))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
