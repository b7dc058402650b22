"""What is said of two lists of latencies, and of two benchmark results."""

from __future__ import annotations

import dataclasses
import re

import bench_results
import numpy as np
import pytest
from bench_results import candidate, result, round_median, samples

from edgeseg.bench.compare import compare
from edgeseg.bench.result import AccuracyRecord
from edgeseg.bench.stats import ratio
from edgeseg.bench.verdict import judge, measured, own_with, peers, reference
from edgeseg.errors import UsageError

FIGURES = re.compile(r"(\d+\.\d+) times as (fast|long) \((\d+\.\d+) to (\d+\.\d+)\)")


def figures(words: str) -> tuple[float, str, float, float]:
    found = FIGURES.search(words)
    assert found, words
    return float(found[1]), found[2], float(found[3]), float(found[4])


@pytest.mark.parametrize("paired", [True, False])
def test_a_clear_difference_is_told_with_its_ratio(paired):
    verdict = judge(samples(26.2, seed=1), samples(20.0, seed=2), paired=paired)
    value, unit, low, high = figures(verdict.words)
    expected = round_median(samples(26.2, seed=1)) / round_median(samples(20.0, seed=2))
    assert verdict.faster and not verdict.slower and unit == "fast"
    assert value == pytest.approx(expected, abs=0.006)
    assert 1.2 < low <= high < 1.4
    assert f"{expected:.2f} ({low:.2f} to {high:.2f})" == verdict.figures


def test_what_is_slower_takes_longer_and_the_interval_keeps_its_order():
    verdict = judge(samples(10.0, seed=1), samples(20.0, seed=2), paired=True)
    value, unit, low, high = figures(verdict.words)
    assert verdict.slower and not verdict.faster and unit == "long"
    assert verdict.words.startswith("takes ")
    assert 1.9 < low <= high < 2.1 and 1.9 < value < 2.1


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_called_noise(seed):
    generator = np.random.default_rng(seed)
    levels = 20.0 * (1 + generator.normal(0, 0.05, (2, 20)))
    first, second = (
        [list(level * (1 + generator.normal(0, 0.01, 30))) for level in rounds] for rounds in levels
    )
    verdict = judge(first, second, paired=False)
    # An interval of 95 % leaves 1 out now and then; these seeds are none of those.
    assert not verdict.faster and not verdict.slower
    assert verdict.words.startswith("no difference beyond noise (")


def test_pairing_sees_through_a_drift_that_both_share():
    drift = np.linspace(20.0, 40.0, 12)
    own = [[level, level * 1.01] for level in drift]
    other = [[1.1 * level, 1.1 * level * 1.01] for level in drift]
    assert judge(other, own, paired=True).faster
    assert not judge(other, own, paired=False).faster


@pytest.mark.parametrize("paired", [True, False])
def test_a_ratio_lies_within_its_interval_however_skewed_a_round_is(paired):
    """Few slow rounds move the median of all calls, and not that of the rounds."""
    generator = np.random.default_rng(7)
    for rounds in (3, 4, 7, 20):
        for _ in range(20):
            first, second = (
                [list(generator.lognormal(level, 0.5, 5)) for level in levels]
                for levels in generator.normal(0, 0.5, (2, rounds))
            )
            found = ratio(first, second, paired=paired)
            assert found.low <= found.value <= found.high
            assert found.value == pytest.approx(round_median(first) / round_median(second))
    odd = ratio([[1.0, 1.0, 9.0], [1.0] * 3, [9.0] * 3], [[1.0]] * 3, paired=paired)
    assert odd.value == 1.0 and not odd.beyond_noise


def test_few_rounds_prove_nothing():
    verdict = judge([[20.0, 20.1]] * 2, [[10.0, 10.1]] * 2, paired=True)
    assert not verdict.faster and "too few rounds" in verdict.words


def test_ratios_near_one_keep_enough_decimals_to_differ_from_it():
    verdict = judge([[10.04]] * 5, [[10.0]] * 5, paired=True)
    assert verdict.words == "1.004 times as fast (1.004 to 1.004)"


def test_lists_of_different_lengths_are_compared_unpaired():
    assert judge(samples(30.0, rounds=5), samples(20.0, rounds=8), paired=True).faster


@pytest.mark.parametrize("broken", [((1.0, float("nan")),), ((1.0, float("inf")),), ((),), ()])
def test_latencies_that_are_no_numbers_are_refused(broken):
    with pytest.raises(UsageError, match="finite"):
        judge(samples(10.0), broken, paired=False)


def test_edgeseg_and_its_peers_are_told_apart():
    names = ("edgesegmenter", "edgeseg fp32", "edgeseg int8-openvino", "torch")
    run = result(
        *(candidate(name, 10.0) for name in names),
        candidate("nncf", 1.0, samples_ms=(), unavailable="not installed"),
    )
    assert reference(run).name == own_with(run, "int8").name == "edgeseg int8-openvino"
    assert own_with(run, "fp32").name == "edgeseg fp32" and own_with(run, "fp16") is None
    assert [one.name for one in peers(run)] == ["edgesegmenter", "torch"]
    assert [one.name for one in measured(run)] == list(names)
    assert reference(result(candidate("torch", 1.0))) is None


def row_of(comparison, where, name, baseline):
    (found,) = [
        row
        for row in comparison.rows
        if (row.where, row.candidate, row.baseline) == (where, name, baseline)
    ]
    return found


