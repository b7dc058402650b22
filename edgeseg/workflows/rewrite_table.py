"""``python -m edgeseg.workflows.rewrite_table -o FILE.json``: what the exact rewrites gain.

Untrained checkpoints are exported in FP32 with the rewrites and without, and both graphs are timed
in turn on OpenVINO (in float32) and on ONNX Runtime: what any compiler makes of the authors'
algebra, against the same compiler on the rewritten one.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from edgeseg import __version__
from edgeseg._files import check_output
from edgeseg._linux import usable_cores
from edgeseg._progress import Progress, silent
from edgeseg.backends import available_backends
from edgeseg.bench.candidate import Array
from edgeseg.bench.graph_candidate import GraphSpec
from edgeseg.bench.machine import ThrottleWatch, describe_machine
from edgeseg.bench.rewrite_gain import (
    SCHEMA_VERSION,
    GainRow,
    GainTable,
    write_gains,
)
from edgeseg.bench.rounds import measure_rounds
from edgeseg.bench.stats import ratio
from edgeseg.bench.work import count_work
from edgeseg.errors import EdgesegError, UsageError
from edgeseg.workflows._untrained import check_models, names_of, sizes_of, untrained_checkpoint

__all__ = ["main", "rewrite_table"]

DEFAULT_FAMILIES = ("segdino_v1", "segdino_v2")
DEFAULT_BACKBONE = "small"
DEFAULT_SIZES_PX = (256,)
DEFAULT_DURATION_S = 20.0

_LIBRARIES = ("openvino", "onnxruntime", "torch", "onnx", "numpy")
_PLAIN, _REWRITTEN = "plain", "rewritten"


def rewrite_table(
    output: Path,
    *,
    families: Sequence[str] = DEFAULT_FAMILIES,
    backbone: str = DEFAULT_BACKBONE,
    sizes_px: Sequence[int] = DEFAULT_SIZES_PX,
    threads: int | None = None,
    duration_s: float = DEFAULT_DURATION_S,
    command: str = "",
    progress: Progress = silent,
) -> GainTable:
    """Measure every family at every size on every installed library.

    Args:
        output: JSON file to write; it is replaced.
        families: identifiers.
        backbone: of ``edgeseg.export.random_checkpoint.BACKBONES``.
        sizes_px: heights, and widths, of the network's input.
        threads: CPU threads of each engine; None: all that this process may use.
        duration_s: of timing on each library; three rounds are taken at least.
        command: for the record.
        progress: called with (stage, done, total).

    Raises:
        UsageError: an unknown or repeated name, or a size that a family cannot take.
        UnknownFamilyError: no such family; lists those that are.
        MissingDependencyError: torch is not installed.
        OutputError: the file cannot be written.
        ExportError, BackendError: a graph cannot be made or run.
    """
    for family in families:
        check_models(family, (backbone,), sizes_px)
    if not families or len(set(families)) != len(families):
        raise UsageError(f"name each family once, got {', '.join(families) or 'none'}")
    if not 0.0 < duration_s < float("inf"):
        raise UsageError(f"the duration must be a positive number of seconds, got {duration_s}")
    check_output(output, force=True)
    used = threads or usable_cores()
    watch = ThrottleWatch()
    rows: list[GainRow] = []
    for family in families:
        with tempfile.TemporaryDirectory(prefix="edgeseg-rewrites-") as name:
            checkpoint = untrained_checkpoint(Path(name), family, backbone)
            for size_px in sizes_px:
                rows += _rows(
                    checkpoint,
                    family=family,
                    backbone=backbone,
                    size_px=size_px,
                    threads=used,
                    duration_s=duration_s,
                    progress=progress,
                )
                watch.look()
    table = GainTable(
        schema_version=SCHEMA_VERSION,
        edgeseg_version=__version__,
        date_utc=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=command,
        machine=describe_machine(_LIBRARIES, throttling=watch.verdict()),
        threads=used,
        rows=tuple(rows),
    )
    write_gains(output, table)
    return table


def _rows(
    checkpoint: Path,
    *,
    family: str,
    backbone: str,
    size_px: int,
    threads: int,
    duration_s: float,
    progress: Progress,
) -> Iterator[GainRow]:
    """One row for each library."""
    from edgeseg import export

    title = f"{family} {backbone} {size_px}x{size_px}"
    loaded = export.load(checkpoint)
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as name:
        graphs = {}
        for kind in (_PLAIN, _REWRITTEN):
            graphs[kind] = export.export_onnx(
                loaded,
                Path(name) / f"{kind}.onnx",
                height_px=size_px,
                width_px=size_px,
                rewrite=kind == _REWRITTEN,
                progress=partial(progress, f"{title}: export {kind}"),
            )
        gop = {kind: sum(count_work(graph.path).gop.values()) for kind, graph in graphs.items()}
        generator = np.random.default_rng(0)
        tensors: Mapping[str, Array] = {
            spec.name: generator.standard_normal(spec.shape, dtype=np.float32)
            for spec in graphs[_PLAIN].inputs
        }
        for backend in available_backends():
            with ExitStack() as stack:
                opened = {
                    kind: stack.enter_context(
                        GraphSpec(kind, str(graph.path), backend, threads).open()
                    )
                    for kind, graph in graphs.items()
                }
                samples = measure_rounds(
                    {kind: partial(one.infer, tensors) for kind, one in opened.items()},
                    duration_s=duration_s,
                    progress=progress,
                    stage=f"{title}: {backend}",
                )
            found = ratio(samples[_PLAIN], samples[_REWRITTEN], paired=True)
            yield GainRow(
                family=family,
                backbone=backbone,
                input_hw_px=(size_px, size_px),
                backend=opened[_PLAIN].version,
                rewrites=tuple(dict.fromkeys(one.name for one in graphs[_REWRITTEN].rewrites)),
                gop_plain=gop[_PLAIN],
                gop_rewritten=gop[_REWRITTEN],
                plain_ms=samples[_PLAIN],
                rewritten_ms=samples[_REWRITTEN],
                times_as_fast=found.value,
                low=found.low,
                high=found.high,
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and print; returns the exit code."""
    from edgeseg.bench.terminal import show_error, show_progress, show_table

    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.workflows.rewrite_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--family", default=",".join(DEFAULT_FAMILIES), metavar="A,B", help="(default: %(default)s)"
    )
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, help="(default: %(default)s)")
    parser.add_argument(
        "--sizes",
        default=",".join(map(str, DEFAULT_SIZES_PX)),
        metavar="A,B",
        help="sides of the square input in pixels (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads of each engine (default: all)")
    parser.add_argument(
        "--duration",
        type=float,
        default=DEFAULT_DURATION_S,
        metavar="S",
        help="seconds of timing on each library; three rounds at least (default: %(default)s)",
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    try:
        with show_progress() as progress:
            table = rewrite_table(
                options.output,
                families=names_of(options.family),
                backbone=options.backbone,
                sizes_px=sizes_of(options.sizes),
                threads=options.threads,
                duration_s=options.duration,
                command=shlex.join(["python", "-m", "edgeseg.workflows.rewrite_table", *words]),
                progress=progress,
            )
    except EdgesegError as error:
        show_error(error)
        return error.exit_code
    columns, rows = table.table()
    show_table("rewritten against plain, float32", columns, rows, table.remarks())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
