"""Which encoder compresses pictures as they come, and how it is set up."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from edgeseg._linux import usable_cores
from edgeseg._optional import require
from edgeseg.errors import OutputError, UsageError
from edgeseg.live.base import Picture
from edgeseg.video.colour import YuvConverter

__all__ = ["CODECS", "PictureConverter", "Recipe", "choose_encoder", "even_size"]

_log = logging.getLogger(__name__)

_GOP_FRAMES = 1000
"""Key frames are asked for by time; this only keeps encoders from setting their own."""
_PROBE_PX = (640, 480)
_HARDWARE_BITS_PER_PIXEL = 0.15
"""Of encoders that know no constant quality: 3.5 Mbit/s for 720p at 25 frames a second."""
_MOST_THREADS = 4
_SWS_BT601 = 5
_FULL_RANGE = 2


@dataclass(frozen=True)
class Recipe:
    """How one encoder of FFmpeg is set up to lose little at a crash: no picture waits for later
    ones (but the last), none is predicted from later ones."""

    encoder: str
    says: str
    """What it is, for a person."""
    options: Mapping[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    all_key_frames: bool = False
    needs_bit_rate: bool = False
    threaded: bool = True

    def prepare(self, context: Any, size: tuple[int, int], rate: Fraction) -> None:
        """Set up an encoder's context; nothing was encoded by it yet.

        Args:
            context: PyAV's ``VideoCodecContext``.
            size: (width, height) in pixels, even.
            rate: frames per second that are expected.
        """
        context.width, context.height = size
        context.pix_fmt = self.pixel_format
        context.gop_size = _GOP_FRAMES
        context.options = dict(self.options)
        if self.needs_bit_rate:
            context.bit_rate = int(_HARDWARE_BITS_PER_PIXEL * size[0] * size[1] * rate)
        if self.threaded:
            # Most cores are the model's.
            context.thread_count = max(1, min(_MOST_THREADS, usable_cores() // 2))


_X264 = Recipe(
    "libx264",
    "H.264",
    # As in edgeseg.video.encode. Threads share a picture instead of working on several, so that one
    # picture at most is inside.
    {
        "crf": "20",
        "preset": "superfast",
        "x264-params": "bframes=0:rc-lookahead=0:sync-lookahead=0:sliced-threads=1",
    },
)
_RECIPES = {
    recipe.encoder: recipe
    for recipe in (
        _X264,
        Recipe("libopenh264", "H.264", needs_bit_rate=True),
        Recipe(
            "h264_nvenc",
            "H.264 by NVENC",
            {
                "preset": "p4",
                "tune": "ll",
                "rc": "vbr",
                "cq": "23",
                "bf": "0",
                "delay": "0",
                "forced-idr": "1",
            },
            threaded=False,
        ),
        Recipe(
            "h264_v4l2m2m",
            "H.264 by a V4L2 encoder",
            {"bf": "0"},
            needs_bit_rate=True,
            threaded=False,
        ),
        Recipe("mpeg4", "MPEG-4 part 2", {"flags": "+qscale", "global_quality": str(3 * 118)}),
        Recipe(
            "mjpeg",
            "Motion JPEG",
            {"flags": "+qscale", "global_quality": str(3 * 118)},
            pixel_format="yuvj420p",
            all_key_frames=True,
        ),
    )
}
_BY_ITSELF = ("libx264", "libopenh264", "mpeg4", "mjpeg")
"""In this order, without being asked. Hardware encoders have to be named: they may be wanted for
something else, and how they fail is their own."""
_H264 = ("libx264", "libopenh264")

CODECS = ("h264", *_RECIPES)
"""What may be asked for: ``h264`` is whichever encoder of it in software there is."""


def even_size(width_px: int, height_px: int) -> tuple[int, int]:
    """The next even size, which subsampled colours need."""
    return width_px + width_px % 2, height_px + height_px % 2


def choose_encoder(codec: str | None, container_format: str, where: str) -> Recipe:
    """The encoder to use; it was opened once to see that it works here.

    Args:
        codec: one of ``CODECS``, or None for the best one in software.
        container_format: FFmpeg's name of the container.
        where: what is to be written, for messages.

    Raises:
        UsageError: no such codec.
        OutputError: the named one, or none at all, works here in this container.
    """
    if codec is not None and codec not in CODECS:
        raise UsageError(f"unknown codec {codec!r}: choose one of {', '.join(CODECS)}")
    if codec is None:
        names: tuple[str, ...] = _BY_ITSELF
    else:
        names = _H264 if codec == "h264" else (codec,)
    failures: list[str] = []
    for name in names:
        recipe = _RECIPES[name]
        problem = _problem(recipe, container_format)
        if problem is None:
            if failures:
                _log.warning("%s: %s is used, since %s", where, recipe.says, "; ".join(failures))
            return recipe
        failures.append(f"{name}: {problem}")
    advice = (
        "install PyAV's wheel with  pip install --force-reinstall --only-binary av av"
        if codec is None
        else "leave the codec open to have one chosen"
    )
    raise OutputError(f"cannot encode {where} ({'; '.join(failures)}): {advice}")


def _problem(recipe: Recipe, container_format: str) -> str | None:
    av = require("av")
    if recipe.encoder not in av.codecs_available:
        return "this build of PyAV does not have it"
    if container_format == "mpegts" and recipe.encoder == "mjpeg":
        return "MPEG-TS does not carry it"
    try:
        context = av.CodecContext.create(recipe.encoder, "w")
        recipe.prepare(context, _PROBE_PX, Fraction(25))
        context.time_base = Fraction(1, 25)
        context.open()
    except (av.FFmpegError, ValueError, OSError) as error:
        return f"it does not open ({getattr(error, 'strerror', None) or error})"
    return None


class PictureConverter:
    """BGR pictures of one size to PyAV frames as a recipe wants them."""

    def __init__(self, recipe: Recipe, size: tuple[int, int]) -> None:
        """For pictures of ``size`` = (width, height) in pixels; odd sizes are made even."""
        self._full_range = recipe.pixel_format == "yuvj420p"
        self._padding = size[1] % 2, size[0] % 2
        self._to_yuv = YuvConverter(*even_size(*size))
        if self._full_range:
            self._reformatter = require("av.video.reformatter").VideoReformatter()

    def tag(self, context: Any) -> None:
        """Write what the colours mean into an encoder's context. JPEG has but one meaning."""
        if not self._full_range:
            self._to_yuv.tag(context)

    def __call__(self, picture: Picture) -> Any:
        """A new frame; odd sizes get their last row or column twice."""
        if any(self._padding):
            rows, columns = self._padding
            padded = cv2.copyMakeBorder(picture, 0, rows, 0, columns, cv2.BORDER_REPLICATE)
            picture = np.asarray(padded, np.uint8)
        picture = np.ascontiguousarray(picture)
        if not self._full_range:
            return self._to_yuv(picture)
        frame = require("av").VideoFrame.from_numpy_buffer(picture, format="bgr24")
        return self._reformatter.reformat(
            frame,
            format="yuvj420p",
            dst_colorspace=_SWS_BT601,
            src_color_range=_FULL_RANGE,
            dst_color_range=_FULL_RANGE,
            threads=1,
        )
