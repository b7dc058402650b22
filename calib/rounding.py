"""What a graph with FP16 tensors computes on hardware that really rounds them.

ONNX Runtime's CPU provider has hardly any FP16 arithmetic: it computes such graphs in FP32 and
never meets an overflow. Here every tensor that the graph types FP16 is rounded to half right where
it is made: to nearest even, from 65520 on to infinity, subnormal numbers kept. A product
accumulates in FP32 and is rounded once, as in a tensor core. Three differences to a GPU remain:

- A library that fuses operations rounds fewer tensors than the graph holds, so what is found here
  is on the safe side.
- INT8 products multiply numbers that were dequantised and rounded, in relative steps of 2^-11,
  where a fused product multiplies the codes.
- A library may choose kernels that accumulate in half as well. Only the golden frames on the
  device show that.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg._machine import cpu_name
from edgeseg._optional import require
from edgeseg.backends.base import Array, Engine, EngineInfo, usual_layout
from edgeseg.calib.graph import LAYOUT_OPS, Graph, Node
from edgeseg.calib.half import HALF_OVERFLOW, MAX_HALF
from edgeseg.errors import BackendError, CalibrationError, UsageError
from edgeseg.spec import TensorSpec

__all__ = ["HalfEvaluator", "HalfReport", "half_report"]

_DTYPES: dict[int, Any] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}


@dataclass(frozen=True)
class HalfReport:
    """How close a graph came to the end of FP16's range."""

    worst: str
    """The node whose FP16 result comes nearest to overflow; where some overflow, the first of
    them. Empty for a graph without FP16 results."""
    magnitude: float
    """The largest magnitude of that result before it is rounded; infinite for NaN."""
    overflowed: tuple[str, ...]
    """Nodes whose FP16 results hold infinity or NaN, in the order of the graph. The first is where
    it begins, the others mostly inherit it."""


