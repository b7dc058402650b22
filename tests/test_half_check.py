"""What a build says of FP16 files that overflow, survive, or could not be judged."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from builders import tiny_manifest
from calib_graphs import cosine, frames, make_vit
from onnx import numpy_helper

from edgeseg._progress import silent
from edgeseg.backends import EngineOptions, open_engine
from edgeseg.calib import FP16_MODES, check_placement, collect_ranges, quantize, to_fp16
from edgeseg.spec import TensorSpec, Variant
from edgeseg.workflows._half_check import HalfCheck, check_half, half_decisions
from edgeseg.workflows._variants import int8_variants

pytest.importorskip("onnxruntime")

FEEDS = [{"image": frame} for frame in frames(2)]


def make_files(folder: Path, scale: float) -> tuple[Variant, ...]:
    """All variants of a small model whose first attention multiplies its queries by ``scale``."""
    model = make_vit()
    (tensor,) = (t for t in model.graph.initializer if t.name == "blocks.0.scale")
    tensor.CopyFrom(numpy_helper.from_array(np.float32(scale), tensor.name))
    onnx.save(model, folder / "fp32.onnx")
    for mode in FP16_MODES:
        to_fp16(folder / "fp32.onnx", folder / f"{mode}.onnx", mode)
    thresholds = collect_ranges(folder / "fp32.onnx", frames(2), threads=1).thresholds("max")
    for backend in ("openvino", "tensorrt"):
        quantize(folder / "fp32.onnx", thresholds, backend, folder / f"int8-{backend}.onnx")
    base = tiny_manifest().variants[0]

    def variant(name: str, products: Any, rest: Any) -> Variant:
        precision: Any = name.partition("-")[0] if products == "int8" else name
        return dataclasses.replace(
            base,
            name=name,
            file=f"{name}.onnx",
            precision=precision,
            products=products,
            rest=rest,
        )

    return (
        variant("fp32", "fp32", "fp32"),
        variant("int8-openvino", "int8", "fp32"),
        variant("int8-tensorrt", "int8", "fp16"),
        variant("fp16", "fp16", "fp16"),
        variant("fp16-safe", "fp16", "fp16"),
    )


def checked(folder: Path, variants: tuple[Variant, ...]) -> dict[str, HalfCheck]:
    found = {v.name: check_half(folder, v, FEEDS, threads=1) for v in variants}
    return {name: check for name, check in found.items() if check is not None}


def test_nothing_to_say_where_all_survive(tmp_path: Path) -> None:
    variants = make_files(tmp_path, 0.18)
    checks = checked(tmp_path, variants)
    assert set(checks) == {"int8-tensorrt", "fp16", "fp16-safe"}
    assert half_decisions(variants, checks) == ()
    for check in checks.values():
        assert check.survives and len(check.answers) == 2
        assert all(np.isfinite(answer["logits"]).all() for answer in check.answers)
    # Two frames, two answers, in their order.
    first, second = checks["fp16"].answers
    (again,) = check_half(tmp_path, variants[3], FEEDS[1:], threads=1).answers  # type: ignore[union-attr]
    np.testing.assert_array_equal(again["logits"], second["logits"])
    assert not np.array_equal(first["logits"], second["logits"])


def test_an_overflow_names_its_place_and_who_survives(tmp_path: Path) -> None:
    variants = make_files(tmp_path, 3000.0)
    checks = checked(tmp_path, variants)
    assert [name for name, check in checks.items() if check.survives] == ["fp16-safe"]
    decisions = {d.what: d.why for d in half_decisions(variants, checks)}
    assert list(decisions) == [
        "warning: int8-tensorrt overflows FP16 on generated frames",
        "warning: fp16 overflows FP16 on generated frames",
    ]
    for why in decisions.values():
        assert why.startswith("blocks.0/scores reaches ")
        assert "beyond 65504, and " in why
        assert why.endswith("Safe are: fp16-safe, fp32")
    assert not np.isfinite(checks["fp16"].answers[0]["logits"]).all()
    assert np.isfinite(checks["fp16-safe"].answers[0]["logits"]).all()


def test_without_onnx_runtime_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = make_files(tmp_path, 3000.0)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    checks = checked(tmp_path, variants)
    assert checks == {}
    (decision,) = half_decisions(variants, checks)
    assert decision.what.endswith("not checked: int8-tensorrt, fp16, fp16-safe")
    assert "pip install 'edgeseg[onnxruntime]'" in decision.why


class Frames(list[Any]):
    """Calibration frames without files."""

    warnings = ()

    def record(self, *_: str) -> None:
        return None


@pytest.mark.parametrize(("scale", "safe"), [(0.18, False), (3000.0, True)])
def test_int8_keeps_scores_in_single_where_half_cannot_hold_them(
    tmp_path: Path, scale: float, safe: bool
) -> None:
    make_files(tmp_path, scale)
    port = TensorSpec("image", "float32", (1, 3, 64, 96), "NCHW")
    source: Any = SimpleNamespace(
        inputs=(port,), outputs=(), preprocess=tiny_manifest(64, 96).preprocess
    )
    shots: Any = Frames((frame,) for frame in frames(2))
    made = int8_variants(
        tmp_path,
        source,
        shots,
        method="max",
        quantizer="edgeseg",
        exclude=(),
        threads=1,
        progress=silent,
    )
    variant = next(v for v in made.variants if v.name == "int8-tensorrt")
    check_placement(onnx.load(tmp_path / variant.file), "tensorrt")
    check = check_half(tmp_path, variant, FEEDS, threads=1)
    assert check is not None and check.survives
    assert ("scores" in variant.placement) == safe
    hints = [d for d in made.decisions if "attention scores" in d.what]
    assert [d.what for d in hints] == safe * [
        "int8-tensorrt: attention scores and softmax stay in FP32"
    ]
    assert all(d.why.startswith("blocks.0/scores reaches 8.") for d in hints)
    with open_engine(tmp_path / "fp32.onnx", "openvino", EngineOptions(threads=1)) as engine:
        expected = [engine.infer(feed)["logits"] for feed in FEEDS]
    found = [answer["logits"] for answer in check.answers]
    assert cosine(np.stack(found), np.stack(expected)) >= 0.99
