"""The formulations against an independent float64 reference, and their recognition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import LAYOUTS, make_checkpoint, make_state_dict, to_timm_spelling
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference_features, reference_logits
from torch import Tensor

from edgeseg.errors import CheckpointShapeError, UnknownFamilyError, UsageError
from edgeseg.export import InputSize, inspect, known_families, load
from edgeseg.export.backbone_config import BackboneConfig, tap_indices
from edgeseg.export.registry import detect, family_named

FAMILY_OF = {layout: layout for layout in LAYOUTS} | {"segdino_v1_old": "segdino_v1"}

VARIED: tuple[dict[str, Any], ...] = (
    {},
    {"classes": 4, "width": 96, "heads": 3, "registers": 2, "norm": "batch", "seed": 1},
    {"swiglu": True, "mlp_width": 88, "decoder_channels": 64, "features": 24, "seed": 2},
    {"key_bias": True, "depth": 5, "heads": 4, "mlp_width": 100, "projects": (20, 8, 4, 12)},
)


def _logits(state: dict[str, Tensor], image: Tensor) -> Tensor:
    family = detect({key: tuple(value.shape) for key, value in state.items()})
    config = family.read_config({key: tuple(value.shape) for key, value in state.items()})
    model = family.build(config).eval()
    family.load_weights(model, state)
    with torch.inference_mode():
        answer = model(image)
    if not isinstance(answer, tuple):
        return answer
    (logits,) = answer
    return logits


def _image(height_px: int, width_px: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 3, height_px, width_px, generator=torch.Generator().manual_seed(seed))


def _assert_same(found: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    assert found.shape == expected.shape
    span = float(expected.max() - expected.min())
    assert float((found.double() - expected).abs().max()) <= tolerance * span


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("hyper", "size"), list(zip(VARIED, [(64, 64), (48, 112), (96, 32), (80, 80)], strict=True))
)
def test_formulation_equals_the_reference(
    layout: str, hyper: dict[str, Any], size: tuple[int, int]
) -> None:
    state = make_state_dict(layout, **hyper)
    image = _image(*size)
    _assert_same(
        _logits(state, image), reference_logits(layout, state, image, hyper.get("heads", 2))
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_formulation_equals_the_reference_at_224x320(layout: str) -> None:
    state = make_state_dict(layout, seed=3)
    image = _image(224, 320)
    _assert_same(_logits(state, image), reference_logits(layout, state, image, heads=2))


@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    heads=st.sampled_from([1, 2, 4]),
    registers=st.integers(1, 5),
    depth=st.sampled_from([4, 5, 8]),
)
def test_backbone_on_any_grid(
    rows: int, columns: int, heads: int, registers: int, depth: int
) -> None:
    state = make_state_dict(
        "segdino_v2", width=32, heads=heads, registers=registers, depth=depth, decoder_channels=4
    )
    image = _image(rows * 16, columns * 16)
    family = family_named("segdino_v2")
    model = family.build(family.read_config({k: tuple(v.shape) for k, v in state.items()})).eval()
    family.load_weights(model, state)
    with torch.inference_mode():
        found = model.backbone(image)
    weights = {key: value.double() for key, value in state.items()}
    expected = reference_features(weights, image.double(), heads)
    assert len(found) == len(expected) == 4
    for a, b in zip(found, expected, strict=True):
        _assert_same(a, b)


def test_the_final_norm_and_the_key_mask_matter_to_this_reference() -> None:
    """Guards against a reference too weak to tell the formulations apart."""
    state = make_state_dict("segdino_v1", key_bias=True)
    image = _image(64, 64)
    masked = make_state_dict("segdino_v1", key_bias=False)
    assert all(torch.equal(state[k], masked[k]) for k in state if not k.endswith("bias_mask"))
    a = reference_logits("segdino_v1", state, image, heads=2)
    b = reference_logits("segdino_v1", masked, image, heads=2)
    assert float((a - b).abs().max()) > 1e-3
    weights = {key: value.double() for key, value in state.items()}
    normed = reference_features(weights, image.double(), heads=2)
    raw = reference_features(weights, image.double(), heads=2, raw=True)
    assert float((normed[0] - raw[0]).abs().max()) > 0.1


def test_periods_are_taken_from_the_checkpoint() -> None:
    state = make_state_dict("segdino_v2")
    rounded = state | {
        "backbone.rope_embed.periods": state["backbone.rope_embed.periods"].bfloat16().float() * 1.5
    }
    image = _image(64, 80)
    _assert_same(_logits(rounded, image), reference_logits("segdino_v2", rounded, image, heads=2))
    assert float((_logits(rounded, image) - _logits(state, image)).abs().max()) > 1e-3


def test_batch_norm_in_the_fine_grained_head() -> None:
    """With unit statistics the norms scale by weight / sqrt(1 + eps) and add the bias."""
    plain = make_state_dict("segdino_v1_fine", features=16)
    normed = dict(plain)
    for level in (1, 2, 3, 4):
        for unit in ("resConfUnit1", "resConfUnit2"):
            for number in ("1", "2"):
                name = f"head.scratch.refinenet{level}.{unit}"
                normed[f"{name}.bn{number}.weight"] = torch.full((16,), 1.5)
                normed[f"{name}.bn{number}.bias"] = torch.full((16,), 0.25)
                normed[f"{name}.bn{number}.running_mean"] = torch.zeros(16)
                normed[f"{name}.bn{number}.running_var"] = torch.ones(16)
                gain = 1.5 / (1 + 1e-5) ** 0.5
                plain[f"{name}.conv{number}.weight"] = gain * plain[f"{name}.conv{number}.weight"]
                plain[f"{name}.conv{number}.bias"] = (
                    gain * plain[f"{name}.conv{number}.bias"] + 0.25
                )
    image = _image(64, 64)
    _assert_same(_logits(normed, image), reference_logits("segdino_v1_fine", plain, image, heads=2))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("swiglu", [False, True])
def test_timm_spelling_is_the_same_model(layout: str, swiglu: bool) -> None:
    """Without periods heads are 64 wide, so the width must be a multiple of that."""
    state = make_state_dict(layout, width=128, heads=2, swiglu=swiglu, mlp_width=136)
    image = _image(64, 96)
    assert (
        float((_logits(to_timm_spelling(state), image) - _logits(state, image)).abs().max()) <= 1e-5
    )


def test_a_backbone_without_qkv_bias() -> None:
    state = make_state_dict("segdino_v2")
    bare = {k: v for k, v in state.items() if not k.endswith(("qkv.bias", "bias_mask"))}
    zeroed = {k: torch.zeros_like(v) if k.endswith("qkv.bias") else v for k, v in state.items()}
    image = _image(64, 64)
    expected = reference_logits("segdino_v2", zeroed, image, heads=2)
    _assert_same(_logits(bare, image), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("hyper", VARIED)
def test_hyperparameters_survive_the_round_trip(
    tmp_path: Path, layout: str, hyper: dict[str, Any]
) -> None:
    loaded = load(make_checkpoint(tmp_path / "model.pth", layout, **hyper))
    assert loaded.family.name == FAMILY_OF[layout]
    width = hyper.get("width", 64)
    found = loaded.hyperparameters
    assert found["backbone"] == {
        "width": width,
        "depth": hyper.get("depth", 4),
        "heads": hyper.get("heads", 2),
        "mlp_width": hyper.get("mlp_width", 4 * width),
        "mlp": "swiglu" if hyper.get("swiglu") else "gelu",
        "registers": hyper.get("registers", 4),
        "qkv_bias": True,
    }
    assert found["classes"] == loaded.classes == hyper.get("classes", 1)
    if layout == "dino_mvr":
        assert found["hidden"] == [12, 16, 20]
        return
    if layout == "segdino_v2":
        assert found["decoder_channels"] == hyper.get("decoder_channels", 16)
    if layout.startswith("segdino_v2"):
        assert found["norm"] == hyper.get("norm", "group")
    else:
        assert found["features"] == hyper.get("features", 16)
        assert found["projects"] == list(hyper.get("projects", (8, 12, 16, 20)))
    if layout.startswith("segdino_v1") and layout != "segdino_v1_fine":
        assert found["upsampled"] == (layout == "segdino_v1")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saving_gives_back_the_authors_state_dict(layout: str) -> None:
    state = make_state_dict(layout, norm="batch", swiglu=True)
    family = detect({key: tuple(value.shape) for key, value in state.items()})
    model = family.build(family.read_config({k: tuple(v.shape) for k, v in state.items()}))
    family.load_weights(model, state)
    saved = family.state_dict(model)
    assert set(saved) == set(state)
    for key, value in state.items():
        expected = value * state[f"{key}_mask"] if key.endswith("qkv.bias") else value
        if key != "backbone.mask_token":
            assert torch.equal(saved[key], expected), key


def test_detection_is_exclusive() -> None:
    for layout in LAYOUTS:
        shapes = {key: tuple(value.shape) for key, value in make_state_dict(layout).items()}
        assert [f.name for f in known_families() if f.matches(shapes)] == [FAMILY_OF[layout]]


def test_the_registry_finds_the_modules() -> None:
    names = [family.name for family in known_families()]
    assert names == sorted(names)
    assert set(FAMILY_OF.values()) <= set(names)
    with pytest.raises(UnknownFamilyError, match="segdino_v2"):
        family_named("segdino_v9")


def test_authors_preprocessing_and_readout(tmp_path: Path) -> None:
    size = InputSize(256, 320)
    for layout in LAYOUTS:
        one = load(make_checkpoint(tmp_path / "one.pth", layout))
        spec = one.family.preprocess(one.config, size)
        assert (spec.height_px, spec.width_px) == (256, 320)
        assert spec.resample == ("bicubic" if "v1" in layout else "bilinear")
        assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert one.family.readout(one.config).activation == "sigmoid"
        assert one.family.readout(one.config).threshold == 0.5
        many = load(make_checkpoint(tmp_path / "many.pth", layout, classes=3))
        assert many.family.readout(many.config).activation == "softmax"
        if layout == "dino_mvr":
            continue
        assert many.family.inputs(many.config, size)[0].shape == (1, 3, 256, 320)
        assert many.family.outputs(many.config, size)[0].shape == (1, 3, 256, 320)


@pytest.mark.parametrize(
    ("height_px", "near"), [(250, "240 or 256"), (7, "16"), (0, "16"), (17, "16 or 32")]
)
def test_sizes_that_are_no_multiple_of_the_patch(tmp_path: Path, height_px: int, near: str) -> None:
    loaded = load(make_checkpoint(tmp_path / "model.pth"))
    with pytest.raises(UsageError, match=f"multiple of 16, got {height_px}: take {near}$"):
        loaded.family.check_size(loaded.config, InputSize(height_px, 64))
    with pytest.raises(UsageError, match="width"):
        loaded.family.check_size(loaded.config, InputSize(64, height_px))
    with pytest.raises(UsageError, match="batch"):
        loaded.family.check_size(loaded.config, InputSize(64, 64, 0))


def test_taps_of_every_depth() -> None:
    assert tap_indices(12) == (2, 5, 8, 11)
    assert tap_indices(24) == (4, 11, 17, 23)
    assert tap_indices(32) == (7, 15, 23, 31)
    assert tap_indices(4) == (0, 1, 2, 3)
    for depth in range(4, 48):
        taps = tap_indices(depth)
        assert sorted(set(taps)) == list(taps)
        assert taps[-1] == depth - 1
    with pytest.raises(CheckpointShapeError, match="3 blocks"):
        BackboneConfig(width=64, depth=3, heads=1, mlp_width=256)


def test_inspect_reads_without_building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was built")

    monkeypatch.setattr(timm, "create_model", refuse)
    state = make_state_dict("segdino_v2", classes=2)
    path = tmp_path / "model.pth"
    torch.save({"epoch": 3, "model": {f"module.{k}": v.half() for k, v in state.items()}}, path)
    info = inspect(path)
    assert (info.family, info.classes, info.nested_under) == ("segdino_v2", 2, "model")
    assert info.keys == len(state)
    assert info.parameters == sum(v.numel() for v in state.values())
    assert info.dtypes == {"float16": len(state)}
    assert info.size_bytes == path.stat().st_size
    assert info.spelling == "meta"
    assert info.input_size == InputSize(256, 256, 1)
