"""ONNX Runtime engines: its CPU provider, and CUDA where the GPU wheel is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg._machine import cpu_name
from edgeseg._optional import require
from edgeseg.backends.base import Array, Engine, EngineInfo, EngineOptions, layout_of_rank
from edgeseg.errors import BackendError, BackendUnavailableError
from edgeseg.spec import DType, TensorSpec

__all__ = ["OnnxRuntimeEngine", "available_devices", "version"]

_PROVIDERS = {"CPU": "CPUExecutionProvider", "GPU": "CUDAExecutionProvider"}
_DTYPES: dict[str, DType] = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def version() -> str:
    """ONNX Runtime's version."""
    return str(require("onnxruntime", "onnxruntime").__version__)


def available_devices() -> tuple[str, ...]:
    """``CPU``, and ``GPU`` where the CUDA provider is part of the installed wheel."""
    providers = require("onnxruntime", "onnxruntime").get_available_providers()
    return tuple(device for device, provider in _PROVIDERS.items() if provider in providers)


class OnnxRuntimeEngine(Engine):
    """An ONNX Runtime session. ``run`` may be called from several threads at once."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        """Load ``path`` (ONNX) for ``options.device``.

        Raises:
            BackendUnavailableError: no such device, or its provider is not installed or not usable.
            BackendError: the file cannot be read.
        """
        ort = require("onnxruntime", "onnxruntime")
        provider = _PROVIDERS.get(options.device)
        if provider is None or provider not in ort.get_available_providers():
            raise BackendUnavailableError(
                f"ONNX Runtime has no device {options.device!r} here: it offers "
                f"{', '.join(available_devices())}"
            )
        threads = options.threads or len(os.sched_getaffinity(0))
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        parallel = threads if options.hint == "throughput" else 1
        settings.intra_op_num_threads = 1 if options.hint == "throughput" else threads
        try:
            self._session = ort.InferenceSession(str(path), settings, providers=[provider])
        except Exception as error:  # its exceptions share no public base class
            raise BackendError(f"ONNX Runtime cannot load {path}: {error}") from error
        if self._session.get_providers()[0] != provider:
            # The library falls back to the CPU by itself when a provider fails to start.
            raise BackendUnavailableError(
                f"ONNX Runtime could not start {provider}; see its log for the missing library"
            )
        self._run_options = ort.RunOptions()
        # Nodes that lead to none of the wanted outputs are left out.
        self._run_options.only_execute_path_to_fetches = True
        inputs = tuple(_spec(port) for port in self._session.get_inputs())
        outputs = tuple(_spec(port) for port in self._session.get_outputs())
        # The library asks for every input all the same.
        self._unread = {
            spec.name: np.zeros(spec.shape, spec.dtype)
            for spec in inputs
            if not _wanted(spec, options.inputs)
        }
        super().__init__(
            tuple(spec for spec in inputs if _wanted(spec, options.inputs)),
            tuple(spec for spec in outputs if _wanted(spec, options.outputs)),
            EngineInfo(
                backend="onnxruntime",
                version=version(),
                device=options.device,
                device_name=cpu_name() if options.device == "CPU" else provider,
                threads=threads if options.device == "CPU" else 0,
                precision="f32",
            ),
            parallel,
        )

    def _infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        try:
            answers = self._session.run(names, {**inputs, **self._unread}, self._run_options)
            return dict(zip(names, answers, strict=True))
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed while running: {error}") from error

    def _close(self) -> None:
        self._session = None


def _wanted(spec: TensorSpec, names: tuple[str, ...] | None) -> bool:
    return names is None or spec.name in names


def _spec(port: Any) -> TensorSpec:
    if not all(isinstance(n, int) for n in port.shape):
        raise BackendError(f"tensor {port.name!r} has a dynamic shape; export with fixed sizes")
    dtype = _DTYPES.get(port.type)
    if dtype is None:
        raise BackendError(f"tensor {port.name!r} has unsupported type {port.type}")
    return TensorSpec(port.name, dtype, tuple(port.shape), layout_of_rank(len(port.shape)))
