"""The process in which NVIDIA ModelOpt runs; started by ``edgeseg.calib.modelopt``.

ModelOpt replaces functions of ``onnxruntime.quantization`` for the whole process, imports torch
and writes files beside its input: none of that happens in the caller's process. Only JSON, ONNX and
.npy files pass between the two. Exit code 3 says that ModelOpt or a library it needs is not
installed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

MISSING_LIBRARY = 3


def main(request_path: str) -> int:
    """Quantise as the JSON file ``request_path`` says; returns the exit code."""
    # Run as a script, this folder would come first on the path, and its modules have common names.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    try:
        import numpy as np
        from modelopt.onnx.quantization import quantize
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return MISSING_LIBRARY
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    frames = {
        name: np.load(path, mmap_mode="r", allow_pickle=False)
        for name, path in request["frames"].items()
    }
    quantize(
        request["model"],
        quantize_mode="int8",
        calibration_data=frames,
        calibration_method=request["method"],
        calibration_eps=["cpu"],
        op_types_to_quantize=["MatMul", "Conv"],
        nodes_to_exclude=request["exclude"],
        high_precision_dtype="fp32",
        disable_mha_qdq=True,
        passes=[],
        output_path=request["output"],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
