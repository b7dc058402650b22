"""Checkpoints that the authors' own code trained, on real pictures.

The preprocessing here is PIL's, written out; masks are compared as the authors' test script does
it (at the model's size, masks resized nearest, eps 1e-6): only the model itself is edgeseg's.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseg.export import InputSize, check_parity, export_onnx, inspect, load

DATA = Path(os.environ.get("EDGESEG_DATA", ""))

pytestmark = pytest.mark.skipif(
    "EDGESEG_DATA" not in os.environ, reason="EDGESEG_DATA does not name the folder of real data"
)

# Dice and IoU that the authors' code reaches with the same weights on the same pictures.
CASES = {
    "segdino_v1_tiny.pth": ("segdino_v1", Image.Resampling.BICUBIC, 0.6254, 0.4992),
    "segdino_v2_tiny.pth": ("segdino_v2", Image.Resampling.BILINEAR, 0.7017, 0.5847),
}
_EPS = 1e-6

# Threads would only fight for the cores where tests share the machine.
torch.set_num_threads(1)


def _tensor(path: Path, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """(1, 3, H, W) float32, as torchvision's ToTensor and Normalize make it."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB").resize(size[::-1], resample), dtype=np.float32)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return np.ascontiguousarray(((pixels / 255 - mean) / std).transpose(2, 0, 1)[None])


def _pictures() -> list[tuple[Path, Path]]:
    images = sorted((DATA / "polyp/test/image").iterdir())
    masks = sorted((DATA / "polyp/test/mask").iterdir())
    assert len(images) == len(masks) == 100
    return list(zip(images, masks, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_published_figures_are_reproduced(name: str) -> None:
    family, resample, dice, iou = CASES[name]
    loaded = load(DATA / "checkpoints" / name)
    assert loaded.family.name == family
    scores = []
    for image, mask in _pictures():
        with torch.inference_mode():
            logits = loaded.model(torch.from_numpy(_tensor(image, (256, 256), resample)))
        found = (torch.sigmoid(logits)[0, 0] > 0.5).numpy()
        with Image.open(mask) as picture:
            shrunk = picture.convert("L").resize((256, 256), Image.Resampling.NEAREST)
        truth = np.asarray(shrunk) > 127
        both, sum_of_both = (found & truth).sum(), found.sum() + truth.sum()
        scores.append(
            (
                (2 * both + _EPS) / (sum_of_both + _EPS),
                (both + _EPS) / (sum_of_both - both + _EPS),
            )
        )
    mean_dice, mean_iou = np.mean(scores, axis=0)
    assert mean_dice == pytest.approx(dice, abs=1e-4)
    assert mean_iou == pytest.approx(iou, abs=1e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [(256, 256), (224, 320)])
def test_graph_equals_torch_on_real_pictures(
    tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    ort = pytest.importorskip("onnxruntime")
    loaded = load(DATA / "checkpoints" / name)
    graph = export_onnx(loaded, tmp_path / "model.onnx", height_px=size[0], width_px=size[1])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(graph.path), options, providers=["CPUExecutionProvider"])
    tensors = [{"image": _tensor(image, size, CASES[name][1])} for image, _ in _pictures()[::10]]
    record = check_parity(
        loaded,
        InputSize(*size),
        lambda inputs: {"logits": session.run(["logits"], dict(inputs))[0]},
        runtime=f"onnxruntime {ort.__version__}",
        tensors=tensors,
    )
    assert record.relative <= 1e-4
    assert record.logit_range > 5


def test_what_inspect_finds() -> None:
    info = inspect(DATA / "checkpoints" / "segdino_v2_tiny.pth")
    assert (info.family, info.classes, info.spelling) == ("segdino_v2", 1, "meta")
    assert info.hyperparameters["decoder_channels"] == 64
    assert info.hyperparameters["backbone"]["width"] == 192
    assert info.hyperparameters["backbone"]["heads"] == 3
    assert info.keys == 238
