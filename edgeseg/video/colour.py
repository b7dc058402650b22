"""Which YCbCr matrix a video uses, and the conversion to and from BGR.

Tags decide where they exist. Without them high definition means ITU-R BT.709 and standard
definition BT.601, as the standards for these sizes say and players assume. (swscale, and OpenCV
through it, take BT.601 for every untagged video, which shifts the greens of HD recordings.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BgrConverter", "YuvConverter", "is_high_definition"]

# ITU-T H.273 code points, as FFmpeg uses them in frames and codec contexts.
_BT709 = 1
_SMPTE170M = 6
_KNOWN_MATRICES = frozenset({_BT709, 4, 5, _SMPTE170M, 7, 9})
_LIMITED_RANGE = 1
_FULL_RANGE = 2
# swscale's own numbers for the same matrices.
_SWS_BT709 = 1
_SWS_BT601 = 5
# Its flags, as numbers since PyAV 17 has no name for the second one. Without that one swscale
# truncates, and pictures come out a level darker.
_SWS_BILINEAR = 0x2
_SWS_ACCURATE_RND = 0x40000

_SD_MAX_WIDTH_PX = 1024
_SD_MAX_HEIGHT_PX = 576


def is_high_definition(width_px: int, height_px: int) -> bool:
    """Whether an untagged video of this size uses BT.709."""
    return width_px > _SD_MAX_WIDTH_PX or height_px > _SD_MAX_HEIGHT_PX


class BgrConverter:
    """Decoded PyAV frames to uint8 BGR arrays."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> npt.NDArray[np.uint8]:
        """The picture as uint8 (H, W, 3), BGR, full range; newly allocated and contiguous.

        This is swscale's fast path, as in FFmpeg and OpenCV: within 3 levels of exact arithmetic,
        chroma replicated. Its exact path takes 18 times as long.
        """
        matrix = None
        if not frame.format.is_rgb and frame.colorspace not in _KNOWN_MATRICES:
            hd = is_high_definition(frame.width, frame.height)
            matrix = _SWS_BT709 if hd else _SWS_BT601
        converted = self._reformatter.reformat(
            frame,
            format="bgr24",
            src_colorspace=matrix,
            dst_color_range=_FULL_RANGE,
            threads=1,
        )
        plane: Any = converted.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: converted.height]
        image = rows[:, : 3 * converted.width].reshape(converted.height, converted.width, 3)
        return np.ascontiguousarray(image)


class YuvConverter:
    """uint8 BGR arrays to PyAV frames in yuv420p, limited range, BT.709 or BT.601 by size."""

    def __init__(self, width_px: int, height_px: int) -> None:
        from av.video.reformatter import VideoReformatter

        hd = is_high_definition(width_px, height_px)
        self._matrix = _SWS_BT709 if hd else _SWS_BT601
        self.code_point = _BT709 if hd else _SMPTE170M
        self._reformatter = VideoReformatter()

    def tag(self, codec_context: Any) -> None:
        """Write the matrix, primaries, transfer curve and range into an encoder's context."""
        codec_context.colorspace = self.code_point
        codec_context.color_primaries = self.code_point
        codec_context.color_trc = self.code_point
        codec_context.color_range = _LIMITED_RANGE

    def __call__(self, image: npt.NDArray[np.uint8]) -> Any:
        """A yuv420p frame of the same, even, size, within 1 level of exact arithmetic."""
        import av

        frame = av.VideoFrame.from_numpy_buffer(image, format="bgr24")
        return self._reformatter.reformat(
            frame,
            format="yuv420p",
            dst_colorspace=self._matrix,
            src_color_range=_FULL_RANGE,
            dst_color_range=_LIMITED_RANGE,
            interpolation=_SWS_BILINEAR | _SWS_ACCURATE_RND,
            threads=1,
        )
