"""What a caller may ask of TensorRT's builder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edgeseg.errors import UsageError

__all__ = ["CompileOptions"]


@dataclass(frozen=True)
class CompileOptions:
    """Everything that is not in the ONNX file; precision is."""

    workspace_mib: int | None = None
    """Most scratch memory of one layer, in MiB; None allows all of the device's."""
    optimization_level: int | None = None
    """0 (a quick build) to 5 (the longest search); None is TensorRT's own, 3."""
    dla: int | None = None
    """DLA core for the layers that it can run; the others run on the GPU."""
    max_aux_streams: int | None = None
    """Most streams beside the caller's for branches of the graph; None lets TensorRT choose."""
    tf32: bool = False
    """Let FP32 products round their factors to TF32's 10 bits of mantissa."""

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"the workspace must be at least 1 MiB, got {self.workspace_mib}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"optimisation levels are 0 to 5, got {self.optimization_level}")
        if self.dla is not None and self.dla < 0:
            raise UsageError(f"DLA cores are numbered from 0, got {self.dla}")
        if self.max_aux_streams is not None and self.max_aux_streams < 0:
            raise UsageError(f"there cannot be {self.max_aux_streams} auxiliary streams")

    def to_key(self) -> dict[str, int | bool | None]:
        """Everything that makes a difference to the plan, as JSON values."""
        return dataclasses.asdict(self)
