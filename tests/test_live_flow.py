"""Masks moved by optical flow: against motions that are known, and refused where they must be."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.errors import InputError
from edgeseg.live import flow
from edgeseg.live.base import LiveFrame
from edgeseg.live.flow import MaskMover
from edgeseg.synthetic import Scene


def dice(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one > 0, other > 0
    return float(2.0 * np.count_nonzero(one & other) / (one.sum() + other.sum()))


def live(index: int, image: np.ndarray, *, segment: int = 0) -> LiveFrame:
    image = np.ascontiguousarray(image)
    image.setflags(write=False)
    return LiveFrame(index, image, 100.0 + 0.04 * index, segment=segment)


def similarity(
    size: tuple[int, int], *, shift: tuple[float, float], turn_deg: float = 0.0, scale: float = 1.0
) -> np.ndarray:
    """float64 (2, 3): a turn and a scale about the middle, and a shift in pixels."""
    width, height = size
    cos, sin = (scale * f(math.radians(turn_deg)) for f in (math.cos, math.sin))
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = np.array([0.5 * (width - 1), 0.5 * (height - 1)])
    return np.column_stack([turn, middle + shift - turn @ middle])


def warped(image: np.ndarray, matrix: np.ndarray, *, noise_seed: int = 1) -> np.ndarray:
    """The image after a motion, with the noise of another exposure."""
    moved = cv2.warpAffine(
        image, matrix, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    noise = np.random.default_rng(noise_seed).normal(0.0, 2.0, moved.shape)
    return np.clip(np.rint(moved + noise), 0, 255).astype(np.uint8)


def ellipse(
    size: tuple[int, int], matrix: np.ndarray | None = None, *, at: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    """uint8 (H, W): an ellipse, and where a motion takes it, in float64 and without resampling."""
    width, height = size
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    if matrix is not None:
        inverse = np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]]))
        x, y = (row[0] * x + row[1] * y + row[2] for row in inverse[:2])
    u, v = (x - at[0] * width) / (0.2 * height), (y - at[1] * height) / (0.14 * height)
    return (u * u + v * v <= 1.0).astype(np.uint8)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """One generated frame, 1280x720."""
    return cv2.resize(Scene(3, 360, 640, polyps=2).render(0.0)[0], (1280, 720))


@pytest.fixture(scope="module")
def sequence() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Half a second of a generated scene: frames and true masks."""
    made = Scene(4, 240, 320, polyps=1)
    pairs = [made.render(i / 25.0) for i in range(13)]
    return [frame for frame, _ in pairs], [(mask > 0).astype(np.uint8) for _, mask in pairs]


@pytest.mark.parametrize("size", [(1280, 720), (384, 288), (321, 243)])
@pytest.mark.parametrize(
    "motion",
    [
        {"shift": (0.03, -0.02)},
        {"shift": (0.05, 0.04), "turn_deg": 6.0},
        {"shift": (-0.04, 0.02), "turn_deg": -4.0, "scale": 1.12},
        {"shift": (0.0, 0.05), "turn_deg": 3.0, "scale": 0.9},
    ],
)
def test_a_known_motion_moves_the_mask_to_where_it_is(scene, size, motion):
    image = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    shares = motion["shift"]
    matrix = similarity(size, **{**motion, "shift": tuple(s * size[1] for s in shares)})
    mask, truth = ellipse(size), ellipse(size, matrix)
    mover = MaskMover()
    mover.reset(live(0, image), mask)
    moved = mover.move(live(1, warped(image, matrix)))
    assert moved is not None, mover.failure
    assert moved.mask.shape == mask.shape
    assert moved.mask.dtype == np.uint8
    better, stayed = dice(moved.mask, truth), dice(mask, truth)
    assert better > 0.97
    assert better > stayed + 0.5 * (1.0 - stayed)
    assert 0.3 <= moved.inlier_share <= 1.0
    assert 0.0 <= moved.residual_px < 0.01 * size[1]
    assert 0.8 < moved.similarity <= 1.0001
    corners = np.array([[0.3, 0.3, 0.7, 0.7], [0.3, 0.7, 0.3, 0.7]]) * np.array(size)[:, None]
    off = moved.transform[:, :2] @ corners + moved.transform[:, 2:]
    off -= matrix[:, :2] @ corners + matrix[:, 2:]
    assert np.abs(off).max() < 0.006 * size[1] + 0.5


