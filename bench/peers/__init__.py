"""What a checkpoint is compared with: each library in its most natural use.

One module a library. ``edgeseg.workflows._peers`` makes from a checkpoint what they open, and
opens the torch ones, whose module comes from ``edgeseg.export``. Importing this package imports
none of the libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeseg.bench.candidate import Candidate
from edgeseg.bench.peers.spec import PEERS, CandidateSpec, PeerKind
from edgeseg.errors import BackendError, UsageError

__all__ = ["PEERS", "CandidateSpec", "PeerKind", "open_peer", "require_library"]

_LIBRARIES: dict[PeerKind, tuple[str, str | None]] = {
    "torch": ("torch", "export"),
    "torch-compile": ("torch", "export"),
    "onnxruntime": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", None),
    "openvino-f32": ("openvino", None),
    "nncf": ("nncf", "bench"),
}


def require_library(kind: str) -> None:
    """See to it that a peer's library is there.

    Raises:
        UsageError: there is no such peer; lists those that there are.
        MissingDependencyError: it is not installed; names the line that installs it.
    """
    from edgeseg._optional import require

    if kind not in PEERS:
        raise UsageError(f"unknown peer {kind!r}: choose among {', '.join(PEERS)}")
    if kind == "nncf":
        from edgeseg.bench.peers.nncf import library

        library()
    else:
        require(*_LIBRARIES[kind])


def open_peer(
    spec: CandidateSpec, *, load_module: Callable[[Path], Any] | None = None
) -> Candidate:
    """Open a peer.

    Args:
        spec: of the peer.
        load_module: makes the authors' torch module, in eval mode, from the path of a checkpoint;
            only the torch peers need it (``edgeseg.workflows._peers.open_candidate`` brings it).

    Raises:
        UsageError: a torch peer without ``load_module``, or fusion of what has no views.
        MissingDependencyError: the library is not installed; names the line that installs it.
        BackendError: the library cannot load the file, or could not make it.
    """
    if spec.unavailable is not None:
        raise BackendError(spec.unavailable)
    if spec.fusion is not None:
        # Before the library works for minutes.
        _check_fusion(spec)
    candidate = _open(spec, load_module)
    if spec.fusion is None:
        return candidate
    from edgeseg.bench.peers.fusing import FusingPeer

    return FusingPeer(candidate, spec)


def _check_fusion(spec: CandidateSpec) -> None:
    if spec.preprocess is None or spec.readout is None or not spec.preprocess.views:
        raise UsageError(f"{spec.kind}: there is nothing to fuse in a model that reads one view")


def _open(spec: CandidateSpec, load_module: Callable[[Path], Any] | None) -> Candidate:
    if spec.kind in ("torch", "torch-compile"):
        if load_module is None:
            raise UsageError(f"{spec.kind} needs a function that loads the checkpoint's module")
        from edgeseg.bench.peers.torch_eager import TorchPeer

        return TorchPeer(spec, load_module(spec.file))
    if spec.kind == "onnxruntime":
        from edgeseg.bench.peers.onnxruntime import OnnxRuntimePeer

        return OnnxRuntimePeer(spec)
    from edgeseg.bench.peers.openvino import OpenVinoPeer

    return OpenVinoPeer(spec)
