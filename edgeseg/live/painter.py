"""Makes the pictures of a session: masks in colour, the status line, the sign."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeseg.live.base import Picture, Reason, State
from edgeseg.live.controls import Controls
from edgeseg.live.sign import blank, dim, draw_sign, draw_status
from edgeseg.overlay import Colour, Overlay

__all__ = ["Painter"]

_BLANK_PX = (1280, 720)
_FINEST_ALPHA = 1.0 / 512.0
"""Below it the fill is invisible at 8 bits."""


class Painter:
    """Draws on copies: frames are looked at by others at the same time."""

    def __init__(
        self,
        colours: tuple[Colour, ...],
        controls: Controls,
        *,
        contours: bool = False,
        status: bool = True,
    ) -> None:
        """Prepare.

        Args:
            colours: of class 1, class 2 and so on.
            controls: whose opacity counts.
            contours: draw outlines.
            status: write age, rate and views into a corner.
        """
        self.colours = colours
        self._controls = controls
        self._contours = contours
        self._status = status
        self._overlay: Overlay | None = None

    def overlay(
        self,
        frame: Picture,
        mask: npt.NDArray[np.uint8],
        *,
        state: State,
        age_ms: float,
        mask_fps: float,
        extra: str = "",
    ) -> Picture:
        """The frame with a mask and the status line.

        Args:
            frame: uint8 (H, W, 3), BGR.
            mask: uint8 (H, W).
            state: how the mask came to this frame.
            age_ms: of the frame that it was computed on.
            mask_fps: new masks a second.
            extra: what else to write.
        """
        picture = np.array(frame, np.uint8)
        overlay = self._with_opacity(self._controls.opacity)
        if overlay is not None:
            picture = overlay(picture, mask, in_place=True)
        if self._status:
            draw_status(picture, state=state, age_ms=age_ms, mask_fps=mask_fps, extra=extra)
        return picture

    def sign(
        self,
        frame: Picture | None,
        reason: Reason,
        detail: str,
        *,
        since_s: float,
        dimmed: bool,
    ) -> Picture:
        """The frame without a mask, with the reason; a neutral ground where there is no frame."""
        if frame is None:
            picture = blank(_BLANK_PX)
        else:
            picture = dim(frame) if dimmed else np.array(frame, np.uint8)
        draw_sign(picture, reason, detail, since_s=since_s)
        return picture

    def _with_opacity(self, opacity: float) -> Overlay | None:
        """How to draw; None where there is nothing to draw."""
        if opacity < _FINEST_ALPHA and not self._contours:
            return None
        if self._overlay is None or self._overlay.alpha != opacity:
            self._overlay = Overlay(self.colours, alpha=opacity, contours=self._contours)
        return self._overlay
