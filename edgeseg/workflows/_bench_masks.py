"""What is timed of a model of several views: inference, and the fusion of its views to a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.engine_candidate import EngineCandidate
from edgeseg.bench.peers.fusing import FusingPeer
from edgeseg.bench.rounds import Rounds
from edgeseg.errors import UsageError
from edgeseg.workflows._bench_inputs import Fed

__all__ = ["FUSION_NOTE", "OWN_FUSION", "MaskCall", "mask_calls"]

FUSION_NOTE = (
    "latency is that of inference and of the fusion of all views to the mask on the model's grid, "
    "for every candidate; the share of the bound, throughput and energy are of the network alone"
)
OWN_FUSION = "its views are fused by edgeseg's own read-out"


class MaskCall:
    """Inference and read-out of a candidate on one frame; notes what the former takes."""

    def __init__(
        self,
        candidate: Candidate,
        tensors: Mapping[str, Array],
        read_out: Callable[[Mapping[str, Array]], object],
    ) -> None:
        self._candidate, self._tensors, self._read_out = candidate, tensors, read_out
        self._inference_ms: list[float] = []

    def __call__(self) -> None:
        """Do one frame."""
        start = perf_counter()
        outputs = self._candidate.infer(self._tensors)
        self._inference_ms.append(1e3 * (perf_counter() - start))
        self._read_out(outputs)

    def inference(self, rounds: Rounds) -> Rounds:
        """The part that inference took of the calls in ``rounds``.

        Args:
            rounds: of ``measure_rounds``, which made the latest calls. Each block opens with one
                call that it does not count.
        """
        lengths = [len(block) + 1 for block in rounds]
        start = len(self._inference_ms) - sum(lengths)
        found = []
        for length in lengths:
            found.append(tuple(self._inference_ms[start + 1 : start + length]))
            start += length
        return tuple(found)


def mask_calls(
    candidates: Sequence[Candidate], inputs: Fed, grid_hw_px: tuple[int, int]
) -> dict[str, MaskCall]:
    """What to time of candidates for a model of several views; by name.

    Args:
        candidates: edgeseg's own, and peers that fuse.
        inputs: of each.
        grid_hw_px: (height, width) of the model's own grid.

    Raises:
        UsageError: a peer that does not fuse its views.
    """
    return {one.name: MaskCall(one, inputs(one), _read_out(one, grid_hw_px)) for one in candidates}


def _read_out(
    candidate: Candidate, grid_hw_px: tuple[int, int]
) -> Callable[[Mapping[str, Array]], object]:
    if isinstance(candidate, EngineCandidate):
        return candidate.model.read_grid
    if isinstance(candidate, FusingPeer):
        return lambda outputs: candidate.read_out(outputs, grid_hw_px)
    raise UsageError(f"{candidate.name} does not fuse its views, so its latency compares with none")
