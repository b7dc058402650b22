"""``inspect``: what a checkpoint or a bundle is, as rows of (what, found)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle, is_bundle, read_bundle
from edgeseg.describe import describe_readout, describe_views

__all__ = ["inspect"]


def inspect(path: str | Path) -> list[tuple[str, str]]:
    """Describe a checkpoint (needs the extra ``export``) or a bundle (verified on the way).

    Raises:
        CheckpointError: and its subclasses; the message says what the file looks like instead.
        BundleError: and its subclasses.
    """
    path = Path(path)
    if is_bundle(path):
        return list(_bundle_rows(read_bundle(path)))
    return list(_checkpoint_rows(path))


def _checkpoint_rows(path: Path) -> Iterator[tuple[str, str]]:
    from edgeseg import export

    info = export.inspect(path)
    yield "family", f"{info.title} ({info.family})"
    yield "defined by", info.reference
    yield "parameters", f"{info.parameters / 1e6:.2f} million in {info.keys} tensors"
    yield "stored as", ", ".join(f"{count} {dtype}" for dtype, count in info.dtypes.items())
    yield "backbone spelling", info.spelling
    if info.nested_under:
        yield "nested under", info.nested_under
    yield "classes", str(info.classes)
    yield "trained at", f"{info.input_size.height_px}x{info.input_size.width_px}"
    yield from _flat(info.hyperparameters)
    yield "size", f"{info.size_bytes / 1e6:.1f} MB"
    yield "SHA-256", info.sha256


def _bundle_rows(bundle: Bundle) -> Iterator[tuple[str, str]]:
    manifest = bundle.manifest
    yield "bundle", f"{manifest.name}, built {manifest.provenance.created_utc}"
    yield "family", manifest.family
    yield "built for", manifest.precision
    yield "classes", ", ".join(manifest.classes)
    size = manifest.preprocess
    yield "input", f"{size.height_px}x{size.width_px}, {size.resample}"
    yield from describe_views(size)
    yield from describe_readout(manifest.readout)
    for variant in manifest.variants:
        megabytes = bundle.file(variant.file).stat().st_size / 1e6
        served = ", ".join(variant.backends)
        yield variant.name, f"{megabytes:.1f} MB for {served}: {variant.placement}"
    for score in manifest.scores:
        yield (
            f"Dice of {score.variant} on {score.backend}",
            f"{score.dice:.4f} against {score.against}, {score.cases} cases",
        )
    yield "exact rewrites", ", ".join(rewrite.name for rewrite in manifest.rewrites) or "none"
    for decision in manifest.decisions:
        yield decision.what, decision.why
    yield "checkpoint", f"{manifest.provenance.checkpoint} {manifest.provenance.checkpoint_sha256}"
    if manifest.calibration:
        yield (
            "calibrated on",
            f"{manifest.calibration.frames} frames, {manifest.calibration.method}",
        )
    yield from _flat(manifest.hyperparameters)
    yield "SHA-256", bundle.digest


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key.replace("_", " "), str(value)
