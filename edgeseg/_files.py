"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeseg.errors import OutputError

__all__ = ["atomic_directory", "atomic_file", "check_output", "sha256_file"]

_CHUNK_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of the content of ``path``."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def check_output(path: Path, *, force: bool) -> None:
    """Refuse an output that exists (unless ``force``) or whose folder cannot be written.

    Called before long work starts, so that nobody learns of a read-only disk at its end.

    Raises:
        OutputError: with what to do about it.
    """
    if path.exists() and not force:
        raise OutputError(
            f"{path} exists already: choose another name, or pass --force to replace it"
        )
    parent = path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {parent}: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends well.

    The temporary name keeps the suffix, since some writers choose a format by it.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes it when the block ends well.

    With ``force`` an existing ``path`` is moved aside first and deleted last, so that at any moment
    either the old or the new folder is complete. A killed process leaves only a hidden folder
    ``.NAME.*.tmp``, which the next build of that name removes.
    """
    parent = path.absolute().parent
    for stale in parent.glob(f".{path.name}.*.tmp"):
        if not _is_running(stale.name.split(".")[-2]):
            shutil.rmtree(stale, ignore_errors=True)
    temporary = parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _swap(temporary, path, force=force)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, path: Path, *, force: bool) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    if not force:
        raise OutputError(
            f"{path} exists already: choose another name, or pass --force to replace it"
        )
    aside = path.absolute().parent / f".{path.name}.old.{os.getpid()}.tmp"
    path.rename(aside)
    try:
        temporary.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside) if aside.is_dir() else aside.unlink()


def _is_running(pid: str) -> bool:
    """Whether a process of that number lives (another build may be writing there now)."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
