"""DINO-MVR's probes with norm and mean folded in, and its views over rewritten weights."""

from __future__ import annotations

import copy
import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoints import make_checkpoint, make_state_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper
from reference import reference_logits
from torch import Tensor, nn

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.export import InputSize, check_parity, export_onnx, load
from edgeseg.export.families._mvr_model import Probes
from edgeseg.export.families.dino_mvr import FAMILY
from edgeseg.export.rewrite.dino_mvr import fold_probes

BACKENDS: tuple[Any, ...] = ("openvino", "onnxruntime")


def _probes(
    width: int, hidden: tuple[int, ...], classes: int, dtype: torch.dtype = torch.float64
) -> tuple[Probes, nn.LayerNorm]:
    """None of whose parameters is at a neutral value."""
    torch.manual_seed(7)
    probes, norm = Probes(width, hidden, classes).to(dtype), nn.LayerNorm(width).to(dtype)
    with torch.no_grad():
        for value in [*probes.parameters(), *norm.parameters()]:
            value.add_(0.3 * torch.randn_like(value))
    return probes, norm


def _difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    span = float(expected.max() - expected.min())
    return float((found.double() - expected.double()).abs().max()) / span


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 12),
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    classes=st.integers(1, 4),
    tokens=st.integers(2, 9),
)
def test_probes_compute_what_they_did(
    width: int, hidden: list[int], classes: int, tokens: int
) -> None:
    """Behind the whole norm, for any number of probes."""
    probes, norm = _probes(width, tuple(hidden), classes)
    normalised = tuple(torch.randn(2, tokens, width, dtype=torch.float64) for _ in hidden)
    folded = fold_probes(probes, norm).module
    with torch.no_grad():
        expected = probes(tuple(taken * norm.weight + norm.bias for taken in normalised))
        assert _difference(folded(normalised), expected) <= 1e-9


def test_probes_in_single_precision() -> None:
    probes, norm = _probes(96, (48, 64, 20), 3, torch.float32)
    tokens = tuple(torch.randn(2, 30, 96) for _ in range(3))
    folded = fold_probes(probes, norm).module
    with torch.no_grad():
        exact = copy.deepcopy(probes).double()(
            tuple((t * norm.weight + norm.bias).double() for t in tokens)
        )
        found = folded(tokens)
    assert found.dtype == torch.float32
    assert _difference(found, exact) <= 1e-5


def test_probes_stay_as_they_are_and_add_one_bias() -> None:
    probes, norm = _probes(8, (5, 6, 7), 2)
    before = {key: value.clone() for key, value in probes.state_dict().items()}
    made = fold_probes(probes, norm)
    after = probes.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(value.requires_grad for value in made.module.parameters())
    assert [probe[2].bias is None for probe in made.module] == [False, True, True]
    keys = make_state_dict("dino_mvr")
    for record in made.rewrites:
        for module in record.modules:
            assert fnmatch.filter(keys, f"{module}.*"), module


def _model(classes: int, views: list[tuple[int, int]]) -> tuple[nn.Module, Any, dict[str, Tensor]]:
    state = make_state_dict("dino_mvr", classes=classes)
    config = FAMILY.read_config({key: tuple(value.shape) for key, value in state.items()})
    config = FAMILY.with_views(config, views, ["h"])
    model = FAMILY.build(config)
    FAMILY.load_weights(model, state)
    return model.eval(), config, state


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("rewrite", [True, False])
def test_every_view_is_the_same_function(classes: int, rewrite: bool) -> None:
    views = [(32, 48), (80, 64), (16, 16), (112, 256)]
    model, config, state = _model(classes, views)
    model.double()
    torch.manual_seed(1)
    images = [torch.randn(2, 3, *view, dtype=torch.float64) for view in views]
    made = FAMILY.exportable(model, config, InputSize(112, 256), rewrite=rewrite)
    assert bool(made.rewrites) == rewrite
    with torch.no_grad():
        found, expected = made.module(*images), model(*images)
    for logits, wanted, image in zip(found, expected, images, strict=True):
        reference = reference_logits("dino_mvr", state, image, 2)
        if wanted.shape[-2:] != (1, 1):
            assert _difference(logits, wanted) <= 1e-9
        torch.testing.assert_close(logits, wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(logits, reference, rtol=1e-6, atol=1e-6)
    single = FAMILY.exportable(model.float(), config, InputSize(112, 256), rewrite=rewrite).module
    with torch.no_grad():
        rounded = single(*(image.float() for image in images))
    for logits, wanted in zip(rounded, expected, strict=True):
        torch.testing.assert_close(logits.double(), wanted, rtol=1e-4, atol=2e-5)


def test_names_of_rewrites_are_not_repeated() -> None:
    model, config, _ = _model(1, [(32, 32)])
    made = FAMILY.exportable(model, config, InputSize(32, 32))
    names = [record.name for record in made.rewrites]
    assert len(set(names)) == len(names) and {"mean-into-probes", "norm-shift-into-probes"} < set(
        names
    )


def _weights(model: ModelProto) -> dict[str, np.ndarray]:
    return {
        item.name: numpy_helper.to_array(item)
        for item in model.graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT
    }


def _exported(folder: Path, name: str, classes: int, views: list[list[int]]) -> Any:
    config = {"resolutions": views, "flips": ["v"]}
    loaded = load(
        make_checkpoint(folder / f"{name}.pth", "dino_mvr", classes=classes, config=config)
    )
    height_px, width_px = max(views)
    size = InputSize(height_px, width_px)
    graph = export_onnx(loaded, folder / f"{name}.onnx", height_px=height_px, width_px=width_px)
    return loaded, size, graph


def _last_transposes(model: ModelProto) -> list[str]:
    names = [node.name for node in model.graph.node if node.op_type == "Transpose"]
    return [name for name in names if "/backbone/" not in name]


def test_rewritten_views_share_their_weights(tmp_path: Path) -> None:
    """A second view adds to the file what depends on its patch grid, and no layer's weight."""
    views = [[32, 48], [64, 96]]
    loaded, size, graph = _exported(tmp_path, "two", 2, views)
    _, _, alone = _exported(tmp_path, "one", 1, views[1:])
    model, other = onnx.load(graph.path), onnx.load(alone.path)
    two, one = _weights(model), _weights(other)
    layers = [value for value in one.values() if value.ndim == 2 and 64 in value.shape]
    assert len(layers) > 4 * 4
    second_class = 12 + 16 + 20 + 1
    grown = sum(v.size for v in two.values()) - sum(v.size for v in one.values()) - second_class
    # Sine, cosine and prefix tokens of the smaller grid; its patches' tables for the last block.
    assert 0 < grown <= (5 + 6) * (2 * 32 + 64) + 6 * 2 * 32
    for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        for block in range(4):
            assert sum(f"blocks.{block}.{part}" in name for name in two) == 2, (block, part)
    # One channel needs no transposition.
    assert (len(_last_transposes(model)), len(_last_transposes(other))) == (2, 0)
    assert {rewrite.name for rewrite in graph.rewrites} >= {"mean-into-probes"}
    for backend in BACKENDS:
        with open_engine(graph.path, backend, EngineOptions(threads=1)) as engine:

            def run(tensors: Any, engine: Any = engine) -> Any:
                return dict(engine.infer(dict(tensors)))

            record = check_parity(loaded, size, run, runtime=backend)
        assert 0 <= record.relative <= 1e-5
