"""Exact Euclidean distances between voxels of an anisotropic grid.

The squared distance transform is separable (Felzenszwalb and Huttenlocher, "Distance Transforms of
Sampled Functions", Theory of Computing 8, 2012): along the first axis by two running scans, along
the second by the lower envelope of parabolas, all lines at once; along the third only for the
voxels that are asked for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Spacing3", "nearest_distances"]

Spacing3 = tuple[float, float, float]
"""Distance of neighbouring voxels' centres along each axis."""

_CHUNK_ELEMENTS = 1 << 22

BoolVolume = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]


def nearest_distances(points: BoolVolume, targets: BoolVolume, spacing: Spacing3) -> Float64:
    """Distance of each point to the nearest target.

    Args:
        points: bool (a, b, c), where distances are wanted.
        targets: bool of the same shape; at least one is True.
        spacing: along the axes; the result has its unit.

    Returns:
        float64, one distance a point, in the order of ``np.nonzero(points)``.
    """
    depth, height, width = targets.shape
    planes, rows, columns = np.nonzero(points)
    if not len(planes):
        return np.empty(0)
    along_first = _first_axis(targets, spacing[0])
    squared = np.empty(len(planes))
    across = np.arange(width)
    # Points are sorted by plane, so a run of planes owns a run of points.
    step = max(1, _CHUNK_ELEMENTS // (height * width))
    for low in range(0, depth, step):
        begin, end = np.searchsorted(planes, (low, low + step))
        if begin == end:
            continue
        slab = _second_axis(along_first[low : low + step], spacing[1])
        block = max(1, _CHUNK_ELEMENTS // width)
        for at in range(begin, end, block):
            part = slice(at, min(at + block, end))
            sideways = (across - columns[part, None]) * spacing[2]
            squared[part] = np.min(slab[planes[part] - low, rows[part]] + sideways**2, axis=1)
    return np.sqrt(squared)


def _first_axis(targets: BoolVolume, spacing: float) -> Float64:
    """Squared distance to the nearest target along axis 0; infinite where there is none."""
    numbers = np.arange(len(targets), dtype=np.float64)[:, None, None]
    nearest = np.where(targets, numbers, -np.inf)
    np.maximum.accumulate(nearest, axis=0, out=nearest)
    before = numbers - nearest
    nearest = np.where(targets, numbers, np.inf)
    after = np.minimum.accumulate(nearest[::-1], axis=0)[::-1] - numbers
    np.minimum(before, after, out=before)
    before *= spacing
    squared: Float64 = np.square(before, out=before)
    return squared


def _second_axis(heights: Float64, spacing: float) -> Float64:
    """``min over q of heights[:, q] + ((p - q) * spacing)**2`` for each p along axis 1."""
    # Lines that hold nothing finite have no envelope and stay infinite.
    found = np.isfinite(heights).any(axis=1)
    lines = np.ascontiguousarray(heights.transpose(1, 0, 2)[:, found])
    result = np.full(heights.shape, np.inf)
    if lines.shape[1]:
        lowest = _lower_envelopes(lines, spacing)
        result.transpose(1, 0, 2)[:, found] = lowest
    return result


def _lower_envelopes(lines: Float64, spacing: float) -> Float64:
    """The lower envelope of the parabolas of each line, at its positions.

    Args:
        lines: (n, m): m lines of n heights, each with a finite one.
        spacing: of the positions.

    Returns:
        float64 (n, m).
    """
    n, m = lines.shape
    roots = np.zeros((n, m), np.intp)
    starts = np.full((n, m), np.inf)  # from where on a parabola is the lowest
    top = np.full(m, -1)
    unit = spacing * spacing
    for q in range(n):
        pending = np.flatnonzero(np.isfinite(lines[q]))
        while len(pending):
            on_top = top[pending]
            empty = on_top < 0
            root = roots[np.maximum(on_top, 0), pending]
            # Where the parabola of q crosses the one on top; only the later one is lower beyond.
            with np.errstate(invalid="ignore", divide="ignore"):
                crossing = 0.5 * (
                    (lines[q, pending] - lines[root, pending]) / (unit * (q - root)) + (q + root)
                )
            crossing[empty] = -np.inf
            hidden = ~empty & (crossing <= starts[np.maximum(on_top, 0), pending])
            placed = pending[~hidden]
            top[placed] += 1
            roots[top[placed], placed] = q
            starts[top[placed], placed] = crossing[~hidden]
            pending = pending[hidden]
            top[pending] -= 1
    result = np.empty((n, m))
    at = np.zeros(m, np.intp)
    every = np.arange(m)
    last = top
    for p in range(n):
        while True:
            following = np.minimum(at + 1, last)
            onward = (following > at) & (starts[following, every] < p)
            if not onward.any():
                break
            at[onward] += 1
        root = roots[at, every]
        result[p] = lines[root, every] + ((p - root) * spacing) ** 2
    return result
