"""A mask's colours and outlines, blended into a frame in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from edgeseg.errors import InputError
from edgeseg.kernels._blend import ALPHA_STEPS, MAX_CLASSES, MAX_OUTLINE_PX
from edgeseg.kernels.triton_kernels._launch import (
    FOUR_WARPS,
    check_sides,
    check_tensor,
    interpreted,
    interpreter_tile,
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
    colours_bgr: torch.Tensor | Sequence[Sequence[int]],
    *,
    alpha: float,
    outline_px: int = 0,
) -> None:
    """As ``edgeseg.kernels.blend_overlay``, on tensors: blend a mask's colours in, in place.

    A pixel of class ``k`` becomes ``(p * (256 - a) + colour * a + 128) >> 8``, where ``a`` is
    ``256 * alpha`` rounded, and the colour itself where the square of ``outline_px`` to each side
    holds a pixel of another index. The frame's border is no outline. Everything else is left alone.

    Args:
        frame: uint8 (H, W, 3), sides 1 to 65535; rows may be any distance apart, pixels within
            them are contiguous.
        mask: uint8 (H, W) of class indices, rows as those of ``frame``; 0 and indices without a
            colour are not drawn.
        colours_bgr: of the classes 1 to K, in the order of the frame's channels: K times three
            integers from 0 to 255, or a contiguous uint8 tensor (K, 3) on the frame's device; K is
            1 to 255.
        alpha: opacity, 0 to 1.
        outline_px: how wide outlines are, on the class's side of the border; 0 to 127.

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
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha must lie between 0 and 1, got {alpha}")
    if not 0 <= outline_px <= MAX_OUTLINE_PX:
        raise InputError(f"outlines are 0 to {MAX_OUTLINE_PX} pixels wide, got {outline_px}")
    palette = _palette(colours_bgr, frame.device)
    rows, columns = interpreter_tile(height) if interpreted() else (1, 256)
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
            round(ALPHA_STEPS * alpha),
            outline_px,
            ROWS=rows,
            COLUMNS=columns,
            **FOUR_WARPS,
        )


def _palette(colours: torch.Tensor | Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    if isinstance(colours, torch.Tensor):
        check_tensor("colours", colours, (torch.uint8,), device)
        palette = colours
    else:
        if any(not 0 <= value <= 255 for colour in colours for value in colour):
            raise InputError("the values of a colour are 0 to 255")
        palette = torch.tensor(colours, dtype=torch.uint8).to(device)
    if palette.ndim != 2 or palette.shape[1] != 3 or not 1 <= len(palette) <= MAX_CLASSES:
        raise InputError(f"colours are 1 to {MAX_CLASSES} triples, got {tuple(palette.shape)}")
    if not palette.is_contiguous():
        raise InputError("colours must be contiguous")
    return palette