def test_the_masks_of_a_moving_scene_follow_it(sequence):
    frames, masks = sequence
    mover = MaskMover()
    mover.reset(live(0, frames[0]), masks[0])
    gains = []
    for i in range(1, 11):
        moved = mover.move(live(i, frames[i]))
        if moved is not None:
            better, stayed = dice(moved.mask, masks[i]), dice(masks[0], masks[i])
            assert better > 0.9
            gains.append(better - stayed)
    assert len(gains) >= 6, mover.failure
    assert min(gains) > -0.01
    assert np.mean(gains) > 0.03


def test_a_mask_that_comes_late_is_moved_over_the_frames_in_between(scene):
    size = (640, 360)
    image = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    matrices = [similarity(size, shift=(18.0 * i, -6.0 * i), turn_deg=4.0 * i) for i in range(7)]
    frames = [live(i, warped(image, matrix, noise_seed=i)) for i, matrix in enumerate(matrices)]
    mask, truth = ellipse(size), ellipse(size, matrices[-1])
    mover = MaskMover()
    for frame in frames[:-1]:
        mover.see(frame)
    mover.reset(frames[0], mask)
    moved = mover.move(frames[-1])
    assert moved is not None, mover.failure
    assert dice(mask, truth) < 0.7
    assert dice(moved.mask, truth) > 0.95


def test_errors_do_not_add_up_over_many_small_steps(scene):
    size = (640, 360)
    image = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    mask = ellipse(size)
    mover = MaskMover()
    mover.reset(live(0, image), mask)
    for i in range(1, 21):
        phase = 2.0 * math.pi * i / 20.0
        shift = (20.0 * math.sin(phase), 12.0 * (1.0 - math.cos(phase)))
        matrix = similarity(size, shift=shift)
        moved = mover.move(live(i, warped(image, matrix, noise_seed=i)))
        assert moved is not None, mover.failure
        assert dice(moved.mask, ellipse(size, matrix)) > 0.97


def test_classes_stay_what_they_are(scene):
    size = (1280, 720)
    mask = 2 * ellipse(size)
    mask[:, 640:] *= 3
    matrix = similarity(size, shift=(17.0, -9.0), turn_deg=5.0)
    mover = MaskMover()
    mover.reset(live(0, scene), mask)
    moved = mover.move(live(1, warped(scene, matrix)))
    assert moved is not None, mover.failure
    assert set(np.unique(moved.mask)) == {0, 2, 6}


def test_the_frame_of_the_mask_has_it_as_it_is(scene):
    mask = ellipse((1280, 720))
    mover = MaskMover()
    mover.reset(live(5, scene), mask)
    moved = mover.move(live(5, scene))
    assert moved is not None
    assert np.array_equal(moved.mask, mask)
    assert moved.similarity == 1.0


def test_a_still_scene_keeps_its_mask_to_the_pixel(scene):
    mask = ellipse((1280, 720))
    mover = MaskMover()
    mover.reset(live(0, scene), mask)
    moved = mover.move(live(1, scene))
    assert moved is not None
    assert np.array_equal(moved.mask, mask)


def test_a_painted_border_and_its_text_do_not_hold_the_mask_back(scene):
    size = (720, 576)
    image = cv2.GaussianBlur(cv2.resize(scene, size), (0, 0), 2.0)

    def framed(picture: np.ndarray) -> np.ndarray:
        picture = picture.copy()
        picture[:, :228] = 0
        for row in range(20, 570, 14):
            cv2.putText(
                picture, "NAME 0123 4567 89", (30, row), cv2.FONT_HERSHEY_PLAIN, 1.0, (255,) * 3, 1
            )
        return picture

    matrix = similarity(size, shift=(0.0, 22.0))
    at = (0.48, 0.5)  # its left end lies near the border, whose text is all around
    mask, truth = ellipse(size, at=at), ellipse(size, matrix, at=at)
    mover = MaskMover()
    mover.reset(live(0, framed(image)), mask)
    moved = mover.move(live(1, framed(warped(image, matrix))))
    assert moved is not None, mover.failure
    assert dice(moved.mask, truth) > 0.96


