"""ONNX Runtime's execution providers: which serves a device, and what it is told.

The graph states its precision. CUDA is kept from rounding FP32 products to TF32; TensorRT, which
ONNX Runtime lets choose freely among the types it may use, may use those of the graph. What it
compiles is kept in the cache of this machine.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg._cache import cache_folder
from edgeseg._files import sha256_file
from edgeseg._machine import cpu_name
from edgeseg.backends.base import EngineOptions
from edgeseg.errors import (
    BackendUnavailableError,
    MissingDependencyError,
    UsageError,
)

__all__ = [
    "CUDA",
    "SILENT",
    "TENSORRT",
    "Target",
    "check_assignment",
    "devices",
    "engine_folder",
    "find_target",
    "prepared",
    "provider_list",
]

_log = logging.getLogger(__name__)

_CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
_PROVIDERS = {"CPU": _CPU, "GPU": CUDA, "TENSORRT": TENSORRT}
_DEVICE = re.compile(r"(GPU|TENSORRT)\.(\d+)")
SILENT = 4
"""Severity of ONNX Runtime's log that nothing reaches."""
_DEFAULT_SEVERITY = 2
_MANY_ON_CPU = 0.1


@dataclass(frozen=True)
class Target:
    """Where a session runs."""

    device: str
    """As asked for: ``CPU``, ``GPU``, ``GPU.1``, ``TENSORRT``, ..."""
    provider: str
    index: int
    """Of the CUDA device."""
    name: str
    """The processor's or the GPU's name; the provider's where nobody tells it."""

    @property
    def is_cpu(self) -> bool:
        """Whether it is the processor."""
        return self.provider == _CPU

    @property
    def is_tensorrt(self) -> bool:
        """Whether TensorRT compiles the graph."""
        return self.provider == TENSORRT


def devices(ort: Any) -> tuple[str, ...]:
    """What the installed wheel and this machine offer: ``CPU``, ``GPU.0``, ``TENSORRT.0``, ...

    Without cuda-bindings nobody counts the GPUs, and the names are ``GPU`` and ``TENSORRT``.
    """
    present = ort.get_available_providers()
    names = [name for name, provider in _PROVIDERS.items() if provider in present]
    found = _gpu_names() if len(names) > 1 else None
    offered = []
    for name in names:
        if name == "CPU" or found is None:
            offered.append(name)
        else:
            offered += [f"{name}.{index}" for index in range(len(found))]
    return tuple(offered)


def find_target(ort: Any, device: str) -> Target:
    """The provider of a device.

    Raises:
        BackendUnavailableError: there is no such device, or the installed wheel has no provider
            for it.
    """
    numbered = _DEVICE.fullmatch(device)
    kind, index = (numbered[1], int(numbered[2])) if numbered else (device, 0)
    provider = _PROVIDERS.get(kind)
    if provider is None:
        raise BackendUnavailableError(
            f"ONNX Runtime has no device {device!r}: it offers {', '.join(devices(ort))}"
        )
    if provider not in ort.get_available_providers():
        raise BackendUnavailableError(
            f"the installed ONNX Runtime has no {provider}: run  pip uninstall -y onnxruntime && "
            "pip install 'edgeseg[onnxruntime-gpu]'"
        )
    if provider == _CPU:
        return Target(device, provider, 0, cpu_name())
    names = _gpu_names()
    if names and index >= len(names):
        raise BackendUnavailableError(
            f"there is no device {device!r}: ONNX Runtime offers {', '.join(devices(ort))}"
        )
    return Target(device, provider, index, names[index] if names else provider)


