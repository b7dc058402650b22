"""Energy from RAPL's counters and from a Jetson's rails, in files laid as the kernel shows them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from jetson_files import lay_files, orin_nano

from edgeseg.bench import energy
from edgeseg.bench.energy import find_meter
from edgeseg.errors import BackendError, UsageError

POWERCAP = "sys/class/powercap"


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def rapl(root: Path, domain: str, name: str, energy_uj: int, range_uj: int = 1 << 32) -> None:
    folder = f"{POWERCAP}/{domain}"
    lay_files(
        root,
        {
            f"{folder}/name": f"{name}\n",
            f"{folder}/energy_uj": f"{energy_uj}\n",
            f"{folder}/max_energy_range_uj": f"{range_uj}\n",
        },
    )


def rails(root: Path, monitor: int, *channels: tuple[str, int, int]) -> None:
    """Channels of an INA3221: label, millivolts, milliamperes."""
    folder = f"sys/class/hwmon/hwmon{monitor}"
    files = {f"{folder}/name": "ina3221\n", f"{folder}/in7_label": "sum of shunt voltages\n"}
    for i, (label, millivolts, milliamperes) in enumerate(channels, 1):
        files[f"{folder}/in{i}_label"] = f"{label}\n"
        files[f"{folder}/in{i}_input"] = f"{millivolts}\n"
        files[f"{folder}/curr{i}_input"] = f"{milliamperes}\n"
    lay_files(root, files)


def meter_of(root: Path) -> tuple[energy.EnergyMeter, Clock]:
    meter, words = find_meter(root)
    assert meter is not None and meter.source == words
    meter.clock = clock = Clock()
    return meter, clock


def test_packages_are_summed_and_nothing_twice(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    rapl(tmp_path, "intel-rapl:0:0", "core", 5_000_000)
    rapl(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
    rapl(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    rapl(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    meter, clock = meter_of(tmp_path)
    assert meter.source == "RAPL, sum of 2 packages"
    tally = meter.tally()
    with tally:
        for domain in ("intel-rapl:0", "intel-rapl-mmio:0"):
            rapl(tmp_path, domain, "package-0", 4_000_000)
        rapl(tmp_path, "intel-rapl:1", "package-1", 4_500_000)
        rapl(tmp_path, "intel-rapl:0:0", "core", 500_000_000)
        rapl(tmp_path, "intel-rapl:2", "psys", 900_000_000)
        clock.now_s += 0.5
    found = tally.record(10)
    assert found.source == meter.source
    assert found.mj_per_frame == pytest.approx(550.0) and found.mean_w == pytest.approx(11.0)


def test_a_counter_that_starts_again_is_followed(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0", 262_143_000_000, range_uj=262_143_328_850)
    meter, clock = meter_of(tmp_path)
    assert meter.source == "RAPL package"
    tally = meter.tally()
    with tally:
        rapl(tmp_path, "intel-rapl:0", "package-0", 671_150, range_uj=262_143_328_850)
        clock.now_s += 1.0
    found = tally.record(1)
    assert found.mj_per_frame == pytest.approx(1000.0) and found.mean_w == pytest.approx(1.0)


def test_the_blocks_of_a_tally_add_up_and_what_lies_between_does_not(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    meter, clock = meter_of(tmp_path)
    one, other = meter.tally(), meter.tally()
    counter_uj = 0
    for _ in range(3):
        for tally, spent_uj in ((one, 2_000_000), (other, 500_000)):
            with tally:
                counter_uj += spent_uj
                rapl(tmp_path, "intel-rapl:0", "package-0", counter_uj)
                clock.now_s += 0.25
            counter_uj += 7_000_000
            rapl(tmp_path, "intel-rapl:0", "package-0", counter_uj)
            clock.now_s += 5.0
    assert one.record(3).mj_per_frame == pytest.approx(2000.0)
    assert one.record(3).mean_w == pytest.approx(8.0)
    assert other.record(6).mj_per_frame == pytest.approx(250.0)


def test_too_short_a_time_and_no_frames(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    meter, clock = meter_of(tmp_path)
    tally = meter.tally()
    assert tally.record(1) is None
    with tally:
        clock.now_s += 0.01
    assert tally.record(1) is None
    with pytest.raises(UsageError, match="frames"):
        tally.record(0)
    with tally, pytest.raises(UsageError, match="running already"), tally:
        pass


def test_a_counter_that_vanishes_is_an_error(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    meter, _clock = meter_of(tmp_path)
    with pytest.raises(BackendError, match="energy_uj"), meter.tally():
        (tmp_path / POWERCAP / "intel-rapl:0/energy_uj").unlink()
    with pytest.raises(BackendError, match="energy_uj"), meter.tally():
        pass


def test_why_there_is_no_meter(tmp_path):
    meter, words = find_meter(tmp_path)
    assert meter is None and "reports none" in words
    rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    # As for a file that only root may read: there, but without a number.
    (tmp_path / POWERCAP / "intel-rapl:0/energy_uj").write_text("")
    meter, words = find_meter(tmp_path)
    assert meter is None and "chmod a+r" in words and "energy_uj" in words
    meter, words = find_meter(orin_nano(tmp_path / "jetson"))
    assert meter is None and "INA3221" in words


def test_the_rail_of_the_module_is_taken_alone(tmp_path):
    orin_nano(tmp_path)
    channels = (("VDD_IN", 5000, 2000), ("VDD_CPU_GPU_CV", 5000, 800), ("VDD_SOC", 5000, 400))
    rails(tmp_path, 1, *channels)
    assert find_meter(tmp_path)[1] == "INA3221 VDD_IN"


def test_without_an_input_all_rails_are_summed(tmp_path):
    orin_nano(tmp_path)
    rails(
        tmp_path,
        1,
        ("VDD_GPU_SOC", 19000, 100),
        ("VDD_CPU_CV", 19000, 200),
        ("VIN_SYS_5V0", 5000, 2),
    )
    rails(tmp_path, 2, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 20), ("NC", 0, 0))
    meter, clock = meter_of(tmp_path)
    assert meter.source == "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO"
    tally = meter.tally()
    with tally:
        clock.now_s += 2.0
    # 1.9 + 3.8 + 0.01 + 0.1 W
    assert tally.record(4).mean_w == pytest.approx(5.81)
    assert tally.record(4).mj_per_frame == pytest.approx(2905.0)


def test_the_input_of_thors_board_is_preferred(tmp_path):
    orin_nano(tmp_path)
    rails(tmp_path, 1, ("VDD_GPU", 12000, 100), ("VDD_CPU_SOC_MSS", 12000, 200), ("NC", 0, 0))
    folder = "sys/class/hwmon/hwmon2"
    lay_files(tmp_path, {f"{folder}/name": "ina238\n", f"{folder}/power1_input": "25500000\n"})
    meter, clock = meter_of(tmp_path)
    assert meter.source == "INA238 VIN"
    tally = meter.tally()
    with tally:
        clock.now_s += 1.0
    assert tally.record(1).mean_w == pytest.approx(25.5)


def test_power_is_integrated_over_time_while_it_changes(tmp_path):
    orin_nano(tmp_path)
    rails(tmp_path, 1, ("VDD_IN", 5000, 1000))
    meter, clock = meter_of(tmp_path)
    meter.period_s = 1e-3
    current, path = 1000, tmp_path / "sys/class/hwmon/hwmon1/curr1_input"
    reading = meter.reading()
    joules = 0.0
    for step_s, next_ma in ((1.0, 3000), (0.5, 1000), (2.0, 1000)):
        path.write_text(f"{next_ma}\n")
        clock.now_s += step_s
        joules += reading.step_j()
        current = next_ma
    # Straight lines between 5, 15, 5 and 5 W.
    assert current == 1000 and joules == pytest.approx(10.0 + 5.0 + 10.0)


def test_the_thread_reads_while_the_block_runs(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0", 0, range_uj=1000)
    meter, clock = meter_of(tmp_path)
    meter.period_s = 1e-3
    stepped = threading.Event()
    reading = meter.reading

    def watched():
        found = reading()
        step = found.step_j

        def step_j() -> float:
            value = step()
            stepped.set()
            return value

        found.step_j = step_j
        return found

    meter.reading = watched
    tally = meter.tally()
    with tally:
        for value in (900, 800, 700):
            # Each is one turn of the counter less 100: two turns would go unseen without a reading.
            path = tmp_path / POWERCAP / "intel-rapl:0/energy_uj"
            temporary = path.with_suffix(".new")
            temporary.write_text(f"{value}\n")
            temporary.replace(path)
            for _ in range(2):
                stepped.clear()
                assert stepped.wait(5.0)
        clock.now_s += 1.0
    assert tally.record(1).mj_per_frame == pytest.approx(1e-3 * 2700)
