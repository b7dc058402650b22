"""Wheels of NVIDIA's bindings; those of TensorRT are imported without TensorRT.

The extension module of the TensorRT bindings needs three shared libraries and nine functions of
them. With empty stand-ins on the loader's path it imports, and shows every class, enum and
signature; no call of TensorRT can be made that way. Wheels are kept in the cache of this user, what
is unpacked from them only in a temporary folder; nothing of them belongs into the repository.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

VERSIONS = {
    "10.3.0": "tensorrt-cu12-bindings",
    "10.13.3.9": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu12-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
"""The bindings that the code is checked against, and the distribution of each."""

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
DESCRIBE = Path(__file__).with_name("describe.py")
DOWNLOAD_TIMEOUT_S = 60
DESCRIBE_TIMEOUT_S = 60

_refused: dict[str, str] = {}
"""Why a wheel could not be had in this process; what times out once is not asked for again."""


def is_wheel(path: Path, holds: str) -> bool:
    """Whether the file is a whole archive with a member whose path starts with ``holds``."""
    try:
        with zipfile.ZipFile(path) as archive:
            named = any(name.startswith(holds) for name in archive.namelist())
            return named and archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def wheel(distribution: str, version: str, holds: str) -> Path:
    """A wheel for this interpreter, fetched once and then kept; skips when it cannot be had.

    Args:
        distribution: its name in the package index.
        version: of it.
        holds: how the path of what is wanted of it starts.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("the bindings are extension modules for Linux")
    # Apart from the product's own cache, whose size it tells.
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "edgeseg-tests"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        pytest.skip(f"wheels cannot be kept in {folder}: {error.strerror}")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    stem = f"{distribution.replace('-', '_')}-{version}-{python}"
    for kept in sorted(folder.glob(f"{stem}-*_{platform.machine()}.whl")):
        if is_wheel(kept, holds):
            return kept
        kept.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as place:
        fetched = download(f"{distribution}=={version}", Path(place))
        if not is_wheel(fetched, holds):
            pytest.skip(f"{fetched.name} from the package index does not open")
        target = folder / fetched.name
        fetched.replace(target)
    return target


def download(requirement: str, folder: Path) -> Path:
    """One wheel from the configured package index; skips with pip's reason."""
    reason = _refused.get(requirement) or _refused.get("")
    if reason is not None:
        pytest.skip(reason)
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--retries", "1", "--timeout", "15"),
        *("--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"),
        *("--dest", str(folder), requirement),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        _refused[""] = f"the package index gave no {requirement} in {DOWNLOAD_TIMEOUT_S} s"
        pytest.skip(_refused[""])
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = done.stderr.strip().splitlines() or ["pip said nothing"]
        _refused[requirement] = f"{requirement} cannot be fetched: {lines[-1]}"
        pytest.skip(_refused[requirement])
    return wheels[0]


def stand_ins(folder: Path) -> Path:
    """A folder of empty libraries under the names that every version's bindings ask for."""
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or "gcc"]
    if shutil.which(compiler[0]) is None:
        pytest.skip("no C compiler for the stand-in libraries of the TensorRT bindings")
    folder.mkdir()
    source = folder / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    built = folder / "stand_in.so"
    done = subprocess.run(
        [*compiler, "-shared", "-fPIC", "-o", str(built), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for major in {version.split(".")[0] for version in VERSIONS}:
        for name in LIBRARIES:
            shutil.copyfile(built, folder / f"lib{name}.so.{major}")
    return folder


def described(version: str, libraries: Path, folder: Path) -> dict[str, Any]:
    """The interface of a version's bindings, as ``describe.py`` prints it.

    Args:
        version: a key of ``VERSIONS``.
        libraries: what ``stand_ins`` made.
        folder: an empty temporary folder; the wheel is unpacked into it.
    """
    path = wheel(VERSIONS[version], version, "tensorrt_bindings/tensorrt.so")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    # Isolated, so that neither the environment nor this folder lends the child modules.
    done = subprocess.run(
        [sys.executable, "-I", str(DESCRIBE), str(folder)],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        check=False,
        timeout=DESCRIBE_TIMEOUT_S,
    )
    assert done.returncode == 0, f"the bindings {version} do not import: {done.stderr}"
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["version"].startswith(version), answer["version"]
    return answer
