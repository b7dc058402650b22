"""What a caller may set, in words and as specifications."""

from __future__ import annotations

import pytest
from builders import tiny_views

from edgeseg.errors import UsageError
from edgeseg.settings import (
    Settings,
    parse_flips,
    parse_views,
    parse_weighting,
    parse_z_sigma,
    select_views,
)
from edgeseg.spec import FusionSpec, PreprocessSpec, ReadoutSpec, RegularizeSpec, ZSmoothingSpec

VIEWS = tiny_views(((32, 48), (64, 48), (64, 80)))
PREPROCESS = PreprocessSpec(64, 80, "bilinear", (0, 0, 0), (1, 1, 1), views=VIEWS)


def test_words_are_read():
    assert parse_views("256, 384x512") == ((256, 256), (384, 512))
    assert parse_flips("v,h") == ("v", "h")
    assert parse_flips("none") == ()
    assert parse_weighting("mean") == ("mean", None)
    assert parse_weighting("exp:0.25") == ("exp", 0.25)
    assert parse_z_sigma("2mm") == ZSmoothingSpec(2.0, "mm")
    assert parse_z_sigma("1.5") == ZSmoothingSpec(1.5, "slices")


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_views, "256,"),
        (parse_views, "256x256x3"),
        (parse_views, "0"),
        (parse_views, "-16"),
        (parse_views, "256,256x256"),
        (parse_flips, "h,h"),
        (parse_flips, "x"),
        (parse_flips, ""),
        (parse_weighting, "softmax"),
        (parse_weighting, "mean:2"),
        (parse_weighting, "exp:warm"),
        (parse_z_sigma, "-1"),
        (parse_z_sigma, "nan"),
        (parse_z_sigma, "2cm"),
    ],
)
def test_other_words_are_bad_usage(parse, text):
    with pytest.raises(UsageError):
        parse(text)


def test_chosen_views_keep_the_bundles_order_and_the_largest_is_the_grid():
    chosen = Settings(views=((64, 48), (32, 48)), flips=("v",)).preprocess(PREPROCESS)
    assert [view.name for view in chosen.views] == ["32x48", "64x48"]
    assert all(view.flips == ("none", "v") for view in chosen.views)
    assert (chosen.height_px, chosen.width_px) == (64, 48)
    assert Settings(flips=()).preprocess(PREPROCESS).views[2].flips == ("none",)
    assert Settings().preprocess(PREPROCESS) is PREPROCESS


@pytest.mark.parametrize(
    ("sizes", "flips", "words"),
    [
        (((16, 16),), None, "no view of 16x16: it has 32x48, 64x48, 64x80"),
        ((), None, "at least one"),
        (None, ("hv",), "no flip 'hv': it has none, h, v"),
    ],
)
def test_views_that_were_not_built_are_refused(sizes, flips, words):
    with pytest.raises(UsageError, match=words):
        select_views(VIEWS, sizes, flips)
    with pytest.raises(UsageError, match="reads a frame once"):
        select_views((), ((64, 80),), None)


def test_the_read_out_is_changed_where_something_is_set():
    spec = ReadoutSpec("sigmoid", fusion=FusionSpec("exp", 0.3), time_constant_ms=40.0)
    changed = Settings(weighting="mean", blur_sigma_px=1.5, fill_holes=True).readout(spec)
    assert changed.fusion == FusionSpec("mean", 0.3)
    assert changed.regularize == RegularizeSpec(1.5, True, 0)
    assert changed.time_constant_ms == 40.0
    assert Settings(time_constant_ms=0.0).readout(spec).time_constant_ms == 0.0
    assert Settings().readout(spec) == spec


@pytest.mark.parametrize(
    "settings",
    [
        Settings(blur_sigma_px=-1.0),
        Settings(min_component_px=-3),
        Settings(time_constant_ms=float("nan")),
        Settings(temperature=0.0),
    ],
)
def test_values_out_of_range_are_bad_usage(settings):
    with pytest.raises(UsageError):
        settings.readout(ReadoutSpec("sigmoid", fusion=FusionSpec()))


def test_one_view_cannot_be_weighed():
    with pytest.raises(UsageError, match="no views to weigh"):
        Settings(weighting="mean").readout(ReadoutSpec("sigmoid"))
