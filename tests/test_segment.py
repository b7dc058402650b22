"""``edgeseg.segment`` from files to files, against the model called slice by slice."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import builders
import cv2
import numpy as np
import pytest
from builders import tiny_bundle
from scipy import ndimage

import edgeseg
from edgeseg.cli import main
from edgeseg.errors import DataError, MissingDependencyError, OutputError, UsageError
from edgeseg.settings import Settings
from edgeseg.spec import VolumeSpec, ZSmoothingSpec
from edgeseg.volume.montage import pick_slices

nib = pytest.importorskip("nibabel")

SPACING = (1.5, 1.0, 3.0)
SHAPE = (26, 22, 14)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("one") / "tiny.edgeseg")


@pytest.fixture(scope="module")
def bundle_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("three") / "tiny.edgeseg", channels=3)


def voxels(seed: int = 0) -> np.ndarray:
    """Smooth noise from 0 to 255, running right, anterior, superior."""
    rng = np.random.default_rng(seed)
    soft = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5)
    return ((soft - soft.min()) / np.ptp(soft) * 255.0).astype(np.float32)


def image_of(data: np.ndarray, codes: str = "RAS") -> nib.Nifti1Image:
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = -20.0, 35.0, 4.0
    image = nib.Nifti1Image(data, affine)
    target = nib.orientations.axcodes2ornt(codes)
    return image.as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), target)
    )


def save(path: Path, data: np.ndarray, codes: str = "RAS") -> Path:
    image_of(data, codes).to_filename(path)
    return path


def read(path: Path) -> np.ndarray:
    """Labels of a file, running right, anterior, superior."""
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return save(tmp_path / "scan.nii.gz", voxels())


def shown(data: np.ndarray, axis: str, index: int) -> np.ndarray:
    """A slice of a scan that runs right, anterior, superior, as a radiologist looks at it."""
    if axis == "axial":
        return data[::-1, ::-1, index].T
    if axis == "coronal":
        return data[::-1, index, ::-1].T
    return data[index, ::-1, ::-1].T


AXIS_OF = {"sagittal": 0, "coronal": 1, "axial": 2}


def probabilities(bundle: Path, data: np.ndarray, axis: str = "axial") -> np.ndarray:
    """The model's answers slice by slice: (slice, [C,] row, column), grey as it is."""
    grey = np.rint(data).astype(np.uint8)
    with edgeseg.open(bundle, threads=1) as model:
        return np.stack(
            [
                model(np.repeat(shown(grey, axis, index)[..., None], 3, axis=2)).probability
                for index in range(data.shape[AXIS_OF[axis]])
            ]
        )


def as_shown(labels: np.ndarray, axis: str) -> np.ndarray:
    return np.stack([shown(labels, axis, i) for i in range(labels.shape[AXIS_OF[axis]])])


@pytest.fixture(scope="module")
def threshold(bundle: Path) -> float:
    return float(np.median(probabilities(bundle, voxels())))


@pytest.mark.parametrize("axis", AXIS_OF)
def test_labels_are_the_models_masks_of_the_slices(bundle, threshold, scan, tmp_path, axis):
    out = tmp_path / "seg.nii"
    calls = []
    report = edgeseg.segment(
        bundle,
        scan,
        out,
        axis=axis,
        normalize="none",
        threshold=threshold,
        threads=1,
        progress=lambda *step: calls.append(step),
    )
    labels = read(out)
    expected = probabilities(bundle, voxels(), axis)
    clear = np.abs(expected - threshold) > 1e-5
    found = as_shown(labels, axis)
    assert 0.2 < found.mean() < 0.8
    np.testing.assert_array_equal(found[clear], (expected > threshold)[clear])
    assert (report.slices, report.axis) == (found.shape, axis)
    assert calls[-1] == ("segment", len(found), len(found))
    assert report.volume_ml["class 0"] == pytest.approx(labels.sum() * 4.5 / 1000.0)
    assert report.spacing_mm[0] == pytest.approx(SPACING[AXIS_OF[axis]])
    assert (report.sigma_slices, report.score, report.montage) == (0.0, None, None)


