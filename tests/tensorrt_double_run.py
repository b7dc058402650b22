"""The TensorRT stand-in's run time: plans into engines, and their work on a stream."""

from __future__ import annotations

import ctypes
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from tensorrt_double_parts import Interface, Part, callback, check_interface, log, read_plan

from edgeseg.spec import TensorSpec

_DTYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int8": "INT8",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}
_ALIGNMENT_BYTES = 256
_WEIGHTS_BYTES, _WORK_BYTES = 1 << 12, 1 << 16


class IProfiler(Interface):
    """Is told the times of layers."""

    __slots__ = ()


class Runtime(Part):
    """Loads plans."""

    __slots__ = ("DLA_core",)

    def __init__(self, logger: Any) -> None:
        check_interface(logger, self._lib.ILogger)
        if self._lib.faults.runtime_start:
            log(self._lib, logger, "ERROR", self._lib.faults.runtime_start)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._begin(logger)
        self.DLA_core = -1

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802 - the library's name
        return int(self._lib._dla_cores)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        lib = self._lib
        building = lib.alive().keys() & {"Builder", "INetworkDefinition", "IBuilderConfig"}
        if building or (lib._serialized is not None and lib._serialized() is not None):
            lib.complaints.append(f"a plan was loaded beside {sorted(building) or 'its bytes'}")
        with memoryview(serialized_engine) as view:
            header = read_plan(bytes(view))
        fault = lib.faults.deserialize
        if not fault and header is None:
            fault = "Error Code 1: Serialization (Magic tag does not match)"
        if not fault and header is not None and header["tensorrt"] != lib.__version__:
            fault = (
                f"Error Code 1: Serialization (Version tag does not match: {header['tensorrt']})"
            )
        if not fault and header is not None and header["device"] != lib._device:
            fault = "Error Code 6: API Usage Error (The engine plan file is not for this device)"
        if fault or header is None:
            self._say("ERROR", fault)
            return None
        engine = lib.ICudaEngine()
        engine._begin(self._logger, self)
        if not engine._load(header):
            return None
        return engine


class ICudaEngine(Part):
    """A loaded plan; its weights take memory of the device."""

    __slots__ = ("_engine", "_header", "_memory", "_ports")

    def _load(self, header: dict[str, Any]) -> bool:
        self._header = header
        self._engine = self._lib._compute(Path(header["onnx"]))
        self._ports: dict[str, tuple[str, TensorSpec]] = {
            **{spec.name: ("INPUT", spec) for spec in self._engine.inputs},
            **{spec.name: ("OUTPUT", spec) for spec in self._engine.outputs},
        }
        self._memory = _Memory(self, _WEIGHTS_BYTES)
        return self._memory.address is not None

    @property
    def num_io_tensors(self) -> int:
        return len(self._ports)

    @property
    def device_memory_size_v2(self) -> int:
        return _WORK_BYTES

    def get_tensor_name(self, index: int) -> str:
        return list(self._ports)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._ports[name][1].shape

    def get_tensor_dtype(self, name: str) -> Any:
        return self._lib.DataType[_DTYPES.get(self._ports[name][1].dtype, "BF16")]

    def get_tensor_mode(self, name: str) -> Any:
        return self._lib.TensorIOMode[self._ports[name][0]]

    def get_tensor_location(self, name: str) -> Any:
        return self._lib.TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return self._lib.TensorFormat.LINEAR

    def create_engine_inspector(self) -> Any:
        inspector = self._lib.EngineInspector()
        inspector._begin(self._logger, self)
        inspector._header = self._header
        return inspector

    def create_execution_context(self) -> Any:
        if self._lib.faults.context:
            self._say("ERROR", self._lib.faults.context)
            return None
        context = self._lib.IExecutionContext()
        context._begin(self._logger, self)
        return context if context._prepare(self) else None

    def __del__(self) -> None:
        super().__del__()
        if hasattr(self, "_memory"):
            self._memory.free()


class EngineInspector(Part):
    """Describes the layers of an engine."""

    __slots__ = ("_header",)

    def get_engine_information(self, format: Any) -> str:
        if self._lib.faults.inspector is not None:
            return str(self._lib.faults.inspector)
        if format is not self._lib.LayerInformationFormat.JSON:
            return "\n".join(name for name, _ in self._header["layers"])
        layers: list[Any] = [f"layer {i}" for i, _ in enumerate(self._header["layers"])]
        if self._header["detailed"]:
            layers = [
                {
                    "Name": f"layer {i}",
                    "LayerType": "DLA" if self._header["dla"] else kind,
                    "Metadata": f"[ONNX Layer: {name}]",
                }
                for i, (name, kind) in enumerate(self._header["layers"])
            ]
        return json.dumps({"Layers": layers})


