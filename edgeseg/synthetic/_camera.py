"""The endoscope: a wide-angle camera that sways, its visible field, and its sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Camera", "Optics", "field_of_view", "make_camera", "make_optics", "view_directions"]

Array = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

_HALF_DIAGONAL_RAD = math.radians(66.0)


@dataclass(frozen=True)
class Camera:
    """Mean pose and sway; positions in units of the tube's radius, angles in radians."""

    position: Vector
    """x, y relative to the tube's axis, and z."""
    angles: Vector
    """Yaw, pitch, roll."""
    position_sway: Vector
    angle_sway: Vector
    rates: Vector
    """(6, 2) angular frequencies in rad/s of the two sine waves of each coordinate."""
    phases: Vector

    def pose(self, time_s: float) -> tuple[Vector, Vector]:
        """Position and rotation matrix (columns: the camera's right, down and forward axes)."""
        waves = np.sin(self.rates * time_s + self.phases) @ np.array([0.7, 0.3])
        position = self.position + self.position_sway * waves[:3]
        yaw, pitch, roll = self.angles + self.angle_sway * waves[3:]
        return position, _rotation(yaw, pitch, roll)

    def turn_rate(self, time_s: float) -> tuple[float, float]:
        """Angular velocity about the vertical and horizontal axis, rad/s."""
        speeds = (np.cos(self.rates * time_s + self.phases) * self.rates) @ np.array([0.7, 0.3])
        yaw, pitch = (self.angle_sway * speeds[3:])[:2]
        return float(yaw), float(pitch)


def _rotation(yaw: float, pitch: float, roll: float) -> Vector:
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
    about_z = np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]])
    return np.asarray(about_y @ about_x @ about_z)


def make_camera(rng: np.random.Generator) -> Camera:
    """A random pose: mostly along the lumen, sometimes turned towards the wall."""
    direction = rng.uniform(0.0, 2.0 * math.pi)
    offset = rng.uniform(0.0, 0.35)
    tilt = rng.uniform(0.0, 0.55) if rng.random() < 0.7 else rng.uniform(0.5, 1.0)
    heading = rng.uniform(0.0, 2.0 * math.pi)
    return Camera(
        position=np.array([offset * math.cos(direction), offset * math.sin(direction), 2.0]),
        angles=np.array(
            [tilt * math.cos(heading), tilt * math.sin(heading), rng.uniform(-math.pi, math.pi)]
        ),
        position_sway=np.array([0.07, 0.07, rng.uniform(0.1, 0.35)]),
        angle_sway=np.array([rng.uniform(0.05, 0.16), rng.uniform(0.05, 0.16), 0.08]),
        rates=rng.uniform(0.5, 1.3, (6, 2)) * np.array([1.0, 2.1]),
        phases=rng.uniform(0.0, 2.0 * math.pi, (6, 2)),
    )


@dataclass(frozen=True)
class Optics:
    """Everything between the mucosa and the file."""

    light: tuple[float, float, float]
    """Offset of the lamp from the lens (right, down, forward), tube radii."""
    cast: tuple[float, float, float]
    """Gain of blue, green and red."""
    exposure: float
    """Mean square root of the exposed scene; larger is brighter."""
    scatter: float
    """Share of light that reaches a place by way of other walls."""
    focus_blur: float
    """Standard deviation of the lens blur, in thousandths of the frame's height."""
    shutter_s: float
    sharpening: float
    noise: float
    """Standard deviation of the sensor noise, grey levels of 255."""
    gloss: float
    """How large a share of the surface gives highlights."""
    field: str
    """``circle``, ``octagon``, ``rounded`` or ``full``."""
    field_size: float


