"""What the machine can do: the best rate of matrix products by arithmetic, and a copy's bandwidth.

Products are run by OpenVINO, whose kernels know more instruction sets than any other library here,
in shapes that vision transformers have and in larger ones. A model chains several of them, so that
the cost of a call vanishes, and counts only if its execution graph says that every product ran in
the wanted arithmetic.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import _linux
from edgeseg._optional import require
from edgeseg._progress import Progress, silent
from edgeseg.bench.result import LimitsRecord
from edgeseg.bench.work import Arithmetic
from edgeseg.errors import BackendError, UsageError

__all__ = ["measure_limits"]

_SHAPES = (
    (261, 384, 1536),
    (1024, 384, 1536),
    (1029, 768, 3072),
    (2048, 1024, 1024),
)
"""(rows, inputs, outputs): ViT-S at 256 and 512 pixels, ViT-B at 512, and a larger one."""
_OPERATIONS = 5e9
"""Of a model, for each thread."""
_ROUNDS = 7

_CAPABILITIES: dict[Arithmetic, str] = {"int8": "INT8", "bf16": "BF16", "fp32": "FP32"}
"""As OpenVINO names them among a device's."""
_PRECISIONS: dict[Arithmetic, frozenset[str]] = {
    "int8": frozenset({"i8", "u8"}),
    "bf16": frozenset({"bf16"}),
    "fp32": frozenset({"f32"}),
}
"""As an execution graph names them."""
_PRODUCT_LAYERS = frozenset({"FullyConnected", "MatMul", "Convolution"})

_LEAST_COPY_BYTES = 256 * 2**20
_CACHES = 4
"""The copied array is so many times as large as the last caches together."""


@dataclass
class _Model:
    """A compiled chain of products."""

    arithmetic: Arithmetic
    threads: int
    operations: int
    request: Any
    rates_gops: list[float] = field(default_factory=list)

    def run(self) -> None:
        """One round: a call that brings the caches back, then one that counts."""
        self.request.infer()
        start = time.perf_counter()
        self.request.infer()
        self.rates_gops.append(1e-9 * self.operations / (time.perf_counter() - start))

    @property
    def gops(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rates_gops)


def measure_limits(
    threads: int, *, progress: Progress = silent, root: Path = _linux.ROOT
) -> LimitsRecord:
    """Measure the best rates of matrix products and the bandwidth of a copy.

    Takes about ten seconds and up to a quarter of the available memory. Of each arithmetic the
    best model counts, and of a model the median over rounds, in which all models take turns.

    Args:
        threads: of both, 1 to the number of usable processors. OpenVINO may use fewer; the record
            tells.
        progress: told of the stage ``limits``.
        root: stands in for ``/`` where sizes of caches and memory are read.

    Raises:
        UsageError: fewer threads than one, or more than processors.
        BackendError: OpenVINO fails, or runs none of the products in its own arithmetic.
    """
    cores = _linux.usable_cores()
    if not 1 <= threads <= cores:
        raise UsageError(f"{threads} threads cannot be measured: this process may use 1 to {cores}")
    ov = require("openvino")
    core = ov.Core()
    offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    left_out = []
    models: list[_Model] = []
    try:
        for arithmetic, capability in _CAPABILITIES.items():
            made = []
            if capability in offered:
                made = [m for m in _models(ov, core, arithmetic, threads) if m is not None]
            if not made:
                left_out.append(arithmetic)
            models += made
        if not models:
            raise BackendError("OpenVINO runs matrix products in no known arithmetic here")
        steps = len(models) * _ROUNDS + 1
        done = 0
        for _ in range(_ROUNDS):
            for model in models:
                model.run()
                done += 1
                progress("limits", done, steps)
    except RuntimeError as error:
        raise BackendError(f"OpenVINO cannot multiply matrices here: {error}") from error
    # OpenVINO may leave out logical processors; what it used is what is said.
    threads = models[0].threads
    gops: dict[str, float] = {}
    for model in models:
        gops[model.arithmetic] = max(model.gops, gops.get(model.arithmetic, 0.0))
    size = _copy_bytes(root)
    bandwidth = _bandwidth_gib_s(threads, size)
    progress("limits", steps, steps)
    version = str(ov.__version__).split("-", 1)[0]
    how = (
        f"OpenVINO {version}, products in chains, best of {len(_SHAPES)} shapes, medians "
        f"of {_ROUNDS} rounds; numpy copies {size / 2**20:.0f} MiB, reads and writes counted"
    )
    if left_out:
        how += f"; not run by this processor or library: {', '.join(left_out)}"
    return LimitsRecord(gops=gops, bandwidth_gib_s=bandwidth, threads=threads, how=how)


