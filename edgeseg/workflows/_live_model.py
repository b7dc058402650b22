"""The engine of a live session, and what is to be said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg import model as models
from edgeseg.model import Model
from edgeseg.settings import Settings
from edgeseg.spec import Precision

__all__ = ["EngineChoice", "model_card"]


_AS_BUILT = Settings()


@dataclass(frozen=True)
class EngineChoice:
    """What ``edgeseg.open`` takes."""

    bundle: Path
    backend: str = "auto"
    device: str = "auto"
    precision: Precision | None = None
    threads: int | None = None
    settings: Settings = _AS_BUILT

    def open(self) -> Model:
        """The model.

        Raises:
            EdgesegError: as ``edgeseg.open``.
        """
        return models.open(
            self.bundle,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            settings=self.settings,
        )


def model_card(model: Model) -> dict[str, Any]:
    """What a page shows of a model: JSON values, from the manifest and the open engine."""
    manifest, variant = model.manifest, model.variant
    size = model.preprocess_spec
    info = model.engine.info
    accuracy = [
        {
            "variant": score.variant,
            "backend": score.backend,
            "against": score.against,
            "cases": score.cases,
            "dice": score.dice,
            "iou": score.iou,
        }
        for score in manifest.scores
        if score.variant in (variant.name, "fp32")
    ]
    return {
        "name": manifest.name,
        "family": manifest.family,
        "classes": list(manifest.classes),
        "precision": variant.precision,
        "variant": variant.name,
        "backend": f"{info.backend} {info.version}",
        "device": info.device,
        "input_size": f"{size.height_px}x{size.width_px}",
        "views": sum(len(view.flips) for view in size.views) or 1,
        "built_utc": manifest.provenance.created_utc,
        "checkpoint": manifest.provenance.checkpoint,
        "checkpoint_sha256": manifest.provenance.checkpoint_sha256,
        "accuracy": accuracy,
        "golden_masks_agree": model.golden_figures.mask_agreement,
        "licence": manifest.licence_notice,
    }
