"""The fine-grained head: composed convolutions, and channels mixed before they are resampled."""

from __future__ import annotations

import fnmatch
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rewritten_heads import Grid, make_head, relative_difference, run_graph, to_graph
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.export.rewrite.algebra import affine_of
from edgeseg.export.rewrite.convolutions import (
    Convolution,
    cheapest_grouping,
    composed,
    composed_all,
    convolution_of,
)
from edgeseg.export.rewrite.resampling import BilinearProducts
from edgeseg.export.rewrite.segdino_v1_fine import Stem, level_layers

BACKENDS = ("openvino", "onnxruntime")


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (5, 4), (7, 16)])
@pytest.mark.parametrize("classes", [1, 3])
def test_the_head_is_the_same_function(grid: Grid, classes: int) -> None:
    case = make_head("segdino_v1_fine", classes=classes, features=10)
    tokens = case.tokens(grid)
    with torch.no_grad():
        found = case.rewritten(grid).module(tokens)
        single = case.rewritten(grid, torch.float32).module(tuple(t.float() for t in tokens))
    assert found.shape == (2, classes, 16 * grid[0], 16 * grid[1])
    assert relative_difference(found, case.authors(tokens, grid)) <= 1e-12
    assert relative_difference(found, case.reference(tokens, grid)) <= 1e-12
    assert relative_difference(single, case.authors(tokens, grid)) <= 1e-5


@settings(max_examples=15, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    features=st.integers(1, 6),
    projects=st.tuples(*[st.sampled_from([1, 3, 8, 40])] * 4),
)
def test_any_grid_and_width(grid: Grid, features: int, projects: tuple[int, int, int, int]) -> None:
    """Widths on both sides of the backbone's, so that every level is grouped in several ways."""
    case = make_head(
        "segdino_v1_fine", width=16, heads=1, classes=2, features=features, projects=projects
    )
    tokens = case.tokens(grid, batch=1)
    with torch.no_grad():
        found = case.rewritten(grid).module(tokens)
    assert relative_difference(found, case.authors(tokens, grid)) <= 1e-9


