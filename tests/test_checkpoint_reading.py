"""What counts as a checkpoint: formats, nesting, prefixes, dtypes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint, make_state_dict
from safetensors.torch import save_file
from torch import Tensor

from edgeseg.export import inspect, load
from edgeseg.export.checkpoint import read_state_dict


@pytest.fixture
def state() -> dict[str, Tensor]:
    return make_state_dict("segdino_v2", width=32, decoder_channels=8)


def _same(path: Path, state: dict[str, Tensor]) -> None:
    read = read_state_dict(path)
    assert list(read.tensors) == list(state)
    for key, value in state.items():
        assert torch.equal(read.tensors[key], value)
    assert read.shapes == {key: tuple(value.shape) for key, value in state.items()}
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.size_bytes == len(path.read_bytes())


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "teacher"])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_nested_and_wrapped(
    tmp_path: Path, state: dict[str, Tensor], key: str, wrapper: str
) -> None:
    path = tmp_path / "model.pth"
    content: dict[str, Any] = {"epoch": 7, "optimizer": {"lr": 0.1, "state": {}}, "best": 0.9}
    torch.save(content | {key: {wrapper + name: value for name, value in state.items()}}, path)
    _same(path, state)
    assert read_state_dict(path).nested_under == key


def test_bare_twice_nested_and_old_format(tmp_path: Path, state: dict[str, Tensor]) -> None:
    bare, twice, old = (tmp_path / f"{name}.pt" for name in ("bare", "twice", "old"))
    torch.save(state, bare)
    torch.save({"model": {"state_dict": state}}, twice)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    for path in (bare, twice, old):
        _same(path, state)
    assert read_state_dict(bare).nested_under is None


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_safetensors_by_name_or_by_content(
    tmp_path: Path, state: dict[str, Tensor], name: str
) -> None:
    path = tmp_path / name
    save_file(state, path)
    read = read_state_dict(path)
    assert set(read.tensors) == set(state)
    assert all(torch.equal(read.tensors[key], value) for key, value in state.items())


def test_a_parameter_called_model_is_no_nesting(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "model.pth"
    torch.save({f"model.{name}": value for name, value in state.items()}, path)
    assert set(read_state_dict(path).tensors) == {f"model.{name}" for name in state}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_dtype_becomes_float32(
    tmp_path: Path, state: dict[str, Tensor], dtype: torch.dtype
) -> None:
    path = tmp_path / "model.pth"
    torch.save({name: value.to(dtype) for name, value in state.items()}, path)
    model = load(path).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    weight = "decoder.out_conv.weight"
    assert torch.equal(model.state_dict()[weight], state[weight].to(dtype).float())
    assert torch.equal(
        model.backbone.rope.periods, state["backbone.rope_embed.periods"].to(dtype).float()
    )


def test_loading_leaves_the_file_alone(tmp_path: Path) -> None:
    """Large files are mapped: what happens to the model must not reach them."""
    path = make_checkpoint(tmp_path / "model.pth", "segdino_v1")
    before = path.read_bytes()
    loaded = load(path)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.fill_(3.0)
    assert path.read_bytes() == before
    assert loaded.sha256 == hashlib.sha256(before).hexdigest()
    assert loaded.keys == inspect(path).keys


def test_the_package_imports_without_torch() -> None:
    """Its names cost an import when used, not before; torch's absence is explained."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import edgeseg.export as export\n"
        "from edgeseg.errors import MissingDependencyError\n"
        "assert 'onnx' not in sys.modules and 'timm' not in sys.modules\n"
        "try:\n    export.load\n"
        "except MissingDependencyError as error:\n    assert 'edgeseg[export]' in str(error)\n"
        "else:\n    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
