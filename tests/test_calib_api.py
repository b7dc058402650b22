"""The public names of ``edgeseg.calib``, and what they need."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edgeseg.calib as calib
from edgeseg.errors import MissingDependencyError


def test_every_public_name_resolves_to_itself_and_not_to_a_module() -> None:
    for name in calib.__all__:
        value = getattr(calib, name)
        assert not isinstance(value, type(sys)), name
    assert set(calib.__all__) <= set(dir(calib))
    with pytest.raises(AttributeError, match="nothing"):
        _ = calib.nothing


def test_a_missing_onnx_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeseg\[export\]'"):
        _ = calib.quantize


def test_it_needs_neither_torch_nor_onnx_until_used() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import edgeseg.calib as c\n"
        "c.CalibrationFrames, c.METHODS\n"
        "assert 'onnx' not in sys.modules and 'onnxruntime' not in sys.modules\n"
        "c.quantize, c.to_fp16, c.collect_ranges, c.quantize_with_modelopt\n"
        "assert 'modelopt' not in sys.modules and 'onnxruntime' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
