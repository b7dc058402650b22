"""Cost as the work grows, and what the rewrites gain: tables of untrained models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_results import round_median

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from edgeseg import calib
from edgeseg.bench.cost import COST_FILE, CostRow, CostTable, read_cost, write_cost
from edgeseg.bench.result import BoundRecord, CandidateRecord, LimitsRecord, MachineRecord
from edgeseg.bench.rewrite_gain import GainTable
from edgeseg.bench.rounds import MIN_ROUNDS
from edgeseg.errors import InputError, UsageError
from edgeseg.export.backbone_config import BackboneConfig
from edgeseg.export.random_checkpoint import BACKBONES
from edgeseg.spec import from_json
from edgeseg.workflows import cost_table as cost_module
from edgeseg.workflows import rewrite_table as rewrite_module
from edgeseg.workflows._bench_child import ChildFigures
from edgeseg.workflows.cost_table import OWN, cost_table

LIMITS = LimitsRecord({"int8": 400.0, "bf16": 200.0, "fp32": 100.0}, 10.0, 1, "made up")
MACHINE = MachineRecord("a board", "a cpu", 2, ("avx2",), 8.0, None, None, None, {"openvino": "1"})
TINY = BackboneConfig(width=64, depth=4, heads=1, mlp_width=128)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    """A backbone of one small head, and a machine whose limits are known already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", TINY)  # type: ignore[misc]
        patch.setattr(cost_module, "measure_limits", lambda threads, progress: LIMITS)
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, quick: None) -> tuple[Path, CostTable]:
    """One cell, with nothing else in place of what is real."""
    folder = tmp_path_factory.mktemp("cost") / "table"
    table = cost_table(
        folder,
        backbones=["tiny"],
        sizes_px=[64],
        vs=["onnxruntime"],
        threads=1,
        budget_s=0.2,
        command="python -m somewhere",
    )
    return folder, table


def a_table() -> CostTable:
    def candidate(name: str, first_ms: float, **more: Any) -> CandidateRecord:
        samples = tuple((first_ms + i, first_ms + i + 0.5) for i in range(4))
        return CandidateRecord(name, "1", "how", "INT8", 2, samples_ms=samples, **more)

    bound = BoundRecord({"int8": 3.0, "fp32": 0.5}, 20.0, 12.5, 2.0, 0.5)
    missing = CandidateRecord("openvino", "", "", "", 2, unavailable="not for this machine")
    rows = (
        CostRow(
            "segdino_v1",
            "small",
            (192, 192),
            149,
            (
                candidate(OWN, 10.0, bound=bound, peak_rss_mib=123.4),
                candidate("onnxruntime", 30.0, peak_rss_mib=456.0),
                missing,
            ),
        ),
        CostRow("segdino_v1", "small", (256, 256), 261, (candidate(OWN, 20.0),)),
    )
    return CostTable(1, "0.1", "now", "cmd", MACHINE, 2, 20.0, LIMITS, rows, ("a note",))


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    write_cost(tmp_path, a_table())
    assert read_cost(tmp_path) == a_table()
    assert a_table().row("segdino_v1", "small", (256, 256)) is not None
    assert a_table().row("segdino_v1", "small", (512, 512)) is None


def test_a_table_for_people() -> None:
    columns, (first, second) = a_table().table()
    assert columns[:7] == (
        "model", "input", "tokens", "GOP", "edgeseg int8 ms", "of the bound", "MiB",
    )  # fmt: skip
    assert first[:7] == ("segdino_v1 small", "192x192", "149", "3.5", "11.8", "50%", "123")
    assert len(first) == len(second) == len(columns) == 7 + 3 * 2
    baseline_ms, times, memory_mib = first[7:10]
    # Medians 11.75 and 31.75.
    assert baseline_ms == "31.8"
    assert times.startswith(f"{31.75 / 11.75:.2f} (")
    assert memory_mib == "456"
    assert first[10:] == ("-", "-", "-")
    assert second[3:] == ("-", "21.8", "-", "-", *["-"] * 6)
    remarks = "\n".join(a_table().remarks())
    assert "small at 192x192: openvino was not measured: not for this machine" in remarks
    assert "int8 400 GOP/s" in remarks
    assert "a note" in remarks


