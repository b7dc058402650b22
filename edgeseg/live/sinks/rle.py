"""Run lengths of masks, as COCO counts them.

Pixels are walked down the columns, from left to right; the counts are the lengths of runs of 0 and
1 in turn, beginning with 0 (so the first count is 0 where the first pixel is set). This is what the
COCO tools call uncompressed RLE: ``{"size": [height, width], "counts": [...]}``.
"""

from __future__ import annotations

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
    # OpenCV transposes eight times as fast as numpy copies in this order.
    columns = cv2.transpose(np.ascontiguousarray(mask).view(np.uint8)).reshape(-1) != 0
    changes = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    edges = np.concatenate(([0] if columns[0] else [], [0], changes, [columns.size]))
    counts: list[int] = np.diff(edges.astype(np.int64)).tolist()
    return counts


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
