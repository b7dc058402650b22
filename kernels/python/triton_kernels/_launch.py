"""Which tensors can be given to the kernels, and where the kernels run."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton

from edgeseg.errors import InputError
from edgeseg.kernels._library import MAX_SIDE_PX

__all__ = [
    "FOUR_WARPS",
    "ONE_WARP",
    "check_output",
    "check_sides",
    "check_tensor",
    "interpreted",
    "interpreter_tile",
    "on_device",
]

# Fused multiply-adds are asked for: Triton's default is about to change.
ONE_WARP = {"num_warps": 1, "enable_fp_fusion": True}
FOUR_WARPS = {"num_warps": 4, "enable_fp_fusion": True}
"""How the kernels are compiled."""


@triton.jit
def _probe() -> None:
    pass


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter; it is decided when they are defined."""
    return not isinstance(_probe, triton.JITFunction)


def check_tensor(
    name: str, tensor: Any, dtypes: tuple[torch.dtype, ...], device: torch.device | None = None
) -> None:
    """Refuse what a kernel cannot read.

    Args:
        name: of the argument, for the message.
        tensor: what was given.
        dtypes: the types that the kernel reads.
        device: where the other tensors of the call are.

    Raises:
        InputError: it is no tensor, of another dtype, or where no kernel reaches it.
    """
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        raise InputError(f"{name} must be {' or '.join(map(str, dtypes))}, got {tensor.dtype}")
    if tensor.device.type == "cuda" and interpreted():
        raise InputError(
            f"{name} is on {tensor.device}, but Triton's interpreter is on and reads the CPU's "
            "memory alone: unset TRITON_INTERPRET and start Python again, or pass tensor.cpu()"
        )
    if tensor.device.type == "cpu" and not interpreted():
        raise InputError(
            f"{name} is on the CPU: pass tensor.cuda(), use edgeseg.kernels, which takes numpy "
            "arrays, or set TRITON_INTERPRET=1 before triton is imported, for tests"
        )
    if tensor.device.type not in ("cuda", "cpu"):
        raise InputError(f"{name} is on {tensor.device}: pass tensor.cuda()")
    if device is not None and tensor.device != device:
        raise InputError(f"{name} is on {tensor.device}, other tensors of the call on {device}")


def check_output(
    name: str, tensor: Any, dtype: torch.dtype, shapes: tuple[tuple[int, ...], ...], device: Any
) -> None:
    """Refuse a tensor that a kernel cannot fill.

    Raises:
        InputError: its dtype, shape, strides or device are not as wanted.
    """
    check_tensor(name, tensor, (dtype,), device)
    if tuple(tensor.shape) not in shapes:
        raise InputError(
            f"{name} must have the shape {' or '.join(map(str, shapes))}, got {tuple(tensor.shape)}"
        )
    if not tensor.is_contiguous():
        raise InputError(f"{name} must be contiguous")


def check_sides(what: str, height_px: int, width_px: int) -> None:
    """Refuse sides that are not 1 to 65535.

    Raises:
        InputError: naming ``what``.
    """
    if not (1 <= height_px <= MAX_SIDE_PX and 1 <= width_px <= MAX_SIDE_PX):
        raise InputError(
            f"the sides of {what} are 1 to {MAX_SIDE_PX} pixels, got {height_px}x{width_px}"
        )


def interpreter_tile(height_px: int) -> tuple[int, int]:
    """Rows and columns of a program in the interpreter, for a result of that height.

    Every operation takes long there, on however many elements. Most pictures are larger all the
    same, so that there are tiles to be got wrong.
    """
    rows = min(16, int(triton.next_power_of_2(height_px)))
    return rows, 512 // rows


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes ``device`` the one that kernels are launched on."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
