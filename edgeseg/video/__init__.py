"""Pictures and videos in and out, and the threads between them.

``open_source`` reads, ``open_sink`` writes, ``run_pipeline`` overlaps what happens between them.
PyAV is imported only when a video is really opened.
"""

from edgeseg.video.base import Frame, MediaKind, Sink, Source
from edgeseg.video.pipeline import PipelineReport, Stage, StageReport, run_pipeline
from edgeseg.video.sink import SinkSpec, open_sink
from edgeseg.video.source import media_kind, open_source

__all__ = [
    "Frame",
    "MediaKind",
    "PipelineReport",
    "Sink",
    "SinkSpec",
    "Source",
    "Stage",
    "StageReport",
    "media_kind",
    "open_sink",
    "open_source",
    "run_pipeline",
]
