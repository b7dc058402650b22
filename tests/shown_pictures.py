"""Shown pictures, as a live session hands them to its sinks."""

from __future__ import annotations

import numpy as np
from video_files import numbered_frame

from edgeseg.live.base import LiveFrame, Reason, Shown


def shown(
    number: int,
    captured_s: float = 0.0,
    *,
    width: int = 160,
    height: int = 96,
    index: int | None = None,
    media_s: float | None = None,
    segment: int = 0,
    shown_s: float | None = None,
    mask: np.ndarray | None = None,
    mask_index: int | None = None,
    reason: Reason = "starting",
) -> Shown:
    """Picture ``number``, which carries its number (``video_files.number_of``).

    Shown 50 ms after it was captured. With ``mask`` the state is "current", or "predicted" if
    ``mask_index`` is another frame's; without, it is "none".
    """
    image = numbered_frame(number % 256, width, height)
    index = number if index is None else index
    frame = LiveFrame(index, image, captured_s, media_s, segment)
    if mask is not None and mask_index is None:
        mask_index = index
    at_s = captured_s + 0.05 if shown_s is None else shown_s
    return Shown(
        number=number,
        frame=frame,
        picture=image,
        mask=mask,
        state="none" if mask is None else "current" if mask_index == index else "predicted",
        reason=reason if mask is None else None,
        detail="no frame came" if mask is None else "",
        mask_index=mask_index,
        age_ms=None if mask is None else 1000 * (at_s - captured_s),
        frame_age_ms=1000 * (at_s - captured_s),
        shown_s=at_s,
    )
