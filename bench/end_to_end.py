"""How old a frame is when its overlay has been drawn, in the pipeline of ``edgeseg run``.

What a person at a screen waits for is more than the network: a frame is preprocessed, queued,
inferred, read out and drawn upon, each in a thread of its own. Here a real video goes that way, at
its own rate as from a camera, or as fast as the pipeline takes it. Nothing is encoded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from edgeseg._progress import Progress, silent
from edgeseg.bench.camera import Camera
from edgeseg.bench.result import EndToEndRecord
from edgeseg.errors import UsageError
from edgeseg.frame_path import Wanted, model_unavailable_reason, open_frame_path
from edgeseg.model import Model
from edgeseg.overlay import Overlay, default_colours
from edgeseg.temporal import TemporalSmoother
from edgeseg.video.base import Frame, Source
from edgeseg.video.pipeline import Stage, run_pipeline
from edgeseg.video.source import media_kind, open_source
from edgeseg.video.stages import Draw, Picture, device_stages, frame_stages

__all__ = ["end_to_end_notes", "measure_end_to_end"]

_STAGE = "end to end"
_WARM_UP_FRAMES = 3
_PACED_SLOTS = 1
"""Between two stages. A frame that waits for the next stage only grows old: a newer one is on its
way, and what cannot be taken in is dropped at the camera."""
_FILE_SLOTS = 2
"""As ``edgeseg run`` has."""
_NAMES = {"read-out": "readout", "draw": "overlay"}
"""The pipeline's words for stages, and the result's."""


def measure_end_to_end(
    model: Model,
    video: Path,
    *,
    paced: bool = True,
    frames: int | None = None,
    seconds: float | None = None,
    overlay: Overlay | None = None,
    progress: Progress = silent,
) -> EndToEndRecord:
    """Take a video from the decoder to drawn overlays, and tell the age of each.

    The age of a frame is the time when its overlay was drawn minus the time when it was captured:
    when the decoder gave it, or if paced, when it was due by the video's own rate. Waiting in
    queues counts. Stages overlap as in ``edgeseg run``, over the GPU where the model's engine and
    read-out can; the read-out's smoothing over time is on where the bundle has it. Three frames go
    before that do not count.

    Args:
        model: open it with ``hint="latency"`` if paced, else with ``hint="throughput"``.
        video: its file.
        paced: release frames at the video's own rate, as a camera does, and drop what the pipeline
            cannot take in; False: as fast as the pipeline takes them, and drop nothing.
        frames: use at most so many frames of the video.
        seconds: if paced, use so much of the video; else start no frame after so much time.
        overlay: how to draw; None for the defaults of ``edgeseg run``.
        progress: called with ("end to end", frames drawn, frames in all or 0).

    Raises:
        UsageError: not a video, or a limit that leaves no frame.
        DataError: the video cannot be read.
        TruncatedVideoError: it breaks off before the limits.
        BackendError: the engine failed.
    """
    if media_kind(video) != "video":
        raise UsageError(f"{video} is no video: capture to overlay is measured on one")
    if frames is not None and frames < 1:
        raise UsageError(f"frames must be at least 1, got {frames}")
    if seconds is not None and not seconds > 0.0:
        raise UsageError(f"seconds must be more than 0, got {seconds}")
    overlay = overlay or Overlay(default_colours(model.foreground_classes))
    clock = time.perf_counter
    drawn_s: list[float] = []
    ages_ms: list[float] = []
    with open_source(video) as source:
        total = _expected_frames(source, frames, seconds) or 0
        limited = islice(source, frames)
        camera: Camera | None = None
        if paced:
            end_s = math.inf if seconds is None else seconds
            camera = Camera(takewhile(lambda f: (f.time_s or 0.0) < end_s, limited), clock=clock)
            arriving, captured_s = iter(camera), camera.captured_s
        else:
            captured_s = {}
            arriving = _as_decoded(limited, captured_s, seconds)

        def note_age(frame: Frame) -> None:
            now_s = clock()
            drawn_s.append(now_s)
            ages_ms.append(1e3 * (now_s - captured_s.pop(frame.index)))

        with _stages(model, source, overlay, note_age) as (stages, warm_up):
            with open_source(video) as again:
                run_pipeline(islice(again, _WARM_UP_FRAMES), warm_up, lambda item: None)

            def discard(item: Any) -> None:
                progress(_STAGE, len(drawn_s), max(total, len(drawn_s)))

            report = run_pipeline(
                arriving, stages, discard, slots=_PACED_SLOTS if paced else _FILE_SLOTS
            )
        if report.ended_by is not None:
            raise report.ended_by
        progress(_STAGE, len(drawn_s), len(drawn_s))
        size = source.size
    assert size is not None, "frames of a video share their size"
    span_s = drawn_s[-1] - drawn_s[0]
    return EndToEndRecord(
        video=video.name,
        frame_hw_px=(size[1], size[0]),
        frames=len(ages_ms),
        paced=paced,
        samples_ms=tuple(ages_ms),
        stages_ms={
            _NAMES.get(stage.name, stage.name): stage.busy_ms_p50 for stage in report.stages[1:-1]
        },
        # From overlay to overlay: the time to the first one is latency, and no part of the rate.
        fps=(len(drawn_s) - 1) / span_s if span_s > 0.0 else report.fps,
        dropped=camera.dropped if camera else 0,
        late=camera.late if camera else 0,
    )


def end_to_end_notes(record: EndToEndRecord) -> tuple[str, ...]:
    """What a reader has to know of the ages, in sentences."""
    if not record.paced:
        return (
            f"{record.video} came as fast as the pipeline took it: the ages of its frames are "
            "mostly their wait in the queue",
        )
    notes = []
    offered = record.frames + record.dropped
    if record.dropped:
        notes.append(
            f"{record.dropped} of {offered} frames of {record.video} were dropped: this machine "
            "is slower than the video's own rate"
        )
    if record.late:
        notes.append(
            f"{record.late} of {offered} frames of {record.video} were decoded after they were "
            "due, and came later than from a camera"
        )
    return tuple(notes)


def _expected_frames(source: Source, frames: int | None, seconds: float | None) -> int | None:
    counts = [source.frame_count, frames]
    if seconds is not None and source.rate:
        counts.append(int(seconds * source.rate) + 1)
    return min((count for count in counts if count is not None), default=None)


def _as_decoded(
    frames: Iterator[Frame], captured_s: dict[int, float], seconds: float | None
) -> Iterator[Frame]:
    """Frames, noting when the decoder gave them, until so much time has passed."""
    start_s = time.perf_counter()
    for frame in frames:
        captured_s[frame.index] = now_s = time.perf_counter()
        yield frame
        del frame
        if seconds is not None and now_s - start_s >= seconds:
            return


@contextmanager
def _stages(
    model: Model, source: Source, overlay: Overlay, note: Any
) -> Iterator[tuple[tuple[Stage, ...], tuple[Stage, ...]]]:
    """The stages that count, which call ``note`` with each frame drawn, and those to warm up."""
    constant_ms = model.readout.time_constant_ms

    def smoother() -> TemporalSmoother | None:
        return TemporalSmoother(constant_ms) if constant_ms > 0.0 else None

    def noting(draw: Draw) -> Draw:
        def noted(frame: Frame, result: Any) -> Picture:
            picture = draw(frame, result)
            note(frame)
            return picture

        return noted

    if source.size is None or model_unavailable_reason(model) is not None:

        def on_host(draw: Draw) -> tuple[Stage, ...]:
            return frame_stages(
                model.bound_stages(), draw, parallel=model.engine.parallel, smoother=smoother()
            )

        def drawn(frame: Frame, result: Any) -> Picture:
            # The frame was decoded for this measurement and belongs to nobody else.
            return overlay(frame.image, result.mask, in_place=True)

        yield on_host(noting(drawn)), on_host(drawn)
        return

    def collected(frame: Frame, result: Any) -> Picture:
        picture: Picture = result.overlay
        return picture

    width, height = source.size
    wanted = Wanted(overlay=True, mask=False, statistics=True)
    with open_frame_path(model, (height, width), wanted=wanted, overlay=overlay) as path:

        def on_device(draw: Draw) -> tuple[Stage, ...]:
            return device_stages(path, draw, smoother=smoother())

        yield on_device(noting(collected)), on_device(collected)
