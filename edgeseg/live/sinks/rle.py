"""Run lengths of masks, as COCO counts them.

Pixels are walked down the columns, from left to right; the counts are the lengths of runs of 0 and
1 in turn, beginning with 0 (so the first count is 0 where the first pixel is set). This is what the
COCO tools call uncompressed RLE: ``{"size": [height, width], "counts": [...]}``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.dataset import MAX_IMAGE_PX
from edgeseg.errors import DataError, InputError

__all__ = ["decode_rle", "encode_rle"]

Mask = npt.NDArray[np.uint8]


def encode_rle(mask: Mask) -> list[int]:
    """Run lengths of a mask.

    Args:
        mask: uint8 or bool (H, W), set where it is not 0.

    Returns:
        Counts that sum up to H * W; none is 0 but possibly the first.

    Raises:
        InputError: another shape or dtype, or no pixels.
    """
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.bool_) or not mask.size:
        raise InputError(f"a mask is uint8 (H, W), got {mask.dtype} {mask.shape}")
    mask = np.ascontiguousarray(mask).view(np.uint8)
    height, width = mask.shape
    # Only the columns that have set pixels need a look, and OpenCV turns these into rows several
    # times as fast as numpy does.
    filled = np.flatnonzero(cv2.reduce(mask, 0, cv2.REDUCE_MAX))
    if not filled.size:
        return [mask.size]
    first, last = int(filled[0]), int(filled[-1]) + 1
    walked = np.zeros((last - first) * height + 2, np.bool_)  # 0 before and after
    np.not_equal(cv2.transpose(mask[:, first:last]).reshape(-1), 0, out=walked[1:-1])
    changes = np.flatnonzero(walked[1:] != walked[:-1]) + first * height
    edges = [0, *changes.tolist()]
    if edges[-1] != width * height:
        edges.append(width * height)
    return [end - start for start, end in itertools.pairwise(edges)]


def decode_rle(counts: Sequence[int], size: tuple[int, int]) -> Mask:
    """The mask of run lengths.

    Args:
        counts: lengths of runs of 0 and 1 in turn, beginning with 0.
        size: (height, width) in pixels.

    Returns:
        uint8 (H, W), 0 and 1.

    Raises:
        DataError: the counts are no lengths, do not fill the picture, or it is unreasonably large.
    """
    height, width = size
    if height < 1 or width < 1 or height * width > MAX_IMAGE_PX:
        raise DataError(f"a mask of {width}x{height} is not between 1 and {MAX_IMAGE_PX} pixels")
    if any(type(count) is not int or not 0 <= count <= height * width for count in counts):
        raise DataError("run lengths must be whole numbers, from 0 to the number of pixels")
    if sum(counts) != height * width:
        raise DataError(
            f"run lengths sum up to {sum(counts)}, and {width}x{height} has {height * width} pixels"
        )
    values = np.arange(len(counts), dtype=np.int64) % 2
    columns = np.repeat(values.astype(np.uint8), np.asarray(counts, np.int64))
    return np.ascontiguousarray(columns.reshape(width, height).T)
