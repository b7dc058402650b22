"""Where shown pictures go: files, masks, windows, network streams, pipes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgeseg.errors import UsageError
from edgeseg.live.base import LiveSink
from edgeseg.live.uri import SinkKind, SinkUri, parse_sink

__all__ = ["SinkOptions", "open_live_sink", "open_live_sinks"]


@dataclass(frozen=True)
class SinkOptions:
    """What may be said about sinks beside their names.

    ``codec``, ``force`` and ``keep_free_mb`` are a user's choices, and an error where they mean
    nothing. The others are facts about the session, which each sink uses or not.

    Raises:
        UsageError: a value that no sink can have.
    """

    codec: str | None = None
    """Encoder of video files and streams; None: the best one in software."""
    force: bool = False
    """Replace files that exist."""
    keep_free_mb: int | None = None
    """Files stop growing when less is left on the disk, in 10^6 bytes; 0: they fill it up; None:
    the sink's own reserve."""
    rate: Fraction | None = None
    """Frames per second that are expected; it guides encoders."""
    media_times: bool = False
    """The source is not live: recordings take the time stamps of the medium."""
    classes: tuple[str, ...] = ()
    """The manifest's names of classes; masks need them."""
    title: str = "edgeseg"
    """Of a window."""
    protected: tuple[Path, ...] = ()
    """What the session reads: files and folders that no sink may replace, not even by force."""

    def __post_init__(self) -> None:
        if self.keep_free_mb is not None and self.keep_free_mb < 0:
            raise UsageError(f"the space to keep free cannot be {self.keep_free_mb} MB")
        if self.rate is not None and self.rate <= 0:
            raise UsageError(f"a rate must be positive, got {self.rate} frames a second")


_FILES: frozenset[SinkKind] = frozenset({"file", "mask"})
_CHOICES = ("codec", "force", "keep_free_mb")
_OPTIONS: Mapping[SinkKind, frozenset[str]] = {
    "file": frozenset(_CHOICES),
    "mask": frozenset({"force", "keep_free_mb"}),
    "rtsp": frozenset({"codec"}),
    "udp": frozenset({"codec"}),
    "display": frozenset(),
    "v4l2": frozenset(),
    "stdout": frozenset(),
}
_WORDS: Mapping[SinkKind, str] = {
    "file": "a video file",
    "mask": "masks",
    "rtsp": "an RTSP stream",
    "udp": "a UDP stream",
    "display": "a window",
    "v4l2": "a loopback camera",
    "stdout": "raw frames",
}


def open_live_sink(text: str, options: SinkOptions | None = None) -> LiveSink:
    """Open the sink that ``text`` names.

    Args:
        text: see ``edgeseg.live.uri.parse_sink``.
        options: what is said beside its name.

    Raises:
        UsageError: no such kind of sink, an option that it does not have, or a protected file.
        OutputError: it cannot be written.
        MissingDependencyError: a program or library is not installed.
    """
    options = options or SinkOptions()
    uri = parse_sink(text)
    for name in _given(options):
        if name not in _OPTIONS[uri.kind]:
            raise UsageError(
                f"{uri.shown}: {name!r} means nothing for {_WORDS[uri.kind]}; leave it out"
            )
    _check_protected(uri, options)
    return _open(uri, options)


def open_live_sinks(
    texts: Sequence[str], options: SinkOptions | None = None
) -> tuple[LiveSink, ...]:
    """Open several sinks with options in common: each takes those that it has.

    If one cannot be opened, the ones before are closed again.

    Args:
        texts: see ``edgeseg.live.uri.parse_sink``.
        options: what is said beside their names.

    Raises:
        UsageError: no such kind of sink, the same one twice, an option that none of them has, or a
            protected file.
        OutputError: one cannot be written.
        MissingDependencyError: a program or library is not installed.
    """
    options = options or SinkOptions()
    uris = [parse_sink(text) for text in texts]
    for name in _given(options):
        if not any(name in _OPTIONS[uri.kind] for uri in uris):
            kinds = " and ".join(dict.fromkeys(_WORDS[uri.kind] for uri in uris)) or "no output"
            raise UsageError(f"{name!r} means nothing for {kinds}; leave it out")
    targets = [_place(uri) for uri in uris]
    for number, target in enumerate(targets):
        if target in targets[:number]:
            raise UsageError(f"{uris[number].shown} is given twice: name each output once")
        _check_protected(uris[number], options)
    with contextlib.ExitStack() as opened:
        sinks = []
        for uri in uris:
            unknown = {name: _DEFAULTS[name] for name in _CHOICES if name not in _OPTIONS[uri.kind]}
            sink = _open(uri, replace(options, **unknown))
            opened.callback(sink.close)
            sinks.append(sink)
        opened.pop_all()
    return tuple(sinks)


_DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(SinkOptions)}


def _given(options: SinkOptions) -> list[str]:
    return [name for name in _CHOICES if getattr(options, name) != _DEFAULTS[name]]


def _place(uri: SinkUri) -> tuple[str, str]:
    """What two names of the same output have in common."""
    if uri.kind in _FILES:
        return "path", os.path.realpath(uri.target)
    return uri.kind, uri.target


def _check_protected(uri: SinkUri, options: SinkOptions) -> None:
    if uri.kind in _FILES and _place(uri)[1] in map(os.path.realpath, options.protected):
        raise UsageError(f"{uri.shown} is what is read: name another output")


def _open(uri: SinkUri, options: SinkOptions) -> LiveSink:
    reserve = {} if options.keep_free_mb is None else {"keep_free_mb": options.keep_free_mb}
    match uri.kind:
        case "file":
            from edgeseg.live.sinks.recording import RecordingSink

            return RecordingSink(
                uri.target,
                rate=options.rate,
                codec=options.codec,
                force=options.force,
                media_times=options.media_times,
                **reserve,
            )
        case "mask":
            from edgeseg.live.sinks.masks import open_mask_sink

            if not options.classes:
                raise UsageError(f"{uri.shown}: masks need the names of the model's classes")
            return open_mask_sink(
                uri.target, classes=options.classes, force=options.force, **reserve
            )
        case "stdout":
            from edgeseg.live.sinks.raw import RawSink

            return RawSink()
        case "display":
            from edgeseg.live.sinks.display import DisplaySink

            return DisplaySink(uri.target, name=uri.shown, title=options.title)
        case "v4l2":
            from edgeseg.live.sinks.loopback import LoopbackSink

            return LoopbackSink(uri.target, name=uri.shown)
        case "rtsp" | "udp":
            from edgeseg.live.sinks.network import NetworkSink

            return NetworkSink(uri.target, name=uri.shown, rate=options.rate, codec=options.codec)
