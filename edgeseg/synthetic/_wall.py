"""The bowel wall: a bent tube with haustral folds, and what its mucosa looks like.

The tube runs along +z; its inner radius is about 1 and is the unit of every length here. The wall
is described over the angle theta in [0, 2 pi) and z in [0, LENGTH]: a radius map (with derivatives,
for normals) and two byte textures that are looked up with ``cv2.remap``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.synthetic._noise import draw_vessels, fractal_noise

__all__ = ["LENGTH", "Centreline", "Wall", "make_wall"]

Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
T = TypeVar("T", Array, Bytes)

LENGTH = 4.0 * math.pi
"""Length of the textured tube: twice its circumference, so texels are square."""

_RADIUS_COLUMNS = 256
_PAD = 2
_TWO_PI = 2.0 * math.pi


@dataclass(frozen=True)
class Centreline:
    """The tube's axis at one moment: x(z) and y(z), each amplitude * sin(frequency * z + phase)."""

    amplitude: tuple[float, float]
    frequency: tuple[float, float]
    phase: tuple[float, float]

    def offset(self, z: Array) -> tuple[Array, Array]:
        """Axis position (x, y) at ``z``, same shape."""
        x, y = (
            np.float32(a) * np.sin(np.float32(w) * z + np.float32(p))
            for a, w, p in zip(self.amplitude, self.frequency, self.phase, strict=True)
        )
        return x, y

    def slope(self, z: Array) -> tuple[Array, Array]:
        """Derivative of ``offset`` by z."""
        x, y = (
            np.float32(a * w) * np.cos(np.float32(w) * z + np.float32(p))
            for a, w, p in zip(self.amplitude, self.frequency, self.phase, strict=True)
        )
        return x, y


@dataclass(frozen=True)
class Wall:
    """Maps over (z, theta), each padded by a few columns on either side for the seam."""

    radius: Array
    """(rows, columns) inner radius."""
    gradient: Array
    """(rows, columns, 2): derivative of the radius by theta and by z."""
    skin: Bytes
    """(rows, columns, 4): mottling, vessels, mucus, ambient occlusion."""
    relief: Bytes
    """(rows, columns, 3): surface slope around and along the tube (128 is level), wetness."""

    def radius_at(self, theta: Array, z: Array) -> Array:
        """Radius at angles in [0, 2 pi] and ``z``; beyond the ends the last row continues."""
        return _look_up(self.radius, theta, z)

    def gradient_at(self, theta: Array, z: Array) -> Array:
        """Derivatives of the radius, shape (..., 2)."""
        return _look_up(self.gradient, theta, z)

    def skin_at(self, theta: Array, z: Array) -> Bytes:
        """Look of the mucosa, uint8, shape (..., 4)."""
        return _look_up(self.skin, theta, z)

    def relief_at(self, theta: Array, z: Array) -> Bytes:
        """Fine relief of the mucosa, uint8, shape (..., 3)."""
        return _look_up(self.relief, theta, z)


def _look_up(texture: T, theta: Array, z: Array) -> T:
    columns = texture.shape[1] - 2 * _PAD
    u = theta * np.float32(columns / _TWO_PI) + np.float32(_PAD - 0.5)
    v = z * np.float32(texture.shape[0] / LENGTH) - np.float32(0.5)
    found = cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cast(T, found)


def _padded(texture: T) -> T:
    parts = [texture[:, -_PAD:], texture, texture[:, :_PAD]]
    return cast(T, np.ascontiguousarray(np.concatenate(parts, axis=1)))


def make_wall(rng: np.random.Generator, columns: int) -> Wall:
    """A random wall.

    Args:
        rng: source of randomness; the draws do not depend on ``columns``.
        columns: texels around the tube, a power of two of at least 256.
    """
    radius = _make_radius(rng)
    step = _TWO_PI / _RADIUS_COLUMNS
    wrapped = np.concatenate([radius[:, -1:], radius, radius[:, :1]], axis=1)
    by_theta = (wrapped[:, 2:] - wrapped[:, :-2]) / np.float32(2.0 * step)
    by_z = np.gradient(radius, np.float32(step), axis=0).astype(np.float32)
    gradient = np.stack([by_theta, by_z], axis=2)

    rows = 2 * columns
    mottling = 0.6 * fractal_noise(rng, rows, columns, first=4, octaves=6, persistence=0.62)
    blotches = fractal_noise(rng, rows, columns, first=4, octaves=3)
    mottling += 0.5 * blotches
    vessels = draw_vessels(rng, rows, columns, trees=int(rng.integers(20, 60)))
    # Vessels show through in patches, not everywhere.
    visible = np.clip(0.6 + 0.5 * blotches, 0.0, 1.0)
    vessels = vessels * visible * np.float32(rng.uniform(0.1, 1.0))
    mucus = _make_mucus(rng, rows, columns)

    hollow = radius - cv2.blur(radius, (25, 25), borderType=cv2.BORDER_REPLICATE)
    occlusion = np.clip(0.5 - 2.2 * hollow, 0.0, 1.0)
    occlusion = cv2.resize(occlusion, (columns, rows), interpolation=cv2.INTER_LINEAR)

    bump = fractal_noise(rng, rows, columns, first=32, octaves=4, persistence=0.6)
    bump = bump + np.float32(1.2) * mucus - np.float32(0.6) * vessels
    texel = np.float32(_TWO_PI / columns)
    around = (np.roll(bump, -1, axis=1) - np.roll(bump, 1, axis=1)) / (2 * texel)
    along = np.gradient(bump, texel, axis=0).astype(np.float32)
    wetness = fractal_noise(rng, rows, columns, first=8, octaves=4)

    def to_bytes(value: Array, scale: float, centre: float) -> Bytes:
        scaled = value * np.float32(scale) + np.float32(centre)
        return np.asarray(np.clip(scaled, 0, 255).astype(np.uint8))

    skin = np.stack(
        [
            to_bytes(mottling, 40.0, 128.0),
            to_bytes(vessels, 255.0, 0.0),
            to_bytes(mucus, 255.0, 0.0),
            to_bytes(occlusion, 255.0, 0.0),
        ],
        axis=2,
    )
    relief = np.stack(
        [to_bytes(around, 1.6, 128.0), to_bytes(along, 1.6, 128.0), to_bytes(wetness, 50.0, 128.0)],
        axis=2,
    )
    return Wall(
        radius=_padded(radius),
        gradient=_padded(gradient),
        skin=_padded(skin),
        relief=_padded(relief),
    )