def provider_list(
    ort: Any, target: Target, path: Path, options: EngineOptions
) -> list[str | tuple[str, dict[str, str]]]:
    """Providers with their options, the wanted one first.

    Args:
        ort: the ``onnxruntime`` module.
        target: where.
        path: of the graph, whose content names the folder of what TensorRT compiles from it.
        options: ``products`` and ``rest`` must be known for TensorRT.

    Raises:
        UsageError: they are not.
        OutputError: there is no cache folder.
    """
    if target.is_cpu:
        return [_CPU]
    cuda = (CUDA, {"device_id": str(target.index), "use_tf32": "0"})
    if not target.is_tensorrt:
        return [cuda]
    if options.products is None or options.rest is None:
        raise UsageError(
            "ONNX Runtime's TensorRT provider has to be told the graph's arithmetic: pass "
            "EngineOptions(products=..., rest=...)"
        )
    half = "fp16" in (options.products, options.rest)
    tensorrt = {
        "device_id": str(target.index),
        "trt_fp16_enable": str(half),
        "trt_int8_enable": str(options.products == "int8"),
        # Ranges stand in the graph; a table would replace them.
        "trt_int8_use_native_calibration_table": "False",
        "trt_layer_norm_fp32_fallback": str(half),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engine_folder(ort, target, path)),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache_folder("onnxruntime", "timing")),
    }
    return [(TENSORRT, tensorrt), cuda]


def engine_folder(ort: Any, target: Target, path: Path) -> Path:
    """Where TensorRT engines of one graph, one GPU and one version of ONNX Runtime are kept.

    ONNX Runtime names an engine after the nodes of its graph; weights do not enter that name.
    """
    weights = path.with_name(f"{path.name}.data")
    hashes = [sha256_file(file)[:16] for file in (path, weights) if file.exists()]
    gpu = re.sub(r"\W+", "-", target.name).strip("-")
    return cache_folder("onnxruntime", "-".join((*hashes, str(ort.__version__), gpu)))


@contextlib.contextmanager
def prepared(ort: Any, target: Target) -> Iterator[None]:
    """Load the GPU's libraries from pip's packages, and keep the library's own lines off stderr.

    What it says there is said again, in one line, by ``_onnxruntime_failures``.
    """
    if target.is_cpu:
        yield
        return
    from edgeseg.backends._tensorrt.library import load as load_tensorrt

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        preload = getattr(ort, "preload_dlls", None)
        if preload is not None:
            preload()
        # Its import loads libnvinfer from pip's packages; without it the system's is found.
        if target.is_tensorrt:
            with contextlib.suppress(MissingDependencyError):
                load_tensorrt()
    for line in filter(None, map(str.strip, said.getvalue().splitlines())):
        _log.debug("onnxruntime: %s", line)
    ort.set_default_logger_severity(SILENT)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_DEFAULT_SEVERITY)


def check_assignment(session: Any, target: Target) -> None:
    """Say which nodes the wanted provider left to others.

    Raises:
        BackendUnavailableError: it took none.
    """
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    if target.is_cpu or ask is None:
        return
    counts: Counter[str] = Counter()
    on_cpu: Counter[str] = Counter()
    for part in ask():
        nodes = part.get_nodes()
        counts[part.ep_name] += len(nodes)
        if part.ep_name == _CPU:
            on_cpu.update(node.op_type for node in nodes)
    total = sum(counts.values())
    if total and not counts[target.provider]:
        raise BackendUnavailableError(
            f"{target.provider} took none of the graph's {total} nodes: choose device GPU or CPU"
        )
    _log.info("ONNX Runtime runs %s", ", ".join(f"{n} nodes on {p}" for p, n in counts.items()))
    if total and counts[_CPU] > _MANY_ON_CPU * total:
        kinds = ", ".join(f"{count} {kind}" for kind, count in on_cpu.most_common(4))
        _log.warning(
            "ONNX Runtime runs %d of %d nodes on the CPU, not on %s (%s): every change between "
            "them copies",
            counts[_CPU],
            total,
            target.device,
            kinds,
        )


def _gpu_names() -> tuple[str, ...] | None:
    """Names of the CUDA devices, none without a driver; None where cuda-bindings is missing."""
    from edgeseg.gpu import gpus

    try:
        return tuple(info.name for info in gpus())
    except MissingDependencyError:
        return None
    except BackendUnavailableError:
        return ()
