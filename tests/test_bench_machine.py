"""What a benchmark says of its machine, from files laid as the systems show them."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import numpy as np
import pytest
from jetson_files import cooling, lay_files, orin_nano, zone

from edgeseg import _linux
from edgeseg.bench.machine import ThrottleWatch, describe_machine

XEON = "model name\t: Some Xeon\nflags\t\t: fpu avx2 avx512_vnni avx512_bf16 amx_bf16 amx_int8\n"


def counters(root, thread: int, core: int, package: int) -> None:
    folder = f"sys/devices/system/cpu/cpu{thread}/thermal_throttle"
    lay_files(
        root,
        {
            f"{folder}/core_throttle_count": f"{core}\n",
            f"{folder}/package_throttle_count": f"{package}\n",
        },
    )


def test_a_pc(tmp_path):
    policies = "sys/devices/system/cpu/cpufreq/policy"
    lay_files(
        tmp_path,
        {
            "proc/cpuinfo": XEON,
            "proc/meminfo": f"MemTotal: {16 << 20} kB\nMemAvailable: 1024 kB\n",
            f"{policies}0/scaling_governor": "powersave\n",
            f"{policies}1/scaling_governor": "performance\n",
            f"{policies}2/scaling_governor": "powersave\n",
        },
    )
    found = describe_machine(("numpy", "no-such-thing"), throttling="none", root=tmp_path)
    assert found.cpu == "Some Xeon"
    assert found.name == f"Some Xeon, {platform.system()} {platform.release()}"
    assert found.isa == ("avx2", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    assert found.memory_gib == 16.0
    assert found.governor == "performance, powersave"
    assert found.power_mode is None and found.throttling == "none"
    assert found.versions == {
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
    }
    assert np.__version__ == found.versions["numpy"]


def test_a_jetson_tells_its_power_mode(tmp_path):
    features = "Features\t: fp asimd asimdhp asimddp\n"
    found = describe_machine((), root=orin_nano(tmp_path, **{"proc/cpuinfo": features}))
    assert found.power_mode == "0 (15W)" and found.isa == ("asimddp", "asimdhp")
    assert found.name.startswith("NVIDIA Jetson Orin Nano") and found.governor is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), ("150000", 1), ("50000", 1), ("9e5", 8)])
def test_cores_are_those_that_the_control_group_grants(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))
    files = {"proc/self/cgroup": "0::/\n"}
    if quota is not None:
        files["sys/fs/cgroup/cpu.max"] = f"{int(float(quota))} 100000\n"
    assert describe_machine((), root=lay_files(tmp_path, files)).cores == cores


def test_memory_is_what_the_control_group_grants(tmp_path):
    files = {
        "proc/self/cgroup": "0::/\n",
        "proc/meminfo": f"MemTotal: {16 << 20} kB\n",
        "sys/fs/cgroup/memory.max": f"{4 << 30}\n",
    }
    assert describe_machine((), root=lay_files(tmp_path, files)).memory_gib == 4.0


def test_this_machine_is_described():
    found = describe_machine(("openvino",), throttling=ThrottleWatch().verdict())
    assert found.cores == _linux.usable_cores() or _linux.cpu_quota() is not None
    assert found.memory_gib > 0.5 and found.cpu and "openvino" in found.versions


def test_a_machine_without_counters_says_nothing_of_throttling(tmp_path):
    assert ThrottleWatch(tmp_path).verdict() is None


def test_counts_of_an_intel_processor_are_compared(tmp_path):
    counters(tmp_path, 0, core=5, package=100)
    counters(tmp_path, 1, core=0, package=100)
    watch = ThrottleWatch(tmp_path)
    assert watch.verdict() == "none"
    counters(tmp_path, 0, core=5, package=103)
    counters(tmp_path, 1, core=2, package=103)
    assert watch.verdict() == (
        "a core slowed down 2 times for heat; the processor slowed down 3 times for heat"
    )


def test_an_alert_of_a_jetson_counts_though_it_is_over(tmp_path):
    watch = ThrottleWatch(orin_nano(tmp_path))
    assert watch.verdict() == "none"
    lay_files(tmp_path, cooling(1, "gpu-throttle-alert", 1))
    watch.look()
    lay_files(tmp_path, cooling(1, "gpu-throttle-alert", 0))
    watch.look()
    assert watch.verdict() == "gpu-throttle-alert was raised"


def test_electrical_alarms_and_heat_of_a_jetson(tmp_path):
    count = "sys/class/hwmon/hwmon3/oc2_event_cnt"
    watch = ThrottleWatch(orin_nano(tmp_path, **{count: "8\n"}))
    lay_files(tmp_path, {count: "11\n", **zone(8, "tj-thermal", "96000\n", passive=99000)})
    assert watch.verdict() == (
        "slowed down 3 times for average over-current; "
        "at the end tj-thermal is 3.0 degrees below its limit"
    )
