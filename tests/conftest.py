"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgeseg.kernels._cuda_library import CudaLibrary

DEMO_CHECKPOINT = Path(__file__).parents[1] / "edgeseg" / "assets" / "segdino_v2_demo.pth"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what this machine's cache holds out of the tests, and the tests out of the cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EDGESEG_CACHE", str(tmp_path_factory.mktemp("cache") / "edgeseg"))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and checkpoints that ``EDGESEG_DATA`` names."""
    folder = os.environ.get("EDGESEG_DATA")
    if not folder:
        pytest.skip("EDGESEG_DATA names no folder of real images and checkpoints")
    return Path(folder)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> CudaLibrary:
    """The library of CUDA kernels as the host runs it."""
    import cuda_host

    if cuda_host.COMPILER is None:
        pytest.skip("no C++ compiler")
    return cuda_host.compile_kernels(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def quick_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks without what takes long and is tested by itself: rates, and other processes."""
    from edgeseg.bench.result import LimitsRecord
    from edgeseg.workflows import _bench_measure, _bench_run
    from edgeseg.workflows._bench_child import ChildFigures

    limits = LimitsRecord({"int8": 400.0, "bf16": 200.0, "fp32": 100.0}, 10.0, 1, "made up")
    monkeypatch.setattr(_bench_run, "measure_limits", lambda threads, progress: limits)
    monkeypatch.setattr(
        _bench_run, "measure_child", lambda name, spec, tensors: ChildFigures(250.0, 100.0)
    )
    monkeypatch.setattr(_bench_measure, "THROUGHPUT_S", 0.01)
    monkeypatch.setattr(_bench_measure, "ENERGY_S", 0.01)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkpoint and its graph for each layout; nobody changes them."""
    pytest.importorskip("torch")
    from exported_graphs import export_all

    return export_all(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def exported_plain(exported: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same without rewrites."""
    from exported_graphs import export_plain

    return export_plain(exported, tmp_path_factory.mktemp("exported_plain"))


@pytest.fixture(scope="session")
def generated_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``calibration`` and ``validation`` data folders of generated frames with masks."""
    from edgeseg.synthetic import generate_dataset

    root = tmp_path_factory.mktemp("generated")
    generate_dataset(root / "calibration", 36, seed=1, height_px=160, width_px=200)
    generate_dataset(root / "validation", 8, seed=2, height_px=160, width_px=200)
    return root


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory, generated_data: Path) -> Path:
    """The embedded checkpoint, built for INT8 and scored on generated frames."""
    pytest.importorskip("torch")
    from edgeseg import build

    path = tmp_path_factory.mktemp("demo") / "demo.edgeseg"
    build(
        DEMO_CHECKPOINT,
        output=path,
        int8=True,
        fp16=True,
        data=generated_data / "calibration",
        val=generated_data / "validation",
    )
    return path
