"""Bundles: complete, verified byte by byte, and refused when they are not what was built."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from builders import tiny_bundle, tiny_manifest

from edgeseg.bundle import Bundle, new_bundle, read_bundle, seal
from edgeseg.errors import BundleError, BundleIntegrityError, UsageError


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgeseg")


@pytest.fixture
def bundle(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "tiny.edgeseg"))


def test_a_bundle_reads_back(bundle: Path) -> None:
    read = read_bundle(bundle)
    assert set(read.manifest.files) == {"fp32.onnx", "golden.npz"}
    assert read.manifest.preprocess == tiny_manifest().preprocess
    assert read.variant("fp32", "openvino").file == "fp32.onnx"
    assert read.golden().frames.shape == (2, 60, 80, 3)


def test_sha256sum_agrees(bundle: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum on this machine")
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=bundle, check=True, capture_output=True)


@pytest.mark.parametrize("name", ["fp32.onnx", "golden.npz", "manifest.json", "SHA256SUMS"])
def test_any_changed_byte_is_found(bundle: Path, name: str) -> None:
    size = (bundle / name).stat().st_size
    for position in (0, size // 2, size - 1):
        original = (bundle / name).read_bytes()
        changed = bytearray(original)
        changed[position] ^= 1
        (bundle / name).write_bytes(changed)
        with pytest.raises(BundleIntegrityError):
            read_bundle(bundle)
        (bundle / name).write_bytes(original)
    read_bundle(bundle)


@pytest.mark.parametrize("name", ["fp32.onnx", "golden.npz", "SHA256SUMS"])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleIntegrityError, match=name):
        read_bundle(bundle)


def test_what_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        read_bundle(tmp_path / "no.edgeseg")
    with pytest.raises(BundleError, match="not an edgeseg bundle"):
        read_bundle(tmp_path)


def _reseal(bundle: Path, change: dict) -> None:
    """Change the manifest and its hash, as somebody who means harm would."""
    import hashlib

    data = json.loads((bundle / "manifest.json").read_text()) | change
    raw = json.dumps(data).encode()
    (bundle / "manifest.json").write_bytes(raw)
    rows = data["files"] | {"manifest.json": hashlib.sha256(raw).hexdigest()}
    text = "".join(f"{rows[n]}  {n}\n" for n in sorted(rows))
    (bundle / "SHA256SUMS").write_text(text)


def test_another_schema_version_says_what_to_do(bundle: Path) -> None:
    _reseal(bundle, {"schema_version": 99})
    with pytest.raises(BundleError, match="schema version 99"):
        read_bundle(bundle)


def test_a_manifest_cannot_point_outside_its_folder(bundle: Path) -> None:
    (bundle.parent / "secret").write_text("x")
    _reseal(bundle, {"files": {"../secret": "0" * 64}})
    with pytest.raises(BundleError, match="not a plain file name"):
        read_bundle(bundle)


def test_golden_frames_are_loaded_without_pickle(bundle: Path) -> None:
    marker = bundle.parent / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(marker),)

    evil = np.empty(1, object)
    evil[0] = Evil()
    np.savez(bundle / "golden.npz", frames=evil, logits=evil)
    manifest = read_bundle_without_check(bundle)
    with pytest.raises(BundleError, match="no golden frames"):
        manifest.golden()
    assert not marker.exists()


def read_bundle_without_check(bundle: Path) -> Bundle:
    return Bundle(bundle, tiny_manifest(), "")


def test_an_unknown_precision_lists_what_there_is(bundle: Path) -> None:
    read = read_bundle(bundle)
    with pytest.raises(UsageError, match="no int8 variant: it has fp32"):
        read.backends("int8")
    with pytest.raises(UsageError, match=r"it has fp32 \(openvino, onnxruntime, tensorrt\)"):
        read.variant("fp16", "tensorrt")


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build() -> None:
        with new_bundle(tmp_path / "x.edgeseg", force=False) as folder:
            (folder / "fp32.onnx").write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        build()
    assert os.listdir(tmp_path) == []


def test_a_manifest_cannot_hold_nan(tmp_path: Path) -> None:
    import dataclasses

    from edgeseg.spec import ParityRecord

    manifest = dataclasses.replace(tiny_manifest(), parity=ParityRecord(float("nan"), 1.0, "x"))
    with pytest.raises(ValueError, match="JSON compliant"):
        seal(tmp_path, manifest)
