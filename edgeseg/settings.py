"""What a caller may set otherwise than the bundle (or the checkpoint) says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from edgeseg.errors import BundleError, UsageError
from edgeseg.spec import (
    FLIPS,
    WEIGHTINGS,
    Flip,
    FusionSpec,
    PreprocessSpec,
    ReadoutSpec,
    RegularizeSpec,
    ViewSpec,
    Weighting,
    ZSmoothingSpec,
)

__all__ = [
    "Settings",
    "parse_flips",
    "parse_views",
    "parse_weighting",
    "parse_z_sigma",
    "select_views",
]


T = TypeVar("T", RegularizeSpec, ReadoutSpec)


@dataclass(frozen=True)
class Settings:
    """Settings of views and read-out; None leaves a setting as it is.

    They cannot add what the network was not built for: views and flips are chosen among those of
    the bundle.
    """

    views: tuple[tuple[int, int], ...] | None = None
    """(height, width) of each view in pixels."""
    flips: tuple[Flip, ...] | None = None
    """Mirrorings besides the identity; () for none."""
    weighting: Weighting | None = None
    temperature: float | None = None
    blur_sigma_px: float | None = None
    fill_holes: bool | None = None
    min_component_px: int | None = None
    time_constant_ms: float | None = None
    z_smoothing: ZSmoothingSpec | None = None

    def preprocess(self, spec: PreprocessSpec) -> PreprocessSpec:
        """The preprocessing with the chosen views; the largest one's size becomes the grid.

        Raises:
            UsageError: the bundle has one view, or not these.
        """
        if self.views is None and self.flips is None:
            return spec
        views = select_views(spec.views, self.views, self.flips)
        largest = max(views, key=lambda view: view.height_px * view.width_px)
        return dataclasses.replace(
            spec, views=views, height_px=largest.height_px, width_px=largest.width_px
        )

    def readout(self, spec: ReadoutSpec) -> ReadoutSpec:
        """The read-out with what is set here.

        Raises:
            UsageError: weights are set for a model of one view, or a value is out of range.
        """
        fusion = spec.fusion
        try:
            if self.weighting is not None or self.temperature is not None:
                if fusion is None:
                    raise UsageError("this model reads a frame once: there are no views to weigh")
                fusion = FusionSpec(
                    self.weighting or fusion.weighting,
                    fusion.temperature if self.temperature is None else self.temperature,
                )
            regularize = _replaced(
                spec.regularize,
                blur_sigma_px=self.blur_sigma_px,
                fill_holes=self.fill_holes,
                min_component_px=self.min_component_px,
            )
            return _replaced(
                spec,
                fusion=fusion,
                regularize=regularize,
                time_constant_ms=self.time_constant_ms,
                z_smoothing=self.z_smoothing,
            )
        except BundleError as error:
            raise UsageError(str(error)) from error


def select_views(
    built: Sequence[ViewSpec],
    sizes_px: Sequence[tuple[int, int]] | None,
    flips: Sequence[Flip] | None,
) -> tuple[ViewSpec, ...]:
    """The views among ``built`` of the given sizes and flips (besides the identity).

    Raises:
        UsageError: there are none of that size or flip; says which there are.
    """
    if not built:
        raise UsageError("this model reads a frame once: it has no views to choose from")
    if sizes_px is not None and not sizes_px:
        raise UsageError("choose at least one view")
    known = {(view.height_px, view.width_px): view for view in built}
    for size in sizes_px or ():
        if size not in known:
            raise UsageError(
                f"the bundle has no view of {size[0]}x{size[1]}: it has "
                f"{', '.join(view.name for view in built)}; build again with --views for others"
            )
    chosen = [view for size, view in known.items() if sizes_px is None or size in sizes_px]
    if flips is None:
        return tuple(chosen)
    for flip in flips:
        if flip not in built[0].flips:
            raise UsageError(
                f"the bundle has no flip {flip!r}: it has {', '.join(built[0].flips)}; build "
                "again with --flips for others"
            )
    wanted = {"none", *flips}
    return tuple(
        dataclasses.replace(view, flips=tuple(flip for flip in view.flips if flip in wanted))
        for view in chosen
    )


def parse_views(text: str) -> tuple[tuple[int, int], ...]:
    """``256,384x512`` as (height, width) of each view.

    Raises:
        UsageError: something else.
    """
    sizes = []
    for part in text.lower().split(","):
        numbers = part.strip().split("x")
        if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
            raise UsageError(f"views {text!r}: write sizes such as 256,384 or 256x320,384x480")
        sizes.append((int(numbers[0]), int(numbers[-1])))
    if len(set(sizes)) != len(sizes):
        raise UsageError(f"views {text!r}: a size is named twice")
    return tuple(sizes)


def parse_flips(text: str) -> tuple[Flip, ...]:
    """``h,v`` as flips besides the identity; ``none`` for no others.

    Raises:
        UsageError: something else.
    """
    names = [part.strip().lower() for part in text.split(",")]
    known = {str(flip): flip for flip in FLIPS}
    if not all(name in known for name in names) or len(set(names)) != len(names):
        raise UsageError(f"flips {text!r}: write some of h, v and hv, or none")
    return tuple(known[name] for name in names if name != "none")


def parse_weighting(text: str) -> tuple[Weighting, float | None]:
    """``entropy``, ``mean``, ``exp`` or ``exp:TEMPERATURE``.

    Raises:
        UsageError: something else.
    """
    name, _, number = text.partition(":")
    known = {str(weighting): weighting for weighting in WEIGHTINGS}
    if name not in known or (number and name != "exp"):
        raise UsageError(f"weighting {text!r}: write entropy, mean, exp or exp:TEMPERATURE")
    try:
        return known[name], float(number) if number else None
    except ValueError:
        raise UsageError(f"weighting {text!r}: {number!r} is not a number") from None


def parse_z_sigma(text: str) -> ZSmoothingSpec:
    """``2mm`` or ``1.5`` (slices).

    Raises:
        UsageError: something else, or a negative sigma.
    """
    number = text.strip().lower()
    in_mm = number.endswith("mm")
    try:
        sigma = float(number.removesuffix("mm"))
        return ZSmoothingSpec(sigma, "mm" if in_mm else "slices")
    except ValueError:
        raise UsageError(f"sigma {text!r}: write slices (1.5) or millimetres (2mm)") from None
    except BundleError as error:
        raise UsageError(str(error)) from error


def _replaced(spec: T, **values: Any) -> T:
    """The dataclass with those values that are not None."""
    given = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(spec, **given)
