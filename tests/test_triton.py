"""The Triton kernels: interpreted, run on a GPU where there is one, compiled where there is none.

Each in a process of its own, since Triton decides when it is imported whether it interprets, and
other tests share this process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ARCHITECTURES = {"87": "sm_87", "90": "sm_90a", "110": "sm_110a"}
"""Jetson Orin, Hopper and Jetson Thor."""

for library in ("torch", "triton"):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'edgeseg[triton]'", True)


def run(*arguments, cache, interpret=False):
    environment = {
        **os.environ,
        "TRITON_CACHE_DIR": str(cache),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def run_cases(cache, interpret):
    done = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS / "triton_cases.py"),
        cache=cache,
        interpret=interpret,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_kernels_equal_their_references_in_the_interpreter(tmp_path):
    run_cases(tmp_path, interpret=True)


def test_the_kernels_equal_their_references_on_the_gpu(tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run_cases(tmp_path, interpret=False)


def test_tensors_where_no_kernel_reaches_them_are_refused_with_what_to_do(tmp_path):
    done = run(
        "-c",
        "import torch\n"
        "from edgeseg.errors import InputError\n"
        "from edgeseg.kernels import triton_kernels\n"
        "try:\n"
        "    triton_kernels.smooth_z(torch.zeros(2, 2, 2), [1.0])\n"
        "except InputError as error:\n"
        "    print(error)\n",
        cache=tmp_path,
    )
    assert "on the CPU: pass tensor.cuda(), use edgeseg.kernels" in done.stdout, done.stderr


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_a_missing_library_is_named_with_the_line_that_installs_it(tmp_path, missing):
    done = run(
        "-c",
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "from edgeseg.errors import MissingDependencyError\n"
        "try:\n"
        "    import edgeseg.kernels.triton_kernels\n"
        "except MissingDependencyError as error:\n"
        "    print(error)\n",
        cache=tmp_path,
    )
    assert repr(missing) in done.stdout, done.stderr
    assert "pip install 'edgeseg[triton]'" in done.stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    done = run(TESTS / "triton_compile.py", *ARCHITECTURES, cache=tmp_path_factory.mktemp("cache"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("arch", ARCHITECTURES.values())
def test_every_kernel_compiles_without_a_gpu_and_fits_its_registers(compiled, arch):
    found = [launch for launch in compiled if launch["arch"] == arch]
    assert len(found) >= 12
    # A few values are ptxas's choice; a tile that does not fit spills hundreds of bytes.
    spilling = [launch for launch in found if launch["spilled_bytes"] > 128]
    assert not spilling, spilling
