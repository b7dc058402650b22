"""NVIDIA ModelOpt as the quantiser, kept to the same placement as edgeseg's own.

ModelOpt's defaults quantise residual adds and LayerNorm inputs, which destroys DINOv3 models; here
it is told to quantise ``MatMul`` and ``Conv`` only, never attention's products, and its result has
to pass the same ``check_placement``. Its scales are taken as they are. Two things are changed in
what it writes: weights are stored as INT8 codes; and where a residual add (or an excluded product)
reads a tensor that is quantised for another reader, ModelOpt hands it the rounded values, so it
gets the original back. For TensorRT the rest becomes FP16.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from edgeseg.calib._modelopt_worker import MISSING_LIBRARY
from edgeseg.calib.check import check_placement
from edgeseg.calib.fp16 import convert_to_fp16
from edgeseg.calib.frames import CalibrationFrames
from edgeseg.calib.graph import Graph
from edgeseg.calib.placement import excluded_products, find_products
from edgeseg.calib.qdq import QuantizedGraph, separate_bias
from edgeseg.calib.targets import target_for
from edgeseg.errors import CalibrationError, MissingDependencyError, UsageError
from edgeseg.spec import BackendName, Decision

__all__ = [
    "DEFAULT_MODELOPT_METHOD",
    "MODELOPT_METHODS",
    "ModeloptMethod",
    "quantize_with_modelopt",
]

ModeloptMethod = Literal["max", "entropy"]
MODELOPT_METHODS: tuple[ModeloptMethod, ...] = get_args(ModeloptMethod)
DEFAULT_MODELOPT_METHOD: ModeloptMethod = "max"

_ERROR_LINES = 15
_WORDS: dict[BackendName, str] = {
    "openvino": (
        "Q/DQ by ModelOpt on inputs and weights of Linear and Conv; activations as uint8 with zero "
        "point 128"
    ),
    "onnxruntime": (
        "Q/DQ by ModelOpt on inputs and weights of Linear and Conv; activations as uint8 with zero "
        "point 128; bias apart from MatMul; convolutions run in float here, since their outputs "
        "are not quantised"
    ),
    "tensorrt": (
        "Q/DQ by ModelOpt on inputs and weights of Linear and Conv; scales FP16; LayerNorm in FP32 "
        "between casts"
    ),
}


def quantize_with_modelopt(
    fp32_path: Path,
    frames: CalibrationFrames,
    destinations: Mapping[BackendName, Path],
    *,
    method: str = DEFAULT_MODELOPT_METHOD,
    exclude: Sequence[str] = (),
    on_frame: Callable[[int], None] | None = None,
) -> tuple[QuantizedGraph, ...]:
    """Calibrate and quantise with ModelOpt, in a process of its own.

    All preprocessed frames go through temporary files, one for each input, of together at most
    ``edgeseg.calib.frames.MAX_ARRAY_BYTES``.

    Args:
        fp32_path: ONNX with static shapes, opset 19 or 20.
        frames: calibration frames.
        destinations: for each wanted backend the file to write; the calibration is shared.
        method: ``max`` or ``entropy``.
        exclude: regular expressions; a Linear or Conv whose whole name matches stays in float.
        on_frame: called with the number of frames preprocessed, after each.

    Returns:
        One result for each destination.

    Raises:
        MissingDependencyError: ModelOpt is not installed.
        UsageError: an unknown method or backend, or a pattern that matches nothing.
        CalibrationError: ModelOpt failed (with the end of its output), its result breaks the rules
            of the placement, or the frames are unreadable or too many.
        OutputError: a file cannot be written.
    """
    if method not in MODELOPT_METHODS:
        raise UsageError(
            f"ModelOpt knows the calibration methods {', '.join(MODELOPT_METHODS)}, not {method!r}"
        )
    targets = [target_for(backend) for backend in destinations]
    _require_modelopt()
    graph = Graph.load(fp32_path)
    with tempfile.TemporaryDirectory(prefix="edgeseg-modelopt-") as name:
        result = _run(graph, frames, Path(name), method=method, exclude=exclude, on_frame=on_frame)
    _fold_weights(result)
    _unround_other_readers(result)
    signed = result.to_model()
    unsigned = _unsigned(Graph(signed)).to_model()
    # Every file below has this placement.
    report = check_placement(unsigned, "openvino")
    written = []
    for target in targets:
        variant = Graph(signed if target.activations == "int8" else unsigned)
        decisions: tuple[Decision, ...] = ()
        if target.separate_bias:
            separate_bias(variant)
        if target.rest == "fp16":
            decisions = convert_to_fp16(variant, "fp16")
            check_placement(variant.to_model(), target.backend)
        variant.save(destinations[target.backend])
        written.append(
            QuantizedGraph(
                path=destinations[target.backend],
                backends=(target.backend,),
                rest=target.rest,
                placement=_WORDS[target.backend],
                products=report.products,
                decisions=decisions,
            )
        )
    return tuple(written)


def _unsigned(graph: Graph) -> Graph:
    """``graph`` with activations on the same grid, but stored as uint8 with zero point 128."""
    zero = graph.add_constant("activation_zero_point", np.array(128, np.uint8))
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear" or graph.is_constant(node.input[0]):
            continue
        for pair in (node, *graph.consumers(node.output[0])):
            del pair.input[2:]
            pair.input.append(zero)
    return graph


def _require_modelopt() -> None:
    if importlib.util.find_spec("modelopt") is None:
        raise _missing("it is not installed")


def _missing(reason: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"the ModelOpt quantiser cannot be used ({reason}): run  pip install 'edgeseg[modelopt]'"
    )


def _run(
    graph: Graph,
    frames: CalibrationFrames,
    folder: Path,
    *,
    method: str,
    exclude: Sequence[str],
    on_frame: Callable[[int], None] | None,
) -> Graph:
    products = find_products(graph)
    left_out = [*excluded_products(products, exclude), *_attention_products(graph)]
    graph.save(folder / "model.onnx")
    arrays = {name: folder / f"frames-{i}.npy" for i, name in enumerate(graph.inputs)}
    frames.save_arrays(list(arrays.values()), on_frame)
    request = {
        "model": str(folder / "model.onnx"),
        "frames": {name: str(path) for name, path in arrays.items()},
        "method": method,
        # ModelOpt matches prefixes, so both ends are anchored.
        "exclude": [f"^{re.escape(name)}$" for name in left_out],
        "output": str(folder / "quantised.onnx"),
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    worker = Path(__file__).with_name("_modelopt_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), str(folder / "request.json")],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=folder,
    )
    if done.returncode == MISSING_LIBRARY:
        raise _missing(done.stderr.strip().splitlines()[-1])
    if done.returncode != 0 or not (folder / "quantised.onnx").exists():
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_ERROR_LINES:]
        raise CalibrationError(
            f"ModelOpt failed with exit code {done.returncode}; its last lines were:\n"
            + "\n".join(lines)
        )
    return Graph.load(folder / "quantised.onnx")


def _attention_products(graph: Graph) -> list[str]:
    """Names of the matrix products without a constant factor."""
    return [
        str(node.name)
        for node in graph.nodes
        if node.op_type == "MatMul" and not any(graph.is_constant(name) for name in node.input)
    ]


def _fold_weights(graph: Graph) -> None:
    """Store constants that are quantised in the graph as their codes, equal ones once.

    ModelOpt gives every reader of a weight a copy of its own.
    """
    kept = []
    stored: dict[tuple[tuple[int, ...], bytes], str] = {}
    for node in graph.nodes:
        value = graph.value(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if value is None:
            kept.append(node)
            continue
        scale, zero_point = graph.value(node.input[1]), graph.value(node.input[2])
        if scale is None or zero_point is None or zero_point.dtype != np.int8 or zero_point.any():
            raise CalibrationError(f"{node.name}: a weight is not quantised symmetrically to INT8")
        along = [1] * value.ndim
        if scale.ndim == 1:
            along[next((a.i for a in node.attribute if a.name == "axis"), 1)] = -1
        # Single precision, as QuantizeLinear is defined: the quotient decides ties.
        codes = np.clip(np.rint(value / scale.reshape(along)), -128, 127).astype(np.int8)
        key = (codes.shape, hashlib.sha256(codes.tobytes()).digest())
        if key not in stored:
            stored[key] = graph.add_constant(f"{node.input[0]}_codes", codes)
        for reader in graph.consumers(node.output[0]):
            reader.input[0] = stored[key]
    graph.nodes = kept
    graph.index()


def _unround_other_readers(graph: Graph) -> None:
    """Let only products with quantised weights read dequantised activations."""
    for node in graph.nodes:
        maker = graph.producer(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if maker is None or maker.op_type != "QuantizeLinear":
            continue
        for reader in graph.consumers(node.output[0]):
            weight = graph.producer(reader.input[1]) if len(reader.input) > 1 else None
            quantised = (
                reader.op_type in ("MatMul", "Gemm", "Conv")
                and reader.input[0] == node.output[0]
                and weight is not None
                and weight.op_type == "DequantizeLinear"
                and graph.is_constant(weight.input[0])
            )
            if not quantised:
                for i, name in enumerate(reader.input):
                    if name == node.output[0]:
                        reader.input[i] = maker.input[0]
    graph.index()
