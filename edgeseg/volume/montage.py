"""One picture of a segmented volume: slices spread over what was found."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.overlay import Overlay, default_colours

__all__ = ["montage", "pick_slices"]

Image = npt.NDArray[np.uint8]

_COLUMNS = 4
_TILES = 12
_TILE_PX = 280
"""Longer side of a tile."""
_MARGIN_PX = 6
_LINE_PX = 22
_FILL = 0.4
_BACKGROUND = 24
_TEXT = (240, 240, 240)
_TRUTH = (255, 255, 255)


def montage(
    slices: Image,
    masks: Image,
    spacing_mm: tuple[float, float, float],
    *,
    truth: Image | None = None,
    names: Sequence[str],
    caption: str,
) -> Image:
    """Draw up to twelve slices with what was found in them.

    The predicted classes are translucent fills, the truth a white outline on them. A millimetre is
    as long in every direction.

    Args:
        slices: uint8 (slice, row, column), grey.
        masks: uint8 of the same shape, class indices.
        spacing_mm: between slices, rows and columns.
        truth: uint8 of the same shape, class indices.
        names: of the foreground classes, for the legend.
        caption: written above; characters beyond ASCII become ``?``.

    Returns:
        uint8 (h, w, 3), BGR.

    Raises:
        InputError: shapes differ.
    """
    if masks.shape != slices.shape or (truth is not None and truth.shape != slices.shape):
        raise InputError("slices, masks and truth differ in shape")
    height, width = _tile_size(slices.shape[1:], spacing_mm[1:])
    colours = default_colours(len(names))
    fill = Overlay(colours, alpha=_FILL)
    outline = Overlay([_TRUTH] * len(names), alpha=0.0, contours=True)
    chosen = pick_slices(masks if truth is None else masks | truth, _TILES)
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    head = 2 * _LINE_PX + _MARGIN_PX
    cell = (height + _LINE_PX + _MARGIN_PX, width + _MARGIN_PX)
    canvas = np.full(
        (head + rows * cell[0] + _MARGIN_PX, columns * cell[1] + _MARGIN_PX, 3),
        _BACKGROUND,
        np.uint8,
    )
    _write(canvas, caption, (_MARGIN_PX, _LINE_PX - 6), _TEXT)
    _legend(canvas, names, colours, with_truth=truth is not None)
    for number, index in enumerate(chosen):
        tile = cv2.cvtColor(_resized(slices[index], height, width), cv2.COLOR_GRAY2BGR)
        fill(tile, _resized_labels(masks[index], height, width), in_place=True)
        if truth is not None:
            outline(tile, _resized_labels(truth[index], height, width), in_place=True)
        top = head + number // columns * cell[0]
        left = _MARGIN_PX + number % columns * cell[1]
        text = f"{index + 1} of {len(slices)}"
        _write(canvas, text, (left, top + _LINE_PX - 6), _TEXT)
        canvas[top + _LINE_PX : top + _LINE_PX + height, left : left + width] = tile
    return canvas


def pick_slices(labels: npt.NDArray[np.uint8], count: int) -> list[int]:
    """Indices of up to ``count`` slices, evenly spread from the first to the last with foreground.

    Where there is no foreground they are spread over the whole stack.
    """
    present = np.flatnonzero(labels.reshape(len(labels), -1).any(axis=1))
    first, last = (int(present[0]), int(present[-1])) if len(present) else (0, len(labels) - 1)
    shown = min(count, last - first + 1)
    # The middle of each of ``shown`` equal parts: the outermost slices hold the least.
    return [first + int((2 * i + 1) * (last - first + 1) / (2 * shown)) for i in range(shown)]


def _tile_size(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> tuple[int, int]:
    extent = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    scale = _TILE_PX / max(extent)
    return max(1, round(extent[0] * scale)), max(1, round(extent[1] * scale))


def _resized(grey: Image, height: int, width: int) -> Image:
    shrinks = height * width < grey.size
    resized: Image = cv2.resize(
        grey, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return resized


def _resized_labels(labels: Image, height: int, width: int) -> Image:
    resized: Image = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized


def _legend(
    canvas: Image,
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    *,
    with_truth: bool,
) -> None:
    entries = [(name, colour[::-1]) for name, colour in zip(names, colours, strict=True)]
    if with_truth:
        entries.append(("truth (outline)", _TRUTH))
    left, baseline = _MARGIN_PX, 2 * _LINE_PX - 4
    for name, bgr in entries:
        left = _write(canvas, name, (left, baseline), bgr) + 3 * _MARGIN_PX


def _write(canvas: Image, text: str, origin: tuple[int, int], colour: tuple[int, int, int]) -> int:
    """Write a line, as far as there is room; returns where it ends."""
    plain = text.encode("ascii", "replace").decode()
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    cv2.putText(canvas, plain, origin, font, scale, colour, 1, cv2.LINE_AA)
    return origin[0] + int(cv2.getTextSize(plain, font, scale, 1)[0][0])
