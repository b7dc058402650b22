"""Benchmark results made up from a seed, for tests of what is said of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgeseg.bench.result import (
    SCHEMA_VERSION,
    AccuracyRecord,
    BenchResult,
    BoundRecord,
    CandidateRecord,
    ConcurrencyRecord,
    EndToEndRecord,
    EnergyRecord,
    LimitsRecord,
    MachineRecord,
)

Samples = tuple[tuple[float, ...], ...]


def samples(
    median_ms: float, *, rounds: int = 8, calls: int = 30, spread: float = 0.02, seed: int = 0
) -> Samples:
    """Latencies around a median, rounds that drift a little, and a slow call in each."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(rounds):
        level = median_ms * (1 + generator.normal(0, spread / 4))
        values = level * (1 + generator.gamma(2.0, spread / 2, calls) - spread)
        values[generator.integers(calls)] *= 1.5
        made.append(tuple(float(value) for value in values))
    return tuple(made)


def round_median(rounds: Iterable[Iterable[float]]) -> float:
    """What ratios are of: the median of the rounds' medians."""
    return statistics.median(statistics.median(one) for one in rounds)


def candidate(name: str, median_ms: float, **other: Any) -> CandidateRecord:
    values: dict[str, Any] = {
        "version": "1.2.3",
        "how": f"the most natural use of {name}",
        "precision": "float32",
        "threads": 2,
        "samples_ms": samples(median_ms, seed=len(name)),
    }
    return CandidateRecord(name=name, **{**values, **other})


def machine(**other: Any) -> MachineRecord:
    values: dict[str, Any] = {
        "name": "AMD EPYC, Linux 6.18",
        "cpu": "AMD EPYC 9V74",
        "cores": 2,
        "isa": ("avx2", "avx512_vnni"),
        "memory_gib": 24.0,
        "governor": "performance",
        "power_mode": None,
        "throttling": None,
        "versions": {"python": "3.11.2", "openvino": "2026.4.1"},
    }
    return MachineRecord(**{**values, **other})


def result(*candidates: CandidateRecord, **other: Any) -> BenchResult:
    values: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "edgeseg_version": "0.1.0",
        "date_utc": "2026-11-21T15:44:52+00:00",
        "command": "edgeseg bench v1.edgeseg --vs torch",
        "subject": "v1",
        "checkpoint_sha256": "a" * 64,
        "family": "segdino_v1",
        "input_hw_px": (256, 256),
        "frame_hw_px": (720, 1280),
        "rewrites": ("fold_norm",),
        "machine": machine(),
        "candidates": candidates,
        "stages_ms": {},
    }
    return BenchResult(**{**values, **other})


def _stage(ms: float) -> Mapping[str, float]:
    return {"min": 0.9 * ms, "mean": 1.02 * ms, "p50": ms, "p99": 1.4 * ms, "max": 1.8 * ms}


def full_result() -> BenchResult:
    """With every record, one candidate that could not be measured, and a page full of figures."""

    def scored(dice: float, against: str = "labels") -> AccuracyRecord:
        return AccuracyRecord(100, against, dice, dice - 0.11, 21.34, "case 9", 0.0123)

    def rates(fps: float) -> tuple[ConcurrencyRecord, ...]:
        return tuple(
            ConcurrencyRecord(n, fps * (1 + 0.35 * np.log2(n)), 1e3 * n / fps) for n in (1, 2, 4)
        )

    def own(name: str, ms: float, dice: float, kind: str, seed: int) -> CandidateRecord:
        return candidate(
            name,
            ms,
            precision=f"{kind} products, rest float32",
            samples_ms=samples(ms, rounds=8, calls=60, seed=seed),
            load_ms=431.0,
            peak_rss_mib=212.5,
            file_mib=24.75,
            throughput=rates(1e3 / ms),
            accuracy=scored(dice),
            energy=EnergyRecord("RAPL package", 812.0, 37.5),
            bound=BoundRecord({kind.lower(): 13.6, "fp32": 1.21}, 31.4, 0.41 * ms, 2.2, 0.41),
        )

    def peer(name: str, ms: float, dice: float, seed: int) -> CandidateRecord:
        return candidate(
            name,
            ms,
            samples_ms=samples(ms, rounds=8, calls=60, seed=seed),
            load_ms=1890.0,
            peak_rss_mib=913.0,
            file_mib=98.0,
            throughput=rates(1e3 / ms),
            accuracy=scored(dice),
            bound=BoundRecord({"fp32": 14.9}, 104.0, 0.3 * ms, 4.4, 0.3),
        )

    missing = candidate(
        "nncf", 1.0, samples_ms=(), unavailable="nncf is not installed: pip install nncf"
    )
    blocks = {
        "sum_of_profiled_layers_ms": 25.5,
        "unprofiled_inference_ms": 21.4,
        "note": "timing each layer costs time of its own",
        "blocks": [
            {
                "block": name,
                "ms": ms,
                "share": ms / 26.6,
                "layers": 4,
                "slowest": [{"name": f"/{name}/MatMul", "kind": "FullyConnected", "ms": ms / 2}],
            }
            for name, ms in (
                ("preprocessing", 0.6),
                ("patch embed", 0.5),
                ("attention", 8.4),
                ("MLP", 11.9),
                ("decoder", 4.6),
                ("post-processing", 0.6),
            )
        ],
    }
    generator = np.random.default_rng(5)
    return result(
        own("edgeseg int8", 21.4, 0.6999, "INT8", 1),
        own("edgeseg fp32", 55.2, 0.7017, "FP32", 2),
        peer("torch", 118.3, 0.7017, 3),
        peer("torch-compile", 92.6, 0.7017, 4),
        peer("onnxruntime", 68.5, 0.7016, 5),
        peer("openvino", 55.3, 0.7017, 6),
        missing,
        stages_ms={
            "preprocess": _stage(0.58),
            "inference": _stage(21.4),
            "readout": _stage(0.32),
            "total": _stage(22.5),
        },
        limits=LimitsRecord({"int8": 1534.0, "bf16": 402.0, "fp32": 198.0}, 17.25, 2, "by GEMM"),
        blocks=blocks,
        frame_path={
            "how": "with graphs, frames mapped",
            "frames_per_s": 412.6,
            "copies_ms": {"copy_in": 0.118, "copy_out": 0.047},
            "steps_ms": {"preprocess": 0.052, "inference": 2.204, "overlay": 0.061},
        },
        end_to_end=EndToEndRecord(
            "polyps.mp4",
            (720, 1280),
            600,
            True,
            tuple(float(v) for v in 31.0 + generator.gamma(3.0, 1.5, 600)),
            {"decode": 3.1, "preprocess": 0.6, "inference": 21.4, "readout": 0.3, "draw": 0.9},
            24.9,
            dropped=37,
            late=5,
        ),
        notes=("tensorrt was left out: there is no NVIDIA device",),
    )
