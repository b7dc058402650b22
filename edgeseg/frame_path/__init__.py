"""The frame path on a GPU: frames up once, results down once, everything between on the device.

with edgeseg.open("NAME.edgeseg", backend="tensorrt") as model:
    overlay = Overlay(default_colours(1))
    with open_frame_path(model, (1080, 1920), overlay=overlay) as path:
        path.submit(frame)
        result = path.collect()
"""

from __future__ import annotations

from edgeseg.frame_path.opening import model_unavailable_reason, open_frame_path
from edgeseg.frame_path.path import FramePath
from edgeseg.frame_path.plan import unavailable_reason
from edgeseg.frame_path.result import FrameResult, Wanted

__all__ = [
    "FramePath",
    "FrameResult",
    "Wanted",
    "model_unavailable_reason",
    "open_frame_path",
    "unavailable_reason",
]
