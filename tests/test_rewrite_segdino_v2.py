"""SegDINO v2's rewritten decoders equal the authors' formulation, as a whole and piece by piece."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import make_checkpoint, make_state_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference_logits
from torch import Tensor, nn

from edgeseg.export import InputSize, check_parity, export_onnx, load
from edgeseg.export.backbone_config import BackboneConfig
from edgeseg.export.families import segdino_v2, segdino_v2_first
from edgeseg.export.rewrite.algebra import affine_of
from edgeseg.export.rewrite.residual import GroupNormLast, LastBlock, block
from edgeseg.export.rewrite.token_maps import token_conv, token_map, token_tiles
from edgeseg.export.rewrite.upsampled_conv import strip_rows, tap_matrix, upsampled_conv

GRIDS = [(1, 1), (1, 3), (2, 3), (5, 4), (7, 16), (17, 2)]


def _random(module: nn.Module, seed: int) -> nn.Module:
    """Float64 weights that exercise every term: gammas, biases, affine parts, statistics."""
    generator = torch.Generator().manual_seed(seed)
    made = module.double().eval().requires_grad_(False)
    for name, value in made.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator, dtype=value.dtype))
        elif value.is_floating_point():
            spread = max(value[0].numel(), 1) ** -0.5 if value.ndim > 1 else 0.3
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(noise * spread + (name.endswith("norm.weight") or name == "weight"))
    return made


def _norm(width: int) -> nn.Module:
    return _random(nn.LayerNorm(width), 11)


def _tokens(width: int, grid: tuple[int, int], batch: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    shape = (batch, grid[0] * grid[1], width)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4))


def _maps(tokens: Tensor, norm: nn.Module, grid: tuple[int, int]) -> Tensor:
    full = tokens * norm.weight + norm.bias
    return full.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)


def _relative(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    span = max(float(theirs.max() - theirs.min()), float(theirs.abs().max()))
    assert span > 0
    return float((ours - theirs).abs().max()) / span


def _family(layout: str) -> Any:
    return {"segdino_v2": segdino_v2, "segdino_v2_first": segdino_v2_first}[layout].FAMILY


def _head(layout: str, width: int, channels: int, classes: int, norm: str) -> tuple[Any, nn.Module]:
    backbone = BackboneConfig(width=width, depth=4, heads=2, mlp_width=4 * width)
    extra = {"decoder_channels": channels} if layout == "segdino_v2" else {}
    config = _family(layout).config_type(backbone, classes=classes, norm=norm, **extra)
    return config, _random(_family(layout).build_head(config), 3)


def _authors(layout: str, head: nn.Module, norm: nn.Module, tokens: Any, grid: Any) -> Tensor:
    logits = head(tuple(_maps(taken, norm, grid) for taken in tokens))
    size = (grid[0] * 16, grid[1] * 16)
    corners = layout == "segdino_v2_first"
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=corners)


def _rewritten(layout: str, head: nn.Module, config: Any, norm: nn.Module, grid: Any) -> Any:
    return _family(layout).rewrite_head(head, config, norm, grid, (grid[0] * 16, grid[1] * 16))


CASES = [
    # layout, width, decoder channels, classes, norm
    ("segdino_v2", 24, 16, 1, "group"),
    ("segdino_v2", 16, 40, 3, "batch"),
    ("segdino_v2", 48, 64, 2, "group"),
    ("segdino_v2", 128, 96, 1, "batch"),
    ("segdino_v2_first", 24, 24, 1, "batch"),
    ("segdino_v2_first", 64, 64, 3, "group"),
]


@pytest.mark.parametrize(("layout", "width", "channels", "classes", "norm"), CASES)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_head_is_the_authors(
    layout: str, width: int, channels: int, classes: int, norm: str, grid: tuple[int, int]
) -> None:
    config, head = _head(layout, width, channels, classes, norm)
    final, tokens = _norm(width), _tokens(width, grid)
    before = copy.deepcopy(head.state_dict())
    made = _rewritten(layout, head, config, final, grid)
    expected = _authors(layout, head, final, tokens, grid)
    assert expected.shape == (2, classes, 16 * grid[0], 16 * grid[1])
    assert _relative(made.module(tokens), expected) <= 1e-9
    # The same in the checkpoint's own float type, rounded once.
    single = _rewritten(layout, copy.deepcopy(head).float(), config, final.float(), grid)
    answer = single.module(tuple(taken.float() for taken in tokens))
    assert answer.dtype == torch.float32
    assert _relative(answer.double(), expected) <= 1e-5
    assert all(value.dtype == torch.float32 for value in single.module.state_dict().values())
    assert all(torch.equal(before[key], value) for key, value in head.state_dict().items())


@pytest.mark.parametrize("layout", ["segdino_v2", "segdino_v2_first"])
def test_every_rewrite_is_recorded(layout: str) -> None:
    config, head = _head(layout, 32, 32, 1, "group")
    made = _rewritten(layout, head, config, _norm(32), (2, 3))
    by_name = {entry.name: entry for entry in made.rewrites}
    assert len(by_name) == len(made.rewrites)
    first = layout == "segdino_v2_first"
    assert set(by_name) == {
        *(("transposed-conv-as-product", "projection-into-conv") if first else ()),
        *(() if first else ("conv-after-upsampling",)),
        "norm-shift-into-projections",
        "group-norm-by-channel",
        "out-conv-before-sum",
    }
    modules = {f"{_family(layout).head_name}.{name}" for name, _ in head.named_modules()}
    for entry in made.rewrites:
        assert entry.modules
        assert set(entry.modules) <= modules | {"backbone.norm"}
        assert entry.words
    config, head = _head(layout, 32, 32, 1, "batch")
    names = [entry.name for entry in _rewritten(layout, head, config, _norm(32), (2, 3)).rewrites]
    assert "batch-norm-into-products" in names
    assert "group-norm-by-channel" not in names


@pytest.mark.parametrize("layout", ["segdino_v2", "segdino_v2_first"])
@pytest.mark.parametrize("dead", [("intra", 1), ("inter", 1), ("inter", 4), "all"])
def test_blocks_without_gamma_are_dropped(layout: str, dead: Any) -> None:
    config, head = _head(layout, 24, 24, 2, "group")
    names = {"segdino_v2": "sad_{}_{}", "segdino_v2_first": "{}_r{}"}[layout]
    every = [names.format(kind, level) for kind in ("intra", "inter") for level in (1, 2, 3, 4)]
    zeroed = every if dead == "all" else [names.format(*dead)]
    for name in zeroed:
        head.get_submodule(name).gamma.zero_()
    final, tokens, grid = _norm(24), _tokens(24, (3, 2)), (3, 2)
    made = _rewritten(layout, head, config, final, grid)
    assert _relative(made.module(tokens), _authors(layout, head, final, tokens, grid)) <= 1e-9
    (dropped,) = (e for e in made.rewrites if e.name == "identity-blocks-dropped")
    assert set(dropped.modules) == {f"{_family(layout).head_name}.{name}" for name in zeroed}
    left = sum(isinstance(module, GroupNormLast) for module in made.module.modules())
    assert left == 8 - len(zeroed)
    summed = any(entry.name == "out-conv-before-sum" for entry in made.rewrites)
    assert summed == (names.format("inter", 1) not in zeroed)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 9),
    scale=st.sampled_from([1, 2, 4, 8]),
    width=st.integers(1, 9),
    inner=st.integers(1, 6),
    outputs=st.integers(1, 5),
)
def test_conv_after_upsampling(
    rows: int, columns: int, scale: int, width: int, inner: int, outputs: int
) -> None:
    generator = torch.Generator().manual_seed(rows * 100 + columns)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    projection, kernel = noise(inner, width, 1, 1), noise(outputs, inner, 3, 3)
    gain, shift = noise(width), noise(width)
    tokens = noise(2, rows * columns, width)
    made = upsampled_conv(projection, kernel, (gain, shift), (rows, columns), scale)
    maps = (tokens * gain + shift).transpose(1, 2).reshape(2, width, rows, columns)
    up = F.interpolate(
        F.conv2d(maps, projection),
        size=(rows * scale, columns * scale),
        mode="bilinear",
        align_corners=False,
    )
    expected = F.conv2d(up, kernel, padding=1)
    assert _relative(made(tokens).permute(0, 3, 1, 2), expected) <= 1e-12
    # The projection is folded in where that multiplies less.
    products = sum(m.weight.numel() for m in made.modules() if isinstance(m, nn.Linear))
    folded, apart = 9 * width * outputs, width * inner + 9 * inner * outputs
    assert products == min(folded, apart)


@given(rows=st.integers(1, 200), columns=st.integers(1, 60), scale=st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=60, deadline=None)
def test_strips_cover_the_rows_and_multiply_least(rows: int, columns: int, scale: int) -> None:
    strips = strip_rows((rows, columns), scale)
    assert [row for (first, last), _ in strips for row in range(first, last)] == list(range(rows))
    down = tap_matrix(rows, scale)
    for (first, last), (above, below) in strips:
        assert len(strips) == 1 or last - first >= 8
        part = down[first * scale : last * scale]
        assert part.abs().sum() == part[:, :, above:below].abs().sum()

    def cost(height: int, read: int, count: int) -> int:
        return count * (3 * read * columns * scale * 3 * columns) + (
            rows * scale * columns * scale * 3 * read
        )

    ours = sum(
        3 * (below - above) * columns * scale * (3 * columns + (last - first) * scale)
        for (first, last), (above, below) in strips
    )
    assert ours <= cost(rows, rows, 1)


def test_tall_grids_are_done_in_strips() -> None:
    assert strip_rows((4, 4), 8) == [((0, 4), (0, 4))]
    assert strip_rows((16, 16), 8) == [((0, 8), (0, 9)), ((8, 16), (7, 16))]
    assert len(strip_rows((48, 48), 8)) == 6


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_tap_matrix_is_a_filter_of_the_upsampled_line(size: int, scale: int) -> None:
    matrix = tap_matrix(size, scale)
    assert matrix.shape == (size * scale, 3, size)
    lines = torch.randn(3, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    up = F.interpolate(lines[None], size=size * scale, mode="linear", align_corners=False)
    # Tap t of a filter that reads line t alone, zero-padded.
    expected = F.conv1d(up, torch.eye(3, dtype=torch.float64)[None], padding=1)[0, 0]
    assert torch.allclose(torch.einsum("oti,ti->o", matrix, lines), expected, atol=1e-14)
    steps = matrix * 2 * scale
    assert torch.equal(steps, steps.round())


@settings(max_examples=30, deadline=None)
@given(
    groups=st.integers(1, 6),
    each=st.integers(1, 5),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
)
def test_group_norm_channels_last(groups: int, each: int, rows: int, columns: int) -> None:
    norm = _random(nn.GroupNorm(groups, groups * each, eps=1e-3), groups)
    generator = torch.Generator().manual_seed(each)
    shape = (2, groups * each, rows, columns)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 1
    ours = GroupNormLast(norm)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.allclose(ours, norm(x), rtol=0, atol=1e-11)


def test_group_norm_keeps_its_digits_beside_large_means() -> None:
    """Means of a thousand deviations: sums of squares would lose six digits of the variance."""
    norm = _random(nn.GroupNorm(4, 16), 1)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 16, 24, 24, generator=generator) + 1000.0
    expected = norm(x.double())
    single = GroupNormLast(copy.deepcopy(norm).float())
    ours = single(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    # The mean itself is known to 1e-4 deviations, as the inputs are; the scale to far more.
    ours, wanted = (v.double() - v.double().mean((2, 3), keepdim=True) for v in (ours, expected))
    assert _relative(ours, wanted) <= 1e-5


@pytest.mark.parametrize("kind", ["group", "batch"])
def test_block_is_the_authors(kind: str) -> None:
    authors = _random(segdino_v2._SadBlock(16, kind), 4)
    x = torch.randn(2, 16, 5, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    last = x.permute(0, 2, 3, 1)
    made = block(authors, "depthwise", "pointwise")
    assert _relative(made(last).permute(0, 3, 1, 2), authors(x)) <= 1e-12
    out_conv = _random(nn.Conv2d(16, 3, 1), 5)
    ours = LastBlock(made, out_conv)(last).permute(0, 3, 1, 2) + out_conv(x)
    assert _relative(ours, out_conv(authors(x))) <= 1e-12


@pytest.mark.parametrize("grid", GRIDS)
def test_maps_from_tokens(grid: tuple[int, int]) -> None:
    norm, (tokens, *_) = _norm(6), _tokens(6, grid)
    maps, affine = _maps(tokens, norm, grid), affine_of(norm)
    projection = _random(nn.Conv2d(6, 5, 1, bias=False), 1).weight
    projected = F.conv2d(maps, projection)

    def equal(made: nn.Module, expected: Tensor) -> bool:
        return _relative(made(tokens).permute(0, 3, 1, 2), expected) <= 1e-12

    assert equal(token_map(projection, affine, grid), projected)
    kernel = _random(nn.Conv2d(5, 4, 3, bias=False), 2).weight
    for stride in (1, 2):
        expected = F.conv2d(projected, kernel, padding=1, stride=stride)
        assert equal(token_conv(projection, kernel, affine, grid, stride), expected)
    for scale in (2, 4):
        up = _random(nn.ConvTranspose2d(5, 3, scale, stride=scale, bias=False), 3)
        assert equal(token_tiles(projection, up.weight, affine, grid), up(projected))


@pytest.mark.parametrize(
    ("layout", "hyper"),
    [
        ("segdino_v2", {"decoder_channels": 64, "classes": 3}),
        ("segdino_v2_first", {"classes": 1, "norm": "batch"}),
    ],
)
def test_runtimes_compute_the_authors_logits(
    tmp_path: Path, layout: str, hyper: dict[str, Any]
) -> None:
    """The exported graph against torch and against the reference written apart."""
    onnx = pytest.importorskip("onnx")
    ort, ov = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    loaded = load(make_checkpoint(tmp_path / "model.pth", layout, **hyper))
    graph = export_onnx(loaded, tmp_path / "model.onnx", height_px=48, width_px=80)
    assert {entry.name for entry in graph.rewrites} >= {"out-conv-before-sum"}
    session = ort.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(str(graph.path), "CPU", hints)
    generator = torch.Generator().manual_seed(8)
    image = torch.randn(1, 3, 48, 80, generator=generator)
    expected = reference_logits(layout, make_state_dict(layout, **hyper), image, heads=2).numpy()
    runs = {
        "onnxruntime": lambda tensors: {"logits": session.run(["logits"], dict(tensors))[0]},
        "openvino": lambda tensors: {"logits": compiled(dict(tensors))["logits"]},
    }
    for name, run in runs.items():
        check_parity(loaded, InputSize(48, 80), run, runtime=name)
        error = np.abs(run({"image": image.numpy()})["logits"] - expected).max()
        assert error <= 1e-4 * np.ptp(expected)
    _check_layouts(onnx.load(graph.path), f"/{loaded.family.head_name}/")


def _check_layouts(model: Any, prefix: str) -> None:
    """Each transposition stands beside a convolution or a resize, whose layout it spells out."""
    nodes = [node for node in model.graph.node if node.name.startswith(prefix)]
    kinds = {node.op_type for node in nodes}
    assert not kinds & {"InstanceNormalization", "GroupNormalization", "ConvTranspose", "Expand"}
    makers = {output: node.op_type for node in nodes for output in node.output}
    turned = [node for node in nodes if node.op_type == "Transpose"]
    assert turned
    for node in turned:
        beside = {other.op_type for other in nodes if node.output[0] in other.input}
        assert (beside | {makers.get(node.input[0])}) & {"Conv", "Resize"}, node.name
