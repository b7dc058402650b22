"""Energy per frame, where the machine reports energy or power.

Two sources are known, both files of the kernel; ``root`` stands in for ``/`` in tests:

- RAPL, which counts the energy of processor packages (Intel and AMD);
- the power monitors of a Jetson (INA3221, and an INA238 on Thor's carrier board), whose power a
  thread reads and integrates over time.

All of the machine is measured, whatever else it does meanwhile.
"""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from edgeseg._jetson import is_jetson
from edgeseg.bench.result import EnergyRecord
from edgeseg.errors import BackendError, UsageError

__all__ = ["EnergyMeter", "EnergyTally", "find_meter"]

ROOT = Path("/")
Clock = Callable[[], float]

_LEAST_S = 0.05
"""RAPL's counters change once a millisecond, the monitors of a Jetson every few."""
_INPUT_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")
"""Rails that feed all others, from the board's input to the module's."""
_BOARD_INPUT = "ina238"


class EnergyMeter(abc.ABC):
    """A source of energy readings.

    Attributes:
        source: in words, for the record.
        period_s: how often it has to be read.
    """

    source: str
    period_s: float

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        """``clock`` gives seconds."""
        self.clock = clock

    def tally(self) -> EnergyTally:
        """A sum of energy that starts at zero."""
        return EnergyTally(self)

    @abc.abstractmethod
    def reading(self) -> Reading:
        """Start to measure now.

        Raises:
            BackendError: the source cannot be read any more.
        """


class Reading(abc.ABC):
    """An ongoing measurement."""

    @abc.abstractmethod
    def step_j(self) -> float:
        """Joules since the last step, or since the start.

        Raises:
            BackendError: the source cannot be read any more.
        """


