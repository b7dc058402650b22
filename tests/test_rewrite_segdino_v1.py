"""SegDINO v1's head as one linear map, against the authors' modules and a float64 reference."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rewritten_heads import Grid, HeadCase, make_head, relative_difference, run_graph, to_graph
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.export.rewrite.segdino_v1 import (
    CollapsedHead,
    Plan,
    choose_plan,
    collapse_head,
    read_levels,
    shift_and_shuffle,
    zero_token_logits,
)

LAYOUTS = ("segdino_v1", "segdino_v1_old")
GRIDS: tuple[Grid, ...] = ((1, 1), (2, 3), (5, 4), (7, 16))
PLANS = tuple(Plan(apart, convolve) for apart in (False, True) for convolve in (False, True))
BACKENDS = ("openvino", "onnxruntime")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("classes", [1, 3, 40])
def test_the_head_is_the_same_function(layout: str, grid: Grid, classes: int) -> None:
    case = make_head(layout, classes=classes)
    tokens = case.tokens(grid)
    module = case.rewritten(grid).module
    found = module(tokens)
    assert found.shape == (2, classes, 16 * grid[0], 16 * grid[1])
    assert relative_difference(found, case.authors(tokens, grid)) <= 1e-12
    assert relative_difference(found, case.reference(tokens, grid)) <= 1e-12
    single = case.rewritten(grid, torch.float32).module(tuple(t.float() for t in tokens))
    assert single.dtype == torch.float32
    assert relative_difference(single, case.authors(tokens, grid)) <= 1e-5


@settings(max_examples=20, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    classes=st.integers(1, 5),
    features=st.integers(1, 9),
    projects=st.tuples(*[st.integers(1, 9)] * 4),
)
def test_any_grid_and_width(
    layout: str, grid: Grid, classes: int, features: int, projects: tuple[int, int, int, int]
) -> None:
    case = make_head(
        layout, width=16, heads=1, depth=4, classes=classes, features=features, projects=projects
    )
    tokens = case.tokens(grid, batch=1)
    found = case.rewritten(grid).module(tokens)
    assert relative_difference(found, case.authors(tokens, grid)) <= 1e-9


def _planned(case: HeadCase, plans: list[Plan], grid: Grid) -> CollapsedHead:
    return CollapsedHead(
        read_levels(case.head, case.norm),
        plans,
        zero_token_logits(case.head, case.norm, grid),
        grid=grid,
        size_px=(16 * grid[0], 16 * grid[1]),
        like=torch.zeros(1, dtype=torch.float64),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("first", PLANS)
@pytest.mark.parametrize("others", PLANS)
def test_every_plan_is_the_same_function(layout: str, first: Plan, others: Plan) -> None:
    grid = (3, 5)
    case = make_head(layout, classes=2)
    tokens = case.tokens(grid)
    with torch.no_grad():
        found = _planned(case, [first, others, first, others], grid)(tokens)
    assert relative_difference(found, case.reference(tokens, grid)) <= 1e-12


def _multiplications(call: Any, *arguments: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*arguments)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("layout", "classes", "first"),
    [
        ("segdino_v1", 1, Plan(project_apart=False, convolve=False)),
        ("segdino_v1", 3, Plan(project_apart=True, convolve=False)),
        ("segdino_v1", 40, Plan(project_apart=True, convolve=True)),
        ("segdino_v1_old", 1, Plan(project_apart=False, convolve=False)),
    ],
)
def test_the_cheapest_plan_at_the_size_of_a_released_model(
    layout: str, classes: int, first: Plan
) -> None:
    """Operations as torch counts them, at ViT-S and 256 x 256."""
    grid = (16, 16)
    case = make_head(
        layout,
        width=384,
        heads=6,
        features=128,
        projects=(96, 192, 384, 768),
        classes=classes,
        mlp_width=4,
    )
    levels = read_levels(case.head, case.norm)
    plans = [choose_plan(level, grid) for level in levels]
    assert plans[0] == first
    tokens = case.tokens(grid, batch=1)
    counted = {
        plan: _multiplications(_planned(case, [plan, *plans[1:]], grid), tokens) for plan in PLANS
    }
    assert counted[first] <= 9 / 8 * min(counted.values())
    authors = _multiplications(lambda: case.authors(tokens, grid))
    assert authors > 500e6
    if classes == 1:
        assert counted[first] < 30e6
    # What the choice counts is what torch counts, up to what does not depend on the plan.
    rest = {plan: counted[plan] - plan.macs(levels[0], grid) for plan in PLANS}
    assert max(rest.values()) - min(rest.values()) <= 0.01 * counted[first] + 1e6 * classes


def test_shifts_and_tiles_are_those_of_the_convolutions() -> None:
    """Along one axis: a zero-padded 3-tap filter, then tiles, by torch's own convolutions."""
    generator = torch.Generator().manual_seed(0)
    for size, scale in ((1, 1), (1, 4), (2, 1), (5, 4), (6, 3)):
        line = torch.randn(1, 1, size, generator=generator, dtype=torch.float64)
        taps = torch.randn(1, 1, 3, generator=generator, dtype=torch.float64)
        tile = torch.randn(1, 1, scale, generator=generator, dtype=torch.float64)
        expected = F.conv_transpose1d(F.conv1d(line, taps, padding=1), tile, stride=scale)
        channels = line[0, 0, :, None, None] * taps[0, 0, :, None] * tile[0, 0]
        found = shift_and_shuffle(size, scale, taps=True) @ channels.flatten()
        torch.testing.assert_close(found, expected[0, 0], rtol=1e-12, atol=1e-12)
        expected = F.conv_transpose1d(line, tile, stride=scale)
        channels = line[0, 0, :, None] * tile[0, 0]
        found = shift_and_shuffle(size, scale, taps=False) @ channels.flatten()
        torch.testing.assert_close(found, expected[0, 0], rtol=1e-12, atol=1e-12)