def test_rows_are_those_of_both_files_and_within_each():
    a = result(
        candidate("edgeseg int8", 21.0),
        candidate("edgeseg fp32", 55.0),
        candidate("torch", 110.0),
        candidate("openvino", 54.0),
    )
    b = result(candidate("edgeseg int8", 16.0), candidate("torch", 110.0))
    found = compare(a, b)
    assert [(row.where, row.candidate, row.baseline) for row in found.rows] == [
        ("B against A", "edgeseg int8", "edgeseg int8"),
        ("B against A", "torch", "torch"),
        ("within A", "edgeseg int8", "edgeseg fp32"),
        ("within A", "edgeseg int8", "torch"),
        ("within A", "edgeseg int8", "openvino"),
        ("within B", "edgeseg int8", "torch"),
    ]
    gained = figures(row_of(found, "B against A", "edgeseg int8", "edgeseg int8").words)
    assert gained[0] == pytest.approx(21 / 16, abs=0.02) and gained[1] == "fast"
    assert "no difference" in row_of(found, "B against A", "torch", "torch").words
    columns, rows = found.table()
    assert len(rows) == 6 and {len(row) for row in rows} == {len(columns)}
    medians = [np.median(one) for one in (b.candidates[0].samples_ms, a.candidates[0].samples_ms)]
    assert rows[0][2] == f"{medians[0]:.2f}" and rows[0][4] == f"{medians[1]:.2f}"
    assert "edgeseg fp32 was measured in A alone" in found.remarks()
    assert not found.differences


@pytest.mark.parametrize("int8_ms", [20.0, 30.0])
def test_int8_that_is_not_faster_is_called_so(int8_ms):
    run = result(
        candidate("edgeseg int8", int8_ms, samples_ms=samples(int8_ms, seed=4)),
        candidate("edgeseg fp32", 20.0, samples_ms=samples(20.0, seed=4)),
        candidate("torch", 10.0),
    )
    row = row_of(compare(run, run), "within A", "edgeseg int8", "edgeseg fp32")
    assert row.words.startswith("INT8 is not faster here: ")
    assert ("takes" in row.words) == (int8_ms > 20)
    other = row_of(compare(run, run), "within B", "edgeseg int8", "torch")
    assert other.words.startswith("takes ")


def test_what_else_differs_is_named():
    a = result(
        candidate(
            "edgeseg int8",
            21.0,
            file_mib=24.75,
            accuracy=AccuracyRecord(100, "labels", 0.6999, 0.59, None, "9", 0.1),
        ),
        candidate("torch", 99.0),
    )
    b = result(
        candidate(
            "edgeseg int8",
            21.0,
            threads=4,
            version="0.2.0",
            precision="INT8 products, rest bfloat16",
            file_mib=22.1,
            accuracy=AccuracyRecord(100, "labels", 0.7003, 0.59, None, "9", 0.1),
        ),
        candidate("torch", 1.0, samples_ms=(), unavailable="torch is not installed"),
        machine=bench_results.machine(
            cpu="Intel Xeon",
            cores=8,
            isa=("amx_int8",),
            governor=None,
            versions={"python": "3.12.1", "nncf": "3.4.0"},
        ),
        input_hw_px=(512, 512),
        checkpoint_sha256="b" * 64,
        rewrites=(),
    )
    told = compare(a, b).remarks()
    for line in (
        "processor: AMD EPYC 9V74 in A, Intel Xeon in B",
        "cores: 2 in A, 8 in B",
        "instructions: avx2, avx512_vnni in A, amx_int8 in B",
        "governor: performance in A, nothing in B",
        "network input: 256 x 256 px in A, 512 x 512 px in B",
        "checkpoint: aaaaaaaaaaaa in A, bbbbbbbbbbbb in B",
        "rewrites: fold_norm in A, nothing in B",
        "python: 3.11.2 in A, 3.12.1 in B",
        "nncf: nothing in A, 3.4.0 in B",
        "openvino: 2026.4.1 in A, nothing in B",
        "edgeseg int8, threads: 2 in A, 4 in B",
        "edgeseg int8, version: 1.2.3 in A, 0.2.0 in B",
        "edgeseg int8, arithmetic: float32 in A, INT8 products, rest bfloat16 in B",
        "edgeseg int8, files: 24.75 MiB in A, 22.10 MiB in B",
        "torch was not measured in B: torch is not installed",
        "torch was measured in A alone",
        "edgeseg int8: Dice 0.6999 in A, 0.7003 in B",
    ):
        assert line in told, line
    assert not any(line.startswith(("family", "frame", "edgeseg:")) for line in told)


def test_files_without_a_common_candidate_say_so():
    found = compare(result(candidate("torch", 9.0)), result(candidate("openvino", 9.0)))
    assert found.rows == () and "no candidate was measured in both files" in found.remarks()


def test_accuracy_against_something_else_is_not_compared():
    score = AccuracyRecord(100, "labels", 0.7, 0.6, None, "9", 0.1)
    a = result(candidate("torch", 9.0, accuracy=score))
    b = result(candidate("torch", 9.0, accuracy=dataclasses.replace(score, against="fp32")))
    assert "torch: accuracy was taken on other cases or against something else" in (
        compare(a, b).remarks()
    )
