"""Frozen and black pictures are told from live ones, also behind real encoders."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.errors import UsageError
from edgeseg.live.base import LiveFrame
from edgeseg.live.health import PictureHealth, PictureVerdict
from edgeseg.synthetic import Scene

WIDTH, HEIGHT = 640, 360


def judge(
    images: Iterable[np.ndarray],
    *,
    rate: float = 25.0,
    health: PictureHealth | None = None,
    first: int = 0,
) -> list[PictureVerdict | None]:
    """Verdicts on frames that come at a constant rate from 100 s on."""
    health = health or PictureHealth()
    return [
        health.step(LiveFrame(i, image, 100.0 + i / rate)) for i, image in enumerate(images, first)
    ]


def reasons(verdicts: list[PictureVerdict | None]) -> list[str | None]:
    return [verdict and verdict.reason for verdict in verdicts]


@cache
def scene() -> np.ndarray:
    """A generated frame with a margin around it to move about in."""
    image = Scene(3, 216, 384, polyps=2).render(0.0)[0]
    return cv2.resize(image, (WIDTH + 80, HEIGHT + 45), interpolation=cv2.INTER_CUBIC)


def view(time_s: float, *, sway_px: float = 30.0) -> np.ndarray:
    """What a camera sees that sways over the scene."""
    shift = (40.0 + sway_px * np.sin(2.0 * time_s), 22.0 + 0.5 * sway_px * np.cos(1.7 * time_s))
    matrix = np.array([[1.0, 0.0, -shift[0]], [0.0, 1.0, -shift[1]]])
    return cv2.warpAffine(scene(), matrix, (WIDTH, HEIGHT))


def noisy(image: np.ndarray, seed: int, *, sigma: float | None = None) -> np.ndarray:
    """With Gaussian noise, or of -1, 0 or 1 grey level."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-1, 2, image.shape) if sigma is None else rng.normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


# Frozen


@pytest.mark.parametrize("rate", [5.0, 25.0, 60.0])
def test_a_frozen_picture_is_told_by_time_and_not_by_frames(rate):
    image = noisy(view(0.0), 0)
    count = int(3 * rate)
    verdicts = judge([image.copy() for _ in range(count)], rate=rate)
    late = [i / rate for i, verdict in enumerate(verdicts) if verdict is not None]
    assert late[0] == pytest.approx(1.0, abs=1.01 / rate)
    assert late == [i / rate for i in range(count - len(late), count)]
    assert all(verdict.since_s == 100.0 for verdict in verdicts if verdict is not None)
    assert set(reasons(verdicts)) == {None, "frozen picture"}


def test_frozen_after_can_be_chosen():
    image = view(0.0)
    verdicts = judge([image] * 60, health=PictureHealth(frozen_after_s=2.0))
    assert reasons(verdicts)[:50] == [None] * 50
    assert reasons(verdicts)[51:] == ["frozen picture"] * 9


def test_two_frames_with_a_gap_between_them_are_no_frozen_picture():
    image = view(0.0)
    health = PictureHealth()
    times = [100.0, 103.0, 106.0]
    assert [health.step(LiveFrame(i, image, t)) for i, t in enumerate(times)] == [None] * 3
    assert health.step(LiveFrame(3, image, 109.0)) is not None


@pytest.mark.parametrize("sigma", [None, 0.5, 3.0])
def test_a_still_scene_with_noise_is_live(sigma):
    image = view(0.0)
    verdicts = judge(noisy(image, i, sigma=sigma) for i in range(40))
    assert verdicts == [None] * 40


