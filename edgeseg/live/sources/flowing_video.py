"""A video file for a session that goes on: sizes may change, damaged frames are left out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeseg.errors import UsageError
from edgeseg.live.sources.gate import DamageGate
from edgeseg.live.sources.h264_gaps import H264Gaps
from edgeseg.video.base import Frame
from edgeseg.video.decode import VideoSource

__all__ = ["FlowingVideo"]


class FlowingVideo(VideoSource):
    """Differs from ``VideoSource``, which writes files, in what a file cannot bear.

    A change of the frames' size goes on, and damaged frames, with those that were made from them,
    are not delivered. The end is told in the same way.
    """

    def __init__(self, path: Path) -> None:
        """As ``VideoSource``."""
        self._gate = DamageGate()
        self._gaps: H264Gaps | None = None
        self._packet_s: float | None = None
        self.left_out = 0
        """Frames that were not delivered because of damage."""
        super().__init__(path)

    def __iter__(self) -> Iterator[Frame]:
        """Frames in the order of their presentation; see ``Source``.

        Raises:
            DataError: a frame is larger than what is accepted.
            TruncatedVideoError: after the last good frame, if the video is cut or damaged.
        """
        if self._iterated:
            raise UsageError(f"{self.path}: a video source can be read once; open it again")
        self._iterated = True
        time_s = -math.inf
        step_s = float(1 / self.rate) if self.rate else 0.04
        known_faults = 0
        while True:
            if not self._pending:
                self._fill_pending()
                if self._faults > known_faults:
                    self._gate.damage(self._packet_s)
                    known_faults = self._faults
            if not self._pending:
                break
            raw = self._pending.popleft()
            index = self._frames_read
            self._frames_read += 1
            stated_s = -math.inf
            if raw.pts is not None and self._first_pts is not None:
                stated_s = float((raw.pts - self._first_pts) * self.time_base)
            # Times that are missing or do not advance are made from the frame rate.
            time_s = stated_s if stated_s > time_s else max(0.0, time_s + step_s)
            shown_s = None if raw.pts is None else float(raw.pts * self.time_base)
            if not self._gate.passes(damaged=raw.is_corrupt, key=raw.key_frame, stamp_s=shown_s):
                self.left_out += 1
                continue
            self._check_size(raw.width, raw.height)
            duration_s = float(raw.duration * self.time_base) if raw.duration else None
            name = f"{self.path.stem}_{index:06d}"
            yield Frame(index, self._upright(raw), name, time_s, duration_s)
            del raw
        self._check_end(time_s)

    def _demux(self) -> Iterator[Any]:
        context = self._stream.codec_context
        if context.name == "h264":
            self._gaps = H264Gaps(context.extradata)
        for packet in super()._demux():
            if packet is not None and packet.size:
                stamp = packet.pts
                self._packet_s = None if stamp is None else float(stamp * self.time_base)
                if self._gaps is not None and self._gaps.missing(bytes(packet)):
                    self._note_fault("a frame is missing that others need")
                    self._gate.damage(self._packet_s)
            yield packet
