"""Which region of the frames a run looks at: fixed, or found and followed."""

from __future__ import annotations

import logging
from typing import Literal

from edgeseg.errors import DataError, InputError
from edgeseg.region import RegionTracker, describe_region, find_region, region_in_frame
from edgeseg.spec import RoiSpec
from edgeseg.video.base import Frame, Source
from edgeseg.video.source import open_source

__all__ = ["Region", "RunRegions", "first_region"]

_log = logging.getLogger(__name__)

Region = RoiSpec | Literal["auto"]
"""What may be asked for."""

_FIRST_S = 2.0
"""So much of a video is looked at before the run for its first region."""
_SHOWN_CHANGES = 3


class RunRegions:
    """The region of each frame, and what to say about all of them.

    A video's region is found before the run, so that it holds from the first frame on, and then
    followed (``RegionTracker``). Each picture of a folder has a region of its own.
    """

    def __init__(self, asked: Region, source: Source) -> None:
        """Find the first region, where it is to be found.

        Args:
            asked: a region for all frames, or ``auto``.
            source: what is run on; it is not read from.

        Raises:
            DataError: the video cannot be opened a second time.
        """
        self.first: RoiSpec | None
        """Of the first frame; None for the whole frame, and for pictures, which have their own."""
        self._tracker: RegionTracker | None = None
        self._pictures = self._found = 0
        self._auto = asked == "auto"
        if asked != "auto":
            self.first = asked
        elif source.kind == "video":
            self.first, self._why = first_region(source)
            self._tracker = RegionTracker(self.first)
        else:
            self.first = None

    def __call__(self, frame: Frame) -> RoiSpec | None:
        """The region of a frame; call it for every frame, in order.

        Raises:
            InputError: the region that was given does not fit into the frame.
        """
        if not self._auto:
            try:
                return region_in_frame(self.first, frame.image.shape)
            except InputError as error:
                raise InputError(f"{frame.name}: {error}") from error
        if self._tracker is not None:
            return self._tracker.step(frame.image, frame.time_s or 0.0)
        found = find_region([frame.image])
        self._pictures += 1
        self._found += found is not None
        return found

    def describe(self, *, fixed: bool = False) -> str:
        """What was looked at, in words.

        Args:
            fixed: the first region was used for all frames.
        """
        if not self._auto:
            return f"{describe_region(self.first)}, as given"
        if self._tracker is None:
            return (
                f"found in {self._found} of {self._pictures} pictures by itself, the whole picture "
                "elsewhere"
            )
        text = f"{describe_region(self.first)} ({self._why})"
        if fixed:
            return f"{text}, for all frames"
        changes = self._tracker.changes
        shown = [
            f"from {time_s:.1f} s {describe_region(region)} ({why})"
            for time_s, region, why in changes[:_SHOWN_CHANGES]
        ]
        rest = len(changes) - len(shown)
        return "; ".join([text, *shown, *([f"and {rest} more changes"] if rest else [])])


def first_region(source: Source) -> tuple[RoiSpec | None, str]:
    """The region that the beginning of a video shows, None for the whole frame; and why.

    The file is opened a second time.

    Raises:
        DataError: it cannot be opened.
    """
    if not source.path.is_file():
        return None, "what is no file cannot be read twice, to find a region before the run"
    tracker = RegionTracker()
    with open_source(source.path) as again:
        try:
            for frame in again:
                tracker.step(frame.image, frame.time_s or 0.0)
                if tracker.decided or (frame.time_s or 0.0) > _FIRST_S:
                    break
        except DataError as error:
            # The run itself will come to the same place, and say so.
            _log.debug("%s: the search for a region ended early: %s", source.path, error)
    return tracker.region, tracker.why
