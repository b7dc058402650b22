"""The self-test of a loaded engine: does it still compute what was measured at the build?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgeseg.backends.base import Array, Engine
from edgeseg.bundle import Golden
from edgeseg.errors import GoldenMismatchError
from edgeseg.spec import Variant

__all__ = ["Rows", "check_golden", "golden_error", "relative_error"]

Preprocess = Callable[[npt.NDArray[np.uint8]], Mapping[str, Array]]
Rows = Mapping[str, Sequence[int]]
"""For an output, the rows of the recorded answer that an engine of a smaller batch computes."""


def relative_error(logits: Array, reference: Array) -> float:
    """``||logits - reference|| / ||reference - mean(reference)||`` (Frobenius norms, float64).

    The mean is taken out because a common offset carries no contrast between pixels. NaN if any
    value is NaN; infinite for a different shape.
    """
    if logits.shape != reference.shape:
        return float("inf")
    ref = reference.astype(np.float64)
    contrast = float(np.linalg.norm(ref - ref.mean()))
    # A constant answer (an untrained head) has no contrast; fall back on its magnitude.
    scale = max(contrast, 1e-6 * float(np.linalg.norm(ref)), float(np.finfo(np.float32).tiny))
    return float(np.linalg.norm(logits.astype(np.float64) - ref)) / scale


def golden_error(
    engine: Engine, golden: Golden, preprocess: Preprocess, rows: Rows | None = None
) -> float:
    """Largest relative error of the engine's outputs over the golden frames.

    It is infinite where an output has no recorded answer.
    """
    errors = []
    for index, frame in enumerate(golden.frames):
        answers = engine.infer(preprocess(frame))
        for name, answer in answers.items():
            if name not in golden.outputs:
                return float("inf")
            reference = golden.outputs[name][index]
            if rows is not None:
                reference = reference[list(rows[name])]
            errors.append(relative_error(answer, reference))
    return float(np.max(errors))  # np.max hands a NaN on, where max() may lose it


def check_golden(
    engine: Engine,
    golden: Golden,
    preprocess: Preprocess,
    variant: Variant,
    backend: str,
    *,
    rows: Rows | None = None,
) -> float:
    """Run the golden frames and refuse an engine whose answers left the tolerance.

    Returns:
        The relative error found.

    Raises:
        GoldenMismatchError: it is larger than the variant's tolerance for this backend, or NaN.
    """
    tolerance = variant.golden_tolerance[backend]
    error = golden_error(engine, golden, preprocess, rows)
    if not error <= tolerance:
        info = engine.info
        raise GoldenMismatchError(
            f"{variant.name} on {backend} {info.version} ({info.device_name}) does not compute "
            f"what was built: relative error of the golden logits {error:.3g}, "
            f"allowed {tolerance:.3g}. "
            "Try another --backend or --precision, and report this with what  edgeseg doctor  says"
        )
    return error
