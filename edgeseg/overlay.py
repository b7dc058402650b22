"""Masks drawn onto frames: a translucent fill, an outline, or both."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeseg import kernels
from edgeseg.errors import InputError, UsageError

__all__ = ["COLOUR_NAMES", "Colour", "Overlay", "default_colours", "parse_colours"]

Colour = tuple[int, int, int]
"""Red, green, blue, each 0 to 255."""

COLOUR_NAMES: dict[str, Colour] = {
    "sky": (86, 180, 233),
    "yellow": (240, 228, 66),
    "green": (0, 158, 115),
    "blue": (0, 114, 178),
    "orange": (230, 159, 0),
    "purple": (204, 121, 167),
    "vermillion": (213, 94, 0),
    "cyan": (0, 255, 255),
    "lime": (0, 255, 0),
    "magenta": (255, 0, 255),
    "red": (255, 0, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
"""The first seven are the colour-blind-safe palette of Okabe and Ito (2008, "Color Universal
Design"), ordered so that the ones furthest from the reds of mucosa come first."""

_PALETTE_COLOURS = 7
_GOLDEN_TURN = 0.618034
_OUTLINE_SHARE = 300
"""An outline is one pixel wide for every so many pixels of the frame's shorter side."""
_ALPHA_STEPS = 256
_MAX_CLASSES = 255  # of a uint8 mask

Image = npt.NDArray[np.uint8]


def default_colours(count: int) -> tuple[Colour, ...]:
    """``count`` colours: Okabe and Ito's seven, then evenly scattered hues."""
    palette = list(COLOUR_NAMES.values())[:_PALETTE_COLOURS]
    for i in range(count - len(palette)):
        red, green, blue = colorsys.hsv_to_rgb((i * _GOLDEN_TURN) % 1.0, 0.7, 1.0)
        palette.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(palette[:count])


def parse_colours(text: str | None, count: int) -> tuple[Colour, ...]:
    """Colours of ``count`` foreground classes from ``NAME`` or ``#RRGGBB``, separated by commas.

    None gives the default palette.

    Raises:
        UsageError: an unknown name, or not as many colours as classes.
    """
    if text is None:
        return default_colours(count)
    colours = tuple(_parse(part.strip()) for part in text.split(","))
    if len(colours) != count:
        raise UsageError(
            f"{len(colours)} colour(s) in {text!r} for {count} class(es): give one for each class, "
            "separated by commas"
        )
    return colours


def _parse(text: str) -> Colour:
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        value = int(text[1:], 16)
        return value >> 16, value >> 8 & 255, value & 255
    try:
        return COLOUR_NAMES[text.lower()]
    except KeyError:
        raise UsageError(
            f"unknown colour {text!r}: write #RRGGBB or one of {', '.join(COLOUR_NAMES)}"
        ) from None


class Overlay:
    """Draws the masks of one model, always in the same way.

    Calling it draws. The fill is ``(1 - alpha) * frame + alpha * colour``, alpha rounded to 1 / 256
    and the result to the nearest level (``edgeseg.kernels.blend_overlay``). Outlines are opaque and
    run along the outermost pixels of a region, where it meets another class too, but not along the
    border of the frame.
    """

    def __init__(
        self, colours: Sequence[Colour], *, alpha: float = 0.4, contours: bool = False
    ) -> None:
        """Prepare the colours.

        Args:
            colours: of class 1, class 2 and so on.
            alpha: share of the colour in the fill, 0 (none) to 1 (opaque).
            contours: draw outlines.

        Raises:
            UsageError: alpha lies outside [0, 1], there is no colour, or nothing would be drawn.
        """
        if not 0.0 <= alpha <= 1.0:
            raise UsageError(f"alpha must lie between 0 and 1, got {alpha}")
        if not colours:
            raise UsageError("an overlay needs at least one colour")
        if round(_ALPHA_STEPS * alpha) == 0 and not contours:
            raise UsageError("alpha 0 without contours draws nothing: choose one of them")
        self.colours = tuple(colours)
        self.alpha = alpha
        self.contours = contours
        self.colours_bgr = np.array(
            [colour[::-1] for colour in self.colours[:_MAX_CLASSES]], np.uint8
        )
        """uint8 (classes, 3), as ``kernels.blend_overlay`` takes them."""

    def __call__(
        self, frame: Image, mask: npt.NDArray[np.uint8], *, in_place: bool = False
    ) -> Image:
        """The frame with the mask drawn on it.

        Args:
            frame: uint8 (H, W, 3), BGR.
            mask: uint8 (H, W) class indices, 0 for background.
            in_place: draw on ``frame`` itself, which must then be contiguous and writable.

        Returns:
            uint8 (H, W, 3), BGR: a copy, or ``frame`` with ``in_place``.

        Raises:
            InputError: shapes or dtypes do not fit, or the mask holds a class without a colour.
        """
        _check(frame, mask)
        if in_place and not (frame.flags.c_contiguous and frame.flags.writeable):
            raise InputError("drawing in place needs a contiguous, writable frame")
        canvas = frame if in_place else frame.copy()
        largest = int(mask.max(initial=0))
        if largest > len(self.colours):
            raise InputError(
                f"the mask holds class {largest}, but there are {len(self.colours)} colour(s)"
            )
        kernels.blend_overlay(
            canvas,
            mask,
            self.colours_bgr,
            alpha=self.alpha,
            outline_px=self.outline_px(mask.shape),
        )
        return canvas

    def outline_px(self, frame_hw_px: tuple[int, ...]) -> int:
        """Width of the outlines in a frame of that height and width; 0 without contours."""
        if not self.contours:
            return 0
        return min(max(1, round(min(frame_hw_px) / _OUTLINE_SHARE)), kernels.MAX_OUTLINE_PX)


def _check(frame: Image, mask: npt.NDArray[np.uint8]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(f"a frame is uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
    if mask.dtype != np.uint8 or mask.shape != frame.shape[:2]:
        raise InputError(
            f"the mask of a frame {frame.shape[:2]} is uint8 of that shape, got {mask.dtype} "
            f"{mask.shape}"
        )
