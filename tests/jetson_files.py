"""Files of Jetsons as the devices show them, laid under a folder that stands in for ``/``."""

from __future__ import annotations

from pathlib import Path

ORIN_NANO = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
NVPMODEL = """
# NOTE: a power model with ID and NAME
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
GPU MAX_FREQ 612000000
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
GPU MAX_FREQ -1
< PM_CONFIG DEFAULT=1 >
"""


def lay_files(root: Path, files: dict[str, str]) -> Path:
    """Write ``files`` (paths relative to ``root``) and return ``root``."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def zone(number: int, name: str, milli: str, **trips: int) -> dict[str, str]:
    """A thermal zone; ``trips`` gives a temperature in thousandths of a degree for each type."""
    folder = f"sys/class/thermal/thermal_zone{number}"
    files = {f"{folder}/type": f"{name}\n", f"{folder}/temp": milli}
    for i, (kind, limit) in enumerate(trips.items()):
        files[f"{folder}/trip_point_{i}_type"] = f"{kind}\n"
        files[f"{folder}/trip_point_{i}_temp"] = f"{limit}\n"
    return files


def cooling(number: int, name: str, state: int) -> dict[str, str]:
    """A cooling device in a state."""
    folder = f"sys/class/thermal/cooling_device{number}"
    return {f"{folder}/type": f"{name}\n", f"{folder}/cur_state": f"{state}\n"}


def gpu(name: str, current: int, low: int, high: int, offered: str = "") -> dict[str, str]:
    """A GPU's clock in Hz; ``offered`` lists the steps of the hardware."""
    folder = f"sys/class/devfreq/{name}"
    files = {f"{folder}/cur_freq": f"{current}\n", f"{folder}/min_freq": f"{low}\n"}
    files[f"{folder}/max_freq"] = f"{high}\n"
    return files | ({f"{folder}/available_frequencies": f"{offered}\n"} if offered else {})


def cpu(policy: int, current: int, low: int, high: int, fastest: int) -> dict[str, str]:
    """The clock of a group of cores, in kHz."""
    folder = f"sys/devices/system/cpu/cpufreq/policy{policy}"
    return {
        f"{folder}/scaling_cur_freq": f"{current}\n",
        f"{folder}/scaling_min_freq": f"{low}\n",
        f"{folder}/scaling_max_freq": f"{high}\n",
        f"{folder}/cpuinfo_max_freq": f"{fastest}\n",
    }


def orin_nano(root: Path, **more: str) -> Path:
    """An Orin Nano under JetPack 6.2 in its 15 W mode, cool and idle; ``more`` replaces files."""
    files = {
        "proc/device-tree/model": f"{ORIN_NANO}\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, "
        "EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n",
        "etc/nvpmodel.conf": NVPMODEL,
        "var/lib/nvpmodel/status": "pmode:0000",
        # Other engines have clocks in the same folder.
        **gpu("15340000.vic", 729600000, 115200000, 729600000),
        **gpu(
            "17000000.gpu",
            306000000,
            306000000,
            612000000,
            "306000000 408000000 510000000 612000000 714000000 816000000 918000000 1020000000",
        ),
        **cpu(0, 729600, 729600, 1497600, 1728000),
        **cpu(4, 1497600, 729600, 1497600, 1728000),
        **zone(0, "cpu-thermal", "51687\n", critical=104500, passive=99000),
        **zone(1, "gpu-thermal", "48500\n", critical=104500, passive=99000),
        **zone(2, "cv0-thermal", "-256000\n", critical=104500, passive=99000),
        **zone(8, "tj-thermal", "51687\n", critical=104500, active=74000),
        **cooling(0, "pwm-fan", 1),
        **cooling(1, "gpu-throttle-alert", 0),
        **cooling(2, "cpu-throttle-alert", 0),
        "sys/class/hwmon/hwmon1/name": "ina3221\n",
        "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
        "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
        "sys/class/hwmon/hwmon3/oc2_event_cnt": "0\n",
        "sys/class/hwmon/hwmon3/oc3_event_cnt": "0\n",
    }
    return lay_files(root, files | more)


def thor(root: Path, **more: str) -> Path:
    """A Thor under JetPack 7.0 with pinned clocks, an idle GPU's sensor and an alert."""
    files = {
        "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
        "etc/nv_tegra_release": "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, "
        "EABI: aarch64, DATE: Fri Aug 22 00:55:42 UTC 2025\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n",
        "var/lib/nvpmodel/status": "pmode:0000",
        **gpu("gpu-gpc-0", 1575000000, 1575000000, 1575000000),
        **gpu("gpu-nvd-0", 1692000000, 1692000000, 1692000000),
        **gpu("bwmgr", 4266000000, 4266000000, 4266000000),
        **cpu(0, 2601000, 2601000, 2601000, 2601000),
        **zone(0, "tj-thermal", "55100\n", critical=114500),
        # The sensor of a GPU that is switched off answers with an error.
        **zone(1, "gpu-thermal", "", critical=114500),
        **cooling(9, "gpu-throttle-alert", 1),
        **cooling(12, "devfreq-gpu-gpc-0", 18),
        "sys/class/hwmon/hwmon5/name": "soctherm_oc\n",
        "sys/class/hwmon/hwmon5/oc1_event_cnt": "0\n",
        "sys/class/hwmon/hwmon5/oc2_event_cnt": "8\n",
        "sys/class/hwmon/hwmon5/oc3_event_cnt": "813\n",
    }
    return lay_files(root, files | more)