class HalfEvaluator(Engine):
    """An engine that rounds. It is made to judge graphs, not to be fast.

    Weights stay FP16 in memory and are widened one product at a time, so that it takes little more
    memory than the file itself and the largest few activations.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load an ONNX graph that holds FP16 tensors (or none: then nothing is rounded).

        Args:
            path: ONNX with static shapes, without control flow.
            threads: CPU threads; None: all.

        Raises:
            MissingDependencyError: ONNX Runtime is not installed.
            CalibrationError: the file is no valid graph, or one that cannot be widened.
            BackendError: ONNX Runtime refuses it.
        """
        ort = require("onnxruntime", "onnxruntime")
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be at least 1, got {threads}")
        graph = Graph.load(path)
        inputs, outputs = (
            tuple(_spec(graph, name, path) for name in names)
            for names in (graph.inputs, graph.outputs)
        )
        twin = _Twin(graph)
        twin.write()
        self._gauges = twin.gauges
        self._largest = {gauge.node: 0.0 for gauge in twin.gauges}
        threads = threads or len(os.sched_getaffinity(0))
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = threads
        # Optimisation may cancel a cast against its inverse and fold widened weights.
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # In the order of the file each tensor is measured when it is made. In the default order all
        # are kept to the end: 3.4 GB instead of 0.9 for a ViT-B of 512 x 512.
        settings.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        with tempfile.TemporaryDirectory(prefix="edgeseg-rounding-") as folder:
            file = Path(folder) / "twin.onnx"
            try:
                onnx.save(graph.to_model(), file)
                del graph, twin
                self._session = ort.InferenceSession(
                    str(file), settings, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # its exceptions share no public base class
                raise BackendError(f"ONNX Runtime cannot load {path} widened: {error}") from error
        super().__init__(
            inputs,
            outputs,
            EngineInfo(
                backend="rounding",
                version=str(ort.__version__),
                device="CPU",
                device_name=cpu_name(),
                threads=threads,
                precision="f16",
            ),
        )

    def largest(self) -> Mapping[str, float]:
        """How far each FP16 result went, over all runs so far, in the order of the graph.

        Returns:
            By the name of the node, its largest magnitude before rounding as a share of 65504; from
            65520 / 65504 on it overflows. NaN counts as infinite. Nodes that only move values are
            left out.
        """
        return MappingProxyType(self._largest)

    def report(self) -> HalfReport:
        """``largest`` in short."""
        limit = HALF_OVERFLOW / MAX_HALF
        overflowed = tuple(name for name, share in self._largest.items() if not share < limit)
        if overflowed:
            worst = overflowed[0]
        else:
            worst = max(self._largest, key=self._largest.__getitem__, default="")
        return HalfReport(worst, self._largest.get(worst, 0.0) * MAX_HALF, overflowed)

    def _infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        ports = [*names, *(port for gauge in self._gauges for port in gauge.ports)]
        try:
            found = dict(zip(ports, self._session.run(ports, inputs), strict=True))
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed while running: {error}") from error
        for gauge in self._gauges:
            least, most, total = (float(found[port]) for port in gauge.ports)
            # Extremes may overlook a NaN among numbers; a sum does not.
            share = max(-least, most) / MAX_HALF if np.isfinite(total) else float("inf")
            self._largest[gauge.node] = max(self._largest[gauge.node], share)
        return {name: found[name] for name in names}

    def _close(self) -> None:
        self._session = None


def half_report(
    path: Path, frames: Iterable[Mapping[str, Array]], *, threads: int | None = None
) -> HalfReport:
    """Run a graph on frames with every FP16 tensor rounded, and say how near it came to overflow.

    Args:
        path: as for ``HalfEvaluator``.
        frames: the graph's inputs for one frame after another.
        threads: CPU threads; None: all.

    Raises:
        UsageError: no frames.
        EdgesegError: as ``HalfEvaluator`` and its ``infer`` raise them.
    """
    with HalfEvaluator(path, threads) as evaluator:
        count = 0
        for frame in frames:
            evaluator.infer(frame)
            count += 1
        if count == 0:
            raise UsageError("no frame was given to run the graph on")
        return evaluator.report()


def _spec(graph: Graph, name: str, path: Path) -> TensorSpec:
    dtype = _DTYPES.get(graph.element_type(name))
    if dtype is None:
        raise CalibrationError(f"{path}: {name!r} has a type that cannot be evaluated")
    shape = graph.shape(name)
    return TensorSpec(name, dtype, shape, usual_layout(dtype, shape))


@dataclass(frozen=True)
class _Gauge:
    """Scalars that say how far the FP16 result of a node goes."""

    node: str
    ports: tuple[str, ...]
    """Its least and its greatest number and their sum, before rounding."""


class _Twin:
    """Rewrites a graph so that FP16 tensors are held as FP32 numbers that were rounded to half.

    A tensor of type FP16 keeps its name for the rounded half itself; its readers get the widened
    numbers, its maker writes the exact ones: ``exact -> Cast -> half -> Cast -> widened``.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.half = {
            name
            for node in graph.nodes
            for name in (*node.input, *node.output)
            if name and graph.element_type(name) == TensorProto.FLOAT16
        }
        self.widened: dict[str, str] = {}
        self.gauges: list[_Gauge] = []
        self.nodes: list[Node] = []

    def write(self) -> None:
        """Rewrite the graph in place."""
        for node in self.graph.nodes:
            self._inputs(node)
            self._types(node)
            self.nodes.append(node)
            for i, name in enumerate(node.output):
                if name in self.half:
                    node.output[i] = self._output(node, name)
        self.graph.nodes = self.nodes
        self.graph.index()
        self.graph.model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ())
            for gauge in self.gauges
            for name in gauge.ports
        )

    def _inputs(self, node: Node) -> None:
        for i, name in enumerate(node.input):
            if name in self.half:
                if name not in self.widened:  # a constant, or an input of the graph
                    self._cast(name, self._wide(name), TensorProto.FLOAT)
                node.input[i] = self.widened[name]

    def _output(self, node: Node, name: str) -> str:
        """The name under which ``node`` writes what the graph calls ``name``."""
        wide = self._wide(name)
        if node.op_type in LAYOUT_OPS:
            if name in self.graph.outputs:
                self._cast(wide, name, TensorProto.FLOAT16)
            return wide
        exact = self.graph.unique(f"{name}_exact")
        self._cast(exact, name, TensorProto.FLOAT16)
        self._cast(name, wide, TensorProto.FLOAT)
        kinds = ("ReduceMin", "ReduceMax", "ReduceSum")
        ports = tuple(self._reduced(kind, exact, f"{name}_{kind}") for kind in kinds)
        self.gauges.append(_Gauge(node.name, ports))
        return exact

    def _reduced(self, kind: str, tensor: str, name: str) -> str:
        result = self.graph.unique(name)
        self.nodes.append(self.graph.node(kind, (tensor,), result, f"{result}_gauge", keepdims=0))
        return result

    def _wide(self, name: str) -> str:
        self.widened[name] = self.graph.unique(f"{name}_widened")
        return self.widened[name]

    def _cast(self, source: str, result: str, to: int) -> None:
        name = f"{result}_rounding"
        self.nodes.append(self.graph.node("Cast", (source,), result, name, to=to))

    @staticmethod
    def _types(node: Node) -> None:
        """Types that an operation gets from an attribute."""
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            elif attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT16:
                value = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(value, attribute.t.name))