class EnergyTally:
    """Sums up energy and time over as many ``with`` blocks as there are; none inside another."""

    def __init__(self, meter: EnergyMeter) -> None:
        """Nothing is measured before the first ``with``."""
        self._meter = meter
        self._energy_j = 0.0
        self._time_s = 0.0
        self._start_s = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._error: BackendError | None = None

    def __enter__(self) -> EnergyTally:
        """Start a thread that reads the meter.

        Raises:
            BackendError: the meter cannot be read any more.
        """
        if self._thread is not None:
            raise UsageError("this energy tally is running already")
        self._stop.clear()
        reading = self._meter.reading()
        self._start_s = self._meter.clock()
        self._thread = threading.Thread(target=self._collect, args=(reading,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the last reading, and raise what went wrong with the meter meanwhile."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self._time_s += self._meter.clock() - self._start_s
        if self._error is not None and error is None:
            raise self._error

    def record(self, frames: int) -> EnergyRecord | None:
        """Energy per frame and mean power, or None if less than 50 ms were measured.

        Args:
            frames: computed inside the ``with`` blocks, at least 1.

        Raises:
            UsageError: there were no frames.
        """
        if frames < 1:
            raise UsageError(f"energy per frame needs frames, there were {frames}")
        if self._time_s < _LEAST_S:
            return None
        return EnergyRecord(
            source=self._meter.source,
            mj_per_frame=1e3 * self._energy_j / frames,
            mean_w=self._energy_j / self._time_s,
        )

    def _collect(self, reading: Reading) -> None:
        try:
            while not self._stop.wait(self._meter.period_s):
                self._energy_j += reading.step_j()
            self._energy_j += reading.step_j()
        except BackendError as error:
            self._error = error


def find_meter(root: Path = ROOT) -> tuple[EnergyMeter | None, str]:
    """The machine's energy meter and its source, or None and why there is none, in words.

    Of a Jetson the rail that feeds all others is taken if it is measured, from the board's input to
    the module's, else the sum of all rails that are; the source names them.
    """
    if is_jetson(root):
        rails = _rails(root)
        if not rails:
            return None, "energy: this Jetson shows no INA3221 power monitor that may be read"
        return (meter := _RailMeter(rails)), meter.source
    domains = _packages(root)
    if not domains:
        return None, "energy: this machine reports none (no RAPL packages in /sys/class/powercap)"
    locked = [path for path in domains if _number(path / "energy_uj") is None]
    if locked:
        return None, (
            f"energy: {locked[0] / 'energy_uj'} may not be read: "
            "run  sudo chmod a+r /sys/class/powercap/*/energy_uj"
        )
    return (counter := _RaplMeter(domains)), counter.source


class _RaplMeter(EnergyMeter):
    """Counters of processor packages, in microjoules, which start again at zero when full."""

    # A full counter is 65 kJ at the least, which takes minutes.
    period_s = 10.0

    def __init__(self, packages: list[Path], clock: Clock = time.perf_counter) -> None:
        super().__init__(clock)
        self.packages = packages
        count = len(packages)
        self.source = "RAPL package" if count == 1 else f"RAPL, sum of {count} packages"

    def reading(self) -> Reading:
        return _RaplReading(self.packages)


class _RaplReading(Reading):
    def __init__(self, packages: list[Path]) -> None:
        self._last_uj = {path: _must(path / "energy_uj") for path in packages}

    def step_j(self) -> float:
        step_uj = 0.0
        for path, last_uj in self._last_uj.items():
            now_uj = _must(path / "energy_uj")
            step_uj += now_uj - last_uj
            if now_uj < last_uj:
                step_uj += _must(path / "max_energy_range_uj")
            self._last_uj[path] = now_uj
        return 1e-6 * step_uj


class _Rail:
    """One channel of a power monitor."""

    def __init__(self, name: str, folder: Path, channel: str) -> None:
        self.name = name
        self.chip = _text(folder / "name").upper()
        self._power = folder / f"power{channel}_input"
        self._pair = (folder / f"in{channel}_input", folder / f"curr{channel}_input")

    @property
    def readable(self) -> bool:
        return self._measured_w() is not None

    def power_w(self) -> float:
        """Power in watts.

        Raises:
            BackendError: the channel cannot be read any more.
        """
        power = self._measured_w()
        if power is None:
            raise BackendError(f"power rail {self.name} can no longer be read in {self._power}")
        return power

    def _measured_w(self) -> float | None:
        """Microwatts where the chip tells them, else millivolts times milliamperes."""
        power = _number(self._power)
        if power is not None:
            return 1e-6 * power
        volt, ampere = (_number(path) for path in self._pair)
        return None if volt is None or ampere is None else 1e-6 * volt * ampere


class _RailMeter(EnergyMeter):
    """Rails of a Jetson."""

    period_s = 0.02

    def __init__(self, rails: list[_Rail], clock: Clock = time.perf_counter) -> None:
        super().__init__(clock)
        self.rails = rails
        chips = " and ".join(dict.fromkeys(rail.chip for rail in rails))
        self.source = f"{chips} {' + '.join(rail.name for rail in rails)}"

    def reading(self) -> Reading:
        return _RailReading(self)


class _RailReading(Reading):
    def __init__(self, meter: _RailMeter) -> None:
        self._meter = meter
        self._last = self._now()

    def step_j(self) -> float:
        """The mean of both ends' power, over the time between them."""
        before_s, before_w = self._last
        now_s, now_w = self._last = self._now()
        return 0.5 * (before_w + now_w) * (now_s - before_s)

    def _now(self) -> tuple[float, float]:
        return self._meter.clock(), sum(rail.power_w() for rail in self._meter.rails)


def _packages(root: Path) -> list[Path]:
    """RAPL's domains of whole packages; each once, though firmware may show it in two places."""
    found: dict[str, Path] = {}
    folder = root / "sys/class/powercap"
    for pattern in ("intel-rapl:*", "intel-rapl-mmio:*"):
        for path in sorted(folder.glob(pattern)):
            name = _text(path / "name")
            if name.startswith("package-"):
                found.setdefault(name, path)
    return [found[name] for name in sorted(found)]


def _rails(root: Path) -> list[_Rail]:
    """The rail that feeds all others if one is measured, else all that are."""
    rails = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        chip = _text(folder / "name")
        if chip == _BOARD_INPUT:
            # It has one channel and no label.
            rails.append(_Rail(_INPUT_RAILS[0], folder, "1"))
        if chip != "ina3221":
            continue
        # Seven is the sum of shunt voltages, and no supply.
        labels = sorted(folder.glob("in[123]_label"))
        rails += [_Rail(_text(label), folder, label.name[2]) for label in labels]
    # Channels that are not connected are called NC.
    rails = [rail for rail in rails if rail.name not in ("", "NC") and rail.readable]
    for name in _INPUT_RAILS:
        for rail in rails:
            if rail.name == name:
                return [rail]
    return rails


def _must(path: Path) -> int:
    value = _number(path)
    if value is None:
        raise BackendError(f"{path} can no longer be read: measure without energy, or as root")
    return value


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.removeprefix("-").isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip("\0\n ")
    except OSError:
        return ""
