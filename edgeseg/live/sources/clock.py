"""When a frame that came through a network was captured."""

from __future__ import annotations

import logging

__all__ = ["StreamClock"]

_log = logging.getLogger(__name__)

_CREEP = 2e-3
"""Share by which the two clocks may differ: seconds a second."""
_BACKWARDS_S = 0.5


class StreamClock:
    """Dates frames by the stream's own time stamps, which delays on the way do not change.

    The arrival alone would call a frame new that waited for seconds in the queue of a slow
    network, and everything after it. The smallest difference between arrival and time stamp that
    was seen is the undisturbed way; a frame is as late as its own difference is larger. That way is
    allowed to grow by 2 ms a second, so that clocks which do not run alike are followed.

    All times are seconds.
    """

    def __init__(self, *, name: str, one_late: bool) -> None:
        """Nothing has arrived yet.

        Args:
            name: of the source, for messages.
            one_late: a packet is complete only when the first bytes of the next one are there, as
                with codecs whose frames FFmpeg has to find in the stream of bytes. The arrival of
                a packet is then that of the one before it.
        """
        self._name = name
        self._one_late = one_late
        self._way_s: float | None = None
        self._arrived_s: float | None = None
        self._newest_stamp_s: float | None = None

    def arrived(self, stamp_s: float | None, now_s: float) -> None:
        """Note that a packet came.

        Args:
            stamp_s: its time stamp, if it has one.
            now_s: the moment, by ``time.monotonic``.
        """
        before_s, self._arrived_s = self._arrived_s, now_s
        first_byte_s = before_s if self._one_late else now_s
        if stamp_s is None:
            return
        newest_s = self._newest_stamp_s
        if newest_s is not None and stamp_s < newest_s - _BACKWARDS_S:
            _log.info("%s: its clock went back by %.1f s", self._name, newest_s - stamp_s)
            self._way_s = newest_s = None
        self._newest_stamp_s = stamp_s if newest_s is None else max(newest_s, stamp_s)
        if first_byte_s is None:
            return
        way_s = first_byte_s - stamp_s
        if self._way_s is None:
            self._way_s = way_s
        else:
            passed_s = 0.0 if before_s is None else now_s - before_s
            self._way_s = min(self._way_s + _CREEP * passed_s, way_s)

    def captured_s(self, stamp_s: float | None, now_s: float) -> float:
        """When a frame was captured, less the shortest way here; never later than ``now_s``."""
        if stamp_s is None or self._way_s is None:
            return now_s
        return min(now_s, stamp_s + self._way_s)
