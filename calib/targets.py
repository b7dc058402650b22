"""What each inference library needs from an INT8 graph.

The targets differ where their libraries differ, and only there (measured on ViT-S graphs, two cores
with AVX-512 VNNI and AMX; ratios to FP32 of the same library):

- **OpenVINO** keeps float outputs for INT8 products, so Q/DQ on inputs and weights suffice, 2.2 to
  3.5 times faster; quantised outputs gain nothing more. Its activations are stored as uint8 with
  zero point 128 too: with int8, OpenVINO 2026.4.1 on a processor without AMX computes every
  convolution behind a Concat wrongly (relative errors of 0.2 to 0.9; SegDINO v1's last one is
  such), because it stores the parts as uint8 and loses the shift. uint8 costs no time there.
  What a Transpose makes for a product is quantised before the Transpose: the codes, a quarter of
  the bytes, are then brought into the layout that the product wants, mostly by not moving at all,
  where a quantisation in between would have the tensor written twice (v2: 98.6 to 89.4 ms on one
  core of an EPYC).
- Both CPU libraries take the resized picture itself (``picture``): OpenVINO's convolution reads its
  bytes where the resize left them, so that no pass over the input remains before it. ONNX Runtime
  makes planes of floats first, at a quarter of the bytes to read, and convolves those in float.
- **TensorRT** wants the same placement. Its scales are FP16 numbers, for the FP16 rest, and the
  patch embedding stays FP16: three input channels cannot fill an INT8 tensor core.
- **ONNX Runtime's** CPU provider has INT8 convolutions with quantised outputs only, so outputs of
  convolutions are quantised too, except in the transformer's trunk and towards the graph's outputs,
  where those convolutions stay FP32. Its INT8 matrix product has float outputs
  (``MatMulIntegerToFloat``), but is only reached if the bias is not folded into a ``Gemm`` first,
  which a bias of shape (1, ..., 1, N) prevents: 1.8 times faster than FP32, where the placement for
  TensorRT is slower than FP32. Its x86 kernels take uint8 activations; it converts int8 itself
  unless two nodes read the tensor, and then runs in float: so activations are written as uint8 with
  zero point 128, which is the same symmetric grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeseg.errors import UsageError
from edgeseg.spec import BackendName

__all__ = ["TARGETS", "Target", "target_for"]


@dataclass(frozen=True)
class Target:
    """The form of INT8 graph for one backend."""

    backend: BackendName
    rest: Literal["fp32", "fp16"]
    """Arithmetic outside the INT8 products; scales are representable in it."""
    activations: Literal["int8", "uint8"]
    """Stored type of quantised activations; uint8 has zero point 128."""
    convolution_outputs: bool
    """Quantise the outputs of convolutions (and only convolve in INT8 where that is allowed)."""
    first_convolution: bool
    """Quantise the convolution that reads the graph's input."""
    picture_input: bool
    """Take the resized picture, uint8 (N, height, width, 3) BGR, instead of normalised planes."""
    before_transpose: bool
    """Quantise what a Transpose reads instead of what it makes, where a product reads that."""
    separate_bias: bool
    """Keep ``MatMul`` and its bias ``Add`` from being fused into a float ``Gemm``."""
    words: str
    """The placement for a manifest."""


TARGETS: dict[BackendName, Target] = {
    "openvino": Target(
        backend="openvino",
        rest="fp32",
        activations="uint8",
        convolution_outputs=False,
        first_convolution=True,
        picture_input=True,
        before_transpose=True,
        separate_bias=False,
        words=(
            "Q/DQ on inputs and weights of Linear and Conv; activations as uint8 with zero point "
            "128"
        ),
    ),
    "onnxruntime": Target(
        backend="onnxruntime",
        rest="fp32",
        activations="uint8",
        convolution_outputs=True,
        first_convolution=False,
        picture_input=True,
        before_transpose=False,
        separate_bias=True,
        words=(
            "Q/DQ on inputs and weights of Linear and Conv and on outputs of Conv; activations as "
            "uint8 with zero point 128; bias apart from MatMul"
        ),
    ),
    "tensorrt": Target(
        backend="tensorrt",
        rest="fp16",
        activations="int8",
        convolution_outputs=False,
        first_convolution=False,
        picture_input=False,
        before_transpose=False,
        separate_bias=False,
        words=(
            "Q/DQ on inputs and weights of Linear and Conv but the patch embedding; scales FP16; "
            "LayerNorm in FP32 between casts"
        ),
    ),
}


def target_for(backend: str) -> Target:
    """The target of a backend's name.

    Raises:
        UsageError: no such backend.
    """
    for name, target in TARGETS.items():
        if name == backend:
            return target
    raise UsageError(f"no INT8 form is known for {backend!r}: choose {', '.join(TARGETS)}")
