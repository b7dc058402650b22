"""The bound of each candidate: the operations and bytes of its own graph on this machine."""

from __future__ import annotations

from pathlib import Path

from edgeseg.bench.candidate import Candidate
from edgeseg.bench.engine_candidate import EngineCandidate
from edgeseg.bench.peers import CandidateSpec
from edgeseg.bench.result import BoundRecord, LimitsRecord
from edgeseg.bench.work import Arithmetic, bound, count_work

__all__ = ["bound_of", "graph_of", "size_mib"]

_READ = (".onnx", ".xml")
_REST: dict[str, Arithmetic] = {
    "float32": "fp32",
    "f32": "fp32",
    "bfloat16": "bf16",
    "bf16": "bf16",
}
"""By the last word of a candidate's precision. No rate is measured for others."""


def graph_of(candidate: Candidate, peers: list[CandidateSpec]) -> Path | None:
    """The file with the candidate's operations; None if there is none to read.

    Torch computes those of the plain export, which exists where another peer needs it.
    """
    if isinstance(candidate, EngineCandidate):
        return candidate.model.bundle.file(candidate.model.variant.file)
    files: dict[str, Path] = {spec.kind: spec.file for spec in peers if spec.file.suffix in _READ}
    plain = (file for kind, file in files.items() if kind != "nncf")
    return files.get(candidate.name) or next(plain, None)


def bound_of(
    candidate: Candidate, graph: Path | None, limits: LimitsRecord, median_ms: float
) -> BoundRecord | None:
    """The bound; None without a graph, or where no rate was measured for its arithmetic."""
    rest = _REST.get(candidate.precision.rpartition(" ")[2])
    if graph is None or rest is None:
        return None
    return bound(count_work(graph, rest=rest), limits, median_ms)


def size_mib(candidate: Candidate, peers: list[CandidateSpec]) -> float:
    """Size of the candidate's files on disk."""
    if isinstance(candidate, EngineCandidate):
        graph = candidate.model.bundle.file(candidate.model.variant.file)
        files = (graph, graph.with_name(f"{graph.name}.data"))
        return sum(file.stat().st_size for file in files if file.is_file()) / 2**20
    (spec,) = (spec for spec in peers if spec.kind == candidate.name)
    return spec.file_mib
