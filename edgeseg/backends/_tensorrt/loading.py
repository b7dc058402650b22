"""Plans into engines."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.backends._tensorrt.log import shared_log
from edgeseg.errors import BackendUnavailableError, DeviceMemoryError, PlanError

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["load_plan", "make_runtime"]


def make_runtime(lib: Any, dla: int | None = None) -> trt.Runtime:
    """TensorRT's run time on the current CUDA device.

    Args:
        lib: the loaded library.
        dla: the DLA core for plans that were compiled for one; None is the first, if there is one.

    Raises:
        BackendUnavailableError: it does not start, or has no such DLA core.
    """
    log = shared_log(lib)
    with log.listen() as heard:
        try:
            runtime: trt.Runtime = lib.Runtime(log.logger)
        except Exception as error:  # TypeError where the library gives nothing
            if heard.out_of_memory:
                raise DeviceMemoryError(
                    f"TensorRT does not start for want of memory ({heard.quote()}): close other "
                    "programs"
                ) from error
            raise BackendUnavailableError(
                f"TensorRT {lib.__version__} does not start ({heard.quote()}): check with "
                "nvidia-smi (on a Jetson: edgeseg doctor) that the driver serves its CUDA version"
            ) from error
        cores = int(runtime.num_DLA_cores)
        if dla is not None and dla >= cores:
            raise BackendUnavailableError(
                f"the plan is for DLA core {dla}, and TensorRT {lib.__version__} finds {cores} "
                "here: build again without --dla"
            )
        if cores:
            # Plans with layers for a DLA need a core; others do not look at it.
            runtime.DLA_core = dla or 0
    return runtime


def load_plan(lib: Any, runtime: trt.Runtime, plan: Path) -> trt.ICudaEngine:
    """The engine in the file ``plan``.

    Raises:
        PlanError: the file is no plan, or one of another device or version.
        DeviceMemoryError: it does not fit into the device's memory.
    """
    again = "build it again on this device"
    with shared_log(lib).listen() as heard:
        try:
            # Mapped, so that a plan of hundreds of megabytes is not held twice in memory.
            with (
                plan.open("rb") as stream,
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(data)
        except (OSError, ValueError) as error:  # missing, or empty and thus not to be mapped
            raise PlanError(f"the plan {plan} cannot be read ({error}): {again}") from error
        except MemoryError as error:
            raise _too_large(plan, heard.quote()) from error
        except RuntimeError as error:
            raise PlanError(f"TensorRT refuses the plan {plan} ({error}): {again}") from error
    if engine is None:
        if heard.out_of_memory:
            raise _too_large(plan, heard.quote())
        raise PlanError(
            f"the plan {plan} is damaged or belongs to another device or version than TensorRT "
            f"{lib.__version__} here ({heard.quote()}): {again}"
        )
    return engine


def _too_large(plan: Path, reason: str) -> DeviceMemoryError:
    return DeviceMemoryError(
        f"the plan {plan} does not fit into the device's memory ({reason}): close other programs, "
        "or build a smaller model or an INT8 or FP16 variant"
    )
