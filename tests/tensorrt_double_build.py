"""The TensorRT stand-in's builder: parser, network, configuration, timing cache."""

from __future__ import annotations

import hashlib
import json
import weakref
from pathlib import Path
from typing import Any

from tensorrt_double_parts import Interface, Part, callback, check_interface, log, write_plan

_TIMINGS = b"timings of the stand-in\n"
_PHASE, _INNER = "Building an engine from a network", "Timing kernels"


class ILogger(Interface):
    """Is told what happens."""

    __slots__ = ()


class IProgressMonitor(Interface):
    """Is told how far a build is."""

    __slots__ = ()


class IHostMemory(bytearray):
    """Bytes of the library, for whoever reads buffers."""

    __slots__ = ()
    _lib: Any

    @property
    def nbytes(self) -> int:
        return len(self)


class ITensor:
    """An input of a network."""

    __slots__ = ("name", "shape")
    _lib: Any


class ParserError:
    """What the parser stumbled over."""

    __slots__ = ("_code", "_node", "_number", "_text")
    _lib: Any

    def code(self) -> Any:
        return self._lib.ErrorCode[self._code]

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return self._number

    def node_name(self) -> str:
        return self._node[0]

    def node_operator(self) -> str:
        return self._node[1]


class INetworkDefinition(Part):
    """Filled by the parser."""

    __slots__ = ("_flags", "_inputs", "_layers", "_onnx", "_outputs")

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]


class ITimingCache(Part):
    """Names of the layers whose kernels were timed."""

    __slots__ = ("_header", "_layers")

    def serialize(self) -> Any:
        content = {**self._header, "layers": sorted(self._layers)}
        return self._lib.IHostMemory(_TIMINGS + json.dumps(content).encode())


class IBuilderConfig(Part):
    """What the builder is asked for; attributes it does not have cannot be set."""

    __slots__ = (
        "DLA_core",
        "_cache",
        "_flags",
        "_limits",
        "_monitor",
        "builder_optimization_level",
        "default_device_type",
        "max_aux_streams",
        "profiling_verbosity",
    )

    @property
    def progress_monitor(self) -> Any:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: Any) -> None:
        check_interface(monitor, self._lib.IProgressMonitor)
        self._monitor = monitor

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._lib.BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._lib.BuilderFlag(flag))

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._limits[self._lib.MemoryPoolType(pool)] = int(pool_size)

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        data = bytes(memoryview(serialized_timing_cache))
        header = {"tensorrt": self._lib.__version__, "device": self._lib._device}
        layers: list[str] = []
        if data:
            if not data.startswith(_TIMINGS):
                self._lib.complaints.append("foreign bytes reached create_timing_cache")
                self._say("ERROR", "Serialized timing cache is corrupt")
                return None
            header = json.loads(data[len(_TIMINGS) :])
            layers = header.pop("layers")
        cache = self._lib.ITimingCache()
        cache._begin(self._logger)
        cache._header, cache._layers = header, set(layers)
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        here = {"tensorrt": self._lib.__version__, "device": self._lib._device}
        if self._lib.faults.timing_cache or (cache._header != here and not ignore_mismatch):
            self._say("ERROR", "Timing cache does not match the device")
            return False
        # The library keeps no reference: the caller's must last.
        self._cache = weakref.ref(cache)
        return True

    def get_timing_cache(self) -> Any:
        return None if self._cache is None else self._cache()


class OnnxParser(Part):
    """Reads a file into a network."""

    __slots__ = ("_errors", "_network")

    def __init__(self, network: Any, logger: Any) -> None:
        self._begin(logger, network)
        self._network = network
        self._errors: list[Any] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        import onnx

        if not isinstance(model, str):
            raise TypeError("incompatible function arguments: a path is a str")
        if self._lib.faults.parse_silent:
            self._say("ERROR", "ModelImporter.cpp: failed to open the file")
            return False
        try:
            graph = onnx.load(model, load_external_data=False).graph
        except Exception:  # protobuf's class differs between its builds
            self._fail("INVALID_GRAPH", -1, ("", ""), "Failed to parse the ONNX model")
            return False
        for number, node in enumerate(graph.node):
            if node.op_type in self._lib.faults.unsupported:
                text = f"No importer registered for op: {node.op_type}.\nAttempting a plugin."
                self._fail("UNSUPPORTED_NODE", number, (node.name, node.op_type), text)
            if node.name in self._lib.faults.invalid:
                text = "its attributes are wrong"
                self._fail("INVALID_NODE", number, (node.name, node.op_type), text)
        if self._errors:
            return False
        weights = {one.name for one in graph.initializer}
        network = self._network
        network._onnx = str(Path(model).absolute())
        network._layers = [(node.name, node.op_type) for node in graph.node]
        network._inputs = [self._tensor(one) for one in graph.input if one.name not in weights]
        network._outputs = [self._tensor(one) for one in graph.output]
        return True

    def _tensor(self, value: Any) -> Any:
        tensor = self._lib.ITensor()
        tensor.name = value.name
        sides = value.type.tensor_type.shape.dim
        tensor.shape = tuple(side.dim_value if side.HasField("dim_value") else -1 for side in sides)
        return tensor

    def _fail(self, code: str, number: int, node: tuple[str, str], text: str) -> None:
        error = self._lib.ParserError()
        error._code, error._number, error._node, error._text = code, number, node, text
        self._errors.append(error)
        self._say("ERROR", text)