def make_optics(rng: np.random.Generator) -> Optics:
    """A random endoscope."""
    warm = rng.uniform(-0.08, 0.10)
    fields = ("circle", "octagon", "octagon", "rounded", "full")
    return Optics(
        light=(rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12), 0.0),
        cast=(1.0 - warm + rng.uniform(-0.04, 0.04), 1.0 + rng.uniform(-0.04, 0.04), 1.0 + warm),
        exposure=rng.uniform(0.42, 0.62),
        scatter=rng.uniform(0.02, 0.07),
        focus_blur=abs(rng.standard_normal()) * 1.6,
        shutter_s=rng.uniform(0.005, 0.025),
        sharpening=rng.uniform(0.0, 0.9),
        noise=rng.uniform(0.6, 3.2),
        gloss=rng.uniform(0.2, 0.85),
        field=fields[int(rng.integers(len(fields)))],
        field_size=rng.uniform(0.94, 1.03),
    )


def view_directions(height_px: int, width_px: int, stride: int = 1) -> tuple[Array, float]:
    """Unit rays of an equidistant fisheye lens in camera axes.

    Args:
        height_px: height of the frame.
        width_px: width of the frame.
        stride: one ray for each block of ``stride`` x ``stride`` pixels, at its centre.

    Returns:
        Rays, float32 (3, rows, columns), and the focal length in pixels of the frame per radian.
    """
    focal = 0.5 * math.hypot(height_px, width_px) / _HALF_DIAGONAL_RAD
    rows, columns = -(-height_px // stride), -(-width_px // stride)
    # Blocks are stretched to cover the frame exactly, as cv2.resize will do on the way back.
    y = ((np.arange(rows) + 0.5) * (height_px / rows) - 0.5 * height_px) / focal
    x = ((np.arange(columns) + 0.5) * (width_px / columns) - 0.5 * width_px) / focal
    angle = np.hypot(y[:, None], x[None, :])
    ratio = np.sinc(angle / math.pi)
    rays = np.stack([x[None, :] * ratio, y[:, None] * ratio, np.cos(angle)])
    return rays.astype(np.float32), focal


def field_of_view(optics: Optics, height_px: int, width_px: int) -> Array:
    """What the endoscope's mask lets through: float32 (height, width) in [0, 1], edges soft."""
    y = np.abs(np.arange(height_px, dtype=np.float32) + 0.5 - 0.5 * height_px)[:, None]
    x = np.abs(np.arange(width_px, dtype=np.float32) + 0.5 - 0.5 * width_px)[None, :]
    short = 0.5 * min(height_px, width_px)
    if optics.field == "circle":
        inside = short * 1.06 * optics.field_size - np.hypot(x, y)
    elif optics.field == "octagon":
        wide = 0.5 * width_px * min(1.0, optics.field_size)
        tall = 0.5 * height_px * min(1.0, optics.field_size)
        corner = (0.5 * (width_px + height_px) * 0.74 * optics.field_size - x - y) / math.sqrt(2.0)
        inside = np.minimum(np.minimum(wide - x, tall - y), corner)
    elif optics.field == "rounded":
        size = 0.97 * optics.field_size
        radius = 0.35 * short
        dx = np.maximum(x - (0.5 * width_px * size - radius), 0.0)
        dy = np.maximum(y - (0.5 * height_px * size - radius), 0.0)
        inside = radius - np.hypot(dx, dy)
    else:
        inside = np.full((height_px, width_px), 1e3, dtype=np.float32)
    softness = max(0.6, short / 160.0)
    return np.asarray(np.clip(inside / softness + 0.5, 0.0, 1.0), dtype=np.float32)


def motion_kernel(shift_x_px: float, shift_y_px: float) -> Array | None:
    """Line kernel for a blur along a shift, or None if it is under a pixel."""
    length = math.hypot(shift_x_px, shift_y_px)
    if length < 1.0:
        return None
    half = math.ceil(length / 2)
    size = 2 * half + 1
    kernel = np.zeros((size, size), dtype=np.uint8)
    bits = 6
    ends = [
        (
            round((half + sign * 0.5 * shift_x_px) * (1 << bits)),
            round((half + sign * 0.5 * shift_y_px) * (1 << bits)),
        )
        for sign in (-1.0, 1.0)
    ]
    cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, bits)
    weights = kernel.astype(np.float32)
    return np.asarray(weights / weights.sum(), dtype=np.float32)
