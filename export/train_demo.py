"""Train the small SegDINO v2 that edgeseg ships, on generated endoscopy, from scratch.

    python -m edgeseg.export.train_demo --output segdino_v2_demo.pth

With its defaults this reproduces ``edgeseg/assets/segdino_v2_demo.pth``: bit for bit only on the
same processor with the same versions of torch, timm, numpy and OpenCV, elsewhere a model as good
as it. It takes about half an hour on one core. The model knows nothing of real endoscopy.

The file is a bare state dict in the authors' format: Meta's DINOv3 spelling under ``backbone.``,
the SegDINO v2 decoder under ``decoder.``.
"""

from __future__ import annotations

import argparse
import io
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg import kernels
from edgeseg._files import atomic_file, check_output
from edgeseg.errors import EdgesegError
from edgeseg.export.backbone_config import BackboneConfig
from edgeseg.export.families.segdino_v2 import FAMILY, SegDinoV2Config
from edgeseg.export.family import InputSize
from edgeseg.metrics import dice, resize_mask
from edgeseg.synthetic import Scene, scene_seeds

__all__ = ["CONFIG", "LabelledFrames", "held_out_dice", "make_frames", "train"]

_log = logging.getLogger(__name__)

CONFIG = SegDinoV2Config(
    BackboneConfig(width=96, depth=6, heads=3, mlp_width=384), decoder_channels=32, classes=1
)
SIZE = InputSize(256, 256)
DEFAULT_STEPS = 9500
DEFAULT_SEED = 7
POOL_SCENES = 1600
HELD_OUT_SEED = 1_000_003
HELD_OUT_FRAMES = 200

_FRAME_SIZES = ((288, 384), (256, 320), (256, 256))
_SMALL_SHARE = 0.73
"""Share of the steps on 128x128 input, a quarter of the work: RoPE takes any size."""
_SMALL_BATCH, _FULL_BATCH = 6, 4
"""Progress goes with the number of steps here, so they are kept cheap."""
_PEAK_RATE = 1.5e-3
_WARM_UP_STEPS = 200


@dataclass(frozen=True)
class LabelledFrames:
    """Frames at the network's input size, before normalisation."""

    images: npt.NDArray[np.uint8]
    """(N, 256, 256, 3) RGB."""
    masks: npt.NDArray[np.uint8]
    """(N, 256, 256), 0 or 1."""


