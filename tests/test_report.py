"""The bundle's page: complete, escaped, self-contained and well-formed."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from pathlib import Path

import pytest
from builders import tiny_manifest
from pages import Page

from edgeseg.report import render_report
from edgeseg.spec import (
    CalibrationRecord,
    Decision,
    GoldenLimits,
    LatencyRecord,
    Manifest,
    RoiSpec,
    ScoreRecord,
)


@pytest.fixture
def full(tmp_path) -> tuple[Manifest, Path]:
    """A manifest with every record, and the folder of its variants' files."""
    manifest = tiny_manifest(channels=1)
    fp32 = manifest.variants[0]
    int8 = dataclasses.replace(
        fp32,
        name="int8-openvino",
        file="int8-openvino.onnx",
        precision="int8",
        products="int8",
        placement="Linear and Conv",
        backends=("openvino",),
        golden_limits={"openvino": GoldenLimits(0.0625, 0.98765, 0.9125)},
    )
    (tmp_path / fp32.file).write_bytes(b"f" * 4_000_000)
    (tmp_path / int8.file).write_bytes(b"i" * 1_100_000)
    preprocess = dataclasses.replace(manifest.preprocess, roi=RoiSpec(3, 5, 640, 480))
    full = dataclasses.replace(
        manifest,
        precision="int8",
        hyperparameters={"backbone": {"mlp_width": 768, "bias": True}, "taps": [2, 5]},
        preprocess=preprocess,
        variants=(fp32, int8),
        calibration=CalibrationRecord(
            "edgeseg", "mse", ("a.png", "b.png"), ("1" * 64, "2" * 64), 2
        ),
        scores=(
            ScoreRecord("fp32", "openvino", 50, "labels", 0.7017, 0.5847, "case 9", 0.0123),
            ScoreRecord("int8-openvino", "openvino", 50, "labels", 0.6992, 0.58, "case 8", 0.011),
            ScoreRecord("int8-openvino", "openvino", 50, "fp32", 0.9877, 0.9757, "case 7", 0.9),
        ),
        latencies=(
            LatencyRecord("fp32", "onnxruntime", "a CPU", 2, 30.0, 40),
            LatencyRecord("int8-openvino", "openvino", "a CPU", 2, 10.0, 40),
        ),
        decisions=(Decision("backend", "openvino was the faster"),),
    )
    return full, tmp_path


def test_every_record_is_shown(full):
    manifest, folder = full
    page = Page(render_report(manifest, folder=folder))
    for fact in (
        "Not a medical device",
        "tiny.pth",
        "backbone mlp width 768 backbone bias true taps [2, 5]",
        manifest.provenance.checkpoint_sha256,
        "SegDINO v2",
        "640 x 480 pixels at x 3, y 5",
        "sigmoid above 0.5",
        "Linear and Conv",
        "int8-openvino.onnx",
        "4.00 MB",
        "1.10 MB",
        "0.6992",
        "masks of FP32",
        "case 7 (0.9000)",
        "3.00 times as fast as FP32 on onnxruntime",
        "100.0",
        "2 from 2 files",
        "2" * 64,
        "openvino was the faster",
        "0.0625",
        "0.98765",
        "0.9125",
        manifest.licence_notice,
        manifest.provenance.created_utc,
    ):
        assert fact in page.text, fact
    for name in ("fp32.onnx", "int8-openvino.onnx"):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in page.text


def test_absent_records_leave_their_sections_out():
    page = Page(render_report(tiny_manifest(channels=3)))
    for title in (
        "Accuracy",
        "Worst cases",
        "Latency",
        "Calibration",
        "Decisions",
        "Size",
        "Hashes",
    ):
        assert title not in page.text
    assert "softmax, the most probable class" in page.text
    assert "class 0, class 1, class 2" in page.text


@pytest.mark.parametrize("nasty", ['<script>alert("1")</script>', "&amp; ' \" > $title ${body}"])
def test_text_is_escaped_everywhere(full, nasty):
    manifest, folder = full
    record = manifest.calibration
    nasty_manifest = dataclasses.replace(
        manifest,
        name=nasty,
        family=nasty,
        classes=(nasty,),
        hyperparameters={nasty: nasty},
        licence_notice=nasty,
        decisions=(Decision(nasty, nasty),),
        calibration=dataclasses.replace(record, sources=(nasty, "b"), method=nasty),
        variants=tuple(
            dataclasses.replace(v, name=nasty, placement=nasty) for v in manifest.variants
        ),
        scores=(dataclasses.replace(manifest.scores[0], worst_case=nasty, variant=nasty),),
        latencies=(dataclasses.replace(manifest.latencies[0], device=nasty, variant=nasty),),
        provenance=dataclasses.replace(
            manifest.provenance, checkpoint=nasty, machine=nasty, tools={nasty: nasty}
        ),
    )
    page = Page(render_report(nasty_manifest, [(nasty, b"png")], folder=folder))
    assert not page.attributes("script")
    assert page.text.count(" ".join(nasty.split())) >= 15
    assert page.attributes("img")[0]["alt"].endswith(nasty)


def test_the_page_needs_nothing_from_outside(full):
    manifest, folder = full
    picture = b"\x89PNG\r\n\x1a\n and so on"
    page = Page(render_report(manifest, [("case 9, Dice 0.0123", picture)], folder=folder))
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in render_report(manifest) and "@import" not in render_report(manifest)
    (image,) = page.attributes("img")
    assert base64.b64decode(image["src"].split(",", 1)[1]) == picture
    assert "case 9" in image["alt"]


def test_the_page_can_be_navigated(full):
    manifest, folder = full
    page = Page(render_report(manifest, folder=folder))
    assert page.attributes("html")[0]["lang"] == "en"
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in page.attributes("a")]
    assert targets and set(targets) <= set(ids)
    labels = {a["aria-labelledby"] for a in page.attributes("section")}
    assert labels <= set(ids) and len(labels) == len(targets)
    assert len(page.attributes("h1")) == 1
    assert all(a.get("scope") in ("col", "row") for a in page.attributes("th"))
    assert len(page.attributes("caption")) == len(page.attributes("table"))
    assert "prefers-color-scheme: dark" in render_report(manifest)
