"""Files that are no checkpoint, are damaged, dangerous, of no known family or contradictory."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import LAYOUTS, make_checkpoint, make_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeseg.errors import CheckpointError, CheckpointShapeError, UnknownFamilyError
from edgeseg.export import inspect, load

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return make_state_dict("segdino_v2", width=32, decoder_channels=8)


def _refused(path: Path, match: str, kind: type[CheckpointError] = CheckpointError) -> None:
    """Both ways in must refuse with the same class, naming the file."""
    for read in (load, inspect):
        with pytest.raises(kind, match=match) as caught:
            read(path)
        assert type(caught.value) is kind
        assert str(path) in str(caught.value)


class _RunsCode:
    """What an attacker puts into a pickle: unpickling calls ``os.system``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch '{self.marker}'",))


def test_the_attack_is_real(tmp_path: Path) -> None:
    """Unpickled as Python does, the file used below does run its command."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(_RunsCode(marker)))
    assert marker.exists()


_WRITERS: dict[str, Callable[[Any, Path], object]] = {
    "torch.save": torch.save,
    "torch.save, old format": lambda content, path: torch.save(
        content, path, _use_new_zipfile_serialization=False
    ),
    "pickle 0": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
    "pickle 2": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    "pickle 4": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=4)),
}


@pytest.mark.parametrize("writer", _WRITERS)
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    tmp_path: Path, state: State, writer: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "model.pth"
    _WRITERS[writer]({"payload": _RunsCode(marker), "model": dict(state)}, path)
    _refused(path, r"refused: loading it would import (posix|nt)\.system.*Nothing was executed")
    assert not marker.exists()


def test_a_pickled_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    _refused(path, r"Sequential.*torch\.save\(model\.state_dict\(\)")


def test_errors_never_advise_to_load_unsafely(tmp_path: Path, state: State) -> None:
    path = tmp_path / "model.pth"
    for content in (b"\x80\x04garbage", b"not a pickle at all", bytes(500)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert "weights_only" not in str(caught.value)


def test_no_file_or_not_a_file(tmp_path: Path) -> None:
    _refused(tmp_path / "absent.pth", "does not exist")
    _refused(tmp_path, "not a file")
    empty = tmp_path / "empty.pth"
    empty.touch()
    _refused(empty, "is empty")


def test_other_kinds_of_file(tmp_path: Path) -> None:
    noise, text = tmp_path / "noise.pth", tmp_path / "text.pth"
    noise.write_bytes(random.Random(0).randbytes(4096))
    _refused(noise, "not a PyTorch or safetensors checkpoint")
    text.write_text("epoch,dice\n1,0.5\n")
    _refused(text, "not a PyTorch or safetensors checkpoint")
    picture = tmp_path / "picture.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    _refused(picture, "not a PyTorch or safetensors checkpoint")
    document = tmp_path / "document.docx"
    with zipfile.ZipFile(document, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    _refused(document, "a zip archive, but not one that torch.save wrote")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_truncated(tmp_path: Path, state: State, share: float) -> None:
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    torch.save(state, whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(share * len(content))])
    _refused(cut, "truncated")
    torch.save(state, whole, _use_new_zipfile_serialization=False)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(share * len(content))])
    _refused(cut, "damaged")
    safe, cut_safe = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    save_file(state, safe)
    content = safe.read_bytes()
    cut_safe.write_bytes(content[: int(share * len(content))])
    _refused(cut_safe, "truncated or damaged")


@pytest.mark.parametrize("seed", range(8))
def test_changed_bytes_are_noticed(tmp_path: Path, state: State, seed: int) -> None:
    """In the part that holds a weight, whose value would still be a valid number."""
    path = tmp_path / "model.pth"
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    weight = state["backbone.blocks.1.attn.qkv.weight"].numpy().tobytes()
    start = bytes(content).index(weight)
    content[start + random.Random(seed).randrange(len(weight))] ^= 1 << (seed % 8)
    path.write_bytes(bytes(content))
    _refused(path, "checksum")


def test_parts_that_would_expand(tmp_path: Path, state: State) -> None:
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save(state, plain)
    with zipfile.ZipFile(plain) as a, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as b:
        for name in a.namelist():
            b.writestr(name, a.read(name))
    _refused(packed, "compressed parts")


def test_a_tensor_that_claims_more_than_the_file_holds(tmp_path: Path, state: State) -> None:
    path = tmp_path / "model.pth"
    torch.save(state | {"backbone.norm.bias": torch.ones(1).expand(10**6, 10**6)}, path)
    _refused(path, r"claims shape \(1000000, 1000000\)")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (torch.ones(3), "holds a Tensor, not a state dict"),
        ([1, 2], "holds a list, not a state dict"),
        ({}, "holds no tensors"),
        ({"epoch": 3, "lr": 0.1}, "holds no tensors.*epoch, lr"),
        ({"model": {"epoch": 3}}, "holds no tensors"),
        ({"weight": torch.ones(2), "epoch": 3}, "'epoch' is of type int"),
        ({1: torch.ones(2)}, "the value of 1 is"),
        ({"w": torch.ones(2), "module.w": torch.ones(2)}, "'w' twice"),
        ({"w": torch.eye(3).to_sparse()}, "'w' is a torch.sparse_coo tensor"),
        ({"w": torch.ones(3, device="meta"), "b": torch.ones(9)}, "'w' is .* on meta"),
        ({"w": torch.ones(3, dtype=torch.complex64)}, "'w' is complex"),
    ],
)
def test_contents_that_are_no_weights(tmp_path: Path, content: object, match: str) -> None:
    path = tmp_path / "model.pth"
    torch.save(content, path)
    _refused(path, match)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_that_are_not_finite(
    tmp_path: Path, state: State, value: float, dtype: torch.dtype
) -> None:
    path = tmp_path / "model.pth"
    bad = state["backbone.blocks.2.mlp.fc1.weight"].to(dtype).clone()
    bad[3, 4] = value
    torch.save(state | {"backbone.blocks.2.mlp.fc1.weight": bad}, path)
    _refused(path, r"'backbone\.blocks\.2\.mlp\.fc1\.weight' holds 1 values that are not finite")


def test_unknown_family_shows_what_was_found_and_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    keys = {f"encoder.layer{i}.weight": torch.ones(3, 4) for i in range(30)}
    torch.save(keys | {"classifier.bias": torch.ones(5)}, path)
    _refused(
        path,
        r"31 keys: encoder\.\* \(30\), classifier\.\* \(1\).*encoder\.layer0\.weight \(3, 4\)"
        r".*segdino_v1.*segdino_v2",
        UnknownFamilyError,
    )


_CONTRADICTIONS: tuple[tuple[str, str, dict[str, tuple[int, ...]], str], ...] = (
    (
        "a layer of another width",
        "segdino_v2",
        {"decoder.sad_inter_3.pointwise.weight": (4, 8, 1, 1)},
        r"'decoder\.sad_inter_3\.pointwise\.weight' should have shape \(8, 8, 1, 1\), "
        r"found \(4, 8, 1, 1\)",
    ),
    (
        "one block unlike the others",
        "segdino_v2",
        {"backbone.blocks.3.attn.qkv.weight": (90, 32)},
        r"'backbone\.blocks\.3\.attn\.qkv\.weight' should have shape \(96, 32\), found \(90, 32\)",
    ),
    (
        "heads that do not divide the width",
        "segdino_v2",
        {"backbone.rope_embed.periods": (7,)},
        r"'backbone\.rope_embed\.periods' has shape \(7,\), so heads are 28 wide.*width 32",
    ),
    (
        "a grey-scale backbone",
        "segdino_v1",
        {"backbone.patch_embed.proj.weight": (32, 1, 16, 16)},
        r"\(any, 3, 16, 16\), found \(32, 1, 16, 16\)",
    ),
    (
        "another patch size",
        "segdino_v1",
        {"backbone.patch_embed.proj.weight": (32, 3, 14, 14)},
        r"\(any, 3, 16, 16\), found \(32, 3, 14, 14\)",
    ),
    (
        "a head for another backbone",
        "segdino_v1",
        {"head.projects.2.weight": (16, 384, 1, 1)},
        r"'head\.projects\.2\.weight' should have shape \(any, 32, 1, 1\), found \(16, 384, 1, 1\)",
    ),
    (
        "an output for other features",
        "segdino_v1_fine",
        {"head.scratch.output_conv.2.weight": (1, 99, 1, 1)},
        r"'head\.scratch\.output_conv\.2\.weight' should have shape \(any, 16, 1, 1\)",
    ),
    (
        "a decoder unlike the backbone",
        "segdino_v2_first",
        {"head.out_conv.weight": (1, 64, 1, 1)},
        r"'head\.out_conv\.weight' should have shape \(any, 32, 1, 1\)",
    ),
    (
        "no classes",
        "segdino_v2",
        {"decoder.out_conv.weight": (0, 8, 1, 1)},
        r"'decoder\.out_conv\.weight'",
    ),
    (
        "a probe for another backbone",
        "dino_mvr",
        {"probes.1.0.weight": (16, 384)},
        r"'probes\.1\.0\.weight' should have shape \(any, 32\), found \(16, 384\)",
    ),
    (
        "a probe whose layers do not meet",
        "dino_mvr",
        {"probes.2.2.weight": (1, 99)},
        r"'probes\.2\.2\.weight' should have shape \(any, 20\), found \(1, 99\)",
    ),
    (
        "probes of different class counts",
        "dino_mvr",
        {"probes.1.2.weight": (3, 16), "probes.1.2.bias": (3,)},
        r"the probes give 1, 3, 1 channels",
    ),
    (
        "a bias of another width",
        "dino_mvr",
        {"probes.0.0.bias": (13,)},
        r"'probes\.0\.0\.bias' should have shape \(12,?\), found \(13,?\)",
    ),
)


@pytest.mark.parametrize(
    ("layout", "changed", "match"),
    [c[1:] for c in _CONTRADICTIONS],
    ids=[c[0] for c in _CONTRADICTIONS],
)
def test_shapes_that_contradict_the_family(
    tmp_path: Path, layout: str, changed: dict[str, tuple[int, ...]], match: str
) -> None:
    state = make_state_dict(layout, width=32, decoder_channels=8)
    for key, shape in changed.items():
        assert key in state
        state[key] = torch.zeros(shape)
    torch.save(state, tmp_path / "model.pth")
    _refused(tmp_path / "model.pth", match, CheckpointShapeError)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_missing_key_is_an_error(tmp_path: Path, layout: str) -> None:
    """Except those without effect; read off names and shapes alone, so all can be tried."""
    from edgeseg.export.registry import detect

    shapes = {key: tuple(v.shape) for key, v in make_state_dict(layout, width=32).items()}
    family = detect(shapes)
    config = family.read_config(shapes)
    harmless = ("mask_token", "bias_mask", "num_batches_tracked")
    for key in shapes:
        rest = {other: shape for other, shape in shapes.items() if other != key}
        if key.endswith(harmless):
            assert family.read_config(rest) == config
            continue
        try:
            detected = detect(rest)
            found = detected.read_config(rest)
        except CheckpointError:
            continue
        # Without it the head is complete as it was before that step was added.
        assert key == "head.proj.weight"
        assert detected is family
        assert found != config


def test_missing_and_unknown_keys_are_named(tmp_path: Path) -> None:
    state = make_state_dict("segdino_v2", width=32, decoder_channels=8)
    path = tmp_path / "model.pth"
    torch.save({k: v for k, v in state.items() if k != "decoder.out_conv.bias"}, path)
    _refused(path, r"lacks 'decoder\.out_conv\.bias'", CheckpointShapeError)
    torch.save({k: v for k, v in state.items() if "blocks.2." not in k}, path)
    _refused(path, r"no 'backbone\.blocks\.2\.\*'; found numbers \[0, 1, 3\]", CheckpointShapeError)
    torch.save(state | {"decoder.alsr.weight_logits": torch.ones(4, 4)}, path)
    _refused(path, r"also holds 'decoder\.alsr\.weight_logits'", CheckpointShapeError)
    fourth = {"probes.3.0.weight": torch.ones(8, 32)}
    torch.save(make_state_dict("dino_mvr", width=32) | fourth, path)
    _refused(path, r"also holds 'probes\.3\.0\.weight'", CheckpointShapeError)
    torch.save({k: v for k, v in state.items() if not k.startswith("backbone.")}, path)
    _refused(path, r"neither 'backbone\.storage_tokens'", CheckpointShapeError)


def test_timm_spelling_without_a_width_of_64s(tmp_path: Path) -> None:
    from checkpoints import to_timm_spelling

    path = tmp_path / "model.pth"
    torch.save(to_timm_spelling(make_state_dict("segdino_v2", width=96, heads=2)), path)
    _refused(path, "heads are 64 wide, which does not divide the width 96", CheckpointShapeError)


def test_a_good_one_still_loads(tmp_path: Path) -> None:
    """The counterpart of all refusals above."""
    assert load(make_checkpoint(tmp_path / "model.pth", width=32, decoder_channels=8)).classes == 1