def test_what_leaves_the_picture_is_gone_and_the_rest_is_right(scene):
    size = (640, 360)
    image = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    matrix = similarity(size, shift=(-60.0, 0.0))
    mask, truth = ellipse(size, at=(0.15, 0.5)), ellipse(size, matrix, at=(0.15, 0.5))
    wide = np.hstack([image, image[:, ::-1]])
    mover = MaskMover()
    mover.reset(live(0, image), mask)
    moved = mover.move(live(1, np.ascontiguousarray(wide[:, 60 : 60 + 640])))
    assert moved is not None, mover.failure
    assert 0.4 * mask.sum() < truth.sum() < 0.9 * mask.sum()
    assert dice(moved.mask, truth) > 0.95


def test_flat_tissue_is_moved_by_what_surrounds_it(scene):
    size = (640, 360)
    image = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    mask = ellipse(size)
    image[cv2.dilate(mask, np.ones((41, 41), np.uint8)) > 0] = (100, 110, 190)
    matrix = similarity(size, shift=(11.0, -7.0), turn_deg=3.0)
    mover = MaskMover()
    mover.reset(live(0, warped(image, similarity(size, shift=(0.0, 0.0)), noise_seed=0)), mask)
    moved = mover.move(live(1, warped(image, matrix)))
    assert moved is not None, mover.failure
    assert dice(moved.mask, ellipse(size, matrix)) > 0.97


def test_a_mask_does_not_move_onto_a_painted_border(scene):
    size = (640, 360)
    image = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    matrix = similarity(size, shift=(-30.0, 0.0))
    mask, truth = ellipse(size, at=(0.4, 0.5)), ellipse(size, matrix, at=(0.4, 0.5))
    frames = [image, warped(image, matrix)]
    for painted in (*frames, mask, truth):
        painted[:, :190] = 0
    mover = MaskMover()
    mover.reset(live(0, frames[0]), mask)
    moved = mover.move(live(1, frames[1]))
    assert moved is not None, mover.failure
    assert dice(moved.mask, truth) > 0.96
    assert not moved.mask[:, :188].any()


# Refusals


def test_a_mask_of_which_hardly_anything_is_left_is_not_shown(scene):
    size = (640, 360)
    image = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    wide = np.hstack([image, image[:, ::-1]])
    mover = MaskMover()
    mover.reset(live(0, image), ellipse(size, at=(0.1, 0.5)))
    moved = [mover.move(live(i, wide[:, 10 * i : 10 * i + 640])) for i in range(1, 11)]
    assert moved[2] is not None
    assert moved[9] is None


