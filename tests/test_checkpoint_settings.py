"""What checkpoints say besides their tensors: where it is read, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint, make_state_dict
from safetensors.torch import save_file

from edgeseg.errors import CheckpointError
from edgeseg.export import inspect, load
from edgeseg.export.checkpoint import read_state_dict
from edgeseg.export.families.dino_mvr import FAMILY
from edgeseg.export.settings import MAX_JSON_BYTES, read_settings
from edgeseg.spec import VolumeSpec, ZSmoothingSpec

CONFIG = {"resolutions": [32, [48, 64]], "threshold": 0.25}


def _mvr(path: Path, config: Any) -> Path:
    torch.save({"model": make_state_dict("dino_mvr", width=32), "config": config}, path)
    return path


def _refused(path: Path, match: str) -> None:
    """Both ways in, naming the checkpoint."""
    for read in (load, inspect):
        with pytest.raises(CheckpointError, match=match) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "teacher"])
def test_a_config_beside_the_nested_state_dict(tmp_path: Path, key: str) -> None:
    state = make_state_dict("dino_mvr", width=32)
    torch.save({"epoch": 4, key: state, "config": CONFIG}, tmp_path / "model.pth")
    read = read_state_dict(tmp_path / "model.pth")
    assert read.settings == CONFIG
    assert set(read.tensors) == set(state)
    config = load(tmp_path / "model.pth").config
    assert config.resolutions_px == ((32, 32), (48, 64)) and config.threshold == 0.25


def test_tuples_become_lists(tmp_path: Path) -> None:
    path = _mvr(tmp_path / "m.pth", {"resolutions": (32, (48, 64)), "mean": torch.Size((1, 2, 3))})
    assert read_state_dict(path).settings == {"resolutions": [32, [48, 64]], "mean": [1, 2, 3]}


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_json_file_beside_the_checkpoint(tmp_path: Path, name: str) -> None:
    state = make_state_dict("dino_mvr", width=32)
    path = tmp_path / name
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    assert read_state_dict(path).settings == {}
    assert load(path).config.threshold == 0.5
    path.with_suffix(".json").write_text(json.dumps(CONFIG))
    assert read_state_dict(path).settings == CONFIG
    assert load(path).config.threshold == 0.25
    assert inspect(path).hyperparameters["resolutions_px"] == [[32, 32], [48, 64]]
    assert (inspect(path).input_size.height_px, inspect(path).input_size.width_px) == (48, 64)


def test_the_files_own_config_goes_first_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _mvr(tmp_path / "model.pth", CONFIG)
    (tmp_path / "model.json").write_text("not even JSON")
    with caplog.at_level(logging.WARNING):
        assert read_state_dict(path).settings == CONFIG
    assert "model.json is not read" in caplog.text


def test_what_lies_beside_other_families_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": make_state_dict("segdino_v2"), "config": "experiment.yaml"}, path)
    assert load(path).family.name == "segdino_v2"
    make_checkpoint(path, "segdino_v1")
    (tmp_path / "model.json").write_text("[0.81, 0.83")
    assert load(path).family.name == "segdino_v1"


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _thousandfold() -> Any:
    value: Any = [0] * 10
    for _ in range(5):
        value = [value] * 10
    return value


def _recursive() -> Any:
    config: dict[str, Any] = {}
    config["flips"] = [config]
    return config


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ("experiment.yaml", "'config' in model.pth holds a str"),
        ([1, 2], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
        ({"mean": torch.ones(3)}, "'mean' is of type Tensor; settings are"),
        ({"volume": {"normalize": {1, 2}}}, "'volume.normalize' is of type set"),
        ({"flips": [1, {2: 3}]}, r"the key 2 in 'flips\[1\]' is not a string"),
        ({"threshold": float("nan")}, "'threshold' is nan; expected a finite number"),
        ({"std": [1.0, float("inf"), 1.0]}, r"'std\[1\]' is inf"),
        ({"min_component_px": 2**2000}, "'min_component_px' is a number of more than 64 bits"),
        ({"classes": _nested(20)}, "nested deeper than 8 levels"),
        ({"classes": _thousandfold()}, "more than 10000 values"),
        (_recursive(), "nested deeper than 8 levels"),
    ],
)
def test_a_config_that_is_no_plain_dictionary(tmp_path: Path, config: Any, match: str) -> None:
    _refused(_mvr(tmp_path / "model.pth", config), match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is not valid JSON"),
        (b"{'flips': []}", "is not valid JSON"),
        (b'{"flips": ["h"', "is not valid JSON"),
        (b"\xff\xfe\x00{", "is not valid JSON"),
        (b"[256, 384]", "holds a list"),
        (b'"entropy"', "holds a str"),
        (b"null", "holds a NoneType"),
        (b'{"threshold": NaN}', "'threshold' is nan"),
        (b'{"threshold": 1e999}', "'threshold' is inf"),
        (b'{"threshold": 0.1, "threshold": 0.9}', "'threshold' is given twice"),
        (b'{"min_component_px": 1' + b"0" * 5000 + b"}", "is not valid JSON"),
        (b'{"a":' * 100_000, "is not valid JSON"),
        (b'{"flips": [' + b"0," * 20_000 + b"0]}", "more than 10000 values"),
        (b" " * (MAX_JSON_BYTES + 1), f"larger than {MAX_JSON_BYTES} bytes"),
    ],
)
def test_json_that_is_no_plain_dictionary(tmp_path: Path, content: bytes, match: str) -> None:
    path = make_checkpoint(tmp_path / "model.pth", "dino_mvr", width=32)
    (tmp_path / "model.json").write_bytes(content)
    _refused(path, match)


def test_a_folder_where_the_settings_would_be(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model.pth", "dino_mvr", width=32)
    (tmp_path / "model.json").mkdir()
    _refused(path, r"model\.json is not a file")


def test_large_files_are_not_read_whole(tmp_path: Path) -> None:
    """A sparse file of 1 TB: its size must not matter."""
    with (tmp_path / "model.json").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="larger than"):
        read_settings(tmp_path / "model.pth")


def test_the_documentation_tells_every_setting_and_its_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    table = text.split("### Settings")[1].split("###")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {key for cell in first for key in re.findall("`(.+?)`", cell)}
    config = load(make_checkpoint(tmp_path / "m.pth", "dino_mvr")).config
    names = dataclasses.replace(config, names=("a",), volume=VolumeSpec("zscore"))
    whole = dataclasses.replace(names, z_smoothing=ZSmoothingSpec(1.0))
    assert documented == set(FAMILY.settings(whole))
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    for number, block in enumerate(blocks):
        exec(compile(block, f"checkpoints.md, block {number}", "exec"), variables)
    saved = load(tmp_path / "polyp.pth")
    assert saved.family.class_names(saved.config) == ("polyp",)
    assert saved.config.threshold == 0.4 and saved.config.flips == ("h",)
    state = saved.family.state_dict(saved.model)
    assert all(torch.equal(state[key], value) for key, value in variables["state"].items())
