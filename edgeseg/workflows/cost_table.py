"""``python -m edgeseg.workflows.cost_table -o FOLDER``: what a frame costs as the work grows.

For each backbone and input size an untrained checkpoint is written, exported, quantised on a few
generated frames (latency does not depend on the weights, and accuracy is not looked at here), and
timed in turn with baselines that are made from the same checkpoint. ``FOLDER/cost.json`` is written
after each cell; a later call measures the cells that are missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

from edgeseg import __version__, synthetic
from edgeseg._files import check_output
from edgeseg._linux import usable_cores
from edgeseg._progress import Progress, silent
from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.cost import (
    COST_FILE,
    SCHEMA_VERSION,
    CostRow,
    CostTable,
    read_cost,
    write_cost,
)
from edgeseg.bench.graph_candidate import GraphCandidate, GraphSpec
from edgeseg.bench.limits import measure_limits
from edgeseg.bench.machine import ThrottleWatch, describe_machine
from edgeseg.bench.peers import CandidateSpec, require_library
from edgeseg.bench.result import CandidateRecord, LimitsRecord, MachineRecord
from edgeseg.bench.rounds import Rounds, measure_rounds
from edgeseg.bench.stats import summary_ms
from edgeseg.errors import BackendError, EdgesegError, UsageError
from edgeseg.preprocess import Preprocessor
from edgeseg.spec import BackendName, PreprocessSpec
from edgeseg.workflows._bench_bound import bound_of, graph_of
from edgeseg.workflows._bench_child import Spec, measure_child
from edgeseg.workflows._peers import open_candidate, peer_specs
from edgeseg.workflows._untrained import (
    check_models,
    check_once,
    names_of,
    sizes_of,
    untrained_checkpoint,
)

__all__ = ["DEFAULT_BACKBONES", "DEFAULT_SIZES_PX", "DEFAULT_VS", "cost_table", "main"]

DEFAULT_FAMILY = "segdino_v1"
DEFAULT_BACKBONES = ("small", "base", "large")
DEFAULT_SIZES_PX = (192, 256, 384, 512, 768)
DEFAULT_VS = ("onnxruntime", "openvino")
DEFAULT_BUDGET_S = 20.0

OWN = "edgeseg int8"
_BACKEND: BackendName = "openvino"
_REST = {"fp32": "float32", "fp16": "float16"}
_LIBRARIES = ("openvino", "onnxruntime", "torch", "nncf", "numpy", "onnx")
_FRAMES = 4
_FRAME_HW_PX = (240, 320)
_BLOCK = 5
_WANTED_ROUNDS = 8
_CHILD_CALLS = 1
"""After the first, in the process that tells the memory: the large models take seconds each."""


@dataclass(frozen=True)
class _Cell:
    """What is measured next, and with what."""

    family: str
    backbone: str
    size_px: int
    checkpoint: Path
    folder: Path
    """For its files, which are deleted afterwards."""
    vs: tuple[str, ...]
    threads: int
    budget_s: float
    limits: LimitsRecord
    progress: Progress

    @property
    def title(self) -> str:
        """For progress and notes."""
        return f"{self.family} {self.backbone} {self.size_px}x{self.size_px}"

    def report(self, stage: str, done: int, total: int) -> None:
        """Progress, under the name of the cell."""
        self.progress(f"{self.title}: {stage}", done, total)


@dataclass(frozen=True)
class _Graphs:
    """What edgeseg and the measurement need of a cell."""

    own: GraphSpec
    preprocess: PreprocessSpec
    tensors: Mapping[str, Array]
    tokens: int


def cost_table(
    output: Path,
    *,
    family: str = DEFAULT_FAMILY,
    backbones: Sequence[str] = DEFAULT_BACKBONES,
    sizes_px: Sequence[int] = DEFAULT_SIZES_PX,
    vs: Sequence[str] = DEFAULT_VS,
    threads: int | None = None,
    budget_s: float = DEFAULT_BUDGET_S,
    command: str = "",
    progress: Progress = silent,
) -> CostTable:
    """Measure the cells that ``output/cost.json`` does not hold yet, the smallest first.

    Args:
        output: folder, made if it is missing.
        family: one that reads a frame once, at any size: ``segdino_v1``, ``segdino_v2``.
        backbones: of ``edgeseg.export.random_checkpoint.BACKBONES``.
        sizes_px: heights, and widths, of the network's input.
        vs: baselines, of ``edgeseg.bench.peers.PEERS``.
        threads: CPU threads of each candidate; None: all that this process may use.
        budget_s: for the timing of one cell. Each candidate is called three rounds at least, which
            with large models takes longer.
        command: for the record.
        progress: called with (stage, done, total).

    Returns:
        All cells of the file, also those of earlier calls.

    Raises:
        UsageError: an unknown or repeated name, a size that the family cannot take, or a folder
            with cells of another machine, other versions or another number of threads.
        UnknownFamilyError: no such family; lists those that are.
        MissingDependencyError: a baseline's library, or torch, is not installed.
        InputError: ``cost.json`` is there and cannot be read.
        OutputError: the folder cannot be written.
        ExportError, CalibrationError, BackendError: edgeseg's own graph cannot be made or run.
    """
    _check(family, backbones, sizes_px, vs, budget_s)
    used = threads or usable_cores()
    check_output(output / COST_FILE, force=True)
    watch = ThrottleWatch()
    machine = describe_machine(_LIBRARIES)
    if (output / COST_FILE).exists():
        table = read_cost(output)
        _check_same(table, machine, used, output)
    else:
        table = CostTable(
            schema_version=SCHEMA_VERSION,
            edgeseg_version=__version__,
            date_utc="",
            command="",
            machine=machine,
            threads=used,
            budget_s=budget_s,
            limits=measure_limits(used, progress=progress),
        )
    wanted = (OWN, *vs)
    for backbone in backbones:
        missing = [
            size_px
            for size_px in sorted(sizes_px)
            if not (row := table.row(family, backbone, (size_px, size_px))) or not row.holds(wanted)
        ]
        if not missing:
            continue
        with tempfile.TemporaryDirectory(prefix=".cost-", dir=output) as name:
            checkpoint = untrained_checkpoint(Path(name), family, backbone)
            thresholds: dict[str, float] = {}
            for size_px in missing:
                with tempfile.TemporaryDirectory(dir=name) as folder:
                    cell = _Cell(
                        family=family,
                        backbone=backbone,
                        size_px=size_px,
                        checkpoint=checkpoint,
                        folder=Path(folder),
                        vs=tuple(vs),
                        threads=used,
                        budget_s=budget_s,
                        limits=table.limits,
                        progress=progress,
                    )
                    row, notes = _measure(cell, thresholds)
                watch.look()
                table = dataclasses.replace(
                    _with_row(table, row, notes, cell.title),
                    edgeseg_version=__version__,
                    date_utc=datetime.datetime.now(datetime.timezone.utc).isoformat(
                        timespec="seconds"
                    ),
                    command=command,
                    machine=dataclasses.replace(machine, throttling=watch.verdict()),
                    budget_s=budget_s,
                )
                write_cost(output, table)
    return table


def _check(
    family: str,
    backbones: Sequence[str],
    sizes_px: Sequence[int],
    vs: Sequence[str],
    budget_s: float,
) -> None:
    """Refuse what cannot be meant, before minutes are spent."""
    check_models(family, backbones, sizes_px)
    check_once("baseline", vs)
    if not 0.0 < budget_s < float("inf"):
        raise UsageError(f"the budget must be a positive number of seconds, got {budget_s}")
    for peer in vs:
        require_library(peer)


def _check_same(table: CostTable, machine: MachineRecord, threads: int, output: Path) -> None:
    """Cells of one table must be comparable."""
    then, now = ((one.cpu, one.cores, dict(one.versions)) for one in (table.machine, machine))
    if then != now or table.threads != threads:
        raise UsageError(
            f"{output / COST_FILE} was measured on another machine, with other versions or with "
            f"another number of threads ({table.threads} on {table.machine.cpu}): measure into "
            "another folder"
        )


def _with_row(table: CostTable, row: CostRow, notes: Sequence[str], title: str) -> CostTable:
    """The table with a cell put in, in the order of backbones' and inputs' sizes."""
    from edgeseg.export.random_checkpoint import BACKBONES

    key = (row.family, row.backbone, row.input_hw_px)
    others = [o for o in table.rows if (o.family, o.backbone, o.input_hw_px) != key]
    order = list[str](BACKBONES)
    return dataclasses.replace(
        table,
        rows=tuple(
            sorted([*others, row], key=lambda r: (r.family, order.index(r.backbone), r.input_hw_px))
        ),
        notes=(
            *(note for note in table.notes if not note.startswith(f"{title}: ")),
            *(f"{title}: {note}" for note in notes),
        ),
    )


def _measure(cell: _Cell, thresholds: dict[str, float]) -> tuple[CostRow, tuple[str, ...]]:
    """One cell, and what there is to say of its baselines."""
    graphs = _make_graphs(cell, thresholds)
    peers = _make_peers(cell, graphs.preprocess)
    refused = {spec.kind: spec.unavailable for spec in peers if spec.unavailable is not None}
    with ExitStack() as stack:
        opened: list[Candidate] = [stack.enter_context(graphs.own.open())]
        for spec in peers:
            if spec.kind in refused:
                continue
            try:
                opened.append(stack.enter_context(open_candidate(spec)))
            except BackendError as error:
                refused[spec.kind] = str(error)
        samples = _timed(cell, opened, graphs.tensors)
        records = {
            one.name: _record(cell, one, samples[one.name], graphs.own, peers) for one in opened
        }
    # Only now: a second copy of a large model beside those above may not fit.
    specs: dict[str, Spec] = {OWN: graphs.own, **{spec.kind: spec for spec in peers}}
    for done, (name, record) in enumerate(records.items()):
        cell.report("memory", done, len(records))
        child = measure_child(name, specs[name], graphs.tensors, more_calls=_CHILD_CALLS)
        records[name] = dataclasses.replace(
            record, load_ms=child.load_ms, peak_rss_mib=child.peak_rss_mib
        )
    cell.report("memory", len(records), len(records))
    candidates = [records[OWN]]
    for spec in peers:
        reason = refused.get(spec.kind)
        candidates.append(
            records[spec.kind]
            if reason is None
            else CandidateRecord(spec.kind, "", "", "", cell.threads, unavailable=reason)
        )
    row = CostRow(
        family=cell.family,
        backbone=cell.backbone,
        input_hw_px=(cell.size_px, cell.size_px),
        tokens=graphs.tokens,
        candidates=tuple(candidates),
    )
    return row, tuple(note for spec in peers for note in spec.notes)


def _make_graphs(cell: _Cell, thresholds: dict[str, float]) -> _Graphs:
    """Export, calibrate if need be, quantise."""
    from edgeseg import calib, export
    from edgeseg.calib.graph import Graph
    from edgeseg.calib.placement import calibration_tensors
    from edgeseg.export.backbone_config import PATCH_PX

    cell.report("load checkpoint", 0, 1)
    loaded = export.load(cell.checkpoint)
    size = export.InputSize(cell.size_px, cell.size_px)
    fp32 = export.export_onnx(
        loaded,
        cell.folder / "fp32.onnx",
        height_px=cell.size_px,
        width_px=cell.size_px,
        progress=partial(cell.report, "export"),
    )
    preprocess = loaded.family.preprocess(loaded.config, size)
    prefix = loaded.config.backbone.prefix_tokens
    # Its weights, once more beside those of the graph, which is copied when it is quantised.
    del loaded
    frames = [
        Preprocessor(preprocess).tensors(frame)
        for frame in synthetic.golden_frames(_FRAMES, *_FRAME_HW_PX)
    ]
    # Which tensors there are depends on the input's size only where a rewrite does. Ranges of the
    # smallest size serve the others, whose tensors would take gigabytes and minutes to look at.
    if not set(calibration_tensors(Graph.load(fp32.path))) <= set(thresholds):
        ranges = calib.collect_ranges(
            fp32.path,
            frames,
            threads=cell.threads,
            on_frame=lambda done: cell.report("calibrate", done, _FRAMES),
        )
        thresholds.update(ranges.thresholds(calib.DEFAULT_METHOD))
    cell.report("quantise", 0, 1)
    graph = calib.quantize(fp32.path, thresholds, _BACKEND, cell.folder / f"int8-{_BACKEND}.onnx")
    cell.report("quantise", 1, 1)
    return _Graphs(
        own=GraphSpec(
            OWN,
            str(graph.path.absolute()),
            _BACKEND,
            cell.threads,
            f"INT8 products, rest {_REST[graph.rest]}",
        ),
        preprocess=preprocess,
        tensors={spec.name: tensor for spec, tensor in zip(fp32.inputs, frames[0], strict=True)},
        tokens=sum(
            spec.shape[0] * (spec.shape[2] * spec.shape[3] // PATCH_PX**2 + prefix)
            for spec in fp32.inputs
        ),
    )


def _make_peers(cell: _Cell, preprocess: PreprocessSpec) -> list[CandidateSpec]:
    data = None
    if "nncf" in cell.vs:
        data = cell.folder / "frames"
        synthetic.generate_dataset(
            data, _FRAMES, seed=0, height_px=_FRAME_HW_PX[0], width_px=_FRAME_HW_PX[1]
        )
    return peer_specs(
        cell.checkpoint,
        cell.vs,
        folder=cell.folder,
        preprocess=preprocess,
        data=data,
        threads=cell.threads,
        progress=cell.report,
    )


def _timed(
    cell: _Cell, opened: Sequence[Candidate], tensors: Mapping[str, Array]
) -> dict[str, Rounds]:
    """All candidates in turn; where they are slow, with fewer calls in a row."""
    calls = {one.name: partial(one.infer, tensors) for one in opened}
    for call in calls.values():
        call()
    start = perf_counter()
    for call in calls.values():
        call()
    once_s = perf_counter() - start
    # Each block opens with a call that is not counted.
    fits = int(cell.budget_s / (_WANTED_ROUNDS * once_s)) - 1
    return measure_rounds(
        calls,
        duration_s=cell.budget_s,
        block=max(1, min(_BLOCK, fits)),
        warmup=0,
        progress=cell.progress,
        stage=f"{cell.title}: latency",
    )


def _record(
    cell: _Cell,
    candidate: Candidate,
    samples: Rounds,
    own: GraphSpec,
    peers: list[CandidateSpec],
) -> CandidateRecord:
    is_own = isinstance(candidate, GraphCandidate)
    graph = Path(own.file) if is_own else graph_of(candidate, peers)
    files_mib: dict[str, float | None] = {
        spec.kind: spec.file_mib for spec in peers if spec.unavailable is None
    }
    return CandidateRecord(
        name=candidate.name,
        version=candidate.version,
        how=candidate.how,
        precision=candidate.precision,
        threads=candidate.threads,
        samples_ms=samples,
        file_mib=own.file_mib if is_own else files_mib[candidate.name],
        bound=bound_of(candidate, graph, cell.limits, summary_ms(samples)["p50"]),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and print; returns the exit code."""
    from edgeseg.bench.terminal import show_error, show_progress, show_table

    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.workflows.cost_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--family", default=DEFAULT_FAMILY, help=f"(default: {DEFAULT_FAMILY})")
    for name, default, what in (
        ("--backbones", DEFAULT_BACKBONES, "backbones"),
        ("--sizes", DEFAULT_SIZES_PX, "sides of the square input in pixels"),
        ("--vs", DEFAULT_VS, "baselines, or nothing"),
    ):
        shown = ",".join(map(str, default))
        parser.add_argument(name, default=shown, metavar="A,B", help=f"{what} (default: {shown})")
    parser.add_argument("--threads", type=int, help="CPU threads of each candidate (default: all)")
    parser.add_argument(
        "--budget",
        type=float,
        default=DEFAULT_BUDGET_S,
        metavar="S",
        help="seconds of timing for a cell; three rounds are taken at least (default: %(default)s)",
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    try:
        with show_progress() as progress:
            table = cost_table(
                options.output,
                family=options.family,
                backbones=names_of(options.backbones),
                sizes_px=sizes_of(options.sizes),
                vs=names_of(options.vs),
                threads=options.threads,
                budget_s=options.budget,
                command=shlex.join(["python", "-m", "edgeseg.workflows.cost_table", *words]),
                progress=progress,
            )
    except EdgesegError as error:
        show_error(error)
        return error.exit_code
    columns, rows = table.table()
    show_table("cost of a frame", columns, rows, table.remarks())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
