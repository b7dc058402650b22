"""Figures for Prometheus, in its text format 0.0.4: seconds, ratios and counts."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import get_args

from edgeseg.live.base import Reason, State
from edgeseg.live.status import LiveStatus

__all__ = ["CONTENT_TYPE", "AgeHistogram", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS_S = (0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0)

_Sample = tuple[Mapping[str, str], float]


class AgeHistogram:
    """How old masks were when they were shown. Several threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def count(self, age_s: float) -> None:
        """Count one."""
        with self._lock:
            self._counts[bisect_left(_BOUNDS_S, age_s)] += 1
            self._sum_s += age_s

    def lines(self, name: str, text: str) -> Iterable[str]:
        """The histogram as samples."""
        with self._lock:
            counts, sum_s = list(self._counts), self._sum_s
        yield from _head(name, "histogram", text)
        total = 0
        for bound, count in zip((*_BOUNDS_S, math.inf), counts, strict=True):
            total += count
            yield _line(f"{name}_bucket", {"le": _number(bound)}, total)
        yield _line(f"{name}_sum", {}, sum_s)
        yield _line(f"{name}_count", {}, total)


def render(
    status: LiveStatus,
    ages: AgeHistogram,
    *,
    version: str,
    viewers: int,
    encodes: Mapping[str, int],
) -> str:
    """All figures.

    Args:
        status: of this moment.
        ages: of the pictures that the page was given.
        version: of edgeseg.
        viewers: open sockets.
        encodes: pictures encoded for the page, by view.
    """
    lines: list[str] = []

    def gauge(name: str, text: str, *samples: _Sample) -> None:
        lines.extend(_family(f"edgeseg_{name}", "gauge", text, samples))

    def counter(name: str, text: str, *samples: _Sample) -> None:
        lines.extend(_family(f"edgeseg_{name}_total", "counter", text, samples))

    gauge("build_info", "Version of edgeseg.", ({"version": version}, 1))
    gauge("uptime_seconds", "Age of the session.", ({}, status.uptime_s))
    gauge(
        "state",
        "1 for the state of the mask that is shown.",
        *(({"state": one}, one == status.state) for one in get_args(State)),
    )
    gauge(
        "no_result",
        "1 for the reason why there is no current result.",
        *(({"reason": one}, one == status.reason) for one in get_args(Reason)),
    )
    gauge("source_connected", "1 while the source is there.", ({}, status.connected))
    counter("source_reconnections", "The source was opened again.", ({}, status.reconnections))
    counter("frames_captured", "Frames that came.", ({}, status.captured))
    counter(
        "frames_displayed",
        "Frames that were displayed, by the mask on them.",
        ({"mask": "current"}, status.shown),
        ({"mask": "predicted"}, status.predicted),
        ({"mask": "none"}, status.unmasked),
    )
    counter(
        "frames_dropped",
        "Frames that were never displayed, by cause.",
        *(({"cause": cause}, count) for cause, count in sorted(status.dropped.items())),
    )
    gauge("frames_in_flight", "Frames on their way.", ({}, status.in_flight))
    counter(
        "faults",
        "Errors that were survived, by place.",
        *(({"where": where}, count) for where, count in sorted(status.faults.items())),
    )
    gauge("captured_frames_per_second", "Rate of the source.", ({}, status.captured_fps))
    gauge("masks_per_second", "Rate of new masks.", ({}, status.mask_fps))
    gauge("shown_pictures_per_second", "Rate of the display.", ({}, status.shown_fps))
    # A gauge that was right once is not repeated when nothing is shown.
    last: tuple[_Sample, ...] = () if status.age_ms is None else (({}, status.age_ms / 1e3),)
    gauge("last_mask_age_seconds", "Age of the last mask when it was shown.", *last)
    lines.extend(
        ages.lines("edgeseg_mask_age_seconds", "Age of masks when they were shown, on the page.")
    )
    gauge(
        "session_mask_age_seconds",
        "Age of masks when they were shown, over the whole session.",
        ({"quantile": "0.5"}, status.ages.p50_ms / 1e3),
        ({"quantile": "0.9"}, status.ages.p90_ms / 1e3),
        ({"quantile": "0.99"}, status.ages.p99_ms / 1e3),
        ({"quantile": "1"}, status.ages.max_ms / 1e3),
    )
    gauge("max_age_seconds", "Age from which on no mask is shown.", ({}, status.max_age_ms / 1e3))
    gauge("engine_seconds", "Median time of the engine.", ({}, status.engine_ms / 1e3))
    gauge("engine_busy_ratio", "Share of time that the engine works.", ({}, status.engine_busy))
    sinks = [({"sink": sink.name}, sink) for sink in status.sinks]
    counter("sink_written", "Pictures taken, by sink.", *((at, sink.written) for at, sink in sinks))
    counter(
        "sink_dropped", "Pictures missed, by sink.", *((at, sink.dropped) for at, sink in sinks)
    )
    gauge(
        "sink_up", "1 while a sink takes pictures.", *((at, not sink.error) for at, sink in sinks)
    )
    gauge("opacity_ratio", "Opacity of the fill.", ({}, status.opacity))
    threshold: tuple[_Sample, ...] = () if status.threshold is None else (({}, status.threshold),)
    gauge("threshold_ratio", "Probability that makes a pixel foreground.", *threshold)
    gauge("recording", "1 while a recording is written.", ({}, status.recording is not None))
    gauge("page_viewers", "Open sockets of pages.", ({}, viewers))
    counter(
        "page_encodes",
        "Pictures encoded for the page, by view.",
        *(({"view": view}, count) for view, count in sorted(encodes.items())),
    )
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> Iterable[str]:
    yield from _head(name, kind, text)
    for labels, value in samples:
        yield _line(name, labels, value)


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    marked = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{marked}}} {_number(value)}" if marked else f"{name} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return repr(float(value)) if isinstance(value, float) else str(int(value))
