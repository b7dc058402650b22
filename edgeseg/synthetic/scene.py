"""A stretch of bowel seen through an endoscope, rendered at any moment.

The geometry is a signed distance field (wall, folds, polyps), found by sphere tracing (Hart 1996,
doi:10.1007/s003710050084) on a grid of about 256 rays for the shorter side; polyps merge with the
wall by the polynomial smooth minimum. Reflectance, relief and sensor are added at full resolution.
The lamp sits beside the lens, so brightness falls with the square of the distance and the lumen is
dark.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.synthetic._camera import (
    field_of_view,
    make_camera,
    make_optics,
    motion_kernel,
    view_directions,
)
from edgeseg.synthetic._noise import fractal_noise
from edgeseg.synthetic._polyp import CREASE, Polyp, PolypPose, make_polyp
from edgeseg.synthetic._wall import Centreline, make_wall

__all__ = ["Scene"]

Array = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Frame = npt.NDArray[np.uint8]

_MINIMUM_PX = 16
_MAXIMUM_PX = 4096
_FARTHEST = 7.5
_COARSE = 4
_PACKED = 256
_GLANCE = 48
"""Rays a side when a view is only glanced at."""
_TWO_PI = 2.0 * math.pi
# Planes of what is known of the surface that each ray meets.
_DEPTH, _NORMAL, _TINT, _WEIGHT = 0, slice(1, 4), slice(4, 7), 7


@dataclass(frozen=True)
class _Moment:
    """Everything that depends on time alone."""

    origin: Vector
    rotation: Vector
    centreline: Centreline
    wave_phase: float
    polyps: tuple[PolypPose, ...]


class Scene:
    """One procedural scene; everything in it follows from ``seed``.

    The same seed shows the same scene at every size, and the same pixels wherever numpy's and
    OpenCV's float32 functions round alike (a grey level may differ between processors).

    Args:
        seed: not negative.
        height_px: height of the frames, 16 to 4096.
        width_px: width of the frames, 16 to 4096.
        polyps: how many to place, 0 to 8; None draws it (none in 1 of 20 scenes, mostly 1, at most
            3). Fewer are placed where the view has no room for them.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self, seed: int, height_px: int = 480, width_px: int = 640, *, polyps: int | None = None
    ) -> None:
        for name, size in (("height_px", height_px), ("width_px", width_px)):
            if not _MINIMUM_PX <= size <= _MAXIMUM_PX:
                raise InputError(f"{name} must be {_MINIMUM_PX} to {_MAXIMUM_PX}, got {size}")
        if seed < 0:
            raise InputError(f"seed must not be negative, got {seed}")
        if polyps is not None and not 0 <= polyps <= 8:
            raise InputError(f"polyps must be 0 to 8, got {polyps}")
        self.seed = seed
        self.height_px = height_px
        self.width_px = width_px
        # One stream a topic: a scene without polyps shows the same wall.
        streams = [
            np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(5)
        ]
        wall_rng, camera_rng, optics_rng, polyp_rng, colour_rng = streams
        self._stride = max(1, round(min(height_px, width_px) / 256))
        self._wall = make_wall(wall_rng, 512 if min(height_px, width_px) <= 320 else 1024)
        self._bend = wall_rng.uniform(0.15, 0.6, 2)
        self._bend_rate = wall_rng.uniform(0.35, 0.75, 2)
        self._bend_phase = wall_rng.uniform(0.0, _TWO_PI, 2)
        self._squeeze = wall_rng.uniform(0.01, 0.045)
        self._camera = make_camera(camera_rng)
        self._optics = make_optics(optics_rng)
        self._draw_colours(colour_rng)
        self._field = field_of_view(self._optics, height_px, width_px)
        self._field_planes = cv2.merge([self._field] * 3)
        self._rays, self._focal_px = view_directions(height_px, width_px, self._stride)
        self._coarse_rays, _ = view_directions(height_px, width_px, self._stride * _COARSE)
        self._full_rays = (
            self._rays if self._stride == 1 else view_directions(height_px, width_px)[0]
        )
        self._grain = optics_rng.standard_normal((256, 256, 3), dtype=np.float32)
        self._polyps: tuple[Polyp, ...] = ()
        self._polyps = self._place_polyps(polyp_rng, polyps)

    @property
    def polyp_count(self) -> int:
        """Polyps in the scene, whether or not one is in view."""
        return len(self._polyps)

    def render(self, time_s: float) -> tuple[Frame, Frame]:
        """The view at a moment.

        Args:
            time_s: any finite time in seconds; neighbouring times give neighbouring views.

        Returns:
            The frame, uint8 BGR (height, width, 3), and the mask of the visible polyps, uint8
            (height, width), 0 or 255.

        Raises:
            InputError: ``time_s`` is not finite.
        """
        if not math.isfinite(time_s):
            raise InputError(f"time_s must be finite, got {time_s}")
        moment = self._moment(time_s)
        rays = _rotate(moment.rotation, self._rays)
        depth = self._trace(moment, rays)
        surface = self._surface(moment, rays, depth)
        if self._stride > 1:
            size = (self.width_px, self.height_px)
            surface = np.stack(
                [cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in surface]
            )
        linear = self._shade(moment, surface)
        frame = self._expose(linear, time_s)
        return frame, self._mask(surface[_WEIGHT])

    def _mask(self, weight: Array) -> Frame:
        mask = ((weight > 0.5) & (self._field > 0.5)).astype(np.uint8) * np.uint8(255)
        # Rays that graze a fold leave slivers that nobody would outline.
        size = 2 * (min(self.height_px, self.width_px) // 200) + 3
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, element), dtype=np.uint8)

    def _draw_colours(self, rng: np.random.Generator) -> None:
        # Linear reflectances of mucosa (blue, green, red), from pale pink to brownish red.
        pale = np.array([0.25, 0.31, 0.84])
        orange = np.array([0.08, 0.22, 0.84])
        red = np.array([0.09, 0.11, 0.68])
        weights = rng.dirichlet([1.1, 1.0, 1.2])
        self._mucosa = (weights @ np.stack([pale, orange, red])).astype(np.float32)
        self._mottle = np.float32(rng.uniform(0.06, 0.2))
        mucus = rng.uniform(0.0, 1.0)
        self._mucus = (
            (1 - mucus) * np.array([0.08, 0.33, 0.55]) + mucus * np.array([0.4, 0.65, 0.82])
        ).astype(np.float32)
        pattern = fractal_noise(rng, 512, 256, first=16, octaves=2, persistence=0.5)
        # Bands around the zero crossings of noise look like the crypts of an adenoma.
        crypts = np.exp(-(pattern * pattern) * np.float32(9.0))
        relief = fractal_noise(rng, 512, 256, first=8, octaves=4, persistence=0.6)
        ripple = fractal_noise(rng, 512, 256, first=16, octaves=4, persistence=0.6)
        self._polyp_texture = np.ascontiguousarray(np.stack([crypts, relief, ripple], axis=2)[:256])

    def _moment(self, time_s: float) -> _Moment:
        drift = 0.12 * np.sin(np.array([0.7, 0.9]) * time_s + self._bend_phase[::-1])
        x, y = (
            (float(a), float(w), float(p))
            for a, w, p in zip(self._bend, self._bend_rate, self._bend_phase + drift, strict=True)
        )
        centreline = Centreline((x[0], y[0]), (x[1], y[1]), (x[2], y[2]))
        position, rotation = self._camera.pose(time_s)
        at = np.full((1, 1), position[2], dtype=np.float32)
        cx, cy = centreline.offset(at)
        sx, sy = centreline.slope(at)
        origin = position + np.array([cx.item(), cy.item(), 0.0])
        # The scope follows the bowel: its mean direction is the axis' direction.
        along = np.array([sx.item(), sy.item(), 1.0])
        along /= np.linalg.norm(along)
        right = np.cross(np.array([0.0, 1.0, 0.0]), along)
        right /= np.linalg.norm(right)
        basis = np.stack([right, np.cross(along, right), along], axis=1)
        moment = _Moment(origin, basis @ rotation, centreline, 1.1 * time_s, ())
        poses = tuple(self._pose(moment, polyp, time_s) for polyp in self._polyps)
        return _Moment(origin, moment.rotation, centreline, moment.wave_phase, poses)

    def _pose(self, moment: _Moment, polyp: Polyp, time_s: float) -> PolypPose:
        theta = np.full((1, 1), polyp.theta, dtype=np.float32)
        z = np.full((1, 1), polyp.z, dtype=np.float32)
        factor = self._breathing(moment, z)
        radius = float((self._wall.radius_at(theta, z) * factor).item())
        by_theta, by_z = (float(v) for v in self._wall.gradient_at(theta, z).reshape(2))
        cx, cy = (float(v.item()) for v in moment.centreline.offset(z))
        outward = np.array([math.cos(polyp.theta), math.sin(polyp.theta), 0.0])
        around = np.array([-outward[1], outward[0], 0.0])
        base = np.array([cx, cy, polyp.z]) + radius * outward
        # Half way between the fold's slope and the tube's axis: polyps stand up from folds.
        normal = -outward + 0.5 * (by_theta / radius) * around + np.array([0.0, 0.0, 0.5 * by_z])
        return polyp.pose(base, normal / np.linalg.norm(normal), time_s)

    def _breathing(self, moment: _Moment, z: Array) -> Array:
        phase = np.float32(1.7) * z - np.float32(moment.wave_phase)
        return np.asarray(np.float32(1.0) + np.float32(self._squeeze) * np.sin(phase))

    def _wall_distance(self, moment: _Moment, x: Array, y: Array, z: Array) -> Array:
        """Radial distance to the wall, positive in the lumen."""
        cx, cy = moment.centreline.offset(z)
        rho, theta = cv2.cartToPolar(x - cx, y - cy)
        return np.asarray(self._wall.radius_at(theta, z) * self._breathing(moment, z) - rho)

    def _trace(self, moment: _Moment, rays: Array) -> Array:
        """Distance along each ray to the first surface, float32, shape of the ray grid."""
        coarse_rays = _rotate(moment.rotation, self._coarse_rays)
        start = np.full(coarse_rays.shape[1:], 0.05, dtype=np.float32)
        coarse, _ = self._march(moment, coarse_rays, start, steps=36, factor=0.35)
        # The nearest neighbour's distance is a safe start for the rays between.
        nearest = cv2.erode(coarse, np.ones((3, 3), dtype=np.uint8))
        rows, columns = rays.shape[1:]
        start = cv2.resize(nearest, (columns, rows), interpolation=cv2.INTER_LINEAR)
        depth, distance = self._march(moment, rays, start * np.float32(0.98), steps=6, factor=0.5)
        # Those that passed an edge and have far to go are followed alone.
        open_rays = np.flatnonzero((np.abs(distance) > 0.01) & (depth < _FARTHEST))
        if open_rays.size:
            packed = np.resize(open_rays, (-(-open_rays.size // _PACKED), _PACKED))
            followed = rays.reshape(3, -1)[:, packed]
            start = depth.reshape(-1)[packed]
            end, _ = self._march(moment, followed, start, steps=22, factor=0.45)
            depth.reshape(-1)[packed] = end
        return depth

    def _march(
        self, moment: _Moment, rays: Array, start: Array, *, steps: int, factor: float
    ) -> tuple[Array, Array]:
        """Distance along each ray after ``steps``; how far from a surface the last one began."""
        depth = start.copy()
        distance = depth
        windows = [(pose, _window(pose, moment.origin, rays)) for pose in moment.polyps]
        for _ in range(steps):
            x, y, z = _points(moment, rays, depth)
            distance = self._wall_distance(moment, x, y, z)
            for pose, window in windows:
                if window is not None:
                    near = pose.distance(x[window], y[window], z[window])
                    merged, _ = _smooth_minimum(distance[window], near, _merge_width(pose))
                    distance[window] = merged
            depth += np.clip(distance * np.float32(factor), np.float32(-0.3), np.float32(0.5))
            np.clip(depth, 0.02, _FARTHEST, out=depth)
        return depth, distance

    def _surface(self, moment: _Moment, rays: Array, depth: Array) -> Array:
        """What each ray meets.

        Returns:
            float32 (8, rows, columns): depth; unit normal; reflectance factor of blue, green and
            red; the polyps' weight in [0, 1].
        """
        x, y, z = _points(moment, rays, depth)
        cx, cy = moment.centreline.offset(z)
        sx, sy = moment.centreline.slope(z)
        rho, theta = cv2.cartToPolar(x - cx, y - cy)
        distance = self._wall.radius_at(theta, z) * self._breathing(moment, z) - rho
        by_theta, by_z = cv2.split(self._wall.gradient_at(theta, z))
        inverse = np.float32(1.0) / np.maximum(rho, np.float32(1e-3))
        ex, ey = (x - cx) * inverse, (y - cy) * inverse
        turn = by_theta * inverse
        surface = np.empty((8, *depth.shape), dtype=np.float32)
        surface[_DEPTH] = depth
        surface[_NORMAL] = _unit(-ex - turn * ey, -ey + turn * ex, by_z + ex * sx + ey * sy)
        surface[_TINT] = 1.0
        surface[_WEIGHT] = 0.0
        for pose in moment.polyps:
            window = _window(pose, moment.origin, rays)
            if window is None:
                continue
            at = (x[window], y[window], z[window])
            near = pose.distance(*at)
            merged, weight = _smooth_minimum(distance[window], near, _merge_width(pose))
            part = surface[:, window[0], window[1]]
            self._paint_polyp(pose, at, weight, part)
            # Little light reaches the crease between polyp and wall.
            gap = np.clip(near / np.float32(CREASE * pose.radius), 0.0, 1.0) - np.float32(1.0)
            part[_TINT] *= np.float32(1.0) - np.float32(0.4) * gap * gap * (
                np.float32(1.0) - weight
            )
            distance[window] = merged
        return surface

    def _paint_polyp(
        self, pose: PolypPose, at: tuple[Array, Array, Array], weight: Array, part: Array
    ) -> None:
        a, b, c = pose.local(*at)
        polyp = pose.polyp
        scale = np.float32(70.0)
        u = (a + np.float32(0.4) * c) * scale + np.float32(128.0 + 20.0 * polyp.turn)
        v = (b - np.float32(0.4) * c) * scale + np.float32(128.0)
        crypts, relief, ripple = cv2.split(
            cv2.remap(
                self._polyp_texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
            )
        )
        own = pose.normal(*at)
        rest = np.float32(1.0) - weight
        u_axis, v_axis = (np.float32(0.09) * axis.astype(np.float32) for axis in pose.frame[:2])
        normal = (
            part[1 + i] * rest + (own[i] + relief * u_axis[i] + ripple * v_axis[i]) * weight
            for i in range(3)
        )
        part[_NORMAL] = _unit(*normal)
        shade = np.float32(1.0) + np.float32(0.07) * relief
        shade -= np.float32(0.5 * polyp.pits) * (crypts - np.float32(0.45))
        np.maximum(shade, np.float32(0.3), out=shade)
        factor = np.asarray(polyp.tint, dtype=np.float32)[:, None, None]
        part[_TINT] = part[_TINT] * rest + shade * weight * factor
        part[_WEIGHT] += (np.float32(1.0) - part[_WEIGHT]) * weight

    def _shade(self, moment: _Moment, surface: Array) -> Array:
        """Linear light before exposure, float32 (3, height, width): blue, green, red."""
        rays = _rotate(moment.rotation, self._full_rays)
        depth, weight = surface[_DEPTH], surface[_WEIGHT]
        x, y, z = _points(moment, rays, depth)
        cx, cy = moment.centreline.offset(z)
        rho, theta = cv2.cartToPolar(x - cx, y - cy)
        skin = [plane.astype(np.float32) for plane in cv2.split(self._wall.skin_at(theta, z))]
        relief = [plane.astype(np.float32) for plane in cv2.split(self._wall.relief_at(theta, z))]
        bare = np.float32(1.0) - weight

        lamp = (moment.rotation @ np.array(self._optics.light)).astype(np.float32)
        lx, ly, lz = (lamp[i] - depth * rays[i] for i in range(3))
        squared = lx * lx + ly * ly + lz * lz
        reach = np.float32(1.0) / np.sqrt(squared)
        forward = (-moment.rotation[:, 2]).astype(np.float32)
        beam = (lx * forward[0] + ly * forward[1] + lz * forward[2]) * reach
        beam = np.float32(0.35) + np.float32(0.65) * np.maximum(beam, 0.0)
        falloff = beam / (squared + np.float32(0.06))

        nx, ny, nz = surface[_NORMAL]
        smooth = (nx * lx + ny * ly + nz * lz) * reach
        # The relief tilts the normal in the wall's two tangent directions.
        tangent = (x * ly - y * lx - cx * ly + cy * lx) * reach / np.maximum(rho, np.float32(1e-3))
        around = (relief[0] - np.float32(128.0)) * tangent
        along = (relief[1] - np.float32(128.0)) * (lz * reach)
        # Relief that is finer than a pixel far away would only sparkle there.
        tilt = (around + along) * bare * np.minimum(np.float32(1.1) / depth, np.float32(1.0))
        matt = smooth + tilt * np.float32(0.0025)
        # Light enters the mucosa and leaves it elsewhere: what is turned away is not black.
        diffuse = np.float32(0.22) + np.float32(0.78) * np.maximum(matt, 0.0)
        hollow = np.float32(0.4) + skin[3] * np.float32(0.6 / 255.0)
        hollow += (np.float32(1.0) - hollow) * weight
        received = diffuse * falloff * hollow

        mottle = (skin[0] - np.float32(128.0)) * (bare * (self._mottle / np.float32(40.0)))
        tone = np.maximum(np.float32(1.0) + mottle, np.float32(0.2))
        vessel = skin[1] * (bare * np.float32(1.0 / 255.0))
        film = skin[2] * (bare * np.float32(0.8 / 255.0))
        scattered = np.float32(self._optics.scatter) * np.exp(depth * np.float32(-0.35))

        # Wet mucosa mirrors the lamp where it faces it, in patches.
        wet = (relief[2] - np.float32(128.0)) * np.float32(0.0006) + weight * np.float32(0.009)
        mirror = np.minimum(smooth, 1.0) - np.abs(tilt) * np.float32(0.0022)
        limit = np.float32(1.003 - 0.02 * self._optics.gloss)
        glint = np.clip((mirror + wet - limit) * np.float32(1.0 / 0.009), 0.0, 1.0)
        sheen = np.maximum(smooth, 0.0) ** 16 * np.float32(0.04)
        highlight = (glint * np.float32(1.6) + sheen) * np.minimum(falloff, np.float32(6.0))
        highlight = cv2.GaussianBlur(highlight, (0, 0), 0.6 + self.height_px / 900.0)

        light = np.empty((3, *depth.shape), dtype=np.float32)
        for i, absorbed in enumerate((0.6, 0.7, 0.3)):
            albedo = surface[_TINT][i] * tone * self._mucosa[i]
            albedo *= np.float32(1.0) - vessel * np.float32(absorbed)
            albedo += (self._mucus[i] - albedo) * film
            # What arrives from afar has met the red wall more often.
            fading = 0.22 * math.log(float(self._mucosa[2] / self._mucosa[i]))
            light[i] = received if i == 2 else received * np.exp(depth * np.float32(-fading))
            light[i] = albedo * (light[i] + albedo * scattered) + highlight
        return light

    def _expose(self, linear: Array, time_s: float) -> Frame:
        optics = self._optics
        view = self._field[::4, ::4]
        sample = np.sqrt(np.minimum(linear[1, ::4, ::4], 1.5))
        mean = float((sample * view).sum() / max(float(view.sum()), 1.0))
        gain = (optics.exposure / max(mean, 1e-3)) ** 2
        planes = [
            np.sqrt(np.float32(1.0) - np.exp(plane * np.float32(-gain * cast)))
            for plane, cast in zip(linear, optics.cast, strict=True)
        ]
        image = cv2.merge(planes) * np.float32(255.0)
        sigma = optics.focus_blur * 1e-3 * self.height_px
        if sigma > 0.35:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        yaw, pitch = self._camera.turn_rate(time_s)
        shift = self._focal_px * optics.shutter_s
        kernel = motion_kernel(-yaw * shift, pitch * shift)
        if kernel is not None:
            image = cv2.filter2D(image, -1, kernel)
        if optics.sharpening > 0.2:
            soft = cv2.GaussianBlur(image, (0, 0), 1.0 + self.height_px / 500.0)
            image += (image - soft) * np.float32(optics.sharpening)
        image += self._noise(time_s) * np.float32(optics.noise)
        image *= self._field_planes
        return np.asarray(np.clip(image + np.float32(0.5), 0.0, 255.0).astype(np.uint8))

    def _noise(self, time_s: float) -> Array:
        """A crop of the grain tile, another one for each millisecond."""
        key = [self.seed, round(time_s * 1000.0) & 0xFFFFFFFF]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
        dy, dx = (int(v) for v in rng.integers(0, 256, 2))
        tile = np.roll(self._grain, (dy, dx), axis=(0, 1))
        repeats = (-(-self.height_px // 256), -(-self.width_px // 256), 1)
        return np.tile(tile, repeats)[: self.height_px, : self.width_px]

    def _place_polyps(self, rng: np.random.Generator, count: int | None) -> tuple[Polyp, ...]:
        """Attach polyps where rays of the first view meet the wall, so that each is in view."""
        draw = rng.random()
        if count is None:
            count = int(np.searchsorted([0.05, 0.7, 0.92], draw, side="right"))
        moment = self._moment(0.0)
        placed: list[Polyp] = []
        taken: list[tuple[Vector, float]] = []
        for _ in range(60):
            if len(placed) == count:
                break
            angle, turn = rng.uniform(0.0, 0.75), rng.uniform(0.0, _TWO_PI)
            apparent = math.exp(rng.uniform(math.log(0.12), math.log(0.6)))
            look = np.array(
                [
                    math.sin(angle) * math.cos(turn),
                    math.sin(angle) * math.sin(turn),
                    math.cos(angle),
                ]
            )
            shape_rng = np.random.Generator(np.random.PCG64(rng.integers(1 << 32)))
            ray = (moment.rotation @ look).astype(np.float32)
            start = np.full((1, 1), 0.05, dtype=np.float32)
            end, _ = self._march(moment, ray.reshape(3, 1, 1), start, steps=60, factor=0.3)
            depth = end.item()
            if not 0.5 < depth < 3.5:
                continue
            if any(math.acos(float(np.clip(look @ d, -1, 1))) < apparent + a for d, a in taken):
                continue
            radius = min(max(math.tan(apparent) * depth, 0.07), 0.55, 0.48 * depth)
            point = moment.origin + depth * ray.astype(np.float64)
            at = np.full((1, 1), point[2], dtype=np.float32)
            cx, cy = (float(v.item()) for v in moment.centreline.offset(at))
            theta = math.atan2(point[1] - cy, point[0] - cx) % _TWO_PI
            polyp = make_polyp(shape_rng, theta, float(point[2]), radius)
            if self._stays_clear(polyp) and self._is_visible(moment, polyp):
                placed.append(polyp)
                taken.append((look, apparent))
        return tuple(placed)

    def _stays_clear(self, polyp: Polyp) -> bool:
        """Whether the camera never touches the polyp, as far as half a minute tells."""
        for time_s in range(0, 30, 2):
            moment = self._moment(float(time_s))
            centre, radius = self._pose(moment, polyp, float(time_s)).bounds
            if np.linalg.norm(centre - moment.origin) < radius + 0.12:
                return False
        return True

    def _is_visible(self, moment: _Moment, polyp: Polyp) -> bool:
        """Whether the polyp fills at least 1 % of the view, not hidden behind a fold."""
        view, _ = view_directions(_GLANCE, _GLANCE)
        rays = _rotate(moment.rotation, view)
        pose = self._pose(moment, polyp, 0.0)
        window = _window(pose, moment.origin, rays)
        if window is None:
            return False
        rays = np.ascontiguousarray(rays[:, window[0], window[1]])
        start = np.full(rays.shape[1:], 0.05, dtype=np.float32)
        with_polyp = dataclasses.replace(moment, polyps=(pose,))
        depth, _ = self._march(with_polyp, rays, start, steps=40, factor=0.4)
        x, y, z = _points(moment, rays, depth)
        wall = self._wall_distance(moment, x, y, z)
        _, weight = _smooth_minimum(wall, pose.distance(x, y, z), _merge_width(pose))
        return int(np.count_nonzero(weight > 0.5)) >= 0.01 * _GLANCE * _GLANCE


def _rotate(rotation: Vector, rays: Array) -> Array:
    flat = rotation.astype(np.float32) @ rays.reshape(3, -1)
    return np.asarray(flat.reshape(rays.shape), dtype=np.float32)


def _points(moment: _Moment, rays: Array, depth: Array) -> tuple[Array, Array, Array]:
    ox, oy, oz = moment.origin.astype(np.float32)
    return ox + depth * rays[0], oy + depth * rays[1], oz + depth * rays[2]


def _unit(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    scale = np.float32(1.0) / np.maximum(np.sqrt(x * x + y * y + z * z), np.float32(1e-6))
    return x * scale, y * scale, z * scale


def _merge_width(pose: PolypPose) -> float:
    return pose.polyp.smoothness * pose.radius


def _smooth_minimum(wall: Array, near: Array, width: float) -> tuple[Array, Array]:
    """Quadratic smooth minimum of two distances, and the weight of the second in [0, 1]."""
    weight = np.clip(np.float32(0.5) + (wall - near) * np.float32(0.5 / width), 0.0, 1.0)
    rest = np.float32(1.0) - weight
    return wall * rest + near * weight - np.float32(width) * weight * rest, weight


def _window(pose: PolypPose, origin: Vector, rays: Array) -> tuple[slice, slice] | None:
    """The rectangle of rays that can meet the polyp, None if there is none."""
    centre, radius = pose.bounds
    to_centre = centre - origin
    distance = float(np.linalg.norm(to_centre))
    rows, columns = rays.shape[1:]
    if distance <= radius * 1.05:
        return slice(0, rows), slice(0, columns)
    axis = (to_centre / distance).astype(np.float32)
    limit = math.cos(min(math.asin(radius / distance) + 0.03, math.pi))
    hit = (axis[0] * rays[0] + axis[1] * rays[1] + axis[2] * rays[2]) > np.float32(limit)
    in_rows, in_columns = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
    if in_rows.size == 0:
        return None
    return (
        slice(int(in_rows[0]), int(in_rows[-1]) + 1),
        slice(int(in_columns[0]), int(in_columns[-1]) + 1),
    )
