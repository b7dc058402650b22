"""An ONNX file on one of edgeseg's own engines, with no bundle around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.bench.candidate import Array, Candidate
from edgeseg.spec import BackendName

__all__ = ["GraphCandidate", "GraphSpec"]


@dataclass(frozen=True)
class GraphSpec:
    """How to open it: all that a process of its own has to be told, as JSON types.

    Attributes:
        name: of the candidate.
        file: absolute path of the graph.
        backend: the library.
        threads: CPU threads.
        precision: the arithmetic that the file is written for, in words.
    """

    name: str
    file: str
    backend: BackendName
    threads: int
    precision: str = "float32"

    @property
    def file_mib(self) -> float:
        """Size of the graph and of its weights' file, if it has one."""
        path = Path(self.file)
        files = (path, path.with_name(f"{path.name}.data"))
        return sum(file.stat().st_size for file in files if file.is_file()) / 2.0**20

    def open(self) -> GraphCandidate:
        """Open it.

        Raises:
            BackendError: the library refuses the file.
        """
        return GraphCandidate(self)


class GraphCandidate(Candidate):
    """The engine that a bundle with this graph would open."""

    def __init__(self, spec: GraphSpec) -> None:
        path = Path(spec.file)
        self._engine = open_engine(path, spec.backend, EngineOptions(threads=spec.threads))
        info = self._engine.info
        self.name = spec.name
        self.version = f"{info.backend} {info.version}"
        self.how = f"edgeseg's engine for {info.backend} on {path.name}"
        self.precision = spec.precision
        self.threads = info.threads
        self.parallel = self._engine.parallel

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The engine's outputs; see ``Candidate.infer``."""
        return self._engine.infer(tensors)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()
