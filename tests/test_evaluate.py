"""Evaluation: metrics.csv against the metrics computed apart, pictures, and bad input."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import random
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from builders import IMAGENET_MEAN, IMAGENET_STD, tiny_bundle, tiny_manifest, tiny_weights
from PIL import Image

import edgeseg
from edgeseg.dataset import DataFolder
from edgeseg.errors import BackendError, DataError, InputError, OutputError, UsageError
from edgeseg.metrics import Score, evaluate_mask
from edgeseg.reader import Reader
from edgeseg.spec import RoiSpec
from edgeseg.workflows._case_pictures import case_picture
from edgeseg.workflows.evaluate import evaluate, mask_at_model_size, score_cases

SIZES = ((45, 70), (64, 50), (32, 48), (90, 33))


def colour_blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth RGB picture, so that masks have regions rather than noise."""
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def data(tmp_path) -> Path:
    """Four pictures of different sizes, masks of 0/255 that partly agree with the tiny model."""
    root = tmp_path / "data"
    (root / "image").mkdir(parents=True)
    (root / "mask").mkdir()
    rng = np.random.default_rng(2)
    for number, size in enumerate(SIZES, start=8):
        rgb = colour_blobs(rng, *size)
        Image.fromarray(rgb).save(root / "image" / f"case{number}.png")
        truth = np.roll(tiny_logits(rgb)[0] > 0, 4, axis=1)
        Image.fromarray(truth.astype(np.uint8) * 255).save(root / "mask" / f"case{number}.png")
    return root


