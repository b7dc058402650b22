"""``edgeseg bench``: candidates, accuracy, files, other processes, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bench_results
import cv2
import numpy as np
import pytest
from bench_results import round_median
from builders import tiny_bundle, with_variants
from checkpoints import make_checkpoint
from video_files import write_video

import edgeseg
from edgeseg import _optional, tuning
from edgeseg._files import sha256_file
from edgeseg.bench.candidate import Array, Candidate
from edgeseg.bench.engine_candidate import arithmetic
from edgeseg.bench.peers import CandidateSpec
from edgeseg.bench.peers.fusing import FusingPeer
from edgeseg.bench.result import LimitsRecord, read_result, write_result
from edgeseg.bench.rounds import measure_rounds
from edgeseg.bench.tables import candidate_rows, int8_remarks, remarks, throughput_rows
from edgeseg.bundle import read_bundle, seal
from edgeseg.cli import main
from edgeseg.errors import (
    BackendError,
    BundleError,
    CalibrationError,
    DataError,
    MissingDependencyError,
    OutputError,
    UsageError,
)
from edgeseg.metrics import evaluate_mask, mean_score
from edgeseg.model import Model
from edgeseg.reader import Reading
from edgeseg.spec import CalibrationRecord, TensorSpec
from edgeseg.synthetic import generate_dataset
from edgeseg.workflows import _bench_run, _bench_source, _opening
from edgeseg.workflows import build as build_module
from edgeseg.workflows._bench_accuracy import score_candidates
from edgeseg.workflows._bench_bound import bound_of
from edgeseg.workflows._bench_child import EngineSpec, measure_child
from edgeseg.workflows._bench_masks import MaskCall, mask_calls
from edgeseg.workflows._validate import Validation
from edgeseg.workflows.benchmark import benchmark
from edgeseg.workflows.build import BuildReport, build
from edgeseg.workflows.evaluate import evaluate

QUICK = {"rounds": 3, "threads": 1, "frame_hw_px": (60, 80)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FP32, and an "int8" whose convolution has other weights."""
    path = with_variants(tiny_bundle(tmp_path_factory.mktemp("bench") / "tiny.edgeseg"), "int8")
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path / "int8.onnx")
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        rounded = np.float32(0.002) * np.round(values / np.float32(0.002))
        tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor.name))
    onnx.save(model, path / "int8.onnx")
    manifest = read_manifest(path)
    limits = {
        name: dataclasses.replace(one, relative_error=0.1, cosine=0.9, mask_agreement=0.5)
        for name, one in manifest.variants[1].golden_limits.items()
    }
    int8 = dataclasses.replace(manifest.variants[1], products="int8", golden_limits=limits)
    seal(path, dataclasses.replace(manifest, variants=(manifest.variants[0], int8)))
    return path


