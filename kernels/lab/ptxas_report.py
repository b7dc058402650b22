"""Registers, stack and spills of every CUDA kernel, as ptxas reports them.

    python kernels/lab/ptxas_report.py [--arch 87 90 110] [--output FILE]

It compiles ``kernels/cuda/*.cu`` to machine code for each architecture and keeps nothing but the
compiler's words. They are no measurement: they say what limits occupancy, and what was spilled.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[1]
ARCHITECTURES = (87, 90, 110)

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
# entry<FuseOne<16>>: the kernel's name and its integer arguments, as the Itanium ABI writes them.
_NAME = re.compile(r"_cu_[0-9a-f]{8}(\d+)([A-Za-z0-9]+)")


@dataclass(frozen=True)
class Kernel:
    """What ptxas says about one kernel for one architecture."""

    name: str
    architecture: int
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, metavar="N")
    parser.add_argument("--output", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        sys.stderr.write("nvcc is not on PATH: install the CUDA toolkit 12.1 or later\n")
        return 1
    found = [
        kernel
        for source in sorted((KERNELS / "cuda").glob("*.cu"))
        for kernel in compile_source(nvcc, source, options.arch)
    ]
    version = re.search(r"V([\d.]+)", run([nvcc, "--version"]))
    text = report(found, version.group(1) if version else "of unknown version")
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return 0


def compile_source(nvcc: str, source: Path, architectures: Sequence[int]) -> list[Kernel]:
    """Compile one file with the options of ``cmake/cuda.cmake`` and read what ptxas says."""
    with tempfile.TemporaryDirectory() as folder:
        said = run(
            [
                *(
                    nvcc,
                    "-std=c++17",
                    "-O3",
                    "-DNDEBUG",
                    "-prec-div=false",
                    "-Xptxas",
                    "-v",
                    "-fatbin",
                ),
                *(f"-I{KERNELS / name}" for name in ("include", "src", "cuda")),
                *('-DEDGESEG_VERSION="report"', '-DEDGESEG_CUDA_ARCHITECTURES="report"'),
                *(f"-gencode=arch=compute_{n},code=sm_{n}" for n in architectures),
                *("-o", str(Path(folder) / "code.fatbin"), str(source)),
            ]
        )
    kernels = []
    for part in said.split("Compiling entry function")[1:]:
        entry = _ENTRY.match(f"Compiling entry function{part}")
        stack, used = _STACK.search(part), _USED.search(part)
        if entry is None or stack is None or used is None:
            raise SystemExit(f"{source.name}: not understood: {part}")
        frame, stores, loads = map(int, stack.groups())
        kernels.append(
            Kernel(
                readable(entry.group(1)),
                int(entry.group(2)),
                int(used.group(1)),
                frame,
                stores,
                loads,
            )
        )
    return kernels


def readable(mangled: str) -> str:
    """``SmoothShort<8, 4>`` from the mangled name of its entry point."""
    match = _NAME.search(mangled)
    if match is None:
        return mangled
    name = match.group(2)[: int(match.group(1))]
    rest = match.group(2)[int(match.group(1)) :]
    numbers = re.match(r"I((?:Li\d+E)+)E", rest)
    if numbers is None:
        return name
    values = re.findall(r"Li(\d+)E", numbers.group(1))
    return f"{name}<{', '.join(values)}>"


def report(kernels: Sequence[Kernel], version: str) -> str:
    """The table, one line for each kernel and architecture."""
    lines = [
        f"Output of the compiler (nvcc {version}, ptxas -v), not a measurement: nothing ran.",
        "Made by kernels/lab/ptxas_report.py from kernels/cuda/*.cu.",
        "",
        f"{'kernel':24} {'arch':>7} {'registers':>9} {'stack B':>8} {'spill stores B':>14} "
        f"{'spill loads B':>13}",
    ]
    lines += [
        f"{k.name:24} {f'sm_{k.architecture}':>7} {k.registers:9} {k.stack_bytes:8} "
        f"{k.spill_store_bytes:14} {k.spill_load_bytes:13}"
        for k in sorted(kernels, key=lambda k: (k.name, k.architecture))
    ]
    return "\n".join(lines) + "\n"


def run(command: Sequence[str]) -> str:
    """Standard output and error of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    raise SystemExit(main())
