"""Every home of the kernels against the float64 references, on random data of awkward sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg import kernels
from edgeseg.bench.gpu_homes import MEAN, STD, DecidingHome, Home
from edgeseg.kernels import (
    View,
    reference,
    reference_blend,
    reference_decide,
    reference_fuse,
    reference_smooth,
)
from edgeseg.spec import FLIPS, WEIGHTINGS, ViewSpec

__all__ = ["TOLERANCE", "Check", "check_home", "failures"]

TOLERANCE = 1e-5
"""Largest accepted error of a probability."""

_EXACT = 0.0
# float32's rounding of the normalisation, whose 8-bit values are exact.
_ROUNDING = 1e-6

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Check:
    """One comparison."""

    what: str
    largest_error: float
    """Largest absolute error; of masks and pictures, which are exact, in levels."""
    tolerance: float
    wrong_labels: int
    """Pixels with another label than the reference, other than within the tolerance of a tie."""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (a NaN is not) and all labels are right."""
        return self.largest_error <= self.tolerance and self.wrong_labels == 0


@dataclass(frozen=True)
class _Fusion:
    weighting: str
    channels: int
    size_px: tuple[int, int]
    dtype: str
    count: int


@dataclass(frozen=True)
class _Decision:
    channels: int
    dtype: str
    align_corners: bool
    window_px: tuple[int, int, int, int]


def check_home(home: Home, seed: int = 0) -> list[Check]:
    """Run every kernel of one home on several cases and compare.

    The cases reach every variant of the CUDA kernels: few and many views, each width of loads and
    each range of radii of the smoothing, both dtypes of the decision.
    """
    rng = np.random.default_rng(seed)
    checks = [
        _fuse(home, rng, _Fusion(weighting, *case))
        for weighting in WEIGHTINGS
        for case in (
            (1, (64, 128), "float32", 6),
            (1, (37, 51), "float16", 9),
            (4, (33, 40), "float32", 6),
            (1, (29, 31), "float32", 20),
            (3, (13, 17), "float32", 20),
        )
    ]
    checks += [
        _smooth(home, rng, shape, sigma)
        for shape, sigma in (
            ((1, 75, 24, 32), 1.5),
            ((1, 40, 7, 9), 3.0),
            ((1, 90, 6, 10), 6.0),
            ((3, 30, 9, 13), 1.0),
            ((1, 40, 5, 8), 0.5),
            ((1, 33, 3, 7), 1.0),
            ((1, 33, 3, 7), 2.0),
            ((1, 50, 3, 6), 3.0),
            ((2, 20, 4, 8), 1.0),
        )
    ]
    checks += [_blend(home, rng, outline_px) for outline_px in (0, 2)]
    checks += [_resize(home, rng, frame_px) for frame_px in ((90, 121), (300, 45))]
    if isinstance(home, DecidingHome):
        checks += [
            _decide(home, rng, _Decision(*case))
            for case in (
                (1, "float32", False, (0, 0, 83, 61)),
                (1, "float16", True, (9, 3, 70, 55)),
                (5, "float32", True, (0, 0, 83, 61)),
                (20, "float16", False, (6, 0, 75, 61)),
            )
        ]
    return checks


