"""The figures of the self-test: what each of them sees, and what it does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import tiny_manifest

from edgeseg.backends import EngineInfo
from edgeseg.bundle import Golden
from edgeseg.errors import GoldenMismatchError
from edgeseg.golden import GoldenFigures, check_golden, cosine, golden_figures
from edgeseg.spec import GoldenLimits, ReadoutSpec

LIMITS = GoldenLimits(0.02, 0.999, 0.99)
ONE_CLASS = ReadoutSpec("sigmoid")


@pytest.fixture
def golden() -> Golden:
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    return Golden(frames, {"logits": rng.normal(0, 2, (2, 1, 1, 20, 30)).astype(np.float32)})


def answering(golden: Golden, change):
    """An engine that answers the recorded logits after ``change``."""

    def answer(frame):
        index = next(i for i, known in enumerate(golden.frames) if np.array_equal(known, frame))
        return {name: change(values[index]) for name, values in golden.outputs.items()}

    return answer


def test_cosine_is_that_of_the_centred_values() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    expected = np.corrcoef(a, b)[0, 1]
    assert cosine(a, b) == pytest.approx(expected, abs=1e-12)
    assert cosine(3 * a + 7, a) == pytest.approx(1.0, abs=1e-12)
    assert cosine(-a, a) == pytest.approx(-1.0, abs=1e-12)


def test_cosine_of_what_has_no_direction() -> None:
    flat, other = np.full(9, 2.5), np.arange(9.0)
    assert cosine(flat, flat + 1) == 1.0
    assert cosine(flat, other) == 0.0 and cosine(other, flat) == 0.0
    assert cosine(other, other[:8]) == -1.0
    assert np.isnan(cosine(np.where(other == 3, np.nan, other), other))
    assert np.isnan(cosine(np.where(other == 3, np.inf, other), other))


def test_the_same_answers_are_perfect(golden: Golden) -> None:
    found = golden_figures(answering(golden, lambda x: x), golden, ONE_CLASS)
    assert found == GoldenFigures(0.0, pytest.approx(1.0, abs=1e-12), 1.0)
    assert found.within(LIMITS)


def test_the_worst_frame_counts(golden: Golden) -> None:
    """Only the second frame's masks differ: one pixel in a hundred changes its sign."""

    def flip(logits):
        if not np.array_equal(logits, golden.outputs["logits"][1]):
            return logits
        changed = logits.copy().reshape(-1)
        changed[::100] *= -1
        return changed.reshape(logits.shape)

    found = golden_figures(answering(golden, flip), golden, ONE_CLASS)
    assert found.mask_agreement == pytest.approx(0.99)
    assert found.relative_error > 0.05 and found.cosine < 0.999


def test_masks_follow_the_threshold_of_the_read_out(golden: Golden) -> None:
    shifted = answering(golden, lambda x: x + np.float32(1.0))
    level = float(np.log(0.9 / 0.1))
    reference = golden.outputs["logits"]
    for threshold, at in ((0.5, 0.0), (0.9, level)):
        found = golden_figures(shifted, golden, ReadoutSpec("sigmoid", threshold))
        changed = (reference <= at) & (reference + 1 > at)
        assert found.mask_agreement == pytest.approx(1 - changed.mean(axis=(1, 2, 3, 4)).max())


@pytest.mark.parametrize(
    ("change", "seen_by"),
    [
        (lambda x: x * np.float32(1.05), "relative error 0.05"),
        (lambda x: np.where(x > 3, np.nan, x).astype(np.float32), "relative error nan"),
        (lambda x: x[:, :, :-1], "relative error inf"),
    ],
    ids=["scaled", "NaN", "cut off"],
)
def test_an_engine_outside_the_limits_is_refused_with_its_figures(
    golden: Golden, change, seen_by: str
) -> None:
    variant = dataclasses.replace(tiny_manifest().variants[0], golden_limits={"openvino": LIMITS})
    info = EngineInfo("openvino", "1.0", "CPU", "a processor", 1, "f32")
    with pytest.raises(GoldenMismatchError, match=seen_by):
        check_golden(answering(golden, change), golden, ONE_CLASS, variant, info)


def test_an_output_without_a_recorded_answer_is_refused(golden: Golden) -> None:
    answer = answering(Golden(golden.frames, {"other": golden.outputs["logits"]}), lambda x: x)
    assert not golden_figures(answer, golden, ONE_CLASS).within(GoldenLimits(9.0, -0.9, 0.01))


@pytest.mark.parametrize(
    "figures",
    [
        GoldenFigures(0.021, 1.0, 1.0),
        GoldenFigures(0.0, 0.99, 1.0),
        GoldenFigures(0.0, 1.0, 0.98),
        GoldenFigures(float("nan"), 1.0, 1.0),
        GoldenFigures(0.0, float("nan"), 1.0),
        GoldenFigures(0.0, 1.0, float("nan")),
    ],
)
def test_each_limit_counts_by_itself(figures: GoldenFigures) -> None:
    assert not figures.within(LIMITS)
