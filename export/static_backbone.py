"""The DINOv3 ViT for one patch grid, in the form that makes the plainest graph.

The same function as `edgeseg.export.backbone.Dinov3Backbone` up to float rounding: one qkv product
with its bias, RoPE tables as constants over all tokens (prefix tokens are turned by the angle zero,
so they need not be cut off and put back), the attention scale inside the query's tables, and no
tensor of more than four dimensions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.export.backbone import Dinov3Backbone

__all__ = ["Attention", "Block", "StaticBackbone", "StaticTokens", "StaticTransformer", "twin"]


M = TypeVar("M", bound=nn.Module)


def twin(module: M) -> M:
    """A copy of the modules over the same parameters: other names in a graph, the same weights."""
    shared = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(value): value for value in shared})


class StaticTransformer(nn.Module):
    """What depends on the patch grid (rows, columns) alone: RoPE tables, blocks with one qkv."""

    query_scale: float
    """What the tables of the query multiply it by; 1 where its weights do so."""

    def __init__(self, source: Dinov3Backbone, grid: tuple[int, int]) -> None:
        super().__init__()
        config = source.config
        self.width = config.width
        self.prefix_tokens = config.prefix_tokens
        self.taps = source.taps
        self.patch_embed = source.patch_embed.proj
        self.blocks = nn.ModuleList(Block(block, config.heads) for block in source.blocks)
        self.norm = source.norm
        self.query_scale = config.head_width**-0.5
        self._set_tables(source, grid)

    def _set_tables(self, source: Dinov3Backbone, grid: tuple[int, int]) -> None:
        sine, cosine = _rope_tables(source, grid)
        self.grid = grid
        self.register_buffer("key_sine", sine)
        self.register_buffer("key_cosine", cosine)
        if self.query_scale != 1.0:
            self.register_buffer("query_sine", sine * self.query_scale)
            self.register_buffer("query_cosine", cosine * self.query_scale)

    def share_tables(self) -> None:
        """Turn queries by the keys' tables: their scale is in their weights from now on."""
        self.query_scale = 1.0
        del self.query_sine, self.query_cosine

    def transform(self, tokens: Tensor) -> Iterator[Tensor]:
        """Patch tokens (N, patches, width) after the final norm, of one tapped block at a time."""
        turn_key = (self.key_sine, self.key_cosine)
        turn_query = turn_key if self.query_scale == 1.0 else (self.query_sine, self.query_cosine)
        patches = math.prod(self.grid)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, turn_query, turn_key)
            if index in self.taps:
                first = tokens.shape[1] - patches
                yield self.norm(tokens.narrow(1, first, patches) if first else tokens)


class StaticBackbone(StaticTransformer):
    """Copy of a loaded backbone for ``grid`` (rows, columns of patches) and a fixed batch."""

    def __init__(self, source: Dinov3Backbone, grid: tuple[int, int], batch: int) -> None:
        super().__init__(source, grid)
        self.batch = batch
        prefix = torch.cat((source.cls_token, source.reg_token), dim=1).detach()
        self.register_buffer("prefix", prefix.expand(batch, -1, -1).contiguous())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Tapped features (batch, width, rows, columns) of an image that fits the grid."""
        count = math.prod(self.grid)
        patches = self.patch_embed(image).reshape(self.batch, self.width, count).transpose(1, 2)
        tokens = torch.cat((self.prefix, patches), dim=1)
        return tuple(
            tapped.transpose(1, 2).reshape(self.batch, self.width, *self.grid)
            for tapped in self.transform(tokens)
        )


class StaticTokens(StaticTransformer):
    """Copy of a loaded backbone for ``grid`` that gives tokens, with no constant of the batch.

    Prefix tokens are added to rows of zeros, so that they are one constant for any batch; a graph
    of several images can be reshaped to fewer.
    """

    def _set_tables(self, source: Dinov3Backbone, grid: tuple[int, int]) -> None:
        super()._set_tables(source, grid)
        prefix = torch.cat((source.cls_token, source.reg_token), dim=1).detach()
        self.register_buffer("prefix", F.pad(prefix, (0, 0, 0, math.prod(grid))))

    def for_grid(self, source: Dinov3Backbone, grid: tuple[int, int]) -> StaticTokens:
        """The same for another grid, over the same parameters; made of the same ``source``."""
        other = twin(self)
        other._set_tables(source, grid)
        return other

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Tapped patch tokens (N, patches, width) of images that fit the grid."""
        patches = self.patch_embed(image).flatten(2).transpose(1, 2)
        tokens = F.pad(patches, (0, 0, self.prefix_tokens, 0)) + self.prefix
        return tuple(self.transform(tokens))


