"""NIfTI files in and out, and everything that can be wrong with one."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import DataError, InputError, UsageError
from edgeseg.volume.nifti import nifti_stem, read_labels, read_scan, write_labels

nib = pytest.importorskip("nibabel")

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([0.8, -1.1, 2.5]), [-40.0, 31.5, 7.25]
)


def ramp(shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def save(
    path: Path, data: np.ndarray, affine: np.ndarray = OBLIQUE, kind=nib.Nifti1Image, **header
) -> Path:
    image = kind(data, affine)
    for name, value in header.items():
        image.header[name] = value
    image.to_filename(path)
    return path


def patched(path: Path, field: str, value: object, index: int | None = None) -> Path:
    """The uncompressed file with one header field overwritten, whatever nibabel thinks of it."""
    content = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    if index is None:
        header[field] = value
    else:
        header[field][index] = value
    content[:348] = header.binaryblock
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_voxels_and_geometry_are_those_of_nibabel(tmp_path, suffix, kind, dtype):
    path = save(tmp_path / f"scan{suffix}", ramp().astype(dtype), kind=kind)
    scan = read_scan(path)
    assert scan.voxels.dtype == np.float32
    np.testing.assert_array_equal(scan.voxels, ramp())
    np.testing.assert_array_equal(scan.geometry.affine, nib.load(path).affine)
    assert scan.geometry.known
    np.testing.assert_allclose(scan.geometry.spacing_mm, [0.8, 1.1, 2.5], rtol=1e-6)
    np.testing.assert_allclose(scan.geometry.voxel_ml, 0.8 * 1.1 * 2.5 / 1000.0, rtol=1e-6)


def test_slope_and_intercept_are_applied_in_double_precision(tmp_path):
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5) + 30000
    path = save(tmp_path / "scan.nii", stored)
    patched(patched(path, "scl_slope", 0.37), "scl_inter", -1024.5)
    expected = stored.astype(np.float64) * np.float64(np.float32(0.37)) - 1024.5
    np.testing.assert_array_equal(read_scan(path).voxels, expected.astype(np.float32))


def test_big_endian_files_are_read(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nib.Nifti1Image(ramp().astype(">i2"), OBLIQUE, header)
    image.to_filename(tmp_path / "scan.nii")
    assert (tmp_path / "scan.nii").read_bytes()[:4] == b"\x00\x00\x01\x5c"
    np.testing.assert_array_equal(read_scan(tmp_path / "scan.nii").voxels, ramp())


def test_a_trailing_dimension_of_one_is_dropped(tmp_path):
    path = save(tmp_path / "scan.nii.gz", ramp((4, 5, 6, 1)))
    assert read_scan(path).voxels.shape == (4, 5, 6)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("micron", 1e-3), ("meter", 1e3)])
def test_lengths_are_millimetres_whatever_the_unit_of_the_file(tmp_path, unit, factor):
    image = nib.Nifti1Image(ramp(), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "scan.nii")
    spacing = read_scan(tmp_path / "scan.nii").geometry.spacing_mm
    np.testing.assert_allclose(spacing, factor * np.array([2.0, 3.0, 4.0]), rtol=1e-12)


def test_a_file_without_orientation_is_known_for_it(tmp_path):
    image = nib.Nifti1Image(ramp(), None)
    image.to_filename(tmp_path / "scan.nii")
    assert not read_scan(tmp_path / "scan.nii").geometry.known


def _colours(path: Path) -> Path:
    rgb = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    return save(path, rgb)


def _bad_voxel(path: Path) -> Path:
    data = ramp()
    data[2, 3, 4] = np.nan
    data[4, 5, 6] = np.inf
    return save(path, data)


def _overflow(path: Path) -> Path:
    data = ramp().astype(np.float64)
    data[1, 1, 1] = 1e300
    return save(path, data)


def _empty_axis(path: Path) -> Path:
    return patched(save(path, ramp()), "dim", 0, 2)


def _huge(path: Path) -> Path:
    path = save(path, ramp())
    for axis in (1, 2, 3):
        patched(path, "dim", 32000, axis)
    return path


def _claims_more(path: Path) -> Path:
    return patched(save(path, ramp()), "dim", 500, 3)


def _pair(path: Path) -> Path:
    return patched(save(path, ramp()), "magic", b"ni1")


def _singular(path: Path) -> Path:
    return patched(save(path, ramp()), "srow_z", [0.0, 0.0, 0.0, 0.0])


def _nan_affine(path: Path) -> Path:
    return patched(save(path, ramp()), "srow_x", [np.nan, 0.0, 0.0, 0.0])


def _zero_spacing(path: Path) -> Path:
    path = save(path, ramp())
    return patched(patched(path, "sform_code", 0), "pixdim", 0.0, 3)


BROKEN = {
    "four dimensions": (lambda p: save(p, ramp((3, 4, 5, 2))), r"4-D .* holds 2 volumes.*slicer"),
    "five dimensions": (lambda p: save(p, ramp((3, 4, 5, 1, 6))), r"5-D .* 6 volumes.*0, 0\]"),
    "two dimensions": (lambda p: save(p, ramp((3, 4))), "2-D"),
    "no voxels": (_empty_axis, r"empty \(5x0x7"),
    "too many voxels": (_huge, "more than are taken"),
    "shorter than its header says": (_claims_more, "more than the file can hold"),
    "colours": (_colours, "integers, float32"),
    "complex": (lambda p: save(p, ramp().astype(np.complex64)), "integers, float32"),
    "not finite": (_bad_voxel, r"2 voxel\(s\) are not finite.*\[2, 3, 4\]"),
    "beyond float32": (_overflow, r"1 voxel\(s\) are not finite.*\[1, 1, 1\]"),
    "constant": (lambda p: save(p, np.full((3, 4, 5), 7.5, np.float32)), r"every voxel is 7\.5"),
    "pair": (_pair, "no single NIfTI"),
    "singular affine": (_singular, "affine"),
    "affine that is not finite": (_nan_affine, "affine"),
    "voxels without size": (_zero_spacing, "affine"),
    "infinite intercept": (
        lambda p: patched(patched(save(p, ramp()), "scl_slope", 1.0), "scl_inter", np.inf),
        "makes no sense",
    ),
    "unknown type": (lambda p: patched(save(p, ramp()), "datatype", 12345), "makes no sense"),
    "offset inside the header": (lambda p: patched(save(p, ramp()), "vox_offset", 8.0), "header"),
    "offset that is not finite": (
        lambda p: patched(save(p, ramp()), "vox_offset", np.inf),
        "makes no sense",
    ),
    "an unknown orientation code": (
        lambda p: patched(save(p, ramp()), "sform_code", 128),
        "orientation codes 128 and",
    ),
    "an unknown unit": (lambda p: patched(save(p, ramp()), "xyzt_units", 7), "unit of length 7"),
    "a dimension count of 99": (lambda p: patched(save(p, ramp()), "dim", 99, 0), "damaged"),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_broken_files_are_refused_with_the_reason(tmp_path, case):
    make, message = BROKEN[case]
    path = make(tmp_path / "scan.nii")
    with pytest.raises(DataError, match=message) as caught:
        read_scan(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_damaged_headers_end_in_an_error_or_a_scan_that_makes_sense(tmp_path, kind):
    path = save(tmp_path / "scan.nii", ramp((3, 4, 5)), kind=kind)
    content = path.read_bytes()
    header_bytes = 348 if kind is nib.Nifti1Image else 540
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        for position in rng.integers(0, header_bytes, 2):
            damaged[position] = rng.choice([0, 1, 127, 128, 255, rng.integers(0, 256)])
        path.write_bytes(bytes(damaged))
        try:
            scan = read_scan(path)
        except DataError:
            refused += 1
            continue
        assert np.isfinite(scan.voxels).all()
        assert min(scan.geometry.spacing_mm) > 0.0
    assert 10 < refused < 190


@pytest.mark.parametrize("content", [b"", b"x" * 200, b"x" * 5000, b"\x1f\x8b" + b"y" * 600])
def test_what_is_no_nifti_is_refused(tmp_path, content):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"NIfTI|damaged"):
        read_scan(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "none.nii", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_scan(path)


def noise(path: Path) -> Path:
    rng = np.random.default_rng(0)
    return save(path, rng.normal(size=(24, 20, 16)).astype(np.float32))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_truncated_compressed_files_are_refused(tmp_path, share):
    path = noise(tmp_path / "scan.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="truncated"):
        read_scan(path)


def test_a_compressed_file_without_its_checksum_is_refused(tmp_path):
    path = noise(tmp_path / "scan.nii.gz")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="truncated"):
        read_scan(path)


def test_a_flipped_bit_is_found(tmp_path):
    path = noise(tmp_path / "scan.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"damaged|truncated"):
        read_scan(path)


def test_a_small_compressed_file_cannot_claim_a_large_volume(tmp_path):
    path = save(tmp_path / "scan.nii", ramp())
    for axis in (1, 2, 3):
        patched(path, "dim", 1000, axis)
    packed = tmp_path / "scan.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match="more than the file can hold"):
        read_scan(packed)


def test_labels_must_lie_on_the_grid_of_the_scan(tmp_path):
    geometry = read_scan(save(tmp_path / "scan.nii", ramp())).geometry
    labels = (ramp() % 5).astype(np.uint8)
    same = save(tmp_path / "labels.nii.gz", labels)
    np.testing.assert_array_equal(read_labels(same, geometry), labels)
    with pytest.raises(DataError, match="5x6x6 voxels do not belong"):
        read_labels(save(tmp_path / "shape.nii", labels[..., :-1]), geometry)
    moved = OBLIQUE.copy()
    moved[0, 3] += 0.5
    with pytest.raises(DataError, match="lie elsewhere"):
        read_labels(save(tmp_path / "moved.nii", labels, moved), geometry)
    rounded = OBLIQUE.copy()
    rounded[:3] += 1e-5
    np.testing.assert_array_equal(
        read_labels(save(tmp_path / "rounded.nii", labels, rounded), geometry), labels
    )


def test_labels_are_integers_up_to_what_a_slope_rounds(tmp_path):
    geometry = read_scan(save(tmp_path / "scan.nii", ramp())).geometry
    stored = np.array([0, 1, 3, 117], np.float64)[(ramp() % 4).astype(int)]
    almost = save(tmp_path / "almost.nii", stored * 0.99999997)
    np.testing.assert_array_equal(read_labels(almost, geometry), stored)
    for wrong in (0.5, -1.0, 70000.0):
        path = save(tmp_path / "wrong.nii", np.where(ramp() == 9, wrong, stored))
        with pytest.raises(DataError, match=f"{wrong:g} is no label"):
            read_labels(path, geometry)
    constant = save(tmp_path / "none.nii", np.zeros(ramp().shape, np.uint8))
    assert not read_labels(constant, geometry).any()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_labels_are_written_on_the_very_grid(tmp_path, suffix, kind):
    image = kind(ramp(), None)
    image.set_qform(OBLIQUE, 1)
    turned = OBLIQUE.copy()
    turned[:3, 3] += 12.0
    image.set_sform(turned, 4)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a name"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a name"))
    image.to_filename(tmp_path / "scan.nii")
    labels = (ramp() % 3).astype(np.uint8)
    out = tmp_path / f"labels{suffix}"
    write_labels(out, labels, read_scan(tmp_path / "scan.nii").geometry)
    written = nib.load(out)
    assert type(written) is kind
    assert written.get_data_dtype() == np.uint8
    assert written.header.get_slope_inter() in ((1.0, 0.0), (None, None))
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
    np.testing.assert_array_equal(written.affine, turned.astype(written.header["srow_x"].dtype))
    for get in ("get_qform", "get_sform"):
        ours, theirs = (getattr(i.header, get)(coded=True) for i in (written, image))
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1] == theirs[1]
    assert written.header.get_xyzt_units() == ("mm", "unknown")
    assert written.header.get_zooms() == image.header.get_zooms()
    assert not written.header.extensions
    content = out.read_bytes()
    plain = gzip.decompress(content) if suffix == ".nii.gz" else content
    assert b"a name" not in plain
    write_labels(out, labels, read_scan(tmp_path / "scan.nii").geometry)
    assert out.read_bytes() == content


def test_labels_are_written_to_nifti_files_of_that_shape_alone(tmp_path):
    geometry = read_scan(save(tmp_path / "scan.nii", ramp())).geometry
    with pytest.raises(UsageError, match=r"\.nii or \.nii\.gz"):
        write_labels(tmp_path / "labels.png", np.zeros((5, 6, 7), np.uint8), geometry)
    for wrong in (np.zeros((7, 6, 5), np.uint8), np.zeros((5, 6, 7), np.float32)):
        with pytest.raises(InputError, match="uint8"):
            write_labels(tmp_path / "labels.nii", wrong, geometry)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.nii"]


def test_stems_lose_both_suffixes():
    assert nifti_stem(Path("a/b.c.nii.gz")) == "b.c"
    assert nifti_stem(Path("a/b.NII")) == "b"


def test_real_files_are_read_as_nibabel_reads_them(real_data):
    folder = real_data / "volumes"
    scan = read_scan(folder / "brats_2013_pat0001_1" / "Flair_subtrMeanDivStd.nii.gz")
    image = nib.load(scan.path)
    assert scan.voxels.shape == (240, 240, 155)
    np.testing.assert_array_equal(scan.voxels, np.asarray(image.dataobj))
    labels = read_labels(scan.path.with_name("OTMultiClass.nii.gz"), scan.geometry)
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4}
    mask = read_labels(scan.path.with_name("brainmask.nii.gz"), scan.geometry)
    assert set(np.unique(mask)) == {0, 1}
    ct = read_scan(folder / "totalseg_ct" / "example_ct_sm.nii.gz")
    np.testing.assert_allclose(ct.geometry.spacing_mm, 3.0, rtol=1e-6)
    organs = read_labels(folder / "totalseg_ct" / "example_seg.nii.gz", ct.geometry)
    assert organs.max() == 117
