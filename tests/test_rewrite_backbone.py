"""Rewrites of the transformer against timm's own, in float64 and float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeseg.export.backbone import Dinov3Backbone
from edgeseg.export.backbone_config import BackboneConfig
from edgeseg.export.rewrite import backbone as rewrites
from edgeseg.export.static_backbone import StaticTokens, StaticTransformer

PATCH_PX = 16
DOUBLE_TOLERANCE = 1e-9
SINGLE_TOLERANCE = 2e-5


def source(
    *, mlp: str = "gelu", qkv_bias: bool = True, dtype: torch.dtype = torch.float64, **sizes: int
) -> Dinov3Backbone:
    """A backbone none of whose parameters is at a neutral value."""
    torch.manual_seed(5)
    config = BackboneConfig(
        **({"width": 24, "depth": 4, "heads": 2, "mlp_width": 40} | sizes),
        mlp=mlp,  # type: ignore[arg-type]
        qkv_bias=qkv_bias,
    )
    model = Dinov3Backbone(config).to(dtype).eval()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if "rope" not in name:
                value.add_(0.3 * torch.randn_like(value))
    return model.requires_grad_(False)


def images(grid: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(6)
    return torch.randn(2, 3, PATCH_PX * grid[0], PATCH_PX * grid[1], dtype=dtype)


def largest_difference(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    got, expected = got.detach(), expected.detach()
    return float((got - expected).abs().max() / (expected.max() - expected.min()))


def check(model: Dinov3Backbone, static: StaticTransformer, grid: tuple[int, int]) -> None:
    """The rewritten taps, with the shift that their readers fold in, are timm's."""
    image = images(grid, model.norm.weight.dtype)
    limit = DOUBLE_TOLERANCE if image.dtype == torch.float64 else SINGLE_TOLERANCE
    shifted = getattr(static.norm, "bias", None) is not None
    left = rewrites.shift_of(model.norm)
    for got, expected in zip(static(image), model.tokens(image), strict=True):
        whole = got if shifted else got * left.weight + left.bias
        assert largest_difference(whole, expected) <= limit


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_all_together_compute_what_timm_computes(
    mlp: str, qkv_bias: bool, dtype: torch.dtype
) -> None:
    model = source(mlp=mlp, qkv_bias=qkv_bias, dtype=dtype)
    static = StaticTokens(model, (3, 5))
    applied = rewrites.rewrite_transformer(static)
    check(model, static, (3, 5))
    assert len({rewrite.name for rewrite in applied}) == len(applied) == 3


@settings(max_examples=12, deadline=None)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7))
def test_any_grid(rows: int, columns: int) -> None:
    model = source()
    static = StaticTokens(model, (rows, columns))
    rewrites.rewrite_transformer(static)
    check(model, static, (rows, columns))


def each_block(fold: Callable[[rewrites.Block], None]) -> Callable[[StaticTransformer], None]:
    def apply(static: StaticTransformer) -> None:
        for block in static.blocks:
            fold(block)

    return apply


@pytest.mark.parametrize(
    "rewrite",
    [
        each_block(rewrites.fold_layer_scale),
        rewrites.fold_query_scale,
        rewrites.drop_unread_tokens,
    ],
    ids=["layer-scale", "query-scale", "unread-tokens"],
)
def test_each_by_itself(rewrite: Callable[[StaticTransformer], object]) -> None:
    model = source()
    static = StaticTokens(model, (2, 3))
    rewrite(static)
    check(model, static, (2, 3))


def test_the_last_block_computes_patch_tokens_alone() -> None:
    static = StaticTokens(source(), (2, 3))
    rewrites.rewrite_transformer(static)
    seen = []
    static.blocks[-1].mlp.register_forward_hook(lambda *call: seen.append(call[-1].shape[1]))
    static(images((2, 3)))
    assert seen == [6]


def test_tokens_are_kept_where_the_last_block_is_not_tapped() -> None:
    model = source()
    model.taps = (0, 1, 2)
    static = StaticTokens(model, (2, 3))
    applied = rewrites.rewrite_transformer(static)
    assert static.blocks[-1].skipped == 0
    assert "unread-tokens-dropped" not in {rewrite.name for rewrite in applied}
    check(model, static, (2, 3))


def test_the_checkpoint_s_own_modules_stay_as_they_are() -> None:
    model = source()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model.tokens(images((2, 3)))
    rewrites.rewrite_transformer(StaticTokens(model, (2, 3)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for got, wanted in zip(model.tokens(images((2, 3))), expected, strict=True):
        assert torch.equal(got, wanted)


def test_grids_share_the_rewritten_weights() -> None:
    model = source()
    first = StaticTokens(model, (2, 3))
    rewrites.rewrite_transformer(first)
    other = first.for_grid(model, (4, 3))
    check(model, other, (4, 3))
    assert {id(p) for p in first.parameters()} == {id(p) for p in other.parameters()}
