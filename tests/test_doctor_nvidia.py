"""What ``doctor`` says on NVIDIA devices, of answers that such devices give."""

from __future__ import annotations

import pytest
from jetson_files import cooling, lay_files, orin_nano, thor, zone

from edgeseg import _jetson
from edgeseg.workflows import _doctor_jetson, _doctor_nvidia
from edgeseg.workflows import doctor as doctor_module
from edgeseg.workflows._findings import Finding
from edgeseg.workflows._probe import ProbeError, probe

ORIN = {"name": "NVIDIA Orin", "capability": "8.7"}


@pytest.fixture
def machine(monkeypatch):
    """Answers of the probes (an exception's text for one that fails) and installed packages."""
    answers: dict = {}
    packages: dict = {}

    def ask(name):
        answer = answers.get(name, "OSError: libcuda.so.1: cannot open shared object file")
        if isinstance(answer, str):
            raise ProbeError(answer)
        return answer

    monkeypatch.setattr(_doctor_nvidia, "probe", ask)
    monkeypatch.setattr(_doctor_nvidia, "package_version", packages.get)
    return answers, packages


@pytest.fixture
def board(monkeypatch):
    """Make ``doctor`` read the files beneath a folder instead of this machine's."""

    def use(root):
        monkeypatch.setattr(_doctor_jetson, "read_jetson", lambda: _jetson.read_jetson(root))
        for module in (_doctor_jetson, _doctor_nvidia):
            monkeypatch.setattr(module, "is_jetson", lambda: _jetson.is_jetson(root))
        return {name: check() for name, check in _doctor_jetson.checks()}

    return use


def test_an_orin_in_a_slow_mode(board, tmp_path):
    found = board(orin_nano(tmp_path))
    assert list(found) == ["Jetson", "Jetson clocks", "Jetson throttling"]
    assert found["Jetson"].status == "ok"
    assert "L4T 36.4.3 (JetPack 6.1 to 6.2.2: TensorRT 10.3.0, CUDA 12.6)" in found["Jetson"].detail
    clocks = found["Jetson clocks"]
    assert clocks.status == "warning" and "0 (15W)" in clocks.detail
    assert "GPU at 306 of 612 MHz (the hardware: 1020)" in clocks.detail
    assert clocks.mend.startswith("sudo nvpmodel -m 2 ")
    assert found["Jetson throttling"].status == "ok"
    assert "51.7 degrees" in found["Jetson throttling"].detail


def test_an_orin_in_its_fastest_mode(board, tmp_path):
    found = board(orin_nano(tmp_path, **{"var/lib/nvpmodel/status": "pmode:0002"}))
    assert found["Jetson clocks"].status == "ok" and not found["Jetson clocks"].mend
    assert "sudo jetson_clocks  pins them" in found["Jetson clocks"].detail


def test_a_thor_that_throttles(board, tmp_path):
    found = board(thor(tmp_path))
    assert "pins them" not in found["Jetson clocks"].detail
    heat = found["Jetson throttling"]
    assert heat.status == "warning" and "gpu-throttle-alert is raised" in heat.detail
    assert "813 times instantaneous over-current" in heat.detail and heat.mend


def test_heat_is_told_before_it_slows(board, tmp_path):
    near = zone(1, "gpu-thermal", "95500\n", critical=104500, passive=99000)
    heat = board(orin_nano(tmp_path, **near))["Jetson throttling"]
    assert heat.status == "warning" and "gpu-thermal is 3.5 degrees below its limit" in heat.detail


@pytest.mark.parametrize(("alarm", "status"), [(1, "warning"), (2, "warning"), (3, "ok")])
def test_electrical_alarms(board, tmp_path, alarm, status):
    files = {f"sys/class/hwmon/hwmon3/oc{alarm}_event_cnt": "15\n"}
    found = board(orin_nano(tmp_path, **files))["Jetson throttling"]
    assert found.status == status and "15 times" in found.detail
    assert ("power supply" in found.mend) == (status == "warning")


def test_a_cooling_device_that_is_no_alert_is_no_throttling(board, tmp_path):
    found = board(orin_nano(tmp_path, **cooling(4, "devfreq-17000000.gpu", 5)))
    assert found["Jetson throttling"].status == "ok"


def test_a_release_that_is_not_served(board, tmp_path):
    files = {"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, X"}
    finding = board(orin_nano(tmp_path, **files))["Jetson"]
    assert finding.status == "warning" and "JetPack 5.1" in finding.detail
    assert "JetPack 6.1" in finding.mend


def test_a_release_that_is_not_known(board, tmp_path):
    files = {"etc/nv_tegra_release": "# R41 (release), REVISION: 1.0, X"}
    finding = board(orin_nano(tmp_path, **files))["Jetson"]
    assert finding.status == "ok" and "L4T 41.1.0" in finding.detail


def test_nvpmodel_is_asked_where_its_file_is_missing(board, tmp_path, monkeypatch):
    answer = "NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN_SUPER\n2\n"
    monkeypatch.setattr(_doctor_jetson.shutil, "which", lambda *_a, **_o: "/usr/sbin/nvpmodel")
    monkeypatch.setattr(_doctor_jetson, "output_of", lambda *_command: answer)
    root = orin_nano(tmp_path)
    (root / "var/lib/nvpmodel/status").unlink()
    clocks = board(root)["Jetson clocks"]
    assert clocks.status == "ok" and "2 (MAXN_SUPER)" in clocks.detail


def test_another_machine_has_one_line(board, tmp_path):
    found = board(tmp_path)
    assert list(found) == ["Jetson"] and found["Jetson"].status == "ok"


