"""From a trained checkpoint to an FP32 ONNX graph; the only home of torch.

Importing this package imports neither torch nor timm nor onnx; its functions do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.export.family import Family, InputSize
    from edgeseg.export.loading import CheckpointInfo, LoadedCheckpoint, inspect, load
    from edgeseg.export.registry import known_families

__all__ = [
    "CheckpointInfo",
    "Family",
    "InputSize",
    "LoadedCheckpoint",
    "known_families",
    "inspect",
    "load",
]

_HOMES = {
    "CheckpointInfo": "loading",
    "Family": "family",
    "InputSize": "family",
    "LoadedCheckpoint": "loading",
    "known_families": "registry",
    "inspect": "loading",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgeseg._optional import require

    require("torch", "export")
    return getattr(require(f"{__name__}.{_HOMES[name]}", "export"), name)
