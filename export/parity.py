"""The FP32 graph against the torch formulation it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeseg.errors import ExportError
from edgeseg.export.family import InputSize
from edgeseg.export.loading import LoadedCheckpoint
from edgeseg.spec import ParityRecord, TensorSpec

__all__ = ["TOLERANCE", "ParityCases", "check_parity"]

TOLERANCE = 1e-4
"""Largest accepted difference, as a share of the range of the logits."""

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

_SEED = 0


class ParityCases:
    """Inputs with torch's answers to them, which are computed once for all runtimes."""

    def __init__(
        self, loaded: LoadedCheckpoint, size: InputSize, tensors: Sequence[Tensors] = ()
    ) -> None:
        """Ask torch about noise and about the given inputs (see `check_parity`)."""
        inputs = loaded.family.inputs(loaded.config, size)
        self._outputs = loaded.family.outputs(loaded.config, size)
        self._cases = [_noise(inputs), *tensors]
        self._expected = [_torch_answer(loaded, inputs, self._outputs, c) for c in self._cases]

    def check(self, run: Callable[[Tensors], Mapping[str, Array]], runtime: str) -> ParityRecord:
        """Compare a runtime's answers with torch's.

        Raises:
            ExportError: as `check_parity`.
        """
        found = [run(case) for case in self._cases]
        records = [_compare(spec, self._expected, found, runtime) for spec in self._outputs]
        return max(records, key=lambda record: record.relative)


def check_parity(
    loaded: LoadedCheckpoint,
    size: InputSize,
    run: Callable[[Tensors], Mapping[str, Array]],
    *,
    runtime: str,
    tensors: Sequence[Tensors] = (),
) -> ParityRecord:
    """Compare a runtime's answers with torch's, on noise and on given inputs.

    The torch side is the formulation as loaded, not the form that was exported, so that the
    rewriting for export is judged too.

    Args:
        loaded: the checkpoint that the graph was exported from.
        size: the input size it was exported for.
        run: inference with the graph: named inputs to named outputs.
        runtime: what ``run`` uses, for the record, e.g. ``onnxruntime 1.24.4``.
        tensors: further inputs, preprocessed, one mapping of all named inputs a call.

    Returns:
        The largest difference, and the range of that output's logits over all inputs.

    Raises:
        ExportError: the difference is over `TOLERANCE` of the range, or not a number; the outputs
            have other names or shapes; or the logits are constant, so that nothing can be compared.
    """
    return ParityCases(loaded, size, tensors).check(run, runtime)


def _noise(inputs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Standard normal values: what a normalised image's are like, in every frequency."""
    generator = np.random.default_rng(_SEED)
    return {s.name: generator.standard_normal(s.shape).astype(s.dtype) for s in inputs}


def _torch_answer(
    loaded: LoadedCheckpoint,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    case: Tensors,
) -> dict[str, Array]:
    arguments = [torch.from_numpy(np.ascontiguousarray(case[spec.name])) for spec in inputs]
    with torch.inference_mode():
        answer = loaded.model(*arguments)
    values = answer if isinstance(answer, tuple) else (answer,)
    return {spec.name: value.numpy() for spec, value in zip(outputs, values, strict=True)}


def _compare(
    spec: TensorSpec,
    expected: Sequence[Tensors],
    found: Sequence[Tensors],
    runtime: str,
) -> ParityRecord:
    for answer in found:
        if spec.name not in answer or answer[spec.name].shape != spec.shape:
            shapes = {name: value.shape for name, value in answer.items()}
            raise ExportError(
                f"{runtime} gave {shapes}, expected {spec.name!r} of shape {spec.shape}"
            )
    want = np.stack([answer[spec.name] for answer in expected]).astype(np.float64)
    got = np.stack([answer[spec.name] for answer in found]).astype(np.float64)
    span = float(want.max() - want.min())
    if not span > 0:
        raise ExportError(
            f"the model's {spec.name} are the same everywhere ({want.flat[0]:g}), so the export "
            "cannot be judged: the checkpoint looks untrained"
        )
    record = ParityRecord(float(np.abs(got - want).max()), span, runtime)
    if not record.relative <= TOLERANCE:
        raise ExportError(
            f"{runtime} differs from torch by {record.max_abs_difference:g} in {spec.name}, which "
            f"is {record.relative:.2g} of their range {span:g}; at most {TOLERANCE:g} is accepted. "
            "Try another version of the runtime or of torch"
        )
    return record
