"""Times of the nodes of an ONNX Runtime session, by its profile."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeseg.backends.base import LayerTime

__all__ = ["measure"]

_SUFFIX = "_kernel_time"


def measure(
    open_session: Callable[[str], Any], run: Callable[[Any], object], rounds: int
) -> tuple[LayerTime, ...]:
    """Median times of the nodes of the optimised graph, in the order in which they run.

    Args:
        open_session: opens a session that writes its profile to files of this prefix.
        run: runs it once.
        rounds: runs that count; one goes ahead.
    """
    with tempfile.TemporaryDirectory(prefix="edgeseg-profile-") as folder:
        session = open_session(str(Path(folder) / "profile"))
        for _ in range(rounds + 1):
            run(session)
        written = Path(session.end_profiling())
        # It holds names and times alone, and goes with its folder.
        events = json.loads(written.read_text(encoding="utf-8"))
    times: dict[tuple[str, str], list[float]] = {}
    kinds: dict[tuple[str, str], str] = {}
    for event in sorted(events, key=lambda event: int(event.get("ts", 0))):
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_SUFFIX):
            continue
        notes = event["args"]
        key = (name.removesuffix(_SUFFIX), str(notes.get("node_index", "")))
        times.setdefault(key, []).append(1e-3 * float(event["dur"]))
        kinds[key] = str(notes.get("op_name", ""))
    return tuple(
        LayerTime(key[0], kinds[key], statistics.median(values[1:]))
        for key, values in times.items()
        if len(values) > 1
    )
