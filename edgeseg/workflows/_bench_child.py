"""Load time and peak memory: ``python -m edgeseg.workflows._bench_child SPEC.json``.

Both mean something in a process of its own alone, which has loaded nothing else. The clock starts
when the candidate's files are opened, with numpy, OpenCV and edgeseg imported and no library of the
candidate's, and stops at its first answer.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import model as models
from edgeseg._progress import Progress, silent
from edgeseg.backends.base import Hint
from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.engine_candidate import EngineCandidate
from edgeseg.bench.graph_candidate import GraphSpec
from edgeseg.bench.peers import CandidateSpec
from edgeseg.errors import BackendError, EdgesegError
from edgeseg.spec import Precision, from_json, to_json
from edgeseg.workflows import _peers
from edgeseg.workflows._opening import FRAMES_WORTH_TUNING, open_for_job

__all__ = ["ChildFigures", "EngineSpec", "Spec", "calibrate_threads", "measure_child", "open_spec"]

MORE_CALLS = 10
"""After the first answer, so that memory which is kept for later calls shows."""
_TIMEOUT_S = 1800
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class EngineSpec:
    """How to open edgeseg's own candidate: the arguments of ``edgeseg.open``."""

    bundle: str
    backend: str
    device: str
    precision: Precision | None
    threads: int | None

    def open(self, *, hint: Hint = "latency", profile: bool = False) -> EngineCandidate:
        """Open it; raises what ``edgeseg.open`` raises."""
        return EngineCandidate(
            models.open(
                self.bundle,
                backend=self.backend,
                device=self.device,
                precision=self.precision,
                threads=self.threads,
                hint=hint,
                profile=profile,
            )
        )


def calibrate_threads(spec: EngineSpec, progress: Progress = silent) -> None:
    """Calibrate threads and cores for what ``spec`` opens from now on, unless that is done.

    The answer is in this machine's cache, where another process finds it too. Off the CPU, and
    where ``spec`` names its threads, there is nothing to calibrate.

    Raises:
        EdgesegError: as ``edgeseg.open``.
    """
    open_for_job(
        spec.bundle,
        FRAMES_WORTH_TUNING,
        backend=spec.backend,
        device=spec.device,
        precision=spec.precision,
        threads=spec.threads,
        progress=progress,
    ).close()


Spec = EngineSpec | GraphSpec | CandidateSpec
"""How to open any candidate, here or in another process."""


@dataclass(frozen=True)
class ChildFigures:
    """What the child says."""

    load_ms: float
    peak_rss_mib: float


@dataclass(frozen=True)
class _Task:
    """What the child is told; one of ``engine``, ``graph`` and ``peer`` is set."""

    tensors: str
    """A file of ``numpy.savez``: the inputs by name."""
    more_calls: int
    engine: EngineSpec | None = None
    graph: GraphSpec | None = None
    peer: CandidateSpec | None = None


def open_spec(spec: Spec) -> Candidate:
    """Open edgeseg's candidate or a peer; raises what each of them raises."""
    return _peers.open_candidate(spec) if isinstance(spec, CandidateSpec) else spec.open()


def measure_child(
    name: str, spec: Spec, tensors: Mapping[str, Array], *, more_calls: int = MORE_CALLS
) -> ChildFigures:
    """Open a candidate in a process of its own and let it answer a few times.

    Args:
        name: of the candidate, for messages.
        spec: how to open it.
        tensors: its inputs.
        more_calls: after the first.

    Raises:
        BackendError: the process failed, was killed, or did not end in half an hour.
    """
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="edgeseg-bench-") as folder:
        inputs, task = Path(folder) / "tensors.npz", Path(folder) / "task.json"
        named: dict[str, Any] = dict(tensors)
        np.savez(inputs, **named)
        told = _Task(
            str(inputs),
            more_calls,
            engine=spec if isinstance(spec, EngineSpec) else None,
            graph=spec if isinstance(spec, GraphSpec) else None,
            peer=spec if isinstance(spec, CandidateSpec) else None,
        )
        task.write_text(json.dumps(to_json(told)), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "edgeseg.workflows._bench_child", str(task)],
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise BackendError(
                f"{name}: no answer within {_TIMEOUT_S} s in a process of its own"
            ) from error
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BackendError(f"{name} fails in a process of its own: {words[-1]}")
    # Libraries may print while they load; the answer is the last line.
    return from_json(ChildFigures, json.loads(lines[-1]), where="the child's answer")


def _measure(task: _Task) -> ChildFigures:
    spec = task.engine or task.graph or task.peer
    if spec is None:
        raise BackendError("the task names no candidate")
    with np.load(task.tensors, allow_pickle=False) as arrays:
        tensors = {name: arrays[name] for name in arrays.files}
    start = time.perf_counter()
    with open_spec(spec) as candidate:
        candidate.infer(tensors)
        load_ms = 1e3 * (time.perf_counter() - start)
        for _ in range(task.more_calls):
            candidate.infer(tensors)
        return ChildFigures(load_ms, _peak_rss_mib())


def _peak_rss_mib() -> float:
    """Highest resident memory of this process so far.

    Linux hands ``ru_maxrss`` of the process that forked on to its child, so the kernel's own mark
    of this address space is read where there is one.
    """
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2.0**20 if sys.platform == "darwin" else 2.0**10)


def main(path: str) -> int:
    """Do what the task in the file ``path`` says, and print the answer; returns the exit code."""
    value = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        figures = _measure(from_json(_Task, value, where="task"))
    except EdgesegError as error:
        sys.stderr.write("\n" + " ".join(str(error).split()) + "\n")
        return 1
    sys.stdout.write("\n" + json.dumps(to_json(figures)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