def tiny_logits(rgb: np.ndarray, channels: int = 1) -> np.ndarray:
    """The tiny bundle's formulation in float64."""
    weight, bias = tiny_weights(channels)
    normalised = (rgb / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    return np.einsum("oc,hwc->ohw", weight, normalised) + bias[:, None, None]


def expected_at_model_size(data: Path, case_id: str) -> Score:
    """As a script with PIL would score the case: 32x48 input, bilinear, nearest masks."""
    with Image.open(data / "image" / f"{case_id}.png") as image:
        small = np.asarray(image.convert("RGB").resize((48, 32), Image.Resampling.BILINEAR))
    with Image.open(data / "mask" / f"{case_id}.png") as mask:
        truth = np.asarray(mask.convert("L").resize((48, 32), Image.Resampling.NEAREST)) > 127
    return evaluate_mask(tiny_logits(small)[0] > 0, truth)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


@pytest.fixture
def bundle(tmp_path) -> Path:
    return tiny_bundle(tmp_path / "tiny.edgeseg")


def test_metrics_file_has_a_row_a_case_and_the_means(bundle, data, tmp_path):
    report = evaluate(bundle, data, output=tmp_path / "out", threads=1)
    header, *cases, mean = rows_of(report.metrics)
    assert header == ["id", "dice", "iou", "hd95"]
    assert [row[0] for row in cases] == ["case8", "case9", "case10", "case11"]
    for row in cases:
        score = expected_at_model_size(data, row[0])
        figures = [float(value) for value in row[1:]]
        assert figures == pytest.approx([score.dice, score.iou, score.hd95], abs=1e-6)
        assert 0.1 < score.dice < 0.999, "a trivial case shows nothing"
    assert mean[0] == "MEAN"
    columns = np.array([[float(value) for value in row[1:]] for row in cases])
    assert [float(v) for v in mean[1:]] == pytest.approx(columns.mean(axis=0), abs=2e-6)
    assert (report.mean.dice, report.mean.iou, report.mean.hd95) == pytest.approx(
        columns.mean(axis=0), abs=1e-6
    )


def test_native_resolution_uses_the_truth_as_stored(bundle, data, tmp_path):
    report = evaluate(bundle, data, output=tmp_path / "out", at="native", backend="onnxruntime")
    for result in report.results:
        with Image.open(result.case.image) as image:
            small = np.asarray(image.convert("RGB").resize((48, 32), Image.Resampling.BILINEAR))
        with Image.open(result.case.mask) as mask:
            truth = np.asarray(mask) > 127
        logits = tiny_logits(small)[0].astype(np.float32)
        prediction = cv2.resize(logits, truth.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0
        expected = evaluate_mask(prediction, truth)
        assert result.score.dice == pytest.approx(expected.dice, abs=2e-3)


def test_infinite_distances_are_written_and_left_out_of_the_mean(bundle, data, tmp_path):
    with Image.open(data / "mask" / "case9.png") as mask:
        empty = Image.new("L", mask.size)
    empty.save(data / "mask" / "case9.png")
    report = evaluate(bundle, data, output=tmp_path / "out")
    rows = {row[0]: row[1:] for row in rows_of(report.metrics)[1:]}
    assert rows["case9"][2] == "inf"
    others = [float(rows[name][2]) for name in ("case8", "case10", "case11")]
    assert float(rows["MEAN"][2]) == pytest.approx(np.mean(others), abs=2e-6)
    assert report.without_distance == 1
    assert any("empty: 1 of 4" in line for line in report.remarks())


def test_the_record_says_what_was_measured(bundle, data, tmp_path):
    report = evaluate(bundle, data, output=tmp_path / "out", threshold=0.25)
    record = json.loads((report.output / "evaluation.json").read_text())
    assert record["threshold"] == 0.25 and record["at"] == "model" and record["cases"] == 4
    assert record["mean"]["dice"] == report.mean.dice
    assert record["backend"] in ("openvino", "onnxruntime")
    default = evaluate(bundle, data, output=tmp_path / "out2")
    assert default.mean != report.mean, "the threshold must matter"
    columns, rows = report.table()
    assert len(columns) == 4 and [row[0] for row in rows] == ["class 0"]
    assert rows[0][1] == f"{report.mean.dice:.4f}"


def test_a_region_of_interest_crops_the_truth(data, tmp_path):
    roi = RoiSpec(4, 6, 24, 20)
    report = evaluate(tiny_bundle(tmp_path / "roi.edgeseg", roi=roi), data, output=tmp_path / "out")
    for result in report.results:
        with Image.open(result.case.image) as image:
            window = image.convert("RGB").crop((4, 6, 28, 26))
            small = np.asarray(window.resize((48, 32), Image.Resampling.BILINEAR))
        with Image.open(result.case.mask) as mask:
            window = mask.crop((4, 6, 28, 26)).resize((48, 32), Image.Resampling.NEAREST)
        expected = evaluate_mask(tiny_logits(small)[0] > 0, np.asarray(window) > 127)
        assert result.score.dice == pytest.approx(expected.dice, abs=1e-6)


def test_several_classes(data, tmp_path):
    rng = np.random.default_rng(4)
    for path in (data / "mask").iterdir():
        with Image.open(path) as mask:
            labels = rng.integers(0, 3, mask.size[::-1]).astype(np.uint8)
        Image.fromarray(labels).save(path)
    report = evaluate(
        tiny_bundle(tmp_path / "three.edgeseg", channels=3), data, output=tmp_path / "out"
    )
    assert list(report.mean_per_class) == ["class 1", "class 2"]
    for name, index in (("class 1", 0), ("class 2", 1)):
        expected = np.mean([r.score.per_class[index].dice for r in report.results])
        assert report.mean_per_class[name].dice == pytest.approx(expected)
    assert [row[0] for row in report.table()[1]] == ["class 1", "class 2", "mean"]


def test_worst_cases_are_drawn_worst_first(bundle, data, tmp_path):
    report = evaluate(bundle, data, output=tmp_path / "out", with_pictures=True, worst=2)
    by_dice = sorted(report.results, key=lambda r: r.score.dice)
    expected = [f"worst-{i}-{r.case.id}.png" for i, r in zip(("01", "02"), by_dice, strict=False)]
    assert [path.name for path in report.pictures] == expected
    for path in report.pictures:
        assert cv2.imread(str(path)).shape[1] > 3 * 240
    without = evaluate(bundle, data, output=tmp_path / "plain")
    assert without.pictures == ()
    assert sorted(p.name for p in without.output.iterdir()) == ["evaluation.json", "metrics.csv"]


@pytest.mark.parametrize("size", [(60, 90), (700, 300), (3, 900)])
def test_a_case_picture_shows_image_truth_and_prediction(size):
    image = np.full((*size, 3), 100, np.uint8)
    truth, prediction = np.zeros((2, *size), np.uint8)
    truth[: size[0] // 3 + 1] = 1
    prediction[-(size[0] // 3 + 1) :] = 2
    picture = case_picture("case é", image, truth, prediction, Score(0.5, 0.25, math.inf))
    assert picture.dtype == np.uint8 and picture.shape[1] % 3 == 2
    scale = min(360 / size[0], 640 / size[1])
    height, width = (max(1, round(side * scale)) for side in size)
    assert picture.shape[0] <= 360 + 64 and picture.shape[1] <= 3 * 640 + 32
    column = max(width, 240)
    plain, true, predicted = (
        picture[56 : 56 + height, 8 + i * (column + 8) :][:, :width] for i in range(3)
    )
    assert (plain == 100).all()
    middle = width // 2
    assert (true[0, middle] != 100).any() and (true[-1, middle] == 100).all()
    assert (predicted[-1, middle] != 100).any()
    if height > 12:
        inside = height - height // 6
        assert (predicted[inside, middle] != true[height // 6, middle]).any(), "colour by class"


def stand_in(manifest, values: np.ndarray):
    """A segmenter that answers every frame with the same logits."""
    reader = Reader(manifest.preprocess, manifest.readout)
    return SimpleNamespace(
        manifest=manifest,
        preprocess=lambda frame: {},
        infer=lambda tensors: {"logits": values[None]},
        read_grid=lambda outputs, threshold=None: reader.read(
            list(outputs.values()), threshold=threshold
        ),
    )


def test_logits_smaller_than_the_input_are_resized_to_it():
    manifest = tiny_manifest(32, 48)
    values = np.random.default_rng(0).normal(size=(1, 8, 12)).astype(np.float32)
    mask = mask_at_model_size(stand_in(manifest, values), np.zeros((5, 5, 3), np.uint8))
    expected = cv2.resize(values[0], (48, 32), interpolation=cv2.INTER_LINEAR) > 0
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error_and_no_score(bad, data):
    values = np.zeros((1, 32, 48), np.float32)
    values[0, 3, 3] = bad
    cases = DataFolder.open(data, masks="required").cases
    with pytest.raises(BackendError, match="not finite"):
        score_cases(stand_in(tiny_manifest(), values), cases)


@pytest.mark.parametrize("at", ["model", "native"])
def test_cases_in_flight_come_out_in_order_with_their_own_scores(bundle, data, at):
    rng = random.Random(0)
    cases = DataFolder.open(data, masks="required").cases * 6
    with edgeseg.open(bundle, threads=1) as model:
        expected = score_cases(model, cases, at=at)

        def infer(tensors):
            time.sleep(rng.random() * 0.01)
            return model.infer(tensors)

        slow = SimpleNamespace(
            manifest=model.manifest,
            preprocess=model.preprocess,
            infer=infer,
            read_grid=model.read_grid,
            read_out=model.read_out,
        )
        calls = []
        found = score_cases(
            slow, cases, at=at, parallel=4, progress=lambda *call: calls.append(call)
        )
    assert [result.case for result in found] == list(cases)
    assert found == expected and len({result.score.dice for result in found}) > 1
    assert calls == [("evaluate", i, len(cases)) for i in range(len(cases) + 1)]


def test_a_file_that_cannot_be_read_ends_it_whatever_is_in_flight(bundle, data):
    cases = DataFolder.open(data, masks="required").cases
    broken = dataclasses.replace(cases[1], mask=None)
    with edgeseg.open(bundle, threads=1) as model, pytest.raises(DataError, match="has no mask"):
        score_cases(model, [*cases, broken, *cases], parallel=3)


def test_progress_is_told_each_case(bundle, data, tmp_path):
    calls: list[tuple[str, int, int]] = []
    evaluate(
        bundle,
        data,
        output=tmp_path / "out",
        progress=lambda *c: calls.append(c),
        with_pictures=True,
    )
    assert [c for c in calls if c[0] == "evaluate"] == [("evaluate", i, 4) for i in range(5)]
    assert [c for c in calls if c[0] == "pictures"][-1] == ("pictures", 4, 4)


def test_an_existing_output_is_kept_without_force(bundle, data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("kept")
    with pytest.raises(OutputError, match="--force"):
        evaluate(bundle, data, output=out)
    assert (out / "precious.txt").read_text() == "kept"
    with pytest.raises(OutputError, match="no earlier evaluation"):
        evaluate(bundle, data, output=out, force=True)
    assert (out / "precious.txt").read_text() == "kept"


def test_an_earlier_evaluation_is_replaced_whole_with_force(bundle, data, tmp_path):
    out = tmp_path / "out"
    first = evaluate(bundle, data, output=out, with_pictures=True)
    assert first.pictures and all(path.exists() for path in first.pictures)
    evaluate(bundle, data, output=out, force=True)
    assert sorted(p.name for p in out.iterdir()) == ["evaluation.json", "metrics.csv"]


def test_the_output_is_named_after_the_bundle(bundle, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate(bundle, data).metrics == Path("tiny-eval/metrics.csv")


def test_bad_data_leaves_no_output(bundle, data, tmp_path):
    out = tmp_path / "out"
    broken = data / "image" / "case9.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"case9\.png.*truncated"):
        evaluate(bundle, data, output=out)
    broken.write_bytes(whole)
    Image.new("L", (5, 5)).save(data / "mask" / "case9.png")
    with pytest.raises(DataError, match=r"case9\.png is 5x5"):
        evaluate(bundle, data, output=out)
    (data / "mask" / "case9.png").unlink()
    with pytest.raises(DataError, match=r"no mask.*case9\.png"):
        evaluate(bundle, data, output=out)
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_arguments_without_meaning_are_refused(bundle, data, tmp_path):
    with pytest.raises(UsageError, match="at is"):
        evaluate(bundle, data, output=tmp_path / "out", at="middle")
    with pytest.raises(UsageError, match="worst"):
        evaluate(bundle, data, output=tmp_path / "out", worst=0)
    with pytest.raises(InputError, match="threshold"):
        evaluate(bundle, data, output=tmp_path / "out", threshold=1.5)
    assert not (tmp_path / "out").exists()
