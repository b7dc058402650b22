"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgeseg.kernels._cuda_library import CudaLibrary

DEMO_CHECKPOINT = Path(__file__).parents[1] / "edgeseg" / "assets" / "segdino_v2_demo.pth"


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


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkpoint and its graph for each layout; nobody changes them."""
    pytest.importorskip("torch")
    from exported_graphs import export_all

    return export_all(tmp_path_factory.mktemp("exported"))


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
