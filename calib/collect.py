"""Run the FP32 graph on calibration frames and fill the histograms."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from edgeseg.backends import EngineOptions, available_backends
from edgeseg.backends import open_engine as open_backend
from edgeseg.backends.base import Engine
from edgeseg.calib.graph import Graph
from edgeseg.calib.placement import calibration_tensors
from edgeseg.calib.ranges import Ranges
from edgeseg.errors import BackendError, BackendUnavailableError, CalibrationError

__all__ = ["Frame", "OpenEngine", "collect_ranges"]

Array = npt.NDArray[np.float32]
Frame = Array | Sequence[Array]
"""The inputs of the graph for one frame, in their order; an array alone where there is one."""

OpenEngine = Callable[[Path], Engine]
"""Opens an ONNX file whose outputs are the tensors to be seen; it must compute in FP32."""


def collect_ranges(
    fp32_path: Path,
    frames: Iterable[Frame],
    *,
    open_engine: OpenEngine | None = None,
    threads: int | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Ranges:
    """Take the ranges of all tensors that any target quantises, in one pass over the frames.

    Args:
        fp32_path: ONNX with static shapes.
        frames: float32 arrays of the inputs' shapes, preprocessed; read once, one frame at a time.
        open_engine: how to run the graph; by default OpenVINO in FP32, else ONNX Runtime.
        threads: CPU threads of the default engine; None lets the library choose.
        on_frame: called with the number of frames done, after each.

    Raises:
        CalibrationError: no frames, one with more or fewer arrays than the graph has inputs, a
            tensor that is not finite, or an engine that does not return the tensors it was asked
            for.
        BackendUnavailableError: no inference library is installed.
        BackendError: it failed.
    """
    graph = Graph.load(fp32_path)
    names = calibration_tensors(graph)
    if not names:
        raise CalibrationError(f"{fp32_path}: the graph holds no Linear or Conv to calibrate")
    inner = tuple(n for n in names if n not in graph.inputs and n not in graph.outputs)
    ranges = Ranges(names)
    with tempfile.TemporaryDirectory(prefix="edgeseg-calibration-") as folder:
        path = Path(folder) / "calibration.onnx"
        declared = _with_outputs(graph, inner, path)
        with (open_engine or _default_engine(threads))(path) as engine:
            ports = [spec.name for spec in engine.outputs]
            if len(ports) != len(declared) or len(set(ports)) != len(ports):
                raise CalibrationError(
                    f"{engine.info.backend} returns {len(set(ports))} tensors where "
                    f"{len(declared)} were asked for"
                )
            for frame in frames:
                feed = _feed(frame, graph.inputs)
                results = engine.infer(feed)
                # Libraries may call a tensor by another of its names, but keep the order.
                tensors = {name: results[port] for name, port in zip(declared, ports, strict=True)}
                ranges.add(tensors | feed)
                if on_frame is not None:
                    on_frame(ranges.frames)
    if ranges.frames == 0:
        raise CalibrationError("no calibration frame was given: name images or videos")
    return ranges


def _feed(frame: Frame, inputs: tuple[str, ...]) -> dict[str, Array]:
    arrays = (frame,) if isinstance(frame, np.ndarray) else tuple(frame)
    if len(arrays) != len(inputs):
        raise CalibrationError(
            f"a calibration frame came as {len(arrays)} arrays where the graph has the inputs "
            f"{', '.join(inputs)}: preprocess it for the same views"
        )
    return dict(zip(inputs, arrays, strict=True))


def _with_outputs(graph: Graph, names: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """Write the graph with ``names`` as further outputs; returns all outputs in order."""
    model = graph.to_model()
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, graph.shape(name)) for name in names
    )
    path.write_bytes(model.SerializeToString())
    return (*graph.outputs, *names)


def _default_engine(threads: int | None) -> OpenEngine:
    installed = available_backends()
    if not installed:
        raise BackendUnavailableError(
            "calibration runs the model: install an inference library with  pip install openvino"
        )

    def open_it(path: Path) -> Any:
        engine = open_backend(path, installed[0], EngineOptions(threads=threads))
        if engine.info.precision != "f32":
            engine.close()
            raise BackendError(
                f"{engine.info.backend} computes in {engine.info.precision}; ranges need f32"
            )
        return engine

    return open_it
