"""The machine's limits: that they are measured on what they claim, not how high they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from jetson_files import lay_files

from edgeseg import _linux
from edgeseg.bench import limits as module
from edgeseg.bench.limits import measure_limits
from edgeseg.errors import BackendError, UsageError

ov = pytest.importorskip("openvino")


@pytest.fixture
def small(monkeypatch):
    """Models and arrays that take milliseconds."""
    monkeypatch.setattr(module, "_SHAPES", ((64, 128, 256),))
    monkeypatch.setattr(module, "_OPERATIONS", 2e7)
    monkeypatch.setattr(module, "_ROUNDS", 2)
    monkeypatch.setattr(module, "_LEAST_COPY_BYTES", 1 << 20)
    monkeypatch.setattr(module, "_CACHES", 0)


def compiled(arithmetic: str, *, signed: bool = True, hint: str = "f32", products: int = 4):
    quantised = arithmetic == "int8"
    model = module._chain(ov, (64, 128, 256), products, quantised=quantised, signed=signed)
    config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1}
    return ov.Core().compile_model(model, "CPU", config)


def test_every_arithmetic_of_this_processor_is_measured(small):
    steps = []
    found = measure_limits(1, progress=lambda *step: steps.append(step))
    capabilities = set(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    assert "fp32" in found.gops and set(found.gops) <= {"int8", "bf16", "fp32"}
    if _linux.cpu_features() & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        assert "int8" in found.gops
    if "BF16" not in capabilities:
        assert "bf16" not in found.gops and "bf16" in found.how
    assert all(0.0 < rate < math.inf for rate in found.gops.values())
    assert 0.0 < found.bandwidth_gib_s < 1e4 and found.threads == 1
    assert "OpenVINO" in found.how and "copies 1 MiB" in found.how
    done = [step[1] for step in steps]
    assert done == list(range(1, steps[-1][2] + 1))
    assert {step[0] for step in steps} == {"limits"}


@pytest.mark.parametrize("signed", [False, True])
def test_the_execution_graph_decides_in_which_arithmetic_products_run(signed):
    if not _linux.cpu_features() & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        pytest.skip("this processor has no INT8 products of its own")
    int8 = compiled("int8", signed=signed)
    assert module._count(int8, "int8") == 4
    assert module._count(int8, "fp32") == module._count(int8, "bf16") == 0
    fp32 = compiled("fp32", products=6)
    assert module._count(fp32, "fp32") == 6 and module._count(fp32, "int8") == 0


def test_the_products_are_those_of_their_weights():
    """The chain is what its operations are counted for: dense, and alive to its end."""
    fp32 = compiled("fp32")
    x = np.random.default_rng(3).uniform(-1, 1, (1, 64, 128)).astype(np.float32)
    result = fp32(x)[0]
    generator = np.random.default_rng(0)
    there = generator.normal(0.0, 1 / np.sqrt(128), (256, 128))
    back = generator.normal(0.0, 1 / np.sqrt(256), (128, 256))
    expected = x.astype(np.float64) @ there.T @ back.T @ there.T @ back.T
    np.testing.assert_allclose(result, expected, atol=1e-4)
    for signed in (False, True):
        result = compiled("int8", signed=signed, products=32)(x)[0]
        assert result.shape == (1, 64, 128) and 0.3 < np.abs(result).mean() < 3.0


def test_an_arithmetic_that_does_not_really_run_is_left_out_and_named(small, monkeypatch):
    untrue = module._PRECISIONS | {"int8": frozenset({"i2"})}
    monkeypatch.setattr(module, "_PRECISIONS", untrue)
    found = measure_limits(1)
    assert "int8" not in found.gops and "fp32" in found.gops
    assert "not run by this processor or library: int8" in found.how
    monkeypatch.setattr(module, "_PRECISIONS", dict.fromkeys(untrue, frozenset({"i2"})))
    with pytest.raises(BackendError, match="no known arithmetic"):
        measure_limits(1)


@pytest.mark.parametrize("threads", [0, 4096])
def test_threads_that_there_are_not(threads):
    with pytest.raises(UsageError, match=f"{threads} threads .* may use 1 to"):
        measure_limits(threads)


def test_the_copy_fits_no_cache_and_fits_the_memory(tmp_path):
    files = {"proc/meminfo": f"MemTotal: {64 << 20} kB\nMemAvailable: {32 << 20} kB\n"}
    # Two dies of four threads with 96 MiB each; the second level is smaller.
    for cpu, shared in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        for index, level, size in ((2, 2, "1024K"), (3, 3, "98304K")):
            folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
            files[f"{folder}/level"] = f"{level}\n"
            files[f"{folder}/size"] = f"{size}\n"
            files[f"{folder}/shared_cpu_list"] = f"{shared}\n" if level == 3 else f"{cpu}\n"
    lay_files(tmp_path, files)
    assert module._copy_bytes(tmp_path) == 4 * 2 * 96 * 2**20
    lay_files(tmp_path, {"proc/meminfo": "MemTotal: 4194304 kB\nMemAvailable: 1048576 kB\n"})
    assert module._copy_bytes(tmp_path) == 128 * 2**20
    assert module._copy_bytes(tmp_path / "nothing") == 256 * 2**20