@pytest.mark.parametrize("codes", ["LPS", "SAL", "PIR"])
def test_the_order_of_the_file_does_not_matter(bundle, threshold, scan, tmp_path, codes):
    other = save(tmp_path / "other.nii.gz", voxels(), codes)
    options = {
        "threshold": threshold,
        "settings": Settings(z_smoothing=ZSmoothingSpec(4.0, "mm")),
        "threads": 1,
    }
    edgeseg.segment(bundle, scan, tmp_path / "a.nii.gz", **options)
    edgeseg.segment(bundle, other, tmp_path / "b.nii.gz", **options)
    written = nib.load(tmp_path / "b.nii.gz")
    assert "".join(nib.aff2axcodes(written.affine)) == codes
    assert written.shape == nib.load(other).shape
    np.testing.assert_array_equal(written.affine, nib.load(other).affine)
    labels = read(tmp_path / "a.nii.gz")
    assert 0.05 < labels.mean() < 0.95
    np.testing.assert_array_equal(labels, read(tmp_path / "b.nii.gz"))


@pytest.mark.parametrize(
    "smoothing", [ZSmoothingSpec(4.5, "mm"), ZSmoothingSpec(1.5, "slices")], ids=str
)
def test_probabilities_are_smoothed_before_the_threshold(
    bundle, threshold, scan, tmp_path, smoothing
):
    report = edgeseg.segment(
        bundle,
        scan,
        tmp_path / "seg.nii.gz",
        normalize="none",
        threshold=threshold,
        settings=Settings(z_smoothing=smoothing),
        threads=1,
    )
    assert (report.sigma_slices, report.sigma_mm) == pytest.approx((1.5, 4.5))
    expected = ndimage.gaussian_filter1d(
        probabilities(bundle, voxels()).astype(np.float64), 1.5, axis=0, mode="nearest"
    )
    clear = np.abs(expected - threshold) > 1e-5
    found = as_shown(read(tmp_path / "seg.nii.gz"), "axial")
    np.testing.assert_array_equal(found[clear], (expected > threshold)[clear])


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_several_classes_compete(bundle_of_three, scan, tmp_path, sigma):
    report = edgeseg.segment(
        bundle_of_three,
        scan,
        tmp_path / "seg.nii.gz",
        normalize="none",
        settings=Settings(z_smoothing=ZSmoothingSpec(sigma, "slices")),
        threads=1,
    )
    expected = probabilities(bundle_of_three, voxels()).astype(np.float64)
    if sigma:
        expected = ndimage.gaussian_filter1d(expected, sigma, axis=0, mode="nearest")
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-5
    found = as_shown(read(tmp_path / "seg.nii.gz"), "axial")
    assert len(np.unique(found)) >= 2
    np.testing.assert_array_equal(found[clear], expected.argmax(axis=1)[clear])
    assert set(report.volume_ml) == {"class 1", "class 2"}


def test_the_bundle_says_how_unless_the_caller_does(monkeypatch, tmp_path, scan):
    plain = builders.tiny_manifest

    def fitted(*arguments: int) -> object:
        manifest = plain(*arguments)
        return dataclasses.replace(
            manifest,
            preprocess=dataclasses.replace(
                manifest.preprocess, volume=VolumeSpec("window=100,180", "coronal")
            ),
            readout=dataclasses.replace(manifest.readout, z_smoothing=ZSmoothingSpec(2.0, "mm")),
        )

    monkeypatch.setattr(builders, "tiny_manifest", fitted)
    bundle = tiny_bundle(tmp_path / "fitted.edgeseg")
    report = edgeseg.segment(bundle, scan, tmp_path / "a.nii.gz", threads=1)
    assert (report.axis, report.normalize, report.normalize_from) == (
        "coronal",
        "window=100,180",
        "bundle",
    )
    assert report.sigma_slices == pytest.approx(2.0)  # slices lie 1 mm apart
    assert any("as the bundle says" in line for line in report.remarks())
    report = edgeseg.segment(
        bundle,
        scan,
        tmp_path / "b.nii.gz",
        axis="axial",
        normalize="minmax",
        settings=Settings(z_smoothing=ZSmoothingSpec(0.0)),
        threads=1,
    )
    assert (report.axis, report.normalize, report.normalize_from, report.sigma_slices) == (
        "axial",
        "minmax",
        "caller",
        0.0,
    )


