"""The shown pictures as a video file that stays playable when the program is killed.

The file lies under its own name from the start, unlike everything else that edgeseg writes: a name
that appears at the end never appears after a crash, and a procedure cannot be repeated. Instead it
is written in pieces of half a second, each whole by itself. MP4 and MOV are written as fragments
and become ordinary files, with one index, when they are closed; until then, or after a crash,
players read them as they are. Matroska and MPEG-TS have no need for that.
"""

from __future__ import annotations

import io
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgeseg._optional import require
from edgeseg.errors import InputError, OutputError, UsageError
from edgeseg.live.base import LiveSink, Picture, Shown, SinkPolicy
from edgeseg.live.sinks.encoder import PictureConverter, Recipe, choose_encoder, even_size
from edgeseg.live.sinks.growing_file import GrowingFile

__all__ = ["RecordingSink", "Timeline", "new_recording"]

_log = logging.getLogger(__name__)

_PIECE_MS = 500
_KEY_FRAME_EVERY_S = 2.0
_DEFAULT_RATE = Fraction(25)
_KEEP_FREE_MB = 64
"""Room for the index of the file itself, and for the log, which goes on after the recording."""
_PART_BYTES = 4_000_000_000
"""USB sticks are formatted with FAT32, whose files end at 4 GiB; the encoder's index in memory ends
with the part as well."""
_MUXER_BUFFER_BYTES = 1 << 16


@dataclass(frozen=True)
class _Container:
    """How FFmpeg writes one kind of file."""

    format: str
    time_base: Fraction
    options: Mapping[str, str]


_FRAGMENTS = {
    "movflags": "hybrid_fragmented+empty_moov+default_base_moof",
    "frag_duration": str(1000 * _PIECE_MS),
    "flush_packets": "1",
}
# MPEG-4 part 2 has 16 bits for the denominator.
_FINE = Fraction(1, 60000)
_CONTAINERS = {
    ".mp4": _Container("mp4", _FINE, _FRAGMENTS),
    ".mov": _Container("mov", _FINE, _FRAGMENTS),
    ".mkv": _Container(
        "matroska",
        Fraction(1, 1000),  # Matroska's own
        {"cluster_time_limit": str(_PIECE_MS), "flush_packets": "1"},
    ),
    ".ts": _Container("mpegts", _FINE, {"flush_packets": "1"}),
}


