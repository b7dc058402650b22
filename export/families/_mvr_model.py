"""DINO-MVR in torch: the probes, and the model over any number of resolutions."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from edgeseg.export.backbone import Dinov3Backbone
from edgeseg.export.backbone_config import PATCH_PX
from edgeseg.export.families._mvr_config import PROBES, DinoMvrConfig

__all__ = ["DinoMvrModel", "Probes", "probe_taps"]


def probe_taps(depth: int) -> tuple[int, ...]:
    """The blocks that the probes read: the last ones, in ascending order."""
    return tuple(range(depth - PROBES, depth))


class Probes(nn.ModuleList):
    """One perceptron (Linear, exact GELU, Linear) for each tapped block.

    Parameter names are the checkpoint's without ``probes.``: ``0.0.weight`` to ``2.2.bias``.
    """

    def __init__(self, width: int, hidden: Iterable[int], channels: int) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, channels))
            for inner in hidden
        )

    def forward(self, tokens: tuple[Tensor, ...]) -> Tensor:
        """The mean of the probes' logits, (N, patches, C), of one (N, patches, width) for each."""
        logits = [probe(taken) for probe, taken in zip(self, tokens, strict=True)]
        total = logits[0]
        for other in logits[1:]:
            total = total + other
        return total * (1.0 / len(logits))


class DinoMvrModel(nn.Module):
    """Backbone and probes; one pass for each resolution, over the batch of its mirrored copies."""

    def __init__(self, config: DinoMvrConfig) -> None:
        super().__init__()
        width = config.backbone.width
        self.backbone = Dinov3Backbone(config.backbone, probe_taps(config.backbone.depth))
        self.probes = Probes(width, config.hidden, config.classes)

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Logits on the patch grid.

        Args:
            images: one (N, 3, H, W) float32 for each resolution, normalised; H and W multiples
                of 16.

        Returns:
            One (N, C, H/16, W/16) for each of ``images``.

        Raises:
            InputError: H or W is not a multiple of 16.
        """
        answers = []
        for image in images:
            logits = self.probes(self.backbone.tokens(image))
            rows, columns = (side_px // PATCH_PX for side_px in image.shape[-2:])
            answers.append(logits.transpose(1, 2).reshape(len(image), -1, rows, columns))
        return tuple(answers)
