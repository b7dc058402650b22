"""ONNX Runtime engines: the CPU, and CUDA or TensorRT where ``onnxruntime-gpu`` is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeseg._optional import require
from edgeseg._processors import usable_processors
from edgeseg.backends import _onnxruntime_failures as failures
from edgeseg.backends import _onnxruntime_profile as profiling
from edgeseg.backends import _onnxruntime_providers as providers
from edgeseg.backends.base import (
    Array,
    BoundRun,
    Engine,
    EngineInfo,
    EngineOptions,
    LayerTime,
    usual_layout,
)
from edgeseg.backends.binding import aligned_array
from edgeseg.errors import BackendError, BackendUnavailableError, UsageError
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
            UsageError: ``TENSORRT`` without ``options.products`` and ``options.rest``; options of
                the CPU that this library has not.
            DeviceMemoryError: the GPU has too little memory left.
            BackendError: the file cannot be read.
        """
        ort = require("onnxruntime", "onnxruntime")
        self._ort, self._path, self._options = ort, path, options
        self._target = target = providers.find_target(ort, options.device)
        threads = options.threads or len(usable_processors())
        self._threads = 1 if options.hint == "throughput" else threads
        self._affinities = _affinities(options, self._threads) if target.is_cpu else None
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
        if target.is_cpu:
            # Threads that wait in a loop take the cores from decoder, read-out and encoder.
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
            if self._affinities:
                settings.add_session_config_entry(
                    "session.intra_op_thread_affinities", self._affinities
                )
        else:
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

    def _bind(self, inputs: dict[str, Array]) -> BoundRun | None:
        if not self._target.is_cpu:
            # What is bound in host memory would be copied to the GPU now, and not in each run.
            return None
        outputs = {spec.name: aligned_array(spec) for spec in self.outputs}
        session, binding = self._session, self._session.io_binding()
        arrays = {**inputs, **self._unread}
        for bind, bound in ((binding.bind_input, arrays), (binding.bind_output, outputs)):
            for name, array in bound.items():
                bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

        def run() -> dict[str, Array]:
            try:
                session.run_with_iobinding(binding, self._run_options)
            except Exception as error:
                raise failures.explain(self._ort, self._target, self._path, error) from error
            # The library knows addresses alone: ``arrays`` and ``outputs`` keep them valid.
            return outputs if arrays else {}

        return run

    def _profile(self, inputs: dict[str, Array], rounds: int) -> tuple[LayerTime, ...]:
        if not self._target.is_cpu:
            raise BackendUnavailableError(
                "ONNX Runtime times the launch of a node on a GPU, not its work: profile the "
                "backend tensorrt, or another device"
            )
        return profiling.measure(self._open, lambda session: self._run(session, inputs), rounds)

    def _close(self) -> None:
        self._session = None


def _affinities(options: EngineOptions, threads: int) -> str | None:
    """Which processor each thread of the pool keeps to, in the library's words; None for any.

    The library's pool is one thread smaller than the number of threads: the caller's is the first.

    Raises:
        UsageError: an option that means nothing here.
    """
    if options.hyper_threading is not None or options.core_type is not None:
        raise UsageError(
            "hyper_threading and core_type are OpenVINO's: ONNX Runtime takes threads and pinning"
        )
    if not options.pinning:
        return None
    processors = usable_processors()
    if threads > len(processors):
        raise UsageError(
            f"{threads} threads cannot each keep to one of {len(processors)} processors: ask for "
            "fewer threads, or for no pinning"
        )
    # Counted from 1.
    return ";".join(str(number + 1) for number in processors[1:threads]) or None


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
    return TensorSpec(port.name, dtype, tuple(port.shape), usual_layout(dtype, port.shape))
