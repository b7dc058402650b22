"""What a device would trip over, looked for by sanitizers and by the double of CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_double import FakeRuntime, fake_kernels
from cuda_host import COMPILER, KERNELS, kernel_options

from edgeseg.bench import gpu_checks, gpu_sanitize
from edgeseg.gpu import Gpu
from edgeseg.kernels import cuda
from edgeseg.kernels._cuda_library import CudaLibrary

RUN = """
import sys
import numpy as np
from pathlib import Path
from edgeseg.bench.gpu_checks import check_home, failures
from edgeseg.bench.gpu_homes import CudaHome
from edgeseg.bench.gpu_memory import implausible
from edgeseg.kernels._cuda_library import load_library
from edgeseg.kernels.cuda import DevicePointer

class HostMemory:
    stream = 0
    def __init__(self):
        self.held = {}
    def put(self, array):
        copy = np.array(array)
        pointer = DevicePointer(copy.ctypes.data, copy.shape, copy.dtype)
        self.held[copy.ctypes.data] = copy
        return pointer
    def empty(self, shape, dtype):
        return self.put(implausible(shape, dtype))
    def get(self, pointer):
        return self.held[pointer.address].copy()

checks = check_home(CudaHome(HostMemory(), load_library(Path(sys.argv[1]))))
assert checks and not failures(checks), failures(checks)
print(len(checks), "checks passed")
"""


def sanitizer_runtime() -> str | None:
    """The library of the address sanitizer, which has to be loaded before Python."""
    if COMPILER is None:
        return None
    command = [COMPILER, "-print-file-name=libasan.so"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    # A compiler that has none repeats the name.
    return said if Path(said).is_absolute() and Path(said).exists() else None


def run_sanitized(folder: Path, sources: Path) -> subprocess.CompletedProcess[str]:
    assert COMPILER is not None
    library = folder / "libedgeseg_cuda_host.so"
    command = [
        *(COMPILER, "-fPIC", "-shared", *kernel_options(sources), "-o", str(library)),
        *("-fsanitize=address,alignment,bounds", "-fno-sanitize-recover=all"),
        "-O0",  # compiles faster, and takes nothing away
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    environment = {
        **os.environ,
        "LD_PRELOAD": str(sanitizer_runtime()),
        "ASAN_OPTIONS": "detect_leaks=0",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", RUN, str(library)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )


def test_the_command_says_why_it_cannot_start(capsys: pytest.CaptureFixture[str]) -> None:
    if cuda.available():
        assert gpu_sanitize.main() == 0
        assert "0 failed" in capsys.readouterr().err
    else:
        assert gpu_sanitize.main() == 1
        assert "driver" in capsys.readouterr().err


@pytest.mark.skipif(sanitizer_runtime() is None, reason="no compiler with the address sanitizer")
def test_no_kernel_leaves_its_arrays_or_reads_across_their_alignment(tmp_path: Path) -> None:
    """Every byte beyond an array is poisoned, and words must lie where a device can read them."""
    done = run_sanitized(tmp_path, KERNELS)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "checks passed" in done.stdout


@pytest.mark.parametrize("seed", [0, 1])
def test_the_kernels_pass_on_a_device_that_does_as_little_as_it_may(
    host: CudaLibrary, seed: int
) -> None:
    """On streams that run when somebody waits, and from graphs."""
    runtime = FakeRuntime(seed=seed)
    with Gpu.open(runtime=runtime) as gpu:
        checks = gpu_sanitize.check_device(gpu, fake_kernels(runtime, host))
    assert set(checks) == {"directly", "from graphs"}
    for found in checks.values():
        assert found
        assert not gpu_checks.failures(found)
