"""The README's tables are what the committed runs say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bench_results import candidate, machine, result, round_median, samples

from edgeseg.bench.cost import CostRow, CostTable, write_cost
from edgeseg.bench.readme_table import main, regenerate, tables
from edgeseg.bench.result import AccuracyRecord, BoundRecord, LimitsRecord, write_result
from edgeseg.errors import InputError

PAGE = """# A project

Text before. <!-- bench:speed -->

old figures

<!-- /bench:speed --> Text after.

<!-- bench:rewrites --><!-- /bench:rewrites -->

<!-- bench:cost -->
<!-- /bench:cost -->
The end.
"""


def commit(root: Path, folder: str, run) -> None:
    (root / "bench/results" / folder).mkdir(parents=True)
    write_result(root / "bench/results" / folder / "result.json", run)


def own(ms: float, seed: int = 1, name: str = "edgeseg int8"):
    bound = BoundRecord({"int8": 1.0}, 1.0, 0.41 * ms, 0.1, 0.41)
    return candidate(name, ms, samples_ms=samples(ms, seed=seed), bound=bound)


def scored(dice: float, against: str) -> AccuracyRecord:
    return AccuracyRecord(100, against, dice, dice - 0.1, None, "case 9", 0.1)


@pytest.fixture
def repository(tmp_path) -> Path:
    """Runs of one checkpoint: an old one, a new one, one as exported; another file beside them."""
    (tmp_path / "README.md").write_text(PAGE, encoding="utf-8")
    new = result(own(20.0), candidate("torch", 100.0), candidate("open|vino", 20.0))
    old = dataclasses.replace(
        result(own(77.0), candidate("torch", 100.0)), date_utc="2025-01-01T00:00:00+00:00"
    )
    plain = result(own(30.0), candidate("torch", 100.0), rewrites=(), subject="v1-plain")
    other = result(
        dataclasses.replace(own(9.5), accuracy=scored(0.70124, "labels")),
        candidate("nncf", 19.0, accuracy=scored(0.61, "fp32")),
        machine=machine(cpu="Xeon"),
        checkpoint_sha256="c" * 64,
    )
    for name, run in (("b-new", new), ("a-old", old), ("c-plain", plain), ("d/xeon", other)):
        commit(tmp_path, name, run)
    (tmp_path / "bench/results/2025-old.json").write_text("{}", encoding="utf-8")
    return tmp_path


def command(root: Path, *more: str) -> int:
    return main(
        ["--readme", str(root / "README.md"), "--results", str(root / "bench/results"), *more]
    )


def test_the_readme_of_this_repository_is_up_to_date(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_tables_are_written_between_the_markers_and_nothing_else_changes(repository, capsys):
    assert command(repository, "--check") == 1
    assert "run python -m edgeseg.bench.readme_table" in capsys.readouterr().out
    assert (repository / "README.md").read_text(encoding="utf-8") == PAGE
    assert command(repository) == 0
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert command(repository, "--check") == 0
    assert text.startswith("# A project\n\nText before. <!-- bench:speed -->\n")
    assert "<!-- /bench:speed --> Text after." in text and text.endswith("The end.\n")
    assert "old figures" not in text
    assert "<!-- bench:cost -->\nNo run of this is committed.\n<!-- /bench:cost -->" in text


def rows(table: str) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    return lines


def test_the_table_of_speed_has_the_newest_run_of_each_thing(repository):
    assert command(repository) == 0
    text = (repository / "README.md").read_text(encoding="utf-8")
    table = text.split("<!-- bench:speed -->\n")[1].split("\n<!-- /bench:speed -->")[0]
    head, _, epyc, xeon = rows(table)
    assert head == [
        "model",
        "machine",
        "threads",
        "edgeseg",
        "torch",
        r"open\|vino",
        "nncf",
        "share of the bound",
    ]
    assert epyc[:3] == ["[v1](bench/results/b-new), 256x256", "AMD EPYC 9V74", "2"]
    own_ms, torch_ms = samples(20.0, seed=1), candidate("torch", 100.0).samples_ms
    ratio = round_median(torch_ms) / round_median(own_ms)
    assert epyc[3] == f"{np.median(own_ms):.1f} ms (int8)"
    assert epyc[4].startswith(f"{np.median(torch_ms):.1f} ms<br>{ratio:.2f} (")
    assert epyc[5].endswith("not beyond noise") and epyc[6:] == ["-", "41 %"]
    assert xeon[0] == "[v1](bench/results/d/xeon), 256x256"
    assert xeon[3] == f"{np.median(samples(9.5, seed=1)):.2f} ms (int8)<br>Dice 0.7012"
    assert xeon[4:6] == ["-", "-"] and "2.0" in xeon[6]
    assert xeon[6].endswith(")<br>Dice 0.6100 against FP32")


def test_the_table_of_rewrites_joins_runs_of_one_checkpoint(repository):
    assert command(repository) == 0
    text = (repository / "README.md").read_text(encoding="utf-8")
    table = text.split("<!-- bench:rewrites -->\n")[1].split("\n<!-- /bench:rewrites -->")[0]
    head, _, row = rows(table)
    assert head[3:] == ["graph", "as exported", "rewritten", "ratio"]
    assert row[0] == "[v1](bench/results/b-new), 256x256" and row[3] == "edgeseg int8"
    without, rewritten = samples(30.0, seed=1), samples(20.0, seed=1)
    assert row[4:6] == [f"{np.median(without):.1f} ms", f"{np.median(rewritten):.1f} ms"]
    assert row[6].startswith(f"{round_median(without) / round_median(rewritten):.2f} (")


def cost_table(**other) -> CostTable:
    limits = LimitsRecord({"int8": 900.0}, 10.0, 2, "by GEMM")
    cell = CostRow("segdino_v1", "small", (192, 192), 149, (own(12.0), candidate("torch", 60.0)))
    values = {"machine": machine(), "threads": 2, "budget_s": 5.0, "limits": limits}
    values |= {"rows": (cell,)} | other
    return CostTable(1, "0.1.0", values.pop("date_utc", "2026-11-21"), "edgeseg cost", **values)


def test_tables_of_cost_are_shown_by_machine_the_newest_alone(repository):
    for folder, table in (
        ("cost-old", cost_table(date_utc="2020-01-01", rows=())),
        ("cost-new", cost_table()),
        ("cost-one", cost_table(threads=1)),
    ):
        (repository / "bench/results" / folder).mkdir()
        write_cost(repository / "bench/results" / folder, table)
    assert command(repository) == 0
    text = (repository / "README.md").read_text(encoding="utf-8")
    shown = text.split("<!-- bench:cost -->\n")[1].split("\n<!-- /bench:cost -->")[0]
    first, second = shown.split("\n\n", 2)[0], shown.split("\n\n")[2]
    assert first == "[AMD EPYC 9V74, 2 threads](bench/results/cost-new):"
    assert second == "[AMD EPYC 9V74, 1 thread](bench/results/cost-one):"
    assert "cost-old" not in shown
    _, _, cell = rows(shown.split("\n\n")[1])
    assert cell[:3] == ["segdino_v1 small", "192x192", "149"]
    assert f"{np.median(samples(12.0, seed=1)):.1f}" in cell


def test_runs_without_a_place_in_the_readme_are_an_error(repository, capsys):
    page = PAGE.replace("<!-- bench:speed -->", "").replace("<!-- /bench:speed -->", "")
    (repository / "README.md").write_text(page, encoding="utf-8")
    assert command(repository, "--check") == 1
    assert "<!-- bench:speed --> <!-- /bench:speed -->" in capsys.readouterr().out
    assert (repository / "README.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- bench:speed -->", "not closed"),
        ("<!-- /bench:speed -->", "no counterpart"),
        ("<!-- bench:speed --><!-- /bench:cost -->", "no counterpart"),
        ("<!-- bench:speed --><!-- bench:speed -->", "no counterpart"),
        ("<!-- bench:sped --><!-- /bench:sped -->", "there are speed, rewrites, cost"),
    ],
)
def test_markers_that_do_not_match_are_refused(page, message):
    with pytest.raises(InputError, match=message):
        regenerate(page, tables([]))


def test_a_run_that_cannot_be_read_is_named(repository, capsys):
    (repository / "bench/results/b-new/result.json").write_text("{}", encoding="utf-8")
    assert command(repository, "--check") == 1
    assert "b-new/result.json has schema None" in capsys.readouterr().out


def test_runs_without_peers_or_rewrites_make_no_rows():
    made = tables([])
    assert made == {"speed": None, "rewrites": None, "cost": None}
