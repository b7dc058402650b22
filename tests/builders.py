"""Small manifests and ONNX-free stand-ins that several tests share."""

from __future__ import annotations

from edgeseg.spec import (
    SCHEMA_VERSION,
    Manifest,
    ParityRecord,
    PreprocessSpec,
    Provenance,
    ReadoutSpec,
    TensorSpec,
    Variant,
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
                backends=("openvino", "onnxruntime"),
                batch=1,
                inputs=(TensorSpec("image", "float32", (1, 3, height_px, width_px), "NCHW"),),
                outputs=(
                    TensorSpec("logits", "float32", (1, channels, height_px, width_px), "NCHW"),
                ),
                golden_tolerance={"openvino": 1e-3, "onnxruntime": 1e-3},
            ),
        ),
        files={},
        provenance=Provenance("tiny.pth", "0" * 64, "2026-01-01T00:00:00+00:00", {}, "a machine"),
        licence_notice="none",
        parity=ParityRecord(1e-6, 1.0, "openvino"),
    )