def other_scene(size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(Scene(11, 144, 192, polyps=1).render(3.0)[0], size)


REFUSED = {
    "a cut": lambda image: other_scene(image.shape[1::-1]),
    "a uniform frame": lambda image: np.full_like(image, 90),
    "a black frame": np.zeros_like,
    "noise": lambda image: np.random.default_rng(0).integers(0, 256, image.shape, np.uint8),
    "an excessive shift": lambda image: warped(
        image, similarity(image.shape[1::-1], shift=(0.55 * image.shape[0], 0.0))
    ),
    "an excessive turn": lambda image: warped(
        image, similarity(image.shape[1::-1], shift=(0.0, 0.0), turn_deg=120.0)
    ),
    "an excessive zoom": lambda image: warped(
        image, similarity(image.shape[1::-1], shift=(0.0, 0.0), scale=2.5)
    ),
    "a wiped lens": lambda image: cv2.GaussianBlur(image, (0, 0), 40.0),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("empty", [False, True])
def test_what_cannot_be_followed_gives_no_mask(scene, kind, empty):
    size = (640, 360)
    image = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    mask = np.zeros(size[::-1], np.uint8) if empty else ellipse(size)
    mover = MaskMover()
    mover.reset(live(0, image), mask)
    assert mover.move(live(1, REFUSED[kind](image))) is None
    assert mover.failure
    assert "\n" not in mover.failure


def test_a_mask_over_which_something_else_has_come_is_not_shown(scene):
    """Around it the picture is what it was; where the mask lies there is an instrument."""
    size = (640, 360)
    image = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    mask = ellipse(size)
    covered = image.copy()
    covered[mask > 0] = other_scene(size)[::-1][mask > 0] // 2 + 100
    mover = MaskMover()
    mover.reset(live(0, image), mask)
    assert mover.move(live(1, covered)) is None
    assert mover.move(live(2, image)) is not None


def test_small_steps_that_add_up_to_a_large_motion_end_the_track(scene):
    size = (640, 360)
    wide = np.ascontiguousarray(cv2.resize(scene, (1280, 360)))
    mover = MaskMover()
    mover.reset(live(0, wide[:, :640]), ellipse(size, at=(0.6, 0.5)))
    moved = [mover.move(live(i, wide[:, 12 * i : 12 * i + 640])) for i in range(1, 16)]
    assert moved[7] is not None
    assert moved[14] is None
    assert "too large" in mover.failure


def test_the_error_of_a_motion_is_what_repeated_measurements_scatter_by():
    mask = np.ones((180, 320), np.uint8)
    copy = flow._Copy(0, np.zeros((180, 320), np.uint8), 1)
    start = flow._set_out(copy, mask)
    assert start.patch == (0, 0, 320, 180)
    rng = np.random.default_rng(0)
    far = np.array([320.0, 180.0])
    errors, estimates = [], []
    for _ in range(100):
        before = rng.uniform(20.0, 60.0, (14, 2))
        now = before + rng.normal(0.0, 0.3, before.shape)
        # Least squares of the similarity (a, b, x, y): x' = a x - b y + x0, y' = b x + a y + y0.
        ones, zeros = np.ones(14), np.zeros(14)
        x, y = before.T
        system = np.vstack(
            [np.column_stack([x, -y, ones, zeros]), np.column_stack([y, x, zeros, ones])]
        )
        (a, b, x0, y0), *_ = np.linalg.lstsq(system, now.T.ravel(), rcond=None)
        turn, shift = np.array([[a, -b], [b, a]]), np.array([x0, y0])
        square = float(((now - before @ turn.T - shift) ** 2).sum(axis=1).mean())
        errors.append(np.linalg.norm(turn @ far + shift - far))
        estimates.append(flow._error_px(start, before, square))
    measured = np.sqrt(np.mean(np.square(errors)))
    assert measured > 1.0
    assert 0.7 < np.sqrt(np.mean(np.square(estimates))) / measured < 1.3


@pytest.mark.parametrize("seed", range(6))
def test_few_points_in_one_corner_carry_a_large_mask_well_or_not_at_all(seed):
    size = (640, 360)
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0.0, 60.0, (40, 40, 3)), (0, 0), 2.0)
    image = np.full((*size[::-1], 3), 110.0)
    image[80:120, 160:200] += 3.0 * grain
    frames = [
        np.clip(np.rint(image + rng.normal(0.0, 8.0, image.shape)), 0, 255).astype(np.uint8)
        for _ in range(2)
    ]
    mask = np.zeros(size[::-1], np.uint8)
    mask[80:340, 160:600] = 1
    mover = MaskMover()
    mover.reset(live(0, frames[0]), mask)
    moved = mover.move(live(1, frames[1]))
    assert moved is None or dice(moved.mask, mask) > 0.985


def test_a_uniform_frame_has_nothing_to_follow():
    flat = np.full((360, 640, 3), 128, np.uint8)
    mover = MaskMover()
    mover.reset(live(0, flat), ellipse((640, 360)))
    assert mover.move(live(1, flat)) is None


def test_after_a_spoilt_frame_the_mask_is_found_again(scene):
    size = (640, 360)
    image = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    matrix = similarity(size, shift=(9.0, 4.0))
    mover = MaskMover()
    mover.reset(live(0, image), ellipse(size))
    assert mover.move(live(1, image)) is not None
    assert mover.move(live(2, REFUSED["noise"](image))) is None
    moved = mover.move(live(3, warped(image, matrix)))
    assert moved is not None, mover.failure
    assert mover.failure == ""
    assert dice(moved.mask, ellipse(size, matrix)) > 0.97


