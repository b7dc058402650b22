"""How to open a peer: all that a process of its own has to be told, as JSON types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from edgeseg.bench.candidate import Array
from edgeseg.errors import InputError
from edgeseg.spec import PreprocessSpec, ReadoutSpec, TensorSpec

__all__ = ["PEERS", "CandidateSpec", "PeerKind"]

PeerKind = Literal["torch", "torch-compile", "onnxruntime", "openvino", "openvino-f32", "nncf"]
PEERS: tuple[PeerKind, ...] = get_args(PeerKind)
"""What ``--vs`` knows."""


@dataclass(frozen=True)
class CandidateSpec:
    """A checkpoint made ready for one library.

    ``edgeseg.spec.to_json`` writes it and ``from_json`` reads it.

    Attributes:
        kind: the library, and how it is used.
        files: absolute paths; the first is opened: the checkpoint, the ONNX file, or OpenVINO's
            XML. The others go with it.
        threads: CPU threads of one inference; with the hint ``throughput`` of all together.
        inputs: of the graph, in the order of the module's arguments.
        outputs: of the graph, in the order in which the module returns them.
        hint: ``latency``: one request at a time, all threads on it; ``throughput``: several at
            once, as each library offers it.
        fusion: ``opencv``: the peer also reads its views out, with OpenCV and numpy
            (`edgeseg.bench.peers.fusing.FusingPeer`).
        preprocess: what makes its inputs; needed for ``fusion``.
        readout: what becomes of its outputs; needed for ``fusion``.
        frames: calibration frames that NNCF took; 0 for the others.
        unavailable: why the library could not make or open it; `open_peer` raises it.
        notes: what a reader of the report has to know.
    """

    kind: PeerKind
    files: tuple[str, ...]
    threads: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    hint: Literal["latency", "throughput"] = "latency"
    fusion: Literal["opencv"] | None = None
    preprocess: PreprocessSpec | None = None
    readout: ReadoutSpec | None = None
    frames: int = 0
    unavailable: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """What the library opens."""
        return Path(self.files[0])

    @property
    def file_mib(self) -> float:
        """Size of all files together."""
        return sum(Path(name).stat().st_size for name in self.files) / 2.0**20

    @property
    def parallel(self) -> int:
        """Requests at once of a library whose calls share no threads."""
        return self.threads if self.hint == "throughput" else 1

    @property
    def threads_per_request(self) -> int:
        """CPU threads of one request of such a library."""
        return 1 if self.hint == "throughput" else self.threads

    def arguments(self, tensors: Mapping[str, Array]) -> list[Array]:
        """The inputs in order, C-contiguous.

        Raises:
            InputError: one is missing.
        """
        missing = [spec.name for spec in self.inputs if spec.name not in tensors]
        if missing:
            raise InputError(
                f"{self.kind} needs the inputs {', '.join(missing)}, and got "
                f"{', '.join(tensors) or 'none'}"
            )
        return [np.ascontiguousarray(tensors[spec.name]) for spec in self.inputs]
