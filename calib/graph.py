"""An ONNX graph that can be searched and rewritten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg._files import atomic_file
from edgeseg.errors import CalibrationError

__all__ = ["LAYOUT_OPS", "Graph"]

LAYOUT_OPS = frozenset(
    {
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Split",
        "Concat",
        "Identity",
    }
)
"""Operations that move values without changing them."""

_MAX_BYTES = 2**31

Array = npt.NDArray[Any]
Node = Any
"""``onnx.NodeProto``; the onnx package carries no usable types."""


class Graph:
    """A model without control flow, with types and shapes known for every tensor.

    ``Constant`` nodes are turned into initialisers. Unnamed nodes get a name from their first
    output, so that each can be spoken of.
    """

    def __init__(self, model: Any) -> None:
        """Take a copy of ``model`` (``onnx.ModelProto``).

        Raises:
            CalibrationError: the model is not valid, or has subgraphs or dynamic shapes.
        """
        try:
            onnx.checker.check_model(model)
            inferred = onnx.shape_inference.infer_shapes(
                model, check_type=True, strict_mode=True, data_prop=True
            )
        except Exception as error:  # onnx raises classes of its own without a public base
            raise CalibrationError(f"not a valid ONNX model: {_first_line(error)}") from error
        self.model = inferred
        graph = inferred.graph
        self.initializers: dict[str, Any] = {t.name: t for t in graph.initializer}
        self.nodes: list[Node] = []
        for node in graph.node:
            if any(
                a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
                for a in node.attribute
            ):
                raise CalibrationError(
                    f"node {node.name!r} ({node.op_type}) has a subgraph: "
                    "export without control flow"
                )
            if node.op_type == "Constant":
                self._lift(node)
                continue
            if not node.name:
                node.name = f"{node.op_type}_{node.output[0]}"
            self.nodes.append(node)
        self._types = {
            v.name: v.type.tensor_type
            for v in (*graph.input, *graph.value_info, *graph.output)
            if v.type.HasField("tensor_type")
        }
        self._names = {name for node in self.nodes for name in (*node.input, *node.output)}
        self._names.update(
            self.initializers, (v.name for v in graph.input), (n.name for n in self.nodes)
        )
        self.index()

    @classmethod
    def load(cls, path: Path) -> Graph:
        """Read ``path``, with external data beside it if there is any.

        Raises:
            CalibrationError: missing, unreadable, or as for the constructor.
        """
        try:
            model = onnx.load(str(path))
        except Exception as error:  # OSError, or protobuf's DecodeError
            raise CalibrationError(
                f"{path}: cannot be read as ONNX: {_first_line(error)}"
            ) from error
        if model.ByteSize() >= _MAX_BYTES:
            raise CalibrationError(
                f"{path}: with its weights the graph exceeds 2 GiB, the limit of one ONNX file"
            )
        try:
            return cls(model)
        except CalibrationError as error:
            raise CalibrationError(f"{path}: {error}") from error

    def index(self) -> None:
        """Recompute who makes and who reads each tensor, after ``nodes`` was changed."""
        self._producers = {name: node for node in self.nodes for name in node.output if name}
        self._consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    self._consumers.setdefault(name, []).append(node)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, initialisers left out."""
        return tuple(v.name for v in self.model.graph.input if v.name not in self.initializers)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return tuple(v.name for v in self.model.graph.output)

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return int(next(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")))

    def producer(self, tensor: str) -> Node | None:
        """The node that makes ``tensor``; None for graph inputs and initialisers."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> list[Node]:
        """The nodes that read ``tensor``."""
        return self._consumers.get(tensor, [])

    def value(self, name: str) -> Array | None:
        """The array of an initialiser; None if ``name`` is not one."""
        tensor = self.initializers.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def is_constant(self, name: str) -> bool:
        """Whether ``name`` is an initialiser."""
        return name in self.initializers

    def element_type(self, name: str) -> int:
        """ONNX element type of a tensor, such as ``TensorProto.FLOAT``."""
        if name in self.initializers:
            return int(self.initializers[name].data_type)
        return int(self._types[name].elem_type)

    def shape(self, name: str) -> tuple[int, ...]:
        """Static shape of a tensor.

        Raises:
            CalibrationError: a dimension is not fixed.
        """
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        kind = self._types.get(name)
        if kind is None or any(not d.HasField("dim_value") for d in kind.shape.dim):
            raise CalibrationError(
                f"tensor {name!r} has no static shape: export with a fixed input size"
            )
        return tuple(d.dim_value for d in kind.shape.dim)

    def unique(self, name: str) -> str:
        """``name``, with a number behind it if the graph uses it already; reserved from now on."""
        candidate, i = name, 1
        while candidate in self._names:
            candidate, i = f"{name}_{i}", i + 1
        self._names.add(candidate)
        return candidate

    def retype_input(self, name: str, element_type: int, shape: Sequence[int]) -> None:
        """Give a graph input another ONNX element type and shape; its readers must fit them."""
        (value,) = (v for v in self.model.graph.input if v.name == name)
        value.CopyFrom(helper.make_tensor_value_info(name, element_type, shape))
        self._types[name] = value.type.tensor_type

    def add_constant(self, name: str, value: Array) -> str:
        """Add an initialiser and return its (unique) name."""
        name = self.unique(name)
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def node(
        self, kind: str, inputs: Iterable[str], output: str, name: str, **attributes: Any
    ) -> Node:
        """Make (not insert) a node of one output."""
        return helper.make_node(kind, list(inputs), [output], name=self.unique(name), **attributes)

    def save(self, path: Path) -> None:
        """Write the model atomically, after the ONNX checker and strict type inference accepted it.

        Nodes are brought into topological order; unused initialisers are left out.

        Raises:
            CalibrationError: the graph is not valid.
            OutputError: the file cannot be written.
        """
        model = self.to_model()
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:
            raise CalibrationError(
                f"the rewritten graph is not valid: {_first_line(error)}"
            ) from error
        with atomic_file(path) as temporary:
            temporary.write_bytes(model.SerializeToString())

    def to_model(self) -> Any:
        """The graph as an ``onnx.ModelProto`` of its own."""
        source = self.model
        nodes = self._sorted()
        used = {name for node in nodes for name in node.input} | set(self.outputs)
        graph = helper.make_graph(
            nodes,
            source.graph.name,
            [v for v in source.graph.input if v.name in self.inputs],
            list(source.graph.output),
            [t for name, t in self.initializers.items() if name in used],
        )
        return helper.make_model(
            graph,
            ir_version=source.ir_version,
            opset_imports=list(source.opset_import),
            producer_name="edgeseg",
        )

    def _sorted(self) -> list[Node]:
        self.index()
        done: set[int] = set()
        ordered: list[Node] = []
        stack = [(node, False) for node in reversed(self.nodes)]
        while stack:
            node, ready = stack.pop()
            if id(node) in done:
                continue
            if ready:
                done.add(id(node))
                ordered.append(node)
                continue
            stack.append((node, True))
            makers = [self._producers.get(name) for name in node.input]
            stack.extend((m, False) for m in makers if m is not None and id(m) not in done)
        return ordered

    def _lift(self, node: Node) -> None:
        attribute = node.attribute[0]
        value = helper.get_attribute_value(attribute)
        if attribute.name != "value":
            dtype = np.int64 if attribute.name.startswith("value_int") else np.float32
            value = numpy_helper.from_array(np.asarray(value, dtype))
        tensor = TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        self.initializers[tensor.name] = tensor


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
