"""``benchmark``: a bundle or checkpoint measured on this machine, beside other libraries."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeseg import synthetic
from edgeseg._files import atomic_directory, check_output
from edgeseg._progress import Progress, silent
from edgeseg.bench.compare import Comparison, compare
from edgeseg.bench.page import check_drawing, render_page
from edgeseg.bench.result import BenchResult, read_result, write_result
from edgeseg.bench.rounds import MIN_ROUNDS
from edgeseg.errors import OutputError, UsageError
from edgeseg.spec import Precision
from edgeseg.video import open_source
from edgeseg.video.source import media_kind
from edgeseg.workflows._bench_child import EngineSpec, calibrate_threads
from edgeseg.workflows._bench_measure import Effort
from edgeseg.workflows._bench_run import Bench, BenchReport
from edgeseg.workflows._bench_source import check_arguments, open_subject
from edgeseg.workflows._validate import Validation

__all__ = ["PAGE_FILE", "RESULT_FILE", "BenchReport", "benchmark", "compare_results"]

RESULT_FILE = "result.json"
PAGE_FILE = "report.html"
DEFAULT_ROUNDS = 20


def benchmark(
    source: str | Path,
    *,
    vs: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    data: str | Path | None = None,
    val: str | Path | None = None,
    rounds: int | None = None,
    duration_s: float | None = None,
    backend: str = "auto",
    device: str = "auto",
    precisions: Sequence[Precision] = (),
    threads: int | None = None,
    frame_hw_px: tuple[int, int] = (720, 1280),
    profile: bool = False,
    end_to_end: str | Path | None = None,
    output: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> BenchReport:
    """Measure a bundle or a checkpoint on this machine, beside what else could run it.

    All candidates are loaded by one process and answer the same preprocessed frame in turn. Load
    time and memory come from a process for each of them; accuracy from the very engines that were
    timed.

    Args:
        source: the folder ``NAME.edgeseg``, or a checkpoint, of which a bundle is made for the
            measurement alone: INT8 with ``data``, FP32 without.
        vs: peers by the names in ``edgeseg.bench.peers.PEERS``, each built from the checkpoint.
        checkpoint: the file that a bundle was built from; peers need it.
        data: calibration data, for a checkpoint's INT8 and for the peer ``nncf``.
        val: validation data: with masks all are scored against them, without against FP32.
        rounds: how often candidates take turns, at least 3; None for 20, or for ``duration_s``.
        duration_s: instead of ``rounds``: for how long, all candidates together.
        backend: as for ``edgeseg.open``.
        device: as for ``edgeseg.open``; peers run on the CPU.
        precisions: of edgeseg's candidates, each of which is measured; none: as built.
        threads: CPU threads of each candidate; None: for edgeseg as a calibration says that is
            made once for each variant on this machine (``edgeseg.tuning``), for peers one for each
            physical core.
        frame_hw_px: height and width of the frame, which is generated.
        profile: time the layers of the first engine as well, and sum them up by part of the model.
        end_to_end: a video: its first minute goes from capture to overlay at its own rate.
        output: folder to write ``result.json`` and ``report.html`` to.
        force: replace an existing output folder.
        progress: called with (stage, done, total).

    Raises:
        UsageError: arguments that contradict each other, an unknown peer, another checkpoint than
            the bundle's.
        MissingDependencyError: a peer's library, or matplotlib for the page, is not installed.
        CalibrationError: calibration data is wanted and missing, or overlaps with ``val``.
        OutputError: the output exists (without ``force``), is something else than an earlier
            benchmark, or cannot be written.
        BackendError: a candidate cannot be opened, or fails. Nothing was measured if it cannot be
            opened.
    """
    effort = _effort(rounds, duration_s)
    source = Path(source)
    checkpoint, data, val = (None if p is None else Path(p) for p in (checkpoint, data, val))
    check_arguments(
        source,
        vs=vs,
        checkpoint=checkpoint,
        data=data,
        backend=backend,
        device=device,
        precisions=precisions,
    )
    folder = None if output is None else Path(output)
    if folder is not None:
        _check_folder(folder, force=force)
    video = None if end_to_end is None else Path(end_to_end)
    if video is not None:
        _check_video(video)
    validation = None if val is None else Validation.open(val)
    frame = synthetic.golden_frames(1, *frame_hw_px)[0]
    started = datetime.datetime.now(datetime.timezone.utc)
    with contextlib.ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeseg-bench-")))
        subject = open_subject(
            source,
            temporary,
            checkpoint=checkpoint,
            data=data,
            val=val,
            precisions=precisions,
            threads=threads,
            progress=progress,
        )
        path = str(subject.bundle.path)
        specs = [
            EngineSpec(path, backend, device, precision, threads)
            for precision in precisions or (None,)
        ]
        if threads is None:
            # Before any engine of the measurement is open.
            for spec in specs:
                calibrate_threads(spec, progress)
        bench = Bench(stack, subject, frame, effort, progress)
        for spec in specs:
            bench.open(spec)
        if vs:
            bench.open_peers(vs, temporary, data=data, validation=val, threads=threads)
        report = bench.measure(validation, video, profile=profile)
    command = _command(
        source.name,
        str(effort),
        vs=",".join(vs),
        val=val.name if val is not None else "",
        backend=backend.removeprefix("auto"),
        precision=" --precision ".join(precisions),
        threads=str(threads or ""),
    )
    result = dataclasses.replace(
        report.result, command=command, date_utc=started.isoformat(timespec="seconds")
    )
    if folder is not None:
        _write(folder, result, force=force)
    return dataclasses.replace(report, result=result, output=folder)


def compare_results(a: str | Path, b: str | Path) -> Comparison:
    """Compare two results; see ``edgeseg.bench.compare``.

    Args:
        a: a ``result.json``, the baseline.
        b: another.

    Raises:
        InputError: one of them cannot be read.
    """
    return compare(read_result(Path(a)), read_result(Path(b)))


def _effort(rounds: int | None, duration_s: float | None) -> Effort:
    if rounds is not None and duration_s is not None:
        raise UsageError("--rounds and --duration both say how long to measure: give one")
    if rounds is not None and rounds < MIN_ROUNDS:
        raise UsageError(
            f"rounds must be at least {MIN_ROUNDS}, got {rounds}: what is noise is told from how "
            "rounds differ"
        )
    if duration_s is not None and not 0.0 < duration_s < float("inf"):
        raise UsageError(f"the duration must be a positive number of seconds, got {duration_s}")
    return Effort(rounds if rounds or duration_s else DEFAULT_ROUNDS, duration_s)


def _check_video(path: Path) -> None:
    """Refuse what is no video, or cannot be read, before anything is measured."""
    if media_kind(path) != "video":
        raise UsageError(f"--end-to-end needs a video, and {path} is none")
    with open_source(path):
        pass


def _check_folder(folder: Path, *, force: bool) -> None:
    """Refuse, before minutes of measuring, what could not be written in the end."""
    check_output(folder, force=force)
    check_drawing()
    if not folder.exists() or (folder / RESULT_FILE).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise OutputError(
            f"{folder} is no earlier benchmark (it holds no {RESULT_FILE}), so it is not "
            "replaced: choose another output"
        )


def _write(folder: Path, result: BenchResult, *, force: bool) -> None:
    page = render_page(result)
    with atomic_directory(folder, force=force) as temporary:
        write_result(temporary / RESULT_FILE, result)
        (temporary / PAGE_FILE).write_text(page, encoding="utf-8")


def _command(*words: str, **options: str) -> str:
    """The command line without folders, whose names may identify a patient."""
    given = [f"--{name} {value}" for name, value in options.items() if value]
    return " ".join(("edgeseg bench", *words, *given))