def test_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no table of costs"):
        read_cost(tmp_path)
    path = tmp_path / COST_FILE
    path.write_text("{")
    with pytest.raises(InputError, match="no table of costs"):
        read_cost(tmp_path)
    write_cost(tmp_path, a_table())
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"schema_version": 99}))
    with pytest.raises(InputError, match="schema 99"):
        read_cost(tmp_path)
    del value["threads"]
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match="threads"):
        read_cost(tmp_path)


def test_a_cell_is_measured(measured: tuple[Path, CostTable]) -> None:
    folder, table = measured
    (row,) = table.rows
    assert (row.family, row.backbone, row.input_hw_px) == ("segdino_v1", "tiny", (64, 64))
    assert row.tokens == 4 * 4 + 5, "patches of 16 pixels, a class token and four registers"
    assert [one.name for one in row.candidates] == [OWN, "onnxruntime"]
    for one in row.candidates:
        assert one.unavailable is None
        assert one.threads == 1
        assert len(one.samples_ms) >= MIN_ROUNDS
        values = np.concatenate(one.samples_ms)
        assert np.isfinite(values).all()
        assert (values > 0.0).all()
        assert one.peak_rss_mib is not None
        assert one.peak_rss_mib > 20.0
        assert one.file_mib is not None
        assert one.bound is not None
    own, peer = row.candidates
    assert own.precision == "INT8 products, rest float32"
    assert own.bound.gop["int8"] > 0.0
    assert own.file_mib < peer.file_mib, "weights of one byte"
    # Products of the blocks alone, two operations a multiply-add, of the authors' graph.
    width, mlp = TINY.width, TINY.mlp_width
    least = 2 * TINY.depth * row.tokens * (4 * width * width + 2 * width * mlp) / 1e9
    assert peer.bound.gop["fp32"] > least
    assert table.command == "python -m somewhere"
    assert read_cost(folder) == table
    assert sorted(p.name for p in folder.iterdir()) == [COST_FILE], "nothing else is left behind"


