"""The region of interest of a frame: given, or found as the picture inside black borders.

Endoscope processors put a round, octagonal or rectangular picture into a larger frame. Around it
lies black, with the patient's data, icons and small stills burned in. Whoever segments the whole
frame spends most of the network's resolution on black; whoever cuts too much hides tissue. So
everything here errs on the side of the frame.
"""

from __future__ import annotations

from edgeseg.region.finding import find_region
from edgeseg.region.given import describe_region, parse_region, region_in_frame
from edgeseg.region.tracking import RegionTracker

__all__ = [
    "RegionTracker",
    "describe_region",
    "find_region",
    "parse_region",
    "region_in_frame",
]
