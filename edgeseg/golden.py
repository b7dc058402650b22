"""The self-test of a loaded engine: does it still compute what was measured at the build?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg.backends.base import Array, EngineInfo, placement_for
from edgeseg.bundle import Golden
from edgeseg.errors import GoldenMismatchError
from edgeseg.readout import mask_from_logits
from edgeseg.spec import GoldenLimits, ReadoutSpec, Variant

__all__ = [
    "Answer",
    "GoldenFigures",
    "Rows",
    "check_golden",
    "cosine",
    "golden_figures",
    "relative_error",
]

Answer = Callable[[npt.NDArray[np.uint8]], Mapping[str, Array]]
"""From a frame to the engine's named outputs."""
Rows = Mapping[str, Sequence[int]]
"""For an output, the rows of the recorded answer that an engine of a smaller batch computes."""


@dataclass(frozen=True)
class GoldenFigures:
    """An engine's answers beside the FP32 graph's: the worst of all golden frames and outputs."""

    relative_error: float
    cosine: float
    mask_agreement: float

    def within(self, limits: GoldenLimits) -> bool:
        """Whether all three keep to ``limits``; NaN never does."""
        return (
            self.relative_error <= limits.relative_error
            and self.cosine >= limits.cosine
            and self.mask_agreement >= limits.mask_agreement
        )

    def against(self, limits: GoldenLimits) -> str:
        """The figures and what is allowed, in words."""
        return (
            f"relative error {self.relative_error:.3g} (at most {limits.relative_error:.3g}), "
            f"cosine {self.cosine:.6f} (at least {limits.cosine:.6f}), "
            f"mask agreement {self.mask_agreement:.5f} (at least {limits.mask_agreement:.5f})"
        )


_SOMETHING_ELSE = GoldenFigures(float("inf"), -1.0, 0.0)


def relative_error(logits: Array, reference: Array) -> float:
    """``||logits - reference|| / ||reference - mean(reference)||`` (Frobenius norms, float64).

    The mean is taken out because a common offset carries no contrast between pixels. NaN if any
    value is NaN; infinite for a different shape.
    """
    if logits.shape != reference.shape:
        return float("inf")
    ref = reference.astype(np.float64)
    return float(np.linalg.norm(logits.astype(np.float64) - ref)) / _contrast(ref)


def cosine(logits: Array, reference: Array) -> float:
    """Cosine of the angle between both after each has lost its mean (float64), -1 to 1.

    It is blind to a common factor and offset, which ``relative_error`` is not. An answer without
    contrast has no direction: 1 where both have none, 0 where one has. NaN if any value is not
    finite; -1 for a different shape.
    """
    if logits.shape != reference.shape:
        return -1.0
    found, ref = (values.astype(np.float64) for values in (logits, reference))
    if not (np.isfinite(found).all() and np.isfinite(ref).all()):
        return float("nan")
    flat = [float(np.ptp(values)) <= 1e-6 * _contrast(values) for values in (found, ref)]
    if any(flat):
        return float(all(flat))
    found, ref = found - found.mean(), ref - ref.mean()
    return float(np.vdot(found, ref) / (np.linalg.norm(found) * np.linalg.norm(ref)))


def _contrast(values: npt.NDArray[np.float64]) -> float:
    """Norm of the values less their mean; never 0.

    A constant answer (an untrained head) has no contrast; its magnitude stands in.
    """
    contrast = float(np.linalg.norm(values - values.mean()))
    magnitude = 1e-6 * float(np.linalg.norm(values))
    return max(contrast, magnitude, float(np.finfo(np.float32).tiny))


def golden_figures(
    answer: Answer, golden: Golden, readout: ReadoutSpec, rows: Rows | None = None
) -> GoldenFigures:
    """Ask for the answers to the golden frames and compare them.

    Masks are read from each output on its own grid, before views are fused, resized or
    regularised: share of the pixels that get the same class, NaN being background.

    Args:
        answer: gives outputs of the shapes that were recorded.
        golden: frames and the FP32 graph's answers.
        readout: how logits become a class.
        rows: of the recorded answers, where an engine computes fewer.

    Returns:
        The worst figures. An output that has no recorded answer, or another shape, counts as
        something else entirely.
    """
    errors, cosines, agreements = [], [], []
    for index, frame in enumerate(golden.frames):
        for name, found in answer(frame).items():
            if name not in golden.outputs:
                return _SOMETHING_ELSE
            reference = golden.outputs[name][index]
            if rows is not None:
                reference = reference[list(rows[name])]
            if found.shape != reference.shape:
                return _SOMETHING_ELSE
            errors.append(relative_error(found, reference))
            cosines.append(cosine(found, reference))
            agreements.append(_agreement(found, reference, readout))
    # np.max and np.min hand a NaN on, where max() and min() may lose it.
    return GoldenFigures(float(np.max(errors)), float(np.min(cosines)), float(np.min(agreements)))


def _agreement(found: Array, reference: Array, readout: ReadoutSpec) -> float:
    """Share of pixels of the same class over the images of a batch (N, C, h, w)."""
    same = [
        mask_from_logits(one.astype(np.float32), readout)
        == mask_from_logits(other.astype(np.float32), readout)
        for one, other in zip(found, reference, strict=True)
    ]
    return float(np.mean(same))


def check_golden(
    answer: Answer,
    golden: Golden,
    readout: ReadoutSpec,
    variant: Variant,
    engine: EngineInfo,
    *,
    rows: Rows | None = None,
) -> GoldenFigures:
    """Run the golden frames and refuse an engine whose answers left the variant's limits.

    Args:
        answer: from a frame to the engine's outputs.
        golden: as for ``golden_figures``, like ``readout`` and ``rows``.
        readout: see ``golden``.
        variant: what the engine was made from.
        engine: what it is; its backend's limits count.
        rows: see ``golden``.

    Returns:
        The figures found.

    Raises:
        GoldenMismatchError: they are outside the limits, or NaN.
    """
    limits = variant.golden_limits[placement_for(engine.backend, engine.device)]
    figures = golden_figures(answer, golden, readout, rows)
    if not figures.within(limits):
        raise GoldenMismatchError(
            f"{variant.name} on {engine.backend} {engine.version} ({engine.device_name}) does not "
            f"compute what was built: {figures.against(limits)}. "
            "Try another --backend or --precision, and report this with what  edgeseg doctor  says"
        )
    return figures