class RecordingSink(LiveSink):
    """Writes MP4, MOV, Matroska or MPEG-TS, by suffix.

    Time stamps are the times at which frames were captured; a frame that is shown again (with a
    sign, since nothing new came) moves on by the time that passed in between. It begins with the
    first frame: blank pictures before it, which may have any size, are left out. Another size, and
    4 GB, begin another part: ``NAME-2.mp4`` follows ``NAME.mp4``. When a disk is full the error
    names the file, which is cut back to its last whole piece and plays.
    """

    policy: SinkPolicy = "wait"

    def __init__(
        self,
        path: Path | str,
        *,
        rate: Fraction | None = None,
        codec: str | None = None,
        force: bool = False,
        media_times: bool = False,
        keep_free_mb: int = _KEEP_FREE_MB,
        part_bytes: int = _PART_BYTES,
    ) -> None:
        """Make the file, which is empty up to the first picture.

        Args:
            path: ends in .mp4, .mov, .mkv or .ts.
            rate: frames per second that are expected; it guides the encoder alone.
            codec: one of ``encoder.CODECS``; None: H.264 if this build has it, else what it has.
            force: replace an existing file. Further parts always take a name that is free: nobody
                has said that what lies there may go.
            media_times: take the time stamps of the medium where it has some: for files that are
                not played at their own pace, whose frames are captured as fast as they are shown.
            keep_free_mb: stop when less is left on the disk, in 10^6 bytes; 0: fill it up.
            part_bytes: size at which the next part begins.

        Raises:
            UsageError: the suffix or the codec is none of these.
            OutputError: it exists, or cannot be written, or the encoder does not work here.
        """
        self.path = Path(path)
        container = _CONTAINERS.get(self.path.suffix.lower())
        if container is None:
            raise UsageError(
                f"{self.path}: recordings end in {', '.join(_CONTAINERS)}, which say how they are "
                "written"
            )
        self.name = str(self.path)
        self._container = container
        self._rate = rate or _DEFAULT_RATE
        self._media_times = media_times
        self._keep_free_mb = keep_free_mb
        self._part_bytes = part_bytes
        self._recipe = choose_encoder(codec, container.format, self.name)
        self._file: GrowingFile | None = GrowingFile(self.path, force=force)
        try:
            self._file.check_free_space(keep_free_mb)
        except OutputError:
            self._file.close()
            raise
        self._part: _Part | None = None
        self._parts = [self.path]
        _log.info("recording to %s: %s", self.name, self.how)

    @property
    def how(self) -> str:
        """What compresses the pictures, and why."""
        return f"{self._recipe.says} ({self.encoder})"

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder in use."""
        return self._recipe.encoder

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files so far; the last one may still be empty."""
        return tuple(self._parts)

    def write(self, shown: Shown) -> None:
        """Encode one picture; see ``LiveSink``."""
        picture = _checked(shown.picture)
        if shown.frame.index < 0 and self._part is None:
            return
        size = picture.shape[1], picture.shape[0]
        try:
            if self._part is not None and (
                self._part.size != size or self._part.bytes >= self._part_bytes
            ):
                self._next_part(size)
            if self._part is None:
                self._part = self._begin(size)
            self._part.write(picture, shown)
            if self._file is not None:
                self._file.check_free_space(self._keep_free_mb)
        except OutputError:
            self._give_up()
            raise

    def close(self) -> None:
        """Write what the encoder holds and the index; see ``LiveSink``.

        Raises:
            OutputError: that failed; the file plays nevertheless, up to its last whole piece.
        """
        part, self._part = self._part, None
        file, self._file = self._file, None
        try:
            if part is not None:
                part.finish()
        finally:
            if file is not None:
                if file.size == 0:
                    _log.warning("%s: no picture came, so there is no file", file.path)
                file.close()

    def _begin(self, size: tuple[int, int]) -> _Part:
        if self._file is None:
            raise OutputError(f"{self.name} is closed: nothing can be added to it")
        return _Part(
            self._file,
            self._container,
            self._recipe,
            size=size,
            rate=self._rate,
            timeline=Timeline(media_times=self._media_times, step_s=float(1 / self._rate)),
        )

    def _next_part(self, size: tuple[int, int]) -> None:
        assert self._part is not None
        before = self._part.size
        self.close()
        for number in itertools.count(len(self._parts) + 1):
            path = self.path.with_name(f"{self.path.stem}-{number}{self.path.suffix}")
            if not path.exists():
                break
        self._file = GrowingFile(path, force=False)
        self._parts.append(path)
        why = (
            f"pictures are {size[0]}x{size[1]} after {before[0]}x{before[1]}"
            if before != size
            else f"the part before has reached {self._part_bytes / 1e9:.3g} GB"
        )
        _log.info("recording goes on in %s: %s", path, why)

    def _give_up(self) -> None:
        """Complete the file as far as it can be, after an error."""
        try:
            self.close()
        except OutputError as error:
            _log.info("%s: left without an index (%s)", self.name, error)


def new_recording(
    folder: Path | str,
    now: float,
    *,
    rate: Fraction | None = None,
    codec: str | None = None,
    media_times: bool = False,
    keep_free_mb: int = _KEEP_FREE_MB,
) -> RecordingSink:
    """Record to a new MP4 file in ``folder``, named by the clock on the wall.

    Args:
        folder: is made if it is missing.
        now: seconds since 1970 (``time.time()``).
        rate: see ``RecordingSink``, like the others.
        codec: see ``RecordingSink``.
        media_times: see ``RecordingSink``.
        keep_free_mb: see ``RecordingSink``.

    Raises:
        OutputError: the file cannot be made.
    """
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now))
    for number in itertools.count(1):
        suffix = "" if number == 1 else f".{number}"
        path = Path(folder) / f"recording_{stamp}{suffix}.mp4"
        if not path.exists():
            break
    return RecordingSink(
        path, rate=rate, codec=codec, media_times=media_times, keep_free_mb=keep_free_mb
    )


class Timeline:
    """When each shown picture belongs, in seconds; never decreasing."""

    def __init__(self, *, media_times: bool = False, step_s: float = 0.04) -> None:
        """Begin with the first picture, at 0.

        Args:
            media_times: by the medium's time stamps where there are some.
            step_s: what to move on by where these jump (a file that begins again).
        """
        self._media_times = media_times
        self._step_s = step_s
        self._before: Shown | None = None
        """The picture that showed the present frame first."""
        self._before_at_s = 0.0
        self._last_s = 0.0
        self._origin_s = 0.0
        """What the clock in use said at 0."""
        self._continues = False
        """Whether the medium's stamps go on from those of the picture before."""

    def place(self, shown: Shown) -> float:
        """Seconds from the first picture to this one."""
        before = self._before
        if before is not None and _same_frame(before, shown):
            at_s = self._before_at_s + (shown.shown_s - before.shown_s)
            self._continues = False
        else:
            at_s = self._by_medium(shown) if self._media_times else self._by_capture(shown)
        at_s = max(at_s, self._last_s)
        if before is None or not _same_frame(before, shown):
            self._before, self._before_at_s = shown, at_s
        self._last_s = at_s
        return at_s

    def _by_capture(self, shown: Shown) -> float:
        if self._before is None:
            self._origin_s = shown.frame.captured_s
        return shown.frame.captured_s - self._origin_s

    def _by_medium(self, shown: Shown) -> float:
        media_s, before = shown.frame.media_s, self._before
        go_on_s = 0.0 if before is None else self._last_s + self._step_s
        if media_s is None:
            self._continues = False
            return go_on_s
        jumps = (
            not self._continues
            or before is None
            or before.frame.segment != shown.frame.segment
            or (before.frame.media_s is not None and media_s <= before.frame.media_s)
        )
        if jumps:
            self._origin_s = media_s - go_on_s
        self._continues = True
        return media_s - self._origin_s


