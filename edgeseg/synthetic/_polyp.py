"""Polyps: lobed ellipsoids on the wall, with or without a stalk, as signed distance fields."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["CREASE", "Polyp", "PolypPose", "make_polyp"]

Array = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

_LOBES = 3
CREASE = 0.35
"""Distance over the radius within which a polyp darkens the wall."""


@dataclass(frozen=True)
class Polyp:
    """What does not change with time; lengths in units of the tube's radius."""

    theta: float
    z: float
    radius: float
    axes: tuple[float, float, float]
    """Semi-axes over ``radius``: two along the wall, one away from it."""
    stalk: float
    """Distance of the centre from the wall over ``radius``."""
    stalk_width: float
    """Radius of the stalk over ``radius``; 0 without a stalk."""
    turn: float
    """Rotation about the wall's normal, radians."""
    lean: tuple[float, float]
    """How far a head hangs to the side, along both tangents."""
    sway: tuple[float, float]
    """Amplitude (over ``radius``) and phase of its swing."""
    waves: Array
    """(lobes, 3) wave vectors of the surface's lobes, in units of 1 / radius."""
    phases: Array
    """(lobes,) radians."""
    lobe_height: float
    """Amplitude of the lobes over ``radius``."""
    tint: tuple[float, float, float]
    """Factor on the mucosa's blue, green and red reflectance."""
    pits: float
    """Contrast of the surface pattern."""
    smoothness: float
    """Width over ``radius`` in which it merges with the wall."""

    def pose(self, base: Vector, normal: Vector, time_s: float) -> PolypPose:
        """Place the polyp on the wall at ``base`` with the unit ``normal`` pointing inwards."""
        helper = np.array([0.0, 0.0, 1.0]) if abs(normal[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
        first = np.cross(helper, normal)
        first /= np.linalg.norm(first)
        second = np.cross(normal, first)
        cosine, sine = math.cos(self.turn), math.sin(self.turn)
        u = cosine * first + sine * second
        v = cosine * second - sine * first
        swing = self.sway[0] * math.sin(1.9 * time_s + self.sway[1])
        swing_across = 0.6 * self.sway[0] * math.sin(1.3 * time_s + 2.0 * self.sway[1])
        axis = normal + (self.lean[0] + swing) * u + (self.lean[1] + swing_across) * v
        axis /= np.linalg.norm(axis)
        u = u - axis * (u @ axis)
        u /= np.linalg.norm(u)
        v = np.cross(axis, u)
        pulse = 1.0 + 0.03 * math.sin(2.3 * time_s + self.sway[1])
        return PolypPose(
            polyp=self,
            base=base,
            centre=base + axis * (self.stalk * self.radius),
            frame=np.stack([u, v, axis]),
            radius=self.radius * pulse,
        )


@dataclass(frozen=True)
class PolypPose:
    """A polyp at one moment."""

    polyp: Polyp
    base: Vector
    centre: Vector
    frame: Vector
    """Rows: two tangents and the axis, world coordinates."""
    radius: float

    @property
    def bounds(self) -> tuple[Vector, float]:
        """Centre and radius of a sphere that holds the polyp."""
        middle = 0.5 * (self.base + self.centre) if self.polyp.stalk_width else self.centre
        reach = (
            0.5 * float(np.linalg.norm(self.centre - self.base)) if self.polyp.stalk_width else 0.0
        )
        margin = _LOBES * self.polyp.lobe_height + CREASE
        return middle, reach + self.radius * (max(self.polyp.axes) + margin)

    def local(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """World coordinates in the polyp's frame, over its radius."""
        centre = self.centre.astype(np.float32)
        dx, dy, dz = x - centre[0], y - centre[1], z - centre[2]
        rows = (self.frame / self.radius).astype(np.float32)
        a, b, c = (row[0] * dx + row[1] * dy + row[2] * dz for row in rows)
        return a, b, c

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Approximate signed distance, negative inside; same shape as the coordinates."""
        a, b, c = self.local(x, y, z)
        ax, ay, az = (np.float32(1.0 / s) for s in self.polyp.axes)
        k0 = np.sqrt((a * ax) ** 2 + (b * ay) ** 2 + (c * az) ** 2)
        k1 = np.sqrt((a * ax * ax) ** 2 + (b * ay * ay) ** 2 + (c * az * az) ** 2)
        distance = k0 * (k0 - np.float32(1.0)) / np.maximum(k1, np.float32(1e-3))
        for wave, phase in zip(self.polyp.waves, self.polyp.phases, strict=True):
            lobe = np.sin(wave[0] * a + wave[1] * b + wave[2] * c + phase)
            distance -= np.float32(self.polyp.lobe_height) * lobe
        if self.polyp.stalk_width:
            # Capsule from the wall (at -stalk along the axis) to the centre.
            along = np.clip(-c / np.float32(self.polyp.stalk), 0.0, 1.0) * np.float32(
                self.polyp.stalk
            )
            stem = np.sqrt(a * a + b * b + (c + along) ** 2) - np.float32(self.polyp.stalk_width)
            blend = np.clip(np.float32(0.5) + (distance - stem) * np.float32(1.6), 0.0, 1.0)
            distance = distance + (stem - distance) * blend
            distance -= np.float32(0.3) * blend * (np.float32(1.0) - blend)
        return np.asarray(distance * np.float32(self.radius))

    def normal(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Outward unit normal of the level set through each point.

        Differences over the corners of a tetrahedron: four distances instead of six.
        """
        h = np.float32(0.04 * self.radius)
        d0 = self.distance(x + h, y + h, z + h)
        d1 = self.distance(x + h, y - h, z - h)
        d2 = self.distance(x - h, y + h, z - h)
        d3 = self.distance(x - h, y - h, z + h)
        nx, ny, nz = d0 + d1 - d2 - d3, d0 + d2 - d1 - d3, d0 + d3 - d1 - d2
        scale = np.float32(1.0) / np.maximum(np.sqrt(nx * nx + ny * ny + nz * nz), np.float32(1e-6))
        return nx * scale, ny * scale, nz * scale


def make_polyp(rng: np.random.Generator, theta: float, z: float, radius: float) -> Polyp:
    """A random polyp at a place on the wall: sessile (half of all), on a stalk, or flat."""
    kind = rng.random()
    stretch = rng.uniform(0.8, 1.35)
    lean = (0.0, 0.0)
    sway = 0.02
    stalk_width = 0.0
    smoothness = rng.uniform(0.15, 0.45)
    if kind < 0.5:
        axes = (stretch, 1.0 / stretch, rng.uniform(0.7, 1.0))
        stalk = rng.uniform(0.15, 0.55)
    elif kind < 0.8:
        axes = (stretch, 1.0 / stretch, rng.uniform(0.85, 1.2))
        stalk = rng.uniform(1.1, 1.9)
        stalk_width = rng.uniform(0.28, 0.45)
        direction = rng.uniform(0.0, 2.0 * math.pi)
        amount = rng.uniform(0.0, 0.8)
        lean = (amount * math.cos(direction), amount * math.sin(direction))
        sway = rng.uniform(0.05, 0.18)
    else:
        axes = (1.25 * stretch, 1.25 / stretch, rng.uniform(0.3, 0.45))
        stalk = rng.uniform(0.0, 0.1)
        smoothness = rng.uniform(0.1, 0.2)
    directions = rng.standard_normal((_LOBES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    waves = directions * rng.uniform(1.3, 4.2, (_LOBES, 1))
    redder = rng.uniform(-1.0, 1.0)
    if redder > -0.3:
        tint = (0.84 - 0.16 * redder, 0.79 - 0.22 * redder, 1.0 - 0.05 * redder)
    else:
        tint = (1.0 - 0.3 * redder, 1.0 - 0.25 * redder, 1.05)
    return Polyp(
        theta=theta,
        z=z,
        radius=radius,
        axes=axes,
        stalk=stalk,
        stalk_width=stalk_width,
        turn=rng.uniform(0.0, 2.0 * math.pi),
        lean=lean,
        sway=(sway, rng.uniform(0.0, 2.0 * math.pi)),
        waves=waves.astype(np.float32),
        phases=rng.uniform(0.0, 2.0 * math.pi, _LOBES).astype(np.float32),
        lobe_height=rng.uniform(0.04, 0.19),
        tint=tint,
        pits=rng.uniform(0.0, 1.0) ** 1.5,
        smoothness=smoothness,
    )
