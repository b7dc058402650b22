"""edgeseg: trained DINOv3 segmentation checkpoints as FP16/INT8 engines, beside an endoscope.

    with edgeseg.open("polyp.edgeseg") as model:
        result = model(frame)           # uint8 (H, W, 3) BGR, any size
        result.mask, result.probability, result.contours, result.area_px, result.timings_ms

Names are imported on first use, so that ``import edgeseg`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.model import Model, Result, open
    from edgeseg.settings import Settings
    from edgeseg.temporal import TemporalSmoother
    from edgeseg.workflows.ablate import ablate
    from edgeseg.workflows.benchmark import benchmark
    from edgeseg.workflows.build import build
    from edgeseg.workflows.evaluate import evaluate
    from edgeseg.workflows.event_report import report_events
    from edgeseg.workflows.fit import fit
    from edgeseg.workflows.run import run
    from edgeseg.workflows.segment import segment
    from edgeseg.workflows.stream import stream

__all__ = [
    "Model",
    "Result",
    "Settings",
    "TemporalSmoother",
    "__version__",
    "ablate",
    "benchmark",
    "build",
    "evaluate",
    "fit",
    "open",
    "report_events",
    "run",
    "segment",
    "stream",
]
__version__ = "0.1.0"

_HOMES = {
    "Model": "edgeseg.model",
    "Result": "edgeseg.model",
    "Settings": "edgeseg.settings",
    "TemporalSmoother": "edgeseg.temporal",
    "open": "edgeseg.model",
    "ablate": "edgeseg.workflows.ablate",
    "benchmark": "edgeseg.workflows.benchmark",
    "build": "edgeseg.workflows.build",
    "evaluate": "edgeseg.workflows.evaluate",
    "fit": "edgeseg.workflows.fit",
    "report_events": "edgeseg.workflows.event_report",
    "run": "edgeseg.workflows.run",
    "segment": "edgeseg.workflows.segment",
    "stream": "edgeseg.workflows.stream",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
