"""From an ONNX file to a TensorRT plan for the device at hand.

Networks are strongly typed: casts and Q/DQ nodes of the file say what is computed in which
precision, and TensorRT chooses kernels for it. One path serves TensorRT 10.3 to 11.
"""

from __future__ import annotations

import gc
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg._files import atomic_file
from edgeseg._progress import Progress, silent
from edgeseg.backends._tensorrt.building import Build
from edgeseg.backends._tensorrt.layers import layer_information
from edgeseg.backends._tensorrt.library import loaded
from edgeseg.backends._tensorrt.loading import load_plan, make_runtime
from edgeseg.backends._tensorrt.options import CompileOptions
from edgeseg.backends._tensorrt.progress import TOTAL, BuildProgress
from edgeseg.errors import InputError

if TYPE_CHECKING:
    import tensorrt as trt

    from edgeseg.gpu import Gpu

__all__ = ["CompileOptions", "CompiledPlan", "compile_plan"]

_log = logging.getLogger(__name__)

_STAGE = "compile"


@dataclass(frozen=True)
class CompiledPlan:
    """A plan that was written, and loads."""

    plan: Path
    layers: Path
    """JSON: the engine inspector's report."""
    build_s: float
    plan_bytes: int
    device_memory_bytes: int
    """What an engine takes for intermediate results, beside its weights."""
    notes: tuple[str, ...]
    """What a user may want to know, such as a timing cache that was dropped."""


def compile_plan(
    onnx: Path,
    plan: Path,
    layers: Path,
    options: CompileOptions | None = None,
    *,
    device: int = 0,
    timing_cache: Path | None = None,
    progress: Progress = silent,
    trt: Any | None = None,
    runtime: Any | None = None,
) -> CompiledPlan:
    """Compile ``onnx`` for one CUDA device, write the plan, and load it once to describe it.

    The plan is on disk and the builder gone before the engine is loaded, so that the device never
    holds both. Ctrl-C stops the builder at its next step.

    Args:
        onnx: the model; external weights lie beside it.
        plan: is replaced when the new one is complete.
        layers: the same, for the JSON description of the compiled layers.
        options: for the builder.
        device: CUDA's number of it.
        timing_cache: a file of timings that earlier builds on this machine wrote, and this one
            extends. One that is damaged or of another version or device is dropped, with a note.
        progress: called from this thread with percents.
        trt: the module ``tensorrt``; None imports it.
        runtime: the module ``cuda.bindings.runtime``; None imports it.

    Raises:
        MissingDependencyError: TensorRT or cuda-bindings is not installed.
        BackendUnavailableError: this TensorRT is not served; there is no driver, device or DLA.
        InputError: there is no file ``onnx``.
        BackendError: TensorRT cannot parse or compile the model.
        DeviceMemoryError: the device has not enough memory to compile or load it.
        OutputError: the plan cannot be written.
    """
    from edgeseg.gpu import Gpu as OpenGpu

    lib = loaded(trt)
    options = options or CompileOptions()
    if not onnx.is_file():
        raise InputError(f"there is no ONNX file {onnx}")
    notes: list[str] = []
    with OpenGpu.open(device, runtime) as gpu:
        started_s = time.monotonic()
        work = _work(lib, gpu, onnx, options, timing_cache=timing_cache, notes=notes)
        serialized = _watched(work, progress)
        build_s = time.monotonic() - started_s
        plan_bytes = _write_plan(plan, serialized)
        del serialized
        gc.collect()
        memory_bytes = _describe(lib, plan, layers, options.dla, notes)
    _log.info("compiled %s in %.1f s: %d bytes", onnx, build_s, plan_bytes)
    return CompiledPlan(plan, layers, build_s, plan_bytes, memory_bytes, tuple(notes))


def _work(
    lib: Any,
    gpu: Gpu,
    onnx: Path,
    options: CompileOptions,
    *,
    timing_cache: Path | None,
    notes: list[str],
) -> Callable[[BuildProgress], trt.IHostMemory]:
    """The build, for whichever thread is to run it."""

    def work(told: BuildProgress) -> trt.IHostMemory:
        gpu.make_current()  # CUDA's current device is each thread's own
        return _serialize(Build(lib, gpu.info, onnx, told), options, timing_cache, notes)

    return work


def _watched(
    work: Callable[[BuildProgress], trt.IHostMemory], progress: Progress
) -> trt.IHostMemory:
    """Build in a thread of its own, while this one reports.

    TensorRT does not return to Python while it builds. In a thread that waits, Ctrl-C arrives at
    once, and never inside a callback of the library, where an exception would end the process.
    """
    told = BuildProgress()
    outcome: list[trt.IHostMemory] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            if not told.stopped:
                outcome.append(work(told))
        except BaseException as error:
            # Its frames still hold the builder, whose memory another build may need.
            traceback.clear_frames(error.__traceback__)
            failure.append(error)
        finally:
            told.close()

    thread = threading.Thread(target=run, name="edgeseg tensorrt build", daemon=True)
    percent = 0
    try:
        thread.start()
        progress(_STAGE, 0, TOTAL)
        while (now := told.wait(percent)) is not None:
            percent = now
            progress(_STAGE, percent, TOTAL)
    except BaseException:
        _log.info("stopping at the builder's next step")
        told.stop()
        if thread.is_alive():  # else it sees the wish before it does anything
            thread.join()
        raise
    thread.join()
    if failure:
        raise failure.pop()
    progress(_STAGE, TOTAL, TOTAL)
    return outcome.pop()


def _serialize(
    build: Build, options: CompileOptions, timing_cache: Path | None, notes: list[str]
) -> trt.IHostMemory:
    """Everything the builder is asked for; it is gone when this returns."""
    with build:
        build.configure(options, timing_cache, notes)
        build.parse()
        return build.run(notes)


def _write_plan(plan: Path, serialized: trt.IHostMemory) -> int:
    """Write the plan whole or not at all; returns its bytes."""
    with atomic_file(plan) as temporary, temporary.open("wb") as stream:
        stream.write(serialized)
    return plan.stat().st_size


def _describe(lib: Any, plan: Path, layers: Path, dla: int | None, notes: list[str]) -> int:
    """Load the plan, write what its layers are, and return the bytes it works in."""
    runtime: trt.Runtime = make_runtime(lib, dla)
    try:
        engine: trt.ICudaEngine = load_plan(lib, runtime, plan)
        try:
            report = layer_information(lib, engine)
            memory_bytes = int(engine.device_memory_size_v2)
        finally:
            del engine
    finally:
        del runtime  # after the engine that it made
    if not report["Layers"]:
        notes.append("TensorRT's description of the layers is no list; it is kept as it is")
    with atomic_file(layers) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return memory_bytes
