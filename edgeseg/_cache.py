"""The per-machine cache: what is compiled for this machine alone, and can be made again.

It lies in ``$EDGESEG_CACHE``, else in ``$XDG_CACHE_HOME/edgeseg``, else in ``~/.cache/edgeseg``.
Bundles never depend on it: deleting it costs time, nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgeseg.errors import OutputError

__all__ = ["cache_folder", "cache_root"]


def cache_root() -> Path:
    """Where the cache lies, whether or not it exists yet."""
    named = os.environ.get("EDGESEG_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that relative paths are to be ignored.
    folder = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return folder / "edgeseg"


def cache_folder(*parts: str) -> Path:
    """A folder of the cache, made if it is not there; only its owner may enter a new one.

    Args:
        parts: names of folders beneath the root, from outer to inner.

    Raises:
        OutputError: it cannot be made or written to.
    """
    folder = cache_root().joinpath(*parts)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the cache folder {folder} cannot be made ({error.strerror or error}): set "
            "EDGESEG_CACHE to a folder that can be written"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"the cache folder {folder} cannot be written: set EDGESEG_CACHE to one that can"
        )
    return folder