def test_cells_that_are_there_are_kept(
    measured: tuple[Path, CostTable], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, table = measured
    write_cost(tmp_path, table)
    asked: list[str] = []
    ranges: list[Path] = []
    original_ranges, original_measure = calib.collect_ranges, cost_module._measure

    def counted(path: Path, *rest: Any, **options: Any) -> Any:
        ranges.append(path)
        return original_ranges(path, *rest, **options)

    def noted(cell: Any, thresholds: dict[str, float]) -> Any:
        asked.append(f"{cell.backbone} {cell.size_px} {','.join(cell.vs)}")
        return original_measure(cell, thresholds)

    monkeypatch.setattr(calib, "collect_ranges", counted, raising=False)
    monkeypatch.setattr(cost_module, "_measure", noted)
    monkeypatch.setattr(
        cost_module, "measure_child", lambda *spec, more_calls: ChildFigures(1.0, 2.0)
    )
    options: dict[str, Any] = {"backbones": ["tiny"], "threads": 1, "budget_s": 0.1}
    more = cost_table(tmp_path, sizes_px=[96, 64, 80], vs=[], **options)
    assert asked == ["tiny 80 ", "tiny 96 "]
    assert len(ranges) == 1, "the ranges of the smallest serve the others"
    assert [row.input_hw_px for row in more.rows] == [(64, 64), (80, 80), (96, 96)]
    assert more.rows[0] == table.rows[0]
    assert read_cost(tmp_path) == more
    again = cost_table(tmp_path, sizes_px=[64, 80, 96], vs=[], **options)
    assert len(asked) == 2, "nothing was missing"
    assert again == more

    def only_noted(cell: Any, thresholds: dict[str, float]) -> Any:
        asked.append(f"{cell.backbone} {cell.size_px} {','.join(cell.vs)}")
        raise KeyboardInterrupt

    monkeypatch.setattr(cost_module, "_measure", only_noted)
    with pytest.raises(KeyboardInterrupt):
        cost_table(tmp_path, sizes_px=[64, 80], vs=["onnxruntime"], **options)
    assert asked[2:] == ["tiny 80 onnxruntime"], "a cell without the baseline is measured again"


def test_an_interrupted_table_holds_what_was_done(
    measured: tuple[Path, CostTable], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, table = measured

    def breaks(cell: Any, thresholds: dict[str, float]) -> Any:
        if cell.size_px > 64:
            raise KeyboardInterrupt
        return table.rows[0], ("odd",)

    monkeypatch.setattr(cost_module, "_measure", breaks)
    with pytest.raises(KeyboardInterrupt):
        cost_table(tmp_path, backbones=["tiny"], sizes_px=[64, 96], vs=["onnxruntime"], threads=1)
    kept = read_cost(tmp_path)
    assert kept.rows == table.rows
    assert kept.notes == ("segdino_v1 tiny 64x64: odd",)
    assert [p.name for p in tmp_path.iterdir()] == [COST_FILE]


def test_tables_of_two_machines_are_not_mixed(
    measured: tuple[Path, CostTable], tmp_path: Path
) -> None:
    _, table = measured
    options: dict[str, Any] = {"backbones": ["tiny"], "sizes_px": [64], "vs": []}
    write_cost(tmp_path, table)
    with pytest.raises(UsageError, match="another folder"):
        cost_table(tmp_path, threads=2, **options)
    other = dataclasses.replace(table.machine, cpu="another")
    write_cost(tmp_path, dataclasses.replace(table, machine=other))
    with pytest.raises(UsageError, match="another machine"):
        cost_table(tmp_path, threads=1, **options)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--backbones", "huge"], 2, "unknown backbone 'huge': choose among small"),
        (["--backbones", "tiny,tiny"], 2, "a backbone is named twice"),
        (["--backbones", "tiny", "--sizes", "100"], 2, "100"),
        (["--backbones", "tiny", "--sizes", "64,big"], 2, "whole numbers of pixels"),
        (["--backbones", "tiny", "--sizes", ""], 2, "at least one"),
        (["--backbones", "tiny", "--vs", "onyx"], 2, "unknown peer 'onyx'"),
        (["--backbones", "tiny", "--budget", "0"], 2, "budget must be a positive number"),
        (["--family", "unet"], 1, "no family is named 'unet'"),
    ],
)
def test_a_command_that_cannot_be_meant(
    arguments: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "table"
    assert cost_module.main(["-o", str(folder), *arguments]) == code
    assert words in " ".join(capsys.readouterr().err.split())
    assert not folder.exists()


def test_the_command_prints_the_table(
    measured: tuple[Path, CostTable], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = measured
    words = ["-o", str(folder), "--backbones", "tiny", "--sizes", "64", "--vs", "onnxruntime"]
    assert cost_module.main([*words, "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "segdino_v1 tiny" in shown
    assert "onnxruntime ms" in shown
    assert "int8 400 GOP/s" in shown


def test_rewrites_against_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "gain.json"
    words = ["-o", str(output), "--family", "segdino_v1", "--backbone", "tiny", "--sizes", "64"]
    assert rewrite_module.main([*words, "--threads", "1", "--duration", "0.1"]) == 0
    table = from_json(GainTable, json.loads(output.read_text()))
    assert [row.backend.split()[0] for row in table.rows] == ["openvino", "onnxruntime"]
    for row in table.rows:
        assert row.rewrites
        assert 0.0 < row.gop_rewritten < row.gop_plain
        assert len(row.plain_ms) == len(row.rewritten_ms) >= MIN_ROUNDS
        own, base = (round_median(ms) for ms in (row.rewritten_ms, row.plain_ms))
        assert row.times_as_fast == pytest.approx(base / own, rel=1e-9)
        assert row.low <= row.times_as_fast <= row.high
    shown = capsys.readouterr().out
    assert "rewritten against plain" in shown
    assert table.rows[0].rewrites[0] in shown
    assert table.command.endswith("--duration 0.1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--family", "segdino_v1,segdino_v1"], "each family once"),
        (["--family", ""], "each family once"),
        (["--backbone", "huge"], "unknown backbone"),
        (["--duration", "nan"], "positive number of seconds"),
    ],
)
def test_a_gain_that_cannot_be_meant(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rewrite_module.main(["-o", str(tmp_path / "x.json"), *arguments]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x.json").exists()
