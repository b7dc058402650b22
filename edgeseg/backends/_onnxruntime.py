"""ONNX Runtime engines: the CPU, and CUDA or TensorRT where ``onnxruntime-gpu`` is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg._optional import require
from edgeseg.backends import _onnxruntime_failures as failures
from edgeseg.backends import _onnxruntime_profile as profiling
from edgeseg.backends import _onnxruntime_providers as providers
from edgeseg.backends.base import (
    Array,
    Engine,
    EngineInfo,
    EngineOptions,
    LayerTime,
    layout_of_rank,
)
from edgeseg.errors import BackendError, BackendUnavailableError
from edgeseg.spec import DType, TensorSpec

__all__ = ["OnnxRuntimeEngine", "available_devices", "version"]

_ERRORS_ALONE = 3
_GPU_PARALLEL = 2
"""Calls at once with the throughput hint: one computes while another copies."""
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
    """``CPU``, and with ``onnxruntime-gpu`` ``GPU.0`` (CUDA), ``TENSORRT.0``, and so on."""
    return providers.devices(require("onnxruntime", "onnxruntime"))


class OnnxRuntimeEngine(Engine):
    """An ONNX Runtime session. ``run`` may be called from several threads at once."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        """Load ``path`` (ONNX) for ``options.device``: ``CPU``, ``GPU``, ``TENSORRT``, ``GPU.1``...

        The first run on ``TENSORRT`` compiles; the result is kept in this machine's cache.

        Raises:
            BackendUnavailableError: no such device, or its provider is not installed or does not
                start; the message names the library that is missing.
            UsageError: ``TENSORRT`` without ``options.products`` and ``options.rest``.
            DeviceMemoryError: the GPU has too little memory left.
            BackendError: the file cannot be read.
        """
        ort = require("onnxruntime", "onnxruntime")
        self._ort, self._path, self._options = ort, path, options
        self._target = target = providers.find_target(ort, options.device)
        threads = options.threads or len(os.sched_getaffinity(0))
        self._threads = 1 if options.hint == "throughput" else threads
        self._providers = providers.provider_list(ort, target, path, options)
        self._session = self._open()
        providers.check_assignment(self._session, target)
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
        parallel = threads if target.is_cpu else _GPU_PARALLEL
        super().__init__(
            tuple(spec for spec in inputs if _wanted(spec, options.inputs)),
            tuple(spec for spec in outputs if _wanted(spec, options.outputs)),
            EngineInfo(
                backend="onnxruntime",
                version=version(),
                device=options.device,
                device_name=target.name,
                threads=threads if target.is_cpu else 0,
                precision=_precision(target, options),
            ),
            parallel if options.hint == "throughput" else 1,
            profiled=options.profile,
        )

    def _open(self, profile_prefix: str | None = None) -> Any:
        """A session on the wanted provider, or an error that says why there is none."""
        ort, target = self._ort, self._target
        settings = ort.SessionOptions()
        settings.log_severity_level = _ERRORS_ALONE
        settings.intra_op_num_threads = self._threads
        if not target.is_cpu:
            settings.log_severity_level = providers.SILENT
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if profile_prefix is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = profile_prefix
        with providers.prepared(ort, target):
            try:
                session = ort.InferenceSession(
                    str(self._path), settings, providers=self._providers, enable_fallback=0
                )
            except Exception as error:  # its exceptions share no public base class
                raise failures.explain(ort, target, self._path, error) from error
            if session.get_providers()[0] != target.provider:
                # The library goes to the CPU by itself where a provider does not load.
                raise failures.unstarted(ort, target)
        return session

    def _infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return self._run(self._session, inputs)

    def _run(self, session: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        try:
            answers = session.run(names, {**inputs, **self._unread}, self._run_options)
            return dict(zip(names, answers, strict=True))
        except Exception as error:
            raise failures.explain(self._ort, self._target, self._path, error) from error

    def _profile(self, inputs: dict[str, Array], rounds: int) -> tuple[LayerTime, ...]:
        if not self._target.is_cpu:
            raise BackendUnavailableError(
                "ONNX Runtime times the launch of a node on a GPU, not its work: profile the "
                "backend tensorrt, or another device"
            )
        return profiling.measure(self._open, lambda session: self._run(session, inputs), rounds)

    def _close(self) -> None:
        self._session = None


def _precision(target: providers.Target, options: EngineOptions) -> str:
    """TensorRT may round FP32 products to TF32 or take the halves that the graph has elsewhere."""
    if not target.is_tensorrt:
        return "f32"
    return "f16" if "fp16" in (options.products, options.rest) else "tf32"


def _wanted(spec: TensorSpec, names: tuple[str, ...] | None) -> bool:
    return names is None or spec.name in names


def _spec(port: Any) -> TensorSpec:
    if not all(isinstance(n, int) for n in port.shape):
        raise BackendError(f"tensor {port.name!r} has a dynamic shape; export with fixed sizes")
    dtype = _DTYPES.get(port.type)
    if dtype is None:
        raise BackendError(f"tensor {port.name!r} has unsupported type {port.type}")
    return TensorSpec(port.name, dtype, tuple(port.shape), layout_of_rank(len(port.shape)))
