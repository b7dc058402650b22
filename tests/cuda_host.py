"""The CUDA kernels as the host's compiler makes them, which needs neither nvcc nor a GPU.

The sources of the CUDA library compile as C++ too; there every thread of a launch is a call of the
same function that nvcc compiles for the device (``kernels/cuda/portable.cuh``). The fixture
``host`` in ``conftest.py`` compiles them once a session.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import edgeseg
from edgeseg.kernels._cuda_library import CudaLibrary, load_library

REPOSITORY = Path(__file__).resolve().parents[1]
KERNELS = REPOSITORY / "kernels"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def compile_shared(target: Path, *options: str) -> Path:
    assert COMPILER is not None
    command = [COMPILER, "-fPIC", "-shared", *options, "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def kernel_options(kernels: Path) -> tuple[str, ...]:
    """What the compiler is told to make a library of the CUDA kernels below a folder."""
    return (
        *("-std=c++17", "-O1", "-ffp-contract=off", "-x", "c++"),
        *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
        *(f"-I{kernels / folder}" for folder in ("include", "src", "cuda")),
        *(f'-DEDGESEG_VERSION="{edgeseg.__version__}"', '-DEDGESEG_CUDA_ARCHITECTURES="host"'),
        *(str(path) for path in sorted((kernels / "cuda").glob("*.cu"))),
    )


def compile_kernels(folder: Path) -> CudaLibrary:
    """The library as the host runs it."""
    path = compile_shared(folder / "libedgeseg_cuda_host.so", *kernel_options(KERNELS))
    return load_library(path)
