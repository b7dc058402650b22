"""``report.html``: what a bundle's manifest says, for a person.

One page that needs nothing else: styles inline, pictures as data URIs, no scripts, no requests. All
text comes from the manifest and is escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgeseg._files import sha256_file
from edgeseg._html import code, document, facts, figures, table, text
from edgeseg.describe import describe_readout, describe_views
from edgeseg.spec import LatencyRecord, Manifest, ScoreRecord, TensorSpec, Variant

__all__ = ["render_report"]

_REWRITE_COLUMNS = ("rewrite", "modules", "what it saves")
_FAMILY_NAMES = {
    "segdino_v1": "SegDINO v1",
    "segdino_v1_fine": "SegDINO v1, fine-grained",
    "segdino_v2": "SegDINO v2",
    "segdino_v2_first": "SegDINO v2, first layout",
    "dino_mvr": "DINO-MVR",
}


class _OfVariant(Protocol):
    @property
    def variant(self) -> str: ...


T = TypeVar("T")
R = TypeVar("R", bound=_OfVariant)


def render_report(
    manifest: Manifest,
    pictures: Iterable[tuple[str, bytes]] | None = None,
    *,
    folder: Path | None = None,
) -> str:
    """Render the page.

    Args:
        manifest: what to show; records that are absent leave their section out.
        pictures: caption and PNG bytes of each case to show, worst first. They are patients'
            pictures: pass them only where the user asked for them.
        folder: the bundle's folder, finished or under construction; with it the page states size
            and SHA-256 of every variant's file.

    Returns:
        A complete HTML document.
    """
    sections = [
        ("glance", "At a glance", _glance(manifest, folder)),
        ("model", "Model", _model(manifest)),
        ("input", "Preprocessing and read-out", _preprocessing(manifest)),
        ("variants", "Variants", _variants(manifest, folder)),
        ("accuracy", "Accuracy", _accuracy(manifest.scores)),
        ("cases", "Worst cases", _pictures(pictures or ())),
        ("latency", "Latency", _latency(manifest.latencies)),
        ("calibration", "Calibration", _calibration(manifest)),
        ("rewrites", "Exact rewrites", _rewrites(manifest)),
        ("decisions", "Decisions", _decisions(manifest)),
        ("self-test", "Self-test and parity", _self_test(manifest)),
        ("provenance", "Provenance", _provenance(manifest)),
        ("licence", "Licence", f"<p>{text(manifest.licence_notice)}</p>"),
    ]
    return document(
        title=manifest.name,
        lead=_lead(manifest),
        version=manifest.edgeseg_version,
        sections=sections,
        footer=(
            f"Written by edgeseg {text(manifest.edgeseg_version)} on "
            f"{text(manifest.provenance.created_utc)}. The file <code>manifest.json</code> beside "
            "this page holds the same facts for machines and is what counts."
        ),
    )


def _lead(manifest: Manifest) -> str:
    family = _FAMILY_NAMES.get(manifest.family, manifest.family)
    size = manifest.preprocess
    return (
        f"{family}, {len(manifest.classes)} "
        f"{'class' if len(manifest.classes) == 1 else 'classes'}, "
        f"{size.height_px} x {size.width_px} pixels, built for {manifest.precision.upper()}"
    )


def _glance(manifest: Manifest, folder: Path | None) -> str:
    """The built precision beside FP32, as far as it was measured."""
    boxes = [
        box
        for box in (
            _dice_box(manifest),
            _latency_box(manifest),
            _size_box(manifest, folder),
        )
        if box is not None
    ]
    return figures(boxes) if boxes else ""


def _dice_box(manifest: Manifest) -> tuple[str, str, str] | None:
    built = _of_precision(manifest.scores, manifest)
    if built is None:
        return None
    what = "Dice" if built.against == "labels" else "Dice against FP32"
    plain = _first(
        s for s in manifest.scores if _precision(manifest, s.variant) == "fp32" and s is not built
    )
    note = f"FP32: {plain.dice:.4f}; " if plain is not None else ""
    return what, f"{built.dice:.4f}", f"{note}{built.cases} cases, {built.backend}"


def _latency_box(manifest: Manifest) -> tuple[str, str, str] | None:
    built = _of_precision(manifest.latencies, manifest)
    if built is None:
        return None
    plain = _first(
        r
        for r in manifest.latencies
        if _precision(manifest, r.variant) == "fp32" and r is not built
    )
    note = f"{built.backend} on {built.device}, {_count(built.threads, 'thread')}"
    if plain is not None and built.median_ms > 0:
        ratio = plain.median_ms / built.median_ms
        note = f"{ratio:.2f} times as fast as FP32 on {plain.backend}; {note}"
    return "One inference", f"{built.median_ms:.2f} ms", note


def _size_box(manifest: Manifest, folder: Path | None) -> tuple[str, str, str] | None:
    built = _first(v for v in manifest.variants if v.precision == manifest.precision)
    if folder is None or built is None:
        return None
    plain = _first(v for v in manifest.variants if v.precision == "fp32" and v is not built)
    note = built.file
    if plain is not None:
        note = f"FP32: {_megabytes(folder / plain.file)}; {note}"
    return "Size", _megabytes(folder / built.file), note


def _model(manifest: Manifest) -> str:
    return facts(
        [
            ("family", text(_FAMILY_NAMES.get(manifest.family, manifest.family))),
            ("class names", text(", ".join(manifest.classes))),
            ("checkpoint", code(manifest.provenance.checkpoint)),
            ("SHA-256", code(manifest.provenance.checkpoint_sha256)),
            *_hyperparameters(manifest.hyperparameters),
        ]
    )


def _hyperparameters(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and HTML of each value; the names of nested groups become words of the name."""
    for key, value in values.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _hyperparameters(value, f"{name} ")
        else:
            yield name, code(value if isinstance(value, str) else json.dumps(value))


