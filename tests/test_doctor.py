"""The examination of a machine: what it reads, and that nothing it meets can stop it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg import _linux
from edgeseg.workflows import _doctor_jetson, _doctor_live, _doctor_nvidia, _probe
from edgeseg.workflows import doctor as doctor_module
from edgeseg.workflows._probe import ProbeError, probe
from edgeseg.workflows.doctor import Finding, doctor

RUN = subprocess.run
X86 = """processor\t: 0
flags\t\t: fpu sse avx2 f16c avx512_vnni amx_int8

processor\t: 1
flags\t\t: fpu
"""
ARM = """processor\t: 0
Features\t: fp asimd asimdhp asimddp i8mm
"""


def lay(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_cpu_features(tmp_path):
    flags = _linux.cpu_features(lay(tmp_path / "x86", proc__cpuinfo=X86))
    assert flags == {"fpu", "sse", "avx2", "f16c", "avx512_vnni", "amx_int8"}
    assert "i8mm" in _linux.cpu_features(lay(tmp_path / "arm", proc__cpuinfo=ARM))
    assert _linux.cpu_features(tmp_path / "none") == frozenset()


def test_quota_of_control_groups_version_2(tmp_path):
    root = lay(tmp_path, proc__self__cgroup="0::/outer/inner\n")
    assert _linux.cpu_quota(root) is None
    groups = root / "sys/fs/cgroup"
    lay(groups / "outer/inner", **{"cpu.max": "max 100000\n", "memory.max": "max\n"})
    assert _linux.cpu_quota(root) is None
    lay(groups / "outer", **{"cpu.max": "150000 100000\n", "memory.max": str(3 << 30)})
    assert _linux.cpu_quota(root) == 1.5
    assert _linux.memory_limit_bytes(root) == 3 << 30


def test_quota_of_control_groups_version_1(tmp_path):
    root = lay(tmp_path, proc__self__cgroup="4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n")
    cpu, memory = root / "sys/fs/cgroup/cpu/job", root / "sys/fs/cgroup/memory/job"
    lay(cpu, **{"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"})
    lay(memory, **{"memory.limit_in_bytes": str((1 << 63) - 4096)})
    assert _linux.cpu_quota(root) is None and _linux.memory_limit_bytes(root) is None
    lay(cpu, **{"cpu.cfs_quota_us": "50000\n"})
    lay(memory, **{"memory.limit_in_bytes": "1048576"})
    assert _linux.cpu_quota(root) == 0.5 and _linux.memory_limit_bytes(root) == 1 << 20


def test_a_container_sees_its_limits_at_the_mount(tmp_path):
    root = lay(tmp_path, proc__self__cgroup="0::/docker/of-the-host\n")
    lay(root / "sys/fs/cgroup", **{"cpu.max": "200000 100000", "memory.max": "4096"})
    assert _linux.cpu_quota(root) == 2.0
    assert _linux.memory_limit_bytes(root) == 4096


def test_memory(tmp_path):
    root = lay(tmp_path, proc__meminfo="MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n")
    assert _linux.available_memory_bytes(root) == (2 << 20, 1 << 20)
    assert _linux.available_memory_bytes(tmp_path / "none") is None


def test_intel_graphics(tmp_path):
    drm = tmp_path / "sys/class/drm"
    lay(drm / "renderD128/device", vendor="0x8086\n")
    lay(drm / "renderD129/device", vendor="0x10de\n")
    assert _linux.intel_render_devices(tmp_path) == ("renderD128",)


def test_a_probe_tells_what_the_library_tells():
    openvino = pytest.importorskip("openvino")
    found = probe("openvino")
    assert openvino.__version__.startswith(found["version"])
    assert set(found["devices"]) == set(openvino.Core().available_devices)


def child(monkeypatch, code: str) -> None:
    """Let the probe's child run ``code`` instead."""

    def other(command, **options):
        return RUN([command[0], "-c", code], **options)

    monkeypatch.setattr(_probe.subprocess, "run", other)


