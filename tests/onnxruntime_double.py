"""A stand-in for ``onnxruntime`` with GPU providers: what it is asked, and how it may fail.

Behaviour as seen of ``onnxruntime-gpu`` 1.31.1: a CUDA provider whose libraries are missing is
dropped without an exception, TensorRT's raises; which library it was goes to standard error alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))

COMPILE = ("cc", "-shared", "-fPIC", "-x", "c", "/dev/null", "-x", "none")
"""Makes a shared library with nothing in it."""

CUDA_35 = (
    "/onnxruntime_src/core/providers/cuda/cuda_execution_provider_info.cc:63 static Info "
    "FromProviderOptions(const ProviderOptions&) [ONNXRuntimeError] : 1 : FAIL : "
    'provider_options_utils.h:187 Parse Failed to parse provider option "device_id": CUDA failure '
    "35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=vm ; "
    "file=cuda_execution_provider_info.cc ; line=70 ; expr=cudaGetDeviceCount(&num_devices); "
)
NO_TENSORRT = (
    "/onnxruntime_src/python/onnxruntime_pybind_state.cc:729 void RegisterTensorRTPluginsAs"
    "CustomOps(PySessionOptions&, const ProviderOptions&) Please install TensorRT libraries."
)


class OnnxRuntimeDouble:
    """Takes the place of the module; its attributes say how it behaves."""

    __version__ = "1.31.1"
    cuda_version = "13.0"

    def __init__(
        self, folder: Path, library: Path, run: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> None:
        """A module in ``folder`` whose providers are copies of a shared ``library``."""
        self.__file__ = str(folder / "onnxruntime" / "__init__.py")
        self.capi = folder / "onnxruntime" / "capi"
        self.capi.mkdir(parents=True)
        self.__spec__ = ModuleSpec("onnxruntime", None)
        self.providers = [TENSORRT, CUDA, CPU]
        self.started: list[str] | None = None
        """Providers that a session ends up with; None: those it was asked for, and the CPU."""
        self.load_error: Exception | None = None
        self.run_error: Exception | None = None
        self.assignment: dict[str, list[str]] | None = None
        """Operators by provider; None: an older version, which does not tell."""
        self.sessions: list[Any] = []
        self.severities: list[int] = []
        self.preloaded = 0
        self.run = run
        for name in ("cuda", "tensorrt"):
            shutil.copy(library, self._library(name))

    def _library(self, provider: str) -> Path:
        return self.capi / f"libonnxruntime_providers_{provider}.so"

    def link(self, provider: str, missing: str) -> None:
        """Link the shared library of a provider to one that is ``missing`` afterwards."""
        target, command = self._library(provider), COMPILE
        needed = self.capi / missing
        subprocess.run([*command, f"-Wl,-soname,{missing}", "-o", needed], check=True)
        subprocess.run([*command, "-Wl,--no-as-needed", needed, "-o", target], check=True)
        needed.unlink()

    # --- what the module offers ------------------------------------------------------------------

    def get_available_providers(self) -> list[str]:
        return self.providers

    def set_default_logger_severity(self, severity: int) -> None:
        self.severities.append(severity)

    def preload_dlls(self) -> None:
        sys.stdout.write("Failed to load libcudnn.so.9\n")
        self.preloaded += 1

    def SessionOptions(self) -> Any:  # noqa: N802
        entries: dict[str, str] = {}
        return SimpleNamespace(entries=entries, add_session_config_entry=entries.__setitem__)

    def RunOptions(self) -> Any:  # noqa: N802
        return SimpleNamespace()

    def InferenceSession(  # noqa: N802
        self, path: str, options: Any, *, providers: list[Any], enable_fallback: int
    ) -> Any:
        assert Path(path).is_file() and enable_fallback == 0
        if self.load_error is not None:
            raise self.load_error
        session = _Session(self, options, providers)
        self.sessions.append(session)
        return session


class _Session:
    def __init__(self, ort: OnnxRuntimeDouble, options: Any, providers: list[Any]) -> None:
        self.options, self.providers, self._ort = options, providers, ort
        if ort.assignment is not None:
            self.get_provider_graph_assignment_info = self._assignment

    def get_providers(self) -> list[str]:
        asked = [p if isinstance(p, str) else p[0] for p in self.providers]
        return self._ort.started or [*asked, CPU]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image", type="tensor(float)", shape=[1, 3, 32, 48])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="logits", type="tensor(float)", shape=[1, 1, 32, 48])]

    def run(self, names: list[str], tensors: Mapping[str, Any], options: Any) -> list[np.ndarray]:
        if self._ort.run_error is not None:
            raise self._ort.run_error
        answers = self._ort.run(tensors)
        return [answers[name] for name in names]

    def _assignment(self) -> list[Any]:
        return [
            SimpleNamespace(
                ep_name=provider,
                get_nodes=lambda kinds=kinds: [SimpleNamespace(op_type=kind) for kind in kinds],
            )
            for provider, kinds in (self._ort.assignment or {}).items()
        ]
