"""Metrics against scipy, PIL and the formulas written out."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

from edgeseg.dataset import DataFolder, read_mask
from edgeseg.errors import InputError
from edgeseg.metrics import (
    Score,
    agreement,
    boundary,
    dice,
    evaluate_mask,
    hd95,
    iou,
    mean_score,
    resize_mask,
)

EPS = 1e-6


def masks(max_side: int = 24) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Pairs of masks of one size: noise, empty, full, and shapes that touch the border."""

    def of_shape(shape: tuple[int, int]) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
        def box(corners: tuple[int, int, int, int]) -> np.ndarray:
            mask = np.zeros(shape, np.uint8)
            y, x, h, w = corners
            mask[y : y + h, x : x + w] = 1
            return mask

        one = st.one_of(
            hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)),
            st.just(np.zeros(shape, np.uint8)),
            st.just(np.ones(shape, np.uint8)),
            st.tuples(
                st.integers(0, shape[0] - 1),
                st.integers(0, shape[1] - 1),
                st.integers(1, shape[0]),
                st.integers(1, shape[1]),
            ).map(box),
        )
        return st.tuples(one, one)

    return st.tuples(st.integers(1, max_side), st.integers(1, max_side)).flatmap(of_shape)


def scipy_hd95(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """The test script's definition, by scipy: erosion, exact distance transform, percentile."""
    a, b = a.astype(bool), b.astype(bool)
    if not a.any() and not b.any():
        return 0.0
    if not a.any() or not b.any():
        return math.inf
    edge_a = a & ~ndimage.binary_erosion(a)
    edge_b = b & ~ndimage.binary_erosion(b)
    to_b = ndimage.distance_transform_edt(~edge_b, sampling=spacing)
    to_a = ndimage.distance_transform_edt(~edge_a, sampling=spacing)
    return float(np.percentile(np.concatenate([to_b[edge_a], to_a[edge_b]]), 95))


@given(masks())
@settings(deadline=None, max_examples=150)
def test_boundary_is_the_mask_without_its_erosion(pair):
    for mask in pair:
        expected = mask.astype(bool) & ~ndimage.binary_erosion(mask)
        np.testing.assert_array_equal(boundary(mask), expected)


@given(masks(), st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)))
@settings(deadline=None, max_examples=250)
def test_hd95_equals_scipy(pair, spacing):
    for chosen in ((1.0, 1.0), spacing):
        ours, reference = hd95(*pair, spacing=chosen), scipy_hd95(*pair, spacing=chosen)
        assert ours == pytest.approx(reference, rel=1e-12, abs=1e-12)


def test_hd95_equals_scipy_on_large_masks_in_several_chunks():
    rng = np.random.default_rng(3)
    a = rng.random((300, 700)) > 0.5
    b = ndimage.binary_opening(rng.random((300, 700)) > 0.3)
    edges = int(boundary(a).sum())
    assert edges * 700 > 1 << 22, "the case must not fit in one chunk"
    assert hd95(a, b) == pytest.approx(scipy_hd95(a, b), rel=1e-12)


def test_hd95_of_empty_masks():
    empty, full = np.zeros((5, 7), bool), np.ones((5, 7), bool)
    assert hd95(empty, empty) == 0.0
    assert hd95(empty, full) == math.inf
    assert hd95(full, empty) == math.inf


def test_hd95_of_shifted_squares_in_millimetres():
    a, b = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    a[5:15, 5:15], b[5:15, 15:25] = True, True
    assert hd95(a, b, spacing=(1.0, 0.5)) == pytest.approx(scipy_hd95(a, b, (1.0, 0.5)))
    assert hd95(a, b, spacing=(2.0, 2.0)) == pytest.approx(2 * hd95(a, b))


@given(masks())
@settings(deadline=None, max_examples=150)
def test_dice_and_iou_are_the_written_formulas(pair):
    a, b = (mask.astype(np.float64) for mask in pair)
    shared = float((a * b).sum())
    assert dice(*pair) == pytest.approx((2 * shared + EPS) / (a.sum() + b.sum() + EPS), rel=1e-12)
    union = float(np.maximum(a, b).sum())
    assert iou(*pair) == pytest.approx((shared + EPS) / (union + EPS), rel=1e-12)


def test_any_foreground_value_counts_for_one_class():
    a = np.array([[0, 255], [255, 0]], np.uint8)
    b = np.array([[0, 1], [1, 0]], np.uint8)
    assert dice(a, b) == 1.0
    assert evaluate_mask(a, b) == evaluate_mask(b, a)


def test_several_classes_are_scored_one_by_one_and_averaged():
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 4, (2, 31, 17)).astype(np.uint8)
    score = evaluate_mask(a, b, classes=4)
    assert len(score.per_class) == 3
    for index, one in enumerate(score.per_class, start=1):
        assert one.dice == dice(a == index, b == index)
        assert one.iou == iou(a == index, b == index)
        assert one.hd95 == pytest.approx(scipy_hd95(a == index, b == index), rel=1e-12)
    assert score.dice == pytest.approx(np.mean([s.dice for s in score.per_class]))
    assert score.hd95 == pytest.approx(np.mean([s.hd95 for s in score.per_class]))


