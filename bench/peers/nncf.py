"""OpenVINO's NNCF: INT8 by post-training quantisation of the plain FP32 export."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

from edgeseg._files import atomic_directory
from edgeseg._optional import require
from edgeseg.bench.candidate import Array
from edgeseg.errors import BackendError, EdgesegError

__all__ = ["MAX_FRAMES", "CalibrationInputs", "library", "quantize_with_nncf"]

MAX_FRAMES = 300
"""NNCF's own default of how many frames it looks at."""

_CHATTY = "torch.utils.cpp_extension"
_FILES = ("int8.xml", "int8.bin")


class CalibrationInputs(Protocol):
    """The network's inputs by name for each calibration frame; iterated over several times."""

    def __len__(self) -> int:
        """Number of frames."""

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        """Yield them, float32."""


def library() -> ModuleType:
    """NNCF, without its log lines.

    Raises:
        MissingDependencyError: it is not installed; names the line that installs it.
    """
    kind = logging.getLoggerClass()
    try:
        require("openvino")
        nncf = require("nncf", "bench")
    finally:
        # It puts a class of its own in place for all loggers that are made from now on.
        logging.setLoggerClass(kind)
    # Not ``nncf.set_log_level``: it changes whatever handlers others hung on its logger, too.
    logging.getLogger(nncf.__name__).setLevel(logging.ERROR)
    return nncf


def quantize_with_nncf(
    onnx_path: Path,
    destination: Path,
    frames: CalibrationInputs,
    *,
    on_pass: Callable[[int], None] | None = None,
) -> tuple[Path, Path]:
    """Quantise as NNCF's documentation does for transformers, and save OpenVINO IR.

    All its settings but the kind of model and the number of frames are its own defaults.

    Args:
        onnx_path: the plain FP32 export.
        destination: folder to write, replaced whole if it exists.
        frames: of which the first ``MAX_FRAMES`` are used.
        on_pass: called with how often frames have been run so far: NNCF goes over them more than
            once.

    Returns:
        The XML file and the file of its weights.

    Raises:
        MissingDependencyError: NNCF is not installed.
        BackendError: NNCF cannot quantise this model.
        EdgesegError: what ``frames`` raises while it is read.
    """
    nncf, ov = library(), require("openvino")
    done = 0

    def reported(tensors: Mapping[str, Array]) -> dict[str, Array]:
        nonlocal done
        done += 1
        if on_pass is not None:
            on_pass(done)
        return dict(tensors)

    try:
        with _quiet():
            model = ov.Core().read_model(str(onnx_path))
            quantized = nncf.quantize(
                model,
                nncf.Dataset(frames, reported),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=min(MAX_FRAMES, len(frames)),
            )
            with atomic_directory(destination, force=True) as folder:
                ov.save_model(quantized, folder / _FILES[0], compress_to_fp16=False)
    except EdgesegError:
        raise
    except Exception as error:  # errors of three libraries, without a base class
        raise BackendError(f"NNCF cannot quantise {onnx_path.name}: {error}") from error
    xml, weights = (destination / name for name in _FILES)
    return xml, weights


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's progress bars, and a warning of torch's, which it loads, off the terminal."""
    torch_logger = logging.getLogger(_CHATTY)
    level = torch_logger.level
    torch_logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        torch_logger.setLevel(level)
