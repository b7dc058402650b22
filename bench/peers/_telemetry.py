"""Keeps OpenVINO's and NNCF's reports to their makers out of a benchmark."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["without_telemetry"]

_PACKAGE = "openvino_telemetry"


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Hide the package that sends them from what is imported here.

    Both libraries send events over the network from their import on, and write into the home
    folder; where the package is missing they do without. What was imported before keeps it.
    """
    modules: dict[str, Any] = sys.modules
    before = modules.get(_PACKAGE)
    modules[_PACKAGE] = None
    try:
        yield
    finally:
        if before is None:
            del modules[_PACKAGE]
        else:
            modules[_PACKAGE] = before
