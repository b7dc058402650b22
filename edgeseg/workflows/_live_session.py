"""Puts a live session together: source, engine, sinks, page and log, by what the caller chose."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.bundle import read_manifest
from edgeseg.errors import UsageError
from edgeseg.live.base import LiveSink, LiveSource
from edgeseg.live.computation import Computation, computation_for
from edgeseg.live.controls import Controls
from edgeseg.live.painter import Painter
from edgeseg.live.regions import BundleRegion, FixedRegion, FollowedRegion, Regions
from edgeseg.live.session import LiveOptions, LiveSession
from edgeseg.live.status import Events, silent_events
from edgeseg.model import Model
from edgeseg.overlay import Colour, parse_colours
from edgeseg.region import parse_region
from edgeseg.spec import Manifest, RoiSpec
from edgeseg.workflows._live_model import EngineChoice, model_card

if TYPE_CHECKING:
    from edgeseg.web import LivePage

__all__ = ["Look", "OpenSession", "PageChoice", "open_session"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What the pictures look like."""

    alpha: float = 0.4
    color: str | None = None
    contours: bool = False
    threshold: float | None = None
    status_line: bool = True
    """Write age, rate and views into a corner."""
    roi: str | None = None
    """``X,Y,W,H`` or ``auto``; None: the bundle's region, or the whole frame."""


@dataclass(frozen=True)
class PageChoice:
    """Where the live page is."""

    address: str
    """``[HOST:]PORT``."""
    token: str | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()
    """Further names that lead to it, such as that of a proxy."""


@dataclass
class OpenSession:
    """A session that is ready to start."""

    session: LiveSession
    page_url: str | None = None


@contextlib.contextmanager
def open_session(
    engine: EngineChoice | Model,
    source: LiveSource,
    sinks: Sequence[LiveSink],
    options: LiveOptions,
    *,
    look: Look | None = None,
    page: PageChoice | None = None,
    recordings: Path | None = None,
    events: Events = silent_events,
    budget_ms: float | None = None,
) -> Iterator[OpenSession]:
    """A session that is not started yet; everything is closed at the end of the context.

    Args:
        engine: a bundle and how to open it, or a model that is open (and stays open).
        source: not open yet.
        sinks: take the pictures.
        options: how it behaves.
        look: of the pictures.
        page: serve the live page as well.
        recordings: folder of recordings that are started from the page.
        events: is told what happens.
        budget_ms: use as many of the model's views as fit into this time for a frame; None: all.

    Raises:
        UsageError: choices that contradict each other.
        OutputError: the page's port is taken.
        MissingDependencyError: the page needs the extra ``web``.
    """
    look = look or Look()
    opened = _Engines(engine, budget_ms, events)
    # What colours and threshold may be is known from the manifest, before anything is loaded.
    manifest = opened.manifest
    foreground = max(1, len(manifest.classes) - 1)
    colours = parse_colours(look.color, foreground)
    threshold = opened.threshold(look.threshold)
    controls = Controls(
        opacity=look.alpha,
        threshold=threshold,
        on_change=lambda name, value: events("setting", name=name, value=value),
    )
    painter = Painter(colours, controls, contours=look.contours, status=look.status_line)
    session = LiveSession(
        source,
        opened.open,
        painter,
        controls,
        options,
        sinks=sinks,
        regions=_regions(look.roi, events),
        events=events,
        card=opened.card,
        recordings=recordings,
        rate=source.rate,
    )
    result = OpenSession(session)
    with contextlib.ExitStack() as stack:
        if page is not None:
            served = _serve(page, session, colours)
            # Closed after the session, so that viewers learn of its end.
            stack.callback(served.close)
            session.add_sink(served.sink)
            result.page_url = served.url
        stack.callback(session.close)
        yield result


def _serve(page: PageChoice, session: LiveSession, colours: tuple[Colour, ...]) -> LivePage:
    from edgeseg.web import LivePage

    return LivePage(page.address, session, token=page.token, colours=colours, names=page.names)


class _Engines:
    """Opens the engine, once or again, and knows what is to be said of it."""

    def __init__(
        self, engine: EngineChoice | Model, budget_ms: float | None, events: Events
    ) -> None:
        self._engine = engine
        self._budget_ms = budget_ms
        self._events = events
        self._card: Mapping[str, Any] = {}

    @cached_property
    def manifest(self) -> Manifest:
        """What the bundle says; read once."""
        if isinstance(self._engine, Model):
            return self._engine.manifest
        return read_manifest(self._engine.bundle)

    def threshold(self, chosen: float | None) -> float | None:
        """The threshold to start with; None for several classes.

        Raises:
            UsageError: one was chosen for a model that has none, or it is out of range.
        """
        readout = self.manifest.readout
        if readout.activation != "sigmoid":
            if chosen is not None:
                raise UsageError("--threshold has no meaning for several classes, which compete")
            return None
        if chosen is None:
            return readout.threshold
        if not 0.0 < chosen < 1.0:
            raise UsageError(f"--threshold must lie between 0 and 1, got {chosen}")
        return chosen

    def open(self) -> Computation:
        """Open the engine; also after the last one was given up."""
        if isinstance(self._engine, Model):
            self._note(self._engine)
            return computation_for(self._engine, close_model=False)
        if self._budget_ms is not None:
            from edgeseg.workflows._live_views import open_adaptive

            computation, model = open_adaptive(self._engine, self._budget_ms, self._events)
            self._note(model)
            return computation
        model = self._engine.open()
        self._note(model)
        return computation_for(model)

    def card(self) -> Mapping[str, Any]:
        return self._card

    def _note(self, model: Model) -> None:
        first = not self._card
        self._card = model_card(model)
        if first:
            self._events(
                "model",
                bundle=model.bundle.path.name,
                bundle_sha256=model.bundle.digest,
                **self._card,
            )


def _regions(text: str | None, events: Events) -> Regions:
    """The region of each frame, fixed or found."""
    if text is None:
        return BundleRegion()
    region = parse_region(text)
    return FixedRegion(region) if isinstance(region, RoiSpec) else FollowedRegion(events)