def test_a_class_found_on_one_side_only_is_left_out_of_the_mean_distance():
    a, b = np.zeros((2, 9, 9), np.uint8)
    a[1:3, 1:3], b[1:3, 2:4], a[6, 6] = 1, 1, 2
    score = evaluate_mask(a, b, classes=3)
    assert score.per_class[1].hd95 == math.inf
    assert score.hd95 == score.per_class[0].hd95 < math.inf
    assert score.dice == pytest.approx((score.per_class[0].dice + score.per_class[1].dice) / 2)


def test_mean_leaves_infinite_distances_out():
    mean = mean_score([Score(1.0, 1.0, 2.0), Score(0.0, 0.0, math.inf), Score(0.5, 0.2, 4.0)])
    assert mean == Score(0.5, pytest.approx(0.4), 3.0)
    assert mean_score([Score(0.0, 0.0, math.inf)]).hd95 == math.inf
    with pytest.raises(InputError, match="no scores"):
        mean_score([])


@given(masks())
@settings(deadline=None, max_examples=60)
def test_agreement_is_symmetric_and_full_only_for_equal_masks(pair):
    a, b = pair
    assert agreement(a, b) == agreement(b, a)
    assert agreement(a, a) == 1.0
    if not np.array_equal(a, b):
        assert agreement(a, b) < 1.0


def test_agreement_ignores_classes_that_neither_mask_holds():
    a, b = np.zeros((2, 8, 8), np.uint8)
    a[:4, :4], b[:4, :2] = 3, 3
    assert agreement(a, b, classes=5) == dice(a, b)


@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
@settings(deadline=None, max_examples=300)
def test_resize_equals_pil_nearest(source, target):
    # Every pixel has a value of its own, so a wrong index shows.
    mask = np.arange(source[0] * source[1], dtype=np.int32).reshape(source)
    expected = Image.fromarray(mask).resize(target[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resize_mask(mask, *target), np.asarray(expected))


@pytest.mark.parametrize("source", [(531, 622), (1070, 1348), (1080, 1920)])
def test_resize_equals_pil_nearest_at_camera_sizes(source):
    mask = np.arange(source[0] * source[1], dtype=np.int32).reshape(source)
    expected = Image.fromarray(mask).resize((256, 256), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resize_mask(mask, 256, 256), np.asarray(expected))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((3, 3), bool), np.zeros((3, 4), bool), "differ in shape"),
        (np.zeros((3, 3)), np.zeros((3, 3)), "float64"),
        (np.zeros((1, 3, 3), bool), np.zeros((1, 3, 3), bool), r"\(1, 3, 3\)"),
        (np.zeros((0, 3), bool), np.zeros((0, 3), bool), "non-empty"),
    ],
)
def test_unfit_arrays_are_refused(a, b, message):
    for function in (dice, iou, hd95, evaluate_mask, agreement):
        with pytest.raises(InputError, match=message):
            function(a, b)


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, -1.0), (math.nan, 1.0)])
def test_spacing_must_be_positive(spacing):
    with pytest.raises(InputError, match="spacing"):
        hd95(np.ones((3, 3), bool), np.ones((3, 3), bool), spacing=spacing)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "resample", "figures"),
    [
        ("v2", Image.Resampling.BILINEAR, (0.7017, 0.5847, 52.66)),
        ("v1", Image.Resampling.BICUBIC, (0.6254, 0.4992, 65.71)),
    ],
)
def test_the_figures_of_the_authors_code_are_reproduced(version, resample, figures):
    """Two trained checkpoints whose figures were taken with the authors' own scripts."""
    root = os.environ.get("EDGESEG_DATA")
    if root is None:
        pytest.skip("EDGESEG_DATA is not set")
    torch = pytest.importorskip("torch")
    from edgeseg.export import load

    data = Path(root)
    network = load(data / "checkpoints" / f"segdino_{version}_tiny.pth").model.eval()
    mean, std = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
    cases = DataFolder.open(data / "polyp" / "test", masks="required").cases
    scores = []
    for start in range(0, len(cases), 10):
        batch = cases[start : start + 10]
        tensors = []
        for case in batch:
            with Image.open(case.image) as image:
                small = image.convert("RGB").resize((256, 256), resample)
            tensors.append((np.asarray(small, np.float32) / 255 - mean) / std)
        with torch.inference_mode():
            logits = network(torch.from_numpy(np.stack(tensors).transpose(0, 3, 1, 2)))
        predictions = torch.sigmoid(logits)[:, 0].numpy() > 0.5
        for case, prediction in zip(batch, predictions, strict=True):
            truth = resize_mask(read_mask(case.mask), 256, 256)
            scores.append(evaluate_mask(prediction, truth))
    mean_of_all = mean_score(scores)
    assert len(scores) == 100
    assert mean_of_all.dice == pytest.approx(figures[0], abs=6e-5)
    assert mean_of_all.iou == pytest.approx(figures[1], abs=6e-5)
    assert mean_of_all.hd95 == pytest.approx(figures[2], abs=6e-3)
