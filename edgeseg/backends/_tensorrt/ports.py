"""Inputs and outputs of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeseg.backends.base import usual_layout
from edgeseg.errors import BackendError
from edgeseg.spec import DType, TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["Ports", "read_ports"]


@dataclass(frozen=True)
class Ports:
    """What goes in and comes out, in the order of the engine."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read_ports(lib: Any, engine: trt.ICudaEngine) -> Ports:
    """The engine's tensors.

    Raises:
        BackendError: one has no fixed shape, a type or format that is not served, or lies in host
            memory.
    """
    dtypes: dict[trt.DataType, DType] = {
        lib.DataType.FLOAT: "float32",
        lib.DataType.HALF: "float16",
        lib.DataType.INT8: "int8",
        lib.DataType.UINT8: "uint8",
        lib.DataType.INT32: "int32",
        lib.DataType.INT64: "int64",
        lib.DataType.BOOL: "bool",
    }
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for i in range(engine.num_io_tensors):
        name = str(engine.get_tensor_name(i))
        shape = tuple(int(side) for side in engine.get_tensor_shape(name))
        if any(side < 0 for side in shape):
            raise BackendError(f"tensor {name!r} has a dynamic shape; export with fixed sizes")
        kind: trt.DataType = engine.get_tensor_dtype(name)
        dtype = dtypes.get(kind)
        if dtype is None:
            raise BackendError(f"tensor {name!r} has unsupported type {kind}")
        if engine.get_tensor_location(name) != lib.TensorLocation.DEVICE:
            raise BackendError(f"tensor {name!r} lies in host memory: it is a shape, not an image")
        if engine.get_tensor_format(name) != lib.TensorFormat.LINEAR:
            raise BackendError(
                f"tensor {name!r} is not laid out in rows (linear): build the plan with edgeseg"
            )
        spec = TensorSpec(name, dtype, shape, usual_layout(dtype, shape))
        is_input = engine.get_tensor_mode(name) == lib.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(spec)
    return Ports(tuple(inputs), tuple(outputs))
