"""Which processors a program may use, and how they belong to cores (as far as the system tells).

``root`` stands in for ``/`` in tests.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Processors", "busy_s", "processors", "usable_processors"]

ROOT = Path("/")


@dataclass(frozen=True)
class Processors:
    """What this process may use."""

    numbers: tuple[int, ...]
    """Logical processors, as the system counts them."""
    cores: int
    """Physical cores that they belong to."""
    efficient: tuple[int, ...]
    """Those of ``numbers`` that are the slower kind of a hybrid processor; empty on others."""

    @property
    def hybrid(self) -> bool:
        """Whether both kinds of cores may be used."""
        return 0 < len(self.efficient) < len(self.numbers)


def usable_processors() -> tuple[int, ...]:
    """Logical processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return tuple(sorted(affinity(0))) if affinity else tuple(range(os.cpu_count() or 1))


def processors(root: Path = ROOT) -> Processors:
    """What this process may use; where the system tells no cores, each processor counts as one."""
    numbers = usable_processors()
    cores = {_siblings(root, number) for number in numbers}
    # Intel's hybrid processors have this file, others do not.
    efficient = _ranges(_read(root / "sys/devices/cpu_atom/cpus"))
    return Processors(numbers, len(cores), tuple(n for n in numbers if n in efficient))


def busy_s(numbers: tuple[int, ...], root: Path = ROOT) -> float | None:
    """Seconds since the start of the system in which these processors had work, summed up.

    What a hypervisor gave to others counts as work. None where the system does not tell.
    """
    ticks = 0
    found = 0
    for line in _read(root / "proc/stat").splitlines():
        name, *fields = line.split()
        if not (name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in numbers):
            continue
        user, nice, system, _idle, _iowait, *others = (int(field) for field in fields[:8])
        ticks += user + nice + system + sum(others)
        found += 1
    if found < len(numbers):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def _siblings(root: Path, number: int) -> str:
    """The processors of one core, which name it."""
    topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
    return _read(topology / "thread_siblings_list") or str(number)


def _ranges(text: str) -> frozenset[int]:
    """The numbers of a list such as ``0-3,8``."""
    found: set[int] = set()
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    except ValueError:
        return frozenset()
    return frozenset(found)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