def test_an_nvidia_device_is_described(machine):
    answers, packages = machine
    answers["cuda"] = {"version": "12.6", "devices": [ORIN]}
    answers["tensorrt"] = {"version": "10.3.0", "refused": None}
    packages["cuda-bindings"] = "12.9.4"
    assert _doctor_nvidia._cuda().status == "ok"
    assert "NVIDIA Orin (compute capability 8.7)" in _doctor_nvidia._cuda().detail
    assert _doctor_nvidia._tensorrt() == Finding("TensorRT", "ok", "10.3.0")
    assert _doctor_nvidia._bindings() == Finding(
        "cuda-bindings", "ok", "12.9.4, driver for CUDA 12.6"
    )


def test_a_refused_tensorrt_says_why(machine, board, tmp_path):
    answers, _ = machine
    answers["tensorrt"] = {"version": "10.4.0", "refused": "TensorRT 10.4.0 is refused: NaN"}
    board(tmp_path)
    finding = _doctor_nvidia._tensorrt()
    assert finding.status == "warning" and "NaN" in finding.detail
    assert "pip install" in finding.mend
    board(orin_nano(tmp_path))
    assert "JetPack 6.1" in _doctor_nvidia._tensorrt().mend


@pytest.mark.parametrize(
    ("driver", "mend"), [("12.8", "'tensorrt-cu12<11'"), ("13.0", "'edgeseg[tensorrt]'")]
)
def test_a_missing_tensorrt_comes_for_the_driver(
    machine, board, tmp_path, driver, mend, monkeypatch
):
    answers, _ = machine
    answers["cuda"] = {"version": driver, "devices": [ORIN]}
    answers["tensorrt"] = "ModuleNotFoundError: No module named 'tensorrt'"
    board(tmp_path)
    monkeypatch.setattr(_doctor_nvidia, "_has_nvidia_hardware", lambda: True)
    finding = _doctor_nvidia._tensorrt()
    assert finding.status == "missing" and mend in finding.mend


def test_the_probe_asks_the_backend_for_the_verdict(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for version, refused in (("8.6.2", True), ("10.4.0", True), ("10.3.0", False)):
        lay_files(tmp_path, {"tensorrt.py": f"__version__ = '{version}'\n"})
        found = probe("tensorrt")
        assert found["version"] == version and (found["refused"] is not None) == refused


@pytest.mark.parametrize(
    ("version", "driver", "status", "mend"),
    [
        ("13.5.0", "12.6", "warning", "pip install 'cuda-bindings>=12.8,<13'"),
        ("13.5.0", "13.0", "ok", ""),
        ("12.9.10", "13.2", "ok", ""),
        ("12.3.0", "12.6", "warning", "pip install 'cuda-bindings>=12.8,<13'"),
        ("12.9.10", "11.4", "warning", "a driver for CUDA 12.6 or later"),
        (None, "12.6", "missing", "pip install 'cuda-bindings>=12.8,<13'"),
        (None, "13.0", "missing", "pip install cuda-bindings"),
        ("13.5.0", None, "ok", ""),
    ],
)
def test_bindings_are_held_against_the_driver(machine, version, driver, status, mend):
    answers, packages = machine
    packages["cuda-bindings"] = version
    if driver is not None:
        answers["cuda"] = {"version": driver, "devices": [ORIN]}
    finding = _doctor_nvidia._bindings()
    assert (finding.status, finding.mend) == (status, mend)


def test_a_jetson_gets_its_own_commands(machine, board, tmp_path, monkeypatch):
    answers, _ = machine
    answers["tensorrt"] = "ModuleNotFoundError: No module named 'tensorrt'"
    board(orin_nano(tmp_path))
    monkeypatch.setattr(_doctor_nvidia.shutil, "which", lambda *_a, **_o: None)
    assert "python3-libnvinfer" in _doctor_nvidia._tensorrt().mend
    assert "nvidia-cuda-dev" in _doctor_nvidia._nvcc().mend
    cuda = _doctor_nvidia._cuda()
    assert "does not answer" in cuda.detail and "nvidia-driver" not in cuda.mend


def test_cuda_kernels_say_what_they_were_built_for(machine):
    answers, _ = machine
    answer = {"architectures": ["sm_87", "sm_90"], "path": "/x.so", "unavailable": "no device"}
    answers["cuda_kernels"] = answer
    finding = _doctor_nvidia._cuda_kernels()
    assert finding.status == "missing"
    assert "sm_87, sm_90" in finding.detail and "no device" in finding.detail
    answer["unavailable"] = None
    assert _doctor_nvidia._cuda_kernels().status == "ok"
    answers["cuda_kernels"] = "edgeseg.errors.NativeLibraryError: it is not here"
    finding = _doctor_nvidia._cuda_kernels()
    assert finding.status == "missing" and "EDGESEG_CUDA=ON" in finding.mend


def test_the_plan_cache_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    finding = _doctor_nvidia._plan_cache()
    assert finding == Finding("plan cache", "ok", f"{tmp_path / 'cache'}: empty")
    plan = tmp_path / "cache" / "tensorrt" / "x" / "plan.engine"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(bytes(3 << 20))
    (plan.parent / "record.json").write_text("{}")
    assert _doctor_nvidia._plan_cache().detail.endswith("cache: 2 files, 3.0 MiB")


def test_a_plan_cache_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "file" / "cache"))
    finding = _doctor_nvidia._plan_cache()
    assert finding.status == "warning" and "EDGESEG_CACHE" in finding.mend


def test_doctor_lists_them_in_order():
    names = [finding.name for finding in doctor_module.doctor()]
    ours = [name for name, _ in _doctor_nvidia.checks()]
    start = names.index(ours[0])
    assert names[start : start + len(ours)] == ours
