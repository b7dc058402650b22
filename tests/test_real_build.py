"""Whole builds of checkpoints that were trained on real polyps, judged on held-out ones."""

from pathlib import Path

import pytest

import edgeseg
from edgeseg.backends import available_backends
from edgeseg.bundle import read_bundle
from edgeseg.dataset import DataFolder
from edgeseg.metrics import agreement

pytestmark = pytest.mark.slow
pytest.importorskip("torch")

# Dice and IoU of the authors' code in torch with PIL preprocessing, on the same 100 images.
CASES = {"segdino_v2_tiny.pth": (0.7017, 0.5847), "segdino_v1_tiny.pth": (0.6254, 0.4992)}


@pytest.fixture(scope="module")
def bundles(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("real")
    for name in CASES:
        edgeseg.build(
            real_data / "checkpoints" / name,
            output=folder / name,
            int8=True,
            data=real_data / "polyp" / "train",
            val=real_data / "polyp" / "test",
            calibration_frames=48,
        )
    return {name: folder / name for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_accuracy_survives_the_build(bundles: dict[str, Path], name: str) -> None:
    dice, iou = CASES[name]
    manifest = read_bundle(bundles[name]).manifest
    assert manifest.parity.relative <= 1e-4
    labels = {(s.variant, s.backend): s for s in manifest.scores if s.against == "labels"}
    agreements = {(s.variant, s.backend): s for s in manifest.scores if s.against == "fp32"}
    for backend in available_backends():
        fp32, int8 = labels["fp32", backend], labels[f"int8-{backend}", backend]
        assert fp32.cases == 100
        assert abs(fp32.dice - dice) <= 0.002 and abs(fp32.iou - iou) <= 0.002
        assert abs(int8.dice - fp32.dice) <= 0.005
        assert agreements[f"int8-{backend}", backend].dice >= 0.98


def test_masks_on_a_real_sequence_follow_fp32(real_data: Path, bundles: dict[str, Path]) -> None:
    cases = DataFolder.open(real_data / "sequences" / "cvc_s24").cases
    with (
        edgeseg.open(bundles["segdino_v2_tiny.pth"], precision="fp32") as fp32,
        edgeseg.open(bundles["segdino_v2_tiny.pth"]) as int8,
    ):
        agreements = []
        for case in cases:
            image, _ = case.read()
            agreements.append(agreement(int8(image).mask, fp32(image).mask))
    assert sum(agreements) / len(agreements) >= 0.97
