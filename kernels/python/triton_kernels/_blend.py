"""A mask's colours and outlines, blended into a frame in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from edgeseg.errors import InputError
from edgeseg.kernels.triton_kernels._launch import (
    INTERPRETER_TILE,
    check_sides,
    check_tensor,
    interpreted,
    on_device,
)

__all__ = ["blend_overlay"]


@triton.jit
def _blend(
    frame,
    mask,
    colours,
    height,
    width,
    frame_stride,
    mask_stride,
    classes,
    alpha,
    reach,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (y < height) & (x < width)
    row = y.to(tl.int64)
    value = tl.load(mask + row * mask_stride + x, inside, 0).to(tl.int32)
    drawn = inside & (value > 0) & (value <= classes)
    edge = tl.zeros([ROWS, COLUMNS], tl.int32)
    if reach > 0:
        # Places beyond the frame count as the last within, which is near enough too. Where nothing
        # is drawn, no neighbour is read.
        for down in range(-reach, reach + 1):
            line = tl.minimum(tl.maximum(y + down, 0), height - 1).to(tl.int64) * mask_stride
            for right in range(-reach, reach + 1):
                column = tl.minimum(tl.maximum(x + right, 0), width - 1)
                other = tl.load(mask + line + column, drawn, 0).to(tl.int32)
                edge = edge | (drawn & (other != value)).to(tl.int32)
    strength = tl.where(edge != 0, 256, alpha)
    colour = colours + tl.maximum(value - 1, 0) * 3
    place = frame + row * frame_stride + x * 3
    for channel in tl.static_range(3):
        old = tl.load(place + channel, drawn, 0).to(tl.int32)
        new = tl.load(colour + channel, drawn, 0).to(tl.int32)
        mixed = (old * (256 - strength) + new * strength + 128) >> 8
        tl.store(place + channel, mixed.to(tl.uint8), drawn)


def blend_overlay(
    frame: torch.Tensor,
    mask: torch.Tensor,
    colours: torch.Tensor | Sequence[Sequence[int]],
    *,
    alpha: int,
    outline_px: int = 0,
) -> torch.Tensor:
    """Blend the colours of a mask into a frame, in place.

    A pixel of class k becomes ``(pixel * (256 - alpha) + colour * alpha + 128) >> 8``.

    Args:
        frame: uint8 (H, W, 3), channels in any order, sides 1 to 65535; rows may be any distance
            apart, pixels within them are contiguous.
        mask: uint8 (H, W) of class indices, rows as those of ``frame``; 0 and indices above the
            number of colours are left alone.
        colours: of the classes 1, 2, ...: 0 to 255 each, in the order of the frame's channels; or
            a contiguous uint8 tensor (classes, 3) on the frame's device.
        alpha: 0 (the frame) to 256 (the colour).
        outline_px: pixels with a pixel of another index at most so far away, in x and in y and
            within the frame, get the colour itself; 0: no outline.

    Returns:
        ``frame``.

    Raises:
        InputError: an argument is not as described.
    """
    check_tensor("the frame", frame, (torch.uint8,))
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(f"a frame has the shape (H, W, 3), got {tuple(frame.shape)}")
    if frame.stride()[1:] != (3, 1):
        raise InputError("the pixels in the frame's rows must be contiguous")
    height, width = frame.shape[:2]
    check_sides("a frame", height, width)
    check_tensor("the mask", mask, (torch.uint8,), frame.device)
    if mask.shape != frame.shape[:2] or mask.stride(1) != 1:
        raise InputError(
            f"the mask must have the shape {(height, width)} and contiguous rows, got "
            f"{tuple(mask.shape)} with strides {mask.stride()}"
        )
    if not 0 <= alpha <= 256:
        raise InputError(f"alpha must be 0 to 256, got {alpha}")
    if outline_px < 0:
        raise InputError(f"outline_px must be at least 0, got {outline_px}")
    palette = _palette(colours, frame.device)
    rows, columns = INTERPRETER_TILE if interpreted() else (1, 256)
    with on_device(frame.device):
        _blend[(triton.cdiv(width, columns), triton.cdiv(height, rows))](
            frame,
            mask,
            palette,
            height,
            width,
            frame.stride(0),
            mask.stride(0),
            len(palette),
            alpha,
            min(outline_px, max(height, width)),
            ROWS=rows,
            COLUMNS=columns,
            num_warps=4,
        )
    return frame


def _palette(colours: torch.Tensor | Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    if isinstance(colours, torch.Tensor):
        check_tensor("colours", colours, (torch.uint8,), device)
        palette = colours
    else:
        if any(not 0 <= value <= 255 for colour in colours for value in colour):
            raise InputError("the values of a colour are 0 to 255")
        palette = torch.tensor(colours, dtype=torch.uint8).to(device)
    if palette.ndim != 2 or palette.shape[1] != 3 or not 1 <= len(palette) <= 255:
        raise InputError(f"colours are 1 to 255 triples, got {tuple(palette.shape)}")
    if not palette.is_contiguous():
        raise InputError("colours must be contiguous")
    return palette
