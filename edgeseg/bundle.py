"""The bundle ``NAME.edgeseg/``: one immutable folder with all that a deployment needs.

    manifest.json   what it is (``edgeseg.spec.Manifest``), with the SHA-256 of every other file
    *.onnx          the variants
    golden.npz      generated frames and the FP32 model's answers to them
    report.html     for a person
    SHA256SUMS      hashes of all files, the manifest included; ``sha256sum -c SHA256SUMS`` reads it

It is written under a temporary name and renamed when complete; reading one verifies every byte.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg._files import atomic_directory, sha256_file
from edgeseg.errors import BundleError, BundleIntegrityError, UsageError
from edgeseg.spec import SCHEMA_VERSION, Manifest, Variant, from_json, to_json

__all__ = [
    "GOLDEN_FILE",
    "LICENCE_NOTICE",
    "MANIFEST_FILE",
    "REPORT_FILE",
    "SUFFIX",
    "Bundle",
    "Golden",
    "is_bundle",
    "new_bundle",
    "read_bundle",
    "read_manifest",
    "seal",
    "write_golden",
]

SUFFIX = ".edgeseg"
MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.npz"
_OUTPUT = "output."
"""Before the name of an output in ``golden.npz``."""
REPORT_FILE = "report.html"
SUMS_FILE = "SHA256SUMS"

LICENCE_NOTICE = (
    "The engines of this bundle are derived from a checkpoint whose backbone may hold DINOv3 "
    "weights. Those are DINO Materials under Meta's DINOv3 License: whoever passes this bundle on "
    "must do so under that licence, enclose a copy of it and keep to its terms of use "
    "(https://ai.meta.com/resources/models-and-libraries/dinov3-license/). edgeseg itself is "
    "Apache-2.0 and grants no rights in the weights. Not a medical device."
)

_MANIFEST_LIMIT_BYTES = 64 << 20
_GOLDEN_LIMIT_BYTES = 1 << 30


@dataclass(frozen=True)
class Golden:
    """Frames with known answers.

    Attributes:
        frames: uint8 (N, h, w, 3), BGR.
        outputs: for each output of the FP32 graph, float32 (N, *shape of the output).
    """

    frames: npt.NDArray[np.uint8]
    outputs: Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and verified."""

    path: Path
    manifest: Manifest
    digest: str
    """SHA-256 of the manifest, which names the hash of everything else: the bundle's identity."""

    def file(self, name: str) -> Path:
        """Path of one of the bundle's files."""
        return self.path / name

    def variant(self, precision: str, backend: str) -> Variant:
        """The variant of one precision that serves a backend.

        Raises:
            UsageError: there is none; the message lists what there is.
        """
        for variant in self.manifest.variants:
            if variant.precision == precision and backend in variant.backends:
                return variant
        known = ", ".join(
            f"{v.precision} ({', '.join(v.backends)})" for v in self.manifest.variants
        )
        raise UsageError(
            f"{self.path.name} has no {precision} variant for {backend}: it has {known}"
        )

    def named(self, name: str) -> Variant:
        """The variant of that name, which must be one of the bundle's."""
        (variant,) = (v for v in self.manifest.variants if v.name == name)
        return variant

    def backends(self, precision: str) -> tuple[str, ...]:
        """Backends that some variant of this precision serves.

        Raises:
            UsageError: the bundle has no such precision.
        """
        served = [b for v in self.manifest.variants if v.precision == precision for b in v.backends]
        if not served:
            known = sorted({v.precision for v in self.manifest.variants})
            raise UsageError(
                f"{self.path.name} has no {precision} variant: it has {', '.join(known)}"
            )
        return tuple(dict.fromkeys(served))

    def golden(self) -> Golden:
        """The frames of the self-test and the answers they must get."""
        path = self.file(GOLDEN_FILE)
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > _GOLDEN_LIMIT_BYTES:
                raise BundleError(f"{path} would unpack to {size} bytes")
            with np.load(path, allow_pickle=False) as arrays:
                outputs = {
                    name.removeprefix(_OUTPUT): arrays[name]
                    for name in arrays.files
                    if name.startswith(_OUTPUT)
                }
                golden = Golden(arrays["frames"], outputs)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path} holds no golden frames: {error}") from error
        if golden.frames.dtype != np.uint8 or golden.frames.ndim != 4 or len(golden.frames) == 0:
            raise BundleError(f"{path}: frames are {golden.frames.dtype} {golden.frames.shape}")
        if not golden.outputs:
            raise BundleError(f"{path} holds no answers to its golden frames")
        for name, answer in golden.outputs.items():
            if answer.dtype != np.float32 or answer.shape[:1] != golden.frames.shape[:1]:
                raise BundleError(f"{path}: {name} is {answer.dtype} {answer.shape}")
        return golden