def _models(ov: Any, core: Any, arithmetic: Arithmetic, threads: int) -> Iterator[_Model | None]:
    """A warm model for each shape; None for those that run in another arithmetic."""
    # Some processors multiply unsigned by signed bytes alone, some signed by signed.
    for signed in (False, True) if arithmetic == "int8" else (True,):
        for shape in _SHAPES:
            yield _compile(ov, core, arithmetic, shape, threads, signed=signed)


def _compile(
    ov: Any,
    core: Any,
    arithmetic: Arithmetic,
    shape: tuple[int, int, int],
    threads: int,
    *,
    signed: bool,
) -> _Model | None:
    rows, inputs, outputs = shape
    products = 2 * max(1, round(threads * _OPERATIONS / (4 * rows * inputs * outputs)))
    compiled = core.compile_model(
        _chain(ov, shape, products, quantised=arithmetic == "int8", signed=signed),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if arithmetic == "bf16" else "f32",
        },
    )
    if _count(compiled, arithmetic) != products:
        return None
    request = compiled.create_infer_request()
    request.get_input_tensor().data[:] = np.random.default_rng(1).uniform(-1, 1, (1, rows, inputs))
    used = int(compiled.get_property("INFERENCE_NUM_THREADS"))
    return _Model(arithmetic, used, products * 2 * rows * inputs * outputs, request)


def _chain(
    ov: Any, shape: tuple[int, int, int], products: int, *, quantised: bool, signed: bool
) -> Any:
    """An input (1, rows, inputs) times constant weights to outputs, back to inputs, and so on."""
    ops = require("openvino.opset13")
    rows, inputs, outputs = shape
    generator = np.random.default_rng(0)

    def number(value: float) -> Any:
        return ops.constant(np.float32(value))

    def weight(fan_in: int, fan_out: int) -> Any:
        # Results keep the scale of what comes in, so that nothing overflows or becomes zero.
        deviation = 1.0 / np.sqrt(fan_in)
        if not quantised:
            values = generator.normal(0.0, deviation, (fan_out, fan_in))
            return ops.constant(values.astype(np.float32))
        codes = generator.integers(-127, 128, (fan_out, fan_in), dtype=np.int8)
        # What rounding and the ends of the range take away is given back: they hold it in turn.
        scales = np.full((fan_out, 1), 2.0 * deviation / codes.std(), np.float32)
        return ops.multiply(ops.convert(ops.constant(codes), np.float32), ops.constant(scales))

    parameter = value = ops.parameter([1, rows, inputs], np.float32)
    weights = (weight(inputs, outputs), weight(outputs, inputs))
    ends = [number(end) for end in ((-2.0, 2.0 * 127 / 128) if signed else (0.0, 2.0))]
    for place in range(products):
        if quantised:
            value = ops.fake_quantize(value, *ends, *ends, 256)
        value = ops.matmul(value, weights[place % 2], False, True)
    return ov.Model([ops.result(value)], [parameter], "products")


def _count(compiled: Any, arithmetic: Arithmetic) -> int:
    """How many products the execution graph has, 0 if one of them runs in another arithmetic."""
    precisions = []
    for layer in compiled.get_runtime_model().get_ordered_ops():
        notes = layer.get_rt_info()
        if str(notes["layerType"].astype(str)) in _PRODUCT_LAYERS:
            precisions.append(str(notes["runtimePrecision"].astype(str)))
    return len(precisions) if _PRECISIONS[arithmetic].issuperset(precisions) else 0


def _copy_bytes(root: Path) -> int:
    """Far more than the caches hold, but no more than an eighth of the available memory."""
    wanted = max(_LEAST_COPY_BYTES, _CACHES * _last_caches_bytes(root))
    memory, limit = _linux.available_memory_bytes(root), _linux.memory_limit_bytes(root)
    free = min(n for n in (memory[1] if memory else None, limit, 16 * wanted) if n is not None)
    return min(wanted, free // 8)


def _last_caches_bytes(root: Path) -> int:
    """All caches of the last level together; 0 where the system does not tell."""
    levels: dict[int, dict[str, int]] = {}
    for folder in (root / "sys/devices/system/cpu").glob("cpu*/cache/index*"):
        try:
            level = int((folder / "level").read_text())
            kilobytes = int((folder / "size").read_text().strip().removesuffix("K"))
            shared = (folder / "shared_cpu_list").read_text().strip()
        except (OSError, ValueError):
            continue
        levels.setdefault(level, {})[shared] = 1024 * kilobytes
    return sum(levels[max(levels)].values()) if levels else 0


def _bandwidth_gib_s(threads: int, size_bytes: int) -> float:
    """Median of copies of an array, a part of it to each thread; bytes read and written."""
    # Written once, so that no copy meets pages that do not exist yet.
    source, target = (np.full(size_bytes // 8, 1, np.int64) for _ in range(2))
    parts = (np.array_split(target, threads), np.array_split(source, threads))
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_ROUNDS + 1):
            start = time.perf_counter()
            list(pool.map(np.copyto, *parts))
            seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / 2**30 / statistics.median(seconds[1:])
