"""What is read off a Jetson's files, on files as Orin and Thor show them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jetson_files import ORIN_NANO, cooling, gpu, lay_files, orin_nano, thor, zone

from edgeseg import _optional
from edgeseg._jetson import JETPACKS, PowerMode, is_jetson, jetpack_of, read_jetson
from edgeseg._optional import require
from edgeseg.errors import MissingDependencyError


def test_an_orin(tmp_path):
    state = read_jetson(orin_nano(tmp_path))
    assert state is not None
    assert state.model == ORIN_NANO
    assert state.l4t == "36.4.3"
    assert state.jetpack is not None and state.jetpack.tensorrt == "10.3.0"
    assert state.power_mode == PowerMode(0, "15W")
    assert state.fastest_mode == PowerMode(2, "MAXN_SUPER")
    clocks = {clock.name: clock for clock in state.clocks}
    assert list(clocks) == ["GPU", "CPU0", "CPU4"]
    assert clocks["GPU"].current_hz == 306e6
    assert clocks["GPU"].highest_hz == 612e6 and clocks["GPU"].fastest_hz == 1020e6
    assert clocks["GPU"].capped and not clocks["GPU"].pinned
    assert clocks["CPU4"].current_hz == 1497.6e6 and clocks["CPU4"].fastest_hz == 1728e6
    zones = {zone.name: zone for zone in state.zones}
    # The switched-off sensor is left out; the trip that starts the fan slows nothing.
    assert set(zones) == {"cpu-thermal", "gpu-thermal", "tj-thermal"}
    assert zones["gpu-thermal"].margin_c == pytest.approx(99 - 48.5)
    assert zones["tj-thermal"].slows_at_c is None
    assert zones["tj-thermal"].margin_c == pytest.approx(104.5 - 51.687)
    assert state.throttles == ()
    assert dict(state.over_current) == {
        "under-voltage": 0,
        "average over-current": 0,
        "instantaneous over-current": 0,
    }


def test_a_thor(tmp_path):
    state = read_jetson(thor(tmp_path))
    assert state is not None
    assert state.jetpack is not None and state.jetpack.name == "7.0, 7.1"
    assert state.power_mode == state.fastest_mode == PowerMode(0, "MAXN")
    (clock, cores) = state.clocks
    assert clock.name == "GPU" and clock.current_hz == 1575e6
    assert clock.pinned and not clock.capped and cores.pinned
    assert [zone.name for zone in state.zones] == ["tj-thermal"]
    # A fan or a governor at work is no alert.
    assert state.throttles == ("gpu-throttle-alert",)
    assert dict(state.over_current)["instantaneous over-current"] == 813


def test_other_machines(tmp_path):
    assert read_jetson(tmp_path) is None
    pi = lay_files(tmp_path / "pi", {"proc/device-tree/model": "Raspberry Pi 5\0"})
    assert not is_jetson(pi) and read_jetson(pi) is None


def test_a_jetson_that_says_little(tmp_path):
    root = lay_files(tmp_path, {"proc/device-tree/model": "NVIDIA Jetson Orin NX\0"})
    state = read_jetson(root)
    assert state is not None
    assert state.l4t is None and state.jetpack is None and state.power_mode is None
    assert state.clocks == () and state.zones == () and state.over_current == ()


def test_a_container_has_the_release_but_not_the_name(tmp_path):
    text = "# R39 (release), REVISION: 2.1, GCID: 46758480, BOARD: generic, EABI: aarch64\n"
    state = read_jetson(lay_files(tmp_path, {"etc/nv_tegra_release": text}))
    assert state is not None and state.l4t == "39.2.1"
    assert state.jetpack is not None and state.jetpack.tensorrt == "10.16.2"


@pytest.mark.parametrize(
    ("l4t", "tensorrt"),
    [
        ("35.4.1", "8.5.2"),
        ("36.3.0", "8.6.2"),
        ("36.4.7", "10.3.0"),
        ("36.5.0", "10.3.0"),
        ("38.4.0", "10.13.3"),
        ("39.2", "10.16.2"),
        ("32.7.1", None),
        ("40.1.0", None),
        ("36", None),
        ("", None),
    ],
)
def test_releases(l4t, tensorrt):
    found = jetpack_of(l4t)
    assert (found.tensorrt if found else None) == tensorrt


def test_the_table_has_each_release_once_and_serves_what_has_strong_typing():
    releases = [release for jetpack in JETPACKS for release in jetpack.l4t]
    assert len(releases) == len(set(releases)) and releases == sorted(releases)
    for jetpack in JETPACKS:
        assert jetpack.served == (tuple(map(int, jetpack.tensorrt.split("."))) >= (10, 3))


def test_a_mode_that_the_board_does_not_describe(tmp_path):
    state = read_jetson(orin_nano(tmp_path, **{"var/lib/nvpmodel/status": "pmode:0009"}))
    assert state is not None and state.power_mode == PowerMode(9, "")


def test_modes_in_any_order_of_words(tmp_path):
    conf = "< POWER_MODEL NAME=MAXN ID=3 >\n<POWER_MODEL ID=1 NAME=MODE_15W>\n< POWER_MODEL ID=x >"
    state = read_jetson(orin_nano(tmp_path, **{"etc/nvpmodel.conf": conf}))
    assert state is not None and state.fastest_mode == PowerMode(3, "MAXN")


def test_the_gpu_of_jetpack_5_and_a_limit_that_is_none(tmp_path):
    root = lay_files(
        tmp_path,
        {"proc/device-tree/model": "NVIDIA Jetson AGX Orin\0"}
        | gpu("17000000.ga10b", 1300500000, 306000000, 2**63 - 1, "306000000 1300500000"),
    )
    state = read_jetson(root)
    assert state is not None
    (clock,) = state.clocks
    assert clock.highest_hz == clock.fastest_hz == 1300.5e6 and not clock.capped


def test_alerts_are_ordered_by_name(tmp_path):
    root = orin_nano(
        tmp_path, **cooling(10, "cpu-throttle-alert", 1), **cooling(3, "soc2-throttle-alert", 2)
    )
    state = read_jetson(root)
    assert state is not None and state.throttles == ("cpu-throttle-alert", "soc2-throttle-alert")


def test_folders_and_unreadable_files_in_place_of_files(tmp_path):
    root = orin_nano(tmp_path)
    for name in ("sys/class/thermal/thermal_zone0/temp", "var/lib/nvpmodel/status"):
        (root / name).unlink()
        (root / name).mkdir()
    state = read_jetson(root)
    assert state is not None and state.power_mode is None
    assert "cpu-thermal" not in {zone.name for zone in state.zones}


def test_only_the_beginning_of_a_file_without_end_is_read(tmp_path):
    root = orin_nano(tmp_path)
    (root / "etc/nvpmodel.conf").unlink()
    (root / "etc/nvpmodel.conf").symlink_to("/dev/zero")
    state = read_jetson(root)
    assert state is not None and state.fastest_mode is None


TEXTS = st.text("0159-.e<>=: \n\0²٣ABCDEINMOPRW_", max_size=40) | st.sampled_from(
    [
        "-1",
        "9" * 30,
        "1e9",
        "NaN",
        "306000000\n",
        "0x10",
        "< POWER_MODEL ID=2 NAME=MAXN >",
        "pmode:",
    ]
)
NAMES = sorted(
    [
        "etc/nvpmodel.conf",
        "etc/nv_tegra_release",
        "var/lib/nvpmodel/status",
        "sys/class/hwmon/hwmon3/oc1_event_cnt",
        *gpu("17000000.gpu", 1, 1, 1, "1"),
        *zone(0, "x", "1", critical=1, passive=1),
        *cooling(1, "x", 1),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), TEXTS, max_size=8))
def test_whatever_stands_in_the_files_is_read_or_left_out(tmp_path_factory, files):
    root = orin_nano(tmp_path_factory.mktemp("jetson"), **files)
    state = read_jetson(root)
    assert state is not None
    for clock in state.clocks:
        assert 1e6 <= clock.current_hz <= 1e11
    for found in state.zones:
        assert -60 <= found.temperature_c <= 250
    assert all(count >= 0 for _, count in state.over_current)


def test_reading_changes_nothing(tmp_path):
    root = orin_nano(tmp_path)
    before = {path: path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}
    read_jetson(root)
    assert {path: path.read_bytes() for path in Path(root).rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("module", "command"),
    [("tensorrt", "python3-libnvinfer"), ("cuda.bindings.nothing", "'cuda-bindings>=12.8,<13'")],
)
def test_what_is_missing_on_a_jetson_comes_from_jetpack(monkeypatch, module, command):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"edgeseg\[tensorrt\]"):
        require(module, "tensorrt")
    monkeypatch.setattr(_optional, "is_jetson", lambda: True)
    with pytest.raises(MissingDependencyError) as caught:
        require(module, "tensorrt")
    assert command in str(caught.value) and "edgeseg[" not in str(caught.value)
    with pytest.raises(MissingDependencyError, match=r"edgeseg\[onnxruntime\]"):
        require(module, "onnxruntime")
