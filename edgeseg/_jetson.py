"""What a Jetson says about itself, read from its files alone; ``root`` stands in for ``/``.

Names of files and zones are those of Orin and Thor under JetPack 5 to 7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "JETPACKS",
    "Clock",
    "JetPack",
    "JetsonState",
    "PowerMode",
    "ThermalZone",
    "is_jetson",
    "jetpack_of",
    "read_jetson",
]

ROOT = Path("/")
_MOST_BYTES = 1 << 18
"""Nothing read here is nearly as large; /etc/nvpmodel.conf, the largest, has some tens of KiB."""
_MOST_ENTRIES = 128
_RELEASE = re.compile(r"# R(\d{1,3}) \(release\), REVISION: (\d{1,3}(?:\.\d{1,3}){0,2})")
_GPU_CLOCK = re.compile(r"[0-9a-f]{1,16}\.(?:gpu|ga10b|gv11b)|gpu-gpc-\d{1,2}")
_POWER_MODEL = re.compile(r"^\s*<\s*POWER_MODEL\s+([^>\n]{1,200})>", re.MULTILINE)
_CLOCK_RANGE_HZ = (1e6, 1e11)
# Clocks that differ by less are the same: drivers round to the steps that the hardware has.
_SAME_CLOCK = 0.99
_NEAR_C = 5.0
"""Closer than this to a trip point, a zone is about to slow the device."""
# A sensor that is switched off gives -256 degrees.
_TEMPERATURE_RANGE_C = (-60.0, 250.0)
_OVER_CURRENT = {
    "oc1_event_cnt": "under-voltage",
    "oc2_event_cnt": "average over-current",
    "oc3_event_cnt": "instantaneous over-current",
}


@dataclass(frozen=True)
class JetPack:
    """A line of the table of releases: what a Jetson comes with."""

    name: str
    """Its versions, as NVIDIA counts them."""
    l4t: tuple[tuple[int, int], ...]
    """Releases of Jetson Linux (formerly Linux for Tegra) that it stands on: major, minor."""
    tensorrt: str
    cuda: str
    python: str
    """Of the Ubuntu that it is, for which its TensorRT bindings are built."""
    boards: str
    served: bool
    """Whether its TensorRT knows strongly typed networks, without which edgeseg builds none."""


JETPACKS = (
    JetPack(
        "5.1 to 5.1.6",
        ((35, 2), (35, 3), (35, 4), (35, 5), (35, 6)),
        "8.5.2",
        "11.4",
        "3.8",
        "Xavier, Orin",
        served=False,
    ),
    JetPack("6.0", ((36, 2), (36, 3)), "8.6.2", "12.2", "3.10", "Orin", served=False),
    JetPack("6.1 to 6.2.2", ((36, 4), (36, 5)), "10.3.0", "12.6", "3.10", "Orin", served=True),
    JetPack("7.0, 7.1", ((38, 2), (38, 4)), "10.13.3", "13.0", "3.12", "Thor", served=True),
    JetPack("7.2, 7.2.1", ((39, 2),), "10.16.2", "13.2", "3.12", "Orin, Thor", served=True),
)


@dataclass(frozen=True)
class PowerMode:
    """A mode of ``nvpmodel``."""

    number: int
    name: str
    """As in ``/etc/nvpmodel.conf``; empty if that does not say."""

    @property
    def words(self) -> str:
        """Number and name."""
        return f"{self.number} ({self.name})" if self.name else str(self.number)


@dataclass(frozen=True)
class Clock:
    """The clock of the GPU or of a group of processor cores."""

    name: str
    """``GPU`` or ``CPU``, with a number where there are several."""
    current_hz: float
    lowest_hz: float
    """What it may fall to when there is little to do."""
    highest_hz: float
    """What it may rise to: by the power mode, and by the thermal governor."""
    fastest_hz: float | None
    """What the hardware offers; None if it does not say."""

    @property
    def capped(self) -> bool:
        """Whether it may not rise to what the hardware offers."""
        return self.fastest_hz is not None and self.highest_hz < _SAME_CLOCK * self.fastest_hz

    @property
    def pinned(self) -> bool:
        """Whether it stays where it is, as after ``jetson_clocks``."""
        return self.lowest_hz >= _SAME_CLOCK * self.highest_hz


@dataclass(frozen=True)
class ThermalZone:
    """A sensor of temperature, in degrees Celsius."""

    name: str
    temperature_c: float
    slows_at_c: float | None
    """Where clocks are lowered; None if the zone does not say."""
    stops_at_c: float | None
    """Where the device shuts down; None if the zone does not say."""

    @property
    def margin_c(self) -> float | None:
        """Degrees left until the zone slows or stops the device; None if it never does."""
        limits = [limit for limit in (self.slows_at_c, self.stops_at_c) if limit is not None]
        return min(limits) - self.temperature_c if limits else None


@dataclass(frozen=True)
class JetsonState:
    """A Jetson at one moment; what could not be read is None or empty."""

    model: str
    l4t: str | None
    """Release of Jetson Linux, such as ``36.4.3``."""
    jetpack: JetPack | None
    """None for a release that the table does not know."""
    power_mode: PowerMode | None
    fastest_mode: PowerMode | None
    """The mode without a limit of its own (MAXN), if the board has one."""
    clocks: tuple[Clock, ...]
    zones: tuple[ThermalZone, ...]
    throttles: tuple[str, ...]
    """Alerts that slow the device at this moment, such as ``gpu-throttle-alert``."""
    over_current: tuple[tuple[str, int], ...]
    """Kinds of electrical alarms and how often each slowed the device since it was started."""

    @property
    def hot(self) -> tuple[str, ...]:
        """In words, the sensors that are about to slow the device."""
        return tuple(
            f"{zone.name} is {zone.margin_c:.1f} degrees below its limit"
            for zone in self.zones
            if zone.margin_c is not None and zone.margin_c < _NEAR_C
        )


def is_jetson(root: Path = ROOT) -> bool:
    """Whether this machine is one, by its release file or its name."""
    return _release(root) is not None or "jetson" in _model(root).lower()


def jetpack_of(l4t: str) -> JetPack | None:
    """The line of the table for a release such as ``36.4.3``."""
    numbers = tuple(int(part) for part in l4t.split(".")[:2] if part.isdecimal())
    return next((jetpack for jetpack in JETPACKS if numbers in jetpack.l4t), None)


def read_jetson(root: Path = ROOT) -> JetsonState | None:
    """Read the state of this machine, or None where it is no Jetson. Nothing is run or changed."""
    if not is_jetson(root):
        return None
    l4t = _release(root)
    modes = _power_modes(root)
    return JetsonState(
        model=_model(root) or "NVIDIA Jetson",
        l4t=l4t,
        jetpack=jetpack_of(l4t) if l4t is not None else None,
        power_mode=_power_mode(root, modes),
        fastest_mode=_fastest(modes),
        clocks=_gpu_clocks(root) + _cpu_clocks(root),
        zones=_zones(root),
        throttles=_throttles(root),
        over_current=_over_current(root),
    )


def _model(root: Path) -> str:
    return _read(root / "proc/device-tree/model").strip("\0\n ")[:200]


def _release(root: Path) -> str | None:
    found = _RELEASE.search(_read(root / "etc/nv_tegra_release"))
    return f"{found[1]}.{found[2]}" if found else None


def _power_modes(root: Path) -> tuple[PowerMode, ...]:
    modes = []
    for words in _POWER_MODEL.findall(_read(root / "etc/nvpmodel.conf"))[:_MOST_ENTRIES]:
        fields = dict(re.findall(r"\b(ID|NAME)=(\S{1,80})", words))
        if re.fullmatch(r"\d{1,4}", fields.get("ID", "")):
            modes.append(PowerMode(int(fields["ID"]), fields.get("NAME", "")))
    return tuple(modes)


def _power_mode(root: Path, modes: tuple[PowerMode, ...]) -> PowerMode | None:
    """The mode that nvpmodel set last, as it keeps it for the next start."""
    found = re.search(r"pmode:(\d{1,6})", _read(root / "var/lib/nvpmodel/status"))
    if found is None:
        return None
    number = int(found[1])
    return next((mode for mode in modes if mode.number == number), PowerMode(number, ""))


def _fastest(modes: tuple[PowerMode, ...]) -> PowerMode | None:
    """MAXN_SUPER where there is one, else MAXN. Numbers say nothing: boards count differently."""
    for name in ("MAXN_SUPER", "MAXN"):
        for mode in modes:
            if mode.name == name:
                return mode
    return None


def _gpu_clocks(root: Path) -> tuple[Clock, ...]:
    names = [
        path for path in _entries(root / "sys/class/devfreq") if _GPU_CLOCK.fullmatch(path.name)
    ]
    clocks = []
    for number, folder in enumerate(names):
        offered = [
            float(word)
            for word in _read(folder / "available_frequencies").split()
            if word.isdecimal() and _plausible_hz(float(word))
        ]
        clock = _clock(
            f"GPU{number}" if len(names) > 1 else "GPU",
            [_number(folder / f"{kind}_freq") for kind in ("cur", "min", "max")],
            max(offered, default=None),
        )
        clocks += [clock] if clock else []
    return tuple(clocks)


def _cpu_clocks(root: Path) -> tuple[Clock, ...]:
    clocks = []
    for folder in _entries(root / "sys/devices/system/cpu/cpufreq"):
        if not re.fullmatch(r"policy\d{1,4}", folder.name):
            continue
        # cpufreq counts in kHz.
        values = [_number(folder / f"scaling_{kind}_freq", 1e3) for kind in ("cur", "min", "max")]
        fastest = _number(folder / "cpuinfo_max_freq", 1e3)
        clock = _clock(f"CPU{folder.name.removeprefix('policy')}", values, fastest)
        clocks += [clock] if clock else []
    return tuple(clocks)


def _clock(name: str, values: list[float | None], fastest_hz: float | None) -> Clock | None:
    current, lowest, highest = values
    if current is None or lowest is None or highest is None or not _plausible_hz(current):
        return None
    # "No limit" is kept as a number that no clock reaches.
    if fastest_hz is not None and highest > fastest_hz:
        highest = fastest_hz
    return Clock(name, current, lowest, highest, fastest_hz)


def _plausible_hz(value: float) -> bool:
    return _CLOCK_RANGE_HZ[0] <= value <= _CLOCK_RANGE_HZ[1]


def _zones(root: Path) -> tuple[ThermalZone, ...]:
    zones = []
    for folder in _entries(root / "sys/class/thermal"):
        if not folder.name.startswith("thermal_zone"):
            continue
        name = _read(folder / "type").strip()[:80]
        temperature = _temperature(folder / "temp")
        # A zone whose part is switched off cannot be read.
        if not name or temperature is None:
            continue
        limits: dict[str, list[float]] = {}
        for kind_file in _entries(folder):
            match = re.fullmatch(r"trip_point_(\d{1,3})_type", kind_file.name)
            limit = _temperature(folder / f"trip_point_{match[1]}_temp") if match else None
            if limit is not None and limit > 0:
                limits.setdefault(_read(kind_file).strip(), []).append(limit)
        # "active" trips start a fan; they slow nothing.
        slows = min([*limits.get("passive", []), *limits.get("hot", [])], default=None)
        stops = min(limits.get("critical", []), default=None)
        zones.append(ThermalZone(name, temperature, slows, stops))
    return tuple(zones)


def _temperature(path: Path) -> float | None:
    value = _number(path, 1e-3)
    low, high = _TEMPERATURE_RANGE_C
    return value if value is not None and low <= value <= high else None


def _throttles(root: Path) -> tuple[str, ...]:
    """Cooling devices of the kind that the firmware raises while it throttles."""
    found = []
    for folder in _entries(root / "sys/class/thermal"):
        if folder.name.startswith("cooling_device"):
            name = _read(folder / "type").strip()[:80]
            if name.endswith("-alert") and (_number(folder / "cur_state") or 0) > 0:
                found.append(name)
    return tuple(sorted(found))


def _over_current(root: Path) -> tuple[tuple[str, int], ...]:
    for folder in _entries(root / "sys/class/hwmon"):
        if _read(folder / "name").strip() == "soctherm_oc":
            counts = {words: _number(folder / name) for name, words in _OVER_CURRENT.items()}
            return tuple((words, int(n)) for words, n in counts.items() if n is not None and n >= 0)
    return ()


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, numbers in order, so that ``policy4`` comes before ``policy10``."""
    try:
        found = list(folder.iterdir())
    except OSError:
        return []
    found.sort(
        key=lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", path.name)]
    )
    return found[:_MOST_ENTRIES]


def _number(path: Path, unit: float = 1.0) -> float | None:
    text = _read(path).strip()
    return int(text) * unit if re.fullmatch(r"-?\d{1,20}", text) else None


def _read(path: Path) -> str:
    """The beginning of a file; empty where it cannot be read, as sensors of idle parts cannot."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""
