"""Which way the frames of a run take: through the host's memory, or over the GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.backends.base import StreamEngine
from edgeseg.frame_path import Wanted, model_unavailable_reason, open_frame_path
from edgeseg.model import Model, Result
from edgeseg.overlay import Overlay
from edgeseg.region import describe_region, region_in_frame
from edgeseg.temporal import TemporalSmoother
from edgeseg.video.base import Frame, Source
from edgeseg.video.pipeline import Stage
from edgeseg.video.stages import Draw, Picture, device_stages, frame_stages
from edgeseg.workflows._run_region import RunRegions

__all__ = ["HOST_ENGINE", "WHOLE_FRAME", "Route", "open_route"]

_log = logging.getLogger(__name__)

HOST_ENGINE = "on the host, where the engine works"
"""How frames go where there is no other way."""


WHOLE_FRAME = describe_region(None)


@dataclass(frozen=True)
class Route:
    """The stages of a run from a ``Frame`` to (frame, picture, whether there is foreground)."""

    stages: tuple[Stage, ...]
    how: str
    """In words; for an engine of the device that is not used so, with the reason."""
    region: Callable[[], str]
    """Says in words which region of the frames was looked at, once the run is over."""


@contextmanager
def open_route(
    model: Model,
    source: Source,
    *,
    overlay: Overlay | None,
    threshold: float | None,
    smoother: TemporalSmoother | None,
    regions: RunRegions | None = None,
) -> Iterator[Route]:
    """The way for the frames of ``source``, open for as long as the context is.

    Frames of a video go over the GPU where the model's engine works there and the read-out can.

    Args:
        model: whose engine is used.
        source: a video or pictures.
        overlay: draws the masks onto the frames; None makes pictures of the masks alone.
        threshold: for one-class models, instead of the bundle's.
        smoother: smooths over the frames of a video.
        regions: of interest, instead of the bundle's; None for that. On the GPU the first one holds
            for all frames.

    Raises:
        InputError: the first region does not fit into the frames.
        BackendError: the frame path could not be made, though nothing speaks against it.
    """
    if regions is not None and source.size is not None:
        region_in_frame(regions.first, source.size[::-1])
    reason = _why_host(model, source)
    if reason is not None or source.size is None:
        if isinstance(model.engine, StreamEngine):
            _log.info("frames go through the host's memory: %s", reason)
        draw = _masks(model) if overlay is None else _overlays(overlay)
        stages = frame_stages(
            model.bound_stages(),
            draw,
            threshold=threshold,
            parallel=model.engine.parallel,
            smoother=smoother,
            regions=regions,
        )
        on_device = isinstance(model.engine, StreamEngine)
        yield Route(
            stages,
            f"on the host: {reason}" if on_device else HOST_ENGINE,
            (lambda: _own(model)) if regions is None else regions.describe,
        )
        return
    width, height = source.size
    region = None if regions is None else region_in_frame(regions.first, (height, width))
    with open_frame_path(
        model,
        (height, width),
        wanted=Wanted(overlay=overlay is not None, mask=overlay is None, statistics=True),
        overlay=overlay,
        threshold=threshold,
        region=region,
    ) as path:
        draw = _masks(model) if overlay is None else _drawn
        yield Route(
            device_stages(path, draw, smoother=smoother),
            path.describe(),
            lambda: _own(model) if regions is None else regions.describe(fixed=True),
        )


def _own(model: Model) -> str:
    """The region of a run that was given none."""
    return WHOLE_FRAME if model.roi is None else f"{describe_region(model.roi)}, as the bundle says"


def _why_host(model: Model, source: Source) -> str | None:
    if source.kind != "video":
        return "pictures are taken one by one"
    if source.size is None:
        return "the video does not say how large its frames are"
    return model_unavailable_reason(model)


def _overlays(overlay: Overlay) -> Draw:
    def draw(frame: Frame, result: Result) -> Picture:
        # The frame was decoded for this run and belongs to nobody else.
        return overlay(frame.image, result.mask, in_place=True)

    return draw


def _drawn(frame: Frame, result: Any) -> Picture:
    picture: Picture = result.overlay
    return picture


def _masks(model: Model) -> Draw:
    scale = 255 if model.foreground_classes == 1 else 1

    def draw(frame: Frame, result: Any) -> Picture:
        picture: Picture = np.multiply(result.mask, scale, dtype=np.uint8)
        return picture

    return draw
