"""The frame path of an opened bundle."""

from __future__ import annotations

import dataclasses

from edgeseg.backends._tensorrt.library import device_index
from edgeseg.backends.base import StreamEngine
from edgeseg.errors import BackendUnavailableError
from edgeseg.frame_path.compute import Graphs
from edgeseg.frame_path.path import FramePath
from edgeseg.frame_path.plan import unavailable_reason
from edgeseg.frame_path.result import Wanted
from edgeseg.gpu import Gpu
from edgeseg.kernels import cuda
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.model import Model
from edgeseg.overlay import Overlay
from edgeseg.spec import RoiSpec

__all__ = ["model_unavailable_reason", "open_frame_path"]


def model_unavailable_reason(model: Model) -> str | None:
    """Why a model's frames cannot take the frame path; None if they can."""
    if not isinstance(model.engine, StreamEngine):
        return f"{model.engine.info.backend} works on arrays in the host's memory"
    reason = unavailable_reason(model.readout, model.fed_spec, model.engine.outputs)
    return reason or cuda.unavailable_reason()


def open_frame_path(
    model: Model,
    frame_hw_px: tuple[int, int],
    *,
    wanted: Wanted | None = None,
    overlay: Overlay | None = None,
    threshold: float | None = None,
    region: RoiSpec | None = None,
    graphs: Graphs = True,
    sets: int = 2,
    mapped: bool | None = None,
    gpu: Gpu | None = None,
    native: CudaLibrary | None = None,
) -> FramePath:
    """Open the frame path of a model, whose engine then serves the path alone.

    Args:
        model: stays open, and must stay so until the path is closed.
        frame_hw_px: height and width of the frames, 1 to 65535 each.
        wanted: as for ``FramePath``, like ``overlay``, ``threshold``, ``graphs``, ``sets``,
            ``mapped`` and ``native``.
        overlay: see ``wanted``.
        threshold: see ``wanted``.
        region: of interest in all frames, instead of the bundle's; None for the bundle's, or
            without one the frame. It is part of what is allocated and captured: for another one
            close the path and open it anew.
        graphs: see ``wanted``.
        sets: see ``wanted``.
        mapped: see ``wanted``.
        gpu: the engine's device; None opens it, and closes it with the path.
        native: see ``wanted``.

    Raises:
        BackendUnavailableError: the model's engine works in the host's memory, or its read-out
            needs the CPU.
        InputError: the region leaves the frame.
        EdgesegError: as ``FramePath``.
    """
    engine = model.engine
    if not isinstance(engine, StreamEngine):
        raise BackendUnavailableError(
            f"the frame path needs an engine that works on the device, and {engine.info.backend} "
            "works in the host's memory: open the bundle with backend tensorrt"
        )
    preprocess = model.fed_spec
    if region is not None:
        preprocess = dataclasses.replace(preprocess, roi=region)
    return FramePath(
        gpu or Gpu.open(device_index(engine.info.device)),
        engine,
        preprocess,
        model.readout,
        frame_hw_px,
        wanted=wanted,
        rows=model.output_rows,
        overlay=overlay,
        threshold=threshold,
        graphs=graphs,
        sets=sets,
        mapped=mapped,
        close_gpu=gpu is None,
        native=native,
    )
