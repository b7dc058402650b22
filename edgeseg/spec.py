"""What a bundle says about itself: frozen dataclasses and their JSON form.

This is the one definition of the manifest's schema. A field is read and written by its type
annotation; unknown fields, missing fields and values of a wrong type are errors, so a manifest
that loads is a manifest that is complete.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgeseg.errors import BundleError

__all__ = [
    "BACKENDS",
    "FLIPS",
    "MIN_TEMPERATURE",
    "PRECISIONS",
    "SCHEMA_VERSION",
    "WEIGHTINGS",
    "AppliedRewrite",
    "BackendName",
    "CalibrationRecord",
    "DType",
    "Decision",
    "Flip",
    "FusionSpec",
    "GoldenLimits",
    "LatencyRecord",
    "Manifest",
    "ParityRecord",
    "Precision",
    "PreprocessSpec",
    "Provenance",
    "ReadoutSpec",
    "RegularizeSpec",
    "RoiSpec",
    "ScoreRecord",
    "TensorSpec",
    "Variant",
    "ViewSpec",
    "VolumeSpec",
    "Weighting",
    "ZSmoothingSpec",
    "from_json",
    "to_json",
]

SCHEMA_VERSION = 4
"""Raised whenever a manifest written by this version cannot be read by an older one."""

Precision = Literal["fp32", "fp16", "fp16-safe", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

DType = Literal["float32", "float16", "uint8", "int8", "int32", "int64", "bool"]
BackendName = Literal["openvino", "onnxruntime", "tensorrt"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)

Flip = Literal["none", "h", "v", "hv"]
"""How an image is mirrored: not, left and right, top and bottom, both."""
FLIPS: tuple[Flip, ...] = get_args(Flip)
Weighting = Literal["entropy", "exp", "mean"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
MIN_TEMPERATURE = 0.05
"""In nats; below it, float32's rounding of the logits would show in the weights."""

T = TypeVar("T")


@dataclass(frozen=True)
class RoiSpec:
    """Region of interest in the source frame, in pixels; the origin is the top left corner."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        if self.x_px < 0 or self.y_px < 0 or self.width_px < 1 or self.height_px < 1:
            raise BundleError(f"region of interest {self} is empty or lies outside the frame")


@dataclass(frozen=True)
class ViewSpec:
    """One resolution at which a frame is shown to the network, and how its copies are mirrored.

    The copies are the batch of one input, in the order of ``flips``.
    """

    height_px: int
    width_px: int
    flips: tuple[Flip, ...] = ("none",)

    def __post_init__(self) -> None:
        if self.height_px < 1 or self.width_px < 1:
            raise BundleError(f"view size {self.height_px}x{self.width_px} is not positive")
        if not self.flips or self.flips[0] != "none":
            raise BundleError(f"the first copy of a view is not mirrored, got {self.flips}")
        if len(set(self.flips)) != len(self.flips):
            raise BundleError(f"flips repeat: {', '.join(self.flips)}")

    @property
    def name(self) -> str:
        """``512x640``: height and width."""
        return f"{self.height_px}x{self.width_px}"


@dataclass(frozen=True)
class VolumeSpec:
    """How slices of a volume become frames."""

    normalize: str
    """``zscore``, ``minmax``, ``window=LEVEL,WIDTH`` or ``none`` (see ``edgeseg.volume``)."""
    axis: Literal["sagittal", "coronal", "axial"] = "axial"
    """Direction in which the slices are stacked."""


@dataclass(frozen=True)
class PreprocessSpec:
    """How a uint8 BGR frame becomes the network's input tensor (1, 3, height, width), float32 RGB.

    A graph whose input is uint8 (1, height, width, 3) takes the resampled frame itself, BGR, and
    does what is behind the resampling inside its first convolution.

    The frame (or its region of interest) is resampled to ``height_px`` x ``width_px`` without
    keeping the aspect ratio, with PIL's antialiased filter of that name and its 8-bit result,
    then ``(value * scale - mean) / std`` per channel.

    With ``views`` there is one input for each, (len(flips), 3, height, width) of the view's size,
    and ``height_px`` x ``width_px`` is the grid onto which the views are fused.
    """

    height_px: int
    width_px: int
    resample: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = 1.0 / 255.0
    colour_order: Literal["rgb"] = "rgb"
    antialias: Literal[True] = True
    roi: RoiSpec | None = None
    views: tuple[ViewSpec, ...] = ()
    volume: VolumeSpec | None = None
    """What a model that was fitted to volumes expects; None for pictures."""

    def __post_init__(self) -> None:
        if len({view.name for view in self.views}) != len(self.views):
            raise BundleError("two views have the same size")
        if self.height_px < 1 or self.width_px < 1:
            raise BundleError(f"input size {self.height_px}x{self.width_px} is not positive")
        if not all(math.isfinite(s) and s > 0 for s in (*self.std, self.scale)):
            raise BundleError("std and scale must be finite and positive")
        if not all(math.isfinite(m) for m in self.mean):
            raise BundleError("mean must be finite")


@dataclass(frozen=True)
class FusionSpec:
    """How the probabilities of several views become one (DINO-MVR, arXiv 2605.07221).

    Each pixel's views are averaged with the weight ``1 - H / ln(max(C, 2))`` (``entropy``),
    ``exp(-H / temperature)`` (``exp``) or 1 (``mean``); H is the view's entropy there, in nats.
    """

    weighting: Weighting = "entropy"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= MIN_TEMPERATURE):
            raise BundleError(
                f"the temperature must be at least {MIN_TEMPERATURE}, got {self.temperature}"
            )


@dataclass(frozen=True)
class RegularizeSpec:
    """Spatial regularisation of the fused probabilities; every step is optional."""

    blur_sigma_px: float = 0.0
    """Gaussian blur, on the grid of the fused probabilities; 0: none."""
    fill_holes: bool = False
    """Background that does not reach the border becomes the class around it."""
    min_component_px: int = 0
    """Components of a class with fewer pixels, on the same grid, become background; 0: none."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.blur_sigma_px) and self.blur_sigma_px >= 0.0):
            raise BundleError(f"blur must be at least 0 pixels, got {self.blur_sigma_px}")
        if self.min_component_px < 0:
            raise BundleError(f"component size must be at least 0, got {self.min_component_px}")


