"""The region of interest of each frame of a session: given, or followed."""

from __future__ import annotations

import abc

from edgeseg.live.base import LiveFrame
from edgeseg.live.status import Events
from edgeseg.region import RegionTracker, region_in_frame
from edgeseg.spec import RoiSpec

__all__ = ["BundleRegion", "FixedRegion", "FollowedRegion", "Regions"]


class Regions(abc.ABC):
    """Asked for every frame that is computed, in order, by one thread."""

    @abc.abstractmethod
    def __call__(self, frame: LiveFrame) -> RoiSpec | None:
        """The region of a frame; None for the bundle's own."""

    def check(self, size_px: tuple[int, int]) -> None:
        """Refuse, before the first frame, what frames of that (width, height) cannot have.

        Raises:
            InputError: the region leaves the frame.
        """
        return


class BundleRegion(Regions):
    """What the bundle says, which for most is the whole frame."""

    def __call__(self, frame: LiveFrame) -> RoiSpec | None:
        """See ``Regions``."""
        return None


class FixedRegion(Regions):
    """The same for every frame. One that leaves the frame is the engine's error."""

    def __init__(self, region: RoiSpec) -> None:
        """Use ``region``."""
        self._region = region

    def __call__(self, frame: LiveFrame) -> RoiSpec | None:
        """See ``Regions``."""
        return self._region

    def check(self, size_px: tuple[int, int]) -> None:
        """See ``Regions``."""
        region_in_frame(self._region, (size_px[1], size_px[0]))


class FollowedRegion(Regions):
    """The picture inside black borders; the whole frame until it is sure."""

    def __init__(self, events: Events) -> None:
        """``events`` is told of changes."""
        self._tracker = RegionTracker()
        self._events = events
        self._told: RoiSpec | None = None

    def __call__(self, frame: LiveFrame) -> RoiSpec | None:
        """See ``Regions``."""
        found = self._tracker.step(frame.image, frame.captured_s, segment=frame.segment)
        if found != self._told:
            self._told = found
            names = ("x_px", "y_px", "width_px", "height_px")
            data = {name: None if found is None else getattr(found, name) for name in names}
            self._events("region", why=self._tracker.why, **data)
        # What is followed takes the place of the bundle's own, also while it is the whole frame.
        return region_in_frame(found, frame.image.shape[:2])
