"""Checks source code against the interface of NVIDIA's TensorRT bindings, without TensorRT."""

from trt_interface.base import Found, Use
from trt_interface.bindings import Interface, Signature, parse_interface, parse_signatures
from trt_interface.walk import collect
from trt_interface.wheels import VERSIONS, described, stand_ins

__all__ = [
    "VERSIONS",
    "Found",
    "Interface",
    "Signature",
    "Use",
    "collect",
    "described",
    "parse_interface",
    "parse_signatures",
    "stand_ins",
]