def _preprocessing(manifest: Manifest) -> str:
    spec, readout, roi = manifest.preprocess, manifest.readout, manifest.preprocess.roi
    region = (
        "whole frame"
        if roi is None
        else f"{roi.width_px} x {roi.height_px} pixels at x {roi.x_px}, y {roi.y_px}"
    )
    corners = "corner pixels aligned" if readout.align_corners else "half-pixel centres"
    carried = "logits to the frame" if readout.fusion is None else "probabilities to the frame"
    decision = (
        f"sigmoid above {readout.threshold:g}"
        if readout.activation == "sigmoid"
        else "softmax, the most probable class"
    )
    return facts(
        [
            ("region of interest", text(region)),
            (
                "resize",
                text(f"to {spec.height_px} x {spec.width_px}, {spec.resample}, antialiased"),
            ),
            ("colour order", text(spec.colour_order.upper())),
            ("scale", text(f"{spec.scale:.9g}")),
            ("mean", text(", ".join(f"{value:g}" for value in spec.mean))),
            ("standard deviation", text(", ".join(f"{value:g}" for value in spec.std))),
            *((name, text(how)) for name, how in describe_views(spec)),
            (carried, text(f"bilinear, {corners}")),
            *((name, text(how)) for name, how in describe_readout(readout)),
            ("decision", text(decision)),
        ]
    )


def _variants(manifest: Manifest, folder: Path | None) -> str:
    columns = ["variant", "file", "precision", "products / rest", "placement", "backends"]
    if folder is not None:
        columns.append("size")

    def row(variant: Variant) -> list[str]:
        cells = [
            text(variant.name),
            code(variant.file),
            text(variant.precision),
            text(f"{variant.products} / {variant.rest}"),
            text(variant.placement),
            text(", ".join(variant.backends)),
        ]
        return [*cells, text(_megabytes(folder / variant.file))] if folder else cells

    shown = table(
        "The engines of this bundle and whom they serve",
        columns,
        (row(variant) for variant in manifest.variants),
        frozenset({6}),
    )
    tensors = table(
        "What the engines take and give",
        ("variant", "batch", "inputs", "outputs"),
        (
            (text(v.name), text(v.batch), _tensors(v.inputs), _tensors(v.outputs))
            for v in manifest.variants
        ),
        frozenset({1}),
    )
    shown += f"<details><summary>Inputs and outputs</summary>{tensors}</details>"
    if folder is None:
        return shown
    files = dict.fromkeys(variant.file for variant in manifest.variants)
    hashes = ((code(name), code(sha256_file(folder / name))) for name in files)
    listing = table("SHA-256 of each file", ("file", "SHA-256"), hashes)
    return f"{shown}<details><summary>Hashes of the files</summary>{listing}</details>"


def _tensors(tensors: Iterable[TensorSpec]) -> str:
    return "<br>".join(
        f"{code(t.name)} {text(t.dtype)} {text(t.layout)} {text('x'.join(map(str, t.shape)))}"
        for t in tensors
    )


