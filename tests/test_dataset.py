"""Reading pictures and masks against PIL, and the layout of data folders."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeseg import dataset
from edgeseg.dataset import Case, DataFolder, natural_key, read_image, read_mask
from edgeseg.errors import DataError, InputError

rng = np.random.default_rng(11)
COLOUR = cv2.resize(
    rng.integers(0, 256, (9, 12, 3), np.uint8), (83, 61), interpolation=cv2.INTER_CUBIC
)
ALPHA = np.dstack([COLOUR, rng.integers(0, 256, COLOUR.shape[:2], np.uint8)])
GREY = np.ascontiguousarray(COLOUR[..., 0])


def pil_bgr(source: Path | io.BytesIO) -> np.ndarray:
    with Image.open(source) as image:
        return np.asarray(image.convert("RGB"))[..., ::-1]


def encoded(image: Image.Image, suffix: str, **options: object) -> bytes:
    stream = io.BytesIO()
    kind = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".webp": "WEBP"}[suffix]
    image.save(stream, kind, **options)
    return stream.getvalue()


ROTATED = Image.Exif()
ROTATED[0x0112] = 6

PICTURES = {
    "jpeg-420": encoded(Image.fromarray(COLOUR), ".jpg", quality=80, subsampling=2),
    "jpeg-422": encoded(Image.fromarray(COLOUR), ".jpg", quality=40, subsampling=1),
    "jpeg-444": encoded(Image.fromarray(COLOUR), ".jpg", quality=95, subsampling=0),
    "jpeg-progressive": encoded(Image.fromarray(COLOUR), ".jpg", progressive=True),
    "jpeg-restarts": encoded(Image.fromarray(COLOUR), ".jpg", restart_marker_blocks=2),
    "jpeg-grey": encoded(Image.fromarray(GREY), ".jpg"),
    "jpeg-exif-rotated": encoded(Image.fromarray(COLOUR), ".jpg", exif=ROTATED),
    "jpeg-rgb": encoded(Image.fromarray(COLOUR), ".jpg", keep_rgb=True),
    "png": encoded(Image.fromarray(COLOUR), ".png"),
    "png-exif-rotated": encoded(Image.fromarray(COLOUR), ".png", exif=ROTATED),
    "png-alpha": encoded(Image.fromarray(ALPHA), ".png"),
    "png-grey": encoded(Image.fromarray(GREY), ".png"),
    "png-grey-alpha": encoded(Image.fromarray(ALPHA[..., 2:]), ".png"),
    "png-palette": encoded(Image.fromarray(COLOUR).quantize(23), ".png"),
    "png-palette-alpha": encoded(Image.fromarray(COLOUR).quantize(23), ".png", transparency=4),
    "png-1-bit": encoded(Image.fromarray(GREY > 128), ".png"),
    "bmp": encoded(Image.fromarray(COLOUR), ".bmp"),
    "bmp-grey": encoded(Image.fromarray(GREY), ".bmp"),
    "tiff": encoded(Image.fromarray(COLOUR), ".tif"),
    "tiff-lzw": encoded(Image.fromarray(COLOUR), ".tif", compression="tiff_lzw"),
    "tiff-opaque-alpha": encoded(Image.fromarray(COLOUR).convert("RGBA"), ".tif"),
    "tiff-grey": encoded(Image.fromarray(GREY), ".tif"),
    "webp": encoded(Image.fromarray(COLOUR), ".webp", quality=70),
    "webp-lossless": encoded(Image.fromarray(COLOUR), ".webp", lossless=True),
    "webp-alpha": encoded(Image.fromarray(ALPHA), ".webp", lossless=True, exact=True),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_decode_as_pil_does(name, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(PICTURES[name])
    image = read_image(path)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, pil_bgr(path))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_their_upper_eight(suffix, tmp_path):
    path = tmp_path / f"deep{suffix}"
    deep = rng.integers(0, 1 << 16, (21, 13, 3)).astype(np.uint16)
    assert cv2.imwrite(str(path), deep)
    np.testing.assert_array_equal(read_image(path), (deep >> 8).astype(np.uint8))
    assert cv2.imwrite(str(path), deep[..., 0])
    np.testing.assert_array_equal(read_image(path)[..., 1], deep[..., 0] >> 8)


def test_transparency_in_a_tiff_is_refused(tmp_path):
    path = tmp_path / "clear.tif"
    Image.fromarray(ALPHA).save(path)
    with pytest.raises(DataError, match=r"clear\.tif.*transparency"):
        read_image(path)


def test_floating_point_pictures_are_refused(tmp_path):
    path = tmp_path / "float.tif"
    assert cv2.imwrite(str(path), np.zeros((4, 4), np.float32))
    with pytest.raises(DataError, match=r"float\.tif.*float32.*8 bits"):
        read_image(path)


def test_real_pictures_decode_as_pil_does():
    root = os.environ.get("EDGESEG_DATA")
    if root is None:
        pytest.skip("EDGESEG_DATA is not set")
    data = DataFolder.open(Path(root) / "polyp" / "train", masks="required")
    assert {case.image.suffix for case in data.cases} == {".jpg", ".png"}
    for case in data.cases[::16]:
        image, mask = case.read()
        np.testing.assert_array_equal(image, pil_bgr(case.image))
        with Image.open(case.mask) as expected:
            np.testing.assert_array_equal(mask, np.asarray(expected.convert("L")) > 127)


@pytest.mark.parametrize("name", [n for n in PICTURES if not n.startswith("tiff")])
@settings(deadline=None, max_examples=25)
@given(kept=st.floats(0, 0.999))
def test_a_file_cut_anywhere_is_refused_by_name(name, kept, tmp_path_factory):
    whole = PICTURES[name]
    path = tmp_path_factory.mktemp("cut") / "broken.png"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=r"broken\.png"):
        read_image(path)


@pytest.mark.parametrize("name", ["tiff", "tiff-lzw"])
def test_a_tiff_without_its_end_is_refused(name, tmp_path):
    path = tmp_path / "broken.tif"
    for kept in (0.0, 0.001, 0.3, 0.7, 0.95):
        path.write_bytes(PICTURES[name][: int(kept * len(PICTURES[name]))])
        with pytest.raises(DataError, match=r"broken\.tif"):
            read_image(path)


def test_truncation_is_named_as_such(tmp_path):
    # A thumbnail's end marker inside the metadata must not pass for the picture's.
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9"
    for name, data in {
        "a.jpg": encoded(Image.fromarray(COLOUR), ".jpg", exif=exif),
        "a.png": PICTURES["png"],
        "a.bmp": PICTURES["bmp"],
        "a.webp": PICTURES["webp"],
    }.items():
        path = tmp_path / name
        path.write_bytes(data[: len(data) * 2 // 3])
        with pytest.raises(DataError, match=rf"{name}.*truncated"):
            read_image(path)


def test_bytes_after_the_end_do_no_harm(tmp_path):
    for name in ("jpeg-420", "png", "bmp", "webp"):
        path = tmp_path / "padded"
        path.write_bytes(PICTURES[name] + b"\0\xff\xd8 trailing")
        np.testing.assert_array_equal(read_image(path), pil_bgr(io.BytesIO(PICTURES[name])))


def test_a_changed_byte_in_a_png_is_found(tmp_path):
    data = bytearray(PICTURES["png"])
    data[len(data) // 2] ^= 0x10
    path = tmp_path / "changed.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"changed\.png.*checksum"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"hello, world", "no JPEG, PNG"), (b"\0" * 4096, "no JPEG, PNG")],
)
def test_what_is_no_picture_is_refused(content, message, tmp_path):
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"odd\.jpg.*{message}"):
        read_image(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png.*No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)


def png_of_size(width: int, height: int) -> bytes:
    """A valid PNG of a few bytes whose header claims any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(100_000, 90_000))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it must not be decoded"))
    for read in (read_image, read_mask):
        with pytest.raises(DataError, match=r"bomb\.png: 100000x90000 pixels"):
            read(path)