def is_bundle(path: Path) -> bool:
    """Whether ``path`` looks like a bundle (a folder with a manifest), without verifying it."""
    return path.is_dir() and (path / MANIFEST_FILE).is_file()


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and verify every file against its recorded hash.

    Raises:
        BundleError: not a bundle, or one of another schema version.
        BundleIntegrityError: a file is missing or was changed; the message names it.
    """
    manifest, digest, sums = _read_manifest(path)
    manifest_path = path / MANIFEST_FILE
    for name, expected in manifest.files.items():
        if Path(name).name != name or name in (".", ".."):
            raise BundleError(f"{manifest_path}: {name!r} is not a plain file name")
        file = path / name
        if not file.is_file():
            raise BundleIntegrityError(f"{file} is missing: copy or build the bundle again")
        if sha256_file(file) != expected:
            raise BundleIntegrityError(_changed(file))
    for variant in manifest.variants:
        if variant.file not in manifest.files:
            raise BundleError(f"{manifest_path}: variant {variant.name!r} names no recorded file")
    if sums != _render_sums(manifest, digest):
        raise BundleIntegrityError(_changed(path / SUMS_FILE))
    return Bundle(path, manifest, digest)


def read_manifest(path: Path) -> Manifest:
    """What a bundle says of itself; its other files are not looked at.

    For what must be known before anything is loaded. Whoever loads a file goes through
    ``read_bundle``.

    Raises:
        BundleError: not a bundle, or one of another schema version.
        BundleIntegrityError: the manifest was changed.
    """
    return _read_manifest(path)[0]


def _read_manifest(path: Path) -> tuple[Manifest, str, bytes]:
    """The manifest, its hash, and the sums that it was verified against."""
    if not path.exists():
        raise BundleError(
            f"{path} does not exist: make one with  edgeseg build CHECKPOINT -o {path}"
        )
    if not is_bundle(path):
        raise BundleError(f"{path} is not an edgeseg bundle: it holds no {MANIFEST_FILE}")
    manifest_path = path / MANIFEST_FILE
    try:
        if manifest_path.stat().st_size > _MANIFEST_LIMIT_BYTES:
            raise BundleError(f"{manifest_path} is larger than any manifest")
        raw = manifest_path.read_bytes()
        sums = (path / SUMS_FILE).read_bytes()[:_MANIFEST_LIMIT_BYTES]
    except OSError as error:
        raise BundleIntegrityError(f"cannot read {error.filename}: {error.strerror}") from error
    digest = sha256_file(manifest_path)
    if f"{digest}  {MANIFEST_FILE}\n".encode() not in sums:
        raise BundleIntegrityError(_changed(manifest_path))
    manifest = _parse_manifest(raw, manifest_path)
    return manifest, digest, sums


def _changed(path: Path) -> str:
    return (
        f"{path} is not the file that was built (its SHA-256 differs): "
        "copy the bundle again from its source, or build it again"
    )


def _parse_manifest(raw: bytes, path: Path) -> Manifest:
    try:
        data: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version!r}, this edgeseg reads {SCHEMA_VERSION}: "
            "install the edgeseg that built it, or build the bundle again"
        )
    return from_json(Manifest, data)


def _render_sums(manifest: Manifest, digest: str) -> bytes:
    rows = {**manifest.files, MANIFEST_FILE: digest}
    return "".join(f"{rows[name]}  {name}\n" for name in sorted(rows)).encode()


@contextlib.contextmanager
def new_bundle(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a folder to fill; it becomes ``path`` when the block ends well, and never in part."""
    with atomic_directory(path, force=force) as folder:
        yield folder


def write_golden(folder: Path, golden: Golden) -> None:
    """Store the golden frames and answers in a bundle under construction."""
    named: dict[str, Any] = {f"{_OUTPUT}{name}": answer for name, answer in golden.outputs.items()}
    np.savez_compressed(folder / GOLDEN_FILE, frames=golden.frames, **named)


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest (``files`` is filled in here) and the sums: the last act of a build."""
    names = sorted(p.name for p in folder.iterdir() if p.name not in (MANIFEST_FILE, SUMS_FILE))
    values = {**vars(manifest), "files": {name: sha256_file(folder / name) for name in names}}
    sealed = Manifest(**values)
    text = json.dumps(to_json(sealed), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    digest = sha256_file(folder / MANIFEST_FILE)
    (folder / SUMS_FILE).write_bytes(_render_sums(sealed, digest))