@dataclass(frozen=True)
class ZSmoothingSpec:
    """Gaussian smoothing of a volume's probabilities across slices; edges replicate."""

    sigma: float
    unit: Literal["mm", "slices"] = "mm"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma >= 0.0):
            raise BundleError(f"sigma along z must be at least 0, got {self.sigma}")


@dataclass(frozen=True)
class ReadoutSpec:
    """How logits become a mask.

    The logits are resized to the frame (bilinear; half-pixel centres unless ``align_corners``),
    then activated. ``sigmoid`` serves one class and compares with ``threshold``; ``softmax``
    serves several and takes the largest.

    With ``fusion`` the logits of all views are fused into probabilities on the grid of the
    preprocessing, regularised there, and the probabilities are resized to the frame instead.
    """

    activation: Literal["sigmoid", "softmax"]
    threshold: float = 0.5
    align_corners: bool = False
    fusion: FusionSpec | None = None
    regularize: RegularizeSpec = RegularizeSpec()
    time_constant_ms: float = 0.0
    """Of the exponential smoothing over a video's frames; 0: none."""
    z_smoothing: ZSmoothingSpec | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time_constant_ms) and self.time_constant_ms >= 0.0):
            raise BundleError(f"the time constant must be >= 0 ms, got {self.time_constant_ms}")
        if not 0.0 < self.threshold < 1.0:
            raise BundleError(f"threshold must lie between 0 and 1, got {self.threshold}")


@dataclass(frozen=True)
class TensorSpec:
    """A named input or output of an engine: any rank, fixed shape."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    layout: str
    """One letter a dimension: ``NCHW`` for images as planes, ``NHWC`` for pictures of interleaved
    bytes, ``NCDHW`` for volumes."""


@dataclass(frozen=True)
class GoldenLimits:
    """How far an engine's answers to the golden frames may lie from those of the FP32 graph.

    ``edgeseg.golden`` says how each figure is computed; the worst of all frames and outputs counts.
    """

    relative_error: float
    """Largest accepted."""
    cosine: float
    """Smallest accepted."""
    mask_agreement: float
    """Smallest accepted share of pixels, 0 to 1."""


@dataclass(frozen=True)
class Variant:
    """One ONNX file of a bundle, and whom it serves."""

    name: str
    file: str
    precision: Precision
    """What the user asks for by name."""
    products: Literal["fp32", "fp16", "int8"]
    """Arithmetic of the matrix products and convolutions."""
    rest: Literal["fp32", "fp16"]
    """Arithmetic of everything else (islands of fp32 are written in the graph as casts)."""
    placement: str
    """Where Q/DQ or cast nodes stand, in words."""
    backends: tuple[str, ...]
    batch: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden_limits: Mapping[str, GoldenLimits]
    """For each backend of ``backends``: an engine outside them is refused."""
    bfloat16: tuple[str, ...] = ()
    """Backends that compute the FP32 rest in bfloat16 on a processor which does so by itself: the
    build found it faster there, and right. On any other processor the rest is FP32."""


@dataclass(frozen=True)
class ParityRecord:
    """FP32 ONNX against the torch formulation, on generated frames and noise."""

    max_abs_difference: float
    logit_range: float
    runtime: str

    @property
    def relative(self) -> float:
        """Largest difference as a share of the range of the logits."""
        return self.max_abs_difference / self.logit_range


@dataclass(frozen=True)
class CalibrationRecord:
    """Which frames the INT8 ranges were taken from, and how."""

    quantizer: Literal["edgeseg", "modelopt"]
    method: str
    sources: tuple[str, ...]
    """File names without folders (a path may identify a patient)."""
    sha256: tuple[str, ...]
    """Hash of the content of each source, in the same order."""
    frames: int


@dataclass(frozen=True)
class ScoreRecord:
    """Accuracy of one variant on the validation cases."""

    variant: str
    backend: str
    cases: int
    against: Literal["labels", "fp32"]
    """``labels``: the masks of the data set; ``fp32``: the masks of the FP32 variant."""
    dice: float
    iou: float
    worst_case: str
    worst_dice: float


@dataclass(frozen=True)
class LatencyRecord:
    """Median time of one inference, measured on the build machine."""

    variant: str
    backend: str
    device: str
    threads: int
    median_ms: float
    repeats: int


@dataclass(frozen=True)
class Decision:
    """Something the build chose by itself, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class AppliedRewrite:
    """An exact change of the graph's algebra: the same function, less work."""

    name: str
    """Short and stable: ``conv-after-upsampling``."""
    modules: tuple[str, ...]
    """Where, by the names of the checkpoint's modules (``blocks.*`` for every block)."""
    words: str
    """What it saves, in one sentence."""


