"""``python -m edgeseg.workflows.gpu_frames -o FILE.json``: whole frames on a GPU, checked, timed.

The models of ``edgeseg.bench.gpu_frames_command``, which says what is done with them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.bench.gpu_eager import FrameCase

__all__ = ["frame_cases", "main"]

_SEED = 1
_SMOOTHED_MS = 120.0
_SIZES: dict[str, tuple[int, int, int, int]] = {
    "tiny": (64, 4, 1, 128),
    "ViT-S": (384, 12, 6, 1536),
    "ViT-B": (768, 12, 12, 3072),
}
"""Width, depth, heads and MLP width."""


def frame_cases(torch: Any, size: str, *, device: str = "cuda") -> list[FrameCase]:
    """The three families with a backbone of that size and random weights.

    Args:
        torch: the module.
        size: ``tiny``, ``ViT-S`` or ``ViT-B``.
        device: on which the modules lie; those of the engines are in half precision on a GPU.
    """
    from edgeseg.bench.gpu_eager import FrameCase
    from edgeseg.export import InputSize
    from edgeseg.export.backbone_config import BackboneConfig
    from edgeseg.export.families import dino_mvr, segdino_v1, segdino_v2

    width, depth, heads, mlp_width = _SIZES[size]
    backbone = BackboneConfig(width, depth, heads, mlp_width)
    configs: tuple[tuple[Any, Any], ...] = (
        (segdino_v1.FAMILY, segdino_v1.SegDinoV1Config(backbone)),
        (segdino_v2.FAMILY, segdino_v2.SegDinoV2Config(backbone)),
        (dino_mvr.FAMILY, dino_mvr.DinoMvrConfig(backbone, flips=("h",))),
        (
            dino_mvr.FAMILY,
            dino_mvr.DinoMvrConfig(backbone, flips=("h",), time_constant_ms=_SMOOTHED_MS),
        ),
    )
    cases = []
    for family, config in configs:
        # Anew for each: how many numbers the one before takes is none of this one's business.
        torch.manual_seed(_SEED)
        default = family.default_input(config)
        input_size = InputSize(default.height_px, default.width_px)
        model = family.build(config).eval()
        _enliven(torch, model)
        engine = copy.deepcopy(family.exportable(model, config, input_size).module).to(device)
        readout = family.readout(config)
        views = family.preprocess(config, input_size).views
        name = f"{family.title} {size}"
        if views:
            name += f", {sum(len(view.flips) for view in views)} views"
        if readout.time_constant_ms > 0.0:
            name += ", smoothed"
        cases.append(
            FrameCase(
                name,
                model.to(device),
                engine.half() if device == "cuda" else engine,
                family.preprocess(config, input_size),
                readout,
                family.inputs(config, input_size),
                family.outputs(config, input_size),
            )
        )
    return cases


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure, print and write; returns the exit code."""
    from edgeseg.bench import gpu_frames_command

    return gpu_frames_command.run(frame_cases, tuple(_SIZES), arguments)


def _enliven(torch: Any, model: Any) -> None:
    """Give fresh weights answers that depend on the picture.

    Fresh LayerScale factors are almost zero, and the logits almost constant; a mask of which
    nothing is near the threshold would prove little.
    """
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "gamma" in name:
                value.fill_(0.5)


if __name__ == "__main__":
    raise SystemExit(main())
