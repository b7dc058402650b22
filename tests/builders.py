"""Small manifests, ONNX files and bundles that several tests share."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeseg.bundle import Golden, new_bundle, read_bundle, seal, write_golden
from edgeseg.preprocess import Preprocessor
from edgeseg.spec import (
    SCHEMA_VERSION,
    Flip,
    FusionSpec,
    GoldenLimits,
    Manifest,
    ParityRecord,
    PreprocessSpec,
    Provenance,
    ReadoutSpec,
    RoiSpec,
    TensorSpec,
    Variant,
    ViewSpec,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def tiny_manifest(height_px: int = 32, width_px: int = 48, channels: int = 1) -> Manifest:
    """A complete manifest of one FP32 variant."""
    several = channels > 1
    return Manifest(
        schema_version=SCHEMA_VERSION,
        edgeseg_version="0.0.0",
        name="tiny",
        family="segdino_v2",
        hyperparameters={"width": 64, "taps": [0, 1, 2, 3]},
        classes=tuple(f"class {i}" for i in range(channels)),
        precision="fp32",
        preprocess=PreprocessSpec(height_px, width_px, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
        readout=ReadoutSpec("softmax" if several else "sigmoid"),
        variants=(
            Variant(
                name="fp32",
                file="fp32.onnx",
                precision="fp32",
                products="fp32",
                rest="fp32",
                placement="none",
                backends=("openvino", "onnxruntime", "tensorrt"),
                batch=1,
                inputs=(TensorSpec("image", "float32", (1, 3, height_px, width_px), "NCHW"),),
                outputs=(
                    TensorSpec("logits", "float32", (1, channels, height_px, width_px), "NCHW"),
                ),
                golden_limits=dict.fromkeys(
                    ("openvino", "onnxruntime", "tensorrt"), GoldenLimits(1e-3, 0.9999, 0.99)
                ),
            ),
        ),
        files={},
        provenance=Provenance("tiny.pth", "0" * 64, "2026-01-01T00:00:00+00:00", {}, "a machine"),
        licence_notice="none",
        parity=ParityRecord(1e-6, 1.0, "openvino"),
    )


def tiny_onnx(path: Path, height_px: int = 32, width_px: int = 48, channels: int = 1) -> None:
    """An ONNX file from ``image`` to ``logits``: one 1x1 convolution, weights ``tiny_weights``."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weight, bias = tiny_weights(channels)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"], name="head")],
        "tiny",
        [
            helper.make_tensor_value_info(
                "image", onnx.TensorProto.FLOAT, (1, 3, height_px, width_px)
            )
        ],
        [
            helper.make_tensor_value_info(
                "logits", onnx.TensorProto.FLOAT, (1, channels, height_px, width_px)
            )
        ],
        [
            numpy_helper.from_array(weight[:, :, None, None], "weight"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def tiny_weights(channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Weight (channels, 3) and bias (channels,) of ``tiny_onnx``, float32."""
    rng = np.random.default_rng(channels)
    return (
        rng.normal(size=(channels, 3)).astype(np.float32),
        rng.normal(size=channels).astype(np.float32),
    )


def tiny_bundle(
    path: Path,
    height_px: int = 32,
    width_px: int = 48,
    channels: int = 1,
    roi: RoiSpec | None = None,
) -> Path:
    """A sealed bundle around ``tiny_onnx``, with golden frames; returns ``path``."""
    manifest = tiny_manifest(height_px, width_px, channels)
    manifest = dataclasses.replace(
        manifest, preprocess=dataclasses.replace(manifest.preprocess, roi=roi)
    )
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    preprocess = Preprocessor(manifest.preprocess)
    weight, bias = tiny_weights(channels)
    logits = [
        np.einsum("oc,chw->ohw", weight, preprocess(f)[0]) + bias[:, None, None] for f in frames
    ]
    with new_bundle(path, force=False) as folder:
        tiny_onnx(folder / "fp32.onnx", height_px, width_px, channels)
        write_golden(
            folder, Golden(frames, {"logits": np.stack(logits)[:, None].astype(np.float32)})
        )
        seal(folder, manifest)
    return path


def with_variants(path: Path, *precisions: str) -> Path:
    """Give a sealed bundle more variants, copies of the FP32 file under their precisions' names."""
    manifest = read_bundle(path).manifest
    fp32 = manifest.variants[0]
    for name in precisions:
        shutil.copy(path / fp32.file, path / f"{name}.onnx")
    more = tuple(
        dataclasses.replace(fp32, name=name, precision=name, file=f"{name}.onnx")
        for name in precisions
    )
    seal(path, dataclasses.replace(manifest, variants=(*manifest.variants, *more)))
    return path


def tiny_views(
    sizes: tuple[tuple[int, int], ...] = ((32, 48), (64, 48)),
    flips: tuple[Flip, ...] = ("none", "h", "v"),
) -> tuple[ViewSpec, ...]:
    """Views of the given sizes, all with the same flips."""
    return tuple(ViewSpec(height, width, flips) for height, width in sizes)


def tiny_views_bundle(
    path: Path,
    views: tuple[ViewSpec, ...] | None = None,
    channels: int = 1,
    readout: ReadoutSpec | None = None,
) -> Path:
    """A sealed bundle that reads several views: each goes through one 16x16 convolution."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    views = views or tiny_views()
    rng = np.random.default_rng(channels)
    weight = rng.normal(0, 0.1, (channels, 3, 16, 16)).astype(np.float32)
    inputs = tuple(
        TensorSpec(f"image_{v.name}", "float32", (len(v.flips), 3, v.height_px, v.width_px), "NCHW")
        for v in views
    )
    outputs = tuple(
        TensorSpec(
            f"logits_{v.name}",
            "float32",
            (len(v.flips), channels, v.height_px // 16, v.width_px // 16),
            "NCHW",
        )
        for v in views
    )
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [i.name, "weight"], [o.name], name=o.name, strides=[16, 16])
            for i, o in zip(inputs, outputs, strict=True)
        ],
        "views",
        [helper.make_tensor_value_info(i.name, 1, i.shape) for i in inputs],
        [helper.make_tensor_value_info(o.name, 1, o.shape) for o in outputs],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    largest = max(views, key=lambda v: v.height_px * v.width_px)
    manifest = tiny_manifest(largest.height_px, largest.width_px, channels)
    activation = "sigmoid" if channels == 1 else "softmax"
    manifest = dataclasses.replace(
        manifest,
        family="dino_mvr",
        preprocess=dataclasses.replace(manifest.preprocess, views=views),
        readout=readout or ReadoutSpec(activation, fusion=FusionSpec()),
        variants=(dataclasses.replace(manifest.variants[0], inputs=inputs, outputs=outputs),),
    )
    frames = rng.integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    preprocess = Preprocessor(manifest.preprocess)
    answers: dict[str, list[np.ndarray]] = {o.name: [] for o in outputs}
    for frame in frames:
        for o, tensor in zip(outputs, preprocess.tensors(frame), strict=True):
            patches = tensor.reshape(len(tensor), 3, o.shape[2], 16, o.shape[3], 16)
            answers[o.name].append(np.einsum("fcyixj,ocij->foyx", patches, weight))
    with new_bundle(path, force=False) as folder:
        onnx.save(model, folder / "fp32.onnx")
        stacked = {name: np.stack(a).astype(np.float32) for name, a in answers.items()}
        write_golden(folder, Golden(frames, stacked))
        seal(folder, manifest)
    return path