def test_scores_are_in_millimetres(bundle, threshold, scan, tmp_path):
    out = tmp_path / "seg.nii.gz"
    options = {"threshold": threshold, "threads": 1, "force": True}
    report = edgeseg.segment(bundle, scan, out, **options)
    assert report.normalize_from == "default"
    labels = read(out)
    same = save(tmp_path / "same.nii.gz", labels * 4)
    report = edgeseg.segment(bundle, scan, out, labels=same, **options)
    assert report.score is not None
    assert (report.score.dice, report.score.hd95) == pytest.approx((1.0, 0.0))
    # One slice further up, 3 mm: scipy's distances, in the file's own order.
    moved = np.roll(labels, 1, axis=2)
    report = edgeseg.segment(
        bundle, scan, out, labels=save(tmp_path / "moved.nii.gz", moved), **options
    )
    a, b = labels > 0, moved > 0
    edge_a, edge_b = a & ~ndimage.binary_erosion(a), b & ~ndimage.binary_erosion(b)
    to_a = ndimage.distance_transform_edt(~edge_a, sampling=SPACING)
    to_b = ndimage.distance_transform_edt(~edge_b, sampling=SPACING)
    pooled = np.concatenate([to_b[edge_a], to_a[edge_b]])
    assert report.score.hd95 == pytest.approx(np.percentile(pooled, 95), abs=1e-9)
    assert report.score.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-6)
    columns, rows = report.table()
    assert columns[-1] == "HD95 mm"
    assert len(rows) == 1
    empty = save(tmp_path / "empty.nii.gz", np.zeros_like(labels))
    report = edgeseg.segment(bundle, scan, out, labels=empty, **options)
    assert math.isinf(report.score.hd95)
    assert any("infinite" in line for line in report.remarks())


def test_a_range_of_slices_is_scored_alone(bundle, threshold, scan, tmp_path, capsys):
    out = tmp_path / "seg.nii.gz"
    options = {"threshold": threshold, "threads": 1, "force": True}
    edgeseg.segment(bundle, scan, out, **options)
    labels = read(out)
    other = labels.copy()
    # Axial slices count along the file's third axis, from below.
    other[:, :, 8:] = 1 - other[:, :, 8:]
    path = save(tmp_path / "other.nii.gz", other)
    for (first, end), dice in (((0, 8), 1.0), ((8, labels.shape[2]), 0.0)):
        report = edgeseg.segment(
            bundle, scan, out, labels=path, score_slices=(first, end), **options
        )
        assert report.score is not None
        assert report.score.dice == pytest.approx(dice, abs=1e-6)
        assert any(f"scored: slices {first} to {end - 1}" in line for line in report.remarks())
    with pytest.raises(UsageError, match="no range of the scan's"):
        edgeseg.segment(bundle, scan, out, labels=path, score_slices=(8, 999), **options)
    with pytest.raises(UsageError, match="pass --labels"):
        edgeseg.segment(bundle, scan, out, score_slices=(0, 8), **options)
    arguments = ["segment", str(bundle), str(scan), "-o", str(out), "--labels", str(path)]
    assert main([*arguments, "--score-slices", "8-9", "--force"]) == 2
    assert "FIRST:END" in capsys.readouterr().err