@pytest.mark.parametrize("name", PICTURES)
def test_size_in_the_header_is_what_bounds_the_picture(name, tmp_path, monkeypatch):
    path = tmp_path / "picture"
    path.write_bytes(PICTURES[name])
    monkeypatch.setattr(dataset, "MAX_IMAGE_PX", 83 * 61)
    assert read_image(path).shape == (61, 83, 3)
    monkeypatch.setattr(dataset, "MAX_IMAGE_PX", 83 * 61 - 1)
    with pytest.raises(DataError, match="83x61 pixels"):
        read_image(path)


def test_an_impossible_size_is_refused(tmp_path):
    path = tmp_path / "flat.png"
    path.write_bytes(png_of_size(0, 7))
    with pytest.raises(DataError, match=r"flat\.png.*0x7"):
        read_image(path)


SHAPE = (19, 23)
BINARY = (rng.random(SHAPE) > 0.5).astype(np.uint8)
LABELS = rng.integers(0, 5, SHAPE).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("value", [1, 128, 255])
def test_one_class_masks_of_zero_and_one_or_zero_and_255(value, classes, tmp_path):
    path = save(tmp_path / "m.png", BINARY * np.uint8(value))
    mask = read_mask(path, classes)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, BINARY)


def test_grey_values_above_127_are_foreground(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", ramp)), ramp > 127)
    deep = ramp.astype(np.uint16) * 257
    assert cv2.imwrite(str(tmp_path / "deep.png"), deep)
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png"), ramp > 127)


def test_colour_and_one_bit_masks_equal_pils_grey(tmp_path):
    for name, image in {
        "colour.png": Image.fromarray(COLOUR),
        "one_bit.png": Image.fromarray(GREY > 99),
        "palette.png": Image.fromarray(COLOUR).quantize(9),
    }.items():
        image.save(tmp_path / name)
        expected = np.asarray(Image.open(tmp_path / name).convert("RGB").convert("L")) > 127
        np.testing.assert_array_equal(read_mask(tmp_path / name), expected)


def test_jpeg_noise_around_zero_is_background(tmp_path):
    speckled = np.zeros((32, 32), np.uint8)
    speckled[7, 9] = 6
    path = save(tmp_path / "m.jpg", speckled, quality=95)
    assert not read_mask(path).any()


def test_a_mask_that_is_neither_0_1_nor_0_255_is_refused(tmp_path):
    path = save(tmp_path / "dim.png", BINARY * np.uint8(38))
    with pytest.raises(DataError, match=r"dim\.png.*38.*neither"):
        read_mask(path)


def test_empty_masks_are_empty(tmp_path):
    for classes in (1, 2, 4):
        assert not read_mask(save(tmp_path / "m.png", np.zeros(SHAPE, np.uint8)), classes).any()


def test_class_indices_come_as_stored(tmp_path):
    np.testing.assert_array_equal(read_mask(save(tmp_path / "g.png", LABELS), 5), LABELS)
    three = np.dstack([LABELS] * 3)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "c.png", three), 5), LABELS)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_masks_hold_their_indices(bits, tmp_path):
    labels = (LABELS % min(1 << bits, 5)).astype(np.uint8)
    image = Image.fromarray(labels, "P")
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9, 200, 0, 0])
    path = tmp_path / "voc.png"
    image.save(path, bits=bits, transparency=0)
    assert np.array_equal(np.asarray(Image.open(path)), labels), "the file must hold indices"
    np.testing.assert_array_equal(read_mask(path, 5), labels)


