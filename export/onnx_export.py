"""Writing a loaded checkpoint as a static FP32 ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import nn

from edgeseg import __version__
from edgeseg._files import atomic_file, check_output
from edgeseg.errors import ExportError
from edgeseg.export.family import InputSize
from edgeseg.export.graph import MAX_IR_VERSION, OPSET, check_graph, infer_shapes
from edgeseg.export.loading import LoadedCheckpoint
from edgeseg.export.naming import drop_notes, rename
from edgeseg.export.rewriting import free_batch, share_weights
from edgeseg.spec import AppliedRewrite, TensorSpec

__all__ = ["ExportedGraph", "Progress", "export_onnx"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with steps done and steps in all."""

MAX_FILE_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; weights of larger graphs go into a second file."""

_STEPS = 4
_CHATTY = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")


@dataclass(frozen=True)
class ExportedGraph:
    """An ONNX file on disk, checked."""

    path: Path
    data_path: Path | None
    """Second file with the weights, for graphs over 2 GB."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    ir_version: int
    nodes: Mapping[str, int]
    """Operators with how many of each."""
    rewrites: tuple[AppliedRewrite, ...] = ()
    """What was changed in its algebra."""


def export_onnx(
    loaded: LoadedCheckpoint,
    destination: Path,
    *,
    height_px: int,
    width_px: int,
    batch: int = 1,
    rewrite: bool = True,
    progress: Progress | None = None,
) -> ExportedGraph:
    """Write the model for one input size as ONNX.

    Static shapes, opset 20, RoPE tables as constants, LayerNormalization and Gelu as such, no
    control flow. Nodes are named after their modules (``/backbone/blocks.3/attn/qkv/MatMul``).

    Args:
        loaded: the checkpoint; a model with views is written for those of its config.
        destination: file to write, replaced whole if it exists.
        height_px, width_px: input size; multiples of 16 for SegDINO, the largest view's for
            DINO-MVR.
        batch: images in one call.
        rewrite: whether to change the graph's algebra exactly (``edgeseg.export.rewrite``);
            without, every product is the authors' own.
        progress: called after each step.

    Raises:
        UsageError: the model cannot take that size; names the nearest.
        ExportError: the exporter failed, or its graph breaks one of the promises above.
        OutputError: the file cannot be written.
    """
    destination = Path(destination)
    size = InputSize(height_px, width_px, batch)
    family, config = loaded.family, loaded.config
    family.check_size(config, size)
    check_output(destination, force=True)
    inputs, outputs = family.inputs(config, size), family.outputs(config, size)
    report = _counted(progress)
    made = family.exportable(loaded.model, config, size, rewrite=rewrite)
    module = made.module.eval()
    report()
    model = _translate(module, inputs, outputs)
    report()
    share_weights(model)
    if family.free_batch:
        free_batch(model)
    rename(model)
    drop_notes(model)
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    model.producer_name, model.producer_version = "edgeseg", __version__
    model.graph.name = family.name
    onnx.helper.set_model_props(model, {"family": family.name, "checkpoint_sha256": loaded.sha256})
    infer_shapes(model)
    check_graph(model, inputs, outputs)
    report()
    data_path = _write(model, destination)
    report()
    return ExportedGraph(
        path=destination,
        data_path=data_path,
        inputs=inputs,
        outputs=outputs,
        opset=OPSET,
        ir_version=model.ir_version,
        nodes=dict(Counter(node.op_type for node in model.graph.node)),
        rewrites=made.rewrites,
    )


def _translate(
    module: nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> ModelProto:
    examples = tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in inputs)
    with _quiet() as chatter, torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                optimize=True,
                verbose=False,
            )
            model = program.model_proto
        except Exception as error:  # the exporter wraps whatever went wrong in types of its own
            raise ExportError(f"torch could not export the model: {error}") from error
    for line in filter(None, chatter.getvalue().splitlines()):
        logger.debug("exporter: %s", line)
    return model


def _write(model: ModelProto, path: Path) -> Path | None:
    """Save whole or not at all; the weights apart where one file cannot hold them."""
    if model.ByteSize() <= MAX_FILE_BYTES:
        with atomic_file(path) as temporary:
            onnx.save_model(model, temporary)
            _check_file(temporary)
        return None
    data_path = path.with_name(path.name + ".data")
    with atomic_file(path) as temporary:
        data_path.unlink(missing_ok=True)
        try:
            onnx.save_model(model, temporary, save_as_external_data=True, location=data_path.name)
            _check_file(temporary)
        except BaseException:
            data_path.unlink(missing_ok=True)
            raise
    return data_path


def _check_file(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keep the exporter's prints, warnings and log lines off the user's terminal."""
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    caught = io.StringIO()
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(caught):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(caught):
                yield caught
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _counted(progress: Progress | None) -> Callable[[], None]:
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, _STEPS)

    return report