def make_frames(
    seed: int,
    scenes: int,
    *,
    per_scene: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> LabelledFrames:
    """Render scenes of several aspect ratios and resample them as the family's preprocessing does.

    Args:
        seed: of the list of scenes.
        scenes: how many scenes.
        per_scene: moments of each, some seconds apart.
        progress: called with (scenes done, scenes).
    """
    preprocess = FAMILY.preprocess(CONFIG, SIZE)
    total = scenes * per_scene
    images = np.empty((total, SIZE.height_px, SIZE.width_px, 3), dtype=np.uint8)
    masks = np.empty((total, SIZE.height_px, SIZE.width_px), dtype=np.uint8)
    for index, scene_seed in enumerate(scene_seeds(seed, scenes)):
        scene = Scene(scene_seed, *_FRAME_SIZES[index % len(_FRAME_SIZES)])
        for moment in range(per_scene):
            frame, mask = scene.render(4.7 * moment)
            place = index * per_scene + moment
            resized = kernels.resize_u8(
                frame, SIZE.height_px, SIZE.width_px, resample=preprocess.resample
            )
            images[place] = resized[..., ::-1]
            masks[place] = resize_mask(mask, SIZE.height_px, SIZE.width_px) > 0
        if progress is not None:
            progress(index + 1, scenes)
    return LabelledFrames(images, masks)


def train(
    frames: LabelledFrames,
    *,
    steps: int = DEFAULT_STEPS,
    seed: int = DEFAULT_SEED,
    progress: Callable[[int, int, float], None] | None = None,
) -> nn.Module:
    """Train `CONFIG` from random weights with AdamW, cosine decay, cross-entropy plus soft Dice.

    Args:
        frames: what to learn from.
        steps: optimiser steps; the first 73 % on 128x128 input, the rest at full size.
        seed: of weights, batches and augmentation.
        progress: called with (step, steps, loss).

    Returns:
        The model, in eval mode.
    """
    torch.manual_seed(seed)
    rng = np.random.Generator(np.random.PCG64(seed))
    model = FAMILY.build(CONFIG)
    _start_from_scratch(model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=_PEAK_RATE,
        betas=(0.9, 0.98),
    )
    model.train()
    for step in range(steps):
        small = step < _SMALL_SHARE * steps
        rate = _PEAK_RATE * _schedule(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = rng.integers(0, len(frames.images), _SMALL_BATCH if small else _FULL_BATCH)
        image, mask = _augmented(
            frames, chosen, rng, SIZE.height_px // 2 if small else SIZE.height_px
        )
        loss = _loss(model(image), mask)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps, float(loss.detach()))
    return model.eval()


def held_out_dice(model: nn.Module, frames: LabelledFrames) -> float:
    """Mean foreground Dice over frames, at the network's resolution, threshold 0.5."""
    scores = []
    with torch.inference_mode():
        for image, mask in zip(frames.images, frames.masks, strict=True):
            logits = model(_normalised(torch.from_numpy(image[None].copy())))
            scores.append(dice(logits[0, 0].numpy() > 0.0, mask > 0))
    return float(np.mean(scores))


def _start_from_scratch(model: nn.Module) -> None:
    """Residual branches at full strength: the released models' small scales suit fine-tuning."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gamma_1", "gamma_2", ".gamma")):
                parameter.fill_(0.5)


def _schedule(step: int, steps: int) -> float:
    warm_up = min(_WARM_UP_STEPS, steps // 4)
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.5 * (1.0 + math.cos(math.pi * done)) * 0.99 + 0.01


def _normalised(images: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 RGB to the network's (N, 3, H, W) float32 input."""
    spec = FAMILY.preprocess(CONFIG, SIZE)
    mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
    std = torch.tensor(spec.std).view(1, 3, 1, 1)
    return (images.permute(0, 3, 1, 2).float() * spec.scale - mean) / std


def _augmented(
    frames: LabelledFrames, chosen: npt.NDArray[np.int64], rng: np.random.Generator, side_px: int
) -> tuple[Tensor, Tensor]:
    images, masks = [], []
    for index in chosen:
        image, mask = frames.images[index], frames.masks[index]
        turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
        image, mask = np.rot90(image, turns), np.rot90(mask, turns)
        if mirrored:
            image, mask = image[:, ::-1], mask[:, ::-1]
        image, mask = np.ascontiguousarray(image), np.ascontiguousarray(mask)
        if side_px != image.shape[0]:
            size = (side_px, side_px)
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            mask = resize_mask(mask, side_px, side_px)
        gains = rng.uniform(0.85, 1.15) * rng.uniform(0.94, 1.06, 3)
        images.append(np.clip(image * gains + 0.5, 0, 255).astype(np.uint8))
        masks.append(mask)
    image_batch = _normalised(torch.from_numpy(np.stack(images)))
    return image_batch, torch.from_numpy(np.stack(masks)).float()[:, None]


def _loss(logits: Tensor, mask: Tensor) -> Tensor:
    entropy = F.binary_cross_entropy_with_logits(logits, mask)
    probability = torch.sigmoid(logits)
    overlap = (probability * mask).sum(dim=(1, 2, 3))
    size = probability.sum(dim=(1, 2, 3)) + mask.sum(dim=(1, 2, 3))
    pixels = mask[0].numel()
    soft_dice = (2.0 * overlap + 0.002 * pixels) / (size + 0.002 * pixels)
    return entropy + 0.5 * (1.0 - soft_dice.mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m edgeseg.export.train_demo``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.export.train_demo",
        description="Train the demonstration checkpoint on generated frames.",
    )
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="optimiser steps")
    parser.add_argument("--scenes", type=int, default=POOL_SCENES, help="scenes to learn from")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch and OpenCV")
    parser.add_argument("--output", type=Path, default=Path("segdino_v2_demo.pth"))
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        check_output(options.output, force=options.force)
        _train_and_save(options)
    except EdgesegError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


def _train_and_save(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    cv2.setNumThreads(options.threads)
    started = time.monotonic()

    def rendered(done: int, total: int) -> None:
        if done % 250 == 0:
            _log.info("rendered %d of %d scenes", done, total)

    recent: list[float] = []

    def stepped(step: int, steps: int, loss: float) -> None:
        recent.append(loss)
        if step % 100 == 0 or step == steps:
            elapsed = time.monotonic() - started
            _log.info("step %d of %d, loss %.4f, %.0f s", step, steps, np.mean(recent), elapsed)
            recent.clear()

    frames = make_frames(options.seed, options.scenes, per_scene=2, progress=rendered)
    model = train(frames, steps=options.steps, seed=options.seed, progress=stepped)
    # By way of memory: torch would write the temporary file's name into the archive.
    archive = io.BytesIO()
    torch.save(FAMILY.state_dict(model), archive)
    with atomic_file(options.output) as temporary:
        temporary.write_bytes(archive.getvalue())
    held_out = make_frames(HELD_OUT_SEED, HELD_OUT_FRAMES)
    _log.info("wrote %s, %d bytes", options.output, options.output.stat().st_size)
    _log.info("held-out Dice %.4f on %d frames", held_out_dice(model, held_out), HELD_OUT_FRAMES)


if __name__ == "__main__":
    sys.exit(main())