def _fuse(home: Home, rng: np.random.Generator, case: _Fusion) -> Check:
    views = []
    for index in range(case.count):
        side = (16, 24, 31)[index // 3 % 3]
        logits = 3.0 * rng.standard_normal((case.channels, side, side + 1))
        rounded = logits.astype(np.float16 if case.dtype == "float16" else np.float32)
        views.append(View(rounded, FLIPS[index % len(FLIPS)]))
    # A view that says nothing in some places, and one that is beyond doubt.
    views[0].logits[0, :3, :4] = np.nan
    views[-1].logits[0, 5:9] = np.inf
    settings: dict[str, Any] = {"temperature": 0.7, "threshold": 0.4, "keep": 0.3}
    settings["weighting"] = case.weighting
    state = rng.random((case.channels, *case.size_px), dtype=np.float32)
    wanted, decided = reference_fuse.fuse_views(
        views, *case.size_px, **settings, state=state.astype(np.float64)
    )
    probability, mask = home.fuse(views, case.size_px, settings, state)
    wanted = wanted.reshape(probability.shape)
    error = max(_largest(probability - wanted), _largest(state - wanted))
    name = f"fuse {case.weighting}, {case.count} views, {case.channels} channel(s), {case.dtype}"
    return Check(name, error, TOLERANCE, _wrong(mask, decided, wanted, settings["threshold"]))


def _smooth(
    home: Home, rng: np.random.Generator, shape: tuple[int, int, int, int], sigma: float
) -> Check:
    volume = rng.random(shape, dtype=np.float32)
    volume[0, 3, 2, 1] = np.nan
    weights = kernels.gaussian_weights(sigma)
    wanted = reference_smooth.smooth_z(volume, weights)
    out, mask = home.smooth(volume, weights, 0.5)
    decided = reference_smooth.mask_of(wanted, 0.5)
    name = f"smooth sigma {sigma}, {'x'.join(map(str, shape))}"
    return Check(name, _largest(out - wanted), TOLERANCE, _wrong(mask, decided, wanted, 0.5))


def _decide(home: DecidingHome, rng: np.random.Generator, case: _Decision) -> Check:
    planes = rng.random((case.channels, 24, 32)).astype(case.dtype)
    # No sample of weight 0 lies beside these, with which homes may do as they like.
    planes[0, 10:14, 6:9] = np.nan
    level = 0.45 if case.channels == 1 else None
    mask, counts = home.decide(planes, (61, 83), case.window_px, level, case.align_corners)
    wanted, _, values = reference_decide.decide_mask(
        planes,
        *(61, 83),
        level=level,
        window_px=case.window_px,
        align_corners=case.align_corners,
    )
    x, y, width, height = case.window_px
    inside = np.s_[y : y + height, x : x + width]
    wrong = _wrong(mask[inside], wanted[inside], values, 0.45)
    outside = mask.copy()
    outside[inside] = 0
    counted = np.bincount(mask[inside].reshape(-1), minlength=len(counts))
    error = _largest(counts.astype(np.int64) - counted) if len(counted) == len(counts) else np.inf
    corners = "corners aligned" if case.align_corners else "half-pixel centres"
    name = f"decide {case.channels} channel(s), {case.dtype}, {corners}"
    return Check(name, float(error), _EXACT, wrong + int((outside != 0).sum()))


def _blend(home: Home, rng: np.random.Generator, outline_px: int) -> Check:
    frame = rng.integers(0, 256, (61, 83, 3), dtype=np.uint8)
    mask = np.zeros((61, 83), np.uint8)
    mask[10:40, 20:70], mask[30:61, 0:30], mask[0:5, 60:83] = 1, 2, 3
    colours = np.array([(0, 200, 255), (90, 10, 250)], np.uint8)
    wanted = reference_blend.blend_overlay(frame, mask, colours, alpha=0.4, outline_px=outline_px)
    drawn = home.blend(frame, mask, colours, 0.4, outline_px)
    error = _largest(drawn.astype(np.int64) - wanted.astype(np.int64))
    return Check(f"blend with an outline of {outline_px}", error, _EXACT, 0)


def _resize(home: Home, rng: np.random.Generator, frame_px: tuple[int, int]) -> Check:
    frame = rng.integers(0, 256, (*frame_px, 3), dtype=np.uint8)
    views = [ViewSpec(32, 48, ("none", "h", "v")), ViewSpec(64, 37)]
    error = 0.0
    for view, made in zip(views, home.resize(frame, views, "bicubic"), strict=True):
        wanted = reference.resize_normalize(
            frame, view.height_px, view.width_px, resample="bicubic", mean=MEAN, std=STD
        )[0]
        for copy, flip in zip(made, view.flips, strict=True):
            mirrored = wanted[:, :, ::-1] if "h" in flip else wanted
            mirrored = mirrored[:, ::-1] if "v" in flip else mirrored
            error = max(error, _largest(copy - mirrored))
    return Check(f"resize {frame_px[1]}x{frame_px[0]}", error, _ROUNDING, 0)


def _largest(difference: Array) -> float:
    """Largest absolute value; infinite if anything is not finite."""
    if not np.isfinite(difference).all():
        return float("inf")
    return float(np.abs(difference).max())


def _wrong(mask: Array, decided: Array, wanted: Array, threshold: float) -> int:
    if len(wanted) == 1:
        margin = np.abs(wanted[0] - threshold)
    else:
        ranked = np.sort(wanted, axis=0)
        margin = ranked[-1] - ranked[-2]
    # A NaN is never near a tie.
    return int(((mask != decided) & ~(margin <= 2 * TOLERANCE)).sum())


def failures(checks: Sequence[Check]) -> list[Check]:
    """Those that did not pass."""
    return [check for check in checks if not check.passed]
