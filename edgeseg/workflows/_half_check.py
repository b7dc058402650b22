"""Do the FP16 files of a build survive hardware that really computes in FP16?

The inference libraries of a build machine compute FP16 files in FP32. Here the golden frames run
with every FP16 tensor rounded, which is also the nearest thing to TensorRT's arithmetic that a
machine without it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.backends.base import Array
from edgeseg.errors import MissingDependencyError
from edgeseg.spec import Decision, Variant

if TYPE_CHECKING:
    from edgeseg.calib import HalfReport

__all__ = ["HalfCheck", "check_half", "half_decisions"]


@dataclass(frozen=True)
class HalfCheck:
    """What a file answers with every FP16 tensor rounded."""

    answers: tuple[dict[str, Array], ...]
    """The named outputs for each feed; not finite where FP16 overflowed."""
    report: HalfReport

    @property
    def survives(self) -> bool:
        """Whether no FP16 tensor overflowed."""
        return not self.report.overflowed


def check_half(
    folder: Path,
    variant: Variant,
    feeds: Iterable[Mapping[str, Array]],
    threads: int | None = None,
) -> HalfCheck | None:
    """Run a variant's file with every FP16 tensor rounded.

    Args:
        folder: that of the bundle.
        variant: one of its variants.
        feeds: the graph's named inputs, for one frame after another.
        threads: CPU threads; None: all.

    Returns:
        None where there is nothing to round, or nothing to do it with: the variant holds no FP16
        arithmetic, or ONNX Runtime is not installed. ``half_decisions`` tells the user.

    Raises:
        CalibrationError, BackendError: the file cannot be run so.
    """
    if variant.rest != "fp16":
        return None
    from edgeseg import calib

    try:
        evaluator = calib.HalfEvaluator(folder / variant.file, threads)
    except MissingDependencyError:
        return None
    with evaluator:
        answers = tuple(evaluator.infer(feed) for feed in feeds)
        return HalfCheck(answers, evaluator.report())


def half_decisions(
    variants: Sequence[Variant], checks: Mapping[str, HalfCheck]
) -> tuple[Decision, ...]:
    """What a manifest says of FP16's range.

    Args:
        variants: all of the build.
        checks: the results of ``check_half`` that are not None, by the variant's name.

    Returns:
        One for each variant that overflowed, with the place and the variants that survive; one for
        all variants that could not be checked.
    """
    survivors = [v.name for v in variants if v.name in checks and checks[v.name].survives]
    survivors += [v.name for v in variants if v.precision == "fp32"]
    decisions = []
    for variant in variants:
        check = checks.get(variant.name)
        if check is None or check.survives:
            continue
        decisions.append(
            Decision(
                f"warning: {variant.name} overflows FP16 on generated frames",
                f"{_where(check.report)}. It is kept, since a library may hold the value in a "
                "wider register; TensorRT's is judged by the golden frames on the device. "
                f"Safe are: {', '.join(survivors)}",
            )
        )
    unchecked = [v.name for v in variants if v.rest == "fp16" and v.name not in checks]
    if unchecked:
        decisions.append(
            Decision(
                f"FP16's rounding and range were not checked: {', '.join(unchecked)}",
                "it takes ONNX Runtime: run  pip install 'edgeseg[onnxruntime]'  and build again",
            )
        )
    return tuple(decisions)


def _where(report: HalfReport) -> str:
    from edgeseg.calib.half import MAX_HALF

    others = len(report.overflowed) - 1
    return f"{report.worst} reaches {report.magnitude:.4g}, beyond {MAX_HALF:.0f}" + (
        f", and {others} results that follow from it are lost" if others else ""
    )