def test_values_beyond_the_classes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"m\.png.*value 4.*3 classes"):
        read_mask(save(tmp_path / "m.png", np.full((2, 2), 4, np.uint8)), 3)
    with pytest.raises(DataError, match=r"c\.png.*colour"):
        read_mask(save(tmp_path / "c.png", COLOUR), 3)
    with pytest.raises(InputError, match="classes"):
        read_mask(tmp_path / "m.png", 0)


def lay(root: Path, *names: str) -> Path:
    """Create small pictures (and empty files of other kinds) under ``root``."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in dataset.IMAGE_SUFFIXES:
            Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
        else:
            path.touch()
    return root


@pytest.mark.parametrize(
    ("images", "masks"), [("image", "mask"), ("images", "masks"), ("img", "label")]
)
def test_pairs_by_stem_in_natural_order(images, masks, tmp_path):
    lay(tmp_path, *(f"{images}/f{i}.JPG" for i in (10, 2, 1)))
    lay(tmp_path, *(f"{masks}/f{i}.png" for i in (1, 10, 2)), f"{masks}/notes.txt")
    lay(tmp_path, f"{images}/.hidden.png", f"{images}/Thumbs.db")
    for use in ("required", "optional"):
        data = DataFolder.open(tmp_path, masks=use)
        assert [case.id for case in data.cases] == ["f1", "f2", "f10"]
        assert [case.mask.name for case in data.cases] == ["f1.png", "f2.png", "f10.png"]
    ignored = DataFolder.open(tmp_path, masks="ignored")
    assert [case.mask for case in ignored.cases] == [None, None, None]


def test_pictures_and_videos_lying_directly(tmp_path):
    lay(tmp_path, "b.png", "a.tif", "clip2.mp4", "clip10.MOV")
    data = DataFolder.open(tmp_path)
    assert [case.id for case in data.cases] == ["a", "b"]
    assert [path.name for path in data.videos] == ["clip2.mp4", "clip10.MOV"]
    with pytest.raises(DataError, match=r"masks are needed.*mask/"):
        DataFolder.open(tmp_path, masks="required")


def test_single_files(tmp_path):
    lay(tmp_path, "a.png", "v.mp4", "notes.txt")
    assert DataFolder.open(tmp_path / "a.png").cases == (Case("a", tmp_path / "a.png", None),)
    assert DataFolder.open(tmp_path / "v.mp4").videos == (tmp_path / "v.mp4",)
    with pytest.raises(DataError, match=r"notes\.txt.*neither a picture"):
        DataFolder.open(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="masks are needed"):
        DataFolder.open(tmp_path / "a.png", masks="required")


def test_lonely_files_are_named(tmp_path):
    lay(tmp_path, *(f"image/i{n}.png" for n in range(9)), "mask/i0.png")
    with pytest.raises(DataError, match=r"no mask.*i1\.png, .*i5\.png and 3 more"):
        DataFolder.open(tmp_path, masks="required")
    lay(tmp_path, *(f"mask/i{n}.png" for n in range(10)))
    with pytest.raises(DataError, match=r"no image.*i9\.png"):
        DataFolder.open(tmp_path)
    assert len(DataFolder.open(tmp_path, masks="ignored").cases) == 9


@pytest.mark.parametrize("folder", ["image", "mask"])
def test_two_files_of_one_stem_are_refused(folder, tmp_path):
    lay(tmp_path, "image/a.png", "mask/a.png", f"{folder}/a.bmp")
    with pytest.raises(DataError, match=rf"{folder}.*two files.*'a'.*a\.bmp and a\.png"):
        DataFolder.open(tmp_path)


def test_folders_that_cannot_be_meant(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        DataFolder.open(tmp_path / "gone")
    lay(tmp_path, "empty/readme.txt")
    with pytest.raises(DataError, match="no pictures or videos"):
        DataFolder.open(tmp_path / "empty")
    lay(tmp_path, "train/image/a.png", "train/mask/a.png")
    for use in ("required", "optional"):
        with pytest.raises(DataError, match=r"did you mean .*train"):
            DataFolder.open(tmp_path, masks=use)
    lay(tmp_path, "two/image/a.png", "two/images/a.png")
    with pytest.raises(DataError, match="both image/ and images/"):
        DataFolder.open(tmp_path / "two")
    lay(tmp_path, "bare/mask/a.png")
    with pytest.raises(DataError, match="mask/ but no image folder"):
        DataFolder.open(tmp_path / "bare")


def test_a_mask_of_another_size_is_refused_when_read(tmp_path):
    lay(tmp_path, "image/a.png", "mask/a.png")
    save(tmp_path / "mask" / "a.png", np.zeros((6, 4), np.uint8))
    (case,) = DataFolder.open(tmp_path, masks="required").cases
    with pytest.raises(DataError, match=r"mask.a\.png is 4x6 pixels.*image.a\.png is 6x4"):
        case.read()


def test_content_hashes_follow_the_content(tmp_path):
    lay(tmp_path, "image/a.png", "image/v.mp4", "mask/a.png")
    (tmp_path / "image" / "v.mp4").write_bytes(b"video")
    hashes = DataFolder.open(tmp_path).content_hashes()
    assert hashes == {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "image" / "a.png", tmp_path / "image" / "v.mp4")
    }


@given(st.lists(st.integers(0, 10**6), max_size=8))
def test_numbers_sort_by_value(numbers):
    names = sorted((f"frame_{n}_x" for n in numbers), key=natural_key)
    assert names == [f"frame_{n}_x" for n in sorted(numbers)]


@given(st.lists(st.text(max_size=8), max_size=8))
def test_any_names_can_be_sorted(names):
    assert sorted(sorted(names, key=natural_key)) == sorted(names)
