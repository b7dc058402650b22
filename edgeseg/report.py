"""``report.html``: what a bundle's manifest says, for a person.

One page that needs nothing else: styles inline, pictures as data URIs, no scripts, no requests. All
text comes from the manifest and is escaped.
"""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgeseg._files import sha256_file
from edgeseg.describe import describe_readout, describe_views
from edgeseg.spec import LatencyRecord, Manifest, ScoreRecord, TensorSpec, Variant

__all__ = ["render_report"]

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
        ("decisions", "Decisions", _decisions(manifest)),
        ("self-test", "Self-test and parity", _self_test(manifest)),
        ("provenance", "Provenance", _provenance(manifest)),
        ("licence", "Licence", f"<p>{_text(manifest.licence_notice)}</p>"),
    ]
    shown = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{key}">{_text(title)}</a></li>' for key, title, _ in shown)
    template = importlib.resources.files("edgeseg") / "assets" / "report.html"
    return string.Template(template.read_text(encoding="utf-8")).substitute(
        version=_text(manifest.edgeseg_version),
        title=_text(manifest.name),
        lead=_text(_lead(manifest)),
        created=_text(manifest.provenance.created_utc),
        navigation=f'<nav aria-label="Sections"><ul>{links}</ul></nav>',
        body="\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title">'
            f'<h2 id="{key}-title">{_text(title)}</h2>{body}</section>'
            for key, title, body in shown
        ),
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _code(value: object) -> str:
    return f"<code>{_text(value)}</code>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    """A definition list; the values are HTML."""
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{value}</dd>" for name, value in facts)
    return f'<dl class="facts">{rows}</dl>'


def _table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: frozenset[int] = frozenset(),
) -> str:
    """A table whose first column heads its row; cells are HTML, ``numbers`` are right-aligned."""

    def of_class(index: int) -> str:
        return ' class="number"' if index in numbers else ""

    head = "".join(
        f'<th scope="col"{of_class(i)}>{_text(column)}</th>' for i, column in enumerate(columns)
    )
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{of_class(i)}>{cell}</td>" for i, cell in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{_text(caption)}" tabindex="0"><table>'
        f"<caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
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
    if not boxes:
        return ""
    cells = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(note)}</small></dd></div>"
        for name, value, note in boxes
    )
    return f'<dl class="figures">{cells}</dl>'


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
    return _facts(
        [
            ("family", _text(_FAMILY_NAMES.get(manifest.family, manifest.family))),
            ("class names", _text(", ".join(manifest.classes))),
            ("checkpoint", _code(manifest.provenance.checkpoint)),
            ("SHA-256", _code(manifest.provenance.checkpoint_sha256)),
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
            yield name, _code(value if isinstance(value, str) else json.dumps(value))


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
    return _facts(
        [
            ("region of interest", _text(region)),
            (
                "resize",
                _text(f"to {spec.height_px} x {spec.width_px}, {spec.resample}, antialiased"),
            ),
            ("colour order", _text(spec.colour_order.upper())),
            ("scale", _text(f"{spec.scale:.9g}")),
            ("mean", _text(", ".join(f"{value:g}" for value in spec.mean))),
            ("standard deviation", _text(", ".join(f"{value:g}" for value in spec.std))),
            *((name, _text(how)) for name, how in describe_views(spec)),
            (carried, _text(f"bilinear, {corners}")),
            *((name, _text(how)) for name, how in describe_readout(readout)),
            ("decision", _text(decision)),
        ]
    )


def _variants(manifest: Manifest, folder: Path | None) -> str:
    columns = ["variant", "file", "precision", "products / rest", "placement", "backends"]
    if folder is not None:
        columns.append("size")

    def row(variant: Variant) -> list[str]:
        cells = [
            _text(variant.name),
            _code(variant.file),
            _text(variant.precision),
            _text(f"{variant.products} / {variant.rest}"),
            _text(variant.placement),
            _text(", ".join(variant.backends)),
        ]
        return [*cells, _text(_megabytes(folder / variant.file))] if folder else cells

    shown = _table(
        "The engines of this bundle and whom they serve",
        columns,
        (row(variant) for variant in manifest.variants),
        frozenset({6}),
    )
    tensors = _table(
        "What the engines take and give",
        ("variant", "batch", "inputs", "outputs"),
        (
            (_text(v.name), _text(v.batch), _tensors(v.inputs), _tensors(v.outputs))
            for v in manifest.variants
        ),
        frozenset({1}),
    )
    shown += f"<details><summary>Inputs and outputs</summary>{tensors}</details>"
    if folder is None:
        return shown
    files = dict.fromkeys(variant.file for variant in manifest.variants)
    hashes = ((_code(name), _code(sha256_file(folder / name))) for name in files)
    listing = _table("SHA-256 of each file", ("file", "SHA-256"), hashes)
    return f"{shown}<details><summary>Hashes of the files</summary>{listing}</details>"


def _tensors(tensors: Iterable[TensorSpec]) -> str:
    return "<br>".join(
        f"{_code(t.name)} {_text(t.dtype)} {_text(t.layout)} {_text('x'.join(map(str, t.shape)))}"
        for t in tensors
    )


def _accuracy(scores: Sequence[ScoreRecord]) -> str:
    if not scores:
        return ""
    against = {"labels": "labels", "fp32": "masks of FP32"}
    rows = (
        (
            _text(score.variant),
            _text(score.backend),
            _text(against[score.against]),
            _text(score.cases),
            _text(f"{score.dice:.4f}"),
            _text(f"{score.iou:.4f}"),
            _text(f"{score.worst_case} ({score.worst_dice:.4f})"),
        )
        for score in scores
    )
    columns = ("variant", "backend", "against", "cases", "Dice", "IoU", "worst case (Dice)")
    return _table(
        "Means over the validation cases, at the model's resolution",
        columns,
        rows,
        frozenset({3, 4, 5}),
    )


def _pictures(pictures: Iterable[tuple[str, bytes]]) -> str:
    return "".join(
        '<figure><img alt="Image, truth and prediction side by side: '
        f'{_text(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
        for caption, png in pictures
    )


def _latency(latencies: Sequence[LatencyRecord]) -> str:
    if not latencies:
        return ""
    rows = (
        (
            _text(record.variant),
            _text(record.backend),
            _text(record.device),
            _text(record.threads),
            _text(f"{record.median_ms:.2f}"),
            _text(f"{1e3 / record.median_ms:.1f}" if record.median_ms > 0 else "-"),
            _text(record.repeats),
        )
        for record in latencies
    )
    columns = ("variant", "backend", "device", "threads", "median ms", "per second", "repeats")
    return _table(
        "One inference on the machine that built the bundle", columns, rows, frozenset(range(3, 7))
    )


def _calibration(manifest: Manifest) -> str:
    record = manifest.calibration
    if record is None:
        return ""
    facts = _facts(
        [
            ("quantiser", _text(record.quantizer)),
            ("method", _text(record.method)),
            ("frames", _text(f"{record.frames} from {_count(len(record.sources), 'file')}")),
        ]
    )
    rows = (
        (_code(source), _code(digest))
        for source, digest in zip(record.sources, record.sha256, strict=True)
    )
    sources = _table("Files the ranges were taken from", ("file", "SHA-256 of its content"), rows)
    return f"{facts}<details><summary>Calibration files</summary>{sources}</details>"


def _decisions(manifest: Manifest) -> str:
    if not manifest.decisions:
        return ""
    return _facts((decision.what, _text(decision.why)) for decision in manifest.decisions)


def _self_test(manifest: Manifest) -> str:
    parity = manifest.parity
    relative = f"{parity.relative:.2g}" if parity.logit_range > 0 else "undefined"
    facts = _facts(
        [
            (
                "FP32 ONNX against PyTorch",
                _text(
                    f"largest difference {parity.max_abs_difference:.3g} of a logit range of "
                    f"{parity.logit_range:.4g} ({relative} relative), run by {parity.runtime}"
                ),
            )
        ]
    )
    rows = (
        (
            _text(variant.name),
            _text(backend),
            _text(f"{limits.relative_error:.3g}"),
            _text(f"{limits.cosine:.5f}"),
            _text(f"{limits.mask_agreement:.4f}"),
        )
        for variant in manifest.variants
        for backend, limits in variant.golden_limits.items()
    )
    columns = ("variant", "backend", "relative error up to", "cosine from", "same mask from")
    caption = "What an engine must keep to on the golden frames, or it is refused"
    return facts + _table(caption, columns, rows, frozenset({2, 3, 4}))


def _provenance(manifest: Manifest) -> str:
    origin = manifest.provenance
    return _facts(
        [
            ("created", f"<time>{_text(origin.created_utc)}</time>"),
            ("machine", _text(origin.machine)),
            ("edgeseg", _text(manifest.edgeseg_version)),
            ("schema", _text(manifest.schema_version)),
            *((name, _text(version)) for name, version in sorted(origin.tools.items())),
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
