"""Write an untrained checkpoint of a released size: for timing, where no weights are at hand.

    python -m edgeseg.export.random_checkpoint segdino_v1 --backbone small -o random.pth

Latency does not depend on the values of the weights, and DINOv3's own are licensed to whoever asks
Meta for them. The file is what the authors' training code would save before its first step.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from edgeseg._files import atomic_file, check_output
from edgeseg.errors import EdgesegError
from edgeseg.export.backbone_config import BackboneConfig
from edgeseg.export.registry import family_named, known_families

__all__ = ["BACKBONES", "write_random_checkpoint"]

_log = logging.getLogger(__name__)

BackboneName = Literal["small", "small_plus", "base", "large"]

BACKBONES: dict[BackboneName, BackboneConfig] = {
    "small": BackboneConfig(width=384, depth=12, heads=6, mlp_width=1536),
    "small_plus": BackboneConfig(width=384, depth=12, heads=6, mlp_width=1536, mlp="swiglu"),
    "base": BackboneConfig(width=768, depth=12, heads=12, mlp_width=3072),
    "large": BackboneConfig(width=1024, depth=24, heads=16, mlp_width=4096),
}
"""The released DINOv3 vision transformers (arXiv 2508.10104), by name."""


def write_random_checkpoint(
    path: Path, family: str, backbone: BackboneName, *, classes: int = 1, seed: int = 0
) -> None:
    """Write a state dict with random weights in the authors' format.

    Args:
        path: file to write, replaced if it exists.
        family: a family's identifier, e.g. ``segdino_v2``.
        backbone: one of ``BACKBONES``.
        classes: channels of the logits.
        seed: of the weights.

    Raises:
        UnknownFamilyError: no such family; lists those that are.
        OutputError: the file cannot be written.
    """
    known = family_named(family)
    config = known.config_type(BACKBONES[backbone], classes=classes)
    torch.manual_seed(seed)
    model = known.build(config)
    for name, value in model.named_parameters():
        # Zero-initialised gates would let whole branches vanish from the logits.
        if name.endswith(("gamma", "gamma_1", "gamma_2")):
            nn.init.normal_(value, std=0.5)
    state, settings = known.state_dict(model), known.settings(config)
    with atomic_file(path) as temporary:
        torch.save({"state_dict": state, "config": settings} if settings else state, temporary)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write an untrained checkpoint, for timing.")
    parser.add_argument("family", choices=[family.name for family in known_families()])
    parser.add_argument("--backbone", choices=list(BACKBONES), default="small")
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        check_output(options.output, force=options.force)
        write_random_checkpoint(
            options.output,
            options.family,
            options.backbone,
            classes=options.classes,
            seed=options.seed,
        )
    except EdgesegError as error:
        _log.error("edgeseg: %s", error)
        return error.exit_code
    _log.info("%s", options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