def _accuracy(scores: Sequence[ScoreRecord]) -> str:
    if not scores:
        return ""
    against = {"labels": "labels", "fp32": "masks of FP32"}
    rows = (
        (
            text(score.variant),
            text(score.backend),
            text(against[score.against]),
            text(score.cases),
            text(f"{score.dice:.4f}"),
            text(f"{score.iou:.4f}"),
            text(f"{score.worst_case} ({score.worst_dice:.4f})"),
        )
        for score in scores
    )
    columns = ("variant", "backend", "against", "cases", "Dice", "IoU", "worst case (Dice)")
    return table(
        "Means over the validation cases, at the model's resolution",
        columns,
        rows,
        frozenset({3, 4, 5}),
    )


def _pictures(pictures: Iterable[tuple[str, bytes]]) -> str:
    return "".join(
        '<figure><img alt="Image, truth and prediction side by side: '
        f'{text(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
        for caption, png in pictures
    )


def _latency(latencies: Sequence[LatencyRecord]) -> str:
    if not latencies:
        return ""
    rows = (
        (
            text(record.variant),
            text(record.backend),
            text(record.device),
            text(record.threads),
            text(f"{record.median_ms:.2f}"),
            text(f"{1e3 / record.median_ms:.1f}" if record.median_ms > 0 else "-"),
            text(record.repeats),
        )
        for record in latencies
    )
    columns = ("variant", "backend", "device", "threads", "median ms", "per second", "repeats")
    return table(
        "One inference on the machine that built the bundle", columns, rows, frozenset(range(3, 7))
    )


def _calibration(manifest: Manifest) -> str:
    record = manifest.calibration
    if record is None:
        return ""
    ranges = facts(
        [
            ("quantiser", text(record.quantizer)),
            ("method", text(record.method)),
            ("frames", text(f"{record.frames} from {_count(len(record.sources), 'file')}")),
        ]
    )
    rows = (
        (code(source), code(digest))
        for source, digest in zip(record.sources, record.sha256, strict=True)
    )
    sources = table("Files the ranges were taken from", ("file", "SHA-256 of its content"), rows)
    return f"{ranges}<details><summary>Calibration files</summary>{sources}</details>"


def _decisions(manifest: Manifest) -> str:
    if not manifest.decisions:
        return ""
    return facts((decision.what, text(decision.why)) for decision in manifest.decisions)


def _rewrites(manifest: Manifest) -> str:
    if not manifest.rewrites:
        return "<p>None: every product of the graph is the authors' own.</p>"
    rows = (
        (code(rewrite.name), ", ".join(map(code, rewrite.modules)), text(rewrite.words))
        for rewrite in manifest.rewrites
    )
    return table("Changes of the graph's algebra, equal but for rounding", _REWRITE_COLUMNS, rows)


def _self_test(manifest: Manifest) -> str:
    parity = manifest.parity
    relative = f"{parity.relative:.2g}" if parity.logit_range > 0 else "undefined"
    agreement = facts(
        [
            (
                "FP32 ONNX against PyTorch",
                text(
                    f"largest difference {parity.max_abs_difference:.3g} of a logit range of "
                    f"{parity.logit_range:.4g} ({relative} relative), run by {parity.runtime}"
                ),
            )
        ]
    )
    rows = (
        (
            text(variant.name),
            text(backend),
            text(f"{limits.relative_error:.3g}"),
            text(f"{limits.cosine:.5f}"),
            text(f"{limits.mask_agreement:.4f}"),
        )
        for variant in manifest.variants
        for backend, limits in variant.golden_limits.items()
    )
    columns = ("variant", "backend", "relative error up to", "cosine from", "same mask from")
    caption = "What an engine must keep to on the golden frames, or it is refused"
    return agreement + table(caption, columns, rows, frozenset({2, 3, 4}))


def _provenance(manifest: Manifest) -> str:
    origin = manifest.provenance
    return facts(
        [
            ("created", f"<time>{text(origin.created_utc)}</time>"),
            ("machine", text(origin.machine)),
            ("edgeseg", text(manifest.edgeseg_version)),
            ("schema", text(manifest.schema_version)),
            *((name, text(version)) for name, version in sorted(origin.tools.items())),
        ]
    )


def _precision(manifest: Manifest, variant_name: str) -> str | None:
    return _first(v.precision for v in manifest.variants if v.name == variant_name)


def _of_precision(records: Sequence[R], manifest: Manifest) -> R | None:
    """The first record of the precision that the bundle was built for."""
    return _first(r for r in records if _precision(manifest, r.variant) == manifest.precision)


def _first(items: Iterable[T]) -> T | None:
    return next(iter(items), None)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"
