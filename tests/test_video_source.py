"""Reading: order, times, colours, and where a video ends."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from video_files import cut, number_of, numbered_frame, write_video

from edgeseg.errors import DataError, TruncatedVideoError, UsageError
from edgeseg.video import Frame, open_source
from edgeseg.video.colour import BgrConverter, YuvConverter, is_high_definition
from edgeseg.video.completeness import missing_end

FASTSTART = {"movflags": "+faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


def read(path: Path) -> tuple[list[Frame], DataError | None]:
    frames: list[Frame] = []
    with open_source(path) as source:
        try:
            frames.extend(source)
        except DataError as error:
            return frames, error
    return frames, None


def write_fs(path: Path) -> Path:
    return write_video(path, container_options=FASTSTART, audio=True)


def write_fragmented(path: Path) -> Path:
    return write_video(path, container_options=FRAGMENTED)


def write_mjpeg(path: Path) -> Path:
    return write_video(path, codec="mjpeg", pix_fmt="yuvj420p")


def write_ffv1(path: Path) -> Path:
    return write_video(path, codec="ffv1", codec_options={"level": "3", "slicecrc": "1"})


def write_open_gop(path: Path) -> Path:
    options = {"crf": "20", "x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}
    return write_video(path, codec_options=options)


def write_live_matroska(path: Path) -> Path:
    return write_video(path, container_options={"live": "1"})


def write_with_audio(path: Path) -> Path:
    return write_video(path, audio=True)


WRITERS: list[tuple[str, Callable[[Path], Path]]] = [
    ("plain.mp4", write_with_audio),
    ("front.mp4", write_fs),
    ("fragments.mp4", write_fragmented),
    ("clip.mov", write_video),
    ("clip.mkv", write_with_audio),
    ("live.mkv", write_live_matroska),
    ("clip.avi", write_video),
    ("mjpeg.avi", write_mjpeg),
    ("clip.ts", write_with_audio),
    ("open_gop.ts", write_open_gop),
    ("ffv1.mkv", write_ffv1),
]


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=[name for name, _ in WRITERS])
def test_whole_files_are_read_to_their_end_in_order(
    name: str, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    frames, error = read(write(tmp_path / name))
    assert error is None
    assert [number_of(f.image) for f in frames] == list(range(30))
    assert [f.index for f in frames] == list(range(30))
    times = [f.time_s for f in frames]
    assert all(t is not None for t in times)
    # Matroska and its kin round to milliseconds.
    np.testing.assert_allclose(times, np.arange(30) / 25, atol=6e-4)


@pytest.mark.parametrize("share", [0.45, 0.7, 0.93])
@pytest.mark.parametrize(
    ("name", "write"),
    [w for w in WRITERS if w[0] not in ("plain.mp4", "clip.mov")],
    ids=[w[0] for w in WRITERS if w[0] not in ("plain.mp4", "clip.mov")],
)
def test_cut_files_give_their_frames_and_then_say_so(
    name: str, write: Callable[[Path], Path], share: float, tmp_path: Path
) -> None:
    frames, error = read(cut(write(tmp_path / name), share))
    assert isinstance(error, TruncatedVideoError)
    assert f"{len(frames)} " in str(error)
    assert "cut_" in str(error)
    assert 0 < len(frames) < 30
    # Pictures are whole: none was made up by the decoder, but for the last of a transport stream,
    # which does not say how long its pictures are.
    sound = frames[:-1] if name.endswith(".ts") else frames
    numbers = [number_of(f.image) for f in sound]
    assert numbers == sorted(set(numbers))
    # Frames that come after the cut in the file may be shown before its last ones.
    assert numbers[:-2] == list(range(len(numbers) - 2))
    if not name.endswith((".ts", "live.mkv")):
        # Every frame whose bytes are there was delivered.
        assert len(frames) >= 30 * share - 11


def test_all_complete_frames_before_the_cut_are_delivered(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "clip.mp4", frames=60, container_options=FASTSTART)
    with av.open(str(whole)) as container:
        packets = [
            (p.pos, p.size, p.pts) for p in container.demux(container.streams.video[0]) if p.size
        ]
    # Cut inside packet 43 (in the order of the file): exactly 43 are whole.
    position, size, _ = packets[43]
    assert position is not None
    half = tmp_path / "half.mp4"
    half.write_bytes(whole.read_bytes()[: position + size // 2])
    frames, error = read(half)
    assert isinstance(error, TruncatedVideoError)
    assert "43 of 60 frames" in str(error)
    expected = sorted(p[2] for p in packets[:43])
    first = expected[0]
    with av.open(str(whole)) as container:
        base = container.streams.video[0].time_base
    np.testing.assert_allclose(
        [f.time_s for f in frames], [float((pts - first) * base) for pts in expected]
    )


def test_a_file_cut_before_its_index_is_called_cut(tmp_path: Path) -> None:
    with pytest.raises(TruncatedVideoError, match="'mdat' box should end"):
        open_source(cut(write_video(tmp_path / "clip.mp4"), 0.5))


def test_a_damaged_packet_in_the_middle_is_reported_after_the_rest_was_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        position, size = packets[12].pos, packets[12].size
    data = bytearray(path.read_bytes())
    assert position is not None
    data[position : position + size] = bytes(size)
    path.write_bytes(data)
    frames, error = read(path)
    assert isinstance(error, TruncatedVideoError)
    assert "29 of 30" in str(error)
    assert [number_of(f.image) for f in frames] == [*range(12), *range(13, 30)]


def test_a_recording_that_starts_between_key_frames_is_not_called_damaged(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.ts", frames=40)
    data = path.read_bytes()
    late = tmp_path / "late.ts"
    late.write_bytes(data[188 * (len(data) // 188 // 5) :])
    frames, error = read(late)
    assert error is None
    assert [number_of(f.image) for f in frames] == list(range(10, 40))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_bytes_appended_to_a_whole_file_do_not_make_it_cut(suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"clip{suffix}")
    with path.open("ab") as stream:
        stream.write(b"\xff\xfe appended by another program" * 3)
    frames, error = read(path)
    assert error is None
    assert len(frames) == 30


def test_missing_end_reads_64_bit_box_lengths(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    ftyp = struct.pack(">I4s", 16, b"ftyp") + b"isom" + bytes(4)
    moov = struct.pack(">I4s", 8, b"moov")
    path.write_bytes(ftyp + moov + struct.pack(">I4sQ", 1, b"mdat", 16 + 1000) + bytes(900))
    assert "'mdat' box should end 100 bytes" in str(missing_end(path))
    path.write_bytes(ftyp + moov + struct.pack(">I4sQ", 1, b"mdat", 16 + 1000) + bytes(1000))
    assert missing_end(path) is None
    path.write_bytes(ftyp + moov + struct.pack(">I4s", 0, b"mdat") + bytes(10))
    assert missing_end(path) is None


@pytest.mark.parametrize(("packet_bytes", "sync"), [(188, 0), (192, 4), (204, 0)])
def test_missing_end_knows_the_packet_sizes_of_transport_streams(
    packet_bytes: int, sync: int, tmp_path: Path
) -> None:
    path = tmp_path / "clip.m2ts"
    packet = bytes(sync) + b"G" + bytes(packet_bytes - sync - 1)
    path.write_bytes(packet * 9)
    assert missing_end(path) is None
    path.write_bytes(packet * 9 + packet[:100])
    assert missing_end(path) == f"its last transport packet has 100 of {packet_bytes} bytes"
    path.write_bytes(packet * 9 + b"appended")
    assert missing_end(path) is None


def test_variable_frame_rates_keep_their_times(tmp_path: Path) -> None:
    steps = [Fraction(1, 25), Fraction(1, 10), Fraction(1, 50), Fraction(1, 3)]
    times = [sum(steps[k % 4] for k in range(i)) + Fraction(0) for i in range(24)]
    for name, tolerance in (("vfr.mp4", 1e-9), ("vfr.mkv", 6e-4)):
        path = write_video(tmp_path / name, frames=24, times_s=times)
        frames, error = read(path)
        assert error is None
        np.testing.assert_allclose(
            [f.time_s for f in frames], [float(t) for t in times], atol=tolerance
        )


def test_the_first_frame_has_time_zero(tmp_path: Path) -> None:
    # Transport streams start at 1.4 s by default.
    path = write_video(tmp_path / "clip.ts")
    with av.open(str(path)) as container:
        assert container.streams.video[0].start_time
    frames, _ = read(path)
    assert frames[0].time_s == 0.0


@pytest.mark.parametrize(
    ("degrees", "turn"),
    [
        (90, cv2.ROTATE_90_CLOCKWISE),
        (180, cv2.ROTATE_180),
        (270, cv2.ROTATE_90_COUNTERCLOCKWISE),
    ],
)
def test_rotation_is_applied_as_opencv_applies_it(degrees: int, turn: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=3, pixel_aspect=Fraction(4, 3))
    upright, _ = read(path)
    data = bytearray(path.read_bytes())
    matrices = {
        90: (0, 1, -1, 0),
        180: (-1, 0, 0, -1),
        270: (0, -1, 1, 0),
    }
    a, b, c, d = (value * 65536 for value in matrices[degrees])
    header = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of other fields
    assert struct.unpack_from(">9i", data, header) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, header, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with open_source(path) as source:
        frames = list(source)
        assert source.size == ((160, 96) if degrees == 180 else (96, 160))
        aspect = Fraction(4, 3) if degrees == 180 else Fraction(3, 4)
        assert source.pixel_aspect == aspect
    np.testing.assert_array_equal(frames[0].image, cv2.rotate(upright[0].image, turn))
    capture = cv2.VideoCapture(str(path))
    done, theirs = capture.read()
    assert done
    assert theirs.shape == frames[0].image.shape
    # The matrices differ for standard definition in nothing, so pictures agree closely.
    assert np.abs(theirs.astype(int) - frames[0].image.astype(int)).mean() < 4


def _ycbcr_to_bgr(y: float, cb: float, cr: float, matrix: int, *, full: bool) -> np.ndarray:
    kr, kb = (0.2126, 0.0722) if matrix == 709 else (0.299, 0.114)
    luma = y if full else (y - 16) * 255 / 219
    blue_difference = (cb - 128) * (1.0 if full else 255 / 224)
    red_difference = (cr - 128) * (1.0 if full else 255 / 224)
    red = luma + 2 * (1 - kr) * red_difference
    blue = luma + 2 * (1 - kb) * blue_difference
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip([blue, green, red], 0, 255)


@pytest.mark.parametrize("colour_range", [0, 1, 2])
@pytest.mark.parametrize(
    ("size", "tag", "matrix"),
    [
        ((640, 480), 2, 601),
        ((1280, 720), 2, 709),
        ((640, 480), 1, 709),
        ((1280, 720), 5, 601),
        ((1280, 720), 6, 601),
        ((642, 482), 6, 601),
    ],
)
def test_colours_follow_the_tags_and_else_the_size(
    size: tuple[int, int], tag: int, matrix: int, colour_range: int
) -> None:
    convert = BgrConverter()
    frame = av.VideoFrame(*size, "yuv420p")
    frame.colorspace = tag
    frame.color_range = colour_range
    for values in ((60, 128, 128), (120, 90, 160), (180, 150, 110), (200, 128, 128)):
        for plane, value in zip(frame.planes, values, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        expected = _ycbcr_to_bgr(*values, matrix, full=colour_range == 2)
        image = convert(frame)
        assert image.shape == (size[1], size[0], 3)
        assert image.flags.c_contiguous
        assert image.flags.writeable
        assert np.abs(image - expected).max() <= 3.0


@pytest.mark.parametrize(("size", "matrix"), [((640, 480), 601), ((1280, 720), 709)])
def test_conversion_to_yuv_is_within_a_level(size: tuple[int, int], matrix: int) -> None:
    convert = YuvConverter(*size)
    rng = np.random.default_rng(1)
    for colour in rng.integers(0, 256, (20, 3)):
        image = np.empty((size[1], size[0], 3), np.uint8)
        image[:] = colour
        planes = convert(image).planes
        values = [float(np.frombuffer(p, np.uint8)[p.line_size * 9 + 9]) for p in planes]
        blue, green, red = (float(v) for v in colour)
        kr, kb = (0.2126, 0.0722) if matrix == 709 else (0.299, 0.114)
        luma = kr * red + kb * blue + (1 - kr - kb) * green
        expected = [
            16 + luma * 219 / 255,
            128 + (blue - luma) / (2 * (1 - kb)) * 224 / 255,
            128 + (red - luma) / (2 * (1 - kr)) * 224 / 255,
        ]
        assert np.abs(np.array(values) - expected).max() <= 1.1


def test_high_definition_begins_above_pal() -> None:
    assert not is_high_definition(720, 576)
    assert not is_high_definition(1024, 576)
    assert is_high_definition(1280, 720)
    assert is_high_definition(1080, 1080)


def test_full_range_and_grey_videos_are_read(tmp_path: Path) -> None:
    grey = tmp_path / "grey.mkv"
    with av.open(str(grey), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 50, 34, "gray"
        picture = np.arange(50 * 34, dtype=np.uint32).reshape(34, 50).astype(np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode(None))
    frames, error = read(grey)
    assert error is None
    np.testing.assert_array_equal(frames[0].image, np.repeat(picture[..., None], 3, axis=2))


def test_a_change_of_size_ends_the_reading(tmp_path: Path) -> None:
    # Two recordings of different size, one after the other: transport streams may be joined.
    small = write_video(tmp_path / "small.ts", frames=12)
    large = write_video(tmp_path / "large.ts", frames=12, width=192, height=128)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    frames, error = read(joined)
    assert error is not None
    assert "changes from 160x96 to 192x128 after 12 frames" in str(error)
    assert len(frames) == 12


@pytest.mark.parametrize(
    "content", [b"", b"not a video at all\n" * 50, bytes(5000), b"\x1a\x45\xdf\xa3" + bytes(100)]
)
def test_other_files_are_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "thing.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"thing\.mp4"):
        open_source(path)


def test_a_file_with_sound_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((2, 1024), np.float32), format="fltp", layout="stereo"
        )
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DataError, match="no video stream"):
        open_source(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_source(tmp_path / "nothing.mp4")


def test_a_video_is_read_once(tmp_path: Path) -> None:
    with open_source(write_video(tmp_path / "clip.mp4", frames=3)) as source:
        assert len(list(source)) == 3
        with pytest.raises(UsageError, match="once"):
            next(iter(source))


def test_a_folder_is_read_in_natural_order_past_unreadable_pictures(tmp_path: Path) -> None:
    for number in (0, 1, 2, 10):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), numbered_frame(number, 160, 96))
    (tmp_path / "frame3.png").write_bytes(b"broken")
    frames, error = read(tmp_path)
    assert [number_of(f.image) for f in frames] == [0, 1, 2, 10]
    assert [f.name for f in frames] == ["frame0", "frame1", "frame2", "frame10"]
    assert "1 of 5 pictures" in str(error)
    assert "frame3.png" in str(error)


def test_a_folder_of_videos_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames=2)
    with pytest.raises(DataError, match=r"clip\.mp4"):
        open_source(tmp_path)


@pytest.mark.skipif("EDGESEG_DATA" not in os.environ, reason="EDGESEG_DATA is not set")
def test_real_clips_are_whole() -> None:
    clips = sorted((Path(os.environ["EDGESEG_DATA"]) / "clips").glob("*.mp4"))
    assert clips
    for clip in clips:
        with open_source(clip) as source:
            count = sum(1 for _ in source)
            assert count == source.frame_count
            assert source.time_base is not None