def read_manifest(path: Path):
    """Of a bundle whose files may have been changed since it was sealed."""
    from edgeseg.spec import Manifest, from_json

    return from_json(Manifest, json.loads((path / "manifest.json").read_text()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generate_dataset(root / "val", 4, seed=3, height_px=70, width_px=90)
    generate_dataset(root / "calib", 3, seed=4, height_px=70, width_px=90)
    return root


@pytest.mark.usefixtures("quick_bench")
def test_variants_are_measured_side_by_side_and_written(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    steps: dict[str, list[tuple[int, int]]] = {}
    report = benchmark(
        bundle,
        **QUICK,
        precisions=("int8", "fp32"),
        val=data / "val",
        output=tmp_path / "out",
        progress=lambda stage, done, total: steps.setdefault(stage, []).append((done, total)),
    )
    result = report.result
    assert report.output == tmp_path / "out"
    assert read_result(tmp_path / "out" / "result.json") == result
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "edgeseg int8" in page and "tiny.edgeseg" in page
    int8, fp32 = result.candidates
    assert (int8.name, fp32.name) == ("edgeseg int8", "edgeseg fp32")
    assert int8.precision == "INT8 products, rest float32" and fp32.precision == "float32"
    for one in result.candidates:
        assert one.threads == 1 and one.version.startswith("openvino ")
        assert [len(block) for block in one.samples_ms] == [5, 5, 5]
        assert (one.load_ms, one.peak_rss_mib) == (250.0, 100.0)
        assert one.throughput[0].requests == 1
        # A 1x1 convolution of 3 channels to one, on 32 x 48 pixels.
        assert one.bound is not None
        assert one.bound.gop == {"fp32": pytest.approx(2 * 3 * 32 * 48 / 1e9)}
        assert one.bound.compute_ms == pytest.approx(1e3 * one.bound.gop["fp32"] / 100.0)
    size = (bundle / "int8.onnx").stat().st_size
    assert int8.file_mib == pytest.approx(size / 2**20)
    assert result.input_hw_px == (32, 48) and result.frame_hw_px == (60, 80)
    assert list(result.stages_ms) == ["preprocess", "inference", "readout", "total"]
    median = np.median(np.concatenate(int8.samples_ms))
    assert result.stages_ms["inference"]["p50"] == pytest.approx(median)
    assert result.command == (
        "edgeseg bench tiny.edgeseg --rounds 3 --val val --precision int8 --precision fp32 "
        "--threads 1"
    )
    for stage in ("load time and memory", "latency", "throughput", "accuracy"):
        done, total = steps[stage][-1]
        assert done == total > 0


@pytest.mark.usefixtures("quick_bench")
def test_accuracy_is_that_of_edgeseg_eval(bundle: Path, data: Path, tmp_path: Path) -> None:
    result = benchmark(bundle, **QUICK, precisions=("int8", "fp32"), val=data / "val").result
    for one, precision in zip(result.candidates, ("int8", "fp32"), strict=True):
        wanted = evaluate(bundle, data / "val", output=tmp_path / precision, precision=precision)
        worst = min(wanted.results, key=lambda case: case.score.dice)
        assert one.accuracy is not None and one.accuracy.against == "labels"
        assert one.accuracy.cases == 4
        assert one.accuracy.dice == pytest.approx(wanted.mean.dice, abs=1e-12)
        assert one.accuracy.iou == pytest.approx(wanted.mean.iou, abs=1e-12)
        assert one.accuracy.hd95_px == pytest.approx(wanted.mean.hd95, abs=1e-12)
        assert (one.accuracy.worst_case, one.accuracy.worst_dice) == (
            worst.case.id,
            pytest.approx(worst.score.dice),
        )


@pytest.mark.usefixtures("quick_bench")
@pytest.mark.parametrize("with_fp32", [False, True])
def test_without_masks_fp32_is_the_truth(
    bundle: Path, data: Path, tmp_path: Path, with_fp32: bool
) -> None:
    pictures = sorted((data / "val" / "image").iterdir())
    (tmp_path / "image").mkdir()
    for picture in pictures:
        (tmp_path / "image" / picture.name).write_bytes(picture.read_bytes())
    precisions = ("int8", "fp32") if with_fp32 else ("int8",)
    result = benchmark(bundle, **QUICK, precisions=precisions, val=tmp_path).result
    scores = []
    with (
        edgeseg.open(bundle, precision="int8") as one,
        edgeseg.open(bundle, precision="fp32") as other,
    ):
        for picture in pictures:
            frame = cv2.imread(str(picture))
            masks = [m.read_grid(m.infer(m.preprocess(frame))).mask for m in (one, other)]
            scores.append(evaluate_mask(*masks))
    accuracy = result.candidates[0].accuracy
    assert accuracy is not None and accuracy.against == "fp32"
    assert accuracy.dice == pytest.approx(mean_score(scores).dice, abs=1e-12)
    assert accuracy.worst_dice == pytest.approx(min(s.dice for s in scores), abs=1e-12)
    assert all(one.accuracy is None for one in result.candidates[1:])


class Broken(Candidate):
    name, version, how, precision, threads = "broken", "1", "not at all", "float16", 1

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        logits = np.zeros((1, 1, 32, 48), np.float32)
        logits[..., 5, 5] = np.nan
        return {"logits": logits}

    def close(self) -> None: ...


def test_logits_that_are_not_finite_get_no_score(bundle: Path, data: Path) -> None:
    with edgeseg.open(bundle) as model, pytest.raises(BackendError, match=r"broken.*not finite"):
        score_candidates([Broken()], model, Validation.open(data / "val"), None)


def test_a_process_of_its_own_tells_load_time_and_its_own_memory(bundle: Path) -> None:
    spec = EngineSpec(str(bundle), "auto", "auto", "fp32", 1)
    tensors = {"image": np.zeros((1, 3, 32, 48), np.float32)}
    # More than the child needs: what this process holds must not count.
    ballast = np.ones(600 << 20, np.uint8)
    figures = measure_child("edgeseg fp32", spec, tensors)
    assert ballast[::4096].all()
    assert 0 < figures.load_ms < 600_000
    assert 20 < figures.peak_rss_mib < 600


def test_a_failure_in_the_other_process_is_told_in_one_line(bundle: Path) -> None:
    spec = EngineSpec(str(bundle), "auto", "auto", "fp16", 1)
    with pytest.raises(BackendError) as raised:
        measure_child("edgeseg fp16", spec, {})
    assert "edgeseg fp16 fails in a process of its own" in str(raised.value)
    assert "has no fp16 variant" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.usefixtures("quick_bench")
def test_a_video_goes_from_capture_to_overlay(bundle: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_video(clip, frames=12)
    drawn = benchmark(bundle, **QUICK, end_to_end=clip).result.end_to_end
    assert drawn is not None and drawn.video == "clip.mp4" and drawn.paced
    # The first frames warm up, and a busy machine may drop some.
    assert 0 < drawn.frames == len(drawn.samples_ms) <= 12


@pytest.mark.usefixtures("quick_bench")
def test_threads_that_nobody_names_are_calibrated_once_before_engines_open(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path))
    steps: list[str] = []

    def quickly(subject: tuning.Subject) -> tuning.Tuned:
        steps.append(subject.file.name)
        # What other tests do meanwhile is nobody's business.
        return tuning.tune(subject, budget_s=0.01, others_s=lambda: None)

    def opened(bench: _bench_run.Bench, spec: EngineSpec) -> None:
        steps.append(f"open {spec.precision}")
        open_one(bench, spec)

    open_one = _bench_run.Bench.open
    monkeypatch.setattr(_opening, "tune", quickly)
    monkeypatch.setattr(_bench_run.Bench, "open", opened)
    both = {"precisions": ("int8", "fp32"), "frame_hw_px": (60, 80), "rounds": 3}
    with caplog.at_level(logging.INFO):
        benchmark(bundle, **both)
    assert steps == ["int8.onnx", "fp32.onnx", "open int8", "open fp32"]
    assert caplog.text.count("threads, calibrated for this machine: ") == 2
    steps.clear()
    benchmark(bundle, **both)
    benchmark(bundle, **both, threads=1)
    assert steps == ["open int8", "open fp32"] * 2


def test_what_is_no_video_is_refused_before_anything_is_measured(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bench_run.Bench, "measure", nothing_is_measured)
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(UsageError, match="needs a video"):
        benchmark(bundle, **QUICK, end_to_end=tmp_path / "picture.png")
    with pytest.raises(DataError, match=r"manifest\.json: not a video"):
        benchmark(bundle, **QUICK, end_to_end=bundle / "manifest.json")


@pytest.mark.usefixtures("quick_bench")
def test_the_command_line_shows_tables_and_writes_files(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["bench", str(bundle), "--duration", "0.2", "--frame", "60x80", "--threads", "1"]
    arguments += ["--precision", "int8", "--precision", "fp32", "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    result = read_result(tmp_path / "out" / "result.json")
    assert result.command.startswith("edgeseg bench tiny.edgeseg --duration 0.2")
    assert len(result.candidates[0].samples_ms) >= 3
    for words in ("edgeseg int8", "edgeseg fp32", "p99.9", "jitter", "readout", "1 in flight"):
        assert words in shown, words
    assert "accuracy: not measured: pass --val" in shown
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--force", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_int8_that_gains_nothing_is_named() -> None:
    faster = bench_results.samples(10.0, seed=1)
    own = bench_results.candidate("edgeseg int8", 20.0, samples_ms=bench_results.samples(20.0))
    result = bench_results.result(
        own,
        bench_results.candidate(
            "edgeseg fp32", 20.0, samples_ms=bench_results.samples(20.0, seed=2)
        ),
        bench_results.candidate("torch", 40.0),
        bench_results.candidate("openvino", 10.0, samples_ms=faster),
    )
    same, slower = int8_remarks(result)
    assert "not faster here than edgeseg fp32" in same and "no difference beyond noise" in same
    ratio = round_median(own.samples_ms) / round_median(faster)
    assert "not faster here than openvino" in slower
    assert f"takes {ratio:.2f} times as long" in slower
    assert remarks(result)[:2] == [same, slower]
    columns, rows = candidate_rows(result)
    against = columns.index("edgeseg int8 against it")
    assert [row[against].split(" ")[0] for row in rows[:1]] == ["-"]
    assert "not beyond noise" in rows[1][against]
    assert "not beyond noise" not in rows[2][against] + rows[3][against]
    fp32_alone = bench_results.result(bench_results.candidate("edgeseg fp32", 9.0))
    assert int8_remarks(fp32_alone) == []


def test_rows_of_a_full_result() -> None:
    result = bench_results.full_result()
    columns, rows = candidate_rows(result)
    assert all(len(row) == len(columns) for row in rows)
    assert "nncf" not in [row[0] for row in rows]
    said = remarks(result)
    assert "nncf: not measured: nncf is not installed: pip install nncf" in said
    assert any("HD95 21.34 px" in line and "100 cases" in line for line in said)
    columns, rows = throughput_rows(result)
    assert columns[1:] == ("1 in flight", "2 in flight", "4 in flight")


@pytest.mark.usefixtures("quick_bench")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"vs": ("openvino",)}, "pass --checkpoint"),
        ({"checkpoint": "x.pth"}, "only means something for the peers"),
        ({"data": "calib"}, "only means something for --vs nncf"),
        ({"vs": ("caffe",), "checkpoint": "x.pth"}, "unknown peer 'caffe'"),
        ({"vs": ("openvino",), "checkpoint": "x.pth", "device": "GPU"}, "compares on the CPU"),
        ({"vs": ("openvino",), "checkpoint": "x.pth", "backend": "tensorrt"}, "on the CPU"),
        ({"vs": ("torch", "torch"), "checkpoint": "x.pth"}, "named twice"),
        ({"precisions": ("fp32", "fp32")}, "named twice"),
        ({"rounds": 2}, "at least 3"),
        ({"rounds": 3, "duration_s": 1.0}, "give one"),
        ({"rounds": None, "duration_s": -1.0}, "positive"),
    ],
)
def test_what_cannot_be_meant_is_refused(bundle: Path, arguments: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        benchmark(bundle, **{**QUICK, **arguments})
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"checkpoint": "y.pth"}, UsageError, "only means something for a bundle"),
        ({"backend": "tensorrt"}, UsageError, "compile it first"),
        ({"precisions": ("int8",)}, CalibrationError, "INT8 needs --data"),
        ({"vs": ("nncf",)}, CalibrationError, "nncf needs --data"),
        ({"data": "calib", "precisions": ("fp32",)}, UsageError, "add --precision int8"),
    ],
)
def test_of_a_checkpoint_too(tmp_path: Path, arguments: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        benchmark(tmp_path / "x.pth", **QUICK, **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a bundle or a checkpoint"),
        (["x.edgeseg", "--compare", "a.json", "b.json"], "name a bundle or a checkpoint"),
        (["--compare", "a.json", "b.json", "--profile"], "--profile has no meaning"),
        (["--compare", "a.json", "b.json", "--precision", "int8"], "--precision has no meaning"),
    ],
)
def test_the_command_line_measures_or_compares(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_two_results_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = []
    for name, own_ms in (("a", 20.0), ("b", 10.0)):
        found = bench_results.result(
            bench_results.candidate("edgeseg int8", own_ms),
            bench_results.candidate("edgeseg fp32", 10.0),
        )
        files.append(tmp_path / f"{name}.json")
        write_result(files[-1], found)
    assert main(["bench", "--compare", *map(str, files)]) == 0
    shown = capsys.readouterr().out
    assert "B against A" in shown and "2.00 times as fast" in shown
    assert "INT8 is not faster here" in shown
    assert main(["bench", "--compare", str(files[0]), str(tmp_path / "none.json")]) == 1
    assert "none.json is no benchmark result" in capsys.readouterr().err


def nothing_is_measured(*arguments: object, **options: object) -> None:
    raise AssertionError("something was measured")


def test_a_peer_that_is_not_installed_fails_before_anything_else(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_optional.importlib, "import_module", absent)
    monkeypatch.setattr(_bench_source, "read_bundle", nothing_is_measured)
    with pytest.raises(MissingDependencyError, match="pip install"):
        benchmark(bundle, **QUICK, vs=("onnxruntime",), checkpoint="x.pth")


def test_a_peer_that_fails_is_no_silent_gap(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = TensorSpec("image", "float32", (1, 3, 32, 48), "NCHW")
    spec = CandidateSpec("onnxruntime", ("x.onnx",), 1, (image,), (image,))
    broken = dataclasses.replace(spec, unavailable="it cannot read the graph")
    monkeypatch.setattr(_bench_run, "peer_specs", lambda *a, **k: [broken])
    monkeypatch.setattr(_bench_run.Bench, "measure", nothing_is_measured)
    with pytest.raises(BackendError, match="--vs onnxruntime: it cannot read the graph"):
        benchmark(bundle, **QUICK, vs=("onnxruntime",), checkpoint="x.pth")


def test_a_folder_of_something_else_is_not_replaced(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(OutputError, match="no earlier benchmark"):
        benchmark(bundle, **QUICK, output=tmp_path, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_missing_sources_and_data_are_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.edgeseg does not exist"):
        benchmark(tmp_path / "none.edgeseg", **QUICK)
    with pytest.raises(UsageError, match=r"pass --checkpoint with .*none\.edgeseg"):
        benchmark(tmp_path / "none.edgeseg", **QUICK, vs=("openvino",))
    with pytest.raises(DataError, match="none"):
        benchmark(bundle, **QUICK, val=tmp_path / "none")


def test_pictures_that_calibrated_the_bundle_are_no_validation(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    calibrated = tiny_bundle(tmp_path / "calibrated.edgeseg")
    seen = sorted((data / "val" / "image").iterdir())[1]
    record = CalibrationRecord("edgeseg", "max", (seen.name,), (sha256_file(seen),), 1)
    manifest = read_bundle(calibrated).manifest
    seal(calibrated, dataclasses.replace(manifest, calibration=record))
    with pytest.raises(CalibrationError, match=rf"1 file.*{seen.name}"):
        benchmark(calibrated, **QUICK, val=data / "val")
    with pytest.raises(CalibrationError, match="also in the validation set"):
        benchmark(tmp_path / "x.pth", **QUICK, data=data / "val", val=data / "val")


@pytest.mark.usefixtures("quick_bench")
def test_a_checkpoint_is_built_and_measured_beside_its_peers(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    kept = tmp_path / "kept.edgeseg"

    def build_and_keep(*arguments: Any, **options: Any) -> BuildReport:
        report = build(*arguments, **options, imgsz=(64, 96))
        shutil.copytree(report.path, kept)
        return report

    monkeypatch.setattr(build_module, "build", build_and_keep)
    checkpoint = make_checkpoint(tmp_path / "small.pth")
    result = benchmark(checkpoint, **QUICK, vs=("torch", "onnxruntime"), val=data / "val").result
    assert [one.name for one in result.candidates] == ["edgeseg fp32", "torch", "onnxruntime"]
    assert result.subject == "small.pth" and result.checkpoint_sha256 == sha256_file(checkpoint)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["kept.edgeseg"]
    dice = [one.accuracy.dice for one in result.candidates if one.accuracy is not None]
    # The same float32 function three times.
    assert len(dice) == 3 and dice == pytest.approx([dice[0]] * 3, abs=0.01)
    for one in result.candidates:
        assert one.bound is not None and one.file_mib is not None and one.file_mib > 0
        assert len(one.samples_ms) == 3
    # The bundle itself is compared with what comes of its own checkpoint alone.
    other = make_checkpoint(tmp_path / "other.pth", seed=1)
    monkeypatch.setattr(_bench_run.Bench, "measure", nothing_is_measured)
    with pytest.raises(UsageError, match="is not the checkpoint"):
        benchmark(kept, **QUICK, vs=("onnxruntime",), checkpoint=other)


@pytest.fixture(scope="module")
def many_views(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny DINO-MVR checkpoint, and its bundle of FP32."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("views")
    checkpoint = make_checkpoint(
        folder / "views.pth", "dino_mvr", config={"resolutions": [[32, 48], [48, 48]], "flips": []}
    )
    return checkpoint, build(checkpoint, output=folder / "views.edgeseg").path


@pytest.mark.usefixtures("quick_bench")
def test_several_views_are_compared_up_to_the_mask(
    many_views: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    checkpoint, bundle = many_views
    masks: dict[str, list[np.ndarray]] = {"edgeseg": [], "onnxruntime": []}
    read_grid, read_out = Model.read_grid, FusingPeer.read_out

    def own(model: Model, *arguments: Any, **options: Any) -> Reading:
        time.sleep(0.02)
        reading = read_grid(model, *arguments, **options)
        masks["edgeseg"].append(reading.mask)
        return reading

    def peer(candidate: FusingPeer, *arguments: Any) -> np.ndarray:
        time.sleep(0.04)
        masks[candidate.name].append(read_out(candidate, *arguments))
        return masks[candidate.name][-1]

    monkeypatch.setattr(Model, "read_grid", own)
    monkeypatch.setattr(FusingPeer, "read_out", peer)
    options = {**QUICK, "vs": ("onnxruntime",), "checkpoint": checkpoint}
    result = benchmark(bundle, **options).result
    edgeseg_, peer_ = result.candidates
    # Each call was followed by a read-out, which counts.
    assert len(masks["edgeseg"]) == len(masks["onnxruntime"]) == 3 + 3 * 6
    for one, at_least_ms in ((edgeseg_, 20.0), (peer_, 40.0)):
        assert [len(block) for block in one.samples_ms] == [5, 5, 5]
        assert min(min(block) for block in one.samples_ms) >= at_least_ms
    assert "edgeseg's own read-out" in edgeseg_.how and "OpenCV" in peer_.how
    assert sum("mask on the model's grid" in note for note in result.notes) == 1
    # The same mask, on the same grid.
    assert masks["edgeseg"][0].shape == masks["onnxruntime"][0].shape == result.input_hw_px
    assert np.mean(masks["edgeseg"][0] == masks["onnxruntime"][0]) > 0.99
    # Stage and bound are of the network alone.
    inference_ms = result.stages_ms["inference"]["p50"]
    assert 0.0 < inference_ms < np.median(np.concatenate(edgeseg_.samples_ms)) - 19.0
    assert edgeseg_.bound is not None and peer_.bound is not None
    bound_ms = max(edgeseg_.bound.compute_ms, edgeseg_.bound.memory_ms)
    assert edgeseg_.bound.share == pytest.approx(bound_ms / inference_ms)


def test_inference_is_noted_apart_for_the_calls_that_count() -> None:
    class Slower(Broken):
        """Each call takes 5 ms more than the one before."""

        calls = 0

        def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
            self.calls += 1
            time.sleep(0.005 * self.calls)
            return super().infer(tensors)

    call = MaskCall(Slower(), {}, lambda outputs: time.sleep(0.01))
    rounds = measure_rounds({"slower": call}, rounds=3, block=2, warmup=1)["slower"]
    found = call.inference(rounds)
    assert [len(block) for block in found] == [2, 2, 2]
    # Of ten calls the first, and then the first of each round, do not count.
    for ms, sleeps in zip(np.ravel(found), (3, 4, 6, 7, 9, 10), strict=True):
        assert ms >= 5.0 * sleeps
    assert (np.ravel(rounds) >= np.ravel(found) + 10.0).all()
    with pytest.raises(UsageError, match="broken does not fuse"):
        mask_calls([Broken()], lambda one: {}, (32, 48))


def test_the_bound_follows_the_arithmetic_that_a_candidate_names(bundle: Path) -> None:
    limits = LimitsRecord({"int8": 400.0, "bf16": 200.0, "fp32": 100.0}, 10.0, 1, "made up")
    graph = bundle / "fp32.onnx"
    gop = 2 * 3 * 32 * 48 / 1e9

    class Named(Broken):
        def __init__(self, precision: str) -> None:
            self.precision = precision

    for rest, arithmetic_, rate in (
        ("float32", "fp32", 100.0),
        ("f32", "fp32", 100.0),
        ("bfloat16", "bf16", 200.0),
        ("bf16", "bf16", 200.0),
    ):
        for words in (rest, f"INT8 products, rest {rest}"):
            found = bound_of(Named(words), graph, limits, 1.0)
            assert found is not None and found.gop == {arithmetic_: pytest.approx(gop)}, words
            assert found.compute_ms == pytest.approx(1e3 * gop / rate)
    # No rate is measured of it.
    assert bound_of(Named("INT8 products, rest float16"), graph, limits, 1.0) is None


def test_arithmetic_in_words(bundle: Path) -> None:
    fp32 = read_bundle(bundle).variant("fp32", "openvino")
    assert arithmetic(fp32, "f32") == "float32"
    assert arithmetic(fp32, "bf16") == "bfloat16"
    mixed = dataclasses.replace(fp32, products="int8")
    assert arithmetic(mixed, "f32") == "INT8 products, rest float32"
    assert arithmetic(mixed, "bf16") == "INT8 products, rest bfloat16"
    half = dataclasses.replace(fp32, products="int8", rest="fp16")
    assert arithmetic(half, "f32") == "INT8 products, rest float16"
