"""What a benchmark says: frozen dataclasses, and their JSON form ``result.json``.

This is the one definition of that file's schema; it is read with the manifest's own reader, so a
file that loads is complete. Samples are kept, so that two files can be compared later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg._files import atomic_file
from edgeseg.bench.record_file import read_record
from edgeseg.spec import to_json

__all__ = [
    "SCHEMA_VERSION",
    "AccuracyRecord",
    "BenchResult",
    "BoundRecord",
    "CandidateRecord",
    "ConcurrencyRecord",
    "EndToEndRecord",
    "EnergyRecord",
    "LimitsRecord",
    "MachineRecord",
    "read_result",
    "write_result",
]

SCHEMA_VERSION = 1

_MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class MachineRecord:
    """The machine, as far as it tells."""

    name: str
    """Board, processor, operating system."""
    cpu: str
    cores: int
    """Processors that this process may use."""
    isa: tuple[str, ...]
    """What of the processor's instructions matters here: ``avx2``, ``avx512_vnni``, ``amx_int8``,
    ``asimddp``..."""
    memory_gib: float
    governor: str | None
    power_mode: str | None
    """Of a Jetson, by ``nvpmodel``."""
    throttling: str | None
    """What the machine says of throttling during the run; None where it says nothing."""
    versions: Mapping[str, str]
    """Library name to version: what was used."""


@dataclass(frozen=True)
class ConcurrencyRecord:
    """Throughput with so many requests in flight."""

    requests: int
    fps: float
    p50_ms: float


@dataclass(frozen=True)
class AccuracyRecord:
    """The very same artifact at the same run-time precision on the validation cases."""

    cases: int
    against: str
    """``labels``, or ``fp32`` where the data has no masks."""
    dice: float
    iou: float
    hd95_px: float | None
    worst_case: str
    worst_dice: float


@dataclass(frozen=True)
class EnergyRecord:
    """Energy while the candidate ran."""

    source: str
    """``RAPL package``, ``INA3221 VDD_IN``..."""
    mj_per_frame: float
    mean_w: float


@dataclass(frozen=True)
class BoundRecord:
    """The shortest time in which this machine can do the graph's operations and move its bytes.

    Attributes:
        gop: billions of operations (two a multiply-add) of matrix products and convolutions, by the
            arithmetic in which this candidate does them: ``int8``, ``bf16``, ``fp32``.
        bytes_mib: weights, inputs and outputs, each moved once.
        compute_ms: operations of each arithmetic at the best rate measured for it.
        memory_ms: the bytes at the measured bandwidth.
        share: the larger of both over the median latency of the network alone, 0 to 1.
    """

    gop: Mapping[str, float]
    bytes_mib: float
    compute_ms: float
    memory_ms: float
    share: float


@dataclass(frozen=True)
class LimitsRecord:
    """What the machine can do, measured in the same run.

    Attributes:
        gops: best rate of a matrix product, billions of operations a second, by arithmetic.
        bandwidth_gib_s: of a copy that fits no cache, bytes read and written.
        threads: with which both were measured.
        how: in words.
    """

    gops: Mapping[str, float]
    bandwidth_gib_s: float
    threads: int
    how: str


@dataclass(frozen=True)
class CandidateRecord:
    """One way to run the checkpoint, and what was measured of it."""

    name: str
    """``edgeseg`` (with the variant behind a blank), or that of ``--vs``."""
    version: str
    how: str
    """How the library was used, in one sentence: its most natural use."""
    precision: str
    """Arithmetic that really ran: ``INT8 products, rest float32``."""
    threads: int
    samples_ms: tuple[tuple[float, ...], ...] = ()
    """Latency of each call by round, in the order in which they were made: of the network, and
    where it reads several views of their fusion to the mask on the model's grid as well."""
    load_ms: float | None = None
    """From files on disk to the first answer, in a process of its own."""
    peak_rss_mib: float | None = None
    """Highest resident memory of that process."""
    file_mib: float | None = None
    throughput: tuple[ConcurrencyRecord, ...] = ()
    accuracy: AccuracyRecord | None = None
    energy: EnergyRecord | None = None
    bound: BoundRecord | None = None
    unavailable: str | None = None
    """Why it was not measured; None where it was."""


@dataclass(frozen=True)
class EndToEndRecord:
    """Capture to overlay on a real video.

    Attributes:
        video: file name without folders.
        frames: drawn.
        paced: whether frames came at the video's own rate, as from a camera.
        samples_ms: age of each frame when its overlay was drawn.
        stages_ms: medians by stage: ``preprocess``, ``inference``, ``readout``, ``overlay``; over
            a GPU ``submit`` and ``collect``.
        fps: frames drawn a second.
        dropped: where paced: frames that a newer one replaced before the pipeline could take them.
        late: where paced: frames that were decoded only after they were due.
    """

    video: str
    frame_hw_px: tuple[int, int]
    frames: int
    paced: bool
    samples_ms: tuple[float, ...]
    stages_ms: Mapping[str, float]
    fps: float
    dropped: int = 0
    late: int = 0


@dataclass(frozen=True)
class BenchResult:
    """Everything that one ``edgeseg bench`` measured.

    Attributes:
        subject: name of the bundle or checkpoint.
        input_hw_px: of the network.
        rewrites: names of the exact rewrites in edgeseg's graph.
        stages_ms: of edgeseg's frame: ``preprocess``, ``inference``, ``readout``, ``total``; each
            with the summary of ``edgeseg.bench.stats``.
        blocks: of the profile, as ``BlockTable.record``; None if not asked for.
        frame_path: over a GPU, as ``FrameRate.record``; None where the engine works on the host.
    """

    schema_version: int
    edgeseg_version: str
    date_utc: str
    command: str
    subject: str
    checkpoint_sha256: str
    family: str
    input_hw_px: tuple[int, int]
    frame_hw_px: tuple[int, int]
    rewrites: tuple[str, ...]
    machine: MachineRecord
    candidates: tuple[CandidateRecord, ...]
    stages_ms: Mapping[str, Mapping[str, float]]
    limits: LimitsRecord | None = None
    blocks: Mapping[str, Any] | None = None
    frame_path: Mapping[str, Any] | None = None
    end_to_end: EndToEndRecord | None = None
    notes: tuple[str, ...] = ()
    """What a reader has to know: what was left out, and why."""


def write_result(path: Path, result: BenchResult) -> None:
    """Write ``result.json``, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(to_json(result), indent=1) + "\n", encoding="utf-8")


def read_result(path: Path) -> BenchResult:
    """Read a ``result.json``.

    Raises:
        InputError: it is missing, too large, no JSON, of another schema, or incomplete.
    """
    return read_record(
        BenchResult,
        path,
        schema_version=SCHEMA_VERSION,
        max_bytes=_MAX_BYTES,
        what="benchmark result",
        remedy="measure again with `edgeseg bench BUNDLE -o FOLDER`",
    )
