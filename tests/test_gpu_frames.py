"""The benchmark of whole frames: what it compares with, and that its check sees what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg import synthetic
from edgeseg.preprocess import Preprocessor
from edgeseg.reader import Reader
from edgeseg.workflows.gpu_frames import frame_cases

torch = pytest.importorskip("torch")
pytest.importorskip("timm")


@pytest.fixture(scope="module")
def cases():
    torch.set_num_threads(1)
    return frame_cases(torch, "tiny", device="cpu")


@pytest.fixture(scope="module")
def frame():
    return synthetic.golden_frames(1, 270, 480)[0]


def test_the_models_are_the_three_families_and_a_smoothed_one(cases) -> None:
    assert [case.name for case in cases] == [
        "SegDINO v1 tiny",
        "SegDINO v2 tiny",
        "DINO-MVR tiny, 6 views",
        "DINO-MVR tiny, 6 views, smoothed",
    ]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_eager_baseline_segments_like_the_authors_formulation(cases, frame, index) -> None:
    """OpenCV resamples otherwise than the training did, so most pixels agree, not all."""
    from edgeseg.bench.gpu_frames import EagerFrames

    case = cases[index]
    overlay, mask = EagerFrames(torch, case, device="cpu")(frame)
    with torch.inference_mode():
        tensors = [torch.from_numpy(t) for t in Preprocessor(case.preprocess).tensors(frame)]
        answers = case.exportable(*tensors)
    answers = answers if isinstance(answers, tuple) else (answers,)
    reading = Reader(case.preprocess, case.readout).read(
        [answer.numpy() for answer in answers], frame.shape[:2]
    )
    assert 0.02 < reading.mask.mean() < 0.98
    assert np.mean(mask == reading.mask) > 0.9
    assert np.array_equal(np.any(overlay != frame, axis=2) | (mask == 0), np.ones_like(mask, bool))
