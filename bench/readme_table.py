"""The README's tables of figures, made from the committed runs; nobody types them.

``python -m edgeseg.bench.readme_table`` writes them between ``<!-- bench:NAME -->`` and
``<!-- /bench:NAME -->``; with ``--check`` it only says whether they are up to date. Runs lie in
``bench/results/RUN/result.json``, tables of cost in ``bench/results/RUN/cost.json``.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from edgeseg._files import atomic_file
from edgeseg.bench.cost import COST_FILE, CostTable, read_cost
from edgeseg.bench.result import BenchResult, CandidateRecord, read_result
from edgeseg.bench.stats import summary_ms
from edgeseg.bench.verdict import Verdict, is_own, judge, measured, peers, reference
from edgeseg.errors import EdgesegError, InputError

__all__ = ["Run", "main", "read_costs", "read_runs", "regenerate", "tables"]

_ROOT = Path(__file__).resolve().parents[1]
_COMMAND = "python -m edgeseg.bench.readme_table"
_NO_RUN = "No run of this is committed."
_MARKER = re.compile(r"<!-- (/?)bench:([\w-]+) -->")

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A committed run: its folder, relative to the README, and what it says."""

    folder: str
    result: BenchResult


def read_runs(results: Path, readme: Path) -> list[Run]:
    """All ``result.json`` beneath ``results``, by the name of their folder.

    Args:
        results: the folder of runs.
        readme: the file whose tables link to them.

    Raises:
        InputError: one cannot be read.
    """
    return [
        Run(_relative(path.parent, readme), read_result(path))
        for path in sorted(results.glob("**/result.json"))
    ]


def read_costs(results: Path, readme: Path) -> list[tuple[str, CostTable]]:
    """All ``cost.json`` beneath ``results`` with their folders, as `read_runs` does.

    Raises:
        InputError: one cannot be read.
    """
    return [
        (_relative(path.parent, readme), read_cost(path.parent))
        for path in sorted(results.glob(f"**/{COST_FILE}"))
    ]


def tables(
    runs: Sequence[Run], costs: Sequence[tuple[str, CostTable]] = ()
) -> dict[str, str | None]:
    """Markdown of each table by its name; None where no run has anything for it."""
    return {"speed": _speed(runs), "rewrites": _rewrites(runs), "cost": _cost(costs)}


def regenerate(page: str, made: Mapping[str, str | None]) -> str:
    """``page`` with every table replaced by the one that was made.

    Args:
        page: text of the README.
        made: by name, as of `tables`.

    Raises:
        InputError: markers do not match, name no table, or are missing for a table that has runs.
    """
    places: list[tuple[str, int, int]] = []
    opened: re.Match[str] | None = None
    for marker in _MARKER.finditer(page):
        closes, name = bool(marker[1]), marker[2]
        if name not in made:
            raise InputError(f"the README has a table {name!r}: there are {', '.join(made)}")
        if closes != (opened is not None) or (opened is not None and opened[2] != name):
            raise InputError(f"the README's marker {marker.group()} has no counterpart")
        if opened is not None:
            places.append((name, opened.end(), marker.start()))
        opened = None if closes else marker
    if opened is not None:
        raise InputError(f"the README's table {opened.group()} is not closed")
    missing = [name for name in made if made[name] and name not in {place[0] for place in places}]
    if missing:
        raise InputError(
            f"runs are committed for {', '.join(missing)}, and the README does not show them: add "
            + " ".join(f"<!-- bench:{name} --> <!-- /bench:{name} -->" for name in missing)
        )
    for name, start, end in reversed(places):
        page = f"{page[:start]}\n{made[name] or _NO_RUN}\n{page[end:]}"
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog=_COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    parser.add_argument("--readme", type=Path, default=_ROOT / "README.md", metavar="FILE")
    parser.add_argument(
        "--results", type=Path, default=_ROOT / "bench" / "results", metavar="FOLDER"
    )
    options = parser.parse_args(arguments)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        page = _read(options.readme)
        runs = read_runs(options.results, options.readme)
        costs = read_costs(options.results, options.readme)
        made = regenerate(page, tables(runs, costs))
        if page == made:
            return 0
        if options.check:
            console.print(f"{options.readme} is not what the committed runs say: run {_COMMAND}")
            return 1
        with atomic_file(options.readme) as temporary:
            temporary.write_text(made, encoding="utf-8")
    except EdgesegError as error:
        console.print(str(error))
        return 1
    return 0


def _relative(folder: Path, readme: Path) -> str:
    return Path(os.path.relpath(folder, readme.parent)).as_posix()


def _read(readme: Path) -> str:
    try:
        return readme.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{readme} cannot be read: {error}") from error


