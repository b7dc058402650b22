"""Pictures written as one file, a folder or a video: whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg._files import atomic_file, check_output
from edgeseg.errors import OutputError, UsageError
from edgeseg.overlay import Colour
from edgeseg.video.base import Frame, MediaKind, Sink, Source
from edgeseg.video.palette_png import with_palette

__all__ = ["SinkSpec", "check_suffix", "open_sink"]

_LOSSLESS_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff"})
_IMAGE_SUFFIXES = _LOSSLESS_SUFFIXES | {".jpg", ".jpeg", ".webp"}
_VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv"})
_LABEL_VIDEO_SUFFIX = ".mkv"

_JPEG_QUALITY = 95
_WEBP_QUALITY = 95
_PNG_COMPRESSION = 1
"""Files 10 to 20 % larger than at zlib's default, in a third of the time."""

_DEFAULT_TIME_BASE = Fraction(1, 90000)


@dataclass(frozen=True)
class SinkSpec:
    """What is going to be written."""

    kind: MediaKind
    labels: bool = False
    """Masks, uint8 (H, W), which must be stored without loss; otherwise uint8 (H, W, 3) BGR."""
    palette: tuple[Colour, ...] | None = None
    """With ``labels``: colours of the classes, for PNG files that store class indices."""
    size: tuple[int, int] | None = None
    """(width, height) in pixels, needed for a video."""
    rate: Fraction | None = None
    """Average frames per second of a video."""
    time_base: Fraction | None = None
    """Seconds of which a video's time stamps are multiples."""
    pixel_aspect: Fraction | None = None
    """Width of a video's pixel divided by its height."""

    @classmethod
    def like(
        cls, source: Source, *, labels: bool = False, palette: tuple[Colour, ...] | None = None
    ) -> SinkSpec:
        """The form of ``source``."""
        return cls(
            source.kind,
            labels,
            palette,
            source.size,
            source.rate,
            source.time_base,
            source.pixel_aspect,
        )


class _OneImage(Sink):
    def __init__(self, temporary: Path, spec: SinkSpec) -> None:
        self._temporary = temporary
        self._spec = spec

    def write(self, frame: Frame, image: npt.NDArray[np.uint8]) -> None:
        self._temporary.write_bytes(_encoded(image, self._temporary.suffix, self._spec.palette))


class _Folder(Sink):
    """A PNG for each picture, under its stem; each is written whole."""

    def __init__(self, folder: Path, spec: SinkSpec) -> None:
        self._folder = folder
        self._spec = spec

    def write(self, frame: Frame, image: npt.NDArray[np.uint8]) -> None:
        data = _encoded(image, ".png", self._spec.palette)
        with atomic_file(self._folder / f"{frame.name}.png") as temporary:
            temporary.write_bytes(data)


@contextlib.contextmanager
def open_sink(path: Path | str, spec: SinkSpec, *, force: bool = False) -> Iterator[Sink]:
    """Open an output; yields where to write.

    A file appears under its name when the block ends well, and not at all otherwise, so the block
    of a cut video should end regularly (what was read is then a whole video). In a folder each
    picture is whole by itself: those written before an error stay.

    - video: H.264 in MP4, MOV or Matroska by suffix, yuv420p, constant quality, time stamps as in
      the source. Sizes are made even, as yuv420p needs, by repeating the last row or column. With
      ``labels``: FFV1 (lossless, 8-bit grey) in Matroska.
    - image: by suffix; with ``labels`` a lossless one.
    - folder: PNG files with the stems of the sources. An existing folder must be empty, or
      ``force`` given: then files of the same name are replaced and others stay.

    Raises:
        UsageError: the suffix does not fit what is to be written.
        OutputError: it exists already, or cannot be written.
    """
    path = Path(path)
    check_suffix(path, spec)
    if spec.kind == "folder":
        _prepare_folder(path, force=force)
        yield _Folder(path, spec)
        return
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file for the {spec.kind}")
    check_output(path, force=force)
    with atomic_file(path) as temporary:
        sink = _file_sink(temporary, path, spec)
        try:
            yield sink
        except BaseException:
            sink.discard()
            raise
        sink.finish()


def check_suffix(path: Path, spec: SinkSpec) -> None:
    """Refuse a name whose suffix cannot hold what ``spec`` describes.

    Raises:
        UsageError: with the suffixes that can.
    """
    suffix = path.suffix.lower()
    if spec.kind == "folder":
        if suffix in _IMAGE_SUFFIXES | _VIDEO_SUFFIXES:
            raise UsageError(f"the input is a folder, so {path} must be one: leave out {suffix}")
        return
    if spec.kind == "image":
        allowed = _LOSSLESS_SUFFIXES if spec.labels else _IMAGE_SUFFIXES
        what = "masks are stored without loss" if spec.labels else "the input is a picture"
    else:
        allowed = frozenset({_LABEL_VIDEO_SUFFIX}) if spec.labels else _VIDEO_SUFFIXES
        what = (
            "masks of a video are stored without loss (FFV1)"
            if spec.labels
            else "the input is a video"
        )
    if suffix not in allowed:
        raise UsageError(
            f"{what}: the output must end in {' or '.join(sorted(allowed))}, not in "
            f"{suffix or 'nothing'} ({path})"
        )


def _prepare_folder(path: Path, *, force: bool) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file: name a folder")
    # Writability is probed inside the folder, with a name that cannot exist.
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(path.iterdir())
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror or error}") from error
    if occupied and not force:
        raise OutputError(
            f"{path} exists already and is not empty: choose another name, or pass --force to "
            "replace files of the same name in it"
        )
    check_output(path / ".edgeseg", force=True)


def _file_sink(temporary: Path, path: Path, spec: SinkSpec) -> Sink:
    if spec.kind == "image":
        return _OneImage(temporary, spec)
    from edgeseg.video.encode import LabelVideo, OverlayVideo

    if spec.size is None:
        raise UsageError("a video needs the size of its frames")
    encoder = LabelVideo if spec.labels else OverlayVideo
    return encoder(
        temporary,
        path,
        size=spec.size,
        rate=spec.rate,
        time_base=spec.time_base or _DEFAULT_TIME_BASE,
        pixel_aspect=spec.pixel_aspect,
    )


def _encoded(
    image: npt.NDArray[np.uint8], suffix: str, palette: tuple[Colour, ...] | None
) -> bytes:
    options: dict[str, list[int]] = {
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION],
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
        ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY],
    }
    suffix = suffix.lower()
    done, data = cv2.imencode(suffix, image, options.get(suffix, []))
    if not done:
        raise OutputError(f"a picture of shape {image.shape} cannot be written as {suffix}")
    encoded: Any = data.tobytes()
    if palette is not None and suffix == ".png":
        return with_palette(encoded, ((0, 0, 0), *palette))
    return bytes(encoded)