def _make_radius(rng: np.random.Generator) -> Array:
    """Radius map with a rounded triangular section, bulging haustra and folds between them."""
    rows = 2 * _RADIUS_COLUMNS
    theta = ((np.arange(_RADIUS_COLUMNS, dtype=np.float32) + 0.5) * (_TWO_PI / _RADIUS_COLUMNS))[
        None
    ]
    z = ((np.arange(rows, dtype=np.float32) + 0.5) * (LENGTH / rows))[:, None]
    triangle = rng.uniform(0.02, 0.10)
    radius = 1.0 + triangle * np.cos(3.0 * theta + rng.uniform(0, _TWO_PI) + 0.15 * z)
    radius = radius + 0.07 * fractal_noise(rng, rows, _RADIUS_COLUMNS, first=4, octaves=3)
    spacing = rng.uniform(0.8, 2.2)
    depth = rng.uniform(0.10, 0.48)
    count = int(LENGTH / spacing) + 2
    for index in range(count):
        centre = (index + rng.uniform(-0.25, 0.25)) * spacing
        crest = (
            centre
            + rng.uniform(0.0, 0.35) * np.cos(theta - rng.uniform(0, _TWO_PI))
            + rng.uniform(0.0, 0.12) * np.cos(2.0 * theta - rng.uniform(0, _TWO_PI))
            + rng.uniform(0.0, 0.06) * np.cos(5.0 * theta - rng.uniform(0, _TWO_PI))
        )
        # Three taeniae interrupt a fold: it is high between them.
        lobe = 0.5 + 0.5 * np.cos(float(rng.integers(1, 4)) * (theta - rng.uniform(0, _TWO_PI)))
        height = depth * rng.uniform(0.5, 1.1) * (0.15 + 0.85 * lobe)
        width = rng.uniform(0.09, 0.2)
        distance = (z - crest) / width
        radius = radius - height / (1.0 + distance * distance) ** 1.5
        radius = radius + 0.35 * height * np.exp(-(((z - crest) / spacing - 0.5) ** 2) * 12.0)
    return np.asarray(np.clip(radius, 0.45, 1.6), dtype=np.float32)


def _make_mucus(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Film, flecks and bubbles in [0, 1]; clean in about half of all scenes."""
    film = fractal_noise(rng, rows, columns, first=8, octaves=5, persistence=0.6)
    amount = rng.uniform(0.9, 3.4)
    mucus = np.clip((film - np.float32(amount)) * 0.9, 0.0, 0.85)
    flecks = int(rng.integers(0, 30)) if rng.random() < 0.4 else 0
    canvas = np.zeros((rows, columns), dtype=np.uint8)
    for _ in range(flecks):
        x, y = rng.random(), rng.random() * 2.0
        axes = 0.003 + 0.012 * rng.random(2)
        turn = rng.random() * 180.0
        cv2.ellipse(
            canvas,
            (round(x * columns), round(y * columns)),
            (max(1, round(axes[0] * columns)), max(1, round(axes[1] * columns))),
            turn,
            0,
            360,
            230,
            -1,
            cv2.LINE_AA,
        )
    bubbles = int(rng.integers(10, 60)) if rng.random() < 0.3 else 0
    centre = rng.random(2) * np.array([1.0, 1.6])
    for _ in range(bubbles):
        x, y = centre + rng.standard_normal(2) * 0.05
        size = 0.004 + 0.009 * rng.random()
        place = (round(x * columns), round(y * columns))
        cv2.circle(canvas, place, max(1, round(size * columns)), 150, 1, cv2.LINE_AA)
    spots = cv2.GaussianBlur(canvas, (0, 0), columns / 900.0).astype(np.float32) / np.float32(255.0)
    return np.asarray(np.maximum(mucus, spots), dtype=np.float32)
