"""The manifest's schema: round trips, and what it refuses."""

import dataclasses
import json

import pytest
from builders import tiny_manifest

from edgeseg.errors import BundleError
from edgeseg.spec import Manifest, PreprocessSpec, ReadoutSpec, RoiSpec, from_json, to_json


def _json(manifest: Manifest) -> dict:
    return json.loads(json.dumps(to_json(manifest), allow_nan=False))


def test_manifest_survives_json() -> None:
    manifest = tiny_manifest()
    assert from_json(Manifest, _json(manifest)) == manifest


def test_roi_survives_json() -> None:
    manifest = tiny_manifest()
    cropped = dataclasses.replace(manifest.preprocess, roi=RoiSpec(3, 4, 50, 60))
    manifest = dataclasses.replace(manifest, preprocess=cropped)
    assert from_json(Manifest, _json(manifest)).preprocess.roi == RoiSpec(3, 4, 50, 60)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("family",), 3, "manifest.family: expected str"),
        (("classes",), "polyp", "manifest.classes: expected a list"),
        (("preprocess", "mean"), [0.1, 0.2], "expected 3 values"),
        (("preprocess", "resample"), "nearest", "none of bilinear, bicubic"),
        (("preprocess", "height_px"), True, "expected int"),
        (("preprocess", "height_px"), 0, "not positive"),
        (("preprocess", "antialias"), 1, "none of True"),
        (("readout", "threshold"), 1.0, "between 0 and 1"),
        (("surprise",), 1, "unknown field 'surprise'"),
        (("variants", 0, "batch"), "one", r"manifest.variants\[0\].batch"),
    ],
)
def test_wrong_values_are_named(path: tuple, value: object, message: str) -> None:
    data = _json(tiny_manifest())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(BundleError, match=message):
        from_json(Manifest, data)


def test_a_missing_field_is_named() -> None:
    data = _json(tiny_manifest())
    del data["readout"]["activation"]
    with pytest.raises(BundleError, match="field 'activation' is missing"):
        from_json(Manifest, data)


@pytest.mark.parametrize("std", [(0.0, 1.0, 1.0), (float("nan"), 1.0, 1.0)])
def test_preprocessing_that_would_divide_by_zero_is_refused(std: tuple) -> None:
    with pytest.raises(BundleError, match="finite and positive"):
        PreprocessSpec(16, 16, "bilinear", (0.0, 0.0, 0.0), std)


def test_threshold_must_be_a_probability() -> None:
    with pytest.raises(BundleError):
        ReadoutSpec("sigmoid", threshold=float("nan"))
