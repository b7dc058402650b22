"""Preprocessing and read-out in words, for reports and for ``edgeseg inspect``."""

from __future__ import annotations

from collections.abc import Iterator

from edgeseg.spec import FusionSpec, PreprocessSpec, ReadoutSpec, RegularizeSpec

__all__ = ["describe_readout", "describe_views"]

_FLIP_WORDS = {
    "none": "as it is",
    "h": "mirrored left and right",
    "v": "mirrored top and bottom",
    "hv": "turned by 180 degrees",
}


def describe_views(spec: PreprocessSpec) -> Iterator[tuple[str, str]]:
    """(what, how) of the views; nothing for a model that reads a frame once."""
    if spec.views:
        count = sum(len(view.flips) for view in spec.views)
        yield "views", f"{count}: {', '.join(view.name for view in spec.views)}"
        yield "each", ", ".join(_FLIP_WORDS[flip] for flip in spec.views[0].flips)
    if spec.volume is not None:
        yield "volumes", f"{spec.volume.axis} slices, intensities by {spec.volume.normalize}"


def describe_readout(spec: ReadoutSpec) -> Iterator[tuple[str, str]]:
    """(what, how) of fusion, regularisation and smoothing, as far as there is any."""
    if spec.fusion is not None:
        yield "fusion of the views", _fusion(spec.fusion)
    if spec.regularize != RegularizeSpec():
        yield "regularisation", _regularize(spec.regularize)
    if spec.time_constant_ms > 0.0:
        yield "smoothing over time", f"time constant {spec.time_constant_ms:g} ms"
    if spec.z_smoothing is not None and spec.z_smoothing.sigma > 0.0:
        unit = "mm" if spec.z_smoothing.unit == "mm" else "slices"
        yield "smoothing across slices", f"sigma {spec.z_smoothing.sigma:g} {unit}"


def _fusion(spec: FusionSpec) -> str:
    return {
        "entropy": "weights 1 - H / ln(max(C, 2))",
        "exp": f"weights exp(-H / {spec.temperature:g})",
        "mean": "plain mean",
    }[spec.weighting]


def _regularize(spec: RegularizeSpec) -> str:
    steps = []
    if spec.blur_sigma_px > 0.0:
        steps.append(f"blur {spec.blur_sigma_px:g} px")
    if spec.fill_holes:
        steps.append("holes filled")
    if spec.min_component_px > 1:
        steps.append(f"components under {spec.min_component_px} px dropped")
    return ", ".join(steps) or "none"
