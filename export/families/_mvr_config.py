"""Hyper-parameters of DINO-MVR, and how a checkpoint spells those that are no shapes."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from edgeseg.errors import CheckpointError, UsageError
from edgeseg.export.backbone_config import PATCH_PX, BackboneConfig
from edgeseg.spec import (
    FLIPS,
    MIN_TEMPERATURE,
    WEIGHTINGS,
    Flip,
    FusionSpec,
    RegularizeSpec,
    ViewSpec,
    VolumeSpec,
    ZSmoothingSpec,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PROBES",
    "DinoMvrConfig",
    "checkpoint_settings",
    "read_settings",
    "views_problem",
    "with_views",
]

logger = logging.getLogger(__name__)

PROBES = 3
"""One for each of the last blocks."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_SIDE_PX = 8192
MAX_COPIES = 256
"""Of one frame, over all views: ``EDGESEG_MAX_VIEWS``."""

_Axis = Literal["sagittal", "coronal", "axial"]
_Resample = Literal["bilinear", "bicubic"]

T = TypeVar("T")


@dataclass(frozen=True)
class DinoMvrConfig:
    """Hyper-parameters of a DINO-MVR model, with edgeseg's defaults of what shapes do not tell."""

    backbone: BackboneConfig
    hidden: tuple[int, ...] = (256,) * PROBES
    """Hidden width of each probe."""
    classes: int = 1
    """Channels of the logits; several include the background."""
    resolutions_px: tuple[tuple[int, int], ...] = ((256, 256), (384, 384), (512, 512))
    """Height and width at which a frame is read, multiples of 16."""
    flips: tuple[Flip, ...] = ("h", "v")
    """Mirrorings at every resolution, besides the identity, which is always there."""
    fusion: FusionSpec = field(default_factory=FusionSpec)
    regularize: RegularizeSpec = field(default_factory=RegularizeSpec)
    z_smoothing: ZSmoothingSpec | None = None
    time_constant_ms: float = 0.0
    threshold: float = 0.5
    resample: _Resample = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    volume: VolumeSpec | None = None
    names: tuple[str, ...] = ()
    """Of the classes, one for each channel; empty: not known."""

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """The resolutions with all copies of each, in the order of the graph's inputs."""
        flips: tuple[Flip, ...] = ("none", *self.flips)
        return tuple(ViewSpec(height, width, flips) for height, width in self.resolutions_px)

    @property
    def largest_view(self) -> ViewSpec:
        """The view with the most pixels (the first of several), whose grid is the output's."""
        return max(self.views, key=lambda view: view.height_px * view.width_px)


