"""Small random checkpoints of every family and layout, for all tests that need one.

The keys and shapes are written out here from the published code, not taken from edgeseg's modules,
so that what is tested is not what is used to test it.

    make_checkpoint(path, "segdino_v2", decoder_channels=16)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["LAYOUTS", "make_checkpoint", "make_state_dict", "to_timm_spelling"]

LAYOUTS = (
    "segdino_v1",
    "segdino_v1_old",
    "segdino_v1_fine",
    "segdino_v2",
    "segdino_v2_first",
    "dino_mvr",
)
"""What `make_state_dict` makes; ``segdino_v1_old`` is v1 before ``head.proj``."""

_LEVELS = (1, 2, 3, 4)

# Models this small lose time to threads, and more of it where tests share the machine.
torch.set_num_threads(1)


class _Weights:
    """A state dict in the making; its values exercise every term of the formulation."""

    def __init__(self, seed: int) -> None:
        self.state: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def noise(self, name: str, *shape: int, scale: float = 1.0, mean: float = 0.0) -> None:
        self.state[name] = torch.randn(shape, generator=self._generator) * scale + mean

    def matrix(self, name: str, *shape: int, bias: bool = True) -> None:
        """A linear or convolution weight that keeps the variance of its input, and its bias."""
        fan_in = int(torch.tensor(shape[1:]).prod())
        self.noise(f"{name}.weight", *shape, scale=fan_in**-0.5)
        if bias:
            self.noise(f"{name}.bias", shape[0], scale=0.2)

    def transposed(self, name: str, channels: int, scale: int, *, bias: bool) -> None:
        self.noise(f"{name}.weight", channels, channels, scale, scale, scale=channels**-0.5)
        if bias:
            self.noise(f"{name}.bias", channels, scale=0.2)

    def affine(self, name: str, width: int) -> None:
        self.noise(f"{name}.weight", width, scale=0.2, mean=1.0)
        self.noise(f"{name}.bias", width, scale=0.2)

    def norm(self, name: str, width: int, kind: str) -> None:
        self.affine(name, width)
        if kind == "batch":
            self.noise(f"{name}.running_mean", width, scale=0.2)
            self.state[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=self._generator)
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def make_state_dict(
    layout: str,
    *,
    width: int = 64,
    depth: int = 4,
    heads: int = 2,
    mlp_width: int | None = None,
    swiglu: bool = False,
    registers: int = 4,
    decoder_channels: int = 16,
    features: int = 16,
    projects: tuple[int, int, int, int] = (8, 12, 16, 20),
    classes: int = 1,
    norm: str = "group",
    hidden: tuple[int, int, int] = (12, 16, 20),
    key_bias: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """A random state dict of one of `LAYOUTS`, in Meta's spelling, as the authors save it.

    Args:
        layout: one of `LAYOUTS`.
        width, depth, heads, mlp_width, swiglu, registers: the backbone; ``width / heads`` must be a
            multiple of 4 and ``mlp_width`` defaults to four times the width.
        decoder_channels: of v2 (its first layout always takes the backbone's width).
        features, projects: of v1 and its fine-grained variant.
        classes: channels of the logits.
        norm: ``group`` or ``batch``, in v2's decoders.
        hidden: widths of DINO-MVR's probes.
        key_bias: let ``bias_mask`` pass the key bias, which released models mask out.
        seed: of the weights.
    """
    weights = _Weights(seed)
    _backbone(weights, width, depth, heads, mlp_width or 4 * width, swiglu, registers, key_bias)
    if layout == "segdino_v2":
        _v2(weights, width, decoder_channels, classes, norm)
    elif layout == "segdino_v2_first":
        _v2_first(weights, width, classes, norm)
    elif layout == "dino_mvr":
        for i, inner in enumerate(hidden):
            weights.matrix(f"probes.{i}.0", inner, width)
            weights.matrix(f"probes.{i}.2", classes, inner)
    elif layout in ("segdino_v1", "segdino_v1_old", "segdino_v1_fine"):
        for i, channels in enumerate(projects):
            weights.matrix(f"head.projects.{i}", channels, width, 1, 1)
            weights.matrix(f"head.scratch.layer{i + 1}_rn", features, channels, 3, 3, bias=False)
        if layout == "segdino_v1_fine":
            _fine(weights, features, projects, classes)
        else:
            weights.matrix("head.scratch.output_conv", classes, 4 * features, 1, 1)
        if layout == "segdino_v1":
            weights.transposed("head.proj", features, 4, bias=False)
    else:
        raise ValueError(f"no layout {layout!r}; there are {LAYOUTS}")
    return weights.state


def make_checkpoint(
    path: Path,
    layout: str = "segdino_v2",
    *,
    config: dict[str, Any] | None = None,
    **hyper: Any,
) -> Path:
    """Save `make_state_dict` to ``path`` with ``torch.save``, and return the path.

    With ``config``, a nested state dict with the config beside it.
    """
    state = make_state_dict(layout, **hyper)
    torch.save(state if config is None else {"state_dict": state, "config": config}, path)
    return path


def to_timm_spelling(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with the backbone named as timm names it (no key bias, no periods)."""
    renamed: dict[str, Tensor] = {}
    swaps = {
        "storage_tokens": "reg_token",
        "ls1.gamma": "gamma_1",
        "ls2.gamma": "gamma_2",
        "mlp.w1.": "mlp.fc1_g.",
        "mlp.w2.": "mlp.fc1_x.",
        "mlp.w3.": "mlp.fc2.",
    }
    for key, value in state.items():
        if key.endswith(("mask_token", "bias_mask", "rope_embed.periods")):
            continue
        if key.endswith("attn.qkv.bias"):
            query, _, values = value.chunk(3)
            renamed[key.replace("qkv.bias", "q_bias")] = query
            renamed[key.replace("qkv.bias", "v_bias")] = values
            continue
        name = key
        for old, new in swaps.items():
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


def _backbone(
    weights: _Weights,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    swiglu: bool,
    registers: int,
    key_bias: bool,
) -> None:
    weights.noise("backbone.cls_token", 1, 1, width)
    weights.noise("backbone.storage_tokens", 1, registers, width)
    weights.noise("backbone.mask_token", 1, width)
    weights.matrix("backbone.patch_embed.proj", width, 3, 16, 16)
    quarter = width // heads // 4
    weights.state["backbone.rope_embed.periods"] = 100.0 ** (torch.arange(quarter) / quarter)
    mask = torch.ones(3 * width)
    mask[width : 2 * width] = float(key_bias)
    for i in range(depth):
        block = f"backbone.blocks.{i}"
        weights.affine(f"{block}.norm1", width)
        weights.matrix(f"{block}.attn.qkv", 3 * width, width)
        weights.state[f"{block}.attn.qkv.bias_mask"] = mask.clone()
        weights.matrix(f"{block}.attn.proj", width, width)
        weights.noise(f"{block}.ls1.gamma", width, scale=0.3)
        weights.affine(f"{block}.norm2", width)
        if swiglu:
            weights.matrix(f"{block}.mlp.w1", hidden, width)
            weights.matrix(f"{block}.mlp.w2", hidden, width)
            weights.matrix(f"{block}.mlp.w3", width, hidden)
        else:
            weights.matrix(f"{block}.mlp.fc1", hidden, width)
            weights.matrix(f"{block}.mlp.fc2", width, hidden)
        weights.noise(f"{block}.ls2.gamma", width, scale=0.3)
    weights.affine("backbone.norm", width)


def _v2(weights: _Weights, width: int, channels: int, classes: int, norm: str) -> None:
    for i, level in enumerate(_LEVELS):
        weights.matrix(f"decoder.token_projections.{i}", channels, width, 1, 1, bias=False)
        weights.matrix(f"decoder.tpa_branch_{level}.conv", channels, channels, 3, 3, bias=False)
        for kind in ("intra", "inter"):
            block = f"decoder.sad_{kind}_{level}"
            weights.noise(f"{block}.gamma", 1)
            weights.matrix(f"{block}.depthwise", channels, 1, 3, 3, bias=False)
            weights.matrix(f"{block}.pointwise", channels, channels, 1, 1, bias=False)
            weights.norm(f"{block}.norm", channels, norm)
    weights.matrix("decoder.out_conv", classes, channels, 1, 1)


def _v2_first(weights: _Weights, width: int, classes: int, norm: str) -> None:
    for i in range(4):
        weights.matrix(f"head.proj.{i}", width, width, 1, 1, bias=False)
    weights.transposed("head.rsz1", width, 4, bias=False)
    weights.transposed("head.rsz2", width, 2, bias=False)
    weights.matrix("head.rsz4", width, width, 3, 3, bias=False)
    for level in _LEVELS:
        for kind in ("intra", "inter"):
            block = f"head.{kind}_r{level}"
            weights.noise(f"{block}.gamma", 1)
            weights.matrix(f"{block}.dw", width, 1, 3, 3, bias=False)
            weights.matrix(f"{block}.pw", width, width, 1, 1, bias=False)
            weights.norm(f"{block}.norm", width, norm)
    weights.matrix("head.out_conv", classes, width, 1, 1)


def _fine(
    weights: _Weights, features: int, projects: tuple[int, int, int, int], classes: int
) -> None:
    weights.transposed("head.resize_layers.0", projects[0], 4, bias=True)
    weights.transposed("head.resize_layers.1", projects[1], 2, bias=True)
    weights.matrix("head.resize_layers.3", projects[3], projects[3], 3, 3)
    for level in _LEVELS:
        block = f"head.scratch.refinenet{level}"
        weights.matrix(f"{block}.out_conv", features, features, 1, 1)
        for unit in ("resConfUnit1", "resConfUnit2"):
            for conv in ("conv1", "conv2"):
                weights.matrix(f"{block}.{unit}.{conv}", features, features, 3, 3)
    weights.matrix("head.scratch.output_conv.0", features, features, 3, 3)
    weights.matrix("head.scratch.output_conv.2", classes, features, 1, 1)
