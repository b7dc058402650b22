"""What ``test_triton.py`` runs in processes of its own: the kernels against their references.

Whether Triton interprets or compiles is decided once a process, before triton is imported.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeseg.errors import InputError
from edgeseg.kernels import (
    View,
    reference,
    reference_blend,
    reference_fuse,
    reference_smooth,
    triton_kernels,
)
from edgeseg.kernels.triton_kernels._launch import interpreted
from edgeseg.spec import ViewSpec

DEVICE = torch.device("cpu" if interpreted() else "cuda")
TOLERANCE = 1e-5
# Masks may differ where two probabilities, or one and the threshold, are this close.
TIE = 2e-5

# Sides of the logits, flip and whether they are of half precision; the result is 23 x 37.
SHAPES = (
    (5, 7, "none", False),
    (16, 3, "h", True),
    (40, 51, "hv", False),
    (1, 1, "none", True),
    (23, 37, "v", False),
)
HEIGHT, WIDTH = 23, 37


def on_device(array):
    return torch.from_numpy(array.copy()).to(DEVICE)


def make_views(seed, channels, spread=4.0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    views = []
    for height, width, flip, half in shapes:
        logits = rng.standard_normal((channels, height, width)) * spread
        views.append(View(logits.astype(np.float16 if half else np.float32), flip))
    return views


def as_pairs(views):
    return [(on_device(view.logits), view.flip) for view in views]


def check_fused(fused, expected):
    probability, mask = expected
    found = fused.probability.cpu().numpy()
    assert found.dtype == np.float32 and found.shape == probability.shape
    error = np.abs(found - probability).max()
    assert error <= TOLERANCE, error
    check_mask(fused.mask, mask, probability)


def check_mask(found, mask, probability, threshold=0.5):
    if probability.ndim == mask.ndim:
        close = np.abs(probability - threshold) <= TIE
    else:
        lower, upper = np.sort(probability, axis=0)[-2:]
        close = upper - lower <= TIE
    found = found.cpu().numpy()
    assert found.dtype == np.uint8 and found.shape == mask.shape
    assert close.mean() <= 0.2
    assert np.array_equal(found[~close], mask[~close])


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("weighting", ["entropy", "exp", "mean"])
def test_views_of_odd_sizes_are_fused_as_the_reference_does(channels, weighting):
    views = make_views(channels, channels)
    settings = {"weighting": weighting, "temperature": 0.2, "threshold": 0.4}
    fused = triton_kernels.fuse_views(as_pairs(views), HEIGHT, WIDTH, **settings)
    expected = reference_fuse.fuse_views(views, HEIGHT, WIDTH, **settings)
    assert np.abs(fused.probability.cpu().numpy() - expected[0]).max() <= TOLERANCE
    check_mask(fused.mask, expected[1], expected[0], 0.4)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("spread", [1e-3, 200.0])
def test_entropy_weights_keep_their_precision_at_both_ends(channels, spread):
    views = make_views(7, channels, spread, ((9, 11, "none", False), (4, 6, "h", False)))
    fused = triton_kernels.fuse_views(as_pairs(views), 9, 11)
    probability, _ = reference_fuse.fuse_views(views, 9, 11)
    found = fused.probability.cpu().numpy()
    # Where all views are near 1 / C, what is to be right is the small distance from there.
    level = 0.5 if channels == 1 else 1.0 / channels
    if spread == 1e-3:
        assert np.abs(found - probability).max() <= 0.01 * np.abs(probability - level).max()
    assert np.abs(found - probability).max() <= TOLERANCE


@pytest.mark.parametrize(("channels", "half"), [(1, True), (4, True), (4, False)])
def test_one_type_of_logits_is_read_without_the_other(channels, half):
    shapes = tuple((h, w, flip, half) for h, w, flip, _ in SHAPES[:3])
    views = make_views(3, channels, shapes=shapes)
    packed = triton_kernels.pack_views(as_pairs(views))
    assert packed.type_code == int(half)
    fused = triton_kernels.fuse_views(packed, HEIGHT, WIDTH)
    check_fused(fused, reference_fuse.fuse_views(views, HEIGHT, WIDTH))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weighting", ["entropy", "exp"])
def test_nan_leaves_its_view_out_and_infinity_counts_as_the_largest_half(channels, weighting):
    views = make_views(11, channels, shapes=SHAPES[:3])
    for view in views:
        view.logits[-1, 1, 1] = np.nan
        view.logits[0, -1, 0] = np.inf
        view.logits[-1, -1, -1] = -np.inf
    # The third view alone would leave pixels without any.
    for chosen in (views, views[2:]):
        fused = triton_kernels.fuse_views(as_pairs(chosen), HEIGHT, WIDTH, weighting=weighting)
        check_fused(fused, reference_fuse.fuse_views(chosen, HEIGHT, WIDTH, weighting=weighting))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tap_of_weight_zero_does_not_take_part(channels):
    logits = np.zeros((channels, 4, 6), np.float32)
    logits[:, 2, 3] = np.nan
    fused = triton_kernels.fuse_views([(on_device(logits), "none")], 4, 6)
    certain = np.zeros((4, 6)) if channels == 1 else np.eye(channels)[0]
    probability = fused.probability.cpu().numpy()
    assert np.array_equal(probability[..., 2, 3], certain[2, 3] if channels == 1 else certain)
    probability[..., 2, 3] = 0.5 if channels == 1 else 1.0 / channels
    assert np.allclose(probability, 0.5 if channels == 1 else 1.0 / channels, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_state_follows_the_recursion_and_its_settings_in_memory(channels):
    shape = (channels, HEIGHT, WIDTH)
    before = np.full(shape, np.nan, np.float32)
    state = on_device(before)
    settings = triton_kernels.fusion_settings(keep=0.75, reset=True, device=DEVICE)
    shapes = SHAPES[:2]
    pairs = as_pairs(make_views(0, channels, shapes=shapes))
    packed = triton_kernels.pack_views(pairs)
    for frame in range(3):
        views = make_views(frame, channels, shapes=shapes)
        for (logits, _), view in zip(pairs, views, strict=True):
            logits.copy_(on_device(view.logits))
        values = {"keep": 0.75, "reset": frame == 0, "threshold": 0.5}
        if frame == 2:
            values.update(keep=0.5, threshold=0.3)
            before[0, 3:6, 8] = np.inf
            state[0, 3:6, 8] = np.inf
        settings.copy_(triton_kernels.fusion_settings(**values, device=DEVICE))
        fused = triton_kernels.fuse_views(packed, HEIGHT, WIDTH, settings=settings, state=state)
        expected = reference_fuse.fuse_views(views, HEIGHT, WIDTH, **values, state=before)
        assert np.abs(fused.probability.cpu().numpy() - expected[0]).max() <= TOLERANCE
        check_mask(fused.mask, expected[1], expected[0], values["threshold"])
        assert np.abs(state.cpu().numpy() - before).max() <= TOLERANCE


def test_results_are_written_where_the_caller_wants_them():
    views = make_views(5, 1, shapes=SHAPES[:1])
    state = torch.rand(HEIGHT, WIDTH).to(DEVICE)
    before = state.cpu().numpy().astype(np.float64)
    mask = torch.empty(HEIGHT, WIDTH, dtype=torch.uint8, device=DEVICE)
    fused = triton_kernels.fuse_views(
        as_pairs(views), HEIGHT, WIDTH, keep=0.5, state=state, probability=state, mask=mask
    )
    assert fused.probability is state and fused.mask is mask
    check_fused(fused, reference_fuse.fuse_views(views, HEIGHT, WIDTH, keep=0.5, state=before))


def test_the_lower_class_wins_a_tie():
    logits = torch.zeros(3, 4, 4, device=DEVICE)
    logits[0] = -1.0
    fused = triton_kernels.fuse_views([(logits, "none")], 8, 8)
    assert torch.equal(fused.mask.cpu(), torch.ones(8, 8, dtype=torch.uint8))


def test_positions_whose_products_exceed_32_bits_are_exact():
    # The slope makes a wrong position a wrong probability.
    logits = np.linspace(-8.0, 8.0, 65535, dtype=np.float32).reshape(1, 1, -1)
    fused = triton_kernels.fuse_views([(on_device(logits), "h")], 1, 16500)
    position = np.clip((np.arange(16500) + 0.5) * (65535 / 16500) - 0.5, 0.0, 65534.0)
    expected = np.interp(position, np.arange(65535), logits[0, 0, ::-1].astype(np.float64))
    expected = 1.0 / (1.0 + np.exp(-expected[np.newaxis]))
    check_fused(fused, (expected, (expected > 0.5).astype(np.uint8)))


@pytest.mark.parametrize("shape", [(9, 5, 17), (1, 9, 5, 17), (3, 9, 5, 17)])
@pytest.mark.parametrize("radius", [0, 11])
def test_volumes_are_smoothed_as_the_reference_does(shape, radius):
    rng = np.random.default_rng(radius)
    volume = rng.random(shape).astype(np.float32)
    volume[..., 4, 2, 3] = np.nan
    volume[..., 7, 1, 1] = np.inf
    weights = rng.random(radius + 1).astype(np.float32)
    weights /= weights[0] + 2.0 * weights[1:].sum()
    smoothed = triton_kernels.smooth_z(on_device(volume), weights, threshold=0.45, mask=True)
    expected = reference_smooth.smooth_z(volume, weights)
    found = smoothed.probability.cpu().numpy()
    assert found.shape == shape
    assert (np.abs(found - expected) <= TOLERANCE * np.maximum(1.0, np.abs(expected))).all()
    plain = expected[0] if shape[0] == 1 else expected
    check_mask(smoothed.mask, reference_smooth.mask_of(expected, 0.45), plain, 0.45)


def test_slabs_equal_the_whole_and_either_result_can_be_left_out():
    rng = np.random.default_rng(1)
    volume = on_device(rng.random((2, 11, 6, 13)).astype(np.float32))
    weights = on_device(np.array([0.4, 0.2, 0.1], np.float32))
    whole = triton_kernels.smooth_z(volume, weights, mask=True)
    for first, count in ((0, 3), (3, 5), (10, 1), (8, None)):
        part = slice(first, None if count is None else first + count)
        slab = triton_kernels.smooth_z(volume, weights, first=first, count=count)
        assert slab.mask is None
        assert torch.equal(slab.probability, whole.probability[:, part])
        slab = triton_kernels.smooth_z(
            volume, weights, first=first, count=count, probability=False, mask=True
        )
        assert slab.probability is None
        assert torch.equal(slab.mask, whole.mask[part])


def test_the_threshold_of_a_volume_is_read_from_memory():
    volume = torch.rand(3, 4, 5).to(DEVICE)
    threshold = torch.tensor([0.25], device=DEVICE)
    for value in (0.25, 0.75):
        threshold.fill_(value)
        found = triton_kernels.smooth_z(volume, [1.0], threshold=threshold, mask=True)
        assert torch.equal(found.mask, (volume > value).to(torch.uint8))


@pytest.mark.parametrize(("outline_px", "alpha"), [(0, 1.0), (0, 0.3), (1, 0.0), (3, 0.6)])
def test_masks_are_blended_to_the_bit_within_the_frame_alone(outline_px, alpha):
    rng = np.random.default_rng(outline_px)
    padded = rng.integers(0, 256, (25, 50, 3), dtype=np.uint8)
    frame = padded[2:23, 3:44]
    mask = np.repeat(np.repeat(rng.integers(0, 5, (3, 6), dtype=np.uint8), 7, 0), 7, 1)[:, :41]
    mask[5, 5] = 255
    colours = rng.integers(0, 256, (3, 3), dtype=np.uint8)
    expected = padded.copy()
    expected[2:23, 3:44] = reference_blend.blend_overlay(
        frame, mask, colours, alpha=alpha, outline_px=outline_px
    )
    drawn = on_device(padded)
    # Colours may come from the host or lie on the device.
    triton_kernels.blend_overlay(
        drawn[2:23, 3:44],
        on_device(mask),
        on_device(colours) if outline_px else colours.tolist(),
        alpha=alpha,
        outline_px=outline_px,
    )
    assert np.array_equal(drawn.cpu().numpy(), expected)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_frames_are_resized_to_the_bit_in_pillows_order_of_passes(resample):
    rng = np.random.default_rng(4)
    padded = rng.integers(0, 256, (61, 45, 3), dtype=np.uint8)
    frame = padded[1:60, 2:43]
    frame[:, 20:] = rng.integers(0, 2, (59, 21, 3), dtype=np.uint8) * 255
    views = (
        ViewSpec(13, 37, ("none", "h", "v", "hv")),  # rows first
        ViewSpec(50, 9, ("none", "v")),  # columns first
        ViewSpec(59, 70),  # rows stay
        ViewSpec(80, 41),  # columns stay
        ViewSpec(59, 41, ("none", "hv")),  # both stay
    )
    normalization = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    results = triton_kernels.resize_normalize_views(
        on_device(padded)[1:60, 2:43], views, resample=resample, **normalization
    )
    for view, found in zip(views, results, strict=True):
        plain = reference.resize_normalize(
            frame, view.height_px, view.width_px, resample=resample, **normalization
        )[0]
        copies = {
            "none": plain,
            "h": plain[:, :, ::-1],
            "v": plain[:, ::-1],
            "hv": plain[:, ::-1, ::-1],
        }
        expected = np.stack([copies[flip] for flip in view.flips])
        assert found.dtype == torch.float32 and found.shape == expected.shape
        # A step of 8 bits is 0.017: the picture is the same to the bit.
        assert np.abs(found.cpu().numpy() - expected).max() <= 1e-6


@pytest.mark.skipif(interpreted(), reason="needs a GPU: the interpreter has no graphs")
def test_a_captured_graph_is_replayed_with_other_views_and_settings():
    pairs = as_pairs(make_views(0, 1, shapes=SHAPES[:3]))
    packed = triton_kernels.pack_views(pairs)
    settings = triton_kernels.fusion_settings(device=DEVICE)
    state = torch.zeros(HEIGHT, WIDTH, device=DEVICE)

    def fuse():
        return triton_kernels.fuse_views(packed, HEIGHT, WIDTH, settings=settings, state=state)

    fuse()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fused = fuse()
    before = np.zeros((HEIGHT, WIDTH))
    for frame in range(3):
        views = make_views(frame, 1, shapes=SHAPES[:3])
        for (logits, _), view in zip(pairs, views, strict=True):
            logits.copy_(on_device(view.logits))
        values = {"keep": 0.25 * frame, "reset": frame == 0, "threshold": 0.4}
        settings.copy_(triton_kernels.fusion_settings(**values, device=DEVICE))
        graph.replay()
        expected = reference_fuse.fuse_views(views, HEIGHT, WIDTH, **values, state=before)
        assert np.abs(fused.probability.cpu().numpy() - expected[0]).max() <= TOLERANCE
        check_mask(fused.mask, expected[1], expected[0], 0.4)


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype, device=DEVICE)


def fuse(*tensors, flip="none", **settings):
    return triton_kernels.fuse_views([(tensor, flip) for tensor in tensors], 4, 4, **settings)


NORMALIZATION = {"resample": "bilinear", "mean": (0.0,) * 3, "std": (1.0,) * 3}
REFUSED = {
    "no views": (fuse, "1 to 256 views"),
    "an array": (lambda: fuse(np.zeros((1, 2, 2))), "must be a torch tensor"),
    "double precision": (lambda: fuse(zeros(1, 2, 2, dtype=torch.float64)), "torch.float16"),
    "two dimensions": (lambda: fuse(zeros(2, 2)), "shape"),
    "strides": (lambda: fuse(zeros(1, 2, 3).mT), "contiguous"),
    "class counts": (lambda: fuse(zeros(1, 2, 2), zeros(2, 2, 2)), "same classes"),
    "flip": (lambda: fuse(zeros(1, 2, 2), flip="x"), "flip of view 0"),
    "weighting": (lambda: fuse(zeros(1, 2, 2), weighting="best"), "weighting"),
    "temperature": (lambda: fuse(zeros(1, 2, 2), temperature=1e-60), "temperature"),
    "threshold": (lambda: fuse(zeros(1, 2, 2), threshold=float("nan")), "threshold"),
    "keep": (lambda: fuse(zeros(1, 2, 2), keep=1.0), "keep"),
    "keep without state": (lambda: fuse(zeros(1, 2, 2), keep=0.5), "needs a state"),
    "settings twice": (
        lambda: fuse(zeros(1, 2, 2), keep=0.5, settings=zeros(4)),
        "fusion_settings",
    ),
    "state": (lambda: fuse(zeros(1, 2, 2), state=zeros(4, 5)), "state must have the shape"),
    "result": (
        lambda: triton_kernels.fuse_views([(zeros(1, 2, 2), "none")], 0, 4),
        "sides of the result",
    ),
    "volume": (lambda: triton_kernels.smooth_z(zeros(2, 0, 3), [1.0]), "not empty"),
    "weights": (lambda: triton_kernels.smooth_z(zeros(2, 3, 3), []), "1 to 1025 floats"),
    "infinite weights": (
        lambda: triton_kernels.smooth_z(zeros(2, 3, 3), [1e60]),
        "weights must be finite",
    ),
    "slices": (lambda: triton_kernels.smooth_z(zeros(2, 3, 3), [1.0], first=2), "slices"),
    "nothing": (
        lambda: triton_kernels.smooth_z(zeros(2, 3, 3), [1.0], probability=False),
        "neither",
    ),
    "mask": (
        lambda: triton_kernels.blend_overlay(
            zeros(4, 5, 3, dtype=torch.uint8),
            zeros(5, 4, dtype=torch.uint8),
            [(0, 0, 0)],
            alpha=0.5,
        ),
        "mask must have the shape",
    ),
    "colours": (
        lambda: triton_kernels.blend_overlay(
            zeros(4, 5, 3, dtype=torch.uint8),
            zeros(4, 5, dtype=torch.uint8),
            [(0, 0, 256)],
            alpha=0.5,
        ),
        "colour are 0 to 255",
    ),
    "planes": (
        lambda: triton_kernels.resize_normalize_views(
            zeros(3, 4, 5, dtype=torch.uint8), [ViewSpec(2, 2)], **NORMALIZATION
        ),
        r"\(H, W, 3\)",
    ),
    "other device": (lambda: fuse(torch.zeros((1, 2, 2), device="meta")), "is on meta"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_without_meaning_are_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        call()