def test_biases_are_less_at_the_border() -> None:
    """Zero padding hides a projection's bias from taps beyond the map."""
    grid = (4, 5)
    case = make_head("segdino_v1_old", classes=2)
    constant = zero_token_logits(case.head, case.norm, grid)
    assert constant.shape == (2, 4, 5) and constant.dtype == torch.float64
    torch.testing.assert_close(constant[:, 1, 1], constant[:, 2, 3], rtol=1e-12, atol=1e-12)
    assert (constant[:, 0, 0] - constant[:, 1, 1]).abs().min() > 1e-3
    zeros = tuple(torch.zeros_like(taken) for taken in case.tokens(grid))
    resized = F.interpolate(constant[None], size=(64, 80), mode="bilinear", align_corners=True)
    expected = case.reference(zeros, grid)
    torch.testing.assert_close(resized.expand_as(expected), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_head_stays_as_it_is_and_the_records_name_its_modules(layout: str) -> None:
    case = make_head(layout, classes=3)
    before = {key: value.clone() for key, value in case.head.state_dict().items()}
    made = case.rewritten((3, 2))
    after = case.head.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    names = [record.name for record in made.rewrites]
    assert len(set(names)) == len(names) >= 3
    assert ("tiles-hold-classes" in names) == (layout == "segdino_v1")
    for record in made.rewrites:
        for module in record.modules:
            assert fnmatch.filter(case.state, f"{module}.*"), module
    assert not any(value.requires_grad for value in made.module.parameters())


@pytest.mark.parametrize(("classes", "grid"), [(1, (3, 5)), (3, (4, 2)), (60, (2, 3))])
def test_the_graph(tmp_path: Path, classes: int, grid: Grid) -> None:
    """Products and rearrangements alone, and runtimes agree with the reference."""
    case = make_head("segdino_v1", classes=classes)
    tokens = case.tokens(grid, batch=1)
    module = case.rewritten(grid, torch.float32).module
    model = to_graph(module, tokens, tmp_path / "head.onnx")
    kinds = {node.op_type for node in model.graph.node}
    convolved = sum(read.conv is not None for group in module.groups for read in group.readouts)
    arithmetic = {"MatMul", "Add", *(["Conv"] if convolved else [])}
    assert kinds <= arithmetic | {"Reshape", "Transpose", "Concat", "Unsqueeze"}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    resampling = [node for node in products if "/resample_" in node.name]
    assert len(resampling) == 3 + len(module.groups)
    weights = {item.name for item in model.graph.initializer}
    assert all(set(node.input) & weights for node in products)
    if classes == 1:
        transposes = [node for node in model.graph.node if node.op_type == "Transpose"]
        assert len(transposes) == len(module.groups) + 2 * convolved
    for backend in BACKENDS:
        found = run_graph(tmp_path / "head.onnx", backend, tokens)
        assert relative_difference(found, case.reference(tokens, grid)) <= 1e-5


def test_collapsing_takes_any_size() -> None:
    """The size of the logits is the caller's; 16 times the grid is only what models are given."""
    case = make_head("segdino_v1", classes=2)
    grid = (2, 3)
    tokens = case.tokens(grid)
    module = collapse_head(case.head, case.norm, grid, (21, 11)).module
    with torch.no_grad():
        logits = case.head(tuple(case.maps(tokens, grid)))
    expected = F.interpolate(logits, size=(21, 11), mode="bilinear", align_corners=True)
    assert relative_difference(module(tokens), expected) <= 1e-12
