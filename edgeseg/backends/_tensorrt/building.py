"""TensorRT's builder, network, parser and configuration for one file, and their end."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg._closing import Closing
from edgeseg.backends._tensorrt.library import parse_version
from edgeseg.backends._tensorrt.log import Heard, shared_log
from edgeseg.backends._tensorrt.options import CompileOptions
from edgeseg.backends._tensorrt.progress import BuildProgress, make_monitor
from edgeseg.backends._tensorrt.timing_cache import attach_timing_cache, save_timing_cache
from edgeseg.errors import BackendError, BackendUnavailableError, DeviceMemoryError

if TYPE_CHECKING:
    import tensorrt as trt

    from edgeseg.gpu import GpuInfo

__all__ = ["Build"]

# docs.nvidia.com/deeplearning/tensorrt, 11.4.1, "Working with DLA".
_LAST_DLA_10 = (10, 7)
_FIRST_DLA_11 = (11, 4, 1)


class Build(Closing):
    """One build. Closing it frees all but the serialised plan, in the order that TensorRT wants.

    Its methods keep what TensorRT made in no variables of theirs, which an error would hold on to.
    """

    def __init__(self, lib: Any, device: GpuInfo, onnx: Path, progress: BuildProgress) -> None:
        """Start a builder on the current CUDA device.

        Raises:
            BackendUnavailableError: it does not start.
        """
        self._lib = lib
        self._onnx = onnx
        self._device = device
        self._log = shared_log(lib)
        self._timing_file: Path | None = None
        self._timings: trt.ITimingCache = None
        with self._log.listen() as heard:
            try:
                self._builder: trt.Builder = lib.Builder(self._log.logger)
            except Exception as error:  # TypeError where the library gives nothing
                if heard.out_of_memory:
                    raise self._out_of_memory(heard) from error
                raise BackendUnavailableError(
                    f"TensorRT {lib.__version__} cannot start its builder on {device.name} "
                    f"({heard.quote()}): check that the driver serves its CUDA version, and that "
                    "this package of TensorRT is made for the device"
                ) from error
            # Ignored since 11, where there are no other networks.
            typed = 1 << int(lib.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
            self._network: trt.INetworkDefinition = self._builder.create_network(typed)
            self._parser: trt.OnnxParser = lib.OnnxParser(self._network, self._log.logger)
            self._config: trt.IBuilderConfig = self._builder.create_builder_config()
        self._monitor: trt.IProgressMonitor = make_monitor(lib, progress)

    def configure(
        self, options: CompileOptions, timing_cache: Path | None, notes: list[str]
    ) -> None:
        """Pass the options on.

        Raises:
            BackendUnavailableError: there is no such DLA core.
        """
        lib = self._lib
        self._config.profiling_verbosity = lib.ProfilingVerbosity.DETAILED
        self._config.progress_monitor = self._monitor
        if options.tf32:
            self._config.set_flag(lib.BuilderFlag.TF32)
        else:
            self._config.clear_flag(lib.BuilderFlag.TF32)
        if options.workspace_mib is not None:
            self._config.set_memory_pool_limit(
                lib.MemoryPoolType.WORKSPACE, options.workspace_mib << 20
            )
        if options.optimization_level is not None:
            self._config.builder_optimization_level = options.optimization_level
        if options.max_aux_streams is not None:
            self._config.max_aux_streams = options.max_aux_streams
        if options.dla is not None:
            _check_dla(str(lib.__version__), int(self._builder.num_DLA_cores), options.dla)
            self._config.default_device_type = lib.DeviceType.DLA
            self._config.DLA_core = options.dla
            self._config.set_flag(lib.BuilderFlag.GPU_FALLBACK)
        if timing_cache is not None:
            self._timing_file = timing_cache
            with self._log.listen():
                self._timings, note = attach_timing_cache(
                    self._config, timing_cache, str(lib.__version__), self._device.name
                )
            if note:
                notes.append(note)

    def parse(self) -> None:
        """Read the ONNX file into the self._network.

        Raises:
            BackendError: TensorRT cannot read it; names the node at fault. Or a size is not fixed.
        """
        with self._log.listen() as heard:
            try:
                good = self._parser.parse_from_file(str(self._onnx))
            except (RuntimeError, MemoryError) as error:
                raise self._refused(str(error) or type(error).__name__) from error
        if not good:
            errors = int(self._parser.num_errors)
            if not errors:
                raise self._refused(heard.quote())
            # Those after the first are mostly its consequences.
            first: trt.ParserError = self._parser.get_error(0)
            more = f" (and {errors - 1} more)" if errors > 1 else ""
            if first.code() == self._lib.ErrorCode.UNSUPPORTED_NODE:
                raise self._refused(
                    _unsupported(first) + more,
                    "use a later TensorRT, or export the model without this operator",
                )
            raise self._refused(_explain(first) + more)
        if self._network.num_outputs < 1:
            raise self._refused("it has no outputs")
        for i in range(self._network.num_inputs):
            tensor: trt.ITensor = self._network.get_input(i)
            if any(int(side) < 0 for side in tensor.shape):
                raise self._refused(
                    f"input {tensor.name!r} has a dynamic shape; export with fixed sizes"
                )

    def run(self, notes: list[str]) -> trt.IHostMemory:
        """Compile the network and serialise the plan.

        Raises:
            DeviceMemoryError: the device has not enough memory.
            BackendError: TensorRT finds no way to compute it.
        """
        version = self._lib.__version__
        with self._log.listen() as heard:
            try:
                serialized: trt.IHostMemory | None = self._builder.build_serialized_network(
                    self._network, self._config
                )
            except MemoryError as error:
                raise self._out_of_memory(heard) from error
            except RuntimeError as error:
                raise BackendError(
                    f"TensorRT {version} failed to compile {self._onnx}: {error}"
                ) from error
        if serialized is None:
            if heard.out_of_memory:
                raise self._out_of_memory(heard)
            scarce = "workspace" in heard.quote().lower()
            raise BackendError(
                f"TensorRT {version} cannot compile {self._onnx} for {self._device.name} "
                f"({heard.quote()}): {'allow more workspace, or ' if scarce else ''}try another "
                "variant or another version of TensorRT"
            )
        if heard.errors:
            notes.append(f"TensorRT compiled it in spite of errors ({heard.quote()})")
        if self._timing_file is not None:
            note = save_timing_cache(
                self._config, self._timing_file, str(version), self._device.name
            )
            if note:
                notes.append(note)
        return serialized

    def close(self) -> None:
        """Free the parser, the network, the configuration and last the builder they came from."""
        self._parser = None
        self._network = None
        self._config = None
        gc.collect()  # what errors on the way still refer to
        self._builder = None
        # TensorRT wants what it was lent to outlive all of them.
        self._timings = None
        self._monitor = None

    def _refused(
        self, reason: str, advice: str = "try another variant, or build the bundle again"
    ) -> BackendError:
        return BackendError(
            f"TensorRT {self._lib.__version__} cannot read {self._onnx}: {reason}: {advice}"
        )

    def _out_of_memory(self, heard: Heard) -> DeviceMemoryError:
        return DeviceMemoryError(
            f"{self._device.name} has not enough memory to compile {self._onnx} "
            f"({heard.quote()}): close other programs, limit the workspace, or lower the "
            "optimisation level"
        )


def _unsupported(error: trt.ParserError) -> str:
    """One line on an operator that the parser does not know."""
    operator = str(error.node_operator()) or "of one node"
    return f"it does not support the operator {operator} ({_place(error)}{_said(error)})"


def _explain(error: trt.ParserError) -> str:
    """One line on what else the parser stumbled over."""
    operator = str(error.node_operator())
    return _place(error) + (f" ({operator})" if operator else "") + _said(error)


def _place(error: trt.ParserError) -> str:
    """The node's name, else its number; an error of the whole file has neither."""
    if error.node_name():
        return f"node {str(error.node_name())!r}"
    return f"node {int(error.node())}" if int(error.node()) >= 0 else "the file"


def _said(error: trt.ParserError) -> str:
    text = " ".join(str(error.desc()).split())
    return f": {text}" if text else ""


def _check_dla(version: str, cores: int, core: int) -> None:
    """Refuse a DLA core that is not there, with the reason."""
    numbers = parse_version(version)
    if cores > core:
        return
    if cores > 0:
        reason = f"this device has DLA cores 0 to {cores - 1}"
    elif _LAST_DLA_10 < numbers[:2] < (11,):
        reason = f"TensorRT {version} has no DLA: 10.7 is the last 10.x that has"
    elif (11,) <= numbers < _FIRST_DLA_11:
        reason = (
            f"TensorRT {version} has no DLA: 11.4.1 on JetPack 7.2.2 is the first 11.x that has"
        )
    else:
        reason = "this device has no DLA (among Jetsons, Orin NX and AGX Orin have, Thor has not)"
    raise BackendUnavailableError(f"DLA core {core} cannot be used: {reason}; leave out --dla")
