"""DINO-MVR on real polyps and a real scan: fitted, built and scored on what was held out.

The bounds are far below what was measured (README.md): they catch a path that is broken, not a
machine that rounds in another way.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeseg
from edgeseg.settings import Settings
from edgeseg.spec import ZSmoothingSpec

pytestmark = pytest.mark.slow
pytest.importorskip("torch")

SIZE = ((256, 256),)


@pytest.fixture(scope="module")
def backbone(real_data: Path) -> Path:
    return real_data / "checkpoints" / "segdino_v2_tiny.pth"


def test_probes_fitted_to_five_pictures_find_polyps(real_data, backbone, tmp_path):
    polyps = real_data / "polyp"
    checkpoint = tmp_path / "mvr.pth"
    edgeseg.fit(backbone, polyps / "train", checkpoint, limit=5, resolutions_px=SIZE, threads=1)
    bundle = tmp_path / "mvr.edgeseg"
    edgeseg.build(
        checkpoint,
        output=bundle,
        int8=True,
        data=polyps / "train",
        calibration_frames=32,
        settings=Settings(flips=("h",)),
    )
    dice = {}
    for precision in ("fp32", "int8"):
        report = edgeseg.evaluate(
            bundle, polyps / "test", output=tmp_path / precision, precision=precision
        )
        dice[precision] = report.mean.dice
    assert dice["fp32"] >= 0.5
    assert abs(dice["int8"] - dice["fp32"]) <= 0.03


def test_probes_fitted_to_some_slices_segment_the_others(real_data, backbone, tmp_path):
    pytest.importorskip("nibabel")
    folder = real_data / "volumes" / "brats_2013_pat0001_1"
    scan, labels = folder / "Flair_subtrMeanDivStd.nii.gz", folder / "OTMultiClass.nii.gz"
    checkpoint = tmp_path / "flair.pth"
    edgeseg.fit(
        backbone,
        scan,
        checkpoint,
        labels=labels,
        slices=(0, 75),
        resolutions_px=SIZE,
        epochs=10,
        threads=1,
    )
    bundle = tmp_path / "flair.edgeseg"
    edgeseg.build(checkpoint, output=bundle, settings=Settings(flips=()))
    for sigma_mm in (0.0, 2.0):
        report = edgeseg.segment(
            bundle,
            scan,
            tmp_path / "labels.nii.gz",
            labels=labels,
            score_slices=(75, 155),
            settings=Settings(z_smoothing=ZSmoothingSpec(sigma_mm, "mm")),
            force=True,
        )
        assert report.normalize_from == "bundle"
        assert report.score is not None
        assert report.score.dice >= 0.7
        assert report.score.hd95 <= 15.0
