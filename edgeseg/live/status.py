"""What can be said about a live session while it runs: for the page, the metrics and the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeseg.live.base import Reason, State
from edgeseg.live.controls import Controls
from edgeseg.spec import RoiSpec

__all__ = ["AgeFigures", "Board", "Events", "LiveStatus", "SinkStatus", "silent_events"]


class Events(Protocol):
    """Takes note of what happens; may be called from several threads and never raises.

    Kinds: ``start``, ``model`` (bundle, bundle_sha256 and the card), ``state`` (state, reason,
    detail), ``source_lost``, ``source_back``, ``source_ended``, ``format`` (width_px, height_px),
    ``fault`` (where, error), ``engine_restarted``, ``setting`` (name, value), ``region`` (x_px,
    y_px, width_px, height_px or nulls, why), ``views`` (views, why), ``recording`` (file or null,
    error), ``sink`` (name, error or null), ``statistics`` (the fields of ``LiveStatus``, at
    intervals), ``end`` (those fields, why).
    Values are what JSON can hold; never pixels, passwords or tokens.
    """

    def __call__(self, kind: str, /, **data: Any) -> None:
        """Note one event."""


def silent_events(kind: str, /, **data: Any) -> None:
    """Note nothing."""


@dataclass(frozen=True)
class AgeFigures:
    """How old the frame behind a mask was when the mask was shown, over the whole session."""

    count: int = 0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


@dataclass(frozen=True)
class SinkStatus:
    """One sink."""

    name: str
    written: int = 0
    dropped: int = 0
    error: str = ""
    """Why it does not take pictures at present; "" if it does."""


@dataclass(frozen=True)
class LiveStatus:
    """One moment of a session. ``captured == shown + predicted + unmasked + sum(dropped) +
    in_flight`` always holds, each captured frame being counted once, as what came of it."""

    state: State
    reason: Reason | None
    detail: str
    source: str
    connected: bool
    uptime_s: float
    frame_size_px: tuple[int, int] | None = None
    """(width, height) of the newest frame."""
    captured_fps: float = 0.0
    """Over the last seconds, like the two after it."""
    mask_fps: float = 0.0
    """New masks shown."""
    shown_fps: float = 0.0
    captured: int = 0
    shown: int = 0
    """Frames that were displayed with the mask computed on them."""
    predicted: int = 0
    """Frames that were displayed with a mask moved to them."""
    unmasked: int = 0
    """Frames that were displayed with the sign that there is no current result."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Frames that were never displayed, by cause."""
    in_flight: int = 0
    faults: Mapping[str, int] = field(default_factory=dict)
    """Errors that were survived, by where they came from."""
    reconnections: int = 0
    age_ms: float | None = None
    """Of the last mask when it was shown."""
    ages: AgeFigures = field(default_factory=AgeFigures)
    engine_ms: float = 0.0
    """Median time of the engine, with preprocessing, of the last frames."""
    engine_busy: float = 0.0
    """Share of the last seconds that the engine was at work, 0 to 1."""
    sinks: tuple[SinkStatus, ...] = ()
    views: str = ""
    """Views in use of a model of many views, in words; "" for others."""
    region: RoiSpec | None = None
    """Region of interest in use; None for the whole frame."""
    opacity: float = 0.0
    threshold: float | None = None
    """None for models of several classes."""
    recording: str | None = None
    """File that is being recorded to."""
    max_age_ms: float = 0.0


class Board(Protocol):
    """What a page may see of a session, and what it may do to it. Several threads may call it."""

    controls: Controls

    def status(self) -> LiveStatus:
        """This moment."""

    def card(self) -> Mapping[str, Any]:
        """What the bundle says of its model: name, family, classes, precision, backend, input size,
        and the accuracy that was measured when it was built. JSON values."""

    def start_recording(self) -> str:
        """Start to record the shown pictures; returns the file.

        Raises:
            UsageError: it records already, or no folder for recordings was given.
            OutputError: the file cannot be made.
        """

    def stop_recording(self) -> str | None:
        """Complete the recording; returns its file, or None if nothing was being recorded."""