_Turn = tuple[Tensor, Tensor]
"""Sine and cosine, each (1, 1, tokens, head width)."""


class Block(nn.Module):
    """A transformer block whose query, key and value come from one product.

    Attributes:
        gamma_1, gamma_2: LayerScale of attention and MLP; None once it is part of their weights.
        skipped: leading tokens whose output nobody reads, so that they serve as keys and values
            alone.
    """

    def __init__(self, source: nn.Module, heads: int) -> None:
        super().__init__()
        self.norm1 = source.norm1
        self.attn = Attention(source.attn, heads)
        self.gamma_1 = source.gamma_1
        self.norm2 = source.norm2
        self.mlp = source.mlp
        self.gamma_2 = source.gamma_2
        self.skipped = 0

    def forward(self, tokens: Tensor, turn_query: _Turn, turn_key: _Turn) -> Tensor:
        """Tokens (N, count, width) to (N, count - skipped, width)."""
        attended = self.attn(self.norm1(tokens), turn_query, turn_key, self.skipped)
        if self.skipped:
            tokens = tokens.narrow(1, self.skipped, tokens.shape[1] - self.skipped)
        tokens = tokens + _scaled(attended, self.gamma_1)
        return tokens + _scaled(self.mlp(self.norm2(tokens)), self.gamma_2)


class Attention(nn.Module):
    """Self-attention with rotary positions; the tables of the query hold the scale, or its weights
    do."""

    def __init__(self, source: nn.Module, heads: int) -> None:
        super().__init__()
        self.heads = heads
        biased = source.q_bias is not None
        weight = source.qkv.weight
        self.qkv = nn.Linear(
            source.qkv.in_features, source.qkv.out_features, bias=biased, dtype=weight.dtype
        )
        with torch.no_grad():
            self.qkv.weight.copy_(weight)
            if biased:
                self.qkv.bias.copy_(torch.cat((source.q_bias, source.k_bias, source.v_bias)))
        self.proj = source.proj

    def forward(
        self, tokens: Tensor, turn_query: _Turn, turn_key: _Turn, skipped: int = 0
    ) -> Tensor:
        """Mixed tokens (N, count - skipped, width) of (N, count, width)."""
        batch, count, width = tokens.shape
        query, key, value = (
            part.reshape(batch, count, self.heads, -1).transpose(1, 2)
            for part in self.qkv(tokens).split(width, dim=-1)
        )
        if skipped:
            query = query.narrow(2, skipped, count - skipped)
            sine, cosine = turn_query
            turn_query = (sine[:, :, skipped:], cosine[:, :, skipped:])
        scores = _turned(query, turn_query) @ _turned(key, turn_key).transpose(-2, -1)
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2)
        return self.proj(mixed.reshape(batch, count - skipped, width))


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x


def _turned(x: Tensor, turn: _Turn) -> Tensor:
    """Rotate (N, heads, tokens, 2d) in the planes (i, i + d).

    In the form in which compilers know rotary embeddings (``x * cos + rotate_half(x) * sin``):
    OpenVINO makes one operator of it.
    """
    sine, cosine = turn
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


def _rope_tables(source: Dinov3Backbone, grid: tuple[int, int]) -> _Turn:
    """Sine and cosine over all tokens, in a head's layout; zero angles for prefix tokens."""
    with torch.no_grad():
        sine, cosine = source.rope.get_embed(shape=list(grid)).chunk(2, dim=-1)
    before = source.config.prefix_tokens
    tables = F.pad(sine, (0, 0, before, 0)), F.pad(cosine, (0, 0, before, 0), value=1.0)
    return tables[0][None, None], tables[1][None, None]