def test_an_empty_mask_stays_empty_while_the_scene_is_followed(sequence):
    frames, masks = sequence
    mover = MaskMover()
    mover.reset(live(0, frames[0]), np.zeros_like(masks[0]))
    moved = mover.move(live(1, frames[1]))
    assert moved is not None, mover.failure
    assert not moved.mask.any()
    assert moved.mask.shape == masks[0].shape


def test_another_segment_or_size_has_no_mask(scene):
    mover = MaskMover()
    mover.reset(live(0, scene), ellipse((1280, 720)))
    assert mover.move(live(1, scene, segment=1)) is None
    assert mover.failure == "there is no mask"
    assert mover.move(live(2, scene)) is None  # the first segment does not come back either
    mover.reset(live(3, scene), ellipse((1280, 720)))
    assert mover.move(live(4, scene[:-2])) is None


def test_without_a_mask_there_is_nothing_to_move(scene):
    mover = MaskMover()
    assert mover.move(live(0, scene)) is None
    assert mover.failure == "there is no mask"


@pytest.mark.parametrize(
    "mask", [np.zeros((719, 1280), np.uint8), np.zeros((720, 1280), np.float32)]
)
def test_a_mask_of_another_size_or_type_is_refused(scene, mask):
    with pytest.raises(InputError, match="uint8"):
        MaskMover().reset(live(0, scene), mask)


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (17, 400)])
def test_tiny_frames_do_no_harm(size):
    image = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), np.uint8)
    mover = MaskMover()
    mover.reset(live(0, image), np.ones(size[::-1], np.uint8))
    moved = mover.move(live(1, image))
    assert moved is None or moved.mask.shape == size[::-1]


# Real frames


def read_sequence(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    images = [cv2.imread(str(path)) for path in sorted((folder / "image").iterdir())]
    masks = [
        cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((folder / "mask").iterdir())
    ]
    return images, [(mask > 127).astype(np.uint8) for mask in masks]


def test_on_real_sequences_a_moved_mask_is_better_than_one_left_in_place(real_data):
    """Their frames lie far apart in time, so most steps are refused; none may be far off."""
    moved_dice, stayed_dice, refused_dice = [], [], []
    for folder in sorted((real_data / "sequences").iterdir()):
        frames, masks = read_sequence(folder)
        for i in range(len(frames) - 1):
            mover = MaskMover()
            mover.reset(live(i, frames[i]), masks[i])
            moved = mover.move(live(i + 1, frames[i + 1]))
            stayed = dice(masks[i], masks[i + 1])
            if moved is None:
                refused_dice.append(stayed)
                continue
            moved_dice.append(dice(moved.mask, masks[i + 1]))
            stayed_dice.append(stayed)
    assert len(moved_dice) >= 6
    assert min(moved_dice) > 0.85
    assert np.mean(moved_dice) > np.mean(stayed_dice) + 0.02
    # What is refused is what has moved most.
    assert np.mean(refused_dice) < np.mean(stayed_dice) - 0.1


def test_on_a_real_clip_there_and_back_again_is_where_it_was(real_data):
    from edgeseg.video.decode import VideoSource

    (path,) = (real_data / "clips").glob("laparoscopy*.mp4")
    frames = []
    with VideoSource(path) as source:
        for frame in source:
            frames.append(frame.image)
            if len(frames) == 25:
                break
    mask = ellipse(frames[0].shape[1::-1], at=(0.35, 0.55))
    there = MaskMover()
    there.reset(live(0, frames[0]), mask)
    found = None
    for i in range(1, len(frames)):
        found = there.move(live(i, frames[i]))
        assert found is not None, there.failure
    assert found is not None
    back = MaskMover()
    back.reset(live(0, frames[-1]), found.mask)
    again = None
    for i in range(1, len(frames)):
        again = back.move(live(i, frames[-1 - i]))
    assert again is not None, back.failure
    assert dice(again.mask, mask) > 0.96
