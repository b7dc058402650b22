"""What a look at the machine finds, and how installed packages are asked for."""

from __future__ import annotations

import importlib.metadata
import subprocess
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "absent", "output_of", "package_version"]

Status = Literal["ok", "missing", "warning"]
_TIMEOUT_S = 20


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    name: str
    status: Status
    detail: str
    mend: str = ""
    """A command, or what else to do; empty where all is well."""


def absent(name: str, mend: str) -> Finding:
    """What is not installed, and how it would be."""
    return Finding(name, "missing", "not installed", mend)


def package_version(package: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def output_of(*command: str) -> str:
    """What a command prints; a command that fails may print nothing."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    return done.stdout
