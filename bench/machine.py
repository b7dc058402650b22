"""The machine on which a benchmark runs, and whether it slowed down meanwhile.

Everything is read from the system's files; ``root`` stands in for ``/`` in tests.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

from edgeseg import _linux
from edgeseg._jetson import JetsonState, read_jetson
from edgeseg._machine import cpu_name, machine_name
from edgeseg.bench.result import MachineRecord

__all__ = ["ThrottleWatch", "describe_machine"]

ROOT = Path("/")
_COUNTERS = {
    "core_throttle_count": "a core slowed down {} times for heat",
    "package_throttle_count": "the processor slowed down {} times for heat",
}
"""Of Intel's processors, since the start; every hardware thread counts what it is told."""


def describe_machine(
    libraries: Sequence[str], *, throttling: str | None = None, root: Path = ROOT
) -> MachineRecord:
    """Describe the machine.

    Args:
        libraries: names of distributions as pip knows them; those not installed are left out.
        throttling: what a ``ThrottleWatch`` found.
        root: of the files.
    """
    memory = _linux.available_memory_bytes(root)
    limits = [memory[0] if memory else None, _linux.memory_limit_bytes(root)]
    features = _linux.cpu_features(root)
    jetson = read_jetson(root)
    mode = jetson.power_mode if jetson else None
    return MachineRecord(
        name=machine_name(root),
        cpu=cpu_name(root),
        cores=_cores(root),
        isa=tuple(flag for flag in _linux.FEATURES if flag in features),
        memory_gib=min((n for n in limits if n is not None), default=0) / 2**30,
        governor=_linux.governor(root),
        power_mode=mode.words if mode else None,
        throttling=throttling,
        versions={"python": platform.python_version()} | _versions(libraries),
    )


class ThrottleWatch:
    """Compares what the machine says of throttling at the start with what it says later.

    Intel's processors count since they were started, a Jetson counts electrical alarms and shows
    the others only while they last. So `look` may be called between rounds; it takes less than a
    millisecond on a PC and some on a Jetson.
    """

    def __init__(self, root: Path = ROOT) -> None:
        """Read the counters and alerts for the first time."""
        self._root = root
        self._counts = _throttle_counts(root)
        jetson = read_jetson(root)
        self._electrical = _electrical(jetson)
        self._alerts: list[str] = []
        self._note(jetson)

    def look(self) -> None:
        """Remember the alerts of this moment."""
        self._note(read_jetson(self._root))

    def verdict(self) -> str | None:
        """What happened since the start, in words; None where the machine says nothing of it."""
        jetson = read_jetson(self._root)
        self._note(jetson)
        found = [f"{name} was raised" for name in self._alerts]
        counts = _throttle_counts(self._root)
        for name, words in _COUNTERS.items():
            # All threads of a package count the same: the most of any, not the sum.
            most = max(
                (counts[key] - self._counts.get(key, 0) for key in counts if key[1] == name),
                default=0,
            )
            found += [words.format(most)] if most > 0 else []
        for kind, count in _electrical(jetson).items():
            more = count - self._electrical.get(kind, 0)
            found += [f"slowed down {more} times for {kind}"] if more > 0 else []
        found += [f"at the end {words}" for words in (jetson.hot if jetson else ())]
        if not found and not counts and jetson is None:
            return None
        return "; ".join(found) or "none"

    def _note(self, jetson: JetsonState | None) -> None:
        for name in jetson.throttles if jetson else ():
            if name not in self._alerts:
                self._alerts.append(name)


def _cores(root: Path) -> int:
    cores, quota = _linux.usable_cores(), _linux.cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _throttle_counts(root: Path) -> dict[tuple[str, str], int]:
    """Counts by folder of a hardware thread and by name."""
    found = {}
    for folder in (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle"):
        for name in _COUNTERS:
            try:
                text = (folder / name).read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError):
                continue
            if text.isdecimal():
                found[folder.parent.name, name] = int(text)
    return found


def _electrical(jetson: JetsonState | None) -> dict[str, int]:
    return dict(jetson.over_current) if jetson else {}
