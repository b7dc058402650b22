"""Anatomical slices and their grey values."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import DataError, UsageError
from edgeseg.spec import VolumeSpec
from edgeseg.volume.intensity import normalize_volume, parse_normalization
from edgeseg.volume.nifti import Geometry, Scan, read_scan
from edgeseg.volume.slices import AXES, slice_order

nib = pytest.importorskip("nibabel")

SPACING = (0.7, 1.3, 2.9)


def stored(voxels_ras: np.ndarray, codes: str, affine_ras: np.ndarray) -> nib.Nifti1Image:
    """A scan (right, anterior, superior) as a file that stores its axes as ``codes`` say."""
    image = nib.Nifti1Image(voxels_ras, affine_ras)
    target = nib.orientations.axcodes2ornt(codes)
    return image.as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), target)
    )


def scan_of(voxels: np.ndarray, affine: np.ndarray | None = None) -> Scan:
    affine = np.diag([*SPACING, 1.0]) if affine is None else affine
    geometry = Geometry(voxels.shape, np.asarray(affine, np.float64), True, None)
    return Scan(Path("scan.nii"), voxels.astype(np.float32), geometry)


ORIENTATIONS = [
    "".join(pairs[axis][flip] for axis, flip in zip(order, flips, strict=True))
    for pairs in [("RL", "AP", "SI")]
    for order in itertools.permutations(range(3))
    for flips in itertools.product(range(2), repeat=3)
]


def test_all_orientations_are_listed():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("axis", AXES)
def test_slices_do_not_depend_on_the_order_of_the_file(axis):
    rng = np.random.default_rng(3)
    voxels = rng.normal(size=(6, 7, 8)).astype(np.float32)
    reference = None
    for codes in ORIENTATIONS:
        image = stored(voxels, codes, np.diag([*SPACING, 1.0]))
        scan = scan_of(np.asarray(image.dataobj), image.affine)
        order = slice_order(scan.geometry, axis)
        grey = normalize_volume(scan, VolumeSpec("zscore", axis))
        if reference is None:
            reference = (grey, order.spacing_mm)
        np.testing.assert_array_equal(grey, reference[0], err_msg=codes)
        np.testing.assert_allclose(order.spacing_mm, reference[1], rtol=1e-6)
        there = order.to_slices(scan.voxels)
        np.testing.assert_array_equal(order.to_file(there), scan.voxels)


def test_slices_are_shown_as_radiologists_look_at_them():
    # A voxel far right, another far anterior, another far superior; the file runs R, A, S.
    voxels = np.zeros((5, 6, 7), np.float32)
    voxels[4, 0, 0] = 1.0  # right, posterior, inferior
    voxels[0, 5, 0] = 2.0  # left, anterior, inferior
    voxels[0, 0, 6] = 3.0  # left, posterior, superior
    scan = scan_of(voxels)

    def places(axis: str) -> list[tuple[int, ...]]:
        shown = slice_order(scan.geometry, axis).to_slices(voxels)
        return [tuple(int(n) for n in np.argwhere(shown == value)[0]) for value in (1, 2, 3)]

    # (slice, row, column): right is the left edge, anterior or superior the upper one.
    assert places("axial") == [(0, 5, 0), (0, 0, 4), (6, 5, 4)]
    assert places("coronal") == [(0, 6, 0), (5, 6, 4), (0, 0, 4)]
    # Sagittal: anterior is the left edge; slices run from left to right.
    assert places("sagittal") == [(4, 6, 5), (0, 6, 0), (0, 0, 5)]
    for axis, spacing in (
        ("axial", (2.9, 1.3, 0.7)),
        ("coronal", (1.3, 2.9, 0.7)),
        ("sagittal", (0.7, 2.9, 1.3)),
    ):
        np.testing.assert_allclose(slice_order(scan.geometry, axis).spacing_mm, spacing)


def test_oblique_scans_follow_the_nearest_anatomical_axes():
    turned = nib.eulerangles.euler2mat(0.3, 0.2, -0.25) @ np.diag(SPACING)
    order = slice_order(
        scan_of(np.zeros((5, 6, 7)), nib.affines.from_matvec(turned)).geometry, "axial"
    )
    assert order.axes == (2, 1, 0)
    assert order.reversed_ == (False, True, True)


def test_unknown_axes_are_refused():
    with pytest.raises(UsageError, match=r"'z'.*sagittal, coronal, axial"):
        slice_order(scan_of(np.zeros((2, 2, 2))).geometry, "z")


def grey_of(values: np.ndarray, normalize: str) -> np.ndarray:
    """Grey levels in file order."""
    scan = scan_of(values.reshape(len(values), 1, 1))
    order = slice_order(scan.geometry, "axial")
    return order.to_file(normalize_volume(scan, VolumeSpec(normalize))).ravel()


def test_zscore_leaves_the_minimum_out_of_its_statistics():
    rng = np.random.default_rng(1)
    tissue = rng.normal(100.0, 15.0, 500).astype(np.float32)
    values = np.concatenate([np.full(2000, -7.0, np.float32), tissue])
    mean, deviation = tissue.astype(float).mean(), tissue.astype(float).std()
    expected = np.rint(np.clip((values - mean) / deviation / 8.0 + 0.5, 0.0, 1.0) * 255.0)
    shown = grey_of(values, "zscore")
    assert shown[0] == 0
    assert np.abs(shown.astype(float) - expected).max() <= 1.0
    assert np.mean(shown == expected) >= 0.99
    outlier = np.append(values, np.float32(1e6))
    assert grey_of(outlier, "zscore")[-1] == 255


def test_minmax_and_window_are_linear():
    values = np.array([-1000.0, -160.0, 40.0, 239.9, 240.0, 3000.0], np.float32)
    np.testing.assert_array_equal(
        grey_of(values, "minmax"), np.rint((values.astype(float) + 1000.0) / 4000.0 * 255.0)
    )
    np.testing.assert_array_equal(grey_of(values, "window=40,400"), [0, 0, 128, 255, 255, 255])
    np.testing.assert_array_equal(grey_of(np.array([0.0, 7.4, 7.6, 255.0]), "none"), [0, 7, 8, 255])


@settings(max_examples=50, deadline=None)
@given(
    scale=st.floats(1e-3, 1e4),
    shift=st.floats(-1e4, 1e4),
    normalize=st.sampled_from(["zscore", "minmax"]),
)
def test_grey_levels_do_not_depend_on_the_unit(scale, shift, normalize):
    rng = np.random.default_rng(5)
    values = np.concatenate([np.zeros(40), rng.integers(1, 200, 60)]).astype(np.float64)
    plain = grey_of(values, normalize).astype(int)
    other = grey_of((values * scale + shift * scale).astype(np.float32), normalize).astype(int)
    assert np.abs(plain - other).max() <= 1


def test_the_window_is_the_whole_volumes():
    # A slice that is dim throughout stays dim.
    voxels = np.full((8, 8, 3), 100.0, np.float32)
    voxels[..., 1] = np.linspace(0.0, 1000.0, 64).reshape(8, 8)
    grey = normalize_volume(scan_of(voxels), VolumeSpec("minmax"))
    assert grey[0].min() == grey[0].max() == 26


@pytest.mark.parametrize(
    ("values", "normalize", "message"),
    [
        ([3.0, 3.0, 3.0], "minmax", "every voxel is 3"),
        ([3.0, 3.0, 3.0], "none", "every voxel is 3"),
        ([0.0, 0.1, 0.1], "zscore", "above the minimum 0 is 0.1.*minmax"),
        ([-1.0, 100.0], "none", "between 0 and 255"),
        ([0.0, 256.0], "none", "between 0 and 255"),
        ([0.0, 100.0], "window=1000,200", "outside the window from 900 to 1100"),
        ([0.0, 100.0], "window=-500,200", "outside the window"),
    ],
)
def test_volumes_that_would_show_nothing_are_refused(values, normalize, message):
    with pytest.raises(DataError, match=message):
        grey_of(np.array(values, np.float32), normalize)


@pytest.mark.parametrize(
    "text",
    ["", "zscores", "window", "window=40", "window=40,0", "window=40,-1", "window=nan,1",
     "window=1,inf", "window=a,b", "window=1,2,3", "none=1"],
)  # fmt: skip
def test_unknown_normalisations_are_refused(text):
    with pytest.raises(UsageError, match="normalisation"):
        parse_normalization(text)


def test_a_real_brain_is_the_right_way_up(real_data):
    scan = read_scan(
        real_data / "volumes" / "brats_2013_pat0001_1" / "Flair_subtrMeanDivStd.nii.gz"
    )
    grey = normalize_volume(scan, VolumeSpec("zscore", "axial"))
    assert grey.shape == (155, 240, 240)
    # The tumour of this patient is bright and on the right: the left half of the picture.
    bright = grey > 200
    assert bright[..., :120].sum() > 10 * bright[..., 120:].sum()
    assert abs(grey[grey > grey.min()].mean() - 127.5) < 2.0
