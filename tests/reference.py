"""The models as their papers and code describe them, in float64 and plain functions.

Written independently of edgeseg's modules, over a state dict in Meta's spelling: whoever changes
the formulation there must fail against this one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["reference_features", "reference_head", "reference_logits"]

State = dict[str, Tensor]


def reference_logits(layout: str, state: State, image: Tensor, heads: int) -> Tensor:
    """Logits (N, C, H, W) in float64 of a normalised image (N, 3, H, W).

    Those of DINO-MVR stay on the patch grid: (N, C, H/16, W/16).
    """
    weights = {key: value.double() for key, value in state.items()}
    if layout == "dino_mvr":
        return _mvr(weights, image.double(), heads)
    maps = reference_features(weights, image.double(), heads)
    return reference_head(layout, weights, maps, image.shape[-2:])


def reference_head(layout: str, weights: State, maps: list[Tensor], size: torch.Size) -> Tensor:
    """Logits (N, C, H, W) of SegDINO's four float64 maps, resized to ``size``."""
    decode = {
        "segdino_v1": _v1,
        "segdino_v1_old": _v1,
        "segdino_v1_fine": _v1_fine,
        "segdino_v2": _v2,
        "segdino_v2_first": _v2_first,
    }[layout]
    return _bilinear(decode(weights, maps), size, align_corners=layout != "segdino_v2")


def reference_features(
    w: State, image: Tensor, heads: int, raw: bool = False, blocks: list[int] | None = None
) -> list[Tensor]:
    """The tapped feature maps (N, D, h, w), each after the final norm unless ``raw``.

    SegDINO's four, or those of ``blocks``.
    """
    width = w["backbone.cls_token"].shape[-1]
    depth = 1 + max(int(k.split(".")[2]) for k in w if k.startswith("backbone.blocks."))
    taps = {
        12: [2, 5, 8, 11],
        24: [4, 11, 17, 23],
        4: [0, 1, 2, 3],
        8: [1, 3, 5, 7],
        5: [0, 1, 2, 4],
    }
    n, _, height, width_px = image.shape
    rows, columns = height // 16, width_px // 16
    patches = image.reshape(n, 3, rows, 16, columns, 16).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(n, rows * columns, 3 * 256)
    kernel = w["backbone.patch_embed.proj.weight"].reshape(width, -1)
    x = patches @ kernel.T + w["backbone.patch_embed.proj.bias"]
    prefix = torch.cat([w["backbone.cls_token"], w["backbone.storage_tokens"]], dim=1)
    x = torch.cat([prefix.expand(n, -1, -1), x], dim=1)
    angles = _angles(w["backbone.rope_embed.periods"], rows, columns)
    out = []
    for i in range(depth):
        block = {
            k.removeprefix(f"backbone.blocks.{i}."): v
            for k, v in w.items()
            if k.startswith(f"backbone.blocks.{i}.")
        }
        x = x + block["ls1.gamma"] * _attention(block, _norm(x, block, "norm1"), heads, angles)
        x = x + block["ls2.gamma"] * _mlp(block, _norm(x, block, "norm2"))
        if i in (blocks or taps[depth]):
            tap = x if raw else _norm(x, w, "backbone.norm")
            tap = tap[:, prefix.shape[1] :]
            out.append(tap.transpose(1, 2).reshape(n, width, rows, columns))
    return out


def _angles(periods: Tensor, rows: int, columns: int) -> Tensor:
    """(rows * columns, head width / 2): first the row's angles, then the column's."""
    y = torch.tensor([2 * (i + 0.5) / rows - 1 for i in range(rows)], dtype=torch.float64)
    x = torch.tensor([2 * (i + 0.5) / columns - 1 for i in range(columns)], dtype=torch.float64)
    table = torch.empty(rows, columns, 2, len(periods), dtype=torch.float64)
    table[:, :, 0] = (2 * math.pi * y[:, None] / periods)[:, None]
    table[:, :, 1] = (2 * math.pi * x[:, None] / periods)[None]
    return table.reshape(rows * columns, -1)


