"""OpenVINO engines: CPU, and GPU or NPU where OpenVINO has a plugin and a driver for them."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg._optional import require
from edgeseg.backends import _openvino_profile as profiling
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
from edgeseg.errors import BackendError, BackendUnavailableError
from edgeseg.spec import DType, TensorSpec

__all__ = ["OpenVinoEngine", "available_devices", "version"]

_RESULT_SUFFIX = "/sink_port_0"
_CORE_TYPES = {"any": "ANY_CORE", "performance": "PCORE_ONLY", "efficiency": "ECORE_ONLY"}
_DTYPES: dict[str, DType] = {
    "f32": "float32",
    "f16": "float16",
    "u8": "uint8",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
    "boolean": "bool",
}


def version() -> str:
    """OpenVINO's version, without the build number."""
    return str(require("openvino").__version__).split("-", 1)[0]


def available_devices() -> tuple[str, ...]:
    """Names such as ``CPU``, ``GPU.0`` or ``NPU`` that OpenVINO can use on this machine."""
    return tuple(require("openvino").Core().available_devices)


class OpenVinoEngine(Engine):
    """A compiled OpenVINO model with a pool of inference requests."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        """Compile ``path`` (ONNX) for ``options.device``.

        Raises:
            BackendUnavailableError: OpenVINO has no such device here.
            BackendError: the file cannot be read or compiled.
        """
        ov = require("openvino")
        core = ov.Core()
        devices = tuple(core.available_devices)
        if not any(options.device in (name, name.split(".")[0]) for name in devices):
            raise BackendUnavailableError(
                f"OpenVINO has no device {options.device!r} here: it offers {', '.join(devices)}"
            )
        # An NPU has no f32; the golden frames tell whether its f16 is near enough.
        precision = "f16" if options.device.startswith("NPU") else "f32"
        if options.bfloat16 and has_bfloat16(core, options.device):
            precision = "bf16"
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": options.hint.upper(),
            # The graph states its precision, and the bundle whether bf16 was found right. Left
            # alone, OpenVINO would compute any rest in bf16 or f16 where the hardware has it.
            "INFERENCE_PRECISION_HINT": precision,
        }
        if options.device == "CPU":
            config |= _cpu_config(options)

        def compile_profiled() -> Any:
            model = _cut(ov, core.read_model(str(path)), options)
            profiling.name_parts(model)
            return core.compile_model(model, options.device, {**config, "PERF_COUNT": True})

        self._compile_profiled = compile_profiled
        try:
            self._compiled = core.compile_model(
                _cut(ov, core.read_model(str(path)), options), options.device, config
            )
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot compile {path}: {_first_line(error)}") from error
        parallel = 1
        if options.hint == "throughput":
            parallel = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(parallel):
            self._requests.put(self._compiled.create_infer_request())
        threads = (
            int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
            if options.device == "CPU"
            else 0
        )
        super().__init__(
            tuple(_spec(port) for port in self._compiled.inputs),
            tuple(_spec(port) for port in self._compiled.outputs),
            EngineInfo(
                backend="openvino",
                version=version(),
                device=options.device,
                device_name=str(core.get_property(options.device, "FULL_DEVICE_NAME")),
                threads=threads,
                precision=precision,
            ),
            parallel,
            profiled=options.profile,
        )

    def _infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        request = self._requests.get()
        try:
            request.infer(inputs, share_inputs=True)
            return {
                spec.name: np.array(request.get_output_tensor(i).data)
                for i, spec in enumerate(self.outputs)
            }
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed while running: {_first_line(error)}") from error
        finally:
            self._requests.put(request)

    def _bind(self, inputs: dict[str, Array]) -> BoundRun:
        ov = require("openvino")
        outputs = {spec.name: aligned_array(spec) for spec in self.outputs}
        try:
            request = self._compiled.create_infer_request()
            for i, array in enumerate(inputs.values()):
                request.set_input_tensor(i, ov.Tensor(array, shared_memory=True))
            for i, array in enumerate(outputs.values()):
                request.set_output_tensor(i, ov.Tensor(array, shared_memory=True))
        except RuntimeError as error:
            raise BackendError(f"OpenVINO refuses memory: {_first_line(error)}") from error

        def run() -> dict[str, Array]:
            try:
                # In this thread, as on the way through ``_infer``: a hop to another costs more.
                request.infer(share_outputs=True)
            except RuntimeError as error:
                raise BackendError(
                    f"OpenVINO failed while running: {_first_line(error)}"
                ) from error
            return outputs

        return run

    def _profile(self, inputs: dict[str, Array], rounds: int) -> tuple[LayerTime, ...]:
        try:
            return profiling.measure(
                self._compile_profiled, inputs, rounds, cumulative=self.info.device == "CPU"
            )
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed while running: {_first_line(error)}") from error

    def _close(self) -> None:
        self._requests = queue.SimpleQueue()
        self._compiled = None


def has_bfloat16(core: Any, device: str) -> bool:
    """Whether the device is a processor with instructions for bfloat16, as OpenVINO tells."""
    return device == "CPU" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _cpu_config(options: EngineOptions) -> dict[str, Any]:
    """How threads are laid onto cores, as far as the caller says."""
    asked = {
        "INFERENCE_NUM_THREADS": options.threads,
        "ENABLE_CPU_PINNING": options.pinning,
        "ENABLE_HYPER_THREADING": options.hyper_threading,
        "SCHEDULING_CORE_TYPE": _CORE_TYPES.get(options.core_type or ""),
    }
    return {name: value for name, value in asked.items() if value is not None}


def _cut(ov: Any, model: Any, options: EngineOptions) -> Any:
    """The part of the model that leads to the wanted outputs, for the wanted batch."""
    if options.outputs is not None or options.inputs is not None:
        results = [
            result
            for result in model.get_results()
            if options.outputs is None or _declared_name(result.output(0)) in options.outputs
        ]
        parameters = [
            parameter
            for parameter in model.get_parameters()
            if options.inputs is None or _declared_name(parameter.output(0)) in options.inputs
        ]
        model = ov.Model(results, parameters, model.get_friendly_name())
    if options.batch is not None:
        model.reshape(
            {
                port.any_name: ov.PartialShape([options.batch, *list(port.shape)[1:]])
                for port in model.inputs
            }
        )
    return model


def _declared_name(port: Any) -> str:
    """The name that the ONNX file gives an input or output.

    A tensor may carry several names, of which ``any_name`` is an arbitrary one; the node of a
    result is called after the declared output.
    """
    name = str(port.get_node().get_friendly_name()).removesuffix(_RESULT_SUFFIX)
    return name if name in port.get_names() else str(port.any_name)


def _spec(port: Any) -> TensorSpec:
    name = _declared_name(port)
    if port.partial_shape.is_dynamic:
        raise BackendError(f"tensor {name!r} has a dynamic shape; export with fixed sizes")
    dtype = _DTYPES.get(port.element_type.get_type_name())
    if dtype is None:
        raise BackendError(f"tensor {name!r} has unsupported type {port.element_type}")
    shape = tuple(int(n) for n in port.shape)
    return TensorSpec(name, dtype, shape, usual_layout(dtype, shape))


def _first_line(error: Exception) -> str:
    """OpenVINO's messages open with source positions; the last line that says something is read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