def test_noise_that_is_repeated_to_a_higher_rate_is_live():
    """A camera of 10 pictures a second behind an output of 60."""
    frames = [noisy(view(0.0), i) for i in range(25)]
    verdicts = judge((frames[i // 6] for i in range(150)), rate=60.0)
    assert verdicts == [None] * 150


def test_noise_within_a_wide_painted_border_is_live():
    def bordered(seed: int) -> np.ndarray:
        image = noisy(view(0.0), seed)
        image[:, :280] = 0
        image[:, -280:] = 0
        return image

    assert judge(bordered(i) for i in range(60)) == [None] * 60


@pytest.mark.parametrize(("side_px", "brighter"), [(6, 110), (12, 18), (30, 60)])
def test_a_small_or_faint_tool_that_moves_over_a_still_picture_is_live(side_px, brighter):
    def with_tool(i: int) -> np.ndarray:
        image = cv2.convertScaleAbs(view(0.0), alpha=0.5)
        left = 250 + 2 * i
        image[160 : 160 + side_px, left : left + side_px] += np.uint8(brighter)
        return image

    assert judge(with_tool(i) for i in range(75)) == [None] * 75


def test_a_picture_that_moves_again_is_live_at_once_and_frozen_again_only_after_a_second():
    health = PictureHealth()
    frozen = judge([view(0.0)] * 40, health=health)
    assert frozen[-1] is not None
    moving = judge([view(0.3), view(0.34)], health=health, first=40)
    assert moving == [None, None]
    again = judge([view(0.34)] * 40, health=health, first=42)
    assert reasons(again)[:23] == [None] * 23
    assert again[-1] is not None
    assert again[-1].since_s == pytest.approx(100.0 + 41 / 25.0)


def test_a_frozen_picture_that_gets_noise_again_is_live_soon():
    health = PictureHealth()
    assert judge([view(0.0)] * 40, health=health)[-1] is not None
    verdicts = judge((noisy(view(0.0), i, sigma=1.0) for i in range(30)), health=health, first=40)
    assert None in verdicts[:5]
    assert verdicts[5:] == [None] * 25


@pytest.mark.parametrize("change", ["segment", "size", "time", "reset"])
def test_what_has_nothing_to_do_with_the_frames_before_starts_anew(change):
    health = PictureHealth()
    image = view(0.0)
    assert judge([image] * 40, health=health)[-1] is not None
    later_s, segment = 200.0, 0
    if change == "segment":
        segment = 1
    elif change == "size":
        image = image[:-8]
    elif change == "time":
        later_s = 50.0
    else:
        health.reset()
    verdicts = [
        health.step(LiveFrame(40 + i, image, later_s + i / 25.0, segment=segment))
        for i in range(30)
    ]
    assert reasons(verdicts)[:25] == [None] * 25
    assert verdicts[-1] is not None
    assert verdicts[-1].since_s == later_s


# Behind encoders


def coded(
    images: Iterable[np.ndarray], codec: str, options: dict[str, str], *, bit_rate: int
) -> Iterator[np.ndarray]:
    """Encode and decode at 25 frames a second."""
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        try:
            stream = container.add_stream(codec, rate=25, options=options)
        except (av.FFmpegError, ValueError):
            pytest.skip(f"this FFmpeg has no encoder {codec}")
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = bit_rate
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="bgr24")


def constant_rate(kilobits: int, **more: str) -> dict[str, str]:
    """What an RTSP camera does: a constant bit rate, a key frame a second, no frames ahead."""
    parameters = ":".join(["nal-hrd=cbr", *(f"{key}={value}" for key, value in more.items())])
    return {
        "preset": "veryfast",
        "tune": "zerolatency",
        "g": "25",
        "maxrate": f"{kilobits}k",
        "bufsize": f"{kilobits // 4}k",
        "x264-params": parameters,
    }


MOVING, PAUSED = 20, 65
ENCODERS = {
    "x264 400 kbit/s": ("libx264", constant_rate(400), 400_000),
    "x264 1500 kbit/s": ("libx264", constant_rate(1500), 1_500_000),
    "x264 6000 kbit/s": ("libx264", constant_rate(6000), 6_000_000),
    "x264 intra refresh": (
        "libx264",
        constant_rate(1500, **{"intra-refresh": "1", "keyint": "25"}),
        1_500_000,
    ),
    "mpeg4": ("mpeg4", {"g": "12"}, 2_000_000),
    "mjpeg": ("mjpeg", {}, 8_000_000),
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_paused_feed_is_frozen_whatever_encodes_it_anew(encoder):
    """A camera with noise is paused for 2.6 s; then it goes on."""
    codec, options, bit_rate = ENCODERS[encoder]
    moving = [noisy(view(i / 25.0), i, sigma=1.5) for i in range(2 * MOVING)]
    images = [*moving[:MOVING], *[moving[MOVING - 1]] * PAUSED, *moving[MOVING:]]
    verdicts = reasons(judge(coded(images, codec, options, bit_rate=bit_rate)))
    assert len(verdicts) == len(images)
    assert set(verdicts[: MOVING + 24]) == {None}
    first = verdicts.index("frozen picture")
    # A second after the pause at the earliest; an encoder refines the picture for a while first.
    assert first <= MOVING + 25 + 15
    assert verdicts[first : MOVING + PAUSED] == ["frozen picture"] * (MOVING + PAUSED - first)
    assert verdicts[MOVING + PAUSED + 3 :] == [None] * (MOVING - 3)


@pytest.mark.parametrize("encoder", ["x264 400 kbit/s", "mpeg4", "mjpeg"])
def test_a_slowly_moving_feed_is_live_whatever_encodes_it(encoder):
    codec, options, bit_rate = ENCODERS[encoder]
    images = (noisy(view(i / 25.0, sway_px=8.0), i, sigma=1.5) for i in range(75))
    assert judge(coded(images, codec, options, bit_rate=bit_rate)) == [None] * 75


def test_a_still_feed_whose_noise_is_left_by_the_encoder_is_live():
    images = (noisy(view(0.0), i, sigma=3.0) for i in range(60))
    frames = coded(images, "libx264", constant_rate(2500), bit_rate=2_500_000)
    assert judge(frames) == [None] * 60


def clip(real_data: Path, name: str, count: int) -> Iterator[np.ndarray]:
    from edgeseg.video.decode import VideoSource

    (path,) = (real_data / "clips").glob(f"{name}*.mp4")
    with VideoSource(path) as source:
        for i, frame in enumerate(source):
            if i == count:
                return
            yield frame.image


@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_real_clips_are_live_also_in_the_dark(real_data, gain):
    for name, rate in (("laparoscopy", 25.0), ("davinci", 10.0)):
        images = (cv2.convertScaleAbs(image, alpha=gain) for image in clip(real_data, name, 250))
        verdicts = judge(images, rate=rate)
        assert len(verdicts) >= 20
        assert verdicts == [None] * len(verdicts)


def test_a_paused_real_clip_is_frozen(real_data):
    images = [cv2.resize(image, (WIDTH, HEIGHT)) for image in clip(real_data, "laparoscopy", 30)]
    images[20:20] = [images[19]] * 50
    verdicts = reasons(judge(coded(images, *ENCODERS["x264 1500 kbit/s"][:2], bit_rate=1_500_000)))
    first = verdicts.index("frozen picture")
    assert 43 <= first <= 55
    assert verdicts[first:70] == ["frozen picture"] * (70 - first)
    assert verdicts[72:] == [None] * 8


# Black


def with_text(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    for row in range(40, 300, 40):
        cv2.putText(
            image, "NAME 0123 4567", (20, row), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255,) * 3, 2
        )
    return image


BLACK = {
    "nothing": np.zeros((HEIGHT, WIDTH, 3), np.uint8),
    "a pedestal": np.full((HEIGHT, WIDTH, 3), 8, np.uint8),
    "text": with_text(np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
}


@pytest.mark.parametrize("kind", BLACK)
@pytest.mark.parametrize("sigma", [0.0, 2.5])
def test_a_black_picture_is_told_after_a_third_of_a_second(kind, sigma):
    images = [view(i / 25.0) for i in range(5)]
    images += [noisy(BLACK[kind], i, sigma=sigma) for i in range(40)]
    verdicts = judge(images)
    assert reasons(verdicts)[:12] == [None] * 12
    assert reasons(verdicts)[14:] == ["black picture"] * 31
    assert verdicts[-1] is not None
    assert verdicts[-1].since_s == pytest.approx(100.0 + 5 / 25.0)


def test_a_black_frame_between_others_is_no_black_picture():
    images = [BLACK["nothing"] if i % 5 < 3 else view(i / 25.0) for i in range(50)]
    assert judge(images) == [None] * 50


def test_light_ends_a_black_picture_at_once():
    health = PictureHealth()
    assert judge([BLACK["text"]] * 20, health=health)[-1] is not None
    assert judge([view(0.0)], health=health, first=20) == [None]


def test_a_picture_on_the_verge_of_black_does_not_flicker():
    verge = [np.full((HEIGHT, WIDTH, 3), 11 + 3 * (i % 2), np.uint8) for i in range(60)]
    health = PictureHealth()
    judge([BLACK["nothing"]] * 20, health=health)
    verdicts = reasons(judge(verge, health=health, first=20))
    assert verdicts == ["black picture"] * 60
    assert "black picture" not in reasons(judge(verge))


def test_a_dark_scene_that_lives_is_not_black():
    images = [noisy(cv2.convertScaleAbs(view(i / 25.0), alpha=0.25), i) for i in range(50)]
    assert judge(images) == [None] * 50


def test_real_pictures_are_not_black_with_a_fifth_of_their_light(real_data):
    paths = sorted((real_data / "polyp" / "test" / "image").iterdir())
    assert len(paths) > 50
    for path in paths:
        image = cv2.convertScaleAbs(cv2.imread(str(path)), alpha=0.2)
        assert judge([image] * 10, health=PictureHealth(black_after_s=0.0)) == [None] * 10, path


# Any frame


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (48, 64), (73, 5), (1080, 1920)])
def test_any_size_is_judged(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert reasons(judge([image] * 40))[-1] == "frozen picture"


def test_frames_need_not_be_contiguous_and_are_not_written_on():
    image = np.ascontiguousarray(view(0.0))[:, ::-1, ::-1]
    image.setflags(write=False)
    before = image.copy()
    assert reasons(judge([image] * 40))[-1] == "frozen picture"
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    "arguments",
    [{"frozen_after_s": 0.0}, {"frozen_after_s": float("nan")}, {"black_after_s": -1.0}],
)
def test_times_out_of_range_are_refused(arguments):
    with pytest.raises(UsageError, match="must"):
        PictureHealth(**arguments)
