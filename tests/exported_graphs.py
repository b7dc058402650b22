"""One exported graph a layout, which several test modules share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints import LAYOUTS, make_checkpoint

from edgeseg.export import ExportedGraph, InputSize, LoadedCheckpoint, export_onnx, load

__all__ = ["HYPER", "SIZE", "Exported", "export_all", "export_plain"]

HYPER: dict[str, dict[str, Any]] = {
    "segdino_v1": {"classes": 3, "width": 96, "heads": 3},
    "segdino_v1_old": {"swiglu": True, "mlp_width": 72},
    "segdino_v1_fine": {"features": 24, "registers": 2},
    "segdino_v2": {"decoder_channels": 64, "key_bias": True},
    "segdino_v2_first": {"norm": "batch", "classes": 2, "depth": 5},
    "dino_mvr": {
        "classes": 2,
        "width": 96,
        "heads": 3,
        "config": {"resolutions": [[96, 64], [224, 320]], "flips": ["v"]},
    },
}
"""One graph a layout, so made that together they vary everything that can vary."""

SIZE = InputSize(224, 320)

Exported = dict[str, tuple[LoadedCheckpoint, ExportedGraph]]


def export_all(folder: Path) -> Exported:
    """A checkpoint of each layout and its graph for ``SIZE``, in ``folder``."""
    graphs = {}
    for layout in LAYOUTS:
        loaded = load(make_checkpoint(folder / f"{layout}.pth", layout, **HYPER[layout]))
        graph = export_onnx(
            loaded, folder / f"{layout}.onnx", height_px=SIZE.height_px, width_px=SIZE.width_px
        )
        graphs[layout] = (loaded, graph)
    return graphs


def export_plain(exported: Exported, folder: Path) -> Exported:
    """The graphs of ``export_all`` without rewrites, in ``folder``."""
    return {
        layout: (
            loaded,
            export_onnx(
                loaded,
                folder / f"{layout}.onnx",
                height_px=SIZE.height_px,
                width_px=SIZE.width_px,
                rewrite=False,
            ),
        )
        for layout, (loaded, _) in exported.items()
    }