def _attention(w: State, x: Tensor, heads: int, angles: Tensor) -> Tensor:
    n, count, width = x.shape
    bias = w["attn.qkv.bias"] * w["attn.qkv.bias_mask"]
    qkv = F.linear(x, w["attn.qkv.weight"], bias).reshape(n, count, 3, heads, width // heads)
    query, key, value = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    before = count - len(angles)
    query, key = _rotate(query, angles, before), _rotate(key, angles, before)
    scores = query @ key.transpose(-2, -1) / math.sqrt(width // heads)
    scores = scores - scores.amax(dim=-1, keepdim=True)
    weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
    mixed = (weights @ value).transpose(1, 2).reshape(n, count, width)
    return F.linear(mixed, w["attn.proj.weight"], w["attn.proj.bias"])


def _rotate(x: Tensor, angles: Tensor, before: int) -> Tensor:
    """Turn channel pairs (i, i + d/2) of the patch tokens, as complex numbers."""
    prefix, patches = x[:, :, :before], x[:, :, before:]
    first, second = patches.chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([prefix, torch.cat([turned.real, turned.imag], dim=-1)], dim=2)


def _mlp(w: State, x: Tensor) -> Tensor:
    if "mlp.w1.weight" in w:
        gate = F.linear(x, w["mlp.w1.weight"], w["mlp.w1.bias"])
        hidden = gate * torch.sigmoid(gate) * F.linear(x, w["mlp.w2.weight"], w["mlp.w2.bias"])
        return F.linear(hidden, w["mlp.w3.weight"], w["mlp.w3.bias"])
    hidden = _gelu(F.linear(x, w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
    return F.linear(hidden, w["mlp.fc2.weight"], w["mlp.fc2.bias"])


def _norm(x: Tensor, w: State, name: str) -> Tensor:
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _bilinear(x: Tensor, size: torch.Size, align_corners: bool) -> Tensor:
    """As two products with one-dimensional interpolation matrices."""
    down = _weights(x.shape[-2], size[-2], align_corners)
    across = _weights(x.shape[-1], size[-1], align_corners)
    return down @ x @ across.T


def _weights(source: int, target: int, align_corners: bool) -> Tensor:
    matrix = torch.zeros(target, source, dtype=torch.float64)
    for i in range(target):
        if align_corners:
            position = i * (source - 1) / (target - 1) if target > 1 else 0.0
        else:
            position = min(max((i + 0.5) * source / target - 0.5, 0.0), source - 1.0)
        low = min(int(position), source - 1)
        high = min(low + 1, source - 1)
        matrix[i, low] += 1 - (position - low)
        matrix[i, high] += position - low
    return matrix


def _conv(x: Tensor, w: State, name: str, stride: int = 1, groups: int = 1) -> Tensor:
    weight = w[f"{name}.weight"]
    padding = weight.shape[-1] // 2
    return F.conv2d(x, weight, w.get(f"{name}.bias"), stride, padding, groups=groups)


def _upconv(x: Tensor, w: State, name: str) -> Tensor:
    """A transposed convolution whose stride is its kernel: every pixel becomes a tile."""
    weight = w[f"{name}.weight"]
    k = weight.shape[-1]
    n, _, rows, columns = x.shape
    tiles = torch.einsum("ncyx,cdij->ndyixj", x, weight)
    out = tiles.reshape(n, weight.shape[1], rows * k, columns * k)
    bias = w.get(f"{name}.bias")
    return out if bias is None else out + bias[:, None, None]


def _v1(w: State, maps: list[Tensor]) -> Tensor:
    levels = [
        _conv(_conv(m, w, f"head.projects.{i}"), w, f"head.scratch.layer{i + 1}_rn")
        for i, m in enumerate(maps)
    ]
    if "head.proj.weight" in w:
        levels[0] = _upconv(levels[0], w, "head.proj")
    size = levels[0].shape[-2:]
    fused = [levels[0], *(_bilinear(level, size, align_corners=True) for level in levels[1:])]
    return _conv(torch.cat(fused, dim=1), w, "head.scratch.output_conv")


def _v1_fine(w: State, maps: list[Tensor]) -> Tensor:
    def unit(x: Tensor, name: str) -> Tensor:
        return x + _conv(_conv(x.clamp(min=0), w, f"{name}.conv1").clamp(min=0), w, f"{name}.conv2")

    one, two, three, four = (_conv(m, w, f"head.projects.{i}") for i, m in enumerate(maps))
    one = _upconv(one, w, "head.resize_layers.0")
    two = _upconv(two, w, "head.resize_layers.1")
    four = _conv(four, w, "head.resize_layers.3", stride=2)
    one, two, three, four = (
        _conv(x, w, f"head.scratch.layer{i}_rn") for i, x in enumerate((one, two, three, four), 1)
    )
    doubled = torch.Size((2 * one.shape[-2], 2 * one.shape[-1]))
    net = "head.scratch.refinenet"
    path = unit(four, f"{net}4.resConfUnit2")
    path = _conv(_bilinear(path, three.shape[-2:], True), w, f"{net}4.out_conv")
    for i, level, size in ((3, three, two.shape[-2:]), (2, two, one.shape[-2:]), (1, one, doubled)):
        path = unit(path + unit(level, f"{net}{i}.resConfUnit1"), f"{net}{i}.resConfUnit2")
        path = _conv(_bilinear(path, size, True), w, f"{net}{i}.out_conv")
    hidden = _conv(path, w, "head.scratch.output_conv.0").clamp(min=0)
    return _conv(hidden, w, "head.scratch.output_conv.2")


def _residual(x: Tensor, w: State, name: str, depthwise: str, pointwise: str) -> Tensor:
    channels = x.shape[1]
    r = _conv(_conv(x, w, f"{name}.{depthwise}", groups=channels), w, f"{name}.{pointwise}")
    if f"{name}.norm.running_mean" in w:
        mean = w[f"{name}.norm.running_mean"][:, None, None]
        variance = w[f"{name}.norm.running_var"][:, None, None]
    else:
        grouped = r.reshape(len(r), min(32, channels), -1)
        mean = grouped.mean(-1).repeat_interleave(channels // grouped.shape[1], 1)[..., None, None]
        variance = grouped.var(-1, unbiased=False)
        variance = variance.repeat_interleave(channels // grouped.shape[1], 1)[..., None, None]
    r = (r - mean) / torch.sqrt(variance + 1e-5)
    r = r * w[f"{name}.norm.weight"][:, None, None] + w[f"{name}.norm.bias"][:, None, None]
    return x + w[f"{name}.gamma"] * _gelu(r)


def _top_down(levels: list[Tensor], w: State, inter: str, parts: tuple[str, str]) -> Tensor:
    x = _residual(levels[3], w, f"{inter}4", *parts)
    for i in (2, 1, 0):
        x = _bilinear(x, levels[i].shape[-2:], align_corners=False) + levels[i]
        x = _residual(x, w, f"{inter}{i + 1}", *parts)
    return x


def _v2(w: State, maps: list[Tensor]) -> Tensor:
    parts = ("depthwise", "pointwise")
    levels = []
    for i, (m, k) in enumerate(zip(maps, (8, 4, 2, 1), strict=True)):
        x = _conv(m, w, f"decoder.token_projections.{i}")
        x = _bilinear(x, torch.Size((x.shape[-2] * k, x.shape[-1] * k)), align_corners=False)
        x = _conv(x, w, f"decoder.tpa_branch_{i + 1}.conv")
        levels.append(_residual(x, w, f"decoder.sad_intra_{i + 1}", *parts))
    return _conv(_top_down(levels, w, "decoder.sad_inter_", parts), w, "decoder.out_conv")


def _mvr(w: State, image: Tensor, heads: int) -> Tensor:
    depth = 1 + max(int(k.split(".")[2]) for k in w if k.startswith("backbone.blocks."))
    maps = reference_features(w, image, heads, blocks=[depth - 3, depth - 2, depth - 1])
    total = torch.zeros((), dtype=torch.float64)
    for i, m in enumerate(maps):
        first, second = w[f"probes.{i}.0.weight"], w[f"probes.{i}.2.weight"]
        hidden = torch.einsum("ndyx,kd->nkyx", m, first) + w[f"probes.{i}.0.bias"][:, None, None]
        logits = torch.einsum("nkyx,ck->ncyx", _gelu(hidden), second)
        total = total + logits + w[f"probes.{i}.2.bias"][:, None, None]
    return total / 3


def _v2_first(w: State, maps: list[Tensor]) -> Tensor:
    x = [_conv(m, w, f"head.proj.{i}") for i, m in enumerate(maps)]
    x[0], x[1] = _upconv(x[0], w, "head.rsz1"), _upconv(x[1], w, "head.rsz2")
    x[3] = _conv(x[3], w, "head.rsz4", stride=2)
    levels = [_residual(m, w, f"head.intra_r{i}", "dw", "pw") for i, m in enumerate(x, 1)]
    return _conv(_top_down(levels, w, "head.inter_r", ("dw", "pw")), w, "head.out_conv")
