"""The region of interest of a frame: given, or found as the picture inside black borders."""

from __future__ import annotations

from edgeseg.errors import InputError
from edgeseg.spec import RoiSpec

__all__ = [
    "region_in_frame",
]


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
            f"the region of interest {region.width_px}x{region.height_px} at ({region.x_px}, "
            f"{region.y_px}) does not fit into frames of {width}x{height}"
        )
    return region