def _speed(runs: Sequence[Run]) -> str | None:
    """One row for each model, machine and number of threads: edgeseg, and every peer beside it."""
    chosen: dict[object, tuple[Run, CandidateRecord]] = {}
    # The newest of those with rewrites, or else the newest, stands last and stays.
    for run in sorted(runs, key=lambda one: (bool(one.result.rewrites), one.result.date_utc)):
        own = reference(run.result)
        if own is not None and peers(run.result):
            chosen[_subject(run.result, own)] = (run, own)
    if not chosen:
        return None
    rows = sorted(chosen.values(), key=lambda one: one[0].folder)
    names = _unique(peer.name for run, _ in rows for peer in peers(run.result))
    columns = ["model", "machine", "threads", "edgeseg", *names, "share of the bound"]
    lines = []
    for run, own in rows:
        by_name = {peer.name: peer for peer in peers(run.result)}
        variant = own.name.removeprefix("edgeseg").strip()
        lines.append(
            [
                *_place(run, own),
                _milliseconds(own) + (f" ({variant})" if variant else "") + _dice(own),
                *(_peer(by_name.get(name), own) for name in names),
                f"{100 * own.bound.share:.0f} %" if own.bound else "-",
            ]
        )
    return _markdown(columns, lines, numbers=frozenset({2}))


def _peer(peer: CandidateRecord | None, own: CandidateRecord) -> str:
    if peer is None:
        return "-"
    verdict = judge(peer.samples_ms, own.samples_ms, paired=True)
    return f"{_milliseconds(peer)}<br>{_ratio(verdict)}{_dice(peer)}"


def _dice(one: CandidateRecord) -> str:
    """What a latency is worth; nothing where no accuracy was taken."""
    if one.accuracy is None:
        return ""
    against = "" if one.accuracy.against == "labels" else " against FP32"
    return f"<br>Dice {one.accuracy.dice:.4f}{against}"


def _rewrites(runs: Sequence[Run]) -> str | None:
    """A checkpoint with and without the exact rewrites, each in a run of its own."""
    exported: dict[object, CandidateRecord] = {}
    rewritten: dict[object, tuple[Run, CandidateRecord]] = {}
    # The newest stand last and stay.
    for run in sorted(runs, key=lambda one: one.result.date_utc):
        for own in filter(is_own, measured(run.result)):
            key = (_subject(run.result, own), own.name)
            if run.result.rewrites:
                rewritten[key] = (run, own)
            else:
                exported[key] = own
    lines = [
        [
            *_place(run, own),
            own.name,
            _milliseconds(exported[key]),
            _milliseconds(own),
            _ratio(judge(exported[key].samples_ms, own.samples_ms, paired=False)),
        ]
        for key, (run, own) in sorted(rewritten.items(), key=lambda item: item[1][0].folder)
        if key in exported
    ]
    columns = ["model", "machine", "threads", "graph", "as exported", "rewritten", "ratio"]
    return _markdown(columns, lines, numbers=frozenset({2, 4, 5})) if lines else None


def _cost(costs: Sequence[tuple[str, CostTable]]) -> str | None:
    """The newest table of each machine and number of threads."""
    newest: dict[object, tuple[str, CostTable]] = {}
    for folder, table in sorted(costs, key=lambda one: one[1].date_utc):
        newest[table.machine.cpu, table.threads] = (folder, table)
    parts = []
    for folder, table in sorted(newest.values(), key=lambda one: one[0]):
        columns, rows = table.table()
        words = f"{table.threads} {'thread' if table.threads == 1 else 'threads'}"
        parts.append(
            f"[{table.machine.cpu}, {words}]({folder}):\n\n"
            + _markdown(columns, rows, numbers=frozenset(range(2, len(columns))))
        )
    return "\n\n".join(parts) or None


def _subject(result: BenchResult, own: CandidateRecord) -> object:
    """What has to be the same for two runs to be of the same thing."""
    return result.checkpoint_sha256, result.input_hw_px, result.machine.cpu, own.threads


def _place(run: Run, own: CandidateRecord) -> list[str]:
    height, width = run.result.input_hw_px
    return [
        f"[{run.result.subject}]({run.folder}), {height}x{width}",
        run.result.machine.cpu,
        str(own.threads),
    ]


def _milliseconds(one: CandidateRecord) -> str:
    median = summary_ms(one.samples_ms)["p50"]
    return f"{median:.1f} ms" if median >= 10.0 else f"{median:.2f} ms"


def _ratio(verdict: Verdict) -> str:
    certain = verdict.faster or verdict.slower
    return verdict.figures if certain else f"{verdict.figures}, not beyond noise"


def _markdown(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: frozenset[int]
) -> str:
    head, *body = ([cell.replace("|", r"\|") for cell in row] for row in (columns, *rows))
    rule = ["---:" if index in numbers else "---" for index in range(len(columns))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))


def _unique(items: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(items))


if __name__ == "__main__":
    raise SystemExit(main())
