"""Whether the float rest of an INT8 engine is better computed in bfloat16 on this processor.

Processors with AVX-512 BF16 or AMX multiply bfloat16 at twice the rate of FP32 and more, and move
half the bytes: what is left of attention, norms and residuals then takes less time. It is a choice
of the run time, not of the graph, so it is made once, by measurement, recorded in the bundle, and
everything that is said of the variant (golden limits, accuracy, latency) is measured with it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgeseg._progress import Progress
from edgeseg.backends import EngineOptions, available_backends, open_engine
from edgeseg.bench.rounds import measure_rounds
from edgeseg.bench.stats import ratio
from edgeseg.bundle import Golden
from edgeseg.golden import golden_figures
from edgeseg.spec import BackendName, Decision, Manifest, Variant
from edgeseg.workflows._selftest import answering, feeder

__all__ = ["with_bfloat16"]

_BACKEND: BackendName = "openvino"
"""The one library here that offers it for a graph in FP32."""
_SMALLEST_GAIN = 1.02
_ERROR_MAY_GROW = 1.25
_ERROR_MAY_ADD = 0.002
_ROUNDS, _CALLS = 10, 3


def with_bfloat16(folder: Path, manifest: Manifest, golden: Golden, progress: Progress) -> Manifest:
    """Time every INT8 variant of OpenVINO with both, and keep bfloat16 where it wins and is right.

    It wins where it is at least 2 % faster, by the quickest calls of rounds in turn, and is right
    where the error on the golden frames grows by no more than a quarter of itself (and 0.002).
    Where this processor has no bfloat16, or OpenVINO is not installed, nothing changes.
    """
    if _BACKEND not in available_backends():
        return manifest
    tried = [v for v in manifest.variants if v.products == "int8" and _BACKEND in v.backends]
    variants = {variant.name: variant for variant in manifest.variants}
    decisions = []
    for done, variant in enumerate(tried):
        progress("try bfloat16", done, len(tried))
        found = _judge(folder, manifest, golden, variant)
        if found is not None:
            kept, decision = found
            decisions.append(decision)
            if kept:
                variants[variant.name] = dataclasses.replace(variant, bfloat16=(_BACKEND,))
        progress("try bfloat16", done + 1, len(tried))
    return dataclasses.replace(
        manifest,
        variants=tuple(variants.values()),
        decisions=(*manifest.decisions, *decisions),
    )


def _judge(
    folder: Path, manifest: Manifest, golden: Golden, variant: Variant
) -> tuple[bool, Decision] | None:
    """Whether to keep it, and why; None where this processor has no bfloat16."""
    feed = feeder(manifest.preprocess, variant.inputs)
    path = folder / variant.file
    with (
        open_engine(path, _BACKEND, EngineOptions(bfloat16=True)) as half,
        open_engine(path, _BACKEND, EngineOptions()) as single,
    ):
        if half.info.precision != "bf16":
            return None
        errors = [
            golden_figures(answering(engine, feed), golden, manifest.readout).relative_error
            for engine in (half, single)
        ]
        tensors = feed(golden.frames[0])
        rounds = measure_rounds(
            {"bf16": lambda: half.infer(tensors), "f32": lambda: single.infer(tensors)},
            rounds=_ROUNDS,
            block=_CALLS,
        )
    # The quickest call of each round: what other programs take only ever adds.
    quickest = {name: [(min(calls),) for calls in found] for name, found in rounds.items()}
    gain = ratio(quickest["f32"], quickest["bf16"], paired=True)
    wins = gain.value >= _SMALLEST_GAIN and gain.high > 1.0
    right = errors[0] <= _ERROR_MAY_GROW * errors[1] + _ERROR_MAY_ADD
    figures = (
        f"{gain.value:.2f} times as fast ({gain.low:.2f} to {gain.high:.2f}), error on the golden "
        f"frames {errors[0]:.2g} against {errors[1]:.2g}"
    )
    rest = "bfloat16 where the processor has it" if wins and right else "FP32"
    return wins and right, Decision(
        f"rest of {variant.name} on OpenVINO: {rest}", f"bfloat16 is {figures}"
    )