def test_labels_of_unknown_classes_are_refused(bundle_of_three, scan, tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[3, 4, 5] = 3
    path = save(tmp_path / "labels.nii.gz", labels)
    with pytest.raises(DataError, match=r"label 3 is none of the model's classes 0 to 2"):
        edgeseg.segment(bundle_of_three, scan, tmp_path / "seg.nii.gz", labels=path, threads=1)
    assert not (tmp_path / "seg.nii.gz").exists()


def test_the_montage_shows_slices_in_proportion(bundle, threshold, scan, tmp_path):
    report = edgeseg.segment(
        bundle,
        scan,
        tmp_path / "seg.nii.gz",
        axis="coronal",
        threshold=threshold,
        labels=save(tmp_path / "labels.nii.gz", (voxels() > 150).astype(np.uint8)),
        montage=True,
        threads=1,
    )
    assert report.montage == tmp_path / "seg.png"
    picture = cv2.imread(str(report.montage))
    # Coronal slices are 14 * 3 mm high and 26 * 1.5 mm wide: 280 by 260 pixels, 4 by 3 of them.
    assert picture.shape == (2 * 22 + 6 + 3 * (280 + 22 + 6) + 6, 4 * (260 + 6) + 6, 3)
    tile = picture[2 * 22 + 6 + 22 :, 6:][:280, :260]
    coloured = np.ptp(tile.astype(int), axis=2) > 20
    assert 0.05 < coloured.mean() < 0.95
    # Text is not quite white; the outline of the truth is.
    assert (picture == 255).all(axis=2).any()


def test_the_montage_covers_what_was_found():
    labels = np.zeros((40, 3, 3), np.uint8)
    assert pick_slices(labels, 4) == [5, 15, 25, 35]
    labels[10:18, 1, 1] = 2
    assert pick_slices(labels, 4) == [11, 13, 15, 17]
    assert pick_slices(labels, 12) == list(range(10, 18))
    labels[:] = 0
    labels[39] = 1
    assert pick_slices(labels, 12) == [39]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": "oblique"}, "unknown axis"),
        ({"normalize": "window=1"}, "normalisation"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"montage": "picture.jpg"}, r"\.png"),
        ({"settings": Settings(z_smoothing=ZSmoothingSpec(43.0, "mm"))}, "larger than the volume"),
        ({"settings": Settings(z_smoothing=ZSmoothingSpec(15, "slices"))}, "14 slices"),
        ({"settings": Settings(time_constant_ms=100.0)}, "videos"),
    ],
    ids=str,
)
def test_arguments_without_meaning_are_refused(bundle, scan, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        edgeseg.segment(bundle, scan, tmp_path / "seg.nii.gz", threads=1, **options)
    assert not (tmp_path / "seg.nii.gz").exists()


def test_a_threshold_for_several_classes_is_refused(bundle_of_three, scan, tmp_path):
    with pytest.raises(UsageError, match="compete"):
        edgeseg.segment(bundle_of_three, scan, tmp_path / "s.nii", threshold=0.5, threads=1)


def test_outputs_are_neither_replaced_nor_mixed_up(bundle, scan, tmp_path):
    out = tmp_path / "seg.nii.gz"
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        edgeseg.segment(bundle, scan, out, threads=1)
    assert out.read_bytes() == b"mine"
    with pytest.raises(OutputError, match=r"seg2\.png exists already"):
        (tmp_path / "seg2.png").write_bytes(b"mine")
        edgeseg.segment(bundle, scan, tmp_path / "seg2.nii.gz", montage=True, threads=1)
    with pytest.raises(UsageError, match="input itself"):
        edgeseg.segment(bundle, scan, scan, force=True, threads=1)
    with pytest.raises(UsageError, match=r"\.nii or \.nii\.gz"):
        edgeseg.segment(bundle, scan, tmp_path / "seg.mha", threads=1)
    with pytest.raises(OutputError, match="is a folder"):
        (tmp_path / "folder.nii").mkdir()
        edgeseg.segment(bundle, scan, tmp_path / "folder.nii", force=True, threads=1)
    edgeseg.segment(bundle, scan, out, force=True, threads=1)
    assert read(out).shape == SHAPE
    assert not list(tmp_path.glob(".*"))


def test_a_missing_nibabel_names_the_extra(bundle, scan, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(MissingDependencyError, match=r"edgeseg\[volumes\]"):
        edgeseg.segment(bundle, scan, tmp_path / "seg.nii.gz", threads=1)


def test_the_command_line_segments(bundle, scan, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels = save(tmp_path / "labels.nii.gz", (voxels() > 150).astype(np.uint8))
    arguments = ["segment", str(bundle), str(scan), "--threads", "1", "--labels", str(labels)]
    options = ["--axis", "sagittal", "--normalize", "window=120,200", "--z-sigma", "3mm"]
    assert main([*arguments, *options, "--montage"]) == 0
    text = capsys.readouterr().out
    assert "HD95 mm" in text
    assert "26 sagittal slices of 14x22" in text
    assert "window=120,200 (as asked for)" in text
    assert "sigma 2 slices (3 mm)" in text
    assert (tmp_path / "scan-seg.nii.gz").is_file()
    assert (tmp_path / "scan-seg.png").is_file()
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    for wrong in ("-1", "wide", "1cm", "1000mm", "nan"):
        assert main([*arguments, "--force", f"--z-sigma={wrong}"]) == 2
        assert "sigma" in capsys.readouterr().err


def test_a_scan_without_orientation_is_remarked(bundle, tmp_path):
    nib.Nifti1Image(voxels(), None).to_filename(tmp_path / "scan.nii")
    report = edgeseg.segment(bundle, tmp_path / "scan.nii", tmp_path / "seg.nii", threads=1)
    assert not report.orientation_known
    assert "no orientation" in report.remarks()[0]