def _same_frame(one: Shown, other: Shown) -> bool:
    return one.frame.index == other.frame.index and one.frame.segment == other.frame.segment


def _checked(picture: Picture) -> Picture:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != "uint8" or not picture.size:
        raise InputError(f"a recording takes uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
    return picture


class _Pieces(io.RawIOBase):
    """What PyAV writes into: holds bytes back until a piece is whole."""

    def __init__(self) -> None:
        super().__init__()
        self.position = 0
        self.size = 0
        self.pending: list[tuple[int, bytes]] = []

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = start + offset
        return self.position

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self.pending.append((self.position, piece))
        self.position += len(piece)
        self.size = max(self.size, self.position)
        return len(piece)

    def deliver(self, file: GrowingFile) -> None:
        """Append what is new in one go, and only then change what was there before."""
        pending, self.pending = self.pending, []
        new = bytearray()
        changes = []
        for position, piece in pending:
            end = file.size + len(new)
            if position == end:
                new += piece
            else:
                changes.append((position, piece))
                new += bytes(max(0, position + len(piece) - end))
        if new:
            file.append(bytes(new))
        for position, piece in changes:
            file.patch(position, piece)


class _Part:
    """One file of one size of pictures."""

    def __init__(
        self,
        file: GrowingFile,
        container: _Container,
        recipe: Recipe,
        *,
        size: tuple[int, int],
        rate: Fraction,
        timeline: Timeline,
    ) -> None:
        self.size = size
        self._file = file
        self._timeline = timeline
        self._time_base = container.time_base
        self._key_frame_every = (
            None if recipe.all_key_frames else round(_KEY_FRAME_EVERY_S / self._time_base)
        )
        self._last_pts = -1
        self._next_key_frame = 0
        self._av = require("av")
        self._pieces = _Pieces()
        self._convert = PictureConverter(recipe, size)
        self._output: Any = self._guarded(
            lambda: self._av.open(
                self._pieces,
                "w",
                format=container.format,
                options=dict(container.options),
                buffer_size=_MUXER_BUFFER_BYTES,
            )
        )
        self._stream = self._guarded(lambda: self._add_stream(recipe, rate))

    @property
    def bytes(self) -> int:
        """Size of the file so far."""
        return self._file.size

    def write(self, picture: Picture, shown: Shown) -> None:
        """Encode one picture, and write the piece that it completes."""
        frame = self._convert(picture)
        # Two pictures at one time would be refused.
        pts = max(round(self._timeline.place(shown) / self._time_base), self._last_pts + 1)
        self._last_pts = pts
        frame.pts, frame.time_base = pts, self._time_base
        if self._key_frame_every is not None and pts >= self._next_key_frame:
            frame.pict_type = self._av.video.frame.PictureType.I
            self._next_key_frame = pts + self._key_frame_every
        self._guarded(lambda: self._output.mux(self._stream.encode(frame)))
        self._deliver()

    def finish(self) -> None:
        """Write what the encoder holds, and the index."""
        if self._pieces.closed:
            return
        try:
            self._guarded(lambda: self._output.mux(self._stream.encode(None)))
            self._deliver()
            self._guarded(self._output.close)
            self._deliver()
        finally:
            # From now on PyAV writes nothing, not even when its objects are collected.
            self._pieces.close()

    def _add_stream(self, recipe: Recipe, rate: Fraction) -> Any:
        stream = self._output.add_stream(recipe.encoder, rate=rate)
        context = stream.codec_context
        recipe.prepare(context, even_size(*self.size), rate)
        context.time_base = self._time_base
        self._convert.tag(context)
        return stream

    def _deliver(self) -> None:
        try:
            self._pieces.deliver(self._file)
        except OutputError:
            # What would follow has no place in a file that lacks a piece.
            self._pieces.close()
            raise

    def _guarded(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (self._av.FFmpegError, ValueError) as error:
            self._pieces.close()
            text = getattr(error, "strerror", None) or error
            raise OutputError(
                f"cannot write {self._file.path}: encoding failed ({text}); record with another "
                "codec"
            ) from error
