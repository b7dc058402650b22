"""The ablation table of a multi-view bundle."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import tiny_bundle, tiny_views_bundle

import edgeseg
from edgeseg.cli import main
from edgeseg.errors import UsageError
from edgeseg.metrics import evaluate_mask, mean_score, resize_mask
from edgeseg.settings import Settings
from edgeseg.spec import FusionSpec, ReadoutSpec
from edgeseg.workflows.ablate import ablate


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of a bright disc, with its mask."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "image").mkdir()
    (folder / "mask").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        mask = np.zeros((70, 90), np.uint8)
        centre = tuple(int(c) for c in rng.integers(25, 45, 2))
        cv2.circle(mask, centre, 18, 255, -1)
        image = rng.integers(0, 60, (70, 90, 3), dtype=np.uint8)
        image[mask > 0] += np.uint8(150)
        cv2.imwrite(str(folder / "image" / f"{i}.png"), image)
        cv2.imwrite(str(folder / "mask" / f"{i}.png"), mask)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_views_bundle(
        tmp_path_factory.mktemp("bundle") / "views.edgeseg",
        readout=ReadoutSpec("sigmoid", fusion=FusionSpec("exp", 0.5)),
    )


def test_each_row_scores_what_its_name_says(bundle, data, tmp_path):
    report = ablate(bundle, data, output=tmp_path / "out", rounds=1)
    assert [(row.name, row.views) for row in report.rows] == [
        ("single view", 1),
        ("multi-resolution", 2),
        ("with flips", 6),
        ("with entropy weights", 6),
        ("with exp(-H/0.5) weights", 6),
        ("with regularisation", 6),
    ]
    own = [
        Settings(views=((64, 48),), flips=(), weighting="mean"),
        Settings(flips=(), weighting="mean"),
        Settings(weighting="mean"),
        Settings(weighting="entropy"),
        Settings(),
        Settings(
            blur_sigma_px=report.regularize.blur_sigma_px,
            fill_holes=report.regularize.fill_holes,
            min_component_px=report.regularize.min_component_px,
        ),
    ]
    for row, settings in zip(report.rows, own, strict=True):
        scores = []
        with edgeseg.open(bundle, settings=settings) as model:
            for i in range(4):
                image = cv2.imread(str(data / "image" / f"{i}.png"))
                truth = cv2.imread(str(data / "mask" / f"{i}.png"), cv2.IMREAD_GRAYSCALE) // 255
                mask = model.read_grid(model.infer(model.preprocess(image))).mask
                scores.append(evaluate_mask(mask, resize_mask(truth, *mask.shape), 1))
        mean = mean_score(scores)
        assert row.dice == pytest.approx(mean.dice, abs=1e-9), row.name
        assert row.iou == pytest.approx(mean.iou, abs=1e-9), row.name
        assert row.median_ms > 0
    with (tmp_path / "out" / "ablation.csv").open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [float(line["dice"]) for line in written] == [row.dice for row in report.rows]
    record = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert record["cases"] == 4 and len(record["rows"]) == 6


def test_rows_that_would_repeat_are_left_out(data, tmp_path):
    from builders import tiny_views

    path = tiny_views_bundle(tmp_path / "b.edgeseg", tiny_views(((32, 48),), ("none", "h")))
    names = [row.name for row in ablate(path, data, rounds=1).rows]
    assert names == ["single view", "with flips", "with entropy weights", "with regularisation"]


def test_a_model_of_one_view_has_nothing_to_ablate(data, tmp_path):
    with pytest.raises(UsageError, match="nothing to ablate"):
        ablate(tiny_bundle(tmp_path / "one.edgeseg"), data)


def test_the_command_prints_the_table(bundle, data, capsys):
    assert main(["eval", str(bundle), "--data", str(data), "--ablate", "--flips", "h"]) == 0
    text = capsys.readouterr().out
    assert "single view" in text and "with regularisation" in text
    assert main(["eval", str(bundle), "--data", str(data), "--ablate", "--with-pictures"]) == 2