class IExecutionContext(Part):
    """Runs an engine; it has scratch memory for one run at a time."""

    __slots__ = (
        "_addresses",
        "_layers",
        "_memory",
        "_nvtx",
        "_port_specs",
        "_profiled",
        "_profiler",
        "_run_engine",
        "_scratch",
        "_warm",
        "enqueue_emits_profile",
    )

    def _prepare(self, engine: ICudaEngine) -> bool:
        self._run_engine = engine._engine
        self._port_specs = engine._ports
        self._layers = [f"layer {i}" for i, _ in enumerate(engine._header["layers"])]
        self._addresses: dict[str, int] = {}
        self._scratch: dict[str, Any] = {}
        self._profiler: Any = None
        self._profiled = 0
        self._warm = False
        self._nvtx = self._lib.ProfilingVerbosity.DETAILED
        self.enqueue_emits_profile = True
        self._memory = _Memory(self, _WORK_BYTES)
        return self._memory.address is not None

    @property
    def nvtx_verbosity(self) -> Any:
        return self._nvtx

    @nvtx_verbosity.setter
    def nvtx_verbosity(self, verbosity: Any) -> None:
        self._nvtx = self._lib.ProfilingVerbosity(verbosity)

    @property
    def profiler(self) -> Any:
        return self._profiler

    @profiler.setter
    def profiler(self, profiler: Any) -> None:
        check_interface(profiler, self._lib.IProfiler)
        self._profiler = profiler

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._lib.faults.address or name not in self._port_specs:
            self._say("ERROR", self._lib.faults.address or f"there is no tensor {name}")
            return False
        if memory % _ALIGNMENT_BYTES:
            self._lib.complaints.append(f"tensor {name} lies at {memory:#x}")
        self._addresses[name] = int(memory)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        lib = self._lib
        lib._executions += 1
        fault = lib.faults.execute.get(lib._executions, "")
        missing = self._port_specs.keys() - self._addresses.keys()
        if missing:
            fault = f"Address is not set for {sorted(missing)}"
        if not self._warm and lib._cuda.capturing():
            fault = "The first run allocates, which a capture does not permit"
        if fault:
            self._say("ERROR", fault)
            return False
        self._warm = True
        addresses = dict(self._addresses)

        # Two steps that share the scratch memory: runs that overlap get each other's inputs.
        def read() -> None:
            self._scratch = {
                name: _array(spec, addresses[name]).copy()
                for name, (mode, spec) in self._port_specs.items()
                if mode == "INPUT"
            }

        def compute() -> None:
            answers = self._run_engine.infer(self._scratch)
            for name, answer in answers.items():
                _array(self._port_specs[name][1], addresses[name])[...] = answer
            self._profiled += 1

        for work, wanted in ((read, "INPUT"), (compute, "OUTPUT")):
            spans = [
                (addresses[name], _nbytes(spec))
                for name, (mode, spec) in self._port_specs.items()
                if mode == wanted
            ]
            if int(lib._cuda.enqueue(int(stream_handle), work, spans)):
                self._say("ERROR", "Error Code 1: Cuda Runtime (work cannot be enqueued)")
                return False
        if self._profiler is not None and self.enqueue_emits_profile:
            lib._cuda.cudaStreamSynchronize(int(stream_handle))
            self.report_to_profiler()
        return True

    def report_to_profiler(self) -> bool:
        if self._profiler is None or not self._profiled:
            self._say("ERROR", "There is nothing to report")
            return False
        for number, layer in enumerate(self._layers):
            ms = (number + 1) * 0.5
            callback(
                self._lib, lambda layer=layer, ms=ms: self._profiler.report_layer_time(layer, ms)
            )
        self._profiled = 0
        return True

    def __del__(self) -> None:
        super().__del__()
        if hasattr(self, "_memory"):
            self._memory.free()


class _Memory:
    """Memory of the device, where there is a CUDA stand-in to give it."""

    def __init__(self, owner: Part, nbytes: int) -> None:
        self._cuda = owner._lib._cuda
        self.address: int | None = 0
        if self._cuda is not None:
            error, address = self._cuda.cudaMalloc(nbytes)
            self.address = None if int(error) else int(address)
        if self.address is None:
            owner._say("ERROR", f"Error Code 2: OutOfMemory (Requested size was {nbytes} bytes.)")

    def free(self) -> None:
        if self._cuda is not None and self.address:
            self._cuda.cudaFree(self.address)
            self.address = None


def _nbytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _array(spec: TensorSpec, address: int) -> Any:
    memory = (ctypes.c_uint8 * _nbytes(spec)).from_address(address)
    return np.frombuffer(memory, spec.dtype).reshape(spec.shape)


CLASSES = (EngineInspector, ICudaEngine, IExecutionContext, IProfiler, Runtime)