class Builder(Part):
    """Makes plans."""

    __slots__ = ()

    def __init__(self, logger: Any) -> None:
        check_interface(logger, self._lib.ILogger)
        if self._lib.faults.builder_start:
            log(self._lib, logger, "ERROR", self._lib.faults.builder_start)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._begin(logger)

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802 - the library's name
        return int(self._lib._dla_cores)

    def create_network(self, flags: int = 0) -> Any:
        typed = 1 << int(self._lib.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        if flags != typed:
            self._lib.complaints.append(f"create_network({flags}) makes no strongly typed network")
        network = self._lib.INetworkDefinition()
        network._begin(self._logger, self)
        network._inputs, network._outputs, network._onnx = [], [], ""
        return network

    def create_builder_config(self) -> Any:
        config = self._lib.IBuilderConfig()
        config._begin(self._logger, self)
        config._monitor, config._cache, config._limits = None, None, {}
        config._flags = {self._lib.BuilderFlag.TF32}
        config.builder_optimization_level = 3
        config.max_aux_streams = -1
        config.profiling_verbosity = self._lib.ProfilingVerbosity.LAYER_NAMES_ONLY
        config.default_device_type = self._lib.DeviceType.GPU
        config.DLA_core = -1
        return config

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        lib, faults = self._lib, self._lib.faults
        lib.builds.append(
            {
                "flags": {flag.name for flag in config._flags},
                "limits": {pool.name: size for pool, size in config._limits.items()},
                "level": config.builder_optimization_level,
                "streams": config.max_aux_streams,
                "verbosity": config.profiling_verbosity.name,
                "device": config.default_device_type.name,
                "dla": config.DLA_core,
                "cuda": None if lib._cuda is None else lib._cuda.cudaGetDevice()[1],
            }
        )
        if config._cache is not None and config._cache() is None:
            lib.complaints.append("the timing cache was freed before the build")
        cache = config.get_timing_cache()
        known = set() if cache is None else cache._layers
        if not self._report(config, [name for name, _ in network._layers]):
            self._say("ERROR", "Build was cancelled by the progress monitor")
            return None
        if faults.build:
            self._say("ERROR", faults.build)
            return None
        if faults.build_note:
            self._say("ERROR", faults.build_note)
        lib.timed_layers += [name for name, _ in network._layers if name not in known]
        if cache is not None:
            cache._layers |= {name for name, _ in network._layers}
        header = {
            "tensorrt": lib.__version__,
            "device": lib._device,
            "onnx": network._onnx,
            "sha256": hashlib.sha256(Path(network._onnx).read_bytes()).hexdigest(),
            "layers": network._layers,
            "dla": config.default_device_type is lib.DeviceType.DLA,
            "detailed": config.profiling_verbosity is lib.ProfilingVerbosity.DETAILED,
        }
        plan = lib.IHostMemory(write_plan(header))
        lib._serialized = weakref.ref(plan)
        return plan

    def _report(self, config: Any, layers: list[str]) -> bool:
        """Tell the monitor of two outer steps, the second of which times every layer."""
        if config._monitor is None:
            return True
        monitor, lib = config._monitor, self._lib

        def step(phase: str, number: int) -> bool:
            if lib.faults.on_step is not None:
                lib.faults.on_step()
            return bool(callback(lib, lambda: monitor.step_complete(phase, number)))

        callback(lib, lambda: monitor.phase_start(_PHASE, None, 2))
        good = step(_PHASE, 0)
        callback(lib, lambda: monitor.phase_start(_INNER, _PHASE, max(len(layers), 1)))
        for number in range(len(layers)):
            good = good and step(_INNER, number)
        callback(lib, lambda: monitor.phase_finish(_INNER))
        good = good and step(_PHASE, 1)
        callback(lib, lambda: monitor.phase_finish(_PHASE))
        return good


CLASSES = (
    Builder,
    IBuilderConfig,
    IHostMemory,
    ILogger,
    INetworkDefinition,
    IProgressMonitor,
    ITensor,
    ITimingCache,
    OnnxParser,
    ParserError,
)
