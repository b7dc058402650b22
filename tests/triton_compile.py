"""Compiles the Triton kernels for GPUs that need not be there; ``test_triton.py`` runs it.

Prints a JSON list of kernel, architecture, registers a thread and bytes spilled, as ptxas counts.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from edgeseg.kernels.triton_kernels import _blend, _fuse, _resize, _smooth
from edgeseg.kernels.triton_kernels._launch import FOUR_WARPS, ONE_WARP

POINTERS = {
    "colours": "*u8",
    "frame": "*u8",
    "mask": "*u8",
    "out": "*fp32",
    "probability": "*fp32",
    "result": "*fp32",
    "settings": "*fp32",
    "source": "*u8",
    "state": "*fp32",
    "table": "*i64",
    "threshold": "*fp32",
    "values": "*fp32",
    "volume": "*fp32",
    "weights": "*fp32",
}
FUSE = {"WEIGHTING": 0, "TYPE": 0, "WIDE": False, "STATE": True, "ROWS": 1, "COLUMNS": 256}
MANY = {**FUSE, "CHANNELS": 4, "COLUMNS": 128}
SMOOTH = {"OUT": True, "MASK": True, "ONE": True, "RUN": 16, "BLOCK": 128}
RESIZE = {"ROWS": 1, "COLUMNS": 128}
TABLES = {"first": "*i32", "weights": "*i32"}

# The launches of the package: kernel, constants, types that differ, how it is compiled. Triton
# makes a constant of every integer argument that is 1; those stand among the constants too.
LAUNCHES = {
    "fuse one class": (_fuse._fuse_one, FUSE, {}, FOUR_WARPS),
    "fuse one class, exp, mixed types, 64 bits": (
        _fuse._fuse_one,
        {**FUSE, "WEIGHTING": 1, "TYPE": 2, "WIDE": True},
        {},
        FOUR_WARPS,
    ),
    "fuse one class, one view onto one pixel": (
        _fuse._fuse_one,
        {**FUSE, "WEIGHTING": 2, "TYPE": 1, "count": 1, "height": 1, "width": 1, "COLUMNS": 1},
        {},
        FOUR_WARPS,
    ),
    "fuse four classes": (_fuse._fuse_many, MANY, {}, FOUR_WARPS),
    "fuse four classes, exp, mixed types, one row": (
        _fuse._fuse_many,
        {**MANY, "WEIGHTING": 1, "TYPE": 2, "WIDE": True, "height": 1, "count": 1},
        {},
        FOUR_WARPS,
    ),
    "fuse 255 classes": (
        _fuse._fuse_many,
        {**MANY, "CHANNELS": 256, "COLUMNS": 8},
        {},
        FOUR_WARPS,
    ),
    "smooth one channel": (_smooth._smooth, {**SMOOTH, "channels": 1}, {}, ONE_WARP),
    "smooth one slice of several channels": (
        _smooth._smooth,
        {
            **SMOOTH,
            "ONE": False,
            "RUN": 1,
            "BLOCK": 256,
            "count": 1,
            "depth": 1,
            "plane": 1,
            "radius": 1,
        },
        {},
        ONE_WARP,
    ),
    "smooth several channels": (
        _smooth._smooth,
        {**SMOOTH, "ONE": False, "BLOCK": 64},
        {},
        ONE_WARP,
    ),
    "blend": (_blend._blend, {"ROWS": 1, "COLUMNS": 256}, {}, FOUR_WARPS),
    "blend one class with a thin outline": (
        _blend._blend,
        {"ROWS": 1, "COLUMNS": 256, "classes": 1, "reach": 1, "height": 1},
        {},
        FOUR_WARPS,
    ),
    "resize columns to 8 bits": (
        _resize._resample,
        {**RESIZE, "VERTICAL": False, "LAST": False},
        {**TABLES, "result": "*u8"},
        FOUR_WARPS,
    ),
    "resize rows to a view": (
        _resize._resample,
        {**RESIZE, "VERTICAL": True, "LAST": True},
        TABLES,
        FOUR_WARPS,
    ),
    "resize columns to a view without copies": (
        _resize._resample,
        {**RESIZE, "VERTICAL": False, "LAST": True, "copies": 1, "taps": 1, "size_in": 1},
        TABLES,
        FOUR_WARPS,
    ),
}


def compile_for(arch: int, launch: str) -> dict[str, object]:
    kernel, constants, types, options = LAUNCHES[launch]
    signature = {
        name: "constexpr" if name in constants else {**POINTERS, **types}.get(name, "i32")
        for name in kernel.arg_names
    }
    # Torch aligns what it allocates.
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    source = ASTSource(kernel, signature, constants, attributes)
    done = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    assert done.asm["cubin"][:4] == b"\x7fELF"
    ptx = done.asm["ptx"]
    name = re.search(r"^\.target (\w+)", ptx, re.MULTILINE).group(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx, encoding="utf-8")
        report = subprocess.run(
            [get_ptxas(arch).path, "-v", f"--gpu-name={name}", path, "-o", Path(folder) / "cubin"],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    return {
        "launch": launch,
        "arch": name,
        "registers": int(re.search(r"Used (\d+) registers", report).group(1)),
        "spilled_bytes": sum(map(int, re.findall(r"(\d+) bytes spill", report))),
    }


if __name__ == "__main__":
    sys.stdout.write(
        json.dumps([compile_for(int(arch), launch) for arch in sys.argv[1:] for launch in LAUNCHES])
    )
