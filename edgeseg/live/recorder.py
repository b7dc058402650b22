"""Recordings that are started and stopped while a session runs."""

from __future__ import annotations

import threading
import time
from fractions import Fraction
from pathlib import Path

from edgeseg.errors import UsageError
from edgeseg.live.outlets import Outlet, Outlets
from edgeseg.live.sinks.recording import new_recording
from edgeseg.live.status import Events

__all__ = ["Recorder"]


class Recorder:
    """At most one recording at a time, into a folder. Several threads may use it."""

    def __init__(
        self,
        outlets: Outlets,
        folder: Path | None,
        *,
        rate: Fraction | None,
        media_times: bool,
        events: Events,
    ) -> None:
        """Record nothing yet.

        Args:
            outlets: gives the pictures.
            folder: where files go; None: nothing can be recorded.
            rate: frames per second, if known; it guides the encoder.
            media_times: take the time stamps of the medium: for sources that are not live.
            events: is told of recordings.
        """
        self._outlets = outlets
        self._folder = folder
        self._rate = rate
        self._media_times = media_times
        self._events = events
        self._lock = threading.Lock()
        self._outlet: Outlet | None = None

    @property
    def file(self) -> str | None:
        """What is being recorded to; None as soon as it cannot go on (the disk is full)."""
        outlet = self._outlet
        return None if outlet is None or outlet.ended else outlet.name

    def start(self) -> str:
        """Begin; returns the file.

        Raises:
            UsageError: it records already, or there is no folder.
            OutputError: the file cannot be made.
        """
        with self._lock:
            if self._folder is None:
                raise UsageError("no folder for recordings was given (--record-to FOLDER)")
            if self.file is not None:
                raise UsageError(f"recording to {self.file} already: stop that first")
            if self._outlet is not None:
                # It ended by itself; its status has been seen by then.
                self._outlets.remove(self._outlet.sink)
            sink = new_recording(
                self._folder, time.time(), rate=self._rate, media_times=self._media_times
            )
            self._outlet = self._outlets.add(sink)
            self._events("recording", file=sink.name)
            return sink.name

    def stop(self) -> str | None:
        """Complete the file and return it; None if there is none."""
        with self._lock:
            outlet, self._outlet = self._outlet, None
            if outlet is None:
                return None
            self._outlets.remove(outlet.sink)
            self._events("recording", file=None)
            return outlet.name

    def close(self) -> None:
        """Complete what is being recorded."""
        self.stop()
