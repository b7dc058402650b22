"""The examples of the documentation run as they are printed."""

import re
import shutil
from pathlib import Path

import pytest

API = Path(__file__).parents[1] / "docs" / "api.md"


def test_the_api_examples_run(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", API.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    shutil.copytree(demo_bundle, tmp_path / "demo.edgeseg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"api.md, block {number}", "exec"), names)
    assert names["result"].mask.shape == (480, 640)
    assert "auto chose openvino" not in names.get("error", "")
