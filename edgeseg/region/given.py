"""A region of interest that somebody gave."""

from __future__ import annotations

from typing import Literal

from edgeseg.errors import BundleError, InputError, UsageError
from edgeseg.spec import RoiSpec

__all__ = ["describe_region", "parse_region", "region_in_frame"]


def region_in_frame(region: RoiSpec | None, frame_hw_px: tuple[int, ...]) -> RoiSpec:
    """The region; for None the whole frame.

    Args:
        region: in pixels of the frame.
        frame_hw_px: height and width of the frame.

    Raises:
        InputError: it leaves the frame.
    """
    height, width = frame_hw_px[0], frame_hw_px[1]
    if region is None:
        return RoiSpec(0, 0, width, height)
    if region.x_px + region.width_px > width or region.y_px + region.height_px > height:
        raise InputError(
            f"the region of interest {describe_region(region)} does not fit into frames of "
            f"{width}x{height}"
        )
    return region


def describe_region(region: RoiSpec | None) -> str:
    """``1350x1080 at (285, 0)``; for None ``the whole frame``."""
    if region is None:
        return "the whole frame"
    return f"{region.width_px}x{region.height_px} at ({region.x_px}, {region.y_px})"


def parse_region(text: str) -> RoiSpec | Literal["auto"]:
    """What ``--roi`` says: ``X,Y,WIDTH,HEIGHT`` in pixels of the frame, or ``auto``.

    Raises:
        UsageError: it says something else, or a region that is empty or begins outside the frame.
    """
    if text.strip().lower() == "auto":
        return "auto"
    try:
        x_px, y_px, width_px, height_px = (int(part) for part in text.split(","))
        return RoiSpec(x_px, y_px, width_px, height_px)
    except (ValueError, BundleError):
        raise UsageError(
            f"region of interest {text!r}: write X,Y,WIDTH,HEIGHT in pixels of the frame, such as "
            "320,0,1280,1080, or auto"
        ) from None
