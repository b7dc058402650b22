"""``run``: a bundle's masks drawn on a picture, a folder of pictures or a video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg._progress import Progress, silent
from edgeseg.errors import DataError, UsageError
from edgeseg.model import Model
from edgeseg.overlay import Overlay, parse_colours
from edgeseg.settings import Settings
from edgeseg.spec import Precision
from edgeseg.temporal import TemporalSmoother
from edgeseg.video.base import MediaKind, Source
from edgeseg.video.pipeline import PipelineReport, run_pipeline
from edgeseg.video.sink import SinkSpec, check_suffix, open_sink
from edgeseg.video.source import media_kind, open_source
from edgeseg.workflows._opening import open_for_job
from edgeseg.workflows._route import HOST_ENGINE, WHOLE_FRAME, open_route
from edgeseg.workflows._run_region import Region, RunRegions

__all__ = ["RunReport", "run"]

_AS_BUILT = Settings()


@dataclass(frozen=True)
class RunReport:
    """What ``run`` did."""

    output: Path
    kind: MediaKind
    frames: int
    frames_with_foreground: int
    backend: str
    variant: str
    resets: tuple[tuple[float, str], ...]
    """Milliseconds into the video, and why, of each time that smoothing started anew."""
    frame_path: str
    """Which way the frames took, in words, and for an engine of a GPU why not the other."""
    region: str
    """Which region of the frames was looked at, in words."""
    pipeline: PipelineReport

    def __str__(self) -> str:
        frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
        text = (
            f"{self.output}: {frames}, {self.frames_with_foreground} with foreground, "
            f"{self.pipeline.fps:.1f} frames/s ({self.variant} on {self.backend})"
        )
        if self.frame_path != HOST_ENGINE:
            text += f"; frames {self.frame_path}"
        if self.region != WHOLE_FRAME:
            text += f"; region: {self.region}"
        if not self.resets:
            return text
        times = ", ".join(f"{time_ms / 1e3:.2f} s ({why})" for time_ms, why in self.resets[:5])
        more = f" and {len(self.resets) - 5} more" if len(self.resets) > 5 else ""
        return f"{text}; smoothing started anew at {times}{more}"


def run(
    bundle: str | Path,
    input: str | Path,
    output: str | Path | None = None,
    *,
    alpha: float = 0.4,
    color: str | None = None,
    contours: bool = False,
    mask_only: bool = False,
    threshold: float | None = None,
    roi: Region | None = None,
    settings: Settings = _AS_BUILT,
    force: bool = False,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> RunReport:
    """Segment ``input`` and write it with the masks drawn on it, or the masks alone.

    Decoding, preprocessing, inference, read-out, drawing and encoding overlap; memory does not grow
    with the length of the video. No frame is dropped. Audio is not carried over.

    Masks (``mask_only``) are stored without loss and as ``edgeseg eval`` reads them: 0 and 255 for
    one foreground class, otherwise class indices (in PNG files with a palette, so that they can be
    looked at). Masks of a video are FFV1, 8-bit grey, in Matroska.

    Args:
        bundle: the folder ``NAME.edgeseg``.
        input: a video, a picture, or a folder of pictures.
        output: of the same kind as the input: a video is H.264 in ``.mp4``, ``.mov`` or ``.mkv``
            (masks: ``.mkv``), a folder is filled with PNG files. None for the input's stem with
            ``-overlay`` or ``-mask`` in the current folder.
        alpha: opacity of the fill, 0 to 1.
        color: one colour a class, names or #RRGGBB, separated by commas; None for the defaults.
        contours: draw outlines as well.
        mask_only: write masks instead of overlays.
        threshold: for one-class models, instead of the bundle's; between 0 and 1.
        roi: region of the frames to look at, instead of the bundle's; outside is background.
            ``auto`` finds the picture inside black borders: a video's from its beginning, and
            follows it where it changes (on the GPU it stays as it was found); a picture's by
            itself; all of the frame where no border is sure (``edgeseg.region``). None for the
            bundle's, or without one the frame.
        settings: fewer views, or another read-out, than the bundle's. Smoothing over time is for
            videos; each picture of a folder stands for itself.
        force: replace an existing output.
        backend: as for ``edgeseg.open``, like ``device``, ``precision`` and ``threads``.
        device: see ``backend``.
        precision: see ``backend``.
        threads: see ``backend``.
        progress: called with ("run", frames done, frames in all or 0).

    Raises:
        UsageError: arguments that contradict each other, the input or the bundle.
        OutputError: the output exists, or cannot be written.
        TruncatedVideoError: the video breaks off. What could be read has been written.
        DataError: the input cannot be read, or some pictures of a folder (the others are written).
        InputError: the region does not fit into a frame.
        BundleError, BackendError: as ``edgeseg.open``.
    """
    source_path = Path(input)
    kind = media_kind(source_path)
    if settings.time_constant_ms and kind != "video":
        raise UsageError(f"smoothing over time is for videos; {source_path} is no video")
    target = Path(output) if output is not None else _default_output(source_path, kind, mask_only)
    check_suffix(target, SinkSpec(kind, labels=mask_only))
    with (
        open_source(source_path) as source,
        open_for_job(
            bundle,
            source.frame_count or 0,
            backend=backend,
            device=device,
            precision=precision,
            threads=threads,
            # Frames of a file are independent: several at once, each on few threads, do more
            # frames a second than one on all of them.
            hint="latency" if kind == "image" else "throughput",
            settings=settings,
            progress=progress,
        ) as model,
    ):
        if _is_same(source.path, target):
            raise UsageError(f"{target} is the input itself: choose another output")
        model.check_threshold(threshold)
        colours = parse_colours(color, model.foreground_classes)
        overlay = None if mask_only else Overlay(colours, alpha=alpha, contours=contours)
        palette = colours if mask_only and len(colours) > 1 else None
        spec = SinkSpec.like(source, labels=mask_only, palette=palette)
        return _run(
            model,
            source,
            target,
            spec,
            overlay=overlay,
            threshold=threshold,
            regions=None if roi is None else RunRegions(roi, source),
            force=force,
            progress=progress,
        )


def _run(
    model: Model,
    source: Source,
    target: Path,
    spec: SinkSpec,
    *,
    overlay: Overlay | None,
    threshold: float | None,
    regions: RunRegions | None,
    force: bool,
    progress: Progress,
) -> RunReport:
    total = source.frame_count or 0
    done = found = 0
    time_constant_ms = model.readout.time_constant_ms
    smoother = (
        TemporalSmoother(time_constant_ms)
        if time_constant_ms > 0.0 and source.kind == "video"
        else None
    )
    with (
        open_sink(target, spec, force=force) as sink,
        open_route(
            model,
            source,
            overlay=overlay,
            threshold=threshold,
            smoother=smoother,
            regions=regions,
        ) as route,
    ):

        def write(item: Any) -> None:
            nonlocal done, found
            frame, picture, has_foreground = item
            sink.write(frame, picture)
            done += 1
            found += has_foreground
            progress("run", done, max(total, done))

        report = run_pipeline(source, route.stages, write)
        if report.ended_by is not None and not report.frames:
            raise report.ended_by
    if report.ended_by is not None:
        # Not ``raise ... from``: the same error, with where its good part lies.
        kind = type(report.ended_by)
        raise kind(f"{report.ended_by}; what was read is written to {target}")
    if total != done:
        progress("run", done, done)
    return RunReport(
        output=target,
        kind=source.kind,
        frames=report.frames,
        frames_with_foreground=found,
        backend=model.engine.info.backend,
        variant=model.variant.name,
        resets=tuple(smoother.resets) if smoother is not None else (),
        frame_path=route.how,
        region=route.region(),
        pipeline=report,
    )


def _default_output(source: Path, kind: MediaKind, mask_only: bool) -> Path:
    what = "mask" if mask_only else "overlay"
    if kind == "folder":
        return Path(f"{source.resolve().name or 'folder'}-{what}")
    suffix = ".png" if kind == "image" else ".mkv" if mask_only else ".mp4"
    return Path(f"{source.stem}-{what}{suffix}")


def _is_same(source: Path, target: Path) -> bool:
    try:
        return target.exists() and source.samefile(target)
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror or error}") from error
