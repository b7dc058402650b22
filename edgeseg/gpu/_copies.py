"""Asynchronous copies of arrays whose rows may lie any distance apart."""

from __future__ import annotations

from typing import Any

from edgeseg.errors import InputError
from edgeseg.gpu._runtime import Runtime
from edgeseg.kernels._device_array import Block

__all__ = ["enqueue_copy"]


def enqueue_copy(cuda: Runtime, kind: Any, target: Block, source: Block, stream: int) -> None:
    """Enqueue a copy.

    Args:
        cuda: the run time.
        kind: a ``cudaMemcpyKind``.
        target: where to.
        source: where from, of the same shape and dtype.
        stream: to enqueue on.

    Raises:
        InputError: shapes or dtypes differ, or an array is no rows of one length at one distance.
        BackendError: CUDA refused.
    """
    if target.shape != source.shape or target.dtype != source.dtype:
        raise InputError(
            f"cannot copy {source.dtype} {source.shape} to {target.dtype} {target.shape}"
        )
    to_rows, to_width, to_pitch = _rows("target", target)
    from_rows, from_width, from_pitch = _rows("source", source)
    rows = max(to_rows, from_rows)
    width = source.nbytes // rows
    if rows == 1:
        cuda("cudaMemcpyAsync", target.address, source.address, width, kind, stream)
        return
    # Memory without gaps is rows of any length.
    if to_rows == 1:
        to_width = to_pitch = width
    if from_rows == 1:
        from_width = from_pitch = width
    if to_width != from_width:
        raise InputError(
            f"cannot copy strides {source.strides} to {target.strides} of shape {source.shape}"
        )
    cuda(
        "cudaMemcpy2DAsync",
        target.address,
        to_pitch,
        source.address,
        from_pitch,
        width,
        rows,
        kind,
        stream,
    )


def _rows(name: str, block: Block) -> tuple[int, int, int]:
    """(number, length, distance) in bytes of the rows that ``block`` consists of."""
    rows, width, pitch = 1, block.dtype.itemsize, 0
    for side, stride in zip(reversed(block.shape), reversed(block.strides), strict=True):
        if side == 1:
            continue
        if rows == 1 and stride == width:
            width *= side
        elif rows == 1 and stride > width:
            rows, pitch = side, stride
        elif rows > 1 and stride == rows * pitch:
            rows *= side
        else:
            raise InputError(
                f"{name} must be rows without gaps, one distance apart, got strides "
                f"{block.strides} for shape {block.shape}"
            )
    return rows, width, pitch or width