def views_problem(sizes_px: Sequence[tuple[int, int]], flips: Sequence[str]) -> str | None:
    """Why these cannot be the views of a model, or None if they can.

    Args:
        sizes_px: (height, width) of each view.
        flips: mirrorings; the identity need not be named, and may be once.
    """
    if not sizes_px:
        return "there must be at least one resolution"
    for size in sizes_px:
        for side_px in size:
            if side_px < PATCH_PX or side_px % PATCH_PX:
                below = max(side_px // PATCH_PX, 1) * PATCH_PX
                near = f"{below} or {below + PATCH_PX}" if side_px > PATCH_PX else f"{PATCH_PX}"
                return (
                    f"the sides of a resolution must be multiples of {PATCH_PX}, got {side_px}: "
                    f"take {near}"
                )
            if side_px > MAX_SIDE_PX:
                return f"a resolution has at most {MAX_SIDE_PX} pixels a side, got {side_px}"
    repeated = _repeated(sizes_px)
    if repeated is not None:
        return f"the resolution {repeated[0]}x{repeated[1]} is given twice"
    unknown = next((flip for flip in flips if flip not in FLIPS), None)
    if unknown is not None:
        return f"there is no flip {unknown!r}: choose among {', '.join(FLIPS[1:])}"
    if (flip := _repeated(flips)) is not None:
        return f"the flip {flip!r} is given twice"
    copies = len(sizes_px) * len({"none", *flips})
    if copies > MAX_COPIES:
        return f"there would be {copies} copies of a frame; at most {MAX_COPIES} can be fused"
    return None


def with_views(
    config: DinoMvrConfig, sizes_px: Sequence[tuple[int, int]] | None, flips: Sequence[str] | None
) -> DinoMvrConfig:
    """The config with other resolutions, or other flips; None keeps what it has.

    Raises:
        UsageError: a side is no multiple of 16 (names the nearest), something is given twice, there
            is no resolution at all, or a flip is unknown.
    """
    sizes = config.resolutions_px if sizes_px is None else tuple(sizes_px)
    mirrored = config.flips if flips is None else flips
    problem = views_problem(sizes, mirrored)
    if problem is not None:
        raise UsageError(f"{problem} (--views, --flips)")
    return dataclasses.replace(config, resolutions_px=sizes, flips=_without_identity(mirrored))


def read_settings(config: DinoMvrConfig, settings: Mapping[str, Any]) -> DinoMvrConfig:
    """Take a checkpoint's settings (docs/checkpoints.md) into the config.

    Settings that edgeseg does not know are named in a warning.

    Raises:
        CheckpointError: a setting has a value that it cannot have; names it and what it can be.
    """
    unknown = sorted(set(settings) - set(_READERS))
    if unknown:
        logger.warning(
            "the checkpoint's config also holds %s, which edgeseg does not use (it knows %s)",
            ", ".join(map(repr, unknown)),
            ", ".join(_READERS),
        )
    values = {key: _READERS[key](key, settings[key]) for key in _READERS if key in settings}
    names = values.get("classes", config.names)
    if names and len(names) != config.classes:
        raise CheckpointError(
            f"the checkpoint's config: 'classes' names {len(names)} classes and the probes give "
            f"{config.classes} channels; name one for each channel"
        )
    sizes = values.get("resolutions", config.resolutions_px)
    flips = values.get("flips", config.flips)
    problem = views_problem(sizes, flips)
    if problem is not None:
        key = "flips" if "flip" in problem else "resolutions"
        raise CheckpointError(f"the checkpoint's config: {key!r}: {problem}")
    return dataclasses.replace(
        config,
        resolutions_px=sizes,
        flips=_without_identity(flips),
        names=names,
        fusion=FusionSpec(
            values.get("weighting", config.fusion.weighting),
            values.get("temperature", config.fusion.temperature),
        ),
        regularize=RegularizeSpec(
            values.get("blur_sigma_px", config.regularize.blur_sigma_px),
            values.get("fill_holes", config.regularize.fill_holes),
            values.get("min_component_px", config.regularize.min_component_px),
        ),
        z_smoothing=_z_smoothing(config, values),
        **{
            key: values[key]
            for key in ("time_constant_ms", "threshold", "resample", "mean", "std", "volume")
            if key in values
        },
    )


def checkpoint_settings(config: DinoMvrConfig) -> dict[str, Any]:
    """The settings that `read_settings` reads back into the same config, in JSON's types."""
    settings: dict[str, Any] = {
        "resolutions": [list(size) for size in config.resolutions_px],
        "flips": list(config.flips),
        "weighting": config.fusion.weighting,
        "temperature": config.fusion.temperature,
        "blur_sigma_px": config.regularize.blur_sigma_px,
        "fill_holes": config.regularize.fill_holes,
        "min_component_px": config.regularize.min_component_px,
        "time_constant_ms": config.time_constant_ms,
        "threshold": config.threshold,
        "resample": config.resample,
        "mean": list(config.mean),
        "std": list(config.std),
    }
    if config.names:
        settings["classes"] = list(config.names)
    if config.z_smoothing is not None:
        settings["z_sigma"] = config.z_smoothing.sigma
        settings["z_unit"] = config.z_smoothing.unit
    if config.volume is not None:
        settings["volume"] = {"normalize": config.volume.normalize, "axis": config.volume.axis}
    return settings


def _z_smoothing(config: DinoMvrConfig, values: Mapping[str, Any]) -> ZSmoothingSpec | None:
    if "z_sigma" not in values and "z_unit" not in values:
        return config.z_smoothing
    sigma = values.get("z_sigma")
    if sigma is None:
        if "z_unit" in values:
            raise CheckpointError(
                "the checkpoint's config: 'z_unit' says nothing without 'z_sigma'; add it, or "
                "remove 'z_unit'"
            )
        return None
    return ZSmoothingSpec(sigma, values.get("z_unit", "mm"))


def _without_identity(flips: Iterable[str]) -> tuple[Flip, ...]:
    known: dict[str, Flip] = {flip: flip for flip in FLIPS}
    return tuple(known[flip] for flip in flips if flip != "none")


def _repeated(items: Sequence[T]) -> T | None:
    return next((item for index, item in enumerate(items) if item in items[:index]), None)


def _refuse(key: str, value: Any, wanted: str) -> CheckpointError:
    text = repr(value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return CheckpointError(f"the checkpoint's config: {key!r} must be {wanted}, got {shown}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(wanted: str, accepts: Callable[[float], bool]) -> Callable[[str, Any], float]:
    def read(key: str, value: Any) -> float:
        if not _is_number(value) or not accepts(value):
            raise _refuse(key, value, wanted)
        return float(value)

    return read


def _choice(choices: Sequence[str]) -> Callable[[str, Any], str]:
    def read(key: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _refuse(key, value, f"one of {', '.join(map(repr, choices))}")
        return value

    return read


def _resolutions(key: str, value: Any) -> tuple[tuple[int, int], ...]:
    wanted = "a list of sizes, each a number of pixels or [height, width]"
    if not isinstance(value, list):
        raise _refuse(key, value, wanted)
    sizes = []
    for item in value:
        sides = item if isinstance(item, list) else [item, item]
        if len(sides) != 2 or any(not isinstance(s, int) or isinstance(s, bool) for s in sides):
            raise _refuse(key, value, wanted)
        sizes.append((sides[0], sides[1]))
    return tuple(sizes)


def _words(wanted: str) -> Callable[[str, Any], tuple[str, ...]]:
    def read(key: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _refuse(key, value, wanted)
        return tuple(value)

    return read


def _names(key: str, value: Any) -> tuple[str, ...]:
    wanted = "a list of different names, one for each channel"
    names = _words(wanted)(key, value)
    if not names or not all(name.strip() for name in names) or _repeated(names) is not None:
        raise _refuse(key, value, wanted)
    return names


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(key, value, "true or false")
    return value


def _count(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise _refuse(key, value, "a whole number of pixels from 0")
    return value


def _channels(wanted: str, accepts: Callable[[float], bool]) -> Callable[[str, Any], Any]:
    def read(key: str, value: Any) -> tuple[float, float, float]:
        if (
            not isinstance(value, list)
            or len(value) != 3
            or not all(_is_number(item) and accepts(item) for item in value)
        ):
            raise _refuse(key, value, wanted)
        return float(value[0]), float(value[1]), float(value[2])

    return read


def _z_sigma(key: str, value: Any) -> float | None:
    if value is None:
        return None
    return _number("a number from 0, or null for no smoothing", lambda v: v >= 0.0)(key, value)


def _volume(key: str, value: Any) -> VolumeSpec | None:
    if value is None:
        return None
    if (
        not isinstance(value, dict)
        or set(value) - {"normalize", "axis"}
        or "normalize" not in value
    ):
        raise _refuse(key, value, "an object with 'normalize' and perhaps 'axis', or null")
    normalize = value["normalize"]
    if not isinstance(normalize, str) or not _is_normalization(normalize):
        raise _refuse(
            f"{key}.normalize", normalize, "'zscore', 'minmax', 'window=LEVEL,WIDTH' or 'none'"
        )
    axis: Any = _choice(get_args(_Axis))(f"{key}.axis", value.get("axis", "axial"))
    return VolumeSpec(normalize, axis)


def _is_normalization(text: str) -> bool:
    from edgeseg.volume.intensity import parse_normalization

    try:
        parse_normalization(text)
    except UsageError:
        return False
    return True


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "resolutions": _resolutions,
    "flips": _words(f"a list of {', '.join(map(repr, FLIPS[1:]))}"),
    "classes": _names,
    "weighting": _choice(WEIGHTINGS),
    "temperature": _number(
        f"a number of nats from {MIN_TEMPERATURE}", lambda v: v >= MIN_TEMPERATURE
    ),
    "blur_sigma_px": _number("a number of pixels from 0", lambda v: v >= 0.0),
    "fill_holes": _flag,
    "min_component_px": _count,
    "z_sigma": _z_sigma,
    "z_unit": _choice(("mm", "slices")),
    "time_constant_ms": _number("a number of milliseconds from 0", lambda v: v >= 0.0),
    "threshold": _number("a number between 0 and 1", lambda v: 0.0 < v < 1.0),
    "resample": _choice(get_args(_Resample)),
    "mean": _channels("three numbers (R, G, B)", math.isfinite),
    "std": _channels("three positive numbers (R, G, B)", lambda v: v > 0.0),
    "volume": _volume,
}
