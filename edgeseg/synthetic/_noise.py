"""Random textures on the unrolled wall: rows run along the tube, columns around it (periodic)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["draw_vessels", "fractal_noise", "sample_uniform_grid"]

Array = npt.NDArray[np.float32]


def sample_uniform_grid(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Uniform values in [-1, 1], float32, shape (rows, columns)."""
    uniform = rng.random((rows, columns), dtype=np.float32)
    return np.asarray(uniform * np.float32(2.0) - np.float32(1.0))


def fractal_noise(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    *,
    first: int,
    octaves: int,
    persistence: float = 0.5,
) -> Array:
    """Smooth noise, periodic along columns, standard deviation 1 and mean 0.

    Octave ``i`` interpolates a random grid with ``first * 2**i`` cells around the tube and twice as
    many along it. The grids do not depend on ``rows`` and ``columns``, so that a scene looks the
    same at every resolution.

    Args:
        rng: source of randomness.
        rows: height of the texture, a multiple of every grid height that is not larger than it.
        columns: width of the texture; ``rows == 2 * columns`` gives isotropic noise.
        first: cells around the tube in the coarsest octave.
        octaves: number of octaves.
        persistence: amplitude ratio of successive octaves.

    Returns:
        float32 of shape (rows, columns).
    """
    total = np.zeros((2 * first, first), dtype=np.float32)
    for octave in range(octaves):
        cells = first << octave
        grid = sample_uniform_grid(rng, 2 * cells, cells)
        if cells > columns:
            continue
        if octave:
            total = _enlarge(total, 2)
        total += grid * np.float32(persistence**octave)
    total = _enlarge(total, columns // total.shape[1])
    total -= total.mean()
    return np.asarray(total / max(float(total.std()), 1e-6), dtype=np.float32)


def _enlarge(texture: Array, factor: int) -> Array:
    """Cubic interpolation by a whole factor, periodic along columns."""
    if factor == 1:
        return texture
    padded = cv2.copyMakeBorder(texture, 2, 2, 0, 0, cv2.BORDER_REFLECT)
    padded = cv2.copyMakeBorder(padded, 0, 0, 2, 2, cv2.BORDER_WRAP)
    size = (padded.shape[1] * factor, padded.shape[0] * factor)
    large = cv2.resize(padded, size, interpolation=cv2.INTER_CUBIC)
    cut = 2 * factor
    return np.ascontiguousarray(large[cut:-cut, cut:-cut])


def draw_vessels(rng: np.random.Generator, rows: int, columns: int, trees: int) -> Array:
    """Branching vessels, density in [0, 1], periodic along columns.

    Each tree is a random walk that meanders, thins out and forks; the walk is made in units of the
    texture's width, so that it does not depend on the resolution.

    Returns:
        float32 of shape (rows, columns).
    """
    margin = columns // 2
    canvas = np.zeros((rows, columns + 2 * margin), dtype=np.uint8)
    shift_bits = 4
    for _ in range(trees):
        x, y, heading = rng.random(), rng.random() * 2.0, rng.random() * 2.0 * np.pi
        width = 0.0022 + 0.0035 * rng.random()
        pending = [(x, y, heading, width, 0)]
        while pending:
            x, y, heading, width, depth = pending.pop()
            steps = int(rng.integers(8, 22))
            curvature = rng.standard_normal(steps) * 0.28
            angles = heading + np.cumsum(curvature)
            xs = x + np.concatenate(([0.0], np.cumsum(np.cos(angles)))) * 0.011
            ys = y + np.concatenate(([0.0], np.cumsum(np.sin(angles)))) * 0.011
            points = np.stack([xs, ys], axis=1) * columns
            points[:, 0] += margin
            fixed = np.rint(points * (1 << shift_bits)).astype(np.int32)
            thickness = max(1, round(width * columns))
            strength = int(min(255.0, 110.0 + 30000.0 * width))
            cv2.polylines(
                canvas, [fixed], False, strength, thickness, lineType=cv2.LINE_AA, shift=shift_bits
            )
            if depth < 4:
                for side in (-1.0, 1.0):
                    if rng.random() < 0.85:
                        turn = side * (0.3 + 0.6 * rng.random())
                        child = (xs[-1], ys[-1], angles[-1] + turn, width * 0.72, depth + 1)
                        pending.append(child)
    # What was drawn beyond either seam belongs to the other side of the tube.
    middle = canvas[:, margin : margin + columns].copy()
    half = columns - margin
    middle[:, half:] = np.maximum(middle[:, half:], canvas[:, :margin])
    middle[:, :margin] = np.maximum(middle[:, :margin], canvas[:, margin + columns :])
    blurred = cv2.GaussianBlur(middle, (0, 0), max(0.5, columns / 1400.0))
    return np.asarray(blurred.astype(np.float32) / np.float32(255.0))
