"""Writing: what comes back, and what never appears."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from video_files import decode_all, number_of, numbered_frame

from edgeseg.dataset import read_mask
from edgeseg.errors import InputError, OutputError, UsageError
from edgeseg.overlay import default_colours
from edgeseg.video import Frame, SinkSpec, open_sink
from edgeseg.video.palette_png import with_palette


def frame_at(index: int, time_s: float | None, image: np.ndarray) -> Frame:
    return Frame(index, image, f"picture{index}", time_s, None)


def write_numbered(
    path: Path, size: tuple[int, int], times_s: list[float], time_base: Fraction
) -> None:
    spec = SinkSpec("video", size=size, rate=Fraction(25), time_base=time_base)
    with open_sink(path, spec) as sink:
        for i, time_s in enumerate(times_s):
            image = numbered_frame(i, *size)
            sink.write(frame_at(i, time_s, image), image)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_video_comes_back_in_order_with_its_times(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    steps = [0.04, 0.11, 0.02, 0.5]
    times = [round(sum(steps[k % 4] for k in range(i)), 3) for i in range(25)]
    write_numbered(path, (160, 96), times, Fraction(1, 90000))
    images, stored = decode_all(path)
    assert [number_of(image) for image in images] == list(range(25))
    tolerance = 6e-4 if suffix == ".mkv" else 1e-9
    np.testing.assert_allclose([float(t) for t in stored], times, atol=tolerance)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"


def test_pictures_survive_the_encoding_closely(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    # Smooth, as endoscopy is; noise is not what the quality setting is made for.
    noise = np.random.default_rng(3).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 12)
    image = cv2.normalize(image, None, 20, 230, cv2.NORM_MINMAX)
    spec = SinkSpec("video", size=(1280, 720), rate=Fraction(25), time_base=Fraction(1, 25))
    with open_sink(path, spec) as sink:
        for i in range(5):
            sink.write(frame_at(i, i / 25, image), image)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        # High definition is BT.709, and says so.
        assert frame.colorspace == 1
        assert frame.color_range == 1
    images, _ = decode_all(path)
    assert cv2.PSNR(images[2], image) > 35.0
    # No systematic darkening beyond what the decoder's fast path does.
    assert np.abs(np.mean(images[2].astype(float) - image, axis=(0, 1))).max() < 2.0


@pytest.mark.parametrize("size", [(161, 97), (160, 97), (161, 96), (17, 33)])
def test_odd_sizes_gain_a_repeated_row_or_column(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    width, height = size
    image = np.full((height, width, 3), 90, np.uint8)
    image[:, -4:] = (200, 200, 200)
    image[-4:] = (200, 200, 200)
    spec = SinkSpec("video", size=size)
    with open_sink(path, spec) as sink:
        for i in range(3):
            sink.write(frame_at(i, i / 25, image), image)
    images, _ = decode_all(path)
    assert images[0].shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(images[1][:height, :width].astype(int) - image).mean() < 4
    assert np.abs(images[1][-1, -1].astype(int) - (200, 200, 200)).max() < 25


def test_the_index_of_an_mp4_stands_in_front(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write_numbered(path, (160, 96), [i / 25 for i in range(10)], Fraction(1, 25))
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_non_square_pixels_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    spec = SinkSpec("video", size=(720, 576), pixel_aspect=Fraction(16, 15))
    image = np.zeros((576, 720, 3), np.uint8)
    with open_sink(path, spec) as sink:
        sink.write(frame_at(0, 0.0, image), image)
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 15)


def test_times_that_do_not_advance_are_moved_apart(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write_numbered(path, (160, 96), [0.0, 0.04, 0.04, 0.03, 0.2], Fraction(1, 1000))
    images, stored = decode_all(path)
    assert [number_of(image) for image in images] == list(range(5))
    assert [round(float(t) * 1000) for t in stored] == [0, 40, 41, 42, 200]


@pytest.mark.parametrize("largest", [255, 3])
def test_masks_of_a_video_come_back_exactly(largest: int, tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, largest + 1, (97, 161), dtype=np.uint8) for _ in range(6)]
    with open_sink(path, SinkSpec("video", labels=True, size=(161, 97))) as sink:
        for i, mask in enumerate(masks):
            sink.write(frame_at(i, i / 25, mask), mask)
    images, _ = decode_all(path, "gray")
    for image, mask in zip(images, masks, strict=True):
        np.testing.assert_array_equal(image, mask)
    capture = cv2.VideoCapture(str(path))
    done, first = capture.read()
    assert done
    np.testing.assert_array_equal(first[..., 0], masks[0])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_one_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    image = cv2.GaussianBlur(numbered_frame(5, 160, 96), (0, 0), 2)
    with open_sink(path, SinkSpec("image")) as sink:
        sink.write(frame_at(0, None, image), image)
    back = np.asarray(Image.open(path).convert("RGB"))[..., ::-1]
    if suffix in (".png", ".bmp", ".tif"):
        np.testing.assert_array_equal(back, image)
    else:
        assert np.abs(back.astype(int) - image).mean() < 3


def test_a_palette_png_holds_indices_and_shows_colours(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    mask = np.random.default_rng(0).integers(0, 4, (31, 47), dtype=np.uint8)
    colours = default_colours(3)
    with open_sink(path, SinkSpec("image", labels=True, palette=colours)) as sink:
        sink.write(frame_at(0, None, mask), mask)
    picture = Image.open(path)
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), mask)
    table = np.array([(0, 0, 0), *colours], np.uint8)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), table[mask])
    np.testing.assert_array_equal(read_mask(path, classes=4), mask)


def test_a_palette_needs_a_grey_png() -> None:
    colour = io.BytesIO()
    Image.new("RGB", (3, 3)).save(colour, "png")
    with pytest.raises(OutputError):
        with_palette(colour.getvalue(), [(0, 0, 0)])
    with pytest.raises(OutputError):
        with_palette(b"no PNG", [(0, 0, 0)])


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with open_sink(folder, SinkSpec("folder")) as sink:
        for i in range(3):
            image = numbered_frame(i, 160, 96 + i)
            sink.write(frame_at(i, None, image), image)
    assert sorted(p.name for p in folder.iterdir()) == [f"picture{i}.png" for i in range(3)]
    np.testing.assert_array_equal(
        cv2.imread(str(folder / "picture2.png")), numbered_frame(2, 160, 98)
    )


def test_force_replaces_only_files_of_the_same_name_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    (tmp_path / "picture0.png").write_bytes(b"old")
    image = numbered_frame(0, 160, 96)
    with pytest.raises(OutputError, match="not empty"), open_sink(tmp_path, SinkSpec("folder")):
        pass
    assert (tmp_path / "picture0.png").read_bytes() == b"old"
    with open_sink(tmp_path, SinkSpec("folder"), force=True) as sink:
        sink.write(frame_at(0, None, image), image)
    assert (tmp_path / "notes.txt").read_text() == "keep"
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "picture0.png")), image)


SPECS = {
    "out.mp4": SinkSpec("video", size=(160, 96)),
    "out.mkv": SinkSpec("video", labels=True, size=(160, 96)),
    "out.png": SinkSpec("image"),
}


@pytest.mark.parametrize("name", SPECS)
def test_an_error_leaves_nothing_and_an_old_output_untouched(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    spec = SPECS[name]
    image = numbered_frame(0, 160, 96)
    picture = image[..., 0] if spec.labels else image

    def fail(*, force: bool) -> None:
        with open_sink(path, spec, force=force) as sink:
            sink.write(frame_at(0, 0.0, image), picture)
            raise KeyError("something else")

    with pytest.raises(KeyError):
        fail(force=False)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="--force"):
        fail(force=False)
    with pytest.raises(KeyError):
        fail(force=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", SPECS)
def test_unwritable_places_are_refused_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    started = False
    with pytest.raises(OutputError), open_sink(tmp_path / "file" / name, SPECS[name]):
        started = True
    assert not started
    with pytest.raises(OutputError), open_sink(tmp_path / "file", SinkSpec("folder")):
        started = True
    assert not started


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("out.avi", SinkSpec("video", size=(8, 8))),
        ("out", SinkSpec("video", size=(8, 8))),
        ("out.mp4", SinkSpec("video", labels=True, size=(8, 8))),
        ("out.jpg", SinkSpec("image", labels=True)),
        ("out.mp4", SinkSpec("image")),
        ("out.mp4", SinkSpec("folder")),
        ("out.mp4", SinkSpec("video")),
    ],
)
def test_names_that_do_not_fit_are_refused(name: str, spec: SinkSpec, tmp_path: Path) -> None:
    with pytest.raises(UsageError), open_sink(tmp_path / name, spec):
        pass
    assert not (tmp_path / name).exists()


def test_a_folder_is_no_place_for_one_file(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    spec = SinkSpec("video", size=(8, 8))
    with pytest.raises(OutputError, match="folder"), open_sink(tmp_path / "out.mp4", spec):
        pass


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    image = numbered_frame(0, 200, 96)
    spec = SinkSpec("video", size=(160, 96))
    with pytest.raises(InputError), open_sink(tmp_path / "out.mp4", spec) as sink:
        sink.write(frame_at(0, 0.0, image), image)
    assert list(tmp_path.iterdir()) == []
