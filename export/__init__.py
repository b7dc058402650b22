"""From a trained checkpoint to an FP32 ONNX graph; the only home of torch.

Importing this package imports neither torch nor timm nor onnx; using one of its names does.

    loaded = export.load(Path("polyp.pth"))
    graph = export.export_onnx(loaded, Path("polyp.onnx"), height_px=256, width_px=256)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.export.backbone_source import read_backbone
    from edgeseg.export.family import Family, InputSize
    from edgeseg.export.fitting.fit import fit_config, fit_probes, write_checkpoint
    from edgeseg.export.loading import CheckpointInfo, LoadedCheckpoint, inspect, load
    from edgeseg.export.onnx_export import ExportedGraph, export_onnx
    from edgeseg.export.parity import ParityCases, check_parity
    from edgeseg.export.registry import known_families

__all__ = [
    "CheckpointInfo",
    "ExportedGraph",
    "Family",
    "InputSize",
    "LoadedCheckpoint",
    "ParityCases",
    "check_parity",
    "export_onnx",
    "fit_config",
    "fit_probes",
    "inspect",
    "known_families",
    "load",
    "read_backbone",
    "write_checkpoint",
]

_HOMES = {
    "CheckpointInfo": "loading",
    "ExportedGraph": "onnx_export",
    "Family": "family",
    "InputSize": "family",
    "LoadedCheckpoint": "loading",
    "ParityCases": "parity",
    "check_parity": "parity",
    "export_onnx": "onnx_export",
    "fit_config": "fitting.fit",
    "fit_probes": "fitting.fit",
    "inspect": "loading",
    "known_families": "registry",
    "load": "loading",
    "read_backbone": "backbone_source",
    "write_checkpoint": "fitting.fit",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use.

    Raises:
        MissingDependencyError: torch is not installed; names the extra that brings it.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from edgeseg._optional import require

    require("torch", "export")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