def test_a_library_that_kills_its_process_is_reported(monkeypatch):
    child(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.raises(ProbeError, match=r"kills the process.*SIGILL"):
        probe("openvino")
    finding = by_name(doctor())["OpenVINO"]
    assert finding.status == "missing" and "SIGILL" in finding.detail and finding.mend


def test_a_library_that_raises_or_hangs_is_reported(monkeypatch):
    child(monkeypatch, "raise ImportError('libfoo.so.9: cannot open shared object file')")
    with pytest.raises(ProbeError, match=r"libfoo\.so\.9"):
        probe("openvino")
    monkeypatch.setattr(_probe, "_TIMEOUT_S", 0.2)
    child(monkeypatch, "import time; time.sleep(30)")
    with pytest.raises(ProbeError, match="no answer"):
        probe("openvino")


def test_findings_are_whole():
    findings = doctor()
    names = [finding.name for finding in findings]
    assert len(names) == len(set(names))
    for finding in findings:
        assert finding.status in ("ok", "missing", "warning")
        assert finding.detail
        assert bool(finding.mend) or finding.status != "missing", finding
        assert finding.status != "ok" or not finding.mend, finding
        assert "cannot be examined" not in finding.detail, finding
    found = by_name(findings)
    assert str(len(os.sched_getaffinity(0))) in found["CPU cores"].detail
    assert importlib.metadata.version("openvino").split("-")[0] in found["OpenVINO"].detail


def test_heavy_libraries_are_not_loaded_into_the_caller():
    code = (
        "import sys\n"
        "from edgeseg.workflows.doctor import doctor\n"
        "doctor()\n"
        "heavy = {'torch', 'onnx', 'openvino', 'onnxruntime', 'av', 'cv2', 'triton', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_nothing_can_stop_it(monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("out of order")

    for module, name in (
        (doctor_module, "probe"),
        (doctor_module, "package_version"),
        (doctor_module, "output_of"),
        (_doctor_nvidia, "probe"),
        (_doctor_nvidia, "package_version"),
        (_doctor_nvidia, "cache_root"),
        (_doctor_jetson, "read_jetson"),
        (doctor_module.shutil, "which"),
        (_linux, "cpu_features"),
        (_linux, "usable_cores"),
        (_linux, "available_memory_bytes"),
    ):
        monkeypatch.setattr(module, name, fail)
    findings = doctor()
    assert len(findings) > 10
    broken = by_name(findings)["CPU cores"]
    assert broken.status == "warning" and "out of order" in broken.detail


def versions(monkeypatch, **known: str) -> None:
    table = {name.replace("_", "-"): version for name, version in known.items()}
    monkeypatch.setattr(doctor_module, "package_version", table.get)
    monkeypatch.setattr(_doctor_nvidia, "package_version", table.get)


def test_clashing_wheels_are_named(monkeypatch):
    versions(
        monkeypatch,
        onnxruntime="1.20",
        onnxruntime_gpu="1.20",
        opencv_python="4.10",
        opencv_python_headless="4.10",
    )
    found = by_name(doctor())
    for name, wheels in (
        ("ONNX Runtime", "onnxruntime onnxruntime-gpu"),
        ("OpenCV", "opencv-python opencv-python-headless"),
    ):
        assert found[name].status == "warning" and "overwrite" in found[name].detail
        assert f"pip uninstall -y {wheels}" in found[name].mend


def test_missing_libraries_come_with_their_command(monkeypatch):
    versions(monkeypatch, torch="2.8")
    found = by_name(doctor())
    for name, mend in {
        "OpenVINO": "pip install 'openvino",
        "ONNX Runtime": "edgeseg[onnxruntime]",
        "PyAV": "pip install 'av",
        "export": "edgeseg[export]",
        "ModelOpt": "edgeseg[modelopt]",
        "volumes": "edgeseg[volumes]",
        "Triton": "pip install triton",
    }.items():
        assert found[name].status == "missing" and mend in found[name].mend, found[name]
    assert "torch" not in found["export"].detail.split(":")[0].split(", ")


def test_the_native_library_comes_with_its_command(monkeypatch):
    def absent(name):
        raise ProbeError("edgeseg.errors.NativeLibraryError: it is not here")

    monkeypatch.setattr(doctor_module, "probe", absent)
    finding = doctor_module._kernels()
    assert finding.status == "missing"
    assert "not here" in finding.detail and "pip install" in finding.mend


def test_a_quota_below_the_visible_cores_asks_for_threads(monkeypatch):
    monkeypatch.setattr(_linux, "usable_cores", lambda: 16)
    monkeypatch.setattr(_linux, "cpu_quota", lambda: 2.5)
    finding = doctor_module._cores()
    assert finding.status == "warning" and finding.mend == "pass --threads 2"


def test_a_processor_without_int8_products_is_a_warning(monkeypatch):
    for flags, status in (
        ({"avx2"}, "warning"),
        ({"avx2", "avx_vnni"}, "ok"),
        ({"asimddp"}, "ok"),
        (set(), "warning"),
    ):
        monkeypatch.setattr(_linux, "cpu_features", lambda flags=flags: frozenset(flags))
        assert doctor_module._cpu().status == status


def test_the_verb_shows_the_commands_whole(monkeypatch, capsys):
    from edgeseg.cli import main

    mend = "pip install 'edgeseg[volumes]'"
    monkeypatch.setattr(doctor_module, "doctor", lambda: [Finding("x", "missing", "y", mend)])
    assert main(["doctor"]) == 0
    assert mend in capsys.readouterr().out


def live_findings(monkeypatch, programs: set[str], packages: dict[str, str]) -> dict[str, Finding]:
    monkeypatch.setattr(
        _doctor_live.shutil, "which", lambda name: f"/bin/{name}" if name in programs else None
    )
    monkeypatch.setattr(_doctor_live, "output_of", lambda *command: "one\ntwo 1.22\n")
    monkeypatch.setattr(_doctor_live, "find_program", lambda name: f"/bin/{name}")
    monkeypatch.setattr(_doctor_live, "package_version", packages.get)
    return by_name([check() for _, check in _doctor_live.checks()])


def test_what_live_runs_lack_comes_with_its_command(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    found = live_findings(monkeypatch, {"ffmpeg"}, {"starlette": "1"})
    assert found["ffmpeg"].status == "missing" and "ffplay" in found["ffmpeg"].detail
    assert found["ffmpeg"].mend == "sudo apt-get install ffmpeg"
    assert "gstreamer1.0-plugins-bad" in found["GStreamer"].mend
    assert found["live page"].mend == "pip install 'edgeseg[web]'"
    assert "uvicorn" in found["live page"].detail and "starlette" not in found["live page"].detail
    assert "--serve" in found["screen"].detail


def test_what_live_runs_need_is_found(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":5")
    monkeypatch.setattr(_doctor_live, "has_element", lambda inspector, element: element == "gdppay")
    programs = {"ffmpeg", "ffplay", "gst-launch-1.0", "gst-inspect-1.0"}
    packages = dict.fromkeys(("starlette", "uvicorn", "websockets", "h11"), "1.0")
    found = live_findings(monkeypatch, programs, packages)
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["screen"].detail == "DISPLAY=:5"
    monkeypatch.setattr(_doctor_live, "has_element", lambda inspector, element: False)
    found = live_findings(monkeypatch, programs, packages)
    assert found["GStreamer"].status == "missing"
    assert found["GStreamer"].mend.endswith("gstreamer1.0-plugins-bad")
