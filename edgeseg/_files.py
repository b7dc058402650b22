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

    The temporary name keeps the suffix, since some writers choose a format by it. What a killed
    process left behind is removed by the next write of that name.
    """
    for stale in _stale(path.parent, f".{path.stem}.", f".tmp{path.suffix}"):
        with contextlib.suppress(OSError):
            stale.unlink()
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
    either the old or the new folder is complete. What a killed process left is settled by the next
    write of that name: an old folder that was set aside and not replaced is put back, and hidden
    halves are removed.
    """
    parent = path.absolute().parent
    aside = f".{path.name}.old."
    for stale in _stale(parent, f".{path.name}.", ".tmp"):
        if stale.name.startswith(aside) and not path.exists():
            stale.rename(path)
        else:
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


def _stale(parent: Path, prefix: str, suffix: str) -> list[Path]:
    """Temporary names in ``parent`` whose process, the number between the two, is gone."""
    if not parent.is_dir():
        return []
    return [
        path
        for path in parent.iterdir()
        if path.name.startswith(prefix)
        and path.name.endswith(suffix)
        and not _is_running(path.name[len(prefix) : -len(suffix)].rsplit(".", 1)[-1])
    ]


def _is_running(pid: str) -> bool:
    """Whether a process of that number lives (another build may be writing there now)."""
    try:
        os.kill(int(pid), 0)
    except ValueError:
        return True  # no name of ours
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