@dataclass(frozen=True)
class Provenance:
    """Where the bundle came from."""

    checkpoint: str
    """File name of the checkpoint, without folders."""
    checkpoint_sha256: str
    created_utc: str
    """ISO 8601, seconds."""
    tools: Mapping[str, str]
    """Library name to version, as used by the build."""
    machine: str
    """CPU model and operating system."""


@dataclass(frozen=True)
class Manifest:
    """All that a run time needs to know, and all that an auditor may ask."""

    schema_version: int
    edgeseg_version: str
    name: str
    family: str
    hyperparameters: Mapping[str, Any]
    classes: tuple[str, ...]
    """Foreground names: one for a one-class model, one per channel (background first) otherwise."""
    precision: Precision
    """What the bundle was built for; opened by default."""
    preprocess: PreprocessSpec
    readout: ReadoutSpec
    variants: tuple[Variant, ...]
    files: Mapping[str, str]
    """File name to SHA-256, for every file but the manifest itself."""
    provenance: Provenance
    licence_notice: str
    parity: ParityRecord
    calibration: CalibrationRecord | None = None
    scores: tuple[ScoreRecord, ...] = ()
    latencies: tuple[LatencyRecord, ...] = ()
    decisions: tuple[Decision, ...] = field(default=())
    rewrites: tuple[AppliedRewrite, ...] = ()
    """Of the exported graph; empty for the authors' own algebra."""


def to_json(value: Any) -> Any:
    """The value as JSON types: dataclasses become objects, tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], value: Any, where: str = "manifest") -> T:
    """Build a ``kind`` (a dataclass of this module) from parsed JSON.

    Raises:
        BundleError: a field is unknown, missing or of the wrong type; ``where`` names it.
    """
    return typing.cast(T, _read(kind, value, where))


def _read(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        options = get_args(kind)
        if value is None and type(None) in options:
            return None
        (inner,) = (option for option in options if option is not type(None))
        return _read(inner, value, where)
    if origin is Literal:
        if value not in get_args(kind) or isinstance(value, bool) != isinstance(
            get_args(kind)[0], bool
        ):
            raise BundleError(
                f"{where}: {value!r} is none of {', '.join(map(str, get_args(kind)))}"
            )
        return value
    if origin is tuple:
        return _read_tuple(kind, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise BundleError(f"{where}: expected an object, got {type(value).__name__}")
        item = get_args(kind)[1]
        return {key: _read(item, entry, f"{where}.{key}") for key, entry in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BundleError(f"{where}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _read_tuple(kind: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise BundleError(f"{where}: expected a list, got {type(value).__name__}")
    items = get_args(kind)
    if items[-1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise BundleError(f"{where}: expected {len(items)} values, got {len(value)}")
    return tuple(
        _read(item, entry, f"{where}[{i}]")
        for i, (item, entry) in enumerate(zip(items, value, strict=True))
    )


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{where}: expected an object, got {type(value).__name__}")
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise BundleError(f"{where}: unknown field {unknown[0]!r}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise BundleError(f"{where}: field {name!r} is missing")
    return kind(
        **{name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    )