def _groupings(count: int) -> list[tuple[tuple[int, ...], ...]]:
    return {
        2: [((0,), (1,)), ((0, 1),)],
        3: [((0,), (1,), (2,)), ((0, 1), (2,)), ((0,), (1, 2)), ((0, 1, 2),)],
    }[count]


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("grid", [(1, 2), (4, 3)])
def test_every_grouping_of_a_level_is_the_same_function(level: int, grid: Grid) -> None:
    case = make_head("segdino_v1_fine")
    layers = level_layers(case.head, level)
    assert len(layers) == (2 if level == 2 else 3)
    tokens = case.tokens(grid)
    with torch.no_grad():
        expected = case.maps(tokens, grid)[level]
        for _, layer in layers:
            expected = layer(expected)
        possible = 0
        for grouping in _groupings(len(layers)):
            chain = [convolution_of(layer) for _, layer in layers]
            if any(composed_all([chain[i] for i in group]) is None for group in grouping):
                with pytest.raises(ValueError, match="are not one convolution"):
                    Stem(layers, grouping, affine_of(case.norm), grid)
                continue
            possible += 1
            stem = Stem(layers, grouping, affine_of(case.norm), grid)
            assert len(stem.steps) == len(grouping)
            assert relative_difference(stem(tokens[level]), expected) <= 1e-12
    assert possible == {0: 4, 1: 4, 2: 2, 3: 2}[level]


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(
    scale=st.integers(1, 5),
    kernel=st.sampled_from([1, 3, 5]),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_tiles_under_a_convolution_are_overlapping_tiles(
    scale: int, kernel: int, grid: Grid
) -> None:
    tiles = Convolution(_random(3, 4, scale, scale), scale, 0, transposed=True)
    around = Convolution(_random(2, 3, kernel, kernel), 1, kernel // 2)
    whole = composed(tiles, around)
    assert whole is not None and whole.kernel == scale + kernel - 1
    x = _random(2, 4, *grid)
    tiled = F.conv_transpose2d(x, tiles.weight.transpose(0, 1), stride=scale)
    expected = F.conv2d(tiled, around.weight, padding=kernel // 2)
    found = F.conv_transpose2d(
        x, whole.weight.transpose(0, 1), stride=whole.stride, padding=whole.padding
    )
    assert whole.grid(grid) == tuple(expected.shape[-2:])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_what_does_not_compose() -> None:
    point = Convolution(_random(3, 3, 1, 1))
    padded = Convolution(_random(3, 3, 3, 3), 1, 1)
    strided = Convolution(_random(3, 3, 3, 3), 2, 1)
    bare = Convolution(_random(3, 3, 3, 3), 1, 0)
    tiles = Convolution(_random(3, 3, 2, 2), 2, 0, transposed=True)
    overlapping = Convolution(_random(3, 3, 4, 4), 2, 1, transposed=True)
    for second in (point, padded, strided, bare, tiles, overlapping):
        assert composed(point, second) is not None
    for first in (padded, strided, bare, overlapping):
        for second in (padded, strided, bare, tiles):
            assert composed(first, second) is None
    for second in (strided, bare, tiles):
        assert composed(tiles, second) is None


def _counted(layers: list[nn.Module], x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for layer in layers:
            x = layer(x)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("level", "expected"),
    [(0, ((0,), (1, 2))), (1, ((0,), (1, 2))), (2, ((0, 1),)), (3, ((0, 1), (2,)))],
)
def test_the_cheapest_grouping_at_the_size_of_a_released_model(
    level: int, expected: tuple[tuple[int, ...], ...]
) -> None:
    """Operations as torch counts them, for ViT-S at 256 x 256."""
    grid = (16, 16)
    case = make_head(
        "segdino_v1_fine",
        width=384,
        heads=6,
        mlp_width=4,
        features=128,
        projects=(96, 192, 384, 768),
    )
    chain = [convolution_of(layer) for _, layer in level_layers(case.head, level)]
    assert cheapest_grouping(chain, grid) == expected
    x = torch.zeros(1, 384, *grid)
    counted = {}
    for grouping in _groupings(len(chain)):
        wholes = [composed_all([chain[i] for i in group]) for group in grouping]
        with torch.no_grad():
            layers = [whole.module(None, x) for whole in wholes if whole is not None]
        if len(layers) < len(wholes):
            continue
        counted[grouping] = _counted(layers, x)
        size, macs = grid, 0
        for whole in wholes:
            assert whole is not None
            macs += whole.macs(size)
            size = whole.grid(size)
        assert counted[grouping] == macs
    assert counted[expected] <= 9 / 8 * min(counted.values())
    assert counted[expected] < counted[_groupings(len(chain))[0]]


def test_batch_norms_keep_their_place() -> None:
    """Residual units with BatchNorm2d are taken as they are."""
    case = make_head("segdino_v1_fine", features=6)
    config = type(case.config)(case.config.backbone, case.config.projects, 6, 1, batch_norm=True)
    torch.manual_seed(0)
    head = case.family.build_head(config).double().eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    grid = (3, 2)
    tokens = case.tokens(grid)
    with torch.no_grad():
        found = case.family.rewrite_head(head, config, case.norm, grid, (48, 32)).module(tokens)
        logits = head(tuple(case.maps(tokens, grid)))
    expected = F.interpolate(logits, size=(48, 32), mode="bilinear", align_corners=True)
    assert relative_difference(found, expected) <= 1e-12


def test_the_head_stays_as_it_is_and_the_records_name_its_modules() -> None:
    case = make_head("segdino_v1_fine")
    before = {key: value.clone() for key, value in case.head.state_dict().items()}
    made = case.rewritten((3, 2))
    after = case.head.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    names = [record.name for record in made.rewrites]
    assert len(set(names)) == len(names) == 3
    for record in made.rewrites:
        for module in record.modules:
            assert fnmatch.filter(case.state, f"{module}.*"), module


@settings(max_examples=30, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    target=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    align_corners=st.booleans(),
)
def test_resampling_as_products(grid: Grid, target: Grid, align_corners: bool) -> None:
    maps = _random(2, 3, *grid)
    module = BilinearProducts(grid, target, maps, align_corners=align_corners)
    expected = F.interpolate(maps, size=target, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(module(maps), expected, rtol=1e-9, atol=1e-12)
    (rows, columns), (wanted_rows, wanted_columns) = grid, target
    with FlopCounterMode(display=False) as counter:
        module(maps)
    y_first = wanted_rows * columns * (rows + wanted_columns)
    x_first = rows * wanted_columns * (columns + wanted_rows)
    assert counter.get_total_flops() == 2 * math.prod(maps.shape[:2]) * min(y_first, x_first)


def test_the_graph(tmp_path: Path) -> None:
    grid = (2, 3)
    case = make_head("segdino_v1_fine", classes=2)
    tokens = case.tokens(grid, batch=1)
    module = case.rewritten(grid, torch.float32).module
    model = to_graph(module, tokens, tmp_path / "head.onnx")
    names = [node.name for node in model.graph.node if node.op_type == "ConvTranspose"]
    assert names == [f"/head/stems.{i}/rescale_rn/ConvTranspose" for i in (0, 1)]
    mixed = [node.name for node in model.graph.node]
    for number in (1, 2, 3):
        block = f"/head/refinenet{number}"
        assert mixed.index(f"{block}/out_conv/Conv") < mixed.index(f"{block}/Resize")
    for backend in BACKENDS:
        found = run_graph(tmp_path / "head.onnx", backend, tokens)
        assert relative_difference(found, case.reference(tokens, grid)) <= 1e-5
